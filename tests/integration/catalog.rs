//! The catalog describes a table as it is now; a change belongs to an earlier time.

use serde_json::{Value, json};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

/// The operation and key of each line; a tombstone is "-".
fn operations(records: &[Value]) -> Vec<(String, Value)> {
    let of = |record: &Value| (record["value"]["op"].as_str().unwrap_or("-").to_owned(), record["key"].clone());
    records.iter().map(of).collect()
}

fn expect(records: &[Value], expected: &[(&str, Value)]) {
    let expected: Vec<_> = expected.iter().map(|(op, key)| ((*op).to_owned(), key.clone())).collect();
    assert_eq!(operations(records), expected);
}

fn to_stdout(world: &World) -> Walcat {
    world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"])
}

#[test]
fn a_key_of_which_a_generated_column_is_not_published_is_no_key() {
    for identity in ["DEFAULT", "FULL"] {
        let world = World::new(&format!(
            "CREATE TABLE g (id int, v int, g int GENERATED ALWAYS AS (id) STORED, PRIMARY KEY (v, g)); \
             ALTER TABLE g REPLICA IDENTITY {identity}"
        ));
        world.sql("INSERT INTO g VALUES (1, 7), (2, 7); DELETE FROM g WHERE id = 1");
        world.sql("ALTER TABLE g ADD COLUMN more int; INSERT INTO g VALUES (3, 7)");
        let run = to_stdout(&world).run().expect_code(0);
        expect(&run.json_lines(), &[("c", json!(null)), ("c", json!(null)), ("d", json!(null)), ("c", json!(null))]);
        let warning = "the key (v, g) is not unique without g, which is not published: its records have no key";
        assert_eq!(run.log.matches(warning).count(), 1, "{}", run.log);
    }
}

#[test]
fn a_key_of_which_a_column_list_leaves_out_a_part_is_no_key() {
    let world = World::without_slot(
        Postgres::shared(),
        Kafka::shared(),
        "CREATE TABLE c (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE whole (a int, b int, v int, PRIMARY KEY (b, a))",
    );
    world.sql(&format!(
        "DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE c (a), whole (a, b) WITH (publish = 'insert')",
        world.publication
    ));
    world.create_slot();
    world.sql("INSERT INTO c VALUES (7, 1), (7, 2); INSERT INTO whole VALUES (1, 2, 3)");
    let run = to_stdout(&world).run().expect_code(0);
    expect(&run.json_lines(), &[("c", json!(null)), ("c", json!(null)), ("c", json!({"b": 2, "a": 1}))]);
    run.expect_log(&["the key (a, b) is not unique without b, which is not published"]);
}

#[test]
fn a_key_that_has_grown_since_is_the_one_of_its_time() {
    let world = World::new("CREATE TABLE t (a int PRIMARY KEY, v int)");
    world.sql("INSERT INTO t VALUES (1, 1); DELETE FROM t");
    world.sql("ALTER TABLE t ADD COLUMN x int DEFAULT 1; ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (x, a)");
    world.sql("INSERT INTO t VALUES (2, 2)");
    let (one, two) = (json!({"a": 1}), json!({"x": 1, "a": 2}));
    expect(&world.drain_to_stdout(), &[("c", one.clone()), ("d", one.clone()), ("-", one), ("c", two)]);
}

#[test]
fn a_generated_column_that_is_published_is_a_part_of_the_key() {
    let pg = Postgres::start("generated", 18, &["--no-fsync"]);
    let world = World::without_slot(
        &pg,
        Kafka::shared(),
        "CREATE TABLE g (id int, v int, g int GENERATED ALWAYS AS (id) STORED, PRIMARY KEY (v, g))",
    );
    world.sql(&format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored)", world.publication));
    world.create_slot();
    world.sql("INSERT INTO g VALUES (1, 7), (2, 7); DELETE FROM g WHERE id = 1");
    let (one, two) = (json!({"v": 7, "g": 1}), json!({"v": 7, "g": 2}));
    expect(&world.drain_to_stdout(), &[("c", one.clone()), ("c", two), ("d", one.clone()), ("-", one)]);
    pg.stop("fast");
}

#[test]
fn a_value_of_a_domain_that_was_dropped_since_has_the_form_of_its_base_type() {
    let domains = "CREATE DOMAIN small AS int CHECK (VALUE < 100); CREATE DOMAIN smaller AS small; \
         CREATE DOMAIN list AS int[]; CREATE DOMAIN flag AS bool; CREATE TYPE mood AS ENUM ('sad'); \
         CREATE DOMAIN feeling AS mood";
    let table = "CREATE TABLE t (id smaller PRIMARY KEY, s small, l list, f flag, m feeling)";
    let row = "INSERT INTO t VALUES (4, 5, '{6,7}', true, 'sad')";
    for engine in ["streaming", "polling"] {
        let world = World::new(&format!("{domains}; {table}"));
        world.sql(row);
        world.sql("DROP TABLE t; DROP DOMAIN smaller, small, list, flag, feeling");
        let run = to_stdout(&world).with(&["--engine", engine]).run().expect_code(0);
        let records = run.json_lines();
        let after = json!({"id": 4, "s": 5, "l": [6, 7], "f": true, "m": "sad"});
        assert_eq!((&records[0]["key"], &records[0]["value"]["after"]), (&json!({"id": 4}), &after), "{engine}");
    }
}

