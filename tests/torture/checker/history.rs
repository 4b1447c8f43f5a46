//! The transactions, put together by `total_order` over all topics and applied in the order of their commits.

use std::collections::{BTreeMap, HashMap};

use super::{Account, Counts, Findings, Once, Promise};
use crate::record::{Change, Op, Place, Record, Row, Table};

/// What the tables are after the last transaction, by the records.
#[derive(Debug, Default)]
pub struct State {
    pub accounts: BTreeMap<i64, Account>,
    /// Rows by batch.
    pub bulk: BTreeMap<i64, u64>,
    batches: HashMap<i64, i64>,
    /// The last version of each account, which a new key does not change.
    versions: HashMap<i64, i64>,
}

pub fn replay(once: &Once<'_>, sum: i64, findings: &mut Findings, counts: &mut Counts) -> State {
    let mut state = State::default();
    let mut transaction: Vec<(&Record, &Change)> = Vec::new();
    let mut records = once.values().peekable();
    while let Some(record) = records.next() {
        let Some(change) = &record.change else { continue };
        transaction.push((record, change));
        let next = records.peek().and_then(|next| next.change.as_ref());
        if next.is_some_and(|next| next.place.commit == change.place.commit) {
            continue;
        }
        counts.transactions += 1;
        counts.largest = counts.largest.max(transaction.len());
        check_whole(&transaction, findings);
        for (record, change) in transaction.drain(..) {
            state.apply(record, change, findings);
        }
        let total: i64 = state.accounts.values().map(|account| account.balance).sum();
        if total != sum {
            let place = change.place;
            findings.add(Promise::Sum, || format!("after the transaction of {place}: {total}, not {sum}"));
        }
    }
    state
}

/// Numbered from 1 without a gap, of one xid, and as long as its marker says.
fn check_whole(transaction: &[(&Record, &Change)], findings: &mut Findings) {
    let Some((_, first)) = transaction.first() else { return };
    let Place { commit, .. } = first.place;
    let name = || format!("{}, xid {}", Place { commit, order: 0 }, first.xid);
    let mut expected = 1;
    for (_, change) in transaction {
        if change.place.order != expected {
            findings.add(Promise::Whole, || format!("{}: {} instead of {expected}", name(), change.place));
        }
        expected = change.place.order + 1;
        if change.xid != first.xid {
            findings.add(Promise::Whole, || format!("{}: {} is of xid {}", name(), change.place, change.xid));
        }
    }
    let markers: Vec<u32> = transaction.iter().filter_map(|(_, change)| records_of(change)).collect();
    let last = transaction.last().and_then(|(_, change)| records_of(change));
    if markers.len() != 1 || last != Some(expected - 1) {
        findings.add(Promise::Whole, || format!("{}: ends with {} and markers {markers:?}", name(), expected - 1));
    }
}

fn records_of(change: &Change) -> Option<u32> {
    match change.row {
        Row::Marker { records } => Some(records),
        _ => None,
    }
}

impl State {
    fn apply(&mut self, record: &Record, change: &Change, findings: &mut Findings) {
        let (key, place) = (record.key, change.place);
        match (record.table, change.op, &change.row) {
            (Table::Account, op, Row::Account { account, version, balance }) => {
                let new = Account { account: *account, version: *version, balance: *balance };
                let existed = self.accounts.insert(key, new).is_some();
                let last = self.versions.insert(*account, *version);
                if existed != (op == Op::Update) {
                    findings.add(Promise::Apply, || format!("{place}: {op:?} of account {key}, existed: {existed}"));
                }
                if last.is_some_and(|last| last + 1 != *version) {
                    findings.add(Promise::Apply, || format!("{place}: account {account} has {version} after {last:?}"));
                }
            }
            (Table::Account, _, _) => {
                if self.accounts.remove(&key).is_none() {
                    findings.add(Promise::Apply, || format!("{place}: delete of account {key}, which is not there"));
                }
            }
            (Table::Bulk, Op::Create, Row::Bulk { batch }) => {
                *self.bulk.entry(*batch).or_default() += 1;
                if self.batches.insert(key, *batch).is_some() {
                    findings.add(Promise::Apply, || format!("{place}: bulk {key} is created again"));
                }
            }
            (Table::Bulk, Op::Delete, _) => match self.batches.remove(&key) {
                Some(batch) => {
                    let rows = self.bulk.entry(batch).or_default();
                    *rows = rows.saturating_sub(1);
                    if *rows == 0 {
                        self.bulk.remove(&batch);
                    }
                }
                None => {
                    findings.add(Promise::Apply, || format!("{place}: delete of bulk {key}, which is not there"));
                }
            },
            (Table::Journal | Table::Marker, Op::Create, _) => {}
            (table, op, _) => findings.add(Promise::Apply, || format!("{place}: {op:?} of {table:?} {key}")),
        }
    }
}
