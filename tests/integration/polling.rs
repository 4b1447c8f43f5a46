//! `engine = "polling"`: the same records and the same guarantees without a replication connection.

#![allow(unsafe_code, reason = "asks libc for the user")]

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::crashes::{TABLES, Writers, check, random, seed, transactions};
use crate::exactly_once::check_exactly_once;
use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file, grows_to};
use crate::walcat::Walcat;

fn polling(world: &World) -> Walcat {
    world.stream_to_kafka().with(&["--engine", "polling"])
}

/// Waits for a transaction after everything in the WAL: without one, the slot stays at the end of the last commit.
/// A record's line without the envelope's processing times.
fn without_clock(line: &str) -> String {
    let mut record: serde_json::Value = serde_json::from_str(line).expect("JSON");
    if let Some(value) = record["value"].as_object_mut() {
        for name in ["ts_ms", "ts_us", "ts_ns"] {
            let is_there = value.remove(name).is_some();
            // A message's envelope has only the first of them.
            assert!(is_there || (name != "ts_ms" && value["op"] == "m"), "no {name} in {line}");
        }
    }
    record.to_string()
}

#[test]
fn both_engines_give_the_same_records() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, text text, n numeric, at timestamptz); \
         CREATE TABLE full_row (a int, b text); ALTER TABLE full_row REPLICA IDENTITY FULL",
    );
    world.sql(&format!("ALTER ROLE postgres IN DATABASE {} SET DateStyle = 'German'", world.database));
    world.sql(&format!("ALTER ROLE postgres IN DATABASE {} SET TimeZone = 'Asia/Tokyo'", world.database));
    world.sql("SELECT pg_copy_logical_replication_slot(slot_name, slot_name || '_b') FROM pg_replication_slots WHERE database = current_database()");
    for statement in [
        "INSERT INTO t SELECT i, repeat('x', i), i / 7.0, '2024-02-03 04:05:06.789+00' FROM generate_series(1, 50) i",
        "UPDATE t SET text = 'y' WHERE id < 5",
        "UPDATE t SET id = id + 1000 WHERE id = 7",
        "DELETE FROM t WHERE id = 8",
        "INSERT INTO full_row VALUES (1, 'a'); UPDATE full_row SET b = NULL; DELETE FROM full_row",
        "SELECT pg_logical_emit_message(true, 'p', 'with'), pg_logical_emit_message(false, 'q', 'without')",
        "ALTER TABLE t ADD COLUMN more bool DEFAULT true; INSERT INTO t VALUES (2000)",
        "TRUNCATE t, full_row",
    ] {
        world.sql(statement);
    }
    let to_stdout = ["--sink", "stdout", "--stdout", "record", "--once"];
    let streamed = world.stream().with(&to_stdout).run().expect_code(0);
    let other = format!("{}_b", world.slot);
    let config = file("poll.toml", "[poll]\nmax_changes = 3\ninterval = \"50ms\"\n");
    let poll = || {
        Walcat::new(&["stream", "--dsn", &world.dsn(), "--slot", &other, "--publication", &world.publication])
            .with(&["--topic-prefix", &world.prefix, "--engine", "polling", "--config", &config])
            .with(&to_stdout)
            .run()
            .expect_code(0)
    };
    let polled = poll();
    let lines = |stdout: &str| stdout.lines().map(without_clock).collect::<Vec<_>>();
    assert!(streamed.stdout.lines().count() > 60);
    assert_eq!(lines(&polled.stdout), lines(&streamed.stdout));
    assert_eq!(poll().stdout, "", "a confirmed change is not sent again");
}

#[test]
fn kills_under_load_lose_nothing() {
    let world = World::new(TABLES);
    let config = file("poll.toml", "[poll]\nmax_changes = 500\ninterval = \"20ms\"\n");
    let writers = Writers::start(&world);
    let mut state = seed();
    for _ in 0..15 {
        let running = polling(&world).with(&["--config", &config]).spawn();
        std::thread::sleep(Duration::from_millis(50 + random(&mut state) % 1_500));
        running.signal(libc::SIGKILL);
        assert_eq!(running.wait().code, None, "it ended before it was killed");
    }
    writers.stop();
    polling(&world).with(&["--once"]).run().expect_code(0);
    check(&world);
}

#[test]
fn exactly_once_holds_for_polling_too() {
    let world = World::new(TABLES);
    let config = file("poll.toml", "[poll]\nmax_changes = 500\ninterval = \"20ms\"\n");
    let writers = Writers::start(&world);
    let mut state = seed();
    for _ in 0..10 {
        let running = polling(&world).with(&["--config", &config, "--delivery", "exactly-once"]).spawn();
        std::thread::sleep(Duration::from_millis(500 + random(&mut state) % 2_000));
        running.signal(libc::SIGKILL);
        assert_eq!(running.wait().code, None, "it ended before it was killed");
    }
    writers.stop();
    polling(&world).with(&["--delivery", "exactly-once", "--once"]).run().expect_code(0);
    check_exactly_once(&world);
}

