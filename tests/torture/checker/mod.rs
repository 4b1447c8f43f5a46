//! Judges what the consumer read against what the database holds. No I/O: records in, findings out.
//!
//! `log` looks at each partition as it lies there, `history` puts the transactions together and applies them in the order
//! of their commits, `database` compares the outcome with the tables.

mod database;
mod history;
mod log;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::options::Delivery;
use crate::record::{Kind, Place, Record};

/// Findings of one kind that are told in full.
const EXAMPLES_MAX: usize = 5;

/// What the tables hold at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub journal: BTreeMap<i64, (Kind, i64, i64)>,
    pub accounts: BTreeMap<i64, Account>,
    /// The number of rows of each batch.
    pub bulk: BTreeMap<i64, u64>,
    pub markers: BTreeMap<i64, u32>,
    /// The sum of all balances, at every transaction's end.
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
    /// The consumer's own output makes no sense.
    Reading,
    /// A key has one partition.
    OnePartition,
    /// What comes for the first time comes in the order of the commits, and of the changes within them.
    Order,
    /// The versions of one key follow each other, whatever the positions say.
    KeyOrder,
    /// A repeat begins at a transaction's first record in its partition, and is the same as what it repeats.
    Repeat,
    /// Nothing comes twice.
    Once,
    /// A delete is followed by its tombstone.
    Tombstone,
    /// A transaction is there with all its records.
    Whole,
    /// Money neither comes nor goes.
    Sum,
    /// A change fits what was there before it.
    Apply,
    /// What the database has is in Kafka.
    Lost,
    /// What is in Kafka is in the database.
    Phantom,
    /// walcat itself: an exit that should not be, an end that was not reached.
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

/// What was counted on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: usize,
    pub tombstones: usize,
    pub repeats: usize,
    /// Times that a partition began again at an earlier transaction.
    pub restarts: usize,
    /// Times that an older run of walcat went on after a newer one had begun: requests that a dead process had sent.
    pub late: usize,
    pub transactions: usize,
    pub largest: usize,
    pub changes: usize,
}

/// Checks all promises.
pub fn check(delivery: Delivery, records: &[Record], expected: &Expected) -> (Findings, Counts) {
    let (mut findings, mut counts) = (Findings::default(), Counts::default());
    counts.records = records.len();
    counts.tombstones = records.iter().filter(|record| record.change.is_none()).count();
    log::check(delivery, records, &mut findings, &mut counts);
    let once = once(records, &mut findings);
    counts.changes = once.len();
    let state = history::replay(&once, expected.sum, &mut findings, &mut counts);
    database::compare(&once, &state, expected, &mut findings);
    (findings, counts)
}

/// Every change once, in the order of the history.
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
