//! `--snapshot only`: the rows of the published tables as of one point.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

/// 120 MB that TOAST does not compress.
const WIDE_ROWS: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE PLAIN; \
     INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series(1, 60000) i";

/// A world without a slot.
fn world(sql: &str) -> World {
    World::without_slot(Postgres::shared(), Kafka::shared(), sql)
}

/// `walcat stream --snapshot only`, without a slot.
fn only(world: &World) -> Walcat {
    Walcat::new(&["stream", "--snapshot", "only", "--dsn", &world.dsn(), "--publication", &world.publication])
        .with(&["--topic-prefix", &world.prefix])
}

fn to_stdout(world: &World) -> Walcat {
    only(world).with(&["--sink", "stdout", "--stdout", "record"])
}

/// Replaces the publication.
fn publish(world: &World, what: &str) {
    world.sql(&format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR {what}", world.publication));
}

/// Topic without the prefix, key and row of each record, in the order of their texts.
fn rows(world: &World, records: &[Value]) -> Vec<(String, Value, Value)> {
    let row = |record: &Value| {
        let topic = record["topic"].as_str().expect("a topic").strip_prefix(&format!("{}.", world.prefix));
        assert_eq!((&record["value"]["op"], &record["value"]["before"]), (&json!("r"), &json!(null)));
        (topic.expect("the prefix").to_owned(), record["key"].clone(), record["value"]["after"].clone())
    };
    let mut rows: Vec<_> = records.iter().map(row).collect();
    rows.sort_by_key(|row| format!("{row:?}"));
    rows
}

/// No slot is there, and no session of walcat.
pub fn expect_nothing_left(world: &World) {
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE database = '{}'", world.database);
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcat' AND datname = current_database()";
    eventually("nothing is left", 30, || world.sql(&slots) == "0" && world.sql(sessions) == "0");
}

/// The values of one text, as the stream inserts them and as a snapshot reads them, byte for byte.
fn expect_equal_bytes(world: &World, streamed: &str, read: &str) {
    let part = |line: &str, name: &str| {
        let envelope: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(line).expect(line);
        envelope[name].get().to_owned()
    };
    let pieces = |text: &str| {
        let mut pieces: Vec<_> = text
            .lines()
            .map(|line| (part(line, "topic"), part(line, "key"), part(&part(line, "value"), "after")))
            .collect();
        pieces.sort();
        pieces
    };
    let (streamed, read) = (pieces(streamed), pieces(read));
    assert!(!read.is_empty(), "{}", world.database);
    assert_eq!(read, streamed);
}

#[test]
fn key_and_values_are_those_of_an_insert_byte_for_byte_for_every_type() {
    let world = World::new(
        "CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"'); CREATE DOMAIN small AS int; CREATE TYPE pair AS (a int, b text); \
         CREATE EXTENSION IF NOT EXISTS hstore; \
         CREATE TABLE every (i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8, n numeric, b bool, t text, \
           c char(5), vc varchar(9), nm name, u uuid, d date, ti time, tz timetz, ts timestamp, tsz timestamptz, \
           iv interval, by bytea, j json, jb jsonb, ia int[], ta text[], two int[][], m money, bi bit(3), vb varbit, \
           ip inet, ci cidr, mac macaddr, p point, r int4range, mr int4multirange, x xml, tv tsvector, \
           e mood, ea mood[], s small, sa small[], pr pair, h hstore, lsn pg_lsn, PRIMARY KEY (i8, t))",
    );
    world.sql(
        "INSERT INTO every VALUES (-1, 2, 9223372036854775807, 4294967295, 1.1, 'NaN', 'Infinity'::float8::numeric, true, \
           E'a\\tb\\nc\\\\d\\r\\b\\f\\v \\\\N', 'x', 'y', 'n', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '0044-03-15 BC', \
           '24:00:00', '04:05:06-08', 'infinity', '12345-06-07 01:02:03.456789+02', '1 year 2 mons -3 days', \
           '\\x00ff5c', '{ \"a\" :  1 }', '{\"n\": 1e400}', '{1,NULL,3}', E'{\"a,b\",\"c\\\\\"d\",NULL,\"\\\\\\\\\"}', \
           '[0:1][1:1]={{1},{2}}', '-12.34', B'101', B'1', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '(1.5,2)', '[1,5)', \
           '{[1,2),[5,9)}', '<a>1</a>', 'a:1 b:2', 'it''s \"ok\"', '{sad}', 7, '{8}', '(1,\"x,\"\"y\")', 'k=>\"v\\\\\"', \
           '16/B374D848'), \
         (NULL, NULL, 0, NULL, '-Infinity', 1e-300, 12345678901234567890.000000000000000000010, NULL, '', NULL, NULL, \
           NULL, NULL, 'infinity', NULL, NULL, '-infinity', NULL, NULL, '', NULL, NULL, '{}', '{}', '{}', NULL, NULL, '', \
           NULL, NULL, NULL, NULL, 'empty', '{}', NULL, '', NULL, '{}', NULL, '{}', NULL, '', NULL); \
         INSERT INTO every (i8, t, by) SELECT 1, repeat('toast', 20000), decode(repeat('00ff', 9000), 'hex')",
    );
    let streamed = world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"]).run().expect_code(0);
    let read = to_stdout(&world).run().expect_code(0);
    assert_eq!(read.stdout.lines().count(), 3);
    expect_equal_bytes(&world, &streamed.stdout, &read.stdout);
}

/// Everything that a publication selects, compared with what the stream sends for the same rows.
fn selection(pg: &Postgres) {
    let tables = "CREATE TABLE listed (id int PRIMARY KEY, secret text, shown text); \
         CREATE TABLE filtered (id int PRIMARY KEY, active bool, n int); \
         CREATE SCHEMA \"Odd schema\"; CREATE TABLE \"Odd schema\".\"ta.b\"\"le\" (\"Id x\" int PRIMARY KEY, \"s'elect\" text); \
         CREATE TABLE g (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED); \
         CREATE TABLE root (id int PRIMARY KEY, a text, b int) PARTITION BY RANGE (id); \
         CREATE TABLE leaf_1 (b int, gone int, a text, id int NOT NULL); ALTER TABLE leaf_1 DROP COLUMN gone; \
         ALTER TABLE root ATTACH PARTITION leaf_1 FOR VALUES FROM (0) TO (10); \
         CREATE TABLE leaf_2 PARTITION OF root FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id); \
         CREATE TABLE leaf_3 PARTITION OF leaf_2 FOR VALUES FROM (10) TO (20); \
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id), more int) INHERITS (parent); \
         CREATE TABLE full_key (a int, b int, PRIMARY KEY (b, a)); ALTER TABLE full_key REPLICA IDENTITY FULL; \
         CREATE TABLE included (a int, b int, c int, PRIMARY KEY (c, a) INCLUDE (b)); \
         CREATE TABLE by_index (a int NOT NULL, b int NOT NULL, c int); CREATE UNIQUE INDEX by_b_a ON by_index (b, a); \
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_b_a; \
         CREATE TABLE keyless (v int); CREATE TABLE deferred (id int, PRIMARY KEY (id) DEFERRABLE); \
         CREATE TABLE nothing (); CREATE TABLE empty (id int PRIMARY KEY); CREATE TABLE unpublished (id int PRIMARY KEY)";
    let inserts = "INSERT INTO listed VALUES (1, 'secret', 'shown'); \
         INSERT INTO filtered VALUES (1, true, 1), (2, false, 2), (3, NULL, 100); \
         INSERT INTO \"Odd schema\".\"ta.b\"\"le\" VALUES (1, 'x'); INSERT INTO g VALUES (3); \
         INSERT INTO root VALUES (1, 'one', 10), (11, 'eleven', 110); INSERT INTO parent VALUES (1); \
         INSERT INTO child VALUES (2, 3); INSERT INTO full_key VALUES (1, 2); INSERT INTO included VALUES (1, 2, 3); \
         INSERT INTO by_index VALUES (1, 2, 3); INSERT INTO keyless VALUES (1), (1); INSERT INTO deferred VALUES (1); \
         INSERT INTO unpublished VALUES (1); INSERT INTO nothing DEFAULT VALUES";
    let others = "\"Odd schema\".\"ta.b\"\"le\", g, ONLY parent, child, full_key, included, by_index, keyless, deferred, \
         nothing, empty";
    for via_root in [false, true] {
        let world = World::without_slot(pg, Kafka::shared(), tables);
        let mut what = if pg.version >= 15 {
            format!(
                "TABLE listed (id, shown), filtered WHERE (active OR n > 50), root, {others} \
                 WITH (publish = 'insert', publish_via_partition_root = {via_root})"
            )
        } else {
            format!("TABLE listed, filtered, root, {others} WITH (publish_via_partition_root = {via_root})")
        };
        if pg.version >= 18 && via_root {
            what = what.replace("publish = 'insert'", "publish = 'insert', publish_generated_columns = stored");
        }
        publish(&world, &what);
        world.create_slot();
        world.sql(inserts);
        let streamed = world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"]).run().expect_code(0);
        let read = to_stdout(&world).run().expect_code(0);
        expect_equal_bytes(&world, &streamed.stdout, &read.stdout);
        let topics: Vec<_> = rows(&world, &read.json_lines()).into_iter().map(|(topic, ..)| topic).collect();
        assert_eq!(topics.iter().any(|topic| topic == "public.root"), via_root, "{topics:?}");
        assert!(!topics.iter().any(|topic| topic == "public.unpublished"), "{topics:?}");
        let filtered = topics.iter().filter(|topic| *topic == "public.filtered").count();
        assert_eq!(filtered, if pg.version >= 15 { 2 } else { 3 });
    }
}

#[test]
fn a_snapshot_has_the_rows_and_columns_that_the_stream_would_send_on_15() {
    selection(Postgres::shared());
}

#[test]
fn a_snapshot_has_the_rows_and_columns_that_the_stream_would_send_on_14() {
    let pg = Postgres::start("snapshot-14", 14, &["--no-fsync"]);
    selection(&pg);
    pg.stop("fast");
}

#[test]
fn a_snapshot_has_the_rows_and_columns_that_the_stream_would_send_on_16() {
    let pg = Postgres::start("snapshot-16", 16, &["--no-fsync"]);
    selection(&pg);
    pg.stop("fast");
}

#[test]
fn a_snapshot_has_the_rows_and_columns_that_the_stream_would_send_on_17() {
    let pg = Postgres::start("snapshot-17", 17, &["--no-fsync"]);
    selection(&pg);
    pg.stop("fast");
}

#[test]
fn a_snapshot_has_the_rows_and_columns_that_the_stream_would_send_on_18() {
    let pg = Postgres::start("snapshot-18", 18, &["--no-fsync"]);
    selection(&pg);
    pg.stop("fast");
}

#[test]
fn several_publications_are_read_as_the_stream_reads_them() {
    let world = world(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)",
    );
    let other = format!("{}_other", world.publication);
    publish(&world, "TABLE t WHERE (id = 1)");
    world.sql(&format!("CREATE PUBLICATION {other} FOR TABLE t WHERE (id = 2)"));
    let both = || to_stdout(&world).with(&["--publication", &other]);
    let keys = |records: &[Value]| {
        let mut keys: Vec<_> = records.iter().map(|record| record["key"]["id"].as_i64().expect("a key")).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&both().run().expect_code(0).json_lines()), [1, 2]);
    world.sql(&format!("ALTER PUBLICATION {other} SET TABLE t"));
    assert_eq!(keys(&both().run().expect_code(0).json_lines()), [1, 2, 3]);
    world.sql(&format!("ALTER PUBLICATION {other} SET TABLE t (id, a)"));
    both().run().expect_code(78).expect_log(&["different column lists for the table public.t"]);
    expect_nothing_left(&world);
}

