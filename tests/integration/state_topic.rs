//! `[state] topic`: at-least-once delivery keeps its position in the slot's checkpoint topic.

use std::collections::BTreeSet;

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";
pub const STATE: &str = "[state]\ntopic = true\ninterval = \"100ms\"\n";

fn stream(world: &World) -> Walcat {
    world.stream_to_kafka().with(&["--config", &file("topic.toml", STATE)])
}

fn topic(world: &World) -> String {
    let system = world.sql("SELECT system_identifier FROM pg_control_system()");
    format!("__walcat.{system}.{}.{}", world.database, world.slot)
}

/// The delivered rows, in order.
fn ids(world: &World) -> Vec<i64> {
    let id = |record: kafka::Record| record.value.expect("a value")["after"]["id"].as_i64().expect("id");
    kafka::read(&world.kafka.brokers, &world.topic("t")).into_iter().map(id).collect()
}

/// The position that was stored last.
fn stored(world: &World) -> String {
    let records = kafka::read_checkpoints(&world.kafka.brokers, &topic(world));
    let mut newest_first = records.iter().rev();
    newest_first.find_map(|value| value["end_lsn"].as_str()).expect("a checkpoint").to_owned()
}

/// Whether the first LSN is not before the second one.
fn reaches(world: &World, lsn: &str, other: &str) -> bool {
    world.sql(&format!("SELECT '{lsn}'::pg_lsn >= '{other}'::pg_lsn")) == "t"
}

#[test]
fn the_state_topic_spares_the_repeats_of_a_server_that_forgot_what_was_confirmed() {
    let pg = Postgres::start("statetopic", 15, &[]);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    world.sql("INSERT INTO t SELECT generate_series(1, 5000)");
    stream(&world).with(&["--once"]).run().expect_code(0).expect_log(&["checkpoint read"]);
    let confirmed = world.confirmed();
    assert_eq!(stored(&world), confirmed);
    let described = world.kafka.describe_topic(&topic(&world));
    assert!(described.contains("cleanup.policy=compact") && described.contains("PartitionCount: 1"), "{described}");
    pg.stop("immediate");
    pg.restart();
    assert_ne!(world.confirmed(), confirmed, "the server did not lose the confirmed position");
    world.sql("INSERT INTO t VALUES (5001)");
    stream(&world).with(&["--once"]).run().expect_code(0);
    assert_eq!(ids(&world), (1..=5_001).collect::<Vec<_>>());
}

#[test]
fn a_stream_that_is_killed_loses_nothing_and_confirms_nothing_that_the_topic_does_not_have() {
    let world = World::new(TABLE);
    for round in 0..6 {
        let mut running = stream(&world).spawn();
        running.wait_for_log("checkpoint read");
        let first = round * 2_000 + 1;
        let before = world.confirmed();
        for half in [first, first + 1_000] {
            world.sql(&format!("INSERT INTO t SELECT generate_series({half}, {})", half + 999));
        }
        if round % 2 == 0 {
            eventually("something is confirmed", 60, || world.confirmed() != before);
        }
        running.signal(libc::SIGKILL);
        running.wait();
        let (stored, confirmed) = (stored(&world), world.confirmed());
        assert!(reaches(&world, &stored, &confirmed), "confirmed {confirmed}, but stored {stored}");
    }
    stream(&world).with(&["--once"]).run().expect_code(0);
    let delivered: BTreeSet<i64> = ids(&world).into_iter().collect();
    assert_eq!(delivered, (1..=12_000).collect());
    assert_eq!(stored(&world), world.confirmed());
}

#[test]
fn a_state_topic_that_is_deleted_under_a_running_stream_ends_it() {
    let world = World::new(TABLE);
    // While the topic is being deleted nothing is written: the broker would create it again, and be seen to have it.
    let config = file("deleted.toml", "[state]\ntopic = true\ninterval = \"20s\"\n");
    let mut running = world.stream_to_kafka().with(&["--config", &config]).deadline(240).spawn();
    running.wait_for_log("checkpoint read");
    world.confirm_change("INSERT INTO t SELECT generate_series(1, 10)", 30);
    let before = world.confirmed();
    let topic = topic(&world);
    world.kafka.delete_topic(&topic);
    world.sql("INSERT INTO t VALUES (11)");
    running.wait().expect_code(78).expect_log(&[&topic, "no longer exists", "hint: ", "--accept-gap"]);
    assert_eq!(world.confirmed(), before, "confirmed although it could not be stored");
    stream(&world).with(&["--once"]).run().expect_code(78).expect_log(&[&topic]);
}

#[test]
fn a_state_topic_that_kafka_would_empty_is_refused() {
    let world = World::new(TABLE);
    world.kafka.create_topic(&topic(&world), &["--config", "cleanup.policy=delete"]);
    let before = world.confirmed();
    world.sql("INSERT INTO t VALUES (1)");
    stream(&world).with(&["--once"]).run().expect_code(78).expect_log(&["cleanup.policy=delete", "hint: "]);
    assert_eq!(world.confirmed(), before);
}

#[test]
fn positions_wait_for_a_broker_that_is_away_and_nothing_is_confirmed_before() {
    let kafka = Kafka::start("state-away", &[]);
    let world = World::on(Postgres::shared(), &kafka, TABLE);
    let mut running = stream(&world).deadline(180).spawn();
    running.wait_for_log("checkpoint read");
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    kafka.stop();
    let before = world.confirmed();
    world.sql("INSERT INTO t VALUES (2)");
    running.wait_for_log("Kafka is not accepting records");
    assert_eq!(world.confirmed(), before);
    kafka.restart();
    world.confirm_change("INSERT INTO t VALUES (3)", 60);
    running.terminate().expect_code(0);
    assert_eq!(stored(&world), world.confirmed());
    assert_eq!(ids(&world), [1, 2, 3]);
}

#[test]
fn a_slot_can_change_between_the_state_topic_and_exactly_once_delivery() {
    let world = World::new(TABLE);
    for (id, delivery) in [(1, "at-least-once"), (2, "exactly-once"), (3, "at-least-once")] {
        world.sql(&format!("INSERT INTO t VALUES ({id})"));
        let walcat = match delivery {
            "exactly-once" => world.stream_to_kafka().with(&["--delivery", delivery]),
            _ => stream(&world),
        };
        walcat.with(&["--once"]).run().expect_code(0);
        assert_eq!(stored(&world), world.confirmed());
    }
    assert_eq!(kafka::read_committed(&world.kafka.brokers, &world.topic("t")).len(), 3);
}
