//! Incremental snapshots: rows that exist before the slot, in chunks beside the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kafka::{self, Record};
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

/// `version` ascends with every change of the table.
pub const TABLE: &str = "CREATE SEQUENCE versions;
    CREATE TABLE t (id int PRIMARY KEY, version bigint NOT NULL DEFAULT nextval('versions'), note text)";

/// Where the progress is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    File,
    Topic,
    Checkpoint,
}

const PLACES: [Place; 2] = [Place::File, Place::Checkpoint];

pub struct Set {
    pub world: World,
    pub config: String,
}

impl Set {
    pub fn new(world: World, place: Place) -> Set {
        let config = match place {
            Place::Topic => file("snapshot.toml", "[state]\ntopic = true\n"),
            Place::Checkpoint => file("snapshot.toml", "delivery = \"exactly-once\"\n"),
            Place::File => {
                let state = file("state.json", "");
                std::fs::remove_file(&state).expect("a name for the state file");
                file("snapshot.toml", &format!("[state]\nfile = \"{state}\"\n"))
            }
        };
        Set { world, config }
    }

    pub fn stream(&self) -> Walcat {
        self.world.stream_to_kafka().with(&["--config", &self.config]).deadline(180)
    }

    /// `walcat snapshot ...`.
    pub fn snapshot(&self, arguments: &[&str]) -> Walcat {
        let world = &self.world;
        Walcat::new(&["snapshot"])
            .with(arguments)
            .with(&["--config", &self.config, "--dsn", &world.dsn(), "--slot", &world.slot])
            .with(&["--publication", &world.publication, "--brokers", &world.kafka.brokers])
    }

    pub fn request(&self, arguments: &[&str]) {
        self.snapshot(arguments).run().expect_code(0);
    }

    pub fn status(&self) -> Value {
        self.snapshot(&["status", "--format", "json"]).run().expect_code(0).json_lines().remove(0)
    }

    pub fn records(&self, table: &str) -> Vec<Record> {
        kafka::read_committed(&self.world.kafka.brokers, &self.world.topic(table))
    }

    /// What a consumer has that folds the topic: the rows by key, as JSON.
    pub fn fold(&self, table: &str) -> BTreeMap<String, Value> {
        let mut rows = BTreeMap::new();
        for record in self.records(table) {
            let key = record.key.as_ref().map(Value::to_string).unwrap_or_default();
            match record.op() {
                "c" | "u" | "r" => drop(rows.insert(key, record.value.expect("a value")["after"].clone())),
                "d" | "tombstone" => drop(rows.remove(&key)),
                "t" => rows.clear(),
                op => panic!("{op}"),
            }
        }
        rows
    }

    pub fn table(&self, table: &str) -> BTreeMap<String, Value> {
        let rows = self.world.sql(&format!("SELECT COALESCE(json_agg(x ORDER BY id), '[]') FROM {table} x"));
        let rows: Vec<Value> = serde_json::from_str(&rows).expect("JSON");
        rows.into_iter().map(|row| (format!("{{\"id\":{}}}", row["id"]), row)).collect()
    }

    pub fn check_fold(&self, table: &str) {
        let (fold, table) = (self.fold(table), self.table(table));
        let differing = table.iter().filter(|(key, row)| fold.get(*key) != Some(row)).take(3).collect::<Vec<_>>();
        assert!(differing.is_empty(), "the topic has other rows than {differing:?}");
        let ghosts: Vec<_> = fold.keys().filter(|key| !table.contains_key(*key)).take(3).collect();
        assert!(ghosts.is_empty(), "the table has no {ghosts:?}");
    }

    /// No key's version goes back, and no row of the snapshot comes twice.
    pub fn check_order(&self, table: &str) {
        let (mut newest, mut read) = (BTreeMap::new(), BTreeSet::new());
        for record in self.records(table) {
            let key = record.key.as_ref().map(Value::to_string).unwrap_or_default();
            let Some(value) = &record.value else { continue };
            if let Some(version) = value["after"]["version"].as_i64() {
                let last = newest.insert(key.clone(), version).unwrap_or(version);
                assert!(version >= last, "{key} goes back from {last} to {version}");
            }
            assert!(record.op() != "r" || read.insert(key.clone()), "{key} is read twice");
        }
    }
}

