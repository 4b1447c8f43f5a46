//! The same short scenario on each version of PostgreSQL except the shared server's.

use serde_json::json;

use crate::kafka;
use crate::servers::{Kafka, Postgres, World};
use crate::walcat::Walcat;

fn slot(world: &World, arguments: &[&str]) -> Walcat {
    Walcat::new(&["slot"]).with(arguments).with(&["--dsn", &world.dsn(), "--slot", &world.slot])
}

/// The records of a topic, as operation and key.
fn contents(world: &World, table: &str) -> Vec<(String, Option<i64>)> {
    let records = kafka::read(&world.kafka.brokers, &world.topic(table));
    let key = |record: &kafka::Record| record.key.as_ref().and_then(|key| key["id"].as_i64());
    records.iter().map(|record| (record.op().to_owned(), key(record))).collect()
}

fn smoke(version: u32) {
    let pg = Postgres::start(&format!("v{version}"), version, &["--no-fsync"]);
    let tables =
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE f (v int); ALTER TABLE f REPLICA IDENTITY FULL";
    let world = World::without_slot(&pg, Kafka::shared(), tables);
    assert!(world.sql("SHOW server_version").starts_with(&version.to_string()));
    slot(&world, &["create", "--publication", &world.publication]).run().expect_code(0);
    slot(&world, &["create"]).run().expect_code(78);
    Walcat::new(&["check", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--brokers", &world.kafka.brokers])
        .run()
        .expect_code(0);

    world.sql(
        "BEGIN; INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'c' WHERE id = 1; \
         UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t WHERE id = 1; \
         SELECT pg_logical_emit_message(true, 'p', 'hello'); COMMIT; \
         INSERT INTO f VALUES (1); UPDATE f SET v = 2; DELETE FROM f; TRUNCATE t, f",
    );
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    let expected = [
        ("c", Some(1)),
        ("c", Some(2)),
        ("u", Some(1)),
        ("d", Some(2)),
        ("tombstone", Some(2)),
        ("c", Some(3)),
        ("d", Some(1)),
        ("tombstone", Some(1)),
        ("t", None),
    ];
    let mut expected: Vec<(String, Option<i64>)> = expected.iter().map(|(op, id)| ((*op).to_owned(), *id)).collect();
    assert_eq!(contents(&world, "t"), expected);
    let keyless: Vec<String> = contents(&world, "f").into_iter().map(|(op, _)| op).collect();
    assert_eq!(keyless, ["c", "u", "d", "t"]);
    let messages = kafka::read(&world.kafka.brokers, &format!("{}.message", world.prefix));
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].value.as_ref().expect("value")["message"], json!({"prefix": "p", "content": "aGVsbG8="}));

    // A second run repeats nothing, and a third delivers only what is new.
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    assert_eq!(contents(&world, "t"), expected);
    if version >= 17 {
        // Older servers do not write the confirmed position to disk when they stop, so changes are repeated.
        let confirmed = world.confirmed();
        pg.stop("fast");
        pg.restart();
        assert_eq!(world.confirmed(), confirmed);
    }
    world.sql("INSERT INTO t VALUES (4, 'd')");
    let mut run = world.stream_to_kafka().spawn();
    expected.push(("c".to_owned(), Some(4)));
    crate::servers::eventually("the new row arrives", 30, || contents(&world, "t") == expected);
    assert!(!run.has_ended());
    run.terminate().expect_code(0);
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    assert_eq!(contents(&world, "t"), expected);

    let verified = crate::verify::verify(&world).run().expect_code(0);
    assert!(verified.stdout.contains("2 equal, 0 different; 1 rows"), "{}", verified.stdout);

    let status = slot(&world, &["status"]).run().expect_code(0);
    for text in [world.slot.as_str(), "pgoutput", &world.database, &world.confirmed()] {
        assert!(status.stdout.contains(text), "no {text} in:\n{}", status.stdout);
    }
    slot(&world, &["drop", "--force"]).run().expect_code(0);
    slot(&world, &["status"]).run().expect_code(78);
    assert_eq!(world.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    pg.stop("fast");
}

#[test]
fn every_operation_on_postgresql_14() {
    smoke(14);
}

#[test]
fn every_operation_on_postgresql_16() {
    smoke(16);
}

#[test]
fn every_operation_on_postgresql_17() {
    smoke(17);
}

#[test]
fn every_operation_on_postgresql_18() {
    smoke(18);
}
