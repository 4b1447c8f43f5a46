//! A consumer that assembles the transactions as it reads, and applies each once it is complete.
//!
//! It uses the order of reading: a transaction is applied when it is the next one in every partition where it has records.
//! Commit LSNs are only names, so the check also finds an order that contradicts them. A second reader ignores transactions
//! and keeps the last balance of each key: whenever no transaction is open, its sum must be right as well.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::state::State;
use super::{Counts, Findings, Promise};
use crate::options::Delivery;
use crate::record::{Change, DeadLetter, NO_KEY, Place, Record, Row, Table};

/// How long a transaction may be visible in part with exactly-once delivery while Kafka is healthy: the markers of a Kafka
/// transaction reach the partitions one by one, and the reader polls one broker after another.
pub const PARTIAL_MAX: Duration = Duration::from_secs(10);

type Home = (Table, u32);

pub struct Fold {
    delivery: Delivery,
    sum: i64,
    /// The transactions with records in a partition that are not applied yet, in the partition's order.
    queues: BTreeMap<Home, VecDeque<u64>>,
    open: BTreeMap<u64, Transaction>,
    applied: HashSet<u64>,
    seen: HashSet<Place>,
    /// The rejected documents of a transaction.
    refused: HashMap<u64, BTreeSet<i64>>,
    state: State,
    /// The last balance of each key, in reading order.
    shown: HashMap<i64, i64>,
    shown_sum: i64,
    counts: Counts,
}

/// A transaction that is not applied yet.
struct Transaction {
    records: BTreeMap<u32, (Record, Change)>,
    homes: BTreeSet<Home>,
    /// The number of records according to its last row.
    length: Option<u32>,
    since: Instant,
    is_told: bool,
}

impl Transaction {
    fn name(&self) -> String {
        let first = self.records.values().next();
        first.map_or_else(String::new, |(_, change)| {
            format!("{}, xid {}", Place { commit: change.place.commit, order: 0 }, change.xid)
        })
    }
}

fn records_of(change: &Change) -> Option<u32> {
    match change.row {
        Row::Marker { records } => Some(records),
        _ => None,
    }
}