pub fn count(records: &[Record], op: &str) -> usize {
    records.iter().filter(|record| record.op() == op).count()
}

#[test]
fn the_rows_of_a_table_follow_in_chunks_beside_the_stream() {
    for place in PLACES {
        let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
        world.sql("INSERT INTO t SELECT generate_series(1, 5000)");
        world.create_slot();
        let set = Set::new(world, place);
        let waiting = set.snapshot(&["start", "public.t"]).run().expect_code(0);
        assert!(waiting.stdout.contains("waits until one runs"), "{place:?}: {}", waiting.stdout);
        let mut running = set.stream().spawn();
        running.wait_for_log("snapshot complete");
        set.world.sql("UPDATE t SET version = nextval('versions') WHERE id = 7");
        set.world.sql("DELETE FROM t WHERE id = 8");
        set.world.wait_confirmed(30);
        running.terminate().expect_code(0);

        let records = set.records("t");
        assert_eq!((count(&records, "r"), count(&records, "u"), count(&records, "d")), (5000, 1, 1), "{place:?}");
        let read = records.iter().find(|record| record.op() == "r").and_then(|record| record.value.clone()).unwrap();
        assert_eq!((&read["source"]["snapshot"], &read["transaction"]), (&Value::from("incremental"), &Value::Null));
        set.check_order("t");
        set.check_fold("t");
        // A run after it reads nothing again.
        set.stream().with(&["--once"]).run().expect_code(0);
        assert_eq!(count(&set.records("t"), "r"), 5000, "{place:?}");
    }
}

#[test]
fn writers_beside_a_snapshot_never_make_a_key_go_back_and_the_fold_equals_the_table() {
    for place in PLACES {
        let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
        world.sql("INSERT INTO t (id, note) SELECT i, repeat('x', 100) FROM generate_series(1, 60000) i");
        world.sql("CREATE TABLE cleared (id int PRIMARY KEY); INSERT INTO cleared SELECT generate_series(1, 20000)");
        world.create_slot();
        let set = Set::new(world, place);
        let running = set.stream().spawn();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (world, is_over) = (&set.world, &is_over);
            for writer in 0..3 {
                scope.spawn(move || {
                    for round in 0.. {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        let id = 1 + (round * 7919 + writer * 20_011) % 60_000;
                        let new = 100_000 + round * 3 + writer;
                        world.sql(&format!(
                            "UPDATE t SET version = nextval('versions') WHERE id BETWEEN {id} AND {id} + 20;
                             UPDATE t SET id = {new}, version = nextval('versions') WHERE id = {id} + 30;
                             DELETE FROM t WHERE id = {id} + 40;
                             INSERT INTO t (id, note) VALUES ({id} + 40, 'again') ON CONFLICT DO NOTHING;
                             BEGIN; UPDATE t SET version = nextval('versions') WHERE id = {id}; ROLLBACK"
                        ));
                    }
                });
            }
            set.request(&["start"]);
            world.sql("TRUNCATE cleared");
            world.sql("INSERT INTO cleared VALUES (1)");
            world.sql("ALTER TABLE t ADD COLUMN added int");
            eventually("the snapshot is complete", 120, || running.log().contains("snapshot complete"));
            is_over.store(true, Ordering::Relaxed);
        });
        set.world.wait_confirmed(60);
        running.terminate().expect_code(0);
        set.check_order("t");
        let (fold, table) = (set.fold("t"), set.table("t"));
        // A row that was sent before the column existed does not have it.
        let without = |row: &Value| (row["id"].clone(), row["version"].clone(), row["note"].clone());
        assert_eq!(fold.len(), table.len(), "{place:?}");
        for (key, row) in &table {
            assert_eq!(fold.get(key).map(without), Some(without(row)), "{place:?}: {key}");
        }
        set.check_fold("cleared");
    }
}

