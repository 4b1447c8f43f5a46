//! Where a stream ends and starts again: `--once`, `--endpos`, `--startpos`, and adjacent commits.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::proxy::{Proxy, Weather};
use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::{Finished, Walcat};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// The ids that a run with `--stdout value` printed, in order.
fn ids(run: &Finished) -> Vec<i64> {
    run.json_lines().iter().map(|value| value["after"]["id"].as_i64().expect("id")).collect()
}

fn once(world: &World) -> Vec<i64> {
    ids(&world.stream().with(&["--sink", "stdout", "--once"]).run().expect_code(0))
}

fn until(world: &World, endpos: &str) -> Vec<i64> {
    ids(&world.stream().with(&["--sink", "stdout", "--endpos", endpos]).run().expect_code(0))
}

/// The commit LSN and end LSN of each transaction in the slot.
fn commits(world: &World) -> Vec<(String, String)> {
    let run = world.stream().with(&["--dump", "json", "--once"]).run().expect_code(0);
    let text = |line: &Value, field: &str| line[field].as_str().expect(field).to_owned();
    let lines = run.json_lines();
    let commits = lines.iter().filter(|line| line["type"] == "commit");
    commits.map(|line| (text(line, "commit_lsn"), text(line, "end_lsn"))).collect()
}

#[test]
fn once_on_an_idle_server_ends_at_once() {
    let world = World::new(TABLE);
    let begun = Instant::now();
    assert_eq!(once(&world), [] as [i64; 0]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn once_on_a_busy_server_brings_all_that_was_committed_before_it_began_and_ends() {
    let world = World::new(TABLE);
    // The writer ends by itself, so that a failure here does not wait for it forever.
    let writer = "DO $$ BEGIN FOR i IN 1..3000 LOOP INSERT INTO t VALUES (i); COMMIT; PERFORM pg_sleep(0.001); \
         END LOOP; END $$";
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| world.sql(writer));
        let mut last = 0;
        while !writer.is_finished() {
            let committed = world.sql("SELECT coalesce(max(id), 0) FROM t").parse::<i64>().expect("id");
            last = once(&world).last().copied().unwrap_or(last);
            assert!(last >= committed, "{committed} was committed, {last} came");
        }
    });
    once(&world);
    assert_eq!(once(&world), [] as [i64; 0], "a clean end leaves nothing to repeat");
}

#[test]
fn endpos_takes_each_transaction_up_to_it_whole_and_none_after() {
    let world = World::new(TABLE);
    for id in 1..=4 {
        world.sql(&format!("INSERT INTO t VALUES ({id}0), ({id}1)"));
    }
    let commits = commits(&world);
    assert_eq!(commits.len(), 4);
    // Exactly at the second commit record: the second transaction is delivered, the third is not.
    assert_eq!(until(&world, &commits[1].0), [10, 11, 20, 21]);
    // At the end of the second transaction: nothing is left before it.
    assert_eq!(until(&world, &commits[1].0), [] as [i64; 0]);
    // At the end of the third transaction, inside or before the fourth.
    assert_eq!(until(&world, &commits[2].1), [30, 31]);
    assert_eq!(once(&world), [40, 41], "the rest is still there");
}

#[test]
fn of_two_adjacent_commits_the_second_is_not_lost() {
    let world = World::new(TABLE);
    // Two commit records with nothing between them: both transactions write before either commits.
    world.sql(
        "CREATE EXTENSION IF NOT EXISTS dblink; \
         SELECT dblink_connect('a', 'host=127.0.0.1 port=' || current_setting('port') || ' user=postgres dbname=' || current_database()); \
         SELECT dblink_connect('b', 'host=127.0.0.1 port=' || current_setting('port') || ' user=postgres dbname=' || current_database()); \
         SELECT dblink_exec('a', 'BEGIN; INSERT INTO t VALUES (1)'); \
         SELECT dblink_exec('b', 'BEGIN; INSERT INTO t VALUES (2)'); \
         SELECT dblink_exec('a', 'COMMIT'); SELECT dblink_exec('b', 'COMMIT')",
    );
    let commits = commits(&world);
    let (first, second) = (&commits[commits.len() - 2], &commits[commits.len() - 1]);
    assert_eq!(until(&world, &first.0).last(), Some(&1));
    let confirmed = world.confirmed();
    assert_eq!(world.sql(&format!("SELECT '{confirmed}'::pg_lsn <= '{}'", second.0)), "t", "confirmed past the second");
    assert_eq!(once(&world), [2]);
}