impl Fold {
    /// `sum` is the sum of all balances at the end of every transaction.
    pub fn new(delivery: Delivery, sum: i64) -> Fold {
        Fold {
            delivery,
            sum,
            queues: BTreeMap::new(),
            open: BTreeMap::new(),
            applied: HashSet::new(),
            seen: HashSet::new(),
            refused: HashMap::new(),
            state: State::default(),
            shown: HashMap::new(),
            shown_sum: 0,
            counts: Counts::default(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn take(&mut self, record: &Record, now: Instant, findings: &mut Findings) {
        self.show(record);
        if let Some(change) = &record.change {
            // A non-transactional message is complete by itself.
            if change.place.order > 0 && self.seen.insert(change.place) {
                self.add(record, change, now, findings);
                self.settle(change.place.commit, findings);
            }
        }
        self.look(findings);
    }

    pub fn take_dead_letter(&mut self, letter: &DeadLetter, findings: &mut Findings) {
        self.refused.entry(letter.commit).or_default().insert(letter.document);
        self.settle(letter.commit, findings);
    }

    fn add(&mut self, record: &Record, change: &Change, now: Instant, findings: &mut Findings) {
        let (place, home) = (change.place, (record.table, record.partition));
        if self.applied.contains(&place.commit) {
            findings.add(Promise::Whole, || format!("{place} in {home:?} comes after its transaction was whole"));
            return;
        }
        let transaction = self.open.entry(place.commit).or_insert_with(|| Transaction {
            records: BTreeMap::new(),
            homes: BTreeSet::new(),
            length: None,
            since: now,
            is_told: false,
        });
        transaction.length = transaction.length.or(records_of(change));
        transaction.records.insert(place.order, (record.clone(), change.clone()));
        if record.key == NO_KEY {
            return;
        }
        let queue = self.queues.entry(home).or_default();
        if transaction.homes.insert(home) {
            queue.push_back(place.commit);
        } else if queue.back() != Some(&place.commit) {
            findings.add(Promise::Order, || format!("{home:?}: {place} comes after another transaction's beginning"));
        }
    }

    fn is_whole(&self, commit: u64) -> bool {
        let Some(transaction) = self.open.get(&commit) else { return false };
        let refused = self.refused.get(&commit).map_or(0, BTreeSet::len);
        transaction.length.is_some_and(|length| transaction.records.len() + refused >= length as usize)
    }

    fn is_next(&self, commit: u64) -> bool {
        let homes = self.open.get(&commit).map(|transaction| &transaction.homes);
        homes.is_some_and(|homes| homes.iter().all(|home| self.queues[home].front() == Some(&commit)))
    }

    /// Applies a transaction if it is the next one, and then those that waited for it.
    fn settle(&mut self, commit: u64, findings: &mut Findings) {
        let mut candidates = vec![commit];
        while let Some(commit) = candidates.pop() {
            if self.is_whole(commit) && self.is_next(commit) {
                candidates.extend(self.apply(commit, findings));
            }
        }
    }

    /// The transactions that are next in the partitions of this one.
    fn apply(&mut self, commit: u64, findings: &mut Findings) -> Vec<u64> {
        let Some(transaction) = self.open.remove(&commit) else { return Vec::new() };
        let mut next = Vec::new();
        for home in &transaction.homes {
            let queue = self.queues.entry(*home).or_default();
            if queue.front() == Some(&commit) {
                queue.pop_front();
            } else {
                queue.retain(|other| *other != commit);
            }
            next.extend(queue.front());
        }
        self.applied.insert(commit);
        self.counts.transactions += 1;
        self.counts.largest = self.counts.largest.max(transaction.records.len());
        let refused = self.refused.remove(&commit).unwrap_or_default();
        check_numbers(&transaction, refused.len(), findings);
        for (record, change) in transaction.records.values() {
            self.state.apply(record, change, findings);
        }
        let total = self.state.total();
        if total != self.sum && self.state.has_accounts() {
            findings.add(Promise::Sum, || format!("after {}: {total}, not {}", transaction.name(), self.sum));
        }
        next
    }

    /// Updates what the reader without transactions sees.
    fn show(&mut self, record: &Record) {
        if record.table != Table::Account {
            return;
        }
        let before = match &record.change {
            Some(Change { row: Row::Account { balance, .. }, .. }) => {
                self.shown_sum += balance;
                self.shown.insert(record.key, *balance)
            }
            _ => self.shown.remove(&record.key),
        };
        self.shown_sum -= before.unwrap_or(0);
    }

    /// When no transaction is open, a reader has seen only whole transactions. A repeat shows old balances again, so this
    /// check is only for exactly-once.
    fn look(&mut self, findings: &mut Findings) {
        if self.delivery == Delivery::AtLeastOnce || !self.open.is_empty() || !self.state.has_accounts() {
            return;
        }
        self.counts.states += 1;
        let (seen, sum) = (self.shown_sum, self.sum);
        if seen != sum {
            findings.add(Promise::Sum, || format!("a reader who folds by key saw {seen}, not {sum}"));
        }
    }

    /// With exactly-once, no reader may see a part of a transaction. `well_since` is when Kafka was healthy again.
    pub fn look_at_parts(&mut self, now: Instant, well_since: Instant, findings: &mut Findings) {
        if self.delivery == Delivery::AtLeastOnce {
            return;
        }
        let refused = &self.refused;
        for (commit, transaction) in self.open.iter_mut().filter(|(_, transaction)| !transaction.is_told) {
            let age = now.saturating_duration_since(transaction.since.max(well_since));
            let seen = transaction.records.len() + refused.get(commit).map_or(0, BTreeSet::len);
            let length = transaction.length;
            if age > PARTIAL_MAX && length.is_none_or(|length| seen < length as usize) {
                transaction.is_told = true;
                let name = transaction.name();
                findings.add(Promise::Visible, || format!("{name}: {seen} of {length:?} records visible for {age:?}"));
            }
        }
    }

    /// The end of the input: an open transaction is incomplete or does not fit into the order.
    pub fn end(mut self, findings: &mut Findings) -> (State, Counts) {
        while let Some((&first, _)) = self.open.first_key_value() {
            let part = self.open.keys().copied().find(|commit| !self.is_whole(*commit));
            let chosen = part.unwrap_or(first);
            let transaction = &self.open[&chosen];
            let (seen, length) = (transaction.records.len(), transaction.length);
            if part.is_some() {
                findings.add(Promise::Whole, || format!("{}: {seen} of {length:?} records", transaction.name()));
            } else {
                findings.add(Promise::Order, || {
                    format!("{} lies before another one here and behind it there", transaction.name())
                });
            }
            for next in self.apply(chosen, findings) {
                self.settle(next, findings);
            }
        }
        (self.state, self.counts)
    }
}

/// Numbered from 1, of one xid, without a gap except for rejected records, and as long as its last row says.
fn check_numbers(transaction: &Transaction, refused: usize, findings: &mut Findings) {
    let name = || transaction.name();
    let length = transaction.records.keys().next_back().copied().unwrap_or(0);
    if transaction.records.len() + refused != length as usize {
        let found = transaction.records.len();
        findings.add(Promise::Whole, || format!("{}: {found} records and {refused} refused of {length}", name()));
    }
    let xids: BTreeSet<u64> = transaction.records.values().map(|(_, change)| change.xid).collect();
    if xids.len() > 1 {
        findings.add(Promise::Whole, || format!("{}: of the xids {xids:?}", name()));
    }
    let markers: Vec<(u32, u32)> =
        transaction.records.iter().filter_map(|(order, (_, change))| Some((*order, records_of(change)?))).collect();
    if markers != [(length, length)] {
        findings.add(Promise::Whole, || format!("{}: ends with {length} and has the markers {markers:?}", name()));
    }
}