#[test]
fn each_record_says_its_place_and_the_consistent_point() {
    let world = world(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 5); CREATE TABLE b (id int PRIMARY KEY); \
         CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1)",
    );
    let run = to_stdout(&world).run().expect_code(0).expect_log(&["snapshot begins", "snapshot ended", "rows=6"]);
    let records = run.json_lines();
    let sources: Vec<_> = records.iter().map(|record| &record["value"]["source"]).collect();
    let mut markers: Vec<_> = sources.iter().map(|source| source["snapshot"].as_str().expect("a marker")).collect();
    assert_eq!((markers.remove(0), markers.pop()), ("first", Some("last")));
    markers.sort_unstable();
    assert_eq!(markers.iter().filter(|marker| **marker == "last_in_data_collection").count(), 1, "{markers:?}");
    let point = run.log.split("lsn=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an LSN");
    let point = world.sql(&format!("SELECT '{point}'::pg_lsn - '0/0'"));
    for (record, source) in records.iter().zip(&sources) {
        assert_eq!(source["lsn"].to_string(), point);
        assert_eq!(source["ts_us"], sources[0]["ts_us"]);
        assert_eq!((&source["txId"], &record["value"]["transaction"]), (&json!(null), &json!(null)));
    }
    expect_nothing_left(&world);
}