#[test]
fn a_killed_snapshot_goes_on_after_its_last_chunk() {
    for place in PLACES {
        let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
        world.sql("INSERT INTO t (id, note) SELECT i, repeat('x', 200) FROM generate_series(1, 300000) i");
        world.create_slot();
        let set = Set::new(world, place);
        set.request(&["start", "public.t"]);
        // Each run may take longer than the last one, so that one of them finishes.
        let (mut kills, mut time) = (0, Duration::from_millis(500));
        loop {
            let running = set.stream().spawn();
            let began = Instant::now();
            while began.elapsed() < time && !running.log().contains("snapshot complete") {
                std::thread::sleep(Duration::from_millis(20));
            }
            time += Duration::from_millis(250);
            if running.log().contains("snapshot complete") {
                set.world.sql("DELETE FROM t WHERE id = 5");
                set.world.wait_confirmed(30);
                running.terminate().expect_code(0);
                break;
            }
            running.signal(libc::SIGKILL);
            running.wait();
            kills += 1;
            assert!(kills < 50, "no progress");
        }
        assert!(kills > 0, "{place:?}: it was over before it was killed");
        let read = count(&set.records("t"), "r");
        if place == Place::Checkpoint {
            assert_eq!(read, 300_000, "exactly-once repeats no row");
            set.check_order("t");
        } else {
            assert!((300_000..600_000).contains(&read), "finished chunks are not read again: {read}");
        }
        set.check_fold("t");
    }
}

/// The commit is in the stream although nobody else sees it.
#[test]
fn a_chunk_waits_for_a_commit_that_waits_for_a_standby() {
    let pg = Postgres::start("absent-standby", 17, &[]);
    let world = World::without_slot(&pg, Kafka::shared(), TABLE);
    world.sql("INSERT INTO t SELECT generate_series(1, 100)");
    world.create_slot();
    let set = Set::new(world, Place::File);
    let mut running = set.stream().spawn();
    running.wait_for_log("streaming started");
    set.world.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'");
    set.world.sql("SELECT pg_reload_conf()");
    std::thread::scope(|scope| {
        let world = &set.world;
        let committing = scope.spawn(|| world.sql("UPDATE t SET version = nextval('versions') WHERE id = 50"));
        eventually("the commit is in the topic", 30, || count(&set.records("t"), "u") == 1);
        set.request(&["start"]);
        running.wait_for_log("the snapshot waits for transactions");
        assert_eq!(count(&set.records("t"), "r"), 0, "an older state follows a newer one");
        world.sql("ALTER SYSTEM RESET synchronous_standby_names");
        world.sql("SELECT pg_reload_conf()");
        committing.join().expect("the commit");
    });
    running.wait_for_log("snapshot complete");
    set.world.sql("DELETE FROM t WHERE id = 1");
    set.world.wait_confirmed(30);
    running.terminate().expect_code(0);
    set.check_order("t");
    set.check_fold("t");
}

#[test]
fn a_snapshot_is_paused_resumed_shown_and_stopped() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    world.sql("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 10)");
    world.sql("INSERT INTO t SELECT generate_series(1, 3000)");
    world.create_slot();
    let set = Set::new(world, Place::File);
    let mut running = set.stream().spawn();
    set.request(&["pause"]);
    set.request(&["start", "public.*"]);
    eventually("the request is stored", 30, || set.status()["patterns"][0] == "public.*");
    let shown = set.snapshot(&["status"]).run().expect_code(0);
    let shown = shown.stdout;
    assert!(shown.contains("paused") && shown.contains("public.*"), "{shown}");
    set.request(&["stop", "public.*"]);
    set.request(&["start", "public.other"]);
    set.request(&["resume"]);
    running.wait_for_log("snapshot complete");
    set.world.sql("INSERT INTO t VALUES (9999)");
    set.world.wait_confirmed(30);
    running.terminate().expect_code(0);
    assert_eq!(count(&set.records("other"), "r"), 10);
    assert_eq!(count(&set.records("t"), "r"), 0);
    let shown = set.snapshot(&["status"]).run().expect_code(0);
    assert_eq!(shown.stdout, "no snapshot is under way\n");
    let sizes = set.snapshot(&["estimate"]).run().expect_code(0);
    assert!(sizes.stdout.contains("public.other"));
}

