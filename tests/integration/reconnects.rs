//! walcat replaces a lost connection by itself, and stops if positions disagree.

use std::time::Duration;

use crate::crashes::{TABLES, Writers, check, transactions};
use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::signal_process;

/// Waits until everything in the WAL is confirmed.
#[test]
fn a_server_that_crashes_three_times_is_found_again_and_nothing_is_lost() {
    let pg = Postgres::start("again", 15, &[]);
    let world = World::on(&pg, Kafka::shared(), TABLES);
    let mut running = world.stream_to_kafka().deadline(120).spawn();
    for crash in 1..=3 {
        let writers = Writers::start(&world);
        eventually("the writers write", 20, || {
            world.sql(&format!("SELECT count(*) > {crash} * 50 FROM journal")) == "t"
        });
        pg.stop("immediate");
        writers.stop();
        pg.restart();
        eventually("streaming resumed", 30, || running.log().matches("streaming resumed").count() == crash);
    }
    world.wait_confirmed(60);
    assert!(!running.has_ended());
    let finished = running.terminate().expect_code(0);
    finished.expect_log(&["the stream is interrupted; reconnecting", "retry_in_ms="]);
    let repeats = check(&world);
    // A transaction that was read completely is not read again; one that was interrupted is, up to three of them.
    assert!(repeats <= 3 * 6, "{repeats} records came again");
}

#[test]
fn a_walsender_that_is_ended_is_asked_for_again_and_a_broken_setup_is_not() {
    let world = World::new(TABLES);
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    let end =
        format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the walsender is there", 10, || world.sql(&end) == "t");
    running.wait_for_log("streaming resumed");
    for _ in 0..5 {
        world.sql(&transactions(1));
    }
    world.wait_confirmed(60);

    world.sql(&format!("DROP PUBLICATION {}", world.publication));
    eventually("the walsender is there", 10, || world.sql(&end) == "t");
    running.wait().expect_code(78).expect_log(&["does not exist"]);
    world.sql(&format!("CREATE PUBLICATION {} FOR ALL TABLES", world.publication));
    check(&world);
}

#[test]
fn a_server_that_stays_away_ends_walcat_when_the_budget_is_spent() {
    let pg = Postgres::start("away", 15, &["--no-fsync"]);
    let world = World::on(&pg, Kafka::shared(), TABLES);
    let config = file("budget.toml", "[retry]\nfor = \"2s\"\nmax = \"500ms\"\n");
    let mut running = world.stream_to_kafka().with(&["--config", &config]).spawn();
    running.wait_for_log("streaming started");
    pg.stop("immediate");
    let finished = running.wait().expect_code(69).expect_log(&["cannot connect to PostgreSQL", "[retry] for is spent"]);
    let attempts = finished.log.matches("; reconnecting").count();
    assert!((4..40).contains(&attempts), "{attempts} attempts:\n{}", finished.log);
}

#[test]
fn a_frozen_walsender_is_found_within_the_stall_timeout_and_replaced() {
    let world = World::new(TABLES);
    let mut running = world.stream_to_kafka().with(&["--stall-timeout", "2s", "--takeover"]).deadline(90).spawn();
    running.wait_for_log("streaming started");
    let walsender = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the walsender is there", 10, || !world.sql(&walsender).is_empty());
    let pid: i32 = world.sql(&walsender).parse().expect("a pid");
    signal_process(pid, libc::SIGSTOP);
    running.wait_for_log("the connection to PostgreSQL is dead");
    running.wait_for_log("takeover: ending the process that holds the slot");
    // The session handles the request to terminate only when it runs again.
    signal_process(pid, libc::SIGCONT);
    running.wait_for_log("streaming resumed");
    world.sql(&transactions(1));
    world.wait_confirmed(60);
    running.terminate().expect_code(0);
}

#[test]
fn the_state_file_spares_the_repeats_of_a_server_that_forgot_what_was_confirmed() {
    let pg = Postgres::start("state", 15, &[]);
    let world = World::on(&pg, Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY)");
    let state = file("state.json", "");
    std::fs::remove_file(&state).expect("the state file is to be new");
    let config = file("state.toml", &format!("[state]\nfile = \"{state}\"\n"));
    world.sql("INSERT INTO t SELECT generate_series(1, 5000)");
    world.stream_to_kafka().with(&["--config", &config, "--once"]).run().expect_code(0);
    let confirmed = world.confirmed();
    assert!(std::fs::read_to_string(&state).expect("state").contains(&confirmed), "stored before confirmed");
    pg.stop("immediate");
    pg.restart();
    assert_ne!(world.confirmed(), confirmed, "the server did not lose the confirmed position");
    world.sql("INSERT INTO t VALUES (5001)");
    world.stream_to_kafka().with(&["--config", &config, "--once"]).run().expect_code(0);
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("t")).len(), 5_001);
}