#[test]
fn a_leaf_that_is_published_by_its_root_has_no_topic() {
    let world = World::without_slot(
        Postgres::shared(),
        Kafka::shared(),
        "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE \"pt 2\" PARTITION OF root FOR VALUES FROM (0) TO (10); \
         CREATE TABLE pt_2 PARTITION OF root FOR VALUES FROM (10) TO (20)",
    );
    world.sql(&format!(
        "DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE root WITH (publish_via_partition_root = true)",
        world.publication
    ));
    world.create_slot();
    world.sql("INSERT INTO root VALUES (1), (11); UPDATE root SET id = 12 WHERE id = 11");
    let dump = world.stream().with(&["--dump", "json", "--once"]).run().expect_code(0);
    assert!(dump.stdout.contains("\"pt 2\""), "the leaf is announced: {}", dump.stdout);
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("root")).len(), 5);
    let topics = world.kafka.topics_of(&world.prefix);
    assert_eq!(topics, [world.topic("root")]);
}

#[test]
fn the_topic_of_a_table_that_is_gone_may_be_another_tables() {
    let world = World::new("CREATE TABLE \"a b\" (id int PRIMARY KEY)");
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO \"a b\" VALUES (1)", 30);
    world.sql("DROP TABLE \"a b\"; CREATE TABLE a_b (id int PRIMARY KEY)");
    world.confirm_change("INSERT INTO a_b VALUES (2)", 30);
    world.sql("ALTER TABLE a_b RENAME TO c; CREATE TABLE \"a?b\" (id int PRIMARY KEY)");
    world.confirm_change("INSERT INTO \"a?b\" VALUES (3)", 30);
    let ids = |records: Vec<kafka::Record>| -> Vec<_> {
        records.into_iter().map(|record| record.key.expect("a key")["id"].as_i64().expect("a number")).collect()
    };
    assert_eq!(ids(kafka::read(&world.kafka.brokers, &world.topic("a_b"))), [1, 2, 3]);
    // Two existing tables must not share a topic.
    world.sql("CREATE TABLE a_b (id int PRIMARY KEY); INSERT INTO a_b VALUES (4)");
    running.wait().expect_code(78).expect_log(&["two tables would share the topic"]);
}

/// Creates, fills and drops `count` tables, each step in its own transaction.
fn churn(world: &World, count: u32) {
    world.sql(&format!(
        "DO $$ BEGIN FOR i IN 1..{count} LOOP \
         EXECUTE format('CREATE TABLE churn_%s (id int PRIMARY KEY)', i); \
         EXECUTE format('INSERT INTO churn_%s VALUES (%s)', i, i); COMMIT; \
         EXECUTE format('DROP TABLE churn_%s', i); COMMIT; END LOOP; END $$"
    ));
}

#[test]
fn tables_that_are_gone_are_forgotten_once_nothing_of_them_can_come() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut running = world.stream().with(&["--sink", "stdout", "--stdout", "record", "-v"]).spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO t VALUES (1)");
    churn(&world, 200);
    world.sql("INSERT INTO t VALUES (2)");
    running.wait_for_log("relations forgotten: their tables were dropped");
    churn(&world, 200);
    world.confirm_change("INSERT INTO t VALUES (3)", 30);
    let run = running.terminate().expect_code(0);
    assert_eq!(run.json_lines().len(), 403);
}

/// All are dropped when the first change is read, and most have later changes.
#[test]
fn tables_that_are_gone_today_are_known_for_as_long_as_they_have_changes() {
    let world = World::new("");
    let all = |statement: &str| {
        world.sql(&format!(
            "DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('{statement}', i, i); COMMIT; END LOOP; END $$"
        ));
    };
    all("CREATE TABLE gone_%s (id int PRIMARY KEY); INSERT INTO gone_%s VALUES (1)");
    all("INSERT INTO gone_%s SELECT 2 FROM (SELECT %s) AS one");
    all("DELETE FROM gone_%s WHERE id < %s + 10");
    all("DROP TABLE gone_%s; SELECT %s");
    let run = to_stdout(&world).deadline(120).run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 200 * (2 + 4));
}

