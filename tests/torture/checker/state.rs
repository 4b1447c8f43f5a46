//! The state of the tables after the applied transactions, according to the records.

use std::collections::{BTreeMap, HashMap};

use super::{Account, Findings, Promise};
use crate::record::{Change, Op, Record, Row, Table};

#[derive(Debug, Default)]
pub struct State {
    pub accounts: BTreeMap<i64, Account>,
    /// Rows by batch.
    pub bulk: BTreeMap<i64, u64>,
    total: i64,
    batches: HashMap<i64, i64>,
    /// The last version of each account; a key change does not change it.
    versions: HashMap<i64, i64>,
}

impl State {
    /// The sum of all balances.
    pub fn total(&self) -> i64 {
        self.total
    }

    /// Whether an account ever existed. Partitions are read separately, so a transaction in other partitions may be seen
    /// before the first accounts.
    pub fn has_accounts(&self) -> bool {
        !self.versions.is_empty()
    }

    pub fn apply(&mut self, record: &Record, change: &Change, findings: &mut Findings) {
        let (key, place) = (record.key, change.place);
        match (record.table, change.op, &change.row) {
            (Table::Account, op, Row::Account { account, version, balance }) => {
                let new = Account { account: *account, version: *version, balance: *balance };
                let before = self.accounts.insert(key, new);
                self.total += balance - before.map_or(0, |before| before.balance);
                let existed = before.is_some();
                let last = self.versions.insert(*account, *version);
                if existed != (op == Op::Update) {
                    findings.add(Promise::Apply, || format!("{place}: {op:?} of account {key}, existed: {existed}"));
                }
                if last.is_some_and(|last| last + 1 != *version) {
                    findings.add(Promise::Apply, || format!("{place}: account {account} has {version} after {last:?}"));
                }
            }
            (Table::Account, _, _) => match self.accounts.remove(&key) {
                Some(before) => self.total -= before.balance,
                None => {
                    findings.add(Promise::Apply, || format!("{place}: delete of account {key}, which is not there"))
                }
            },
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
            (Table::Journal | Table::Marker, Op::Create, _)
            | (Table::Page, Op::Create | Op::Truncate, _)
            | (Table::Document, Op::Create | Op::Update, _)
            | (Table::Message, Op::Message, _) => {}
            (table, op, _) => findings.add(Promise::Apply, || format!("{place}: {op:?} of {table:?} {key}")),
        }
    }
}
