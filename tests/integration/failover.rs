//! A standby is promoted: walcat goes on there by itself, or says that changes were lost.

use crate::crashes::{TABLES, Writers, check, transactions};
use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::{Running, Walcat};

/// A primary and its standby, with a slot that the standby copies.
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
            // The copy stays provisional until the primary's slot has moved past the standby's position.
            self.world.sql(&transactions(1));
            self.world.sql("SELECT pg_log_standby_snapshot()");
            self.standby.sql("postgres", &copied) == "1"
        });
    }

    fn stream(&self) -> Running {
        let dsn = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname={} target_session_attrs=read-write",
            self.world.pg.port, self.standby.port, self.world.database
        );
        Walcat::new(&["stream", "--dsn", &dsn, "--slot", &self.world.slot, "--publication", &self.world.publication])
            .with(&["--topic-prefix", &self.world.prefix, "--brokers", &self.world.kafka.brokers])
            .deadline(240)
            .spawn()
    }

    /// The same world, on the server that was promoted.
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
fn a_promotion_under_load_loses_nothing_and_walcat_goes_on_by_itself() {
    let pair = Pair::start("keep");
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
    let mut running = pair.stream();
    running.wait_for_log("streaming started");
    pair.wait_for_copy();
    let after = check_run(&world.pg).expect_code(0);
    assert!(after.stdout.contains(&format!("walcat waits for {slot}")), "{}", after.stdout);
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
    running.wait_for_log("the stream goes on");
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
    // Nothing is missing, and nothing was delivered that the new primary does not have.
    check(&promoted);
}

#[test]
fn a_promotion_that_lost_what_was_delivered_ends_walcat_with_both_positions() {
    let pair = Pair::start("lose");
    let mut running = pair.stream();
    running.wait_for_log("streaming started");
    pair.wait_for_copy();
    // The standby is away while walcat goes on without it: nothing tells it to wait.
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
    // The new primary's WAL soon reaches beyond the position that was lost: its history still tells.
    for _ in 0..5 {
        let _ = pair.standby.try_sql(&pair.world.database, &transactions(1));
    }
    running.wait().expect_code(78).expect_log(&["a failover that lost changes", "--accept-gap"]);
}