#[test]
fn a_row_whose_text_is_longer_than_its_wal_moves_no_position_too_far() {
    let world = World::new(TABLE);
    // 100 kB that compress to almost nothing: the payload is much longer than its WAL.
    world.sql("INSERT INTO t VALUES (1, repeat('x', 100000)), (2, 'a'), (3, 'b')");
    world.sql("INSERT INTO t VALUES (4, 'c')");
    let commits = commits(&world);
    assert_eq!(until(&world, &commits[0].0), [1, 2, 3]);
    assert_eq!(world.confirmed(), commits[0].1, "the end of the transaction, and no byte further");
    assert_eq!(once(&world), [4]);
}

#[test]
fn a_start_past_the_end_of_the_wal_is_refused_and_confirms_nothing() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let before = world.confirmed();
    let run = world.stream().with(&["--sink", "stdout", "--once", "--startpos", "F/0"]).run();
    run.expect_code(78).expect_log(&["startpos F/0 is past the end of the server's WAL"]);
    assert_eq!(world.confirmed(), before);
}

#[test]
fn a_start_below_the_confirmed_position_is_refused_with_both_positions() {
    let world = World::new(TABLE);
    let below = world.confirmed();
    world.sql("INSERT INTO t VALUES (1)");
    once(&world);
    let confirmed = world.confirmed();
    let run = world.stream().with(&["--sink", "stdout", "--once", "--startpos", &below]).run();
    run.expect_code(78).expect_log(&[&below, &confirmed, "silently"]);
    let run = world.stream().with(&["--sink", "stdout", "--startpos", "0/2", "--endpos", "0/1"]).run();
    run.expect_code(2);
    assert_eq!(world.confirmed(), confirmed);
}

#[test]
fn a_start_above_the_confirmed_position_leaves_out_what_is_before_it() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1)");
    world.sql("INSERT INTO t VALUES (2)");
    let second = &commits(&world)[1].0;
    let run = world.stream().with(&["--sink", "stdout", "--once", "--startpos", second]).run().expect_code(0);
    assert_eq!(ids(&run), [2]);
}

/// The server sends a whole transaction although the client has ended the copy: 50 MB at about 800 kB per second.
#[test]
fn a_large_transaction_after_the_end_of_the_job_does_not_hold_it_up() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a')");
    let end = world.wal_lsn();
    world.sql("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(2, 50000) g");
    let proxy = Proxy::start(world.pg.port.parse().expect("a port")).expect("a proxy");
    proxy.set(Weather::Slow(Duration::from_millis(10)));
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={}", proxy.port(), world.database);
    let begun = Instant::now();
    let run = Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--sink", "stdout", "--endpos", &end])
        .run()
        .expect_code(0);
    assert_eq!(ids(&run), [1]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(once(&world).len(), 49_999, "what was delivered is confirmed, and nothing else");
}

#[test]
fn once_on_a_standby_whose_replay_is_paused_ends_at_what_is_replayed() {
    let primary = Postgres::start("replay-a", 17, &["--no-fsync"]);
    let (standby, _) = primary.standby("replay-b");
    let world = World::without_slot(&primary, Kafka::shared(), TABLE);
    world.sql("INSERT INTO t VALUES (0, 'before the slot')");
    let replayed = |lsn: &str| {
        let passed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        eventually("the standby has replayed it", 30, || standby.sql("postgres", &passed) == "t");
    };
    replayed(&world.wal_lsn());
    let create = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", world.slot);
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| standby.sql(&world.database, &create));
        eventually("the slot is made", 60, || {
            // It waits for a WAL record of the primary's running transactions.
            world.sql("SELECT pg_log_standby_snapshot()");
            creating.is_finished()
        });
    });
    world.sql("INSERT INTO t VALUES (1, 'a')");
    replayed(&world.wal_lsn());
    standby.sql("postgres", "SELECT pg_wal_replay_pause()");
    eventually("the replay is paused", 30, || {
        standby.sql("postgres", "SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
    world.sql("INSERT INTO t VALUES (2, 'b')");
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{}'", world.wal_lsn());
    eventually("the standby has received it", 30, || standby.sql("postgres", &received) == "t");
    for engine in ["streaming", "polling"] {
        let dsn = standby.dsn(&world.database);
        let run = Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
            .with(&["--sink", "stdout", "--once", "--engine", engine])
            .deadline(30)
            .run()
            .expect_code(0);
        assert_eq!(ids(&run), if engine == "streaming" { vec![1] } else { vec![] });
    }
}
