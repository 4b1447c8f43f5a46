//! Exit code 78: a wrong set-up is reported with what is missing and what to do; and `check`, which reports it earlier.

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::Walcat;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[test]
fn a_configuration_file_that_cannot_be_used_is_named_with_its_line() {
    let run = |path: &str| Walcat::new(&["stream", "--config", path]).run().expect_code(78);
    run("/nowhere.toml")
        .expect_log(&["configuration file /nowhere.toml", "hint: set the path with -c, --config or WALCAT_CONFIG"]);
    let malformed = file("malformed.toml", "slot = \"s\"\ndsn = host\n");
    run(&malformed).expect_log(&[&format!("{malformed}:2: "), "hint: write the file in TOML"]);
    let unknown = file("unknown.toml", "slot = \"s\"\n\ntopic_prefx = \"a\"\n");
    run(&unknown).expect_log(&[&format!("{unknown}:3: topic_prefx: unknown key"), "did you mean topic_prefix?"]);
    let nested = file("nested.toml", "[retry]\nfro = \"1s\"\n");
    run(&nested).expect_log(&[&format!("{nested}:2: "), "retry.fro", "did you mean retry.for?"]);
    let slot = file("slot.toml", "slot = \"A-b\"\n");
    run(&slot).expect_log(&[&format!("{slot}:1: slot: invalid slot name \"A-b\""), "hint: "]);
}

#[test]
fn what_is_missing_on_the_server_is_named() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    let (dsn, slot, publication) = (world.dsn(), world.slot.as_str(), world.publication.as_str());
    let run = |dsn: &str, slot: &str, publication: &str| {
        Walcat::new(&["stream", "--dsn", dsn, "--slot", slot, "--publication", publication])
            .with(&["--sink", "stdout", "--once"])
            .run()
            .expect_code(78)
    };
    let create = format!("hint: run walcat slot create --slot {slot}");
    run(&dsn, slot, publication).expect_log(&[&format!("the slot {slot} does not exist"), &create]);
    for command in ["status", "drop"] {
        let run = Walcat::new(&["slot", command, "--dsn", &dsn, "--slot", slot]).run().expect_code(78);
        run.expect_log(&[&format!("the slot {slot} does not exist")]);
    }
    world.create_slot();
    let missing = run(&dsn, slot, "no_such_publication");
    missing.expect_log(&[
        "publication no_such_publication does not exist",
        &world.database,
        "hint: ",
        "CREATE PUBLICATION",
    ]);
    let database = run(&world.pg.dsn("no_such_database"), slot, publication);
    database.expect_log(&["\"no_such_database\" does not exist", "hint: name an existing database"]);
    run("host=127.0.0.1 prot=1", slot, publication).expect_log(&["invalid conninfo", "hint: write it as for psql"]);

    let other = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    let elsewhere = run(&other.dsn(), slot, &other.publication);
    elsewhere.expect_log(&[&format!("belongs to the database {}", world.database), "hint: "]);
    // The same if the publication does not exist: the database is the cause.
    let elsewhere = run(&other.dsn(), slot, publication);
    elsewhere.expect_log(&[&format!("belongs to the database {}", world.database)]);
}

#[test]
fn a_slot_of_another_plugin_is_refused() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    world.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", world.slot));
    let run = world.stream().with(&["--sink", "stdout", "--once"]).run().expect_code(78);
    run.expect_log(&[&world.slot, "plugin test_decoding", "hint: ", "pgoutput"]);
    world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
    world.sql(&format!("SELECT pg_create_physical_replication_slot('{}')", world.slot));
    let run = world.stream().with(&["--sink", "stdout", "--once"]).run().expect_code(78);
    run.expect_log(&[&world.slot, "physical", "hint: "]);
    // walcat does not drop it either.
    let run = Walcat::new(&["slot", "drop", "--dsn", &world.dsn(), "--slot", &world.slot]).run().expect_code(78);
    run.expect_log(&[&world.slot, "physical", "hint: "]);
    world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
}

