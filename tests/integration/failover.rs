//! A standby is promoted: walcat continues there by itself, or reports that changes were lost.

use std::collections::BTreeMap;

use crate::crashes::{TABLES, Writers, check, transactions};
use crate::exactly_once::check_exactly_once;
use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::{Running, Walcat};

const EXACTLY_ONCE: [&str; 2] = ["--delivery", "exactly-once"];

/// A primary and its standby, which copies a slot.
struct Pair {
    world: World,
    standby: Postgres,
    standby_slot: String,
}

impl Pair {
    fn start(name: &str) -> Pair {
        let primary = Postgres::start(&format!("{name}-a"), 17, &["--no-fsync"]);
        let (standby, standby_slot) = primary.standby(&format!("{name}-b"));
        let world = World::without_slot(&primary, Kafka::shared(), TABLES);
        let create = ["slot", "create", "--failover", "--dsn", &world.dsn(), "--slot", &world.slot];
        Walcat::new(&create).with(&["--publication", &world.publication]).run().expect_code(0);
        Pair { world, standby, standby_slot }
    }

    /// Waits until the standby has a copy of the slot that survives a promotion.
    fn wait_for_copy(&self) {
        let copied = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}' AND synced AND NOT temporary",
            self.world.slot
        );
        eventually("the standby has copied the slot", 90, || {
            // The copy is temporary until the primary's slot has moved past the standby's position.
            self.world.sql(&transactions(1));
            self.world.sql("SELECT pg_log_standby_snapshot()");
            self.standby.sql("postgres", &copied) == "1"
        });
    }

    fn stream(&self, arguments: &[&str]) -> Running {
        self.walcat(arguments).deadline(240).spawn()
    }

    /// The conninfo of the server that accepts writes.
    fn walcat(&self, arguments: &[&str]) -> Walcat {
        let dsn = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname={} target_session_attrs=read-write",
            self.world.pg.port, self.standby.port, self.world.database
        );
        Walcat::new(&["stream", "--dsn", &dsn, "--slot", &self.world.slot, "--publication", &self.world.publication])
            .with(&["--topic-prefix", &self.world.prefix, "--brokers", &self.world.kafka.brokers])
            .with(arguments)
    }

    /// The same world on the promoted server.
    fn promoted(&self) -> World {
        World {
            pg: self.standby.clone(),
            kafka: self.world.kafka.clone(),
            database: self.world.database.clone(),
            slot: self.world.slot.clone(),
            publication: self.world.publication.clone(),
            prefix: self.world.prefix.clone(),
        }
    }
}

#[test]
fn a_promotion_under_load_loses_nothing_and_walcat_continues_by_itself() {
    check(&promote_under_load("keep", &[]));
}

#[test]
fn a_promotion_under_load_repeats_nothing_with_exactly_once_delivery() {
    check_exactly_once(&promote_under_load("keep-eo", &EXACTLY_ONCE));
}

fn promote_under_load(name: &str, arguments: &[&str]) -> World {
    let pair = Pair::start(name);
    let (world, slot) = (&pair.world, &pair.standby_slot);
    let check_run = |pg: &Postgres| {
        Walcat::new(&["check", "--dsn", &pg.dsn(&world.database), "--slot", &world.slot])
            .with(&["--publication", &world.publication, "--brokers", &world.kafka.brokers])
            .run()
    };
    let before = check_run(&world.pg).expect_code(0);
    assert!(before.stdout.contains("synchronized_standby_slots is empty"), "{}", before.stdout);
    world.pg.sql("postgres", &format!("ALTER SYSTEM SET synchronized_standby_slots = '{slot}'"));
    world.pg.sql("postgres", "SELECT pg_reload_conf()");
    let mut running = pair.stream(arguments);
    running.wait_for_log("streaming started");
    pair.wait_for_copy();
    let after = check_run(&world.pg).expect_code(0);
    assert!(after.stdout.contains(&format!("walcat receives changes after {slot}")), "{}", after.stdout);
    let standby = check_run(&pair.standby);
    for line in ["sync_replication_slots is on", "hot_standby_feedback is on", "primary_slot_name is set"] {
        assert!(standby.stdout.contains(&format!("ok       standby: {line}")), "{}", standby.stdout);
    }

    let writers = Writers::start(world);
    eventually("the writers have written", 30, || world.sql("SELECT count(*) > 300 FROM journal") == "t");
    world.pg.stop("immediate");
    writers.stop();
    running.wait_for_log("the stream is interrupted");
    pair.standby.sql("postgres", "SELECT pg_promote()");
    running.wait_for_log("streaming resumed");
    assert!(running.log().contains("timeline=2"), "{}", running.log());
    let promoted = pair.promoted();
    let written = promoted.sql("SELECT count(*) FROM journal");
    let writers = Writers::start(&promoted);
    eventually("the writers have written", 60, || {
        promoted.sql(&format!("SELECT count(*) > {written} + 300 FROM journal")) == "t"
    });
    writers.stop();
    promoted.sql(&transactions(1));
    let end = promoted.wal_lsn();
    eventually("all is confirmed", 60, || {
        promoted.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", promoted.confirmed())) == "t"
    });
    running.terminate().expect_code(0);
    // Nothing is missing, and the new primary has everything that was delivered.
    promoted
}

