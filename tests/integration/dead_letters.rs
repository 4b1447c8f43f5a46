//! `on_error`: what walcat does with a record that Kafka permanently rejects.

use std::collections::HashSet;

use serde_json::json;

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, file};

/// Three rows; the second one is too large for its topic.
fn world() -> World {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, text text)");
    world.kafka.create_topic(&world.topic("t"), &["--config", "max.message.bytes=2000"]);
    world.sql("INSERT INTO t VALUES (1, 'small')");
    // A text that compresses badly: the broker checks the size of the compressed batch.
    world.sql("INSERT INTO t SELECT 2, string_agg(md5(i::text), '') FROM generate_series(1, 1000) i");
    world.sql("INSERT INTO t VALUES (3, 'small')");
    world
}

fn ids(records: &[kafka::Record]) -> Vec<i64> {
    records.iter().filter_map(|record| record.value.as_ref()?["after"]["id"].as_i64()).collect()
}

#[test]
fn a_rejected_record_stops_the_stream_by_default() {
    let world = world();
    let before = world.confirmed();
    let finished = world.stream_to_kafka().with(&["--once", "-X", "batch.size=1500"]).run();
    finished.expect_code(65).expect_log(&["too large", "hint: ", "on_error"]);
    let behind = format!("SELECT '{before}'::pg_lsn <= '{}'", world.confirmed());
    assert_eq!(world.sql(&behind), "t");
    let drained = world.drain_to_stdout();
    assert!(drained.iter().any(|record| record["key"]["id"] == 2), "the slot still has the change");
}

#[test]
fn a_refused_record_is_skipped_counted_and_logged() {
    let world = world();
    let arguments = ["--once", "-X", "batch.size=1500", "--on-error", "skip"];
    let finished = world.stream_to_kafka().with(&arguments).run().expect_code(0);
    let finished =
        finished.expect_log(&["Kafka rejected a record; leaving it out", "records_refused=1", &world.topic("t")]);
    assert!(!finished.log.contains("c4ca4238"), "a value is in the log:\n{}", finished.log);
    assert_eq!(ids(&kafka::read(&world.kafka.brokers, &world.topic("t"))), [1, 3]);
    assert!(world.drain_to_stdout().is_empty(), "the slot has passed it");
}

#[test]
fn a_dead_letter_says_where_the_record_came_from() {
    for delivery in ["at-least-once", "exactly-once"] {
        let world = world();
        let letters = format!("{}.dead", world.prefix);
        world.kafka.create_topic(&letters, &[]);
        let finished = world
            .stream_to_kafka()
            .with(&["--once", "-X", "batch.size=1500", "--delivery", delivery])
            .with(&["--on-error", "dead-letter", "--dead-letter-topic", &letters])
            .run();
        finished.expect_code(0).expect_log(&["records_refused=1"]);
        assert_eq!(ids(&kafka::read_committed(&world.kafka.brokers, &world.topic("t"))), [1, 3], "{delivery}");
        let found = kafka::read_committed(&world.kafka.brokers, &letters);
        assert_eq!(found.len(), 1, "{delivery}");
        assert_eq!(found[0].key, Some(json!({"id": 2})));
        let letter = found[0].value.as_ref().expect("a value");
        assert_eq!((&letter["topic"], &letter["key"]), (&json!(world.topic("t")), &json!({"id": 2})));
        assert_eq!((&letter["schema"], &letter["table"]), (&json!("public"), &json!("t")));
        assert!(letter["value_bytes"].as_u64().expect("value_bytes") > 32_000);
        assert!(letter["lsn"].as_str().expect("lsn").contains('/'));
        assert!(letter["reason"].as_str().expect("reason").contains("too large"), "{letter}");
    }
}

