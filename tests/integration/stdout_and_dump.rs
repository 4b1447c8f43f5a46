//! Standard output as a sink, dumps and recordings.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::Walcat;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[test]
fn a_reader_that_goes_ends_the_stream_with_zero_and_the_rest_stays_in_the_slot() {
    let world = World::new(TABLE);
    for first in [1, 100_001] {
        world.sql(&format!("INSERT INTO t SELECT g, 'x' FROM generate_series({first}, {first} + 49999) g"));
    }
    let before = world.confirmed();
    let mut child = Command::new(env!("CARGO_BIN_EXE_walcat"))
        .args(["stream", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication])
        .args(["--sink", "stdout"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("walcat");
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("stdout"));
    reader.read_line(&mut line).expect("a line");
    assert!(line.contains("\"id\":1"), "{line}");
    drop(reader);
    assert_eq!(child.wait().expect("walcat").code(), Some(0));
    assert_eq!(world.confirmed(), before, "not even the first transaction is complete");
    let run = world.stream().with(&["--sink", "stdout", "--once"]).run().expect_code(0);
    assert_eq!(run.stdout.lines().count(), 100_000);
}

#[test]
fn a_reader_that_goes_ends_an_idle_stream_too() {
    let world = World::new(TABLE);
    for what in [["--sink", "stdout"], ["--dump", "json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_walcat"))
            .args(["stream", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication])
            .args(what)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("walcat");
        let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
        eventually("the slot is read", 20, || world.sql(&active) == "t");
        drop(child.stdout.take());
        eventually("it has ended", 10, || child.try_wait().expect("walcat").is_some());
        assert_eq!(child.wait().expect("walcat").code(), Some(0), "{what:?}");
        eventually("the slot is free", 20, || world.sql(&active) == "f");
    }
}

/// The runtime opens /dev/null if the caller closed the descriptor, and it accepts everything.
#[test]
fn standard_output_that_is_closed_takes_nothing() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a')");
    let before = world.confirmed();
    let output = Command::new("sh")
        .args(["-c", "exec \"$0\" \"$@\" >&-", env!("CARGO_BIN_EXE_walcat")])
        .args(["stream", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication])
        .args(["--sink", "stdout", "--once"])
        .output()
        .expect("sh");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{log}");
    assert!(log.contains("cannot write to standard output: Bad file descriptor"), "{log}");
    assert_eq!(world.confirmed(), before);
}

/// A transaction that the server cannot decode does not block those before it.
#[test]
fn what_was_read_before_the_server_fails_is_delivered() {
    let world = World::with_encoding("SQL_ASCII", TABLE);
    for id in [1, 2] {
        world.sql(&format!("INSERT INTO t VALUES ({id}, 'a')"));
    }
    world.sql("INSERT INTO t VALUES (3, E'\\xff')");
    let run = world.stream().with(&["--sink", "stdout", "--once"]).run().expect_code(65);
    let ids: Vec<_> = run.json_lines().iter().map(|value| value["after"]["id"].clone()).collect();
    assert_eq!(ids, [1, 2]);
    run.expect_log(&["invalid byte sequence", "everything up to ", "hint: ", "pg_replication_slot_advance"]);
    let dump = world.stream().with(&["--dump", "json", "--once"]).run().expect_code(65);
    assert_eq!(dump.stdout.lines().filter(|line| line.contains("\"insert\"")).count(), 2, "{}", dump.stdout);
    world.stream_to_kafka().with(&["--once", "--delivery", "exactly-once"]).run().expect_code(65);
    assert_eq!(kafka::read_committed(&world.kafka.brokers, &world.topic("t")).len(), 2);
}

#[test]
fn a_tombstone_has_a_line_only_among_records() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a'); DELETE FROM t");
    let dump = ["--sink", "stdout", "--endpos", &world.wal_lsn()];
    let values = world.stream().with(&dump).run().expect_code(0);
    let ops: Vec<_> = values.json_lines().iter().map(|value| value["op"].clone()).collect();
    assert_eq!(ops, ["c", "d"]);
    world.sql("INSERT INTO t VALUES (1, 'a'); DELETE FROM t");
    let records = world.drain_to_stdout();
    assert_eq!(records.len(), 3);
    assert!(records[2]["value"].is_null() && records[2]["key"]["id"] == 1);
}