#[test]
fn the_key_of_a_full_table_is_remembered_past_its_end_and_past_another_key() {
    let world = World::new(
        "CREATE TABLE gone (a int, b int, PRIMARY KEY (b, a)); ALTER TABLE gone REPLICA IDENTITY FULL; \
         CREATE TABLE renamed (id int PRIMARY KEY); ALTER TABLE renamed REPLICA IDENTITY FULL",
    );
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO gone VALUES (1, 2); INSERT INTO renamed VALUES (3)", 30);
    running.signal(libc::SIGSTOP);
    world.sql("ALTER TABLE gone ADD COLUMN more int; DELETE FROM gone");
    world.sql("DROP TABLE gone");
    world.sql("ALTER TABLE renamed ADD COLUMN more int; DELETE FROM renamed");
    world.sql("ALTER TABLE renamed RENAME COLUMN id TO other");
    running.signal(libc::SIGCONT);
    world.wait_confirmed(60);
    for (table, key) in [("gone", json!({"b": 2, "a": 1})), ("renamed", json!({"id": 3}))] {
        let records = kafka::read(&world.kafka.brokers, &world.topic(table));
        let found: Vec<_> = records.iter().map(|record| (record.op().to_owned(), record.key.clone())).collect();
        let expected = ["c", "d", "tombstone"].map(|op| (op.to_owned(), Some(key.clone())));
        assert_eq!(found, expected, "{table}");
    }
    running.terminate().expect_code(0);
}

#[test]
fn the_key_of_a_full_table_is_kept_with_the_position() {
    for delivery in ["at-least-once", "exactly-once"] {
        let world =
            World::new("CREATE TABLE t (a int, b int, PRIMARY KEY (b, a)); ALTER TABLE t REPLICA IDENTITY FULL");
        let config = match delivery {
            "at-least-once" => file(
                "keys.toml",
                &format!("[state]\nfile = \"{}\"\n", file("keys.state", "").replace(".state", ".new")),
            ),
            _ => file("keys.toml", ""),
        };
        let once = || world.stream_to_kafka().with(&["--once", "--config", &config, "--delivery", delivery]).run();
        world.sql("INSERT INTO t VALUES (1, 2)");
        once().expect_code(0);
        world.sql("ALTER TABLE t ADD COLUMN more int; DELETE FROM t");
        world.sql("DROP TABLE t");
        once().expect_code(0);
        let records = kafka::read_committed(&world.kafka.brokers, &world.topic("t"));
        let found: Vec<_> = records.iter().map(|record| (record.op().to_owned(), record.key.clone())).collect();
        let key = Some(json!({"b": 2, "a": 1}));
        assert_eq!(found, ["c", "d", "tombstone"].map(|op| (op.to_owned(), key.clone())), "{delivery}");
    }
}

#[test]
fn a_key_that_nobody_knows_any_more_is_told_before_anything_is_sent_without_it() {
    for (change, why) in [
        ("DROP TABLE t", "the table is gone"),
        ("ALTER TABLE t RENAME COLUMN id TO other", "its primary key is now (other)"),
    ] {
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL");
        world.sql("INSERT INTO t VALUES (1); DELETE FROM t");
        world.sql(change);
        let run = to_stdout(&world).run().expect_code(78);
        assert_eq!(run.stdout, "");
        run.expect_log(&["the key of public.t is not known", why, "hint: ", "--accept-keyless"]);
        let run = to_stdout(&world).with(&["--accept-keyless"]).run().expect_code(0);
        expect(&run.json_lines(), &[("c", json!(null)), ("d", json!(null))]);
        run.expect_log(&["its older changes are sent without a key", why]);
    }
}

/// The commit waits for a standby that does not exist, so no session sees the table; its changes are streamed nevertheless.
#[test]
fn a_transaction_that_is_not_visible_yet_is_waited_for() {
    let pg = Postgres::start("invisible", 15, &["--no-fsync"]);
    let world = World::on(&pg, Kafka::shared(), "");
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    world.sql("SELECT pg_reload_conf()");
    let sql = "CREATE DOMAIN positive AS int; CREATE TABLE t (a positive, l positive[], PRIMARY KEY (l, a)); \
         ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, '{2}')";
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| world.sql(sql));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("the commit waits", 30, || world.sql(waits) == "1");
        let held = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcat' AND backend_type = 'client backend'";
        eventually("the catalog is asked", 30, || world.sql(held) == "1");
        world.sql("ALTER SYSTEM RESET synchronous_standby_names");
        world.sql("SELECT pg_reload_conf()");
        writer.join().expect("the writer");
    });
    world.wait_confirmed(30);
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    assert_eq!(records[0].key, Some(json!({"l": [2], "a": 1})));
    running.terminate().expect_code(0);
    pg.stop("fast");
}
