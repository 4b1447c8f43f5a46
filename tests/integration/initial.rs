//! `--snapshot initial`: the rows of a new slot before its stream, also when the run ends in the middle.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::incremental::{Place, Set, TABLE, count};
use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually};
use crate::snapshots::{expect_nothing_left, wide_rows_and_broker};
use crate::verify::verify;
use crate::walcat::{Finished, Walcat};

const PLACES: [Place; 3] = [Place::File, Place::Topic, Place::Checkpoint];

/// `walcat stream --snapshot initial --create-slot` into Kafka.
fn initial(set: &Set) -> Walcat {
    set.stream().with(&["--snapshot", "initial", "--create-slot"])
}

/// A world without a slot, and its place for the progress.
fn set(sql: &str, place: Place) -> Set {
    Set::new(World::without_slot(Postgres::shared(), Kafka::shared(), sql), place)
}

/// Everything is delivered, and the topics are the tables, as this test and `walcat verify` see them.
fn expect_equal(set: &Set, tables: &[&str]) {
    for table in tables {
        set.check_fold(table);
    }
    verify(&set.world).with(&["--config", &set.config]).run().expect_code(0);
}

/// Runs the stream of a slot that is there until nothing is left to read, and ends it.
fn finish(set: &Set, tables: &[&str]) -> Finished {
    let running = initial(set).spawn();
    eventually("the topics are the tables", 180, || tables.iter().all(|table| set.fold(table) == set.table(table)));
    set.world.wait_confirmed(60);
    running.terminate().expect_code(0)
}

#[test]
fn an_initial_snapshot_and_the_stream_after_it_are_the_table_while_writers_run() {
    for place in PLACES {
        let set = set(
            "CREATE TABLE t (id int PRIMARY KEY, v int, filler text); CREATE TABLE empty (id int PRIMARY KEY); \
             INSERT INTO t SELECT i, 0, repeat('x', 300) FROM generate_series(1, 40000) i",
            place,
        );
        let mut running = initial(&set).spawn();
        for round in 0..20 {
            set.world.sql(&format!(
                "UPDATE t SET v = v + 1 WHERE id % 400 = {round}; DELETE FROM t WHERE id % 1000 = {round} + 500; \
                 UPDATE t SET id = id + 100000 WHERE id % 2000 = {round} + 1500; INSERT INTO t VALUES (200000 + {round}, 1, '')"
            ));
        }
        running.wait_for_log("snapshot ended");
        running.wait_for_log("streaming started");
        set.world.confirm_change("INSERT INTO t VALUES (300000, 1, '')", 60);
        running.terminate().expect_code(0);
        let mut seen = BTreeSet::new();
        for record in set.records("t") {
            let is_new = seen.insert(record.key.as_ref().map(Value::to_string));
            assert!(is_new || record.op() != "r", "{place:?}: a read after another record of {:?}", record.key);
        }
        let before = count(&set.records("t"), "r");
        set.world.sql("INSERT INTO t VALUES (300001, 1, '')");
        initial(&set).with(&["--once"]).run().expect_code(0);
        assert_eq!(count(&set.records("t"), "r"), before, "{place:?}: a slot that is there has no initial snapshot");
        expect_equal(&set, &["t"]);
    }
}