#[test]
fn a_slow_reader_costs_neither_the_session_nor_a_line() {
    let pg = Postgres::start("slow", 15, &["--no-fsync", "-c", "wal_sender_timeout=2s"]);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    world.sql("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g");
    let mut child = Command::new(env!("CARGO_BIN_EXE_walcat"))
        .args(["stream", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication])
        .args(["--sink", "stdout", "--once"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("walcat");
    let reader = BufReader::new(child.stdout.take().expect("stdout"));
    // Three times wal_sender_timeout without reading: the length of the pause is the test.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(world.sql("SELECT count(*) FROM pg_stat_replication"), "1");
    assert_eq!(reader.lines().count(), 50_000);
    assert_eq!(child.wait().expect("walcat").code(), Some(0));
}

#[test]
fn a_dump_leaves_the_slot_where_it_is_and_a_recording_of_it_decodes_to_the_same_lines() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t WHERE id = 1");
    world.sql("TRUNCATE t; SELECT pg_logical_emit_message(false, 'p', 'x'); ALTER TABLE t ADD COLUMN n numeric");
    world.sql("INSERT INTO t VALUES (5, NULL, 1.50)");
    let before = world.confirmed();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("r.walcat");
    let path = path.to_str().expect("a path");
    // The previous content and permissions of the file are replaced.
    std::fs::write(path, vec![b'x'; 1_000_000]).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let dump = world.stream().with(&["--dump", "json", "--once", "--record", path]).run().expect_code(0);
    assert_eq!(world.confirmed(), before);
    let again = world.stream().with(&["--dump", "json", "--once"]).run().expect_code(0);
    assert_eq!(again.stdout, dump.stdout, "the same WAL gives the same lines");
    let types: Vec<String> =
        dump.json_lines().iter().map(|line| line["type"].as_str().expect("type").to_owned()).collect();
    for kind in ["begin", "relation", "insert", "update", "delete", "truncate", "message", "commit"] {
        assert!(types.iter().any(|found| found == kind), "no {kind} in {types:?}");
    }
    assert_eq!(std::fs::metadata(path).expect("recording").permissions().mode() & 0o777, 0o600);
    let decoded = Walcat::new(&["decode", path]).run().expect_code(0);
    assert_eq!(decoded.stdout, dump.stdout);

    let bytes = std::fs::read(path).expect("recording");
    std::fs::write(path, &bytes[..bytes.len() * 2 / 3]).expect("a cut recording");
    let cut = Walcat::new(&["decode", path]).run().expect_code(65);
    let cut = cut.expect_log(&[&format!("cannot read the recording {path}: it is truncated after"), "hint: "]);
    assert!(!cut.stdout.is_empty() && dump.stdout.starts_with(&cut.stdout), "the whole frames are printed");
}

#[test]
fn a_recording_of_a_stream_confirms_nothing_and_delivers() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a')");
    let before = world.confirmed();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("r.walcat");
    let arguments = ["--sink", "stdout", "--once", "--record", path.to_str().expect("a path")];
    let run = world.stream().with(&arguments).run().expect_code(0).expect_log(&["recording confirms nothing"]);
    assert_eq!(run.stdout.lines().count(), 1);
    assert_eq!(world.confirmed(), before);
}

#[test]
fn a_dump_of_a_slot_that_is_read_reads_a_temporary_copy() {
    let world = World::new(TABLE);
    let mut holder = world.stream_to_kafka().spawn();
    holder.wait_for_log("streaming started");
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the slot is active", 10, || world.sql(&active) == "t");
    let run = world.stream().with(&["--dump", "json", "--once"]).run().expect_code(0);
    run.expect_log(&["WARN", "reading a temporary copy of it"]);
    assert_eq!(world.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walcat_copy%'"), "0");
    holder.terminate().expect_code(0);
}

#[test]
fn a_temporary_slot_leaves_nothing_behind() {
    let world = World::new(TABLE);
    let mut running = Walcat::new(&["stream", "--dsn", &world.dsn(), "--publication", &world.publication])
        .with(&["--temporary-slot", "--sink", "stdout"])
        .spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO t VALUES (7, 'seen')");
    let reached = "SELECT count(*) > 0 FROM pg_stat_replication WHERE application_name = 'walcat' \
         AND flush_lsn >= pg_current_wal_lsn()";
    eventually("the change is confirmed", 20, || world.sql(reached) == "t");
    let run = running.terminate().expect_code(0);
    assert_eq!(run.json_lines()[0]["after"]["v"], "seen");
    assert_eq!(world.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walcat_tmp%'"), "0");
}
