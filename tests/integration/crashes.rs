//! Processes die, brokers and servers stop and start again: nothing is lost, and repeated transactions are complete.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::kafka::{self, Record};
use crate::servers::{Kafka, Postgres, World, eventually, file};

pub const TABLES: &str = "CREATE TABLE account (id int PRIMARY KEY, version int NOT NULL); \
     CREATE TABLE journal (seq bigserial PRIMARY KEY, id int, version int); \
     INSERT INTO account SELECT w * 100 + k, 0 FROM generate_series(1, 2) w, generate_series(0, 9) k";

/// Writers that change accounts and keep a journal in the same transactions, until they are stopped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start(world: &World) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let writer = |writer: u32| {
            let (pg, database, stop) = (world.pg.clone(), world.database.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // The server may be down: then the open transactions were not committed.
                    let _ = pg.try_sql(&database, &transactions(writer));
                }
            })
        };
        Writers { threads: (1..=2).map(writer).collect(), stop }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("writer");
        }
    }
}

/// Ten transactions of a few changes each: updates, and sometimes a delete and an insert of the next version.
pub fn transactions(writer: u32) -> String {
    format!(
        "DO $$ DECLARE k int; v int; BEGIN FOR i IN 1..10 LOOP FOR j IN 1..3 LOOP \
           k := {writer} * 100 + floor(random() * 10); \
           SELECT version + 1 INTO v FROM account WHERE id = k; \
           IF random() < 0.2 THEN DELETE FROM account WHERE id = k; INSERT INTO account VALUES (k, v); \
           ELSE UPDATE account SET version = v WHERE id = k; END IF; \
           INSERT INTO journal (id, version) VALUES (k, v); \
         END LOOP; COMMIT; END LOOP; END $$"
    )
}

/// (commit LSN, total_order): a consumer uses it to drop repeats.
pub fn place(value: &Value) -> (u64, u64) {
    let id = value["transaction"]["id"].as_str().expect("id");
    let (_, commit_lsn) = id.split_once(':').expect("XID:COMMIT_LSN");
    (commit_lsn.parse().expect("LSN"), value["transaction"]["total_order"].as_u64().expect("total_order"))
}

/// The values of a topic with one partition, each once. Checks that every repeat is complete.
pub fn without_repeats(records: &[Record]) -> (Vec<Value>, usize) {
    let values: Vec<&Value> = records.iter().filter_map(|record| record.value.as_ref()).collect();
    let mut first_orders = HashMap::new();
    for value in &values {
        let (commit, order) = place(value);
        let first = first_orders.entry(commit).or_insert(order);
        *first = order.min(*first);
    }
    let (mut seen, mut once, mut last) = (HashSet::new(), Vec::new(), (0, 0));
    for value in &values {
        let (commit, order) = place(value);
        let goes_on = commit == last.0 && order > last.1;
        assert!(goes_on || order == first_orders[&commit], "a run begins inside the transaction {commit}: {order}");
        last = (commit, order);
        if seen.insert(last) {
            once.push((*value).clone());
        }
    }
    (once, values.len() - seen.len())
}

/// Compares Kafka with the tables: every journal row once, the versions of each account in commit order.
pub fn check(world: &World) -> usize {
    let brokers = &world.kafka.brokers;
    let (journal, _) = without_repeats(&kafka::read(brokers, &world.topic("journal")));
    let found: BTreeMap<i64, (i64, i64)> = journal
        .iter()
        .map(|value| {
            let number = |name: &str| value["after"][name].as_i64().expect(name);
            (number("seq"), (number("id"), number("version")))
        })
        .collect();
    let expected = world.sql("SELECT seq, id, version FROM journal ORDER BY seq");
    let expected: BTreeMap<i64, (i64, i64)> = expected
        .lines()
        .map(|line| {
            let numbers: Vec<i64> = line.split('|').map(|number| number.parse().expect("a number")).collect();
            (numbers[0], (numbers[1], numbers[2]))
        })
        .collect();
    assert!(expected.len() > 100, "the writers wrote almost nothing: {}", expected.len());
    let missing: Vec<_> = expected.keys().filter(|seq| !found.contains_key(seq)).collect();
    assert!(missing.is_empty(), "{} of {} journal rows are missing: {missing:?}", missing.len(), expected.len());
    assert_eq!(found, expected);

    let (accounts, repeats) = without_repeats(&kafka::read(brokers, &world.topic("account")));
    let mut versions: HashMap<i64, i64> = HashMap::new();
    for value in accounts.iter().filter(|value| !value["after"].is_null()) {
        let (id, version) = (value["after"]["id"].as_i64().unwrap(), value["after"]["version"].as_i64().unwrap());
        let last = versions.insert(id, version);
        assert!(last.is_none_or(|last| last + 1 == version), "account {id}: {version} after {last:?}");
    }
    println!("{} journal rows, {} account records, {repeats} of them again", found.len(), accounts.len());
    repeats
}

/// The seed of the kills: printed, and read from the environment to repeat a run.
pub fn seed() -> u64 {
    let seed = std::env::var("WALCAT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2 + 1);
    println!("seed {seed}: WALCAT_SEED={seed} repeats it");
    seed
}

/// xorshift64*, so that the kills can be repeated.
pub fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
}