/// Kills an initial snapshot again and again while three sessions write.
fn kill_while_writers_run(pg: &Postgres, place: Place) {
    let world = World::without_slot(pg, Kafka::shared(), TABLE);
    world.sql("CREATE TABLE a_small (id int PRIMARY KEY); INSERT INTO a_small SELECT generate_series(1, 100)");
    world.sql("INSERT INTO t (id, note) SELECT i, repeat('x', 200) FROM generate_series(1, 200000) i");
    world.sql("CREATE TABLE u (id int PRIMARY KEY, v int); INSERT INTO u SELECT i, 0 FROM generate_series(1, 50000) i");
    let set = Set::new(world, place);
    let (is_over, mut resumed) = (AtomicBool::new(false), 0);
    std::thread::scope(|scope| {
        let (world, over) = (&set.world, &is_over);
        for writer in 0..3 {
            scope.spawn(move || {
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let (id, new) = (1 + (round * 7919 + writer * 20_011) % 200_000, 1_000_000 + round * 3 + writer);
                    world.sql(&format!(
                        "UPDATE t SET version = nextval('versions') WHERE id BETWEEN {id} AND {id} + 20;
                         UPDATE t SET id = {new}, version = nextval('versions') WHERE id = {id} + 30;
                         DELETE FROM t WHERE id = {id} + 40; DELETE FROM u WHERE id = {id} % 50000;
                         INSERT INTO t (id, note) VALUES ({id} + 40, 'again') ON CONFLICT DO NOTHING;
                         UPDATE u SET v = v + 1, id = {new} WHERE id = ({id} + 7) % 50000"
                    ));
                }
            });
        }
        let ends = Ends(over);
        for run in 0..4 {
            let mut running = initial(&set).spawn();
            // The first run needs a slot: a kill before it would test nothing.
            running.wait_for_log(if run == 0 { "snapshot begins" } else { "streaming started" });
            std::thread::sleep(Duration::from_millis(fastrand::u64(0..1_500)));
            running.signal(libc::SIGKILL);
            resumed += usize::from(running.wait().log.contains("what is left is read in chunks"));
        }
        drop(ends);
    });
    finish(&set, &["t", "u", "a_small"]);
    let read = |table: &str| count(&set.records(table), "r");
    if place == Place::Checkpoint {
        set.check_order("t");
        assert_eq!(read("a_small"), 100, "exactly-once repeats no row");
    }
    expect_equal(&set, &["t", "u", "a_small"]);
    println!("{place:?}: {resumed} runs resumed; rows read: {}, {}, {}", read("t"), read("u"), read("a_small"));
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_initial_snapshot_goes_on_beside_the_stream_on_14() {
    let pg = Postgres::start("initial-14", 14, &["--no-fsync"]);
    kill_while_writers_run(&pg, Place::File);
    pg.stop("fast");
}

#[test]
fn a_killed_initial_snapshot_goes_on_beside_the_stream_on_17() {
    let pg = Postgres::start("initial-17", 17, &["--no-fsync"]);
    kill_while_writers_run(&pg, Place::File);
    pg.stop("fast");
}

#[test]
fn a_killed_initial_snapshot_goes_on_from_the_state_topic() {
    kill_while_writers_run(Postgres::shared(), Place::Topic);
}

#[test]
fn a_killed_initial_snapshot_repeats_no_row_with_exactly_once_delivery() {
    kill_while_writers_run(Postgres::shared(), Place::Checkpoint);
}

/// A slot that looked finished would lose the rows in silence.
#[test]
fn a_kill_after_the_slot_was_created_loses_no_row() {
    for place in PLACES {
        let set = set(TABLE, place);
        set.world.sql("INSERT INTO t SELECT generate_series(1, 3000)");
        let mut running = initial(&set).spawn();
        running.wait_for_log("slot created, with its snapshot");
        running.signal(libc::SIGKILL);
        running.wait();
        set.world.sql("DELETE FROM t WHERE id = 8; INSERT INTO t VALUES (5000)");
        finish(&set, &["t"]);
    }
}

/// Kills the snapshot of wide rows while Kafka does not answer.
fn kill_while_frozen(set: &Set) {
    let mut running = initial(set).spawn();
    running.wait_for_log("snapshot: table read");
    eventually("the small table is off the record", 60, || {
        let tables = set.status()["tables"].as_array().map_or(0, Vec::len);
        tables == 1
    });
    set.world.kafka.signal(libc::SIGSTOP);
    running.signal(libc::SIGKILL);
    assert_eq!(running.wait().code, None);
    set.world.kafka.signal(libc::SIGCONT);
}