#[test]
fn patterns_choose_the_tables() {
    let world = world(
        "CREATE TABLE orders_1 (id int PRIMARY KEY); CREATE TABLE orders_2 (id int PRIMARY KEY); \
         CREATE TABLE items (id int PRIMARY KEY); INSERT INTO orders_1 VALUES (1); INSERT INTO orders_2 VALUES (2); \
         INSERT INTO items VALUES (3)",
    );
    let topics = |tables: &str| {
        let config =
            file("snapshot.toml", &format!("[snapshot]\nmode = \"only\"\nconnections = 3\ntables = {tables}\n"));
        let run =
            Walcat::new(&["stream", "--dsn", &world.dsn(), "--publication", &world.publication, "--config", &config])
                .with(&["--topic-prefix", &world.prefix, "--sink", "stdout", "--stdout", "record"])
                .run()
                .expect_code(0);
        let topics: Vec<_> = rows(&world, &run.json_lines()).into_iter().map(|(topic, ..)| topic).collect();
        (topics, run.log)
    };
    assert_eq!(topics("\"public.orders_?\"").0, ["public.orders_1", "public.orders_2"]);
    assert_eq!(topics("[\"public.items\", \"/public\\\\.orders_[2-9]/\"]").0, ["public.items", "public.orders_2"]);
    let (none, log) = topics("\"public.Items\"");
    assert!(none.is_empty() && log.contains("no published table fits the pattern"), "{log}");
    for (flag, value) in [("--engine", "polling"), ("--create-slot", ""), ("--endpos", "0/1")] {
        let value = [value].into_iter().filter(|value| !value.is_empty());
        let arguments: Vec<_> = std::iter::once(flag).chain(value).collect();
        only(&world).with(&arguments).run().expect_code(2).expect_log(&["--snapshot", flag]);
    }
    Walcat::new(&["stream", "--snapshot", "sometimes"])
        .run()
        .expect_code(2)
        .expect_log(&["--snapshot", "never, initial, incremental or only"]);
    let config = file("snapshot.toml", "[snapshot]\ntables = \"orders\"\n");
    to_stdout(&world).with(&["--config", &config]).run().expect_code(78).expect_log(&["SCHEMA.TABLE"]);
}