#[test]
fn fifty_sigkills_under_load_lose_nothing_and_repeat_only_whole_transactions() {
    let mut state = seed();
    let world = World::new(TABLES);
    let writers = Writers::start(&world);
    for _ in 0..50 {
        let running = world.stream_to_kafka().spawn();
        // 10 ms to 2 s, more short than long.
        let part = random(&mut state) % 1_000;
        std::thread::sleep(Duration::from_micros(10_000 + 1_990 * part * part * part / 1_000_000));
        running.signal(libc::SIGKILL);
        assert_eq!(running.wait().code, None, "it ended before it was killed");
    }
    writers.stop();
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    check(&world);
}

#[test]
fn a_broker_away_for_longer_than_the_walsenders_timeout_costs_neither_the_connection_nor_a_record() {
    let pg = Postgres::start("outage", 15, &["--no-fsync", "-c", "wal_sender_timeout=3s"]);
    let kafka = Kafka::start("outage", &[]);
    let world = World::on(&pg, &kafka, TABLES);
    let mut running = world.stream_to_kafka().deadline(120).spawn();
    let walsender = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
    eventually("a walsender streams", 20, || !world.sql(walsender).is_empty());
    let pid = world.sql(walsender);
    world.sql(&transactions(1));
    eventually("the first changes are confirmed", 20, || {
        world.sql(&format!(
            "SELECT confirmed_flush_lsn > '0/0' AND pg_current_wal_lsn() - confirmed_flush_lsn < 100000 \
             FROM pg_replication_slots WHERE slot_name = '{}'",
            world.slot
        )) == "t"
    });
    kafka.stop();
    let writers = Writers::start(&world);
    running.wait_for_log("Kafka is not accepting records");
    // Twice wal_sender_timeout, but less than the time after which walcat gives up the session. This length is the test.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(world.sql(walsender), pid, "the session is another one:\n{}", running.log());
    kafka.restart();
    writers.stop();
    let end = world.wal_lsn();
    eventually("all is confirmed", 60, || {
        world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())) == "t"
    });
    let finished = running.terminate().expect_code(0).expect_log(&["Kafka accepts records again"]);
    assert!(!finished.log.contains("is interrupted"), "{}", finished.log);
    check(&world);
}

/// Reading stops while records wait, so the received position does not show how much WAL the server retains.
#[test]
fn a_notice_of_an_outage_says_how_much_wal_the_server_holds() {
    let kafka = Kafka::start("held", &[]);
    let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY)");
    world.sql(&format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE t", world.publication));
    world.sql("CREATE TABLE noise (text text)");
    let arguments = ["--engine", "polling", "--stall-timeout", "3s"];
    let mut running = world.stream_to_kafka().with(&arguments).deadline(60).spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    kafka.signal(libc::SIGSTOP);
    // The WAL is there before the record whose delivery fails.
    world.sql("INSERT INTO noise SELECT repeat('x', 500) FROM generate_series(1, 20000)");
    world.sql("INSERT INTO t VALUES (2)");
    running.wait_for_log("Kafka is not accepting records");
    kafka.signal(libc::SIGCONT);
    let log = running.log();
    let (_, rest) = log.split_once("wal_held_bytes=").expect("the figure");
    let held: u64 = rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(held > 10_000_000, "{log}");
    running.wait_for_log("Kafka accepts records again");
    world.confirm_change("INSERT INTO t VALUES (3)", 30);
    running.terminate().expect_code(0);
}

#[test]
fn a_message_that_waited_for_a_broker_survives_keepalives_and_a_sigkill() {
    let kafka = Kafka::start("message", &[]);
    let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY)");
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    kafka.stop();
    running.wait_for_log("Kafka is not accepting records");
    world.sql("SELECT pg_logical_emit_message(false, 'late', 'still here')");
    world.sql("SELECT pg_switch_wal()");
    let end = world.wal_lsn();
    let written = format!(
        "SELECT r.write_lsn >= '{end}' FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid \
         WHERE s.slot_name = '{}'",
        world.slot
    );
    eventually("keepalives have passed the message", 30, || world.sql(&written) == "t");
    running.signal(libc::SIGKILL);
    running.wait();
    kafka.restart();
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    let records = kafka::read(&kafka.brokers, &format!("{}.message", world.prefix));
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].value.as_ref().expect("a value")["message"]["content"], "c3RpbGwgaGVyZQ==");
}

#[test]
fn a_server_that_crashes_ends_walcat_with_sixty_nine_if_it_must_fail_fast_and_a_restart_loses_nothing() {
    let fail_fast = file("fail-fast.toml", "[retry]\nfor = \"0s\"\n");
    let pg = Postgres::start("crash", 15, &[]);
    let world = World::on(&pg, Kafka::shared(), TABLES);
    for _ in 0..3 {
        let writers = Writers::start(&world);
        let mut running = world.stream_to_kafka().with(&["--config", &fail_fast]).spawn();
        running.wait_for_log("streaming started");
        let before: u32 = world.sql("SELECT count(*) FROM journal").parse().expect("a count");
        let seen = format!("SELECT count(*) > {} FROM journal", before + 50);
        eventually("the writers have written", 20, || world.sql(&seen) == "t");
        pg.stop("immediate");
        running
            .wait()
            .expect_code(69)
            .expect_log(&["the connection to PostgreSQL is lost", "hint: start walcat again"]);
        writers.stop();
        pg.restart();
    }
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    check(&world);
}
