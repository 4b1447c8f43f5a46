//! The checkpoint topic, most of all that of exactly-once delivery: deleted, recreated, of another cluster, compacted; and
//! slots that are created although a store has the position of an earlier one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::state_topic::STATE;
use crate::walcat::Walcat;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

fn stream(world: &World) -> Walcat {
    world.stream_to_kafka().with(&["--delivery", "exactly-once"])
}

fn topic(world: &World) -> String {
    let system = world.sql("SELECT system_identifier FROM pg_control_system()");
    format!("__walcat.{system}.{}.{}", world.database, world.slot)
}

/// The delivered rows, in order.
fn ids(world: &World) -> Vec<i64> {
    let id = |record: kafka::Record| record.value.expect("a value")["after"]["id"].as_i64().expect("id");
    kafka::read_committed(&world.kafka.brokers, &world.topic("t")).into_iter().map(id).collect()
}

/// How many times each row was delivered.
fn times(world: &World) -> BTreeMap<i64, usize> {
    let mut times = BTreeMap::new();
    for id in ids(world) {
        *times.entry(id).or_default() += 1;
    }
    times
}

fn once_each(ids: impl Iterator<Item = i64>) -> BTreeMap<i64, usize> {
    ids.map(|id| (id, 1)).collect()
}

fn slot_exists(world: &World) -> bool {
    world.sql(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", world.slot)) == "1"
}

#[test]
fn a_checkpoint_topic_that_was_deleted_is_a_disagreement_until_it_is_accepted() {
    for store in [["--delivery", "exactly-once"], ["--config", &file("topic.toml", STATE)]] {
        let world = World::new(TABLE);
        let once = || world.stream_to_kafka().with(&store).with(&["--once"]);
        world.sql("INSERT INTO t SELECT generate_series(1, 5)");
        once().run().expect_code(0);
        world.kafka.delete_topic(&topic(&world));
        world.sql("INSERT INTO t SELECT generate_series(6, 10)");
        let before = world.confirmed();
        // The topic exists again after the first run and has a start record.
        for _ in 0..2 {
            let run = once().run().expect_code(78);
            run.expect_log(&[&topic(&world), "does not exist", "has been read", "--accept-gap"]);
            assert_eq!(world.confirmed(), before, "{store:?}");
        }
        assert_eq!(ids(&world), (1..=5).collect::<Vec<_>>(), "{store:?}");
        once().with(&["--accept-gap"]).run().expect_code(0);
        once().run().expect_code(0);
        assert_eq!(ids(&world), (1..=10).collect::<Vec<_>>(), "{store:?}");
    }
}

/// After a crash of the server, the slot may be at a much earlier position.
#[test]
fn a_process_that_knew_its_position_does_not_start_over_when_the_checkpoint_topic_is_deleted() {
    let pg = Postgres::start("gone", 15, &[]);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    let mut running = stream(&world).deadline(120).spawn();
    running.wait_for_log("checkpoint read");
    world.sql("INSERT INTO t SELECT generate_series(1, 10)");
    world.wait_confirmed(30);
    let topic = topic(&world);
    world.kafka.delete_topic(&topic);
    pg.stop("immediate");
    pg.restart();
    running.wait().expect_code(78).expect_log(&[&topic]);
    // The server's statistics are lost, but not the records of the process in the topic.
    stream(&world).with(&["--once"]).run().expect_code(78).expect_log(&[&topic]);
    assert_eq!(times(&world), once_each(1..=10));
}

/// The crash takes what shows that the slot was read, and the slot goes back to its start.
#[test]
fn a_slot_that_looks_new_after_a_crash_is_warned_of_if_its_topics_have_records() {
    let pg = Postgres::start("looks-new", 15, &[]);
    let state = file("looks-new.toml", STATE);
    const WARNING: &str = "no position is stored for this slot, but the topics of its tables have records";
    for arguments in [["--delivery", "exactly-once"], ["--config", state.as_str()]] {
        let world = World::on(&pg, Kafka::shared(), TABLE);
        let once = || world.stream_to_kafka().with(&arguments).with(&["--once"]).run().expect_code(0);
        world.sql("INSERT INTO t SELECT generate_series(1, 10)");
        let first = once();
        assert!(!first.log.contains(WARNING), "{}", first.log);
        world.kafka.delete_topic(&topic(&world));
        pg.stop("immediate");
        pg.restart();
        once().expect_log(&[WARNING]);
        let third = once();
        assert!(!third.log.contains(WARNING), "{}", third.log);
    }
}

/// A broker that creates topics automatically creates one whose records it deletes after some time.
#[test]
fn a_checkpoint_topic_that_is_deleted_under_a_running_stream_ends_it() {
    for create in ["false", "true"] {
        let world = World::new(TABLE);
        let config = file("deleted.toml", &format!("[topics]\ncreate = {create}\n"));
        let mut running = stream(&world).with(&["--config", &config]).deadline(240).spawn();
        running.wait_for_log("checkpoint read");
        world.sql("INSERT INTO t SELECT generate_series(1, 10)");
        world.wait_confirmed(30);
        let topic = topic(&world);
        world.kafka.delete_topic(&topic);
        world.sql("INSERT INTO t VALUES (11)");
        running.wait().expect_code(78).expect_log(&[&topic]);
        assert_eq!(times(&world), once_each(1..=10));
    }
}

#[test]
fn a_stream_that_is_killed_before_its_first_checkpoint_begins_again_without_a_question() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t SELECT generate_series(1, 20000)");
    // The transaction is still open, so nothing of it is stored.
    let config = file("slow.toml", "[transaction]\ninterval = \"20s\"\n");
    let mut running = stream(&world).with(&["--config", &config]).spawn();
    running.wait_for_log("checkpoint read");
    let sent = format!("SELECT total_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the transaction is sent", 30, || world.sql(&sent) == "t");
    running.signal(libc::SIGKILL);
    running.wait();
    stream(&world).with(&["--once"]).run().expect_code(0);
    assert_eq!(times(&world), once_each(1..=20000));
}

