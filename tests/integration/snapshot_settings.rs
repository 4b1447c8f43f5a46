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
fn check_succeeds_exactly_when_a_stream_starts_with_its_snapshot() {
    let set = set("file", "mode = \"incremental\"");
    let world = &set.world;
    let role = format!("reader_{}", world.slot);
    world.sql(&format!("CREATE ROLE {role} LOGIN REPLICATION"));
    let nowhere = file("nowhere.toml", "[snapshot]\nmode = \"incremental\"\n");
    let initial = file("initial.toml", "[snapshot]\nmode = \"initial\"\n");
    let only = file("only.toml", "[snapshot]\nmode = \"only\"\n");
    let run = |command: &str, config: &str, arguments: &[&str]| {
        let dsn = format!("{} user={role}", world.dsn());
        Walcat::new(&[command, "--config", config, "--dsn", &dsn, "--publication", &world.publication])
            .with(&["--brokers", &world.kafka.brokers, "--topic-prefix", &world.prefix])
            .with(arguments)
            .deadline(120)
            .run()
    };
    let slot = ["--slot", world.slot.as_str()];
    let with_slot = [&slot[..], &["--once", "--create-slot"]].concat();
    let creating = |config: &str| file("creating.toml", &format!("create_slot = true\n{}", read(config)));
    let cases: [(&str, &str, bool, &str, i32); 6] = [
        ("CREATE TABLE keyless (id int)", &set.config, true, "public.keyless has no key", 78),
        ("DROP TABLE keyless", &nowhere, true, "no place for its progress", 78),
        ("SELECT 1", &initial, true, "no place for its progress", 78),
        ("SELECT 1", &only, false, "1 of 1 tables cannot be read: ", 77),
        ("SELECT 1", &set.config, true, "warning  snapshot: 1 of 1 tables cannot be read: ", 0),
        (&format!("GRANT SELECT ON t TO {role}"), &only, false, "snapshot: the rows of 1 tables can be read", 0),
    ];
    for (sql, config, has_slot, finding, code) in cases {
        world.sql(sql);
        let arguments = if has_slot { &slot[..] } else { &[] };
        let config = if has_slot { creating(config) } else { config.to_owned() };
        let check = run("check", &config, arguments);
        assert!(check.stdout.contains(finding), "{finding}: {}", check.stdout);
        let check = check.expect_code(if code == 0 { 0 } else { 78 });
        assert!(code != 0 || !check.stdout.contains("error "), "{finding}: {}", check.stdout);
        run("stream", &config, if has_slot { &with_slot } else { &[] }).expect_code(code);
    }
    world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).expect("the file")
}

#[test]
fn the_slots_status_shows_a_snapshot_wherever_its_progress_is_and_an_estimate_is_measured() {
    for place in ["file", "topic", "checkpoint"] {
        let set = set(place, "");
        set.world.create_slot();
        let mut running = stream(&set).spawn();
        running.wait_for_log("streaming started");
        set.request(&["pause"]);
        set.request(&["start", "public.t"]);
        let world = &set.world;
        let status = |format: &str| {
            let settings = ["--config", &set.config, "--dsn", &world.dsn(), "--slot", &world.slot];
            Walcat::new(&["slot", "status", "--format", format])
                .with(&settings)
                .env("WALCAT_PUBLICATION", &world.publication)
                .env("WALCAT_BROKERS", &world.kafka.brokers)
                .run()
                .expect_code(0)
        };
        eventually("the request is stored", 30, || {
            // A topic gets it with the next position.
            world.sql("INSERT INTO t SELECT max(id) + 1 FROM t");
            status("json").json_lines()[0]["snapshot"]["patterns"][0] == "public.t"
        });
        let shown = status("table").stdout;
        assert!(
            shown.lines().any(|line| line.starts_with("snapshot") && line.contains("paused; requested")),
            "{shown}"
        );
        running.terminate().expect_code(0);
        world.sql("ANALYZE t");
        let estimate = set.snapshot(&["estimate"]).run().expect_code(0).stdout;
        let lines: Vec<_> = estimate.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert!(lines[1][0].parse::<usize>().is_ok_and(|rows| rows >= ROWS), "{estimate}");
        assert_eq!((lines[1][2..].join(" "), lines[2][2..].join(" ")), ("< 1s public.t".into(), "< 1s in all".into()));
        assert!(estimate.contains("reading alone"), "{estimate}");
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
