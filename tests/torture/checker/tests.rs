//! Every check can fail: a good history, and what is done to it.

use super::{Account, Expected, Promise, check};
use crate::options::Delivery::{self, AtLeastOnce, ExactlyOnce};
use crate::record::{Change, Kind, Op, Place, Record, Row, Table};

/// Builds topics of one partition each, transaction by transaction.
#[derive(Default)]
struct History {
    records: Vec<Record>,
    commit: u64,
    order: u32,
    journal_seq: i64,
    marker_id: i64,
    expected: Expected,
}

impl History {
    fn push(&mut self, table: Table, key: i64, op: Op, row: Row) {
        self.order += 1;
        let place = Place { commit: self.commit, order: self.order };
        let change = Change { place, xid: 700 + self.commit, op, row };
        self.records.push(Record { table, partition: 0, offset: 0, key, change: Some(change) });
        if op == Op::Delete {
            self.records.push(Record { table, partition: 0, offset: 0, key, change: None });
        }
    }

    fn account(&mut self, op: Op, key: i64, account: i64, version: i64, balance: i64) {
        let kind = match op {
            Op::Create => Kind::Open,
            Op::Update => Kind::Update,
            Op::Delete => Kind::Close,
        };
        if op == Op::Delete {
            self.expected.accounts.remove(&key);
            self.push(Table::Account, key, op, Row::None);
        } else {
            self.expected.accounts.insert(key, Account { account, version, balance });
            self.push(Table::Account, key, op, Row::Account { account, version, balance });
        }
        self.journal_seq += 1;
        self.expected.journal.insert(self.journal_seq, (kind, key, version));
        self.push(Table::Journal, self.journal_seq, Op::Create, Row::Journal { kind, account_id: key, version });
    }

    fn commit(&mut self) {
        self.marker_id += 1;
        let records = self.order + 1;
        self.expected.markers.insert(self.marker_id, records);
        self.push(Table::Marker, self.marker_id, Op::Create, Row::Marker { records });
        (self.commit, self.order) = (self.commit + 100, 0);
    }

    /// Two accounts, a transfer, a key change, another transfer, and a batch that comes and goes in part.
    fn good() -> History {
        let mut history = History { commit: 1000, ..History::default() };
        history.expected.sum = 200;
        history.account(Op::Create, 10, 1, 0, 100);
        history.account(Op::Create, 20, 2, 0, 100);
        history.commit();
        history.account(Op::Update, 10, 1, 1, 70);
        history.account(Op::Update, 20, 2, 1, 130);
        history.commit();
        history.account(Op::Delete, 10, 1, 1, 0);
        history.account(Op::Create, 11, 1, 2, 70);
        history.commit();
        history.account(Op::Update, 11, 1, 3, 75);
        history.account(Op::Update, 20, 2, 2, 125);
        history.commit();
        for id in 1..=3 {
            history.push(Table::Bulk, id, Op::Create, Row::Bulk { batch: 1 });
        }
        history.commit();
        history.push(Table::Bulk, 2, Op::Delete, Row::None);
        history.expected.bulk.insert(1, 2);
        history.commit();
        history
    }

    /// The index of the record of a table at a commit, counted from 0, of the `nth` such.
    fn find(&self, table: Table, transaction: u64, nth: usize) -> usize {
        let commit = 1000 + 100 * transaction;
        let matches = |record: &&(usize, &Record)| {
            record.1.table == table && record.1.change.as_ref().is_some_and(|change| change.place.commit == commit)
        };
        let all: Vec<_> = self.records.iter().enumerate().collect();
        all.iter().filter(matches).nth(nth).expect("such a record").0
    }

    fn change(&mut self, index: usize) -> &mut Change {
        self.records[index].change.as_mut().expect("a change")
    }

    /// Repeats what a table's partition has from a transaction on.
    fn repeat(&mut self, table: Table, from: u64) {
        let from = self.find(table, from, 0);
        let again: Vec<_> = self.records[from..].iter().filter(|record| record.table == table).cloned().collect();
        self.records.extend(again);
    }

    /// What the check finds once every record has its offset.
    fn broken(mut self, delivery: Delivery) -> Vec<Promise> {
        for (offset, record) in self.records.iter_mut().enumerate() {
            record.offset = offset as u64;
        }
        let (findings, _) = check(delivery, &self.records, &self.expected);
        findings.promises()
    }
}

#[track_caller]
fn breaks(promises: &[Promise], tamper: impl Fn(&mut History)) {
    for delivery in [AtLeastOnce, ExactlyOnce] {
        let mut history = History::good();
        tamper(&mut history);
        let broken = history.broken(delivery);
        for promise in promises {
            assert!(broken.contains(promise), "{delivery:?}: {promise:?} is not among {broken:?}");
        }
    }
}

#[test]
fn a_good_history_breaks_nothing() {
    assert_eq!(History::good().broken(AtLeastOnce), []);
    assert_eq!(History::good().broken(ExactlyOnce), []);
}