#[test]
fn a_slot_that_somebody_moved_is_a_gap_until_the_operator_accepts_it() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let state = file("gap.json", "");
    std::fs::remove_file(&state).expect("the state file is to be new");
    let config = file("gap.toml", &format!("[state]\nfile = \"{state}\"\n"));
    let once = || world.stream_to_kafka().with(&["--config", &config, "--once"]);
    world.sql("INSERT INTO t VALUES (1)");
    once().run().expect_code(0);
    world.sql("INSERT INTO t VALUES (2)");
    let end = world.wal_lsn();
    world.sql(&format!("SELECT pg_replication_slot_advance('{}', '{end}')", world.slot));
    let moved = world.confirmed();
    once().run().expect_code(78).expect_log(&["gap: ", &moved, "bytes of WAL", "hint: ", "--accept-gap"]);
    world.sql("INSERT INTO t VALUES (3)");
    once().run().expect_code(78);
    once().with(&["--accept-gap"]).run().expect_code(0).expect_log(&["continuing from the slot's position"]);
    once().run().expect_code(0);
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    let ids: Vec<_> =
        records.iter().map(|record| record.value.as_ref().expect("a value")["after"]["id"].to_string()).collect();
    assert_eq!(ids, ["1", "3"]);
}

#[test]
fn a_store_ahead_of_the_server_is_refused() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let identifier = world.sql("SELECT system_identifier FROM pg_control_system()");
    let stored = |identifier: &str, lsn: &str| {
        format!(
            "{{\"system_identifier\":\"{identifier}\",\"timeline\":1,\"slot\":\"{}\",\"end_lsn\":\"{lsn}\"}}",
            world.slot
        )
    };
    for (text, expected) in [
        (stored(&identifier, "FFF/0"), "a failover that lost changes"),
        (stored("1", "0/10"), "the system identifier 1"),
        ("nonsense".to_owned(), "is not a walcat state file"),
    ] {
        let state = file("ahead.json", &text);
        let config = file("ahead.toml", &format!("[state]\nfile = \"{state}\"\n"));
        let finished = world.stream_to_kafka().with(&["--config", &config, "--once"]).run();
        finished.expect_code(78).expect_log(&[expected, "hint: "]);
        assert_eq!(std::fs::read_to_string(&state).expect("state"), text, "an error does not change it");
    }
}

#[test]
fn a_busy_table_that_is_not_published_leaves_no_gap_and_little_lag() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY)");
    world.sql(&format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE t", world.publication));
    world.sql("CREATE TABLE noise (id bigserial PRIMARY KEY, text text)");
    world.create_slot();
    let state = file("busy.json", "");
    std::fs::remove_file(&state).expect("the state file is to be new");
    let config = file("busy.toml", &format!("[state]\nfile = \"{state}\"\n"));
    let mut running = world.stream_to_kafka().with(&["--config", &config]).deadline(150).spawn();
    running.wait_for_log("streaming started");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < until {
        world.sql("INSERT INTO noise (text) SELECT repeat('x', 500) FROM generate_series(1, 200)");
    }
    let lag = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) < 1048576 FROM pg_replication_slots \
         WHERE slot_name = '{}'",
        world.slot
    );
    eventually("the lag is under 1 MiB", 10, || world.sql(&lag) == "t");
    running.signal(libc::SIGKILL);
    running.wait();
    world.stream_to_kafka().with(&["--config", &config, "--once"]).run().expect_code(0);
}

/// Records in flight when PostgreSQL stops are delivered and settled while it is down.
#[test]
fn a_server_that_is_away_is_not_reported_as_kafkas_outage() {
    for delivery in ["at-least-once", "exactly-once"] {
        let pg = Postgres::start("not-kafka", 15, &["--no-fsync"]);
        let world = World::on(&pg, Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY)");
        let config =
            file("not-kafka.toml", "[retry]\nmax = \"250ms\"\nbroker_for = \"5s\"\n[kafka]\n\"linger.ms\" = 1000\n");
        let arguments = ["--config", &config, "--stall-timeout", "2s", "--delivery", delivery];
        let mut running = world.stream_to_kafka().with(&arguments).deadline(120).spawn();
        world.confirm_change("INSERT INTO t VALUES (1)", 30);
        let end = world.wal_lsn();
        world.sql("INSERT INTO t VALUES (2)");
        let read = format!("SELECT count(*) FROM pg_stat_replication WHERE write_lsn > '{end}'");
        eventually("the row is read", 20, || world.sql(&read) == "1");
        pg.stop("immediate");
        // 8 s or more: longer than the allowed outage of Kafka.
        running.wait_for_log_times("; reconnecting", 40);
        pg.restart();
        running.wait_for_log("streaming resumed");
        world.confirm_change("INSERT INTO t VALUES (3)", 60);
        let finished = running.terminate().expect_code(0);
        assert!(!finished.log.contains("Kafka is not accepting records"), "{}", finished.log);
        drop(world);
        pg.stop("immediate");
    }
}
