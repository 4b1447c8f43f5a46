//! A standby is promoted while walcat reads from it: its walsender and the stream continue.

use std::collections::BTreeMap;

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};

/// How walcat ends after the promotion.
#[derive(Clone, Copy)]
enum End {
    Term,
    Kill,
}

fn ids(world: &World) -> BTreeMap<i64, usize> {
    let mut times = BTreeMap::new();
    for record in kafka::read_committed(&world.kafka.brokers, &world.topic("t")) {
        *times.entry(record.value.expect("a value")["after"]["id"].as_i64().expect("id")).or_default() += 1;
    }
    times
}

/// A primary with a published table, and the same world on its standby, which has its own slot.
fn standby(name: &str) -> (World, World) {
    let pg = Postgres::start(&format!("{name}-a"), 17, &["--no-fsync"]);
    let (standby, _) = pg.standby(&format!("{name}-b"));
    let primary = World::without_slot(&pg, Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY)");
    let world = World {
        pg: standby,
        kafka: primary.kafka.clone(),
        database: primary.database.clone(),
        slot: primary.slot.clone(),
        publication: primary.publication.clone(),
        prefix: primary.prefix.clone(),
    };
    let published = format!("SELECT count(*) FROM pg_publication WHERE pubname = '{}'", world.publication);
    eventually("the standby has the publication", 60, || {
        world.pg.try_sql(&world.database, &published).is_ok_and(|count| count == "1")
    });
    let (pg, database) = (world.pg.clone(), world.database.clone());
    let create = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", world.slot);
    let creating = std::thread::spawn(move || pg.sql(&database, &create));
    eventually("the slot is made", 60, || {
        primary.sql("SELECT pg_log_standby_snapshot()");
        creating.is_finished()
    });
    creating.join().expect("the slot");
    (primary, world)
}

fn promote_under_a_stream(name: &str, arguments: &[&str], end: End) {
    let (primary, world) = standby(name);
    let stream = || world.stream_to_kafka().with(arguments);
    let mut running = stream().deadline(180).spawn();
    running.wait_for_log("streaming started");
    primary.sql("INSERT INTO t SELECT generate_series(1, 5)");
    eventually("what was committed before is delivered", 60, || {
        world.sql("SELECT count(*) FROM t") == "5" && ids(&world).len() == 5
    });
    primary.pg.stop("immediate");
    world.sql("SELECT pg_promote()");
    world.confirm_change("INSERT INTO t SELECT generate_series(6, 10)", 60);
    match end {
        End::Term => drop(running.terminate().expect_code(0).expect_log(&["another timeline", "timeline=2"])),
        End::Kill => {
            running.signal(libc::SIGKILL);
            running.wait();
        }
    }
    world.sql("INSERT INTO t VALUES (11)");
    stream().with(&["--once"]).run().expect_code(0);
    stream().with(&["--once"]).run().expect_code(0);
    let times = ids(&world);
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), (1..=11).collect::<Vec<_>>());
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[test]
fn a_promotion_under_a_running_stream_leaves_positions_of_the_new_timeline() {
    let state = |interval: &str| {
        let path = file("state.json", "");
        std::fs::remove_file(&path).expect("file");
        file("state.toml", &format!("[state]\nfile = \"{path}\"\ninterval = \"{interval}\"\n"))
    };
    promote_under_a_stream("up-file", &["--config", &state("100ms")], End::Kill);
    promote_under_a_stream("up-file2", &["--config", &state("1s")], End::Term);
}

#[test]
fn a_promotion_under_exactly_once_delivery_leaves_checkpoints_of_the_new_timeline() {
    promote_under_a_stream("up-eo", &["--delivery", "exactly-once"], End::Kill);
    promote_under_a_stream("up-poll", &["--delivery", "exactly-once", "--engine", "polling"], End::Term);
}
