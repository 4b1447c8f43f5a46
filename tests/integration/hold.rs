//! While nothing can be delivered, walcat gives up its session, which PostgreSQL could not end, and reconnects later.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::kafka::{self, Record};
use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::Finished;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";
const GIVEN_UP: &str = "closing the session with PostgreSQL";
const BACK: &str = "there is room again";

/// Rows of 1 kB, in one transaction.
fn insert(world: &World, count: u32) {
    world.sql(&format!(
        "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series((SELECT coalesce(max(id), 0) FROM t) + 1, \
         (SELECT coalesce(max(id), 0) FROM t) + {count}) g"
    ));
}

fn is_active(world: &World) -> bool {
    world.sql(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", world.slot)) == "t"
}

/// The records are the rows from 1 to `count`, each once and in order.
fn expect_rows(records: &[Record], count: usize) {
    let ids: Vec<i64> = records
        .iter()
        .map(|record| record.value.as_ref().expect("a value")["after"]["id"].as_i64().expect("an id"))
        .collect();
    assert_eq!(ids.len(), count);
    assert!(ids.iter().zip(1..).all(|(id, expected)| *id == expected), "rows repeat or are missing");
}

#[test]
fn a_slot_past_its_limit_is_taken_away_by_a_checkpoint_though_kafka_is_away() {
    let limits = ["--no-fsync", "-c", "max_slot_wal_keep_size=80MB", "-c", "max_wal_size=128MB"];
    let pg = Postgres::start("limit", 17, &limits);
    let kafka = Kafka::start("limit", &[]);
    let world = World::on(&pg, &kafka, TABLE);
    let mut running = world.stream_to_kafka().with(&["--stall-timeout", "3s"]).deadline(180).spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO t VALUES (1, 'a')", 30);
    kafka.signal(libc::SIGSTOP);
    insert(&world, 45_000);
    let writes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' \
         AND wait_event IN ('WalSenderWriteData', 'ClientWrite')";
    eventually("the walsender is stuck in a write", 20, || world.sql(writes) == "1");
    insert(&world, 100_000);
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the slot is lost", 60, || {
        world.sql("SET statement_timeout = '60s'; CHECKPOINT");
        world.sql(&status) == "lost"
    });
    let wal_bytes: u64 = world.sql("SELECT sum(size) FROM pg_ls_waldir()").parse().expect("bytes");
    assert!(wal_bytes < 300 << 20, "{wal_bytes} bytes of WAL are kept");
    kafka.signal(libc::SIGCONT);
    // Records in flight are delivered; after that, the stream cannot continue.
    let finished = running.wait().expect_code(78).expect_log(&["is permanently lost"]);
    let records = kafka::read(&kafka.brokers, &world.topic("t")).len();
    assert!(records > 1_000, "{records} records:\n{}", finished.log);
}

#[test]
fn a_fast_shutdown_during_an_outage_ends_the_server_and_the_stream_continues_without_a_repeat() {
    // With few rows, there is room, and the shutdown waits until they are confirmed. Many rows fill the memory.
    for (delivery, engine, rows) in [
        ("at-least-once", "streaming", 10),
        ("at-least-once", "streaming", 60_000),
        ("exactly-once", "streaming", 60_000),
        ("at-least-once", "polling", 60_000),
    ] {
        println!("{delivery}, {engine}, {rows} rows");
        let pg = Postgres::start("shutdown", 15, &["--no-fsync"]);
        let kafka = Kafka::start("shutdown", &[]);
        let world = World::on(&pg, &kafka, TABLE);
        let arguments = ["--stall-timeout", "3s", "--delivery", delivery, "--engine", engine];
        let mut running = world.stream_to_kafka().with(&arguments).deadline(180).spawn();
        world.confirm_change("INSERT INTO t VALUES (1, 'a')", 60);
        kafka.signal(libc::SIGSTOP);
        insert(&world, rows);
        running.wait_for_log(GIVEN_UP);
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' \
             OR (application_name = 'walcat' AND backend_xmin IS NOT NULL)";
        eventually("neither the slot nor a snapshot is held", 10, || world.sql(sessions) == "0");
        let begun = Instant::now();
        pg.stop("fast");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        pg.restart();
        kafka.signal(libc::SIGCONT);
        running.wait_for_log(BACK);
        world.confirm_change(&format!("INSERT INTO t VALUES ({}, 'z')", rows + 2), 60);
        // Nothing failed: walcat reports no failure and does not use up the time of [retry].
        let finished = running.terminate().expect_code(0);
        assert!(!finished.log.contains("is interrupted"), "{}", finished.log);
        let read = if delivery == "exactly-once" { kafka::read_committed } else { kafka::read };
        expect_rows(&read(&kafka.brokers, &world.topic("t")), rows as usize + 2);
        drop(world);
        pg.stop("immediate");
        kafka.stop();
    }
}

