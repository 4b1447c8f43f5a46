//! Memory does not grow with the size of a transaction.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, grows_to};

const ROWS: i64 = 2_000_000;
const BOUND_KB: u64 = 48 * 1024;
/// The maximum time without progress: PostgreSQL decodes the whole transaction before it sends any of it.
const STILL_S_MAX: u64 = 120;
const HUGE_ROW_KB: u64 = 110 * 1000;
/// Memory that allocators may keep afterwards.
const KEPT_KB_MAX: u64 = 24 * 1024;

/// The number of records in a topic with one partition; 0 while it does not answer.
fn count(consumer: &BaseConsumer, topic: &str) -> i64 {
    match consumer.fetch_watermarks(topic, 0, Duration::from_secs(5)) {
        Ok((low, high)) => high - low,
        Err(error) => {
            println!("{topic}: {error}");
            0
        }
    }
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
    grows_to("a tenth arrives", ROWS / 10, STILL_S_MAX, || count(&consumer, &topic));
    kafka.signal(libc::SIGSTOP);
    // The length of the freeze is the test.
    std::thread::sleep(Duration::from_secs(20));
    kafka.signal(libc::SIGCONT);
    grows_to("everything arrives", ROWS, STILL_S_MAX, || {
        assert!(!running.has_ended(), "{}", running.log());
        count(&consumer, &topic)
    });
    let end = world.wal_lsn();
    eventually("everything is confirmed", 30, || {
        world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())) == "t"
    });
    assert!(!running.has_ended());
    let arrived = grows_to("everything is there", ROWS, STILL_S_MAX, || count(&consumer, &topic));
    assert_eq!(arrived, ROWS, "records repeat");
    let peak = running.memory_kb("VmHWM:");
    println!("VmHWM {peak} kB");
    assert!(peak < BOUND_KB, "VmHWM is {peak} kB");
    running.terminate().expect_code(0);
}

/// The memory for a row of many MB is used only while the row is processed. This includes libpq's buffer, which lasts as long
/// as a session.
#[test]
fn memory_that_a_huge_row_took_is_given_back_though_nothing_follows_it() {
    for (delivery, engine) in
        [("at-least-once", "streaming"), ("exactly-once", "streaming"), ("at-least-once", "polling")]
    {
        println!("{delivery}, {engine}");
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)");
        let mut running =
            world.stream_to_kafka().with(&["--delivery", delivery, "--engine", engine]).deadline(180).spawn();
        running.wait_for_log("streaming started");
        world.confirm_change("INSERT INTO t VALUES (1, 'small')", 60);
        let before = running.memory_kb("VmRSS:");
        world.sql(&format!("INSERT INTO t VALUES (2, repeat('x', {HUGE_ROW_KB} * 1024))"));
        eventually("the row is under way", 60, || running.memory_kb("VmHWM:") > before + 2 * HUGE_ROW_KB);
        eventually("the memory is given back", 60, || running.memory_kb("VmRSS:") < before + KEPT_KB_MAX);
        // The new session has lost nothing and is not renewed again.
        world.confirm_change("INSERT INTO t VALUES (3, 'small')", 60);
        let finished = running.terminate().expect_code(0).expect_log(&["the session is renewed"]);
        assert_eq!(finished.log.matches("renewing the session").count(), 1, "{}", finished.log);
        let ids: Vec<i64> = kafka::read_committed(&world.kafka.brokers, &world.topic("t"))
            .iter()
            .map(|record| record.value.as_ref().expect("a value")["after"]["id"].as_i64().expect("an id"))
            .collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}