#[test]
fn a_promotion_that_lost_what_was_delivered_ends_walcat_with_both_positions() {
    lose_what_was_delivered("lose", &[]);
}

#[test]
fn a_promotion_that_lost_what_was_delivered_ends_exactly_once_delivery_too() {
    lose_what_was_delivered("lose-eo", &EXACTLY_ONCE);
}

fn lose_what_was_delivered(name: &str, arguments: &[&str]) {
    let pair = Pair::start(name);
    let mut running = pair.stream(arguments);
    running.wait_for_log("streaming started");
    pair.wait_for_copy();
    // The standby is down, and walcat continues without it, because no setting tells it to wait.
    pair.standby.stop("fast");
    for _ in 0..10 {
        pair.world.sql(&transactions(1));
    }
    let end = pair.world.wal_lsn();
    eventually("all is confirmed", 60, || {
        pair.world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", pair.world.confirmed())) == "t"
    });
    pair.world.pg.stop("immediate");
    pair.standby.restart();
    pair.standby.sql("postgres", "SELECT pg_promote()");
    // The new primary's WAL soon passes the lost position; its history still shows the loss.
    for _ in 0..5 {
        let _ = pair.standby.try_sql(&pair.world.database, &transactions(1));
    }
    running.wait().expect_code(78).expect_log(&["a failover that lost changes", "--accept-gap"]);
}

/// What happens to walcat around the promotion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restart {
    /// It continues by itself, is killed, and starts again before the WAL has reached the position of the old primary.
    Before,
    /// The same, after the WAL has passed that position.
    After,
    /// It is killed before the primary is.
    WasAway,
}

