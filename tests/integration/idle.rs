//! What an idle walcat does, and how a server shuts down while walcat is connected.

use std::time::{Duration, Instant};

use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::Running;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// The CPU seconds of a process, from `/proc/PID/stat` (utime and stime, in ticks of 10 ms).
fn cpu_seconds(running: &Running) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).expect("stat");
    let (_, rest) = stat.rsplit_once(')').expect("stat");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u32 = fields[11..=12].iter().map(|field| field.parse::<u32>().expect("ticks")).sum();
    f64::from(ticks) / 100.0
}

#[test]
fn a_slot_moves_while_only_tables_that_are_not_published_are_written() {
    let world = World::new("");
    world.sql(&format!("DROP PUBLICATION {}; CREATE TABLE quiet (id int PRIMARY KEY)", world.publication));
    world.sql(&format!("CREATE PUBLICATION {} FOR TABLE quiet; CREATE TABLE busy (id int)", world.publication));
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO busy SELECT generate_series(1, 100000)");
    let end = world.wal_lsn();
    eventually("the slot is past the writes", 20, || {
        world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())) == "t"
    });
    running.terminate().expect_code(0);
}

#[test]
fn a_fast_shutdown_of_the_server_returns_soon_with_an_idle_stream_and_with_a_dump() {
    let pg = Postgres::start("stop", 15, &["--no-fsync"]);
    // A stream waits until the server is back; a dump ends.
    for (arguments, goes_on) in [(["--sink", "stdout"], true), (["--dump", "json"], false)] {
        let world = World::on(&pg, Kafka::shared(), TABLES);
        let mut running = world.stream().with(&arguments).spawn();
        running.wait_for_log("streaming started");
        world.sql("INSERT INTO t VALUES (1)");
        let end = world.wal_lsn();
        let sent = format!("SELECT count(*) > 0 FROM pg_stat_replication WHERE write_lsn >= '{end}'");
        eventually("the change is read", 20, || world.sql(&sent) == "t");
        let begun = Instant::now();
        pg.stop("fast");
        assert!(begun.elapsed() < Duration::from_secs(3), "{arguments:?}: {:?}", begun.elapsed());
        if goes_on {
            running.wait_for_log("the server ended the stream: it is shutting down");
            pg.restart();
            running.wait_for_log("streaming resumed");
            running.terminate().expect_code(0);
        } else {
            running.wait().expect_code(69);
            pg.restart();
        }
    }
}

#[test]
fn a_minute_of_nothing_costs_few_turns_and_little_cpu() {
    let pg = Postgres::start("idle", 15, &["--no-fsync"]);
    let world = World::on(&pg, Kafka::shared(), TABLES);
    let mut running = world.stream_to_kafka().deadline(120).spawn();
    running.wait_for_log("streaming started");
    let before = cpu_seconds(&running);
    // This minute is the test.
    std::thread::sleep(Duration::from_secs(60));
    let cpu = cpu_seconds(&running) - before;
    let run = running.terminate().expect_code(0);
    println!("{} turns, {cpu} s of CPU", run.counter("turns"));
    assert!(run.counter("turns") < 200, "{}", run.log);
    assert!(cpu < 0.3, "{cpu} s of CPU");
}
