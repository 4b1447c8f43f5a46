//! A seeded simulation of the code that decides about positions, without any server. The session, the stores and the
//! transactions of exactly-once delivery are walcat's code. PostgreSQL (`postgres`, `wal`), Kafka (`kafka`) and the order of
//! events (`world`) are models. Records settle in any order, late, or never; connections are lost; servers and walcat crash at
//! any moment; a standby is promoted; an operator moves the slot; an instance that was presumed dead continues; commits end
//! without an answer. `promise` checks after every step what must hold.
//!
//! `snapshot` does the same for incremental snapshots, with a model of transactions, visibility and reads.
//!
//! WALCAT_SEED=N runs one seed, WALCAT_SEEDS=N runs N seeds.

mod at_least_once;
mod exactly_once;
mod kafka;
mod postgres;
mod promise;
mod random;
mod reading;
mod snapshot;
mod wal;
mod world;

use at_least_once::AtLeastOnce;
use exactly_once::ExactlyOnce;
use world::{Faults, Tally, simulate};

/// The number of seeds in each test.
const SEEDS: u64 = 1_000;

/// Runs the seeds. Every kind of end must occur, otherwise the test proves nothing.
fn run(simulate: impl Fn(u64) -> Tally, is_shown: impl Fn(Tally) -> bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("WALCAT_SEED") {
        println!("seed {seed}: {:?}", simulate(seed));
        return;
    }
    let seeds = number("WALCAT_SEEDS").unwrap_or(SEEDS);
    let mut sum = Tally::default();
    for seed in 1..=seeds {
        // The last line printed is the seed of the failure.
        let Tally { crashes, refused, fenced, resumed_inside } = simulate(seed);
        sum.crashes += crashes;
        sum.refused += refused;
        sum.fenced += fenced;
        sum.resumed_inside += resumed_inside;
    }
    println!("seeds 1 to {seeds}: {sum:?}");
    assert!(is_shown(sum), "too little has happened: {sum:?}");
}

#[test]
fn nothing_is_confirmed_that_was_not_delivered_through_any_number_of_crashes() {
    let faults = Faults { moves_slot: false, zombies: false, fails_over: true };
    let simulate = |seed| simulate(seed, faults, |number, world| AtLeastOnce::start(number, None, world));
    run(simulate, |sum| sum.crashes > 100 && sum.refused > 10 && sum.resumed_inside > 100);
}

#[test]
fn nothing_is_confirmed_that_is_not_in_the_state_file() {
    let faults = Faults { moves_slot: true, zombies: false, fails_over: true };
    let simulate = |seed| {
        // Each write is synced: use memory if possible.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let path = directory.path().join("state.json");
        simulate(seed, faults, |number, world| AtLeastOnce::start(number, Some(&path), world))
    };
    run(simulate, |sum| sum.crashes > 100 && sum.refused > 100 && sum.resumed_inside > 100);
}

#[test]
fn a_committed_reader_sees_each_transaction_whole_and_once_and_nothing_is_confirmed_that_is_not_stored() {
    let faults = Faults { moves_slot: true, zombies: true, fails_over: true };
    let simulate = |seed| simulate(seed, faults, ExactlyOnce::start);
    run(simulate, |sum| sum.crashes > 100 && sum.refused > 100 && sum.fenced > 100);
}