#[test]
fn a_run_to_an_end_that_gave_up_its_session_confirms_what_it_delivered() {
    let kafka = Kafka::start("to-the-end", &[]);
    let world = World::on(Postgres::shared(), &kafka, TABLE);
    // More than the memory limit: the broker answered once and stops before all of it is read.
    insert(&world, 60_000);
    let end = world.wal_lsn();
    kafka.create_topic(&world.topic("t"), &[]);
    let config = crate::servers::file("broker-for.toml", "[retry]\nbroker_for = \"2m\"\n");
    let mut running = world.stream_to_kafka().with(&["--once", "--config", &config]).deadline(120).spawn();
    running.wait_for_log("streaming started");
    kafka.signal(libc::SIGSTOP);
    running.wait_for_log(GIVEN_UP);
    eventually("the slot is free", 10, || !is_active(&world));
    kafka.signal(libc::SIGCONT);
    running.wait().expect_code(0);
    expect_rows(&kafka::read(&kafka.brokers, &world.topic("t")), 60_000);
    assert_eq!(world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())), "t");
}

/// A run whose standard output is read by the test.
struct Piped {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Piped {
    fn start(world: &World, arguments: &[&str]) -> Piped {
        let mut child = Command::new(env!("CARGO_BIN_EXE_walcat"))
            .args(["stream", "--dsn", &world.dsn(), "--publication", &world.publication])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("walcat");
        let log = BufReader::new(child.stderr.take().expect("stderr"));
        Piped { child, log }
    }

    fn wait_for_log(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            assert_ne!(self.log.read_line(&mut seen).expect("stderr"), 0, "ended without {text:?}:\n{seen}");
        }
    }

    fn read(mut self) -> Finished {
        let stdout = std::io::read_to_string(self.child.stdout.take().expect("stdout")).expect("stdout");
        let log = std::io::read_to_string(&mut self.log).expect("stderr");
        Finished { code: self.child.wait().expect("walcat").code(), stdout, log }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reader_that_pauses_costs_the_session_and_no_line() {
    let pg = Postgres::start("paused", 15, &["--no-fsync"]);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    world.sql("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g");
    let mut piped = Piped::start(&world, &["--slot", &world.slot, "--sink", "stdout", "--once"]);
    piped.wait_for_log(GIVEN_UP);
    let begun = Instant::now();
    pg.stop("fast");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    pg.restart();
    let finished = piped.read().expect_code(0).expect_log(&[BACK]);
    let ids: Vec<i64> = finished.json_lines().iter().map(|line| line["after"]["id"].as_i64().expect("id")).collect();
    assert_eq!(ids, (1..=50_000).collect::<Vec<_>>());
    let again = world.stream().with(&["--sink", "stdout", "--once"]).run().expect_code(0);
    assert_eq!(again.stdout, "", "all of it was confirmed");
}

#[test]
fn a_session_that_cannot_be_had_back_is_kept_and_the_log_says_so() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g");
    let mut piped = Piped::start(&world, &["--slot", &world.slot, "--dump", "json", "--once"]);
    piped.wait_for_log("this run cannot reopen its session");
    assert!(is_active(&world));
    let lines = piped.read().expect_code(0).stdout.lines().count();
    assert!(lines > 50_000, "{lines}");
}