#[test]
fn whole_repeats_are_for_at_least_once_only() {
    let mut history = History::good();
    history.repeat(Table::Account, 1);
    history.repeat(Table::Marker, 3);
    assert_eq!(history.broken(AtLeastOnce), []);
    let mut history = History::good();
    history.repeat(Table::Marker, 3);
    assert_eq!(history.broken(ExactlyOnce), [Promise::Once]);
    let mut history = History::good();
    history.repeat(Table::Account, 1);
    assert_eq!(history.broken(ExactlyOnce), [Promise::Once, Promise::Tombstone]);
}

#[test]
fn what_a_dead_process_had_sent_may_come_after_its_successors_first() {
    let mut history = History::good();
    // The log of accounts of the second to fourth transaction: the old run ends after 0 and 1, the new one begins
    // at 1, then the rest of the old one comes, then the rest of the new one.
    let (second, third) = (history.find(Table::Account, 1, 0), history.find(Table::Account, 2, 0));
    let first: Vec<_> = history.records[second..third].to_vec();
    let rest: Vec<_> = history.records[third..].to_vec();
    history.records.splice(third..third, first.into_iter().filter(|record| record.table == Table::Account));
    history.records.extend(rest.into_iter().filter(|record| record.table == Table::Account));
    assert_eq!(history.broken(AtLeastOnce), []);
}

#[test]
fn a_lost_record_is_found() {
    for (table, transaction, nth) in
        [(Table::Account, 1, 1), (Table::Journal, 0, 0), (Table::Journal, 2, 1), (Table::Marker, 5, 0)]
    {
        breaks(&[Promise::Lost, Promise::Whole], |history| {
            history.records.remove(history.find(table, transaction, nth));
        });
    }
    breaks(&[Promise::Lost, Promise::Whole], |history| {
        history.records.remove(history.find(Table::Bulk, 4, 2));
    });
}

#[test]
fn a_lost_transaction_is_found() {
    breaks(&[Promise::Lost], |history| {
        history.records.retain(|record| record.change.as_ref().is_none_or(|change| change.place.commit != 1300));
    });
}

#[test]
fn a_reordered_key_is_found() {
    breaks(&[Promise::Order, Promise::KeyOrder], |history| {
        let (first, second) = (history.find(Table::Account, 1, 1), history.find(Table::Account, 3, 1));
        history.records.swap(first, second);
    });
}

#[test]
fn a_reordered_key_is_found_even_when_its_positions_say_otherwise() {
    breaks(&[Promise::KeyOrder], |history| {
        let (first, second) = (history.find(Table::Account, 1, 1), history.find(Table::Account, 3, 1));
        let row = history.change(first).row.clone();
        history.change(first).row = std::mem::replace(&mut history.change(second).row, row);
    });
}

#[test]
fn a_partial_transaction_is_found() {
    breaks(&[Promise::Whole], |history| {
        let cut = history.find(Table::Journal, 3, 0);
        history.records.retain({
            let place = history.records[cut].change.as_ref().expect("a change").place;
            move |record| record.change.as_ref().is_none_or(|change| change.place < place || change.place.commit > 1300)
        });
    });
}

#[test]
fn a_repeat_from_inside_a_transaction_is_found() {
    breaks(&[Promise::Repeat], |history| {
        let inside = history.find(Table::Account, 3, 1);
        history.records.push(history.records[inside].clone());
    });
}

#[test]
fn a_repeat_that_differs_is_found() {
    breaks(&[Promise::Repeat], |history| {
        let first = history.find(Table::Marker, 5, 0);
        let mut again = history.records[first].clone();
        again.change.as_mut().expect("a change").row = Row::Marker { records: 9 };
        history.records.push(again);
    });
}

#[test]
fn a_single_repeat_is_found_in_exactly_once() {
    for table in [Table::Account, Table::Journal, Table::Bulk, Table::Marker] {
        let mut history = History::good();
        let last = history.records.iter().rposition(|record| record.table == table && record.change.is_some());
        let again = history.records[last.expect("a record")].clone();
        history.records.push(again);
        assert!(history.broken(ExactlyOnce).contains(&Promise::Once), "{table:?}");
    }
}

#[test]
fn a_broken_sum_is_found() {
    breaks(&[Promise::Sum], |history| {
        let index = history.find(Table::Account, 1, 0);
        history.change(index).row = Row::Account { account: 1, version: 1, balance: 71 };
    });
}

#[test]
fn a_change_that_was_rolled_back_is_found() {
    breaks(&[Promise::Phantom], |history| {
        history.expected.journal.remove(&3);
    });
}

#[test]
fn a_key_in_two_partitions_is_found() {
    breaks(&[Promise::OnePartition], |history| {
        let index = history.find(Table::Account, 3, 0);
        history.records[index].partition = 1;
    });
}

#[test]
fn a_tombstone_missing_or_invented_is_found() {
    breaks(&[Promise::Tombstone], |history| history.records.retain(|record| record.change.is_some()));
    breaks(&[Promise::Tombstone], |history| {
        history.records.push(Record { table: Table::Account, partition: 0, offset: 0, key: 20, change: None });
    });
}

#[test]
fn an_xid_of_another_transaction_is_found() {
    breaks(&[Promise::Whole], |history| {
        let index = history.find(Table::Journal, 3, 0);
        history.change(index).xid += 1;
    });
}
