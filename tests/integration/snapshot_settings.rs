//! The settings of incremental snapshots: all tables from the beginning, and tables that are published later.

use crate::incremental::{Set, TABLE, count};
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

const ROWS: usize = 3_000;

/// A world without a slot, and the settings `[snapshot]`; `place` is where the progress is kept.
fn set(place: &str, snapshot: &str) -> Set {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    world.sql(&format!("INSERT INTO t SELECT generate_series(1, {ROWS})"));
    let place = match place {
        "file" => {
            let state = file("state.json", "");
            std::fs::remove_file(&state).expect("a name for the state file");
            format!("[state]\nfile = \"{state}\"\n")
        }
        "topic" => "[state]\ntopic = true\n".to_owned(),
        _ => "delivery = \"exactly-once\"\n".to_owned(),
    };
    let config = file("settings.toml", &format!("{place}[snapshot]\nchunk_time = \"20ms\"\n{snapshot}\n"));
    Set { world, config }
}

fn stream(set: &Set) -> Walcat {
    set.stream().with(&["--create-slot"])
}

#[test]
fn every_table_follows_in_chunks_once_if_the_mode_says_so() {
    for place in ["file", "topic", "checkpoint"] {
        let set = set(place, "mode = \"incremental\"");
        let mut running = stream(&set).spawn();
        running.wait_for_log("snapshot complete");
        set.world.sql("DELETE FROM t WHERE id = 8");
        set.world.wait_confirmed(30);
        let finished = running.terminate().expect_code(0);
        assert!(!finished.log.contains("are not sent"), "{place}: {}", finished.log);
        set.check_order("t");
        set.check_fold("t");
        assert_eq!(count(&set.records("t"), "r"), ROWS, "{place}");
        set.world.sql("INSERT INTO t VALUES (9999)");
        stream(&set).with(&["--once"]).run().expect_code(0);
        assert_eq!(count(&set.records("t"), "r"), ROWS, "{place}: read again");
        set.check_fold("t");
    }
}

/// The rows would be lost if only the run that has created the slot could ask for them.
#[test]
fn a_kill_after_the_slot_was_created_does_not_lose_the_rows() {
    for place in ["file", "topic", "checkpoint"] {
        for moment in ["slot created", "streaming started"] {
            let set = set(place, "mode = \"incremental\"");
            let mut running = stream(&set).spawn();
            running.wait_for_log(moment);
            running.signal(libc::SIGKILL);
            running.wait();
            let mut running = stream(&set).spawn();
            running.wait_for_log("snapshot complete");
            set.world.sql("DELETE FROM t WHERE id = 8");
            set.world.wait_confirmed(30);
            running.terminate().expect_code(0);
            assert!(count(&set.records("t"), "r") >= ROWS, "{place}, {moment}");
            set.check_fold("t");
        }
    }
}

#[test]
fn the_mode_needs_a_place_and_keys_before_a_slot_is_created() {
    let set = set("file", "mode = \"incremental\"");
    let nowhere = Set { config: file("nowhere.toml", ""), world: set.world };
    stream(&nowhere).with(&["--snapshot", "incremental"]).run().expect_code(78).expect_log(&["no place", "[state]"]);
    let set = Set { config: set.config, world: nowhere.world };
    set.world.sql("CREATE TABLE keyless (id int)");
    stream(&set).run().expect_code(78).expect_log(&["public.keyless has no key", "REPLICA IDENTITY"]);
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", set.world.slot);
    assert_eq!(set.world.sql(&slots), "0");
    set.world.sql("DROP TABLE keyless");
    stream(&set).with(&["--once"]).run().expect_code(0);
}

/// The stream lacks what a transaction has changed in the table before it was published.
#[test]
fn a_table_that_is_published_later_is_read_once_older_transactions_have_ended() {
    for place in ["file", "checkpoint"] {
        let set = set(place, "new_tables = true");
        let world = &set.world;
        world.sql("CREATE TABLE added (id int PRIMARY KEY, version bigint); CREATE TABLE go (id int)");
        world.sql("INSERT INTO added SELECT generate_series(1, 100)");
        let name = &world.publication;
        world.sql(&format!("DROP PUBLICATION {name}; CREATE PUBLICATION {name} FOR TABLE t"));
        let mut running = stream(&set).spawn();
        running.wait_for_log("streaming started");
        eventually("the published tables are known", 30, || !set.status()["known"].is_null());
        std::thread::scope(|scope| {
            let open = scope.spawn(|| {
                world.sql(
                    "BEGIN; INSERT INTO added VALUES (101);
                     DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;
                     COMMIT",
                )
            });
            let lock = "SELECT count(*) FROM pg_locks WHERE relation = 'added'::regclass AND mode = 'RowExclusiveLock'";
            eventually("the transaction has its row", 30, || world.sql(lock) == "1");
            world.sql(&format!("ALTER PUBLICATION {name} ADD TABLE added"));
            running.wait_for_log("the table is new in the publication");
            eventually("the snapshot waits", 60, || {
                ["the snapshot waits for transactions", "snapshot complete"]
                    .iter()
                    .any(|text| running.log().contains(text))
            });
            world.sql("INSERT INTO go VALUES (1)");
            open.join().expect("the transaction");
        });
        running.wait_for_log("snapshot complete");
        world.sql("UPDATE added SET version = 1 WHERE id = 7");
        world.wait_confirmed(30);
        running.terminate().expect_code(0);
        set.check_fold("added");
        assert_eq!(count(&set.records("added"), "r"), 101, "{place}");
        assert_eq!(count(&set.records("t"), "r"), 0, "{place}: it was published before");

        // It is found also if it is published while no stream runs.
        world.sql("CREATE TABLE second (id int PRIMARY KEY); INSERT INTO second VALUES (1), (2)");
        world.sql(&format!("ALTER PUBLICATION {name} ADD TABLE second"));
        let mut running = stream(&set).spawn();
        running.wait_for_log("snapshot complete");
        world.sql("INSERT INTO second VALUES (3)");
        world.wait_confirmed(30);
        running.terminate().expect_code(0);
        set.check_fold("second");
        assert_eq!(count(&set.records("added"), "r"), 101, "{place}: read again");
    }
}

#[test]
fn the_log_says_how_far_a_snapshot_and_a_backlog_are() {
    let set = set("file", "");
    set.world
        .sql("INSERT INTO t (id, note) SELECT i, repeat('x', 200) FROM generate_series(10001, 300000) i; ANALYZE t");
    set.world.create_slot();
    set.request(&["start"]);
    let mut running = stream(&set).with(&["--stats-interval", "1s"]).spawn();
    running.wait_for_log("snapshot complete");
    let log = running.log();
    let line = |text: &str| log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {log}"));
    let reading = line("snapshot: reading in chunks");
    for part in ["table=t", "rows=", "rows_per_s=", "per_cent=", "left=", "tables_left=1"] {
        assert!(reading.contains(part), "{reading}");
    }
    let complete = line("snapshot complete");
    assert!(complete.contains("tables=1 rows=293000") && complete.contains("seconds="), "{complete}");
    set.world.wait_confirmed(30);
    running.terminate().expect_code(0);

    set.world.sql("UPDATE t SET version = version + 1");
    let finished = stream(&set).with(&["--once", "--stats-interval", "1s"]).run().expect_code(0);
    let line = finished.log.lines().find(|line| line.contains("reading the backlog")).expect("the backlog");
    for part in ["target=", "bytes_left=", "bytes_per_s=", "per_cent=", "left="] {
        assert!(line.contains(part), "{line}");
    }
}
