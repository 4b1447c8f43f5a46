//! A data topic is deleted while walcat runs: its records are lost, but later ones must not be.

use crate::kafka::{Record, read, read_committed};
use crate::servers::{Kafka, Postgres, World, eventually, file};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, version int); CREATE TABLE u (id int PRIMARY KEY)";

/// A broker that creates no topic automatically.
fn broker(name: &str) -> Kafka {
    Kafka::start(name, &["--set", "auto.create.topics.enable=false"])
}

/// One transaction per version: always the same row of t, and a row of u.
fn write(world: &World, versions: std::ops::RangeInclusive<i64>) {
    for version in versions {
        world.sql(&format!(
            "BEGIN; INSERT INTO t VALUES (1, {version}) ON CONFLICT (id) DO UPDATE SET version = {version}; \
             INSERT INTO u VALUES ({version}); COMMIT"
        ));
    }
}

fn numbers(records: &[Record], column: &str) -> Vec<i64> {
    let values = records.iter().filter_map(|record| record.value.as_ref());
    values.map(|value| value["after"][column].as_i64().expect("a number")).collect()
}

/// Checks what a consumer sees of t and u after the topic of t was deleted: nothing is missing or out of order, and with
/// exactly-once delivery nothing is repeated.
fn check(world: &World, delivery: &str, t: std::ops::RangeInclusive<i64>, u: std::ops::RangeInclusive<i64>) {
    for (table, column, expected) in [("t", "version", t), ("u", "id", u)] {
        let expected: Vec<i64> = expected.collect();
        let topic = world.topic(table);
        if delivery == "exactly-once" {
            assert_eq!(numbers(&read_committed(&world.kafka.brokers, &topic), column), expected, "{table}");
            continue;
        }
        let found = numbers(&read(&world.kafka.brokers, &topic), column);
        assert_eq!(found.last(), expected.last(), "{table}: an old record comes last: {found:?}");
        // A repeat goes back, and then continues without a gap.
        for pair in found.windows(2) {
            assert!(pair[1] <= pair[0] + 1, "{table}: out of order: {found:?}");
        }
        let mut distinct = found.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct, expected, "{table}: {found:?}");
    }
}

#[test]
fn a_topic_that_is_deleted_under_a_running_walcat_is_created_again() {
    let kafka = broker("deleted");
    for delivery in ["at-least-once", "exactly-once"] {
        let world = World::on(Postgres::shared(), &kafka, TABLES);
        let settings = file("deleted.toml", "[topics]\ncreate = true\n");
        let arguments = ["--delivery", delivery, "--config", &settings];
        // For this long, librdkafka assumes that a known topic still exists.
        let patience = ["-X", "topic.metadata.propagation.max.ms=1000"];
        let mut running = world.stream_to_kafka().with(&arguments).with(&patience).deadline(240).spawn();
        write(&world, 1..=3);
        world.wait_confirmed(30);
        kafka.delete_topic(&world.topic("t"));
        write(&world, 4..=30);
        world.wait_confirmed(60);
        check(&world, delivery, 4..=30, 1..=30);
        assert!(running.log().contains(&world.topic("t")), "{}", running.log());

        // Again, but idle for a while: librdkafka knows that the topic is deleted before the next record.
        kafka.delete_topic(&world.topic("t"));
        write(&world, 31..=40);
        world.wait_confirmed(60);
        check(&world, delivery, 31..=40, 1..=40);
        assert!(!running.has_ended());
        running.terminate().expect_code(0);
    }
}

#[test]
fn walcat_waits_for_a_deleted_topic_if_it_does_not_create_topics() {
    let kafka = broker("waited-for");
    for delivery in ["at-least-once", "exactly-once"] {
        let world = World::on(Postgres::shared(), &kafka, TABLES);
        for table in ["t", "u"] {
            kafka.create_topic(&world.topic(table), &[]);
        }
        let patience = ["-X", "topic.metadata.propagation.max.ms=15000", "--delivery", delivery];
        let mut running = world.stream_to_kafka().with(&patience).deadline(240).spawn();
        write(&world, 1..=3);
        world.wait_confirmed(30);
        kafka.delete_topic(&world.topic("t"));
        write(&world, 4..=6);
        running.wait_for_log("Kafka discarded records; reading them again");
        kafka.create_topic(&world.topic("t"), &[]);
        world.wait_confirmed(60);
        check(&world, delivery, 4..=6, 1..=6);

        kafka.delete_topic(&world.topic("t"));
        let before = world.confirmed();
        write(&world, 7..=9);
        eventually("walcat ends", 120, || running.has_ended());
        running.wait().expect_code(78).expect_log(&["for topic", "hint: create the topic"]);
        assert_eq!(world.sql(&format!("SELECT '{}'::pg_lsn >= '{before}'", world.confirmed())), "t");
        kafka.create_topic(&world.topic("t"), &[]);
        world.stream_to_kafka().with(&["--once"]).with(&patience).run().expect_code(0);
        check(&world, delivery, 7..=9, 1..=9);
    }
}