#[test]
fn a_record_without_key_for_a_compacted_topic_may_become_a_dead_letter() {
    let world = World::new("CREATE TABLE t (a int)");
    world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
    let letters = format!("{}.dead", world.prefix);
    world.kafka.create_topic(&letters, &[]);
    world.sql("INSERT INTO t VALUES (1)");
    let arguments = ["--once", "--on-error", "dead-letter", "--dead-letter-topic", &letters];
    world.stream_to_kafka().with(&arguments).run().expect_code(0);
    let found = kafka::read(&world.kafka.brokers, &letters);
    assert_eq!((found.len(), &found[0].key), (1, &None));
}

/// A broker rejects a whole batch because of one record; the others are sent again without it.
#[test]
fn good_records_of_a_batch_with_a_refused_one_are_delivered_in_order() {
    for (delivery, policy) in [("at-least-once", "skip"), ("at-least-once", "dead-letter"), ("exactly-once", "skip")] {
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
        world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
        let letters = format!("{}.dead", world.prefix);
        world.kafka.create_topic(&letters, &[]);
        // Without the primary key, the rows 3 and 4 have no key, and a compacted topic rejects them.
        world.sql("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)");
        world.sql("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (3)");
        world.sql("INSERT INTO t VALUES (4)");
        world.sql("ALTER TABLE t ADD PRIMARY KEY (id); INSERT INTO t VALUES (5); INSERT INTO t VALUES (6)");
        let topic = ["--dead-letter-topic", &letters];
        let finished = world
            .stream_to_kafka()
            // All records go into one batch.
            .with(&["--once", "-X", "linger.ms=2000", "--delivery", delivery, "--on-error", policy])
            .with(if policy == "skip" { &[] } else { &topic })
            .run()
            .expect_code(0);
        finished.expect_log(&["records_refused=2"]);
        let found = ids(&kafka::read_committed(&world.kafka.brokers, &world.topic("t")));
        assert_eq!(found, [1, 2, 5, 6], "{delivery}, {policy}");
        assert!(world.drain_to_stdout().is_empty(), "the slot has passed them");
        if policy == "dead-letter" {
            let letters = kafka::read(&world.kafka.brokers, &letters);
            let lsns: HashSet<_> =
                letters.iter().map(|letter| letter.value.as_ref().map(|v| v["lsn"].to_string())).collect();
            assert_eq!(lsns.len(), 2, "{letters:?}");
        }
    }
}

/// The records differ only in their content: one is too large for the broker after compression.
#[test]
fn a_good_record_of_the_same_key_and_size_as_a_refused_one_is_delivered() {
    for policy in ["skip", "dead-letter"] {
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY, text text)");
        world.kafka.create_topic(&world.topic("t"), &["--config", "max.message.bytes=2000"]);
        let letters = format!("{}.dead", world.prefix);
        world.sql(
            "BEGIN; INSERT INTO t VALUES (1, 'small'); UPDATE t SET text = repeat('a', 32000);
             UPDATE t SET text = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i);
             UPDATE t SET text = repeat('b', 32000); COMMIT",
        );
        let topic = ["--dead-letter-topic", &letters];
        world
            .stream_to_kafka()
            .with(&["--once", "-X", "batch.size=1500", "--delivery", "exactly-once", "--on-error", policy])
            .with(if policy == "skip" { &[] } else { &topic })
            .run()
            .expect_code(0)
            .expect_log(&["records_refused=1"]);
        let records = kafka::read_committed(&world.kafka.brokers, &world.topic("t"));
        let text = |record: &kafka::Record| record.value.as_ref().expect("a value")["after"]["text"].clone();
        let expected = ["small".to_owned(), "a".repeat(32_000), "b".repeat(32_000)];
        assert_eq!(records.iter().map(text).collect::<Vec<_>>(), expected, "{policy}");
        if policy == "dead-letter" {
            assert_eq!(kafka::read_committed(&world.kafka.brokers, &letters).len(), 1);
        }
    }
}