#[test]
fn a_checkpoint_of_another_cluster_for_the_same_slot_is_warned_of() {
    let world = World::new(TABLE);
    let other = format!("__walcat.1234567.{}.{}", world.database, world.slot);
    world.kafka.create_topic(&other, &[]);
    let run = stream(&world).with(&["--once"]).run().expect_code(0);
    run.expect_log(&["WARN", "another cluster has a checkpoint for this database and slot", &other]);
    let run = stream(&world).with(&["--once"]).run().expect_code(0);
    assert!(!run.log.contains(&other), "there is a checkpoint of this one now: {}", run.log);
}

/// The start records in the checkpoint topic, by process.
fn start_pids(brokers: &str, topic: &str) -> Vec<i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "walcat-tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("consumer");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).expect("assignment");
    consumer.assign(&assignment).expect("assign");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut pids = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "no end of {topic}");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if message.key() == Some(b"start") => {
                let value: serde_json::Value = serde_json::from_slice(message.payload().expect("value")).expect("JSON");
                pids.push(value["instance"]["pid"].as_i64().expect("pid"));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return pids,
            Some(Err(error)) => panic!("{topic}: {error}"),
            None | Some(Ok(_)) => {}
        }
    }
}

#[test]
fn an_instance_whose_start_record_was_compacted_away_finds_out_who_has_taken_over() {
    let kafka = Kafka::start("compact", &["--set", "log.cleaner.backoff.ms=200"]);
    let world = World::on(Postgres::shared(), &kafka, TABLE);
    let topic = topic(&world);
    let eager =
        ["cleanup.policy=compact", "segment.ms=200", "min.cleanable.dirty.ratio=0.001", "max.compaction.lag.ms=200"];
    let eager: Vec<&str> = eager.iter().flat_map(|setting| ["--config", setting]).collect();
    kafka.create_topic(&topic, &eager);
    let mut first = stream(&world).deadline(180).spawn();
    first.wait_for_log("checkpoint read");
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    first.signal(libc::SIGSTOP);
    let held = format!("FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    world.sql(&format!("SELECT pg_terminate_backend(active_pid) {held}"));
    let mut second = stream(&world).deadline(180).spawn();
    second.wait_for_log("checkpoint read");
    let mut id = 1;
    eventually("the first start record is compacted away", 90, || {
        id += 1;
        world.confirm_change(&format!("INSERT INTO t VALUES ({id})"), 30);
        !start_pids(&kafka.brokers, &topic).contains(&i64::from(first.pid()))
    });
    first.signal(libc::SIGCONT);
    let second_pid = format!("another instance of walcat has taken over: pid {} on ", second.pid());
    first.wait().expect_code(79).expect_log(&[&second_pid]);
    second.terminate().expect_code(0);
    assert_eq!(times(&world), once_each(1..=id));
}

#[test]
fn a_slot_that_was_dropped_is_not_recreated_while_its_position_is_stored() {
    let path = file("state.json", "");
    std::fs::remove_file(&path).expect("file");
    let config = file("state.toml", &format!("[state]\nfile = \"{path}\"\n"));
    let state_topic = file("topic.toml", "[state]\ntopic = true\n");
    for arguments in
        [vec!["--config", config.as_str()], vec!["--config", state_topic.as_str()], vec!["--delivery", "exactly-once"]]
    {
        let world = World::new(TABLE);
        let run = |more: &[&str]| world.stream_to_kafka().with(&arguments).with(&["--once"]).with(more).run();
        world.sql("INSERT INTO t VALUES (1)");
        run(&[]).expect_code(0);
        world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
        world.sql("INSERT INTO t VALUES (2)");
        for _ in 0..2 {
            run(&["--create-slot"]).expect_code(78).expect_log(&["--accept-gap"]);
            assert!(!slot_exists(&world), "an unused slot that retains WAL is left");
        }
        run(&["--create-slot", "--accept-gap"]).expect_code(0);
        world.sql("INSERT INTO t VALUES (3)");
        run(&["--create-slot"]).expect_code(0);
        assert_eq!(times(&world), once_each([1, 3].into_iter()));
    }
}