/// Money moves between accounts, so the sum of every snapshot is the same.
#[test]
fn a_snapshot_is_of_one_point_while_writers_run() {
    let world = world(
        "CREATE TABLE account (id int PRIMARY KEY, balance int, filler text); \
         INSERT INTO account SELECT i, 100, repeat('x', 500) FROM generate_series(1, 30000) i; \
         CREATE TABLE copy (id int PRIMARY KEY, balance int)",
    );
    /// Ends the writer also if the test fails.
    struct Stop<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, world) = (&stop, &world);
        let ends = Stop(stop);
        let writer = scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                world.sql(
                    "DO $$ DECLARE a int; b int; BEGIN FOR i IN 1..50 LOOP \
                     a := 1 + (random() * 29999)::int; b := 1 + (random() * 29999)::int; \
                     UPDATE account SET balance = balance - 1 WHERE id = a; \
                     UPDATE account SET balance = balance + 1 WHERE id = b; \
                     INSERT INTO copy SELECT COALESCE(max(id), 0) + 1, i FROM copy; COMMIT; END LOOP; END $$",
                );
            }
        });
        for _ in 0..3 {
            let records = to_stdout(world).run().expect_code(0).json_lines();
            let rows = rows(world, &records);
            let accounts: Vec<_> = rows.iter().filter(|(topic, ..)| topic == "public.account").collect();
            let ids: std::collections::BTreeSet<_> = accounts.iter().map(|(_, key, _)| key["id"].as_i64()).collect();
            assert_eq!((accounts.len(), ids.len()), (30_000, 30_000), "each row once");
            let sum: i64 = accounts.iter().map(|(_, _, row)| row["balance"].as_i64().expect("a balance")).sum();
            assert_eq!(sum, 3_000_000);
            // Ids are given one after another, each committed: a snapshot has all of them up to one.
            let copies = rows.iter().filter(|(topic, ..)| topic == "public.copy").count() as i64;
            let greatest =
                rows.iter().filter(|(topic, ..)| topic == "public.copy").filter_map(|(_, key, _)| key["id"].as_i64());
            assert_eq!(greatest.max().unwrap_or(0), copies);
        }
        drop(ends);
        writer.join().expect("the writer");
    });
    expect_nothing_left(&world);
}