/// The delivery reports of the other records in a rejected batch arrive in any order.
#[test]
fn records_refused_amid_many_cost_one_repeat_of_their_kafka_transaction() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, text text); CREATE TABLE u (id int PRIMARY KEY)";
    for (policy, code) in [("stop", 65), ("dead-letter", 0)] {
        let world = World::new(tables);
        world.kafka.create_topic(&world.topic("t"), &["--config", "max.message.bytes=2000"]);
        world.sql(
            "BEGIN; INSERT INTO u SELECT generate_series(1, 500); INSERT INTO t VALUES (1, 'small');
             INSERT INTO t SELECT id, string_agg(md5((id * i)::text), '') FROM generate_series(2, 4) id,
                 generate_series(1, 1000) i GROUP BY id;
             INSERT INTO t VALUES (9, 'small'); INSERT INTO u SELECT generate_series(501, 1000); COMMIT",
        );
        let letters = format!("{}.dead", world.prefix);
        let topic = ["--dead-letter-topic", &letters];
        let finished = world
            .stream_to_kafka()
            .with(&["--once", "-X", "batch.size=1500", "--delivery", "exactly-once", "--on-error", policy])
            .with(if policy == "stop" { &[] } else { &topic })
            .run()
            .expect_code(code);
        if policy == "stop" {
            finished.expect_log(&["a record of table public.t", &world.topic("t"), "too large"]);
            continue;
        }
        let finished = finished.expect_log(&["records_refused=3"]);
        let repeats = finished.log.matches("the Kafka transaction failed").count();
        assert!(repeats <= 3, "{}", finished.log);
        assert_eq!(ids(&kafka::read_committed(&world.kafka.brokers, &world.topic("t"))), [1, 9]);
        assert_eq!(kafka::read_committed(&world.kafka.brokers, &world.topic("u")).len(), 1000);
        assert_eq!(kafka::read_committed(&world.kafka.brokers, &letters).len(), 3);
    }
}

/// Each repeat leaves out more records, so the delay before it does not grow.
#[test]
fn many_records_refused_one_after_another_do_not_slow_the_repeats() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, text text)");
    world.kafka.create_topic(&world.topic("t"), &["--config", "max.message.bytes=2000"]);
    for id in 1..=40 {
        world.sql(&format!(
            "INSERT INTO t SELECT {id}, string_agg(md5(({id} * i)::text), '') FROM generate_series(1, 1000) i"
        ));
    }
    let arguments = ["--once", "-X", "batch.size=1500", "--delivery", "exactly-once", "--on-error", "skip"];
    let finished = world.stream_to_kafka().with(&arguments).deadline(240).run();
    let finished = finished.expect_code(0).expect_log(&["records_refused=40"]);
    let delays =
        finished.log.split("retry_in_ms=").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    let delays = delays.collect::<Vec<u64>>();
    assert!(delays.iter().all(|ms| *ms <= 5_000), "{delays:?}");
}

