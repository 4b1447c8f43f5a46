//! Topics that are missing, cannot be created yet, or are numerous.

use std::time::{Duration, Instant};

use crate::servers::{Kafka, Postgres, World, eventually, file};

/// The number of loop turns in the last statistics line.
fn turns(log: &str) -> Vec<u64> {
    let statistics = log.lines().filter(|line| line.contains("statistics"));
    statistics.filter_map(|line| line.rsplit_once("turns=")?.1.split_whitespace().next()?.parse().ok()).collect()
}

#[test]
fn a_topic_that_is_missing_is_asked_for_at_a_steady_pace() {
    let kafka = Kafka::start("missing", &["--set", "auto.create.topics.enable=false"]);
    for delivery in ["at-least-once", "exactly-once"] {
        let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY)");
        world.sql("INSERT INTO t VALUES (1)");
        let arguments = ["--delivery", delivery, "--stats-interval", "1s", "--stall-timeout", "3s"];
        // librdkafka waits 30 s for a topic to appear.
        let patience = ["-X", "topic.metadata.propagation.max.ms=120000"];
        let mut running = world.stream_to_kafka().with(&arguments).with(&patience).spawn();
        running.wait_for_log("Kafka is not accepting records");
        let before = turns(&running.log()).len();
        eventually("five more seconds are told of", 30, || turns(&running.log()).len() > before + 6);
        let told = turns(&running.log());
        let most = told[before..].windows(2).map(|pair| pair[1] - pair[0]).max().expect("some");
        println!("{delivery}: {most} turns a second");
        assert!(most < 100, "{delivery}: {most} turns in a second:\n{}", running.log());
        kafka.create_topic(&world.topic("t"), &[]);
        world.wait_confirmed(30);
        running.terminate().expect_code(0);
    }
}

/// librdkafka reports a missing topic only after 30 s.
#[test]
fn an_outage_that_ends_the_run_names_the_record_that_waits() {
    let kafka = Kafka::start("outage-of-a-topic", &["--set", "auto.create.topics.enable=false"]);
    let config = file("short.toml", "[retry]\nbroker_for = '12s'\n");
    for delivery in ["at-least-once", "exactly-once"] {
        let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY)");
        world.sql("INSERT INTO t VALUES (1)");
        let arguments = ["--delivery", delivery, "--stall-timeout", "3s", "--config", &config];
        let run = world.stream_to_kafka().with(&arguments).run().expect_code(69);
        let record =
            format!("waiting: a record of table public.t for topic {} from the transaction at 0/", world.topic("t"));
        run.expect_log(&["has accepted no records for 1", &record, "hint: "]);
    }
}

#[test]
fn a_truncate_of_many_tables_asks_for_their_topics_together() {
    const TABLES: u32 = 300;
    let create = format!(
        "DO $$ BEGIN FOR i IN 1..{TABLES} LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', i); END LOOP; END $$"
    );
    let world = World::new(&create);
    let settings = file("topics.toml", "[topics]\ncreate = true\n");
    let names = (1..=TABLES).map(|i| format!("t{i}")).collect::<Vec<_>>().join(", ");
    let truncate = format!("TRUNCATE {names}");
    let timed = |sql: &str| {
        world.sql(sql);
        let begun = Instant::now();
        world.stream_to_kafka().with(&["--once", "--config", &settings]).deadline(180).run().expect_code(0);
        begun.elapsed()
    };
    let insert = format!(
        "DO $$ BEGIN FOR i IN 1..{TABLES} LOOP EXECUTE format('INSERT INTO t%s VALUES (1)', i); END LOOP; END $$"
    );
    let made = timed(&truncate);
    let truncated = timed(&truncate);
    let inserted = timed(&insert);
    println!("topics made {made:?}, truncated {truncated:?}, inserted {inserted:?}");
    assert!(truncated < inserted.max(Duration::from_secs(1)) * 2, "{truncated:?}, and {inserted:?} for rows");
}

#[test]
fn a_replication_factor_that_too_few_brokers_are_up_for_is_tried_again() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    world.sql("INSERT INTO t VALUES (1)");
    let settings = file("factor.toml", "[topics]\ncreate = true\nreplication_factor = 2\n");
    let mut running = world.stream_to_kafka().with(&["--once", "--config", &settings]).spawn();
    running.wait_for_log("cannot create a topic yet");
    // This stands for another broker that has started.
    world.kafka.create_topic(&world.topic("t"), &[]);
    running.wait().expect_code(0);
    assert_eq!(crate::kafka::read(&world.kafka.brokers, &world.topic("t")).len(), 1);
}

#[test]
fn a_replication_factor_that_stays_too_large_ends_the_run() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    world.sql("INSERT INTO t VALUES (1)");
    let settings = file("factor.toml", "[topics]\ncreate = true\nreplication_factor = 2\n[retry]\nbroker_for = '3s'\n");
    let finished = world.stream_to_kafka().with(&["--once", "--config", &settings]).run().expect_code(78);
    finished.expect_log(&["cannot create a topic yet", "cannot create the topic", &world.topic("t"), "hint: "]);
}