/// A round ends when it is delivered. If interruptions end every round, the slot holds WAL that was delivered long before.
#[test]
fn the_slot_moves_to_the_checkpoint_before_anything_else_is_delivered() {
    let kafka = Kafka::start("behind", &["--set", "auto.create.topics.enable=false"]);
    let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)");
    kafka.create_topic(&world.topic("t"), &[]);
    let config = file("behind.toml", "[topics]\ncreate = false\n");
    let walcat = || polling(&world).with(&["--delivery", "exactly-once", "--config", &config]).deadline(120);
    let copy = |from: &str, to: &str| {
        world.sql(&format!("SELECT pg_copy_logical_replication_slot('{from}', '{to}')"));
    };
    let (slot, kept) = (world.slot.clone(), format!("{}_kept", world.slot));
    copy(&slot, &kept);
    for id in 1..=5 {
        world.sql(&format!("INSERT INTO t VALUES ({id})"));
    }
    walcat().with(&["--once"]).run().expect_code(0);
    let delivered = world.confirmed();
    // As after a crash of the server: the slot is where it was before.
    world.sql(&format!("SELECT pg_drop_replication_slot('{slot}')"));
    copy(&kept, &slot);
    world.sql(&format!("SELECT pg_drop_replication_slot('{kept}')"));
    assert_ne!(world.confirmed(), delivered);
    world.sql("INSERT INTO u VALUES (1)");

    let running = walcat().spawn();
    eventually("the slot is at the checkpoint", 60, || world.confirmed() == delivered);
    kafka.create_topic(&world.topic("u"), &[]);
    eventually("the row is delivered", 60, || kafka::read_committed(&kafka.brokers, &world.topic("u")).len() == 1);
    running.terminate().expect_code(0);
    assert_eq!(kafka::read_committed(&kafka.brokers, &world.topic("t")).len(), 5, "a row was repeated");
}

#[test]
fn an_idle_slot_moves_on_by_a_message_of_walcats_own() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY)");
    world.sql(&format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE t", world.publication));
    world.sql("CREATE TABLE noise (id bigserial PRIMARY KEY, text text)");
    world.create_slot();
    let config = file("poll.toml", "[poll]\nidle_bytes = \"1MiB\"\ninterval = \"100ms\"\n");
    let running = polling(&world).with(&["--config", &config]).spawn();
    world.sql("INSERT INTO noise (text) SELECT repeat('x', 500) FROM generate_series(1, 5000)");
    let end = world.wal_lsn();
    eventually("the slot has passed the noise", 30, || {
        world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())) == "t"
    });
    // A transaction directly after the confirmed position is not skipped.
    world.sql("INSERT INTO t VALUES (1)");
    confirmed_all_rows(&world, 1);
    running.terminate().expect_code(0);
    let messages = crate::kafka::read(&world.kafka.brokers, &format!("{}.message", world.prefix));
    assert!(messages.is_empty(), "walcat's own message is no record");
}

