//! A consumer that folds the records by key, and checks that no key goes back to an older state.

use std::collections::BTreeMap;

use crate::snapshot::database::{KEYS, Name, Row};

/// A record.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    /// A row. `toasted` is none where the stream omits the value.
    Row {
        name: Name,
        plain: u64,
        toasted: Option<u64>,
    },
    /// A row that was deleted, or has another key since.
    Deleted {
        name: Name,
        number: u64,
    },
    Truncated {
        table: u32,
        number: u64,
    },
}

#[derive(Default)]
pub struct Consumer {
    rows: BTreeMap<Name, (u64, Option<u64>)>,
    /// The number of each key's newest change since the last repetition.
    newest: BTreeMap<Name, u64>,
}

impl Consumer {
    pub fn take(&mut self, record: Record, seed: u64) {
        match record {
            Record::Row { name, plain, toasted } => {
                self.is_newer(name, plain, seed);
                let toasted = toasted.or_else(|| self.rows.get(&name)?.1);
                self.rows.insert(name, (plain, toasted));
            }
            Record::Deleted { name, number } => {
                self.is_newer(name, number, seed);
                self.rows.remove(&name);
            }
            Record::Truncated { table, number } => {
                (0..KEYS).for_each(|key| self.is_newer((table, key), number, seed));
                self.rows.retain(|name, _| name.0 != table);
            }
        }
    }

    fn is_newer(&mut self, name: Name, number: u64, seed: u64) {
        let newest = self.newest.entry(name).or_default();
        assert!(number >= *newest, "seed {seed}: {name:?} goes back from {newest} to {number}");
        *newest = number;
    }

    /// What follows may repeat what was delivered.
    pub fn repeats(&mut self) {
        self.newest.clear();
    }

    pub fn check(&self, table: &BTreeMap<Name, Row>, seed: u64) {
        let table: BTreeMap<Name, (u64, Option<u64>)> =
            table.iter().map(|(name, row)| (*name, (row.plain, Some(row.toasted)))).collect();
        assert_eq!(self.rows, table, "seed {seed}: the fold (left) differs from the table");
    }
}