#[test]
fn a_finished_table_is_not_read_again_and_nothing_is_confirmed_before_the_rows_are_delivered() {
    let world = wide_rows_and_broker("resumed-initial");
    world.sql("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)");
    let set = Set::new(world, Place::File);
    kill_while_frozen(&set);
    let (world, point) = (&set.world, set.world.confirmed());
    world.sql(
        "DELETE FROM t WHERE id <= 7; UPDATE t SET id = 100000 WHERE id = 8; INSERT INTO t VALUES (100001, 'new')",
    );
    world.sql("DELETE FROM a WHERE id = 1");
    assert_eq!(world.confirmed(), point);
    let resumed = finish(&set, &["t", "a"]);
    resumed.expect_log(&["what is left is read in chunks beside the stream", "tables=public.t", "snapshot complete"]);
    assert_eq!(count(&set.records("a"), "r"), 100, "a finished table is read again");
    expect_equal(&set, &["t", "a"]);
    world.kafka.stop();
}

#[test]
fn a_table_without_a_key_that_is_left_is_refused_until_the_operator_gives_it_up() {
    let world = wide_rows_and_broker("keyless-initial");
    world.sql("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)");
    world.sql("ALTER TABLE t RENAME TO log; ALTER TABLE log DROP CONSTRAINT t_pkey");
    let set = Set::new(world, Place::File);
    let mut running = initial(&set).spawn();
    running.wait_for_log("snapshot: table read");
    set.world.kafka.signal(libc::SIGSTOP);
    running.signal(libc::SIGKILL);
    running.wait();
    set.world.kafka.signal(libc::SIGCONT);
    let point = set.world.confirmed();
    set.world.sql("INSERT INTO log VALUES (0, 'new'); DELETE FROM a WHERE id = 1");
    let refused = initial(&set).with(&["--once"]).run().expect_code(78);
    refused.expect_log(&["is not finished: public.log without a key", "hint: ", "--accept-gap"]);
    assert_eq!(set.world.confirmed(), point, "nothing is confirmed");
    let accepted = initial(&set).with(&["--once", "--accept-gap"]).run().expect_code(0);
    accepted.expect_log(&["going on without these tables"]);
    assert_eq!(count(&set.records("log"), "c"), 1, "the slot has every change since");
    finish(&set, &["a"]);
    set.world.kafka.stop();
}

#[test]
fn an_initial_snapshot_that_cannot_begin_leaves_no_slot_and_nothing_on_record() {
    let set = set("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)", Place::File);
    let world = &set.world;
    let without = world.stream_to_kafka().with(&["--snapshot", "initial", "--create-slot"]).run();
    without.expect_code(78).expect_log(&["no place for its progress", "[state]"]);
    let other = format!("{}_other", world.publication);
    world.sql(&format!(
        "CREATE TABLE u (id int PRIMARY KEY, a int); CREATE PUBLICATION {other} FOR TABLE u (id); \
         CREATE PUBLICATION {other}_2 FOR TABLE u (id, a)"
    ));
    let two = [other.clone(), format!("{other}_2")];
    initial(&set)
        .with(&["--publication", &two[0], "--publication", &two[1]])
        .run()
        .expect_code(78)
        .expect_log(&["different column lists"]);
    expect_nothing_left(world);
    // Two tables with one topic: only the sink knows.
    world.sql(&format!(
        "DROP PUBLICATION {other}_2; CREATE TABLE \"a$b\" (id int PRIMARY KEY); CREATE TABLE \"a%b\" (id int PRIMARY KEY)"
    ));
    initial(&set).run().expect_code(78).expect_log(&["public.a"]);
    expect_nothing_left(world);
    // A stream without a snapshot sends no rows: the one that did not begin is not on record.
    world.sql("DROP TABLE \"a$b\"");
    set.stream().with(&["--create-slot", "--once"]).run().expect_code(0);
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("t")).len(), 0);
    world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
    initial(&set).with(&["--once", "--accept-gap"]).run().expect_code(0);
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("t")).len(), 1);
}
