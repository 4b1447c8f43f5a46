//! Compares what the consumer read with the content of the database. No I/O: records in, findings out.
//!
//! `log` checks each partition in its own order, `fold` assembles the transactions in reading order and applies them to
//! `state`,
//! `database` compares the result with the tables, `stock` checks the tables that snapshots send, and `readings` compares what
//! two consumers saw.

mod database;
mod fold;
mod log;
mod readings;
mod state;
mod stock;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

pub use fold::Fold;
pub use readings::compare as compare_readings;
pub use stock::Stock;

use crate::options::Delivery;
use crate::record::{Kind, Place, Reading, Record};

/// The number of findings of one kind that are printed in full.
const EXAMPLES_MAX: usize = 5;

/// The content of the tables at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub journal: BTreeMap<i64, (Kind, i64, i64)>,
    pub accounts: BTreeMap<i64, Account>,
    /// The number of rows of each batch.
    pub bulk: BTreeMap<i64, u64>,
    pub markers: BTreeMap<i64, u32>,
    pub pages: BTreeMap<i64, ()>,
    /// Every page that ever existed.
    pub pages_ever: BTreeMap<i64, ()>,
    pub truncates: u64,
    /// Whether a version of the document exists that Kafka rejects.
    pub documents: BTreeMap<i64, bool>,
    /// The committed messages, and whether each is transactional.
    pub messages: BTreeMap<i64, bool>,
    /// The rows committed after the last deletion of the topic.
    pub fleeting: BTreeSet<i64>,
    /// The tables that snapshots send, if this run requests snapshots.
    pub stock: Option<Stock>,
    /// The sum of all balances at the end of every transaction.
    pub sum: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub account: i64,
    pub version: i64,
    pub balance: i64,
}

/// The promises that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// The consumer's output is valid.
    Reading,
    /// All records of a key are in one partition.
    OnePartition,
    /// New records are in the order of the commits and of the changes in them.
    Order,
    /// The versions of a key are in order, whatever their positions.
    KeyOrder,
    /// A repeat starts with a transaction's first record in its partition and equals the original.
    Repeat,
    /// Nothing is repeated.
    Once,
    /// A delete is followed by its tombstone.
    Tombstone,
    /// A transaction has all its records.
    Whole,
    /// With exactly-once, a whole transaction is in one Kafka transaction.
    OneKafkaTransaction,
    /// With exactly-once, no reader sees a part of a transaction.
    Visible,
    /// What a consumer has seen remains and does not change.
    Stays,
    /// A record that Kafka rejects leaves a dead letter, and no other record is lost with it.
    DeadLetters,
    /// The sum of all money is constant.
    Sum,
    /// A change applies to the state before it.
    Apply,
    /// Everything in the database is in Kafka.
    Lost,
    /// Everything in Kafka is in the database.
    Phantom,
    /// walcat itself: no unexplained exit, and the end is reached.
    Behaviour,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::Reading => "reading",
            Promise::OnePartition => "one partition a key",
            Promise::Order => "order",
            Promise::KeyOrder => "order per key",
            Promise::Repeat => "whole repeats",
            Promise::Once => "nothing twice",
            Promise::Tombstone => "tombstones",
            Promise::Whole => "whole transactions",
            Promise::OneKafkaTransaction => "one Kafka transaction",
            Promise::Visible => "no part is visible",
            Promise::Stays => "what was seen stays",
            Promise::DeadLetters => "dead letters",
            Promise::Sum => "sum",
            Promise::Apply => "changes apply",
            Promise::Lost => "nothing lost",
            Promise::Phantom => "nothing invented",
            Promise::Behaviour => "behaviour",
        })
    }
}

/// Broken promises, each with examples and a count.
#[derive(Clone, Debug, Default)]
pub struct Findings(BTreeMap<Promise, (usize, Vec<String>)>);

impl Findings {
    pub fn add(&mut self, promise: Promise, text: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(promise).or_default();
        *count += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(text());
        }
    }

    pub fn extend(&mut self, other: Findings) {
        for (promise, (count, examples)) in other.0 {
            let (total, all) = self.0.entry(promise).or_default();
            *total += count;
            all.extend(examples);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub fn promises(&self) -> Vec<Promise> {
        self.0.keys().copied().collect()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (promise, (count, examples)) in &self.0 {
            writeln!(f, "VIOLATION of \"{promise}\", {count} times:")?;
            for example in examples {
                writeln!(f, "    {example}")?;
            }
        }
        Ok(())
    }
}

/// The counts of the checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: usize,
    pub tombstones: usize,
    pub repeats: usize,
    /// How many times a partition went back to an earlier transaction.
    pub restarts: usize,
    /// How many times an older run continued after a newer one had started, with requests of a dead process.
    pub late: usize,
    pub transactions: usize,
    pub largest: usize,
    pub changes: usize,
    /// How many times a reader had seen only whole transactions and the money was counted.
    pub states: usize,
    pub dead_letters: usize,
    /// The rows that snapshots have sent.
    pub snapshot_rows: usize,
}

/// Checks all promises.
pub fn check(delivery: Delivery, reading: &Reading, expected: &Expected) -> (Findings, Counts) {
    let mut findings = Findings::default();
    let mut fold = Fold::new(delivery, expected.sum);
    // A dead letter is in another topic, so it can come at any time.
    for letter in &reading.dead_letters {
        fold.take_dead_letter(letter, &mut findings);
    }
    for record in &reading.records {
        fold.take(record, Instant::now(), &mut findings);
    }
    let (state, mut counts) = fold.end(&mut findings);
    counts.records = reading.records.len();
    counts.tombstones = reading.records.iter().filter(|record| record.change.is_none()).count();
    counts.dead_letters = reading.dead_letters.len();
    log::check(delivery, &reading.records, &mut findings, &mut counts);
    let once = once(&reading.records, &mut findings);
    counts.changes = once.len();
    database::compare(&once, &state, expected, &mut findings);
    database::compare_refused(delivery, &once, reading, expected, &mut findings);
    database::compare_fleeting(delivery, reading, expected, &mut findings);
    counts.snapshot_rows = match &expected.stock {
        Some(stock) => stock::check(delivery, &reading.stock, stock, &mut findings),
        None => 0,
    };
    (findings, counts)
}

/// Every change once, in history order.
type Once<'r> = BTreeMap<Place, &'r Record>;

fn once<'r>(records: &'r [Record], findings: &mut Findings) -> Once<'r> {
    let mut once = Once::new();
    for record in records {
        let Some(change) = &record.change else { continue };
        let first = *once.entry(change.place).or_insert(record);
        let same = first.table == record.table && first.key == record.key && first.change == record.change;
        if !same {
            findings.add(Promise::Repeat, || format!("two records at {}: {first:?} and {record:?}", change.place));
        }
    }
    once
}