/// The standby stops. Unpublished WAL moves walcat's position. The primary dies, and the standby is promoted at a point before
/// that position. No delivered change is lost, so nothing may be missing, and no run fails.
fn fail_over_with_an_idle_position_past_the_fork(name: &str, arguments: &[&str], state: &str, restart: Restart) {
    let pair = Pair::start(name);
    let world = &pair.world;
    world.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE noise (id bigserial PRIMARY KEY, text text)");
    let publish =
        format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE t, account, journal", world.publication);
    world.sql(&publish);
    let noise = "INSERT INTO noise (text) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
    // A polled slot moves with walcat's own messages once the WAL has grown this much.
    let polling = "[poll]\ninterval = \"100ms\"\nidle_bytes = \"64KiB\"\n";
    let config = file("failover.toml", &format!("{polling}{state}"));
    let arguments = [arguments, ["--config", config.as_str()].as_slice()].concat();
    let mut running = pair.stream(&arguments);
    running.wait_for_log("streaming started");
    pair.wait_for_copy();

    world.confirm_change("INSERT INTO t SELECT generate_series(1, 12)", 60);
    let shared = world.wal_lsn();
    eventually("the standby has what was delivered", 60, || {
        pair.standby.sql("postgres", &format!("SELECT pg_last_wal_replay_lsn() >= '{shared}'")) == "t"
    });
    pair.standby.stop("fast");
    let before = world.wal_lsn();
    world.sql(noise);
    eventually("the position moves on", 60, || {
        world.sql(&format!("SELECT '{}'::pg_lsn > '{before}'::pg_lsn + 500000", world.confirmed())) == "t"
    });
    let idle = world.confirmed();
    let mut running = Some(running);
    if restart == Restart::WasAway {
        kill(running.take().expect("running"));
    }
    world.pg.stop("immediate");
    pair.standby.restart();
    pair.standby.sql("postgres", "SELECT pg_promote()");
    let promoted = pair.promoted();
    let reached = |lsn: &str| promoted.sql(&format!("SELECT pg_current_wal_flush_lsn() >= '{lsn}'")) == "t";
    if let Some(mut running) = running {
        running.wait_for_log("streaming resumed");
        // The same process delivers this change.
        promoted.confirm_change("INSERT INTO t VALUES (13)", 60);
        assert!(!reached(&idle), "the new WAL has reached the old position: nothing is tried");
        assert!(reached(&promoted.confirmed()), "{} is confirmed, past the WAL's end", promoted.confirmed());
        kill(running);
    } else {
        promoted.sql("INSERT INTO t VALUES (13)");
    }
    promoted.sql("INSERT INTO t SELECT generate_series(14, 63)");
    if restart == Restart::After {
        promoted.sql(noise);
        promoted.sql(noise);
        assert!(reached(&idle), "the new WAL has not reached the old position");
    }
    pair.walcat(&arguments).with(&["--once"]).run().expect_code(0);
    assert!(reached(&promoted.confirmed()), "{} is confirmed, past the WAL's end", promoted.confirmed());
    promoted.sql("INSERT INTO t VALUES (64)");
    pair.walcat(&arguments).with(&["--once"]).run().expect_code(0);

    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    for record in kafka::read_committed(&world.kafka.brokers, &world.topic("t")) {
        *times.entry(record.value.expect("a value")["after"]["id"].as_i64().expect("id")).or_default() += 1;
    }
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), (1..=64).collect::<Vec<_>>());
    if arguments.contains(&"exactly-once") {
        assert!(times.values().all(|times| *times == 1), "{times:?}");
    }
}

fn kill(running: Running) {
    running.signal(libc::SIGKILL);
    assert_eq!(running.wait().code, None, "it ended before it was killed");
}

#[test]
fn an_idle_position_past_the_fork_loses_nothing_with_exactly_once_delivery() {
    fail_over_with_an_idle_position_past_the_fork("idle-eo", &EXACTLY_ONCE, "", Restart::After);
}

#[test]
fn an_idle_position_past_the_fork_is_no_divergence_with_exactly_once_delivery() {
    fail_over_with_an_idle_position_past_the_fork("idle-eo2", &EXACTLY_ONCE, "", Restart::Before);
}

#[test]
fn an_idle_checkpoint_past_the_fork_is_cut_at_a_start() {
    fail_over_with_an_idle_position_past_the_fork("idle-eo3", &EXACTLY_ONCE, "", Restart::WasAway);
}

#[test]
fn an_idle_position_past_the_fork_loses_nothing_if_the_slot_is_polled() {
    let arguments = [EXACTLY_ONCE, ["--engine", "polling"]].concat();
    fail_over_with_an_idle_position_past_the_fork("idle-poll", &arguments, "", Restart::After);
}

#[test]
fn an_idle_position_past_the_fork_loses_nothing_with_at_least_once_delivery() {
    fail_over_with_an_idle_position_past_the_fork("idle-alo", &[], "", Restart::After);
}

#[test]
fn an_idle_position_past_the_fork_loses_nothing_with_a_state_topic() {
    for (name, restart) in [("idle-topic", Restart::After), ("idle-topic2", Restart::WasAway)] {
        let state = "[state]\ntopic = true\ninterval = \"100ms\"\n";
        fail_over_with_an_idle_position_past_the_fork(name, &[], state, restart);
    }
}

#[test]
fn an_idle_position_past_the_fork_loses_nothing_with_a_state_file() {
    for (name, restart) in [("idle-file", Restart::After), ("idle-file2", Restart::WasAway)] {
        let path = file("state.json", "");
        std::fs::remove_file(&path).expect("file");
        let state = format!("[state]\nfile = \"{path}\"\ninterval = \"100ms\"\n");
        fail_over_with_an_idle_position_past_the_fork(name, &[], &state, restart);
    }
}
