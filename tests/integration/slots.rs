//! `walcat slot`: its output, its question, and what it does not change.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::{Finished, Walcat};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

fn slot(world: &World, arguments: &[&str]) -> Walcat {
    Walcat::new(&["slot"]).with(arguments).with(&["--dsn", &world.dsn(), "--slot", &world.slot])
}

fn exists(world: &World) -> bool {
    world.sql(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", world.slot)) == "1"
}

/// Runs `walcat slot drop` on a terminal and types an answer.
fn drop_on_a_terminal(world: &World, answer: &str) -> Finished {
    let walcat = env!("CARGO_BIN_EXE_walcat");
    let line = format!("{walcat} slot drop --slot {} --dsn '{}'", world.slot, world.dsn());
    let typed = format!("(sleep 1; echo {answer}) | script --quiet --return --command \"{line}\" /dev/null");
    let output = std::process::Command::new("sh").args(["-c", &typed]).output().expect("sh");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    Finished { code: output.status.code(), log: stdout.clone(), stdout }
}

#[test]
fn a_slot_of_another_database_is_not_dropped() {
    let world = World::new(TABLE);
    let other = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    let drop = ["slot", "drop", "--force", "--slot", &world.slot, "--dsn", &other.dsn()];
    let run = Walcat::new(&drop).run().expect_code(78);
    run.expect_log(&[&format!("belongs to the database {}", world.database), "hint: connect to the slot's database"]);
    assert!(exists(&world));
}

#[test]
fn a_slot_is_dropped_by_force_and_the_bytes_that_are_discarded_are_said() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t SELECT id, repeat('x', 1000) FROM generate_series(1, 100) AS id");
    let run = slot(&world, &["drop"]).run().expect_code(2);
    run.expect_log(&["bytes of unread WAL would be discarded", "hint: use --force"]);
    assert!(exists(&world), "there was no terminal to ask on");
    let run = slot(&world, &["drop", "--force"]).run().expect_code(0);
    let (_, bytes) = run.stdout.split_once(" dropped; ").expect("the bytes");
    let bytes: u64 = bytes.split(' ').next().and_then(|bytes| bytes.parse().ok()).expect("a number");
    assert!((100_000..1_000_000_000).contains(&bytes), "{}", run.stdout);
    assert!(!exists(&world));
}

#[test]
fn on_a_terminal_the_drop_of_a_slot_is_asked_for() {
    let world = World::new(TABLE);
    let kept = drop_on_a_terminal(&world, "n").expect_code(0);
    let question = format!("Drop the slot {}? ", world.slot);
    kept.expect_log(&[&question, "[y/N]", &format!("slot {} not dropped", world.slot)]);
    assert!(exists(&world));
    drop_on_a_terminal(&world, "y").expect_code(0).expect_log(&[&question, " dropped; "]);
    assert!(!exists(&world));
}

#[test]
fn a_signal_at_the_question_ends_it_at_once_and_drops_nothing() {
    let world = World::new(TABLE);
    let line = format!("{} slot drop --slot {} --dsn '{}'", env!("CARGO_BIN_EXE_walcat"), world.slot, world.dsn());
    let mut terminal = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script");
    let (mut keyboard, mut screen) = (terminal.stdin.take().expect("stdin"), terminal.stdout.take().expect("stdout"));
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("[y/N] ") {
        let mut byte = [0];
        assert_eq!(screen.read(&mut byte).expect("screen"), 1, "{}", String::from_utf8_lossy(&shown));
        shown.push(byte[0]);
    }
    const CONTROL_C: &[u8] = b"\x03";
    keyboard.write_all(CONTROL_C).expect("keyboard");
    // The end of the input, which answers no if the signal does not end it.
    drop(keyboard);
    screen.read_to_end(&mut shown).expect("screen");
    let status = terminal.wait().expect("script");
    assert_eq!(status.code(), Some(128 + libc::SIGINT), "{}", String::from_utf8_lossy(&shown));
    assert!(exists(&world));
}

#[test]
fn a_slot_is_said_to_be_created_once_and_that_rows_before_it_are_not_sent() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    let run = slot(&world, &["create", "--publication", &world.publication]).run().expect_code(0);
    let said = format!("{}{}", run.stdout, run.log).matches("created").count();
    assert_eq!(said, 1, "{} {}", run.stdout, run.log);
    let not_sent = "rows that are already in the tables are not sent; to send them, run walcat snapshot start";
    run.expect_log(&[not_sent]);
    world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
    world
        .stream_to_kafka()
        .with(&["--create-slot", "--once"])
        .run()
        .expect_code(0)
        .expect_log(&["slot created", not_sent]);
}

#[test]
fn the_status_of_a_slot_that_is_lost_ends_with_78() {
    let small =
        ["--no-fsync", "-c", "max_slot_wal_keep_size=1MB", "-c", "max_wal_size=32MB", "-c", "min_wal_size=32MB"];
    let pg = Postgres::start("lost-status", 15, &small);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    slot(&world, &["status"]).run().expect_code(0);
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the slot is lost", 60, || {
        world.sql("INSERT INTO t SELECT id, 'x' FROM generate_series(1, 1000) AS id ON CONFLICT DO NOTHING");
        world.sql("SELECT pg_switch_wal()");
        world.sql("CHECKPOINT");
        world.sql(&status) == "lost"
    });
    for format in ["table", "json"] {
        let run = slot(&world, &["status", "--format", format]).run().expect_code(78);
        assert!(run.stdout.contains("permanently lost") && run.stdout.contains("error"), "{}", run.stdout);
        run.expect_log(&["permanently lost", "hint: "]);
    }
}

#[test]
fn who_holds_the_slot_is_said_with_client_and_since_when() {
    let world = World::new(TABLE);
    let mut holder = world.stream().with(&["--sink", "stdout"]).spawn();
    holder.wait_for_log("streaming started");
    let config = crate::servers::file("held.toml", "[retry]\nfor = \"1s\"\n");
    let run = world.stream().with(&["--sink", "stdout", "--config", &config]).run().expect_code(69);
    run.expect_log(&[
        "another process has held the slot",
        "client 127.0.0.1",
        "application walcat",
        "since 20",
        "user p",
    ]);
    holder.terminate().expect_code(0);
}

#[test]
fn a_takeover_without_the_right_to_it_names_the_right() {
    let world = World::new(TABLE);
    let role = format!("taker_{}", world.database);
    world.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION"));
    let mut holder = world.stream().with(&["--sink", "stdout"]).spawn();
    holder.wait_for_log("streaming started");
    let dsn = format!("host=127.0.0.1 port={} user={role} dbname={}", world.pg.port, world.database);
    let arguments = ["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication, "--takeover"];
    let run = Walcat::new(&arguments).with(&["--sink", "stdout"]).run().expect_code(77);
    let run = run.expect_log(&["pg_terminate_backend failed", "hint: ", "pg_signal_backend"]);
    assert!(!run.log.contains("ALTER ROLE"), "{}", run.log);
    holder.terminate().expect_code(0);
}