#[test]
fn the_rows_arrive_in_kafka() {
    let world = world(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 20000) i",
    );
    only(&world)
        .with(&["--brokers", &world.kafka.brokers])
        .run()
        .expect_code(0)
        .expect_log(&["snapshot ended", "rows=20000"]);
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    let mut ids: Vec<_> =
        records.iter().map(|record| record.key.as_ref().expect("a key")["id"].as_i64().expect("id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=20_000).collect::<Vec<_>>());
    assert!(records.iter().all(|record| record.op() == "r"));
    expect_nothing_left(&world);
}

/// Two connections read a table of several parts; nothing is left after SIGKILL, and the reader's pause stops the COPYs.
#[test]
fn a_reader_that_pauses_stops_the_server_and_the_memory_and_a_kill_leaves_no_slot() {
    let world = world(WIDE_ROWS);
    let mut child = Command::new(env!("CARGO_BIN_EXE_walcat"))
        .args(["stream", "--snapshot", "only", "--sink", "stdout", "--dsn", &world.dsn()])
        .args(["--publication", &world.publication])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("walcat");
    let mut some = vec![0; 1 << 20];
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut some).expect("a part of the rows");
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcat' AND wait_event = 'ClientWrite'";
    eventually("both backends wait for walcat", 30, || world.sql(waits) == "2");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let peak: u64 = peak.split_whitespace().next().and_then(|number| number.parse().ok()).expect("kB");
    assert!(peak < 64 * 1024, "{peak} kB for 120 MB of rows");
    child.kill().expect("SIGKILL");
    child.wait().expect("the end");
    expect_nothing_left(&world);
}

#[test]
fn a_signal_ends_a_snapshot_with_75_and_a_closed_pipe_with_0() {
    let world = world(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i",
    );
    let spawn = || {
        Command::new(env!("CARGO_BIN_EXE_walcat"))
            .args(["stream", "--snapshot", "only", "--sink", "stdout", "--dsn", &world.dsn()])
            .args(["--publication", &world.publication, "--shutdown-timeout", "1s"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("walcat")
    };
    let mut child = spawn();
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 1 << 16]).expect("a part of the rows");
    crate::walcat::signal_process(i32::try_from(child.id()).expect("pid"), libc::SIGTERM);
    let status = child.wait().expect("the end");
    let mut log = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut log).expect("log");
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("before the snapshot was complete"), "{log}");
    drop(stdout);
    let mut child = spawn();
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 1 << 16]).expect("a part of the rows");
    drop(stdout);
    assert_eq!(child.wait().expect("the end").code(), Some(0));
    expect_nothing_left(&world);
}

