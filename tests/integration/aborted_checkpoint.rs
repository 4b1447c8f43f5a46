//! Exactly-once delivery starts at the last committed checkpoint and ignores every other record of the checkpoint topic.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::kafka;
use crate::servers::World;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Writes a checkpoint like an instance that dies before its commit is answered: Kafka aborts the transaction.
fn abort_checkpoint(world: &World, system: &str, end_lsn: &str) {
    let (database, slot) = (&world.database, &world.slot);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.kafka.brokers)
        .set("transactional.id", format!("walcat.{system}.{database}.{slot}"))
        .create()
        .expect("producer");
    producer.init_transactions(TIMEOUT).expect("init");
    producer.begin_transaction().expect("begin");
    let value = serde_json::json!({
        "type": "checkpoint", "system_identifier": system, "timeline": 1, "slot": slot, "end_lsn": end_lsn,
        "commit_lsn": end_lsn, "xid": 1,
        "instance": {"host": "h", "pid": 1, "started_unix_ms": 1, "renewal": 0},
    });
    let (topic, value) = (format!("__walcat.{system}.{database}.{slot}"), value.to_string());
    producer.send(BaseRecord::to(&topic).partition(0).key("checkpoint").payload(&value)).expect("send");
    producer.flush(TIMEOUT).expect("flush");
    producer.abort_transaction(TIMEOUT).expect("abort");
}

#[test]
fn a_checkpoint_that_was_never_committed_is_not_begun_at() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let stream = || world.stream_to_kafka().with(&["--delivery", "exactly-once", "--once"]);
    world.sql("INSERT INTO t VALUES (1)");
    stream().run().expect_code(0);
    let stored = world.confirmed();
    world.sql("INSERT INTO t VALUES (2), (3)");
    let system = world.sql("SELECT system_identifier FROM pg_control_system()");
    abort_checkpoint(&world, &system, &world.wal_lsn());
    stream().run().expect_code(0).expect_log(&[&format!("stored={stored}")]);
    let records = kafka::read_committed(&world.kafka.brokers, &world.topic("t"));
    let ids: Vec<_> =
        records.iter().map(|record| record.value.as_ref().expect("a value")["after"]["id"].to_string()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
}