/// The broker closes the connection on such a request, which looks like a network failure.
#[test]
fn a_record_that_no_request_can_carry_is_refused_as_any_other() {
    let kafka = Kafka::start("requests", &["--set", "socket.request.max.bytes=4000000"]);
    let patience = file("patience.toml", "[retry]\nbroker_for = '20s'\n");
    let rows = "INSERT INTO t VALUES (1, 'small');
        INSERT INTO t SELECT 2, string_agg(md5(i::text), '') FROM generate_series(1, 200000) i;
        INSERT INTO t VALUES (3, repeat('a', 6400000)), (4, 'small')";
    // The codec decides whether the record fits: lz4 cannot compress random hexadecimal digits.
    for (codec, delivery, max_message_bytes, expected) in [
        ("none", "at-least-once", "9000000", &[1, 4][..]),
        ("none", "exactly-once", "9000000", &[1, 4]),
        ("lz4", "at-least-once", "9000000", &[1, 3, 4]),
        ("lz4", "exactly-once", "9000000", &[1, 3, 4]),
        ("gzip", "at-least-once", "9000000", &[1, 2, 3, 4]),
        ("zstd", "at-least-once", "9000000", &[1, 2, 3, 4]),
        ("zstd", "at-least-once", "1000000", &[1, 3, 4]),
        ("snappy", "at-least-once", "9000000", &[1, 3, 4]),
    ] {
        let case = format!("{codec}, {delivery}, {max_message_bytes}");
        let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY, text text)");
        let limit = format!("max.message.bytes={max_message_bytes}");
        kafka.create_topic(&world.topic("t"), &["--config", &limit]);
        world.sql(rows);
        let codec = format!("compression.type={codec}");
        let arguments = ["--once", "-X", &codec, "--delivery", delivery];
        let finished = world
            .stream_to_kafka()
            .with(&arguments)
            .with(&["--on-error", "skip", "--config", &patience])
            .run()
            .expect_code(0);
        let refused = finished.counter("records_refused");
        assert_eq!(refused, 4 - expected.len() as u64, "{case}\n{}", finished.log);
        let found = kafka::read_committed(&kafka.brokers, &world.topic("t"));
        assert_eq!(ids(&found), expected, "{case}\n{}", finished.log);
    }
}

#[test]
fn a_record_that_fits_into_no_request_stops_the_stream_by_default() {
    let kafka = Kafka::start("requests-stop", &["--set", "socket.request.max.bytes=4000000"]);
    let patience = file("patience.toml", "[retry]\nbroker_for = '20s'\n");
    for delivery in ["at-least-once", "exactly-once"] {
        let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY, text text)");
        kafka.create_topic(&world.topic("t"), &["--config", "max.message.bytes=9000000"]);
        world.sql("INSERT INTO t SELECT 2, string_agg(md5(i::text), '') FROM generate_series(1, 200000) i");
        let arguments = ["--once", "--delivery", delivery];
        let finished = world.stream_to_kafka().with(&arguments).with(&["--config", &patience]).run().expect_code(65);
        finished.expect_log(&["too large", "table public.t", "socket.request.max.bytes", "hint: "]);
        let drained = world.drain_to_stdout();
        assert!(drained.iter().any(|record| record["key"]["id"] == 2), "the slot still has the change");
    }
}

#[test]
fn a_dead_letter_that_is_refused_itself_stops_the_stream() {
    let world = world();
    let letters = format!("{}.dead", world.prefix);
    world.kafka.create_topic(&letters, &["--config", "max.message.bytes=100"]);
    let finished = world
        .stream_to_kafka()
        .with(&["--once", "-X", "batch.size=1500", "--on-error", "dead-letter", "--dead-letter-topic", &letters])
        .run();
    finished.expect_code(65).expect_log(&[&letters]);
}

/// A checkpoint must not be skipped like a change: without it, no position is stored.
#[test]
fn a_checkpoint_that_is_refused_stops_the_stream_whatever_the_policy() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let system = world.sql("SELECT system_identifier FROM pg_control_system()");
    let checkpoints = format!("__walcat.{system}.{}.{}", world.database, world.slot);
    let small = ["--config", "cleanup.policy=compact", "--config", "max.message.bytes=50"];
    world.kafka.create_topic(&checkpoints, &small);
    world.sql("INSERT INTO t VALUES (1)");
    let arguments = ["--once", "-X", "batch.size=10", "--delivery", "exactly-once", "--on-error", "skip"];
    let finished = world.stream_to_kafka().with(&arguments).run().expect_code(65);
    finished.expect_log(&[&checkpoints, "too large"]);
}

#[test]
fn dead_letters_need_a_topic() {
    let world = World::new("");
    world
        .stream_to_kafka()
        .with(&["--once", "--on-error", "dead-letter"])
        .run()
        .expect_code(2)
        .expect_log(&["dead_letter_topic"]);
}