/// 120 MB of rows, and a broker of its own that can be frozen.
pub fn wide_rows_and_broker(name: &str) -> World {
    let kafka = Kafka::start(name, &[]);
    let world = World::without_slot(Postgres::shared(), &kafka, WIDE_ROWS);
    kafka.create_topic(&world.topic("t"), &[]);
    world
}

#[test]
fn a_frozen_broker_stops_the_reading_and_it_goes_on() {
    let world = wide_rows_and_broker("frozen-snapshot");
    let kafka = &world.kafka;
    let mut running = only(&world).with(&["--brokers", &kafka.brokers, "--stall-timeout", "2s"]).deadline(180).spawn();
    running.wait_for_log("snapshot begins");
    kafka.signal(libc::SIGSTOP);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcat' AND datname = current_database() \
         AND wait_event = 'ClientWrite'";
    eventually("the backends wait for walcat", 60, || world.sql(waits) == "2");
    running.wait_for_log("Kafka is not accepting records");
    assert!(running.memory_kb("VmHWM") < 96 * 1024, "{} kB", running.memory_kb("VmHWM"));
    kafka.signal(libc::SIGCONT);
    running.wait().expect_code(0).expect_log(&["rows=60000"]);
    assert_eq!(kafka::read(&kafka.brokers, &world.topic("t")).len(), 60_000);
    kafka.stop();
}

#[test]
fn an_old_transaction_is_waited_for_and_named() {
    let world = world("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let blocking = world.dsn();
    let mut psql = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--dbname", &blocking])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("psql");
    let stdin = psql.stdin.as_mut().expect("stdin");
    std::io::Write::write_all(stdin, b"BEGIN; INSERT INTO t VALUES (2);\n").expect("psql");
    let open = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()";
    eventually("the transaction is open", 30, || !world.sql(open).is_empty());
    let pid = world.sql(open);
    let mut running = to_stdout(&world).spawn();
    running.wait_for_log("creating the slot waits for older transactions to end");
    running.wait_for_log(&pid);
    std::io::Write::write_all(psql.stdin.as_mut().expect("stdin"), b"COMMIT;\n").expect("psql");
    let records = running.wait().expect_code(0).json_lines();
    assert_eq!(records.len(), 2, "what committed before the consistent point is in the snapshot");
    drop(psql.stdin.take());
    psql.wait().expect("psql");
}

#[test]
fn time_outs_of_the_role_do_not_end_a_snapshot_and_row_security_does() {
    let world = world(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, repeat('x', 900) FROM generate_series(1, 20000) i",
    );
    let role = format!("{}_reader", world.database);
    world.sql(&format!(
        "CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON t TO {role}; \
         ALTER ROLE {role} SET statement_timeout = '5ms'; ALTER ROLE {role} SET lock_timeout = '1ms'; \
         ALTER ROLE {role} SET idle_in_transaction_session_timeout = '5ms'; ALTER ROLE {role} SET \"DateStyle\" = 'German'"
    ));
    let dsn = world.dsn().replace("user=postgres", &format!("user={role}"));
    let run = || {
        Walcat::new(&[
            "stream",
            "--snapshot",
            "only",
            "--sink",
            "stdout",
            "--publication",
            &world.publication,
            "--dsn",
            &dsn,
        ])
        .run()
    };
    assert_eq!(run().expect_code(0).stdout.lines().count(), 20_000);
    world.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    run().expect_code(77).expect_log(&["row-level security"]);
    world.sql(&format!("ALTER TABLE t DISABLE ROW LEVEL SECURITY; REVOKE SELECT ON t FROM {role}"));
    run().expect_code(77).expect_log(&["permission denied"]);
    world.sql(&format!("DROP ROLE {role}"));
}