#[test]
fn a_snapshot_without_a_place_for_its_progress_or_of_a_table_without_a_key_is_refused() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (id int)");
    let nowhere = Set { config: file("nowhere.toml", ""), world };
    nowhere.snapshot(&["start"]).run().expect_code(78).expect_log(&["no place for its progress", "[state]"]);
    let set = Set::new(nowhere.world, Place::File);
    set.snapshot(&["start"]).run().expect_code(78).expect_log(&["public.keyless has no key", "REPLICA IDENTITY"]);
    set.snapshot(&["start", "public.missing"]).run().expect_code(78).expect_log(&["no published table fits"]);
    set.snapshot(&["start", "missing"]).run().expect_code(78).expect_log(&["SCHEMA.TABLE"]);
    set.request(&["start", "public.t"]);
}

#[test]
fn a_table_that_is_dropped_or_renamed_ends_its_own_snapshot_only() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    world.sql("CREATE TABLE dropped (id int PRIMARY KEY); CREATE TABLE moved (id int PRIMARY KEY)");
    world.sql("INSERT INTO dropped SELECT generate_series(1, 10); INSERT INTO moved SELECT generate_series(1, 10)");
    world.sql("INSERT INTO t SELECT generate_series(1, 10)");
    world.create_slot();
    let set = Set::new(world, Place::File);
    set.request(&["start"]);
    set.request(&["pause"]);
    let mut running = set.stream().spawn();
    running.wait_for_log("snapshot requested");
    eventually("the pause is stored", 30, || set.status()["is_paused"] == true);
    // The tables are looked up when the snapshot goes on.
    set.request(&["resume"]);
    running.wait_for_log("snapshot complete");
    assert_eq!(count(&set.records("moved"), "r"), 10);
    // Now they are known, and change before they are read.
    set.request(&["start"]);
    set.world.sql("DROP TABLE dropped");
    set.world.sql("ALTER TABLE moved RENAME TO gone");
    running.wait_for_log_times("snapshot complete", 2);
    set.world.sql("INSERT INTO t VALUES (11)");
    set.world.wait_confirmed(30);
    running.terminate().expect_code(0);
    set.check_fold("t");
}

#[test]
fn a_read_only_role_reads_a_snapshot_of_a_standby() {
    let pg = Postgres::start("source", 17, &[]);
    let world = World::without_slot(&pg, Kafka::shared(), TABLE);
    world.sql("INSERT INTO t SELECT generate_series(1, 2000)");
    let (standby, _) = pg.standby("copy");
    let slot = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", world.slot);
    std::thread::scope(|scope| {
        // The slot needs to see the transactions in progress on the primary.
        let created = scope.spawn(|| standby.sql(&world.database, &slot));
        eventually("the slot of the standby exists", 60, || {
            world.sql("SELECT pg_log_standby_snapshot()");
            created.is_finished()
        });
    });
    let set = Set::new(world, Place::File);
    set.world.sql("CREATE ROLE reader LOGIN REPLICATION; ALTER ROLE reader SET default_transaction_read_only = on");
    set.world.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader");
    let privilege = "SELECT has_table_privilege('reader', 't', 'SELECT')";
    eventually("the role is on the standby", 30, || {
        standby.try_sql(&set.world.database, privilege).is_ok_and(|answer| answer == "t")
    });
    let (dsn, world) = (format!("{} user=reader", standby.dsn(&set.world.database)), &set.world);
    let mut running = Walcat::new(&["stream", "--config", &set.config, "--dsn", &dsn, "--slot", &world.slot])
        .with(&["--publication", &world.publication, "--topic-prefix", &world.prefix])
        .with(&["--brokers", &world.kafka.brokers])
        .deadline(120)
        .spawn();
    running.wait_for_log("streaming started");
    // A request is written on the primary, where no such slot is.
    let request = format!(r#"{{"slot":"{}","request":"start","tables":["public.t"]}}"#, set.world.slot);
    set.world.sql(&format!("SELECT pg_logical_emit_message(true, 'walcat.snapshot', '{request}')"));
    set.world.sql("UPDATE t SET version = nextval('versions') WHERE id <= 100");
    running.wait_for_log("snapshot complete");
    set.world.sql("UPDATE t SET version = nextval('versions') WHERE id = 2000");
    eventually("all is in the topic", 60, || set.fold("t") == set.table("t"));
    running.terminate().expect_code(0);
    set.check_order("t");
}
