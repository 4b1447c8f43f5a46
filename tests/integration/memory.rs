//! Memory does not grow with a transaction.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::servers::{Kafka, Postgres, World, eventually};

const ROWS: i64 = 2_000_000;
const BOUND_KB: u64 = 48 * 1024;

/// How many records a topic of one partition holds; 0 while it does not answer.
fn count(consumer: &BaseConsumer, topic: &str) -> i64 {
    consumer.fetch_watermarks(topic, 0, Duration::from_secs(5)).map_or(0, |(low, high)| high - low)
}

#[test]
fn a_transaction_of_two_million_rows_streams_through_in_48_mib_also_with_a_broker_that_freezes() {
    let kafka = Kafka::start("memory", &[]);
    let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    world.sql(&format!("INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, {ROWS}) g"));
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().expect("consumer");
    let topic = world.topic("t");

    let mut running = world.stream_to_kafka().deadline(240).spawn();
    eventually("a tenth has arrived", 60, || count(&consumer, &topic) > ROWS / 10);
    kafka.signal(libc::SIGSTOP);
    // The length of the freeze is what is tested.
    std::thread::sleep(Duration::from_secs(20));
    kafka.signal(libc::SIGCONT);
    eventually("everything has arrived", 180, || {
        assert!(!running.has_ended(), "{}", running.log());
        count(&consumer, &topic) == ROWS
    });
    let end = world.wal_lsn();
    eventually("everything is confirmed", 30, || {
        world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())) == "t"
    });
    assert!(!running.has_ended());
    let peak = running.memory_kb("VmHWM:");
    println!("VmHWM {peak} kB");
    assert!(peak < BOUND_KB, "VmHWM is {peak} kB");
    running.terminate().expect_code(0);
}