/// At PREPARE it is unknown whether the transaction will be committed.
#[test]
fn a_slot_that_decodes_at_prepare_is_refused_and_a_copy_of_it_loses_nothing() {
    let pg = Postgres::start("two-phase", 15, &["--no-fsync", "-c", "max_prepared_transactions=5"]);
    let mut world = World::without_slot(&pg, Kafka::shared(), TABLE);
    world.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput', false, true)", world.slot));
    world.sql("INSERT INTO t VALUES (1, 'plain')");
    world.sql("BEGIN; INSERT INTO t VALUES (2, 'prepared'); PREPARE TRANSACTION 'p'");
    let copy = format!("SELECT pg_copy_logical_replication_slot('{0}', '{0}_plain')", world.slot);
    for engine in ["streaming", "polling"] {
        let run = world.stream().with(&["--sink", "stdout", "--once", "--engine", engine]).run().expect_code(78);
        run.expect_log(&[&world.slot, "two_phase = true", "COMMIT PREPARED", "hint: copy the slot", &copy]);
    }
    let run = check(&world).run().expect_code(78);
    let found = run.stdout.lines().find(|line| line.starts_with("error")).expect("an error");
    assert!(found.contains("two_phase = true") && run.stdout.contains(&copy), "{}", run.stdout);
    let run = Walcat::new(&["slot", "status", "--dsn", &world.dsn(), "--slot", &world.slot]).run();
    assert!(run.stdout.contains("verdict              error: ") && run.stdout.contains(&copy), "{}", run.stdout);

    world.sql(&copy);
    world.slot.push_str("_plain");
    let key =
        |records: Vec<serde_json::Value>| records.iter().map(|record| record["key"]["id"].clone()).collect::<Vec<_>>();
    assert_eq!(key(world.drain_to_stdout()), [1]);
    world.sql("COMMIT PREPARED 'p'");
    assert_eq!(key(world.drain_to_stdout()), [2]);
    pg.stop("fast");
}

#[test]
fn a_publication_that_is_younger_than_the_changes_is_said_to_be() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'x')");
    world.sql("CREATE PUBLICATION younger FOR ALL TABLES");
    let arguments = ["stream", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", "younger"];
    let run = Walcat::new(&arguments).with(&["--sink", "stdout", "--once"]).run().expect_code(78);
    run.expect_log(&["publication \"younger\" does not exist", "hint: ", "newer than the slot", "Drop the slot"]);
}

#[test]
fn a_mistake_in_the_output_is_found_before_a_slot_is_created() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    let config = file("interval.toml", "[transaction]\ninterval = \"50s\"\n");
    let cases = [
        (vec!["-X", "linger.ms=soon"], 78, "linger.ms"),
        (vec!["-X", "lingr.ms=5"], 78, "the nearest is linger.ms"),
        (vec!["-X", "ssl.ca.location=/nowhere.pem", "-X", "security.protocol=ssl"], 78, "ssl.ca.location"),
        (vec!["--delivery", "exactly-once", "--config", &config], 78, "[transaction] interval"),
        (vec!["--record", "/nowhere/r.walcat"], 71, "/nowhere/r.walcat"),
    ];
    for (arguments, code, text) in cases {
        let run = world.stream_to_kafka().with(&["--create-slot", "--once"]).with(&arguments).run();
        run.expect_code(code).expect_log(&[text]);
        let made = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
        assert_eq!(world.sql(&made), "0", "{arguments:?}");
    }
}

#[test]
fn a_topic_that_nobody_creates_is_named_and_walcat_creates_it_when_told_to() {
    let kafka = Kafka::start("no-auto-create", &["--set", "auto.create.topics.enable=false"]);
    let world = World::on(Postgres::shared(), &kafka, TABLE);
    let before = world.confirmed();
    world.sql("INSERT INTO t SELECT id, 'x' FROM generate_series(1, 30) AS id");
    let quick = ["--once", "-X", "topic.metadata.propagation.max.ms=1000"];
    let run = world.stream_to_kafka().with(&quick).run().expect_code(78);
    run.expect_log(&[&world.topic("t"), "hint: create the topic", "[topics] create = true"]);
    assert_eq!(world.confirmed(), before);

    let config = file("topics.toml", "[topics]\ncreate = true\npartitions = 3\n");
    world.stream_to_kafka().with(&quick).with(&["--config", &config]).run().expect_code(0);
    let records = kafka::read(&kafka.brokers, &world.topic("t"));
    assert_eq!(records.len(), 30);
    let mut partitions: Vec<i32> = records.iter().map(|record| record.partition).collect();
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!(partitions, [0, 1, 2]);
}