#[test]
fn a_server_that_refuses_walcats_own_message_is_told_of_once() {
    let pg = Postgres::start("refused", 15, &["--no-fsync"]);
    let world = World::without_slot(&pg, Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY)");
    world.sql(&format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE t", world.publication));
    world.sql("CREATE TABLE noise (id bigserial PRIMARY KEY, text text)");
    world.create_slot();
    world.sql("CREATE ROLE reader LOGIN REPLICATION");
    world.sql("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC");
    let config = file("poll.toml", "[poll]\nidle_bytes = \"64KiB\"\ninterval = \"50ms\"\n");
    let dsn = format!("host=127.0.0.1 port={} user=reader dbname={}", pg.port, world.database);
    let mut running =
        Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
            .with(&["--sink", "stdout", "--engine", "polling", "--config", &config])
            .spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO noise (text) SELECT repeat('x', 500) FROM generate_series(1, 5000)");
    running.wait_for_log("the server refuses the message that advances an idle slot");
    // Some polls later, it has still been logged once, and a change is delivered.
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    world.sql("INSERT INTO noise (text) SELECT repeat('x', 500) FROM generate_series(1, 5000)");
    world.confirm_change("INSERT INTO t VALUES (2)", 30);
    let finished = running.terminate().expect_code(0).expect_log(&["permission denied", "GRANT EXECUTE"]);
    assert_eq!(finished.log.matches("the server refuses the message").count(), 1, "{}", finished.log);
    assert_eq!(finished.stdout.lines().count(), 2);
}

fn confirmed_all_rows(world: &World, count: usize) {
    eventually("the rows are there", 30, || crate::kafka::read(&world.kafka.brokers, &world.topic("t")).len() == count);
}

/// Between two peeks the slot is inactive, and a session that moves it skips changes.
#[test]
fn a_slot_that_somebody_moves_between_two_peeks_is_a_gap() {
    for delivery in ["at-least-once", "exactly-once"] {
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
        let config = file("moved.toml", "[poll]\ninterval = \"1s\"\n");
        let arguments = ["--config", &config, "--delivery", delivery];
        let mut running = polling(&world).with(&arguments).deadline(60).spawn();
        running.wait_for_log(if delivery == "exactly-once" { "checkpoint read" } else { "streaming started" });
        world.confirm_change("INSERT INTO t VALUES (1)", 30);
        // The next peek is a second away.
        world.sql("INSERT INTO t VALUES (2)");
        world.sql(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", world.slot));
        world.sql("INSERT INTO t VALUES (3)");
        running.wait().expect_code(78).expect_log(&["gap: ", &world.slot]);
    }
}

#[test]
fn a_slot_that_a_walsender_holds_is_waited_for() {
    let world = World::new(TABLES);
    let mut holder = world.stream_to_kafka().spawn();
    holder.wait_for_log("streaming started");
    let config = file("held.toml", "[retry]\nfor = \"2s\"\n");
    polling(&world).with(&["--config", &config]).run().expect_code(69);
    holder.terminate().expect_code(0);
    polling(&world).with(&["--config", &config, "--once"]).run().expect_code(0);
}

#[test]
fn a_pooler_in_transaction_mode_may_lie_between() {
    let world = World::new(TABLES);
    let pooler = Pooler::start(&world);
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={}", pooler.port, world.database);
    let mut running =
        Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
            .with(&["--topic-prefix", &world.prefix, "--brokers", &world.kafka.brokers, "--engine", "polling"])
            .deadline(120)
            .spawn();
    for _ in 0..5 {
        world.sql(&transactions(1));
    }
    let writers = Writers::start(&world);
    let number = |sql: &str| world.sql(sql).parse::<i64>().expect(sql);
    grows_to("the writers write", 501, 60, || number("SELECT count(*) FROM journal"));
    writers.stop();
    assert!(!running.has_ended(), "{}", running.log());
    let end = number("SELECT pg_current_wal_lsn() - '0/0'");
    // Polling moves the slot only to commits.
    world.sql(&transactions(1));
    let confirmed = || number(&format!("SELECT '{}'::pg_lsn - '0/0'", world.confirmed()));
    grows_to("all is confirmed", end + 1, 60, confirmed);
    running.terminate().expect_code(0);
    check(&world);
}

#[test]
fn slots_are_made_looked_at_and_dropped_through_a_pooler_too() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLES);
    let pooler = Pooler::start(&world);
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={}", pooler.port, world.database);
    let command =
        |words: &[&str]| Walcat::new(words).with(&["--dsn", &dsn, "--slot", &world.slot, "--engine", "polling"]).run();
    let found = || world.sql(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", world.slot));
    command(&["slot", "create", "--publication", &world.publication]).expect_code(0);
    assert_eq!(found(), "1");
    let status = command(&["slot", "status"]).expect_code(0);
    assert!(status.stdout.contains("confirmed_flush_lsn"), "{}", status.stdout);
    let brokers = &world.kafka.brokers;
    let checks = command(&["check", "--publication", &world.publication, "--brokers", brokers]);
    assert!(checks.stdout.contains("published tables: "), "{}", checks.stdout);
    assert!(!checks.stdout.contains("walsenders:"), "polling needs none: {}", checks.stdout);
    command(&["slot", "drop", "--force"]).expect_code(0);
    assert_eq!(found(), "0");
}

/// PgBouncer in transaction mode. It refuses to run as root.
struct Pooler {
    child: Child,
    port: u16,
    /// Its files, which an unprivileged user must be able to read.
    _directory: tempfile::TempDir,
}

impl Pooler {
    fn start(world: &World) -> Pooler {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port").port();
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let users = directory.path().join("users.txt");
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("users");
        let settings = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = 2\n",
            world.pg.port,
            users.display()
        );
        std::fs::write(&settings, text).expect("settings");
        // SAFETY: takes nothing and cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        let mut command = if is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "/usr/sbin/pgbouncer"]);
            command
        } else {
            Command::new("/usr/sbin/pgbouncer")
        };
        let child = command.arg("--quiet").arg(&settings).stderr(Stdio::null()).spawn().expect("pgbouncer");
        let pooler = Pooler { child, port, _directory: directory };
        eventually("pgbouncer answers", 10, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