#[test]
fn topics_are_created_as_configured_even_if_the_broker_would_create_them_with_its_own_settings() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'x')");
    let text = "[topics]\ncreate = true\npartitions = 3\nproperties = { \"retention.ms\" = \"1234567\" }\n";
    let config = file("topics.toml", text);
    world.stream_to_kafka().with(&["--once", "--config", &config]).run().expect_code(0);
    let described = world.kafka.describe_topic(&world.topic("t"));
    assert!(described.contains("PartitionCount: 3") && described.contains("retention.ms=1234567"), "{described}");
}

fn check(world: &World) -> Walcat {
    Walcat::new(&["check", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication]).with(&[
        "--topic-prefix",
        &world.prefix,
        "--brokers",
        &world.kafka.brokers,
    ])
}

#[test]
fn check_is_content_with_a_good_set_up() {
    let world = World::new(TABLE);
    world.kafka.create_topic(&world.topic("t"), &[]);
    let run = check(&world).run().expect_code(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("ok ")), "{}", run.stdout);
    for text in [&world.slot, &world.publication, &world.topic("t"), &world.kafka.brokers, "wal_level: logical"] {
        assert!(run.stdout.contains(text), "no {text} in:\n{}", run.stdout);
    }
}

#[test]
fn check_names_what_would_stop_a_stream() {
    let world = World::new("CREATE TABLE t (v text)");
    let before = world.confirmed();
    let run = check(&world).run().expect_code(0);
    let found = run.stdout.lines().find(|line| line.starts_with("warning")).expect("a warning");
    assert!(found.contains("table public.t: no replica identity"), "{}", run.stdout);
    assert!(run.stdout.contains("hint: add a primary key"), "{}", run.stdout);
    world.sql("ALTER TABLE t REPLICA IDENTITY FULL");
    world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
    let run = check(&world).run().expect_code(78).expect_log(&["checks failed"]);
    assert!(run.stdout.contains("compacted, but the table's records have no key"), "{}", run.stdout);
    assert_eq!(world.confirmed(), before, "it changes nothing");
    let run = check(&world).with(&["-X", "lingr.ms=5"]).run().expect_code(78);
    assert!(run.stdout.contains("error    cannot set up the Kafka producer: lingr.ms"), "{}", run.stdout);
    let config = file("state.toml", "[state]\nfile = \"/nowhere/walcat.state\"\n");
    let run = check(&world).with(&["--config", &config]).run().expect_code(78);
    assert!(
        run.stdout.contains("error    cannot write the state file /nowhere/walcat.state: No such file"),
        "{}",
        run.stdout
    );
    world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
    let run = check(&world).run().expect_code(78);
    let missing = format!("error    slot {}: does not exist", world.slot);
    assert!(run.stdout.contains(&missing), "{}", run.stdout);
    let run = check(&world).env("WALCAT_CREATE_SLOT", "true").run();
    let made = format!("ok       slot {}: walcat will create it", world.slot);
    assert!(run.stdout.contains(&made), "{}", run.stdout);
}

#[test]
fn a_server_without_a_walsender_to_spare_is_reported_on_all_the_same() {
    let pg = Postgres::start("senders", 15, &["--no-fsync", "-c", "max_wal_senders=1"]);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    let other = World::on(&pg, Kafka::shared(), TABLE);
    let mut holder = other.stream_to_kafka().spawn();
    holder.wait_for_log("streaming started");
    let run = check(&world).run().expect_code(78);
    for line in ["error    walsenders: 1 of 1 in use", "error    replication connection: ", "ok       slot "] {
        assert!(run.stdout.contains(line), "no {line:?} in:\n{}", run.stdout);
    }
    let status = Walcat::new(&["slot", "status", "--dsn", &world.dsn(), "--slot", &world.slot]).run().expect_code(0);
    assert!(status.stdout.contains(&world.slot), "{}", status.stdout);
    world.sql("CREATE ROLE reader LOGIN");
    let dsn = format!("{} user=reader", world.dsn());
    let run = Walcat::new(&["check", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--topic-prefix", &world.prefix, "--brokers", &world.kafka.brokers])
        .run()
        .expect_code(78);
    assert!(run.stdout.contains("error    role: does not have REPLICATION"), "{}", run.stdout);
    holder.terminate().expect_code(0);
}
