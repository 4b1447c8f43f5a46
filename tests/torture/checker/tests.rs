//! Every check can fail: a correct history, and ways to damage it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fold::PARTIAL_MAX;
use super::{Account, Expected, Findings, Fold, Promise, check, compare_readings};
use crate::options::Delivery::{self, AtLeastOnce, ExactlyOnce};
use crate::record::{Change, DeadLetter, Kind, NO_KEY, Op, Place, Reading, Record, Row, Table};

/// Builds topics of one partition each, transaction by transaction.
#[derive(Default)]
struct History {
    records: Vec<Record>,
    dead_letters: Vec<DeadLetter>,
    fleeting: Vec<Record>,
    /// Kafka transactions end before these records.
    cuts: Vec<usize>,
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
            _ => Kind::Close,
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

    /// Two accounts, a transfer, a key change, another transfer, and a batch that is inserted and partly deleted.
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

    /// Pages before and after a TRUNCATE, messages, a document that Kafka rejects once it has grown, and its neighbour.
    fn good_with_all() -> History {
        let mut history = History::good();
        history.page(1);
        history.push(Table::Message, 5, Op::Message, Row::Key);
        history.expected.messages.insert(5, true);
        history.commit();
        history.push(Table::Page, NO_KEY, Op::Truncate, Row::None);
        history.expected.truncates = 1;
        history.page(2);
        history.commit();
        history.expected.pages.remove(&1);
        history.push(Table::Document, 7, Op::Create, Row::Key);
        history.dead_letters.push(DeadLetter { commit: history.commit, document: 7 });
        history.order += 1;
        history.push(Table::Document, 8, Op::Create, Row::Key);
        history.expected.documents = BTreeMap::from([(7, true), (8, false)]);
        history.commit();
        let change =
            Change { place: Place { commit: history.commit, order: 0 }, xid: 0, op: Op::Message, row: Row::Key };
        let message = Record { table: Table::Message, partition: 0, offset: 0, key: 6, change: Some(change) };
        history.records.push(message);
        history.expected.messages.insert(6, false);
        history.fleeting.push(Record { table: Table::Fleeting, partition: 0, offset: 0, key: 3, change: None });
        history.expected.fleeting.insert(3);
        history
    }

    fn page(&mut self, page_id: i64) {
        self.push(Table::Page, page_id, Op::Create, Row::Key);
        self.expected.pages.insert(page_id, ());
        self.expected.pages_ever.insert(page_id, ());
    }

    /// The index of the `nth` record, from 0, of a table at a commit.
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

    /// Repeats the records of a table's partition from a transaction on.
    fn repeat(&mut self, table: Table, from: u64) {
        let from = self.find(table, from, 0);
        let again: Vec<_> = self.records[from..].iter().filter(|record| record.table == table).cloned().collect();
        self.records.extend(again);
    }

    /// Sets the offset of every record: a Kafka transaction for each PostgreSQL transaction, with a marker at its end, and
    /// another marker at each cut.
    fn place(&mut self) {
        let mut ends: BTreeMap<(Table, u32), (u64, u64)> = BTreeMap::new();
        for (index, record) in self.records.iter_mut().enumerate() {
            let (next, last) = ends.entry((record.table, record.partition)).or_insert((0, 0));
            let commit = record.change.as_ref().map_or(*last, |change| change.place.commit);
            if commit != *last || self.cuts.contains(&index) {
                *next += 1;
            }
            record.offset = *next;
            (*next, *last) = (*next + 1, commit);
        }
    }

    fn reading(mut self) -> (Reading, Expected) {
        self.place();
        let (records, dead_letters, fleeting) = (self.records, self.dead_letters, self.fleeting);
        let reading = Reading { records, dead_letters, fleeting, stock: Vec::new() };
        (reading, self.expected)
    }

    /// The findings of the check.
    fn broken(self, delivery: Delivery) -> Vec<Promise> {
        let (reading, expected) = self.reading();
        check(delivery, &reading, &expected).0.promises()
    }
}

#[track_caller]
fn breaks(promises: &[Promise], tamper: impl Fn(&mut History)) {
    for delivery in [AtLeastOnce, ExactlyOnce] {
        let mut history = History::good_with_all();
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
    assert_eq!(History::good_with_all().broken(AtLeastOnce), []);
    assert_eq!(History::good_with_all().broken(ExactlyOnce), []);
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
    assert_eq!(history.broken(ExactlyOnce), [Promise::Once, Promise::Tombstone, Promise::Sum]);
}

#[test]
fn what_a_dead_process_had_sent_may_come_after_its_successors_first() {
    let mut history = History::good();
    // The log of accounts from the second to the fourth transaction: the old run writes 0 and 1, the new one starts at 1, then
    // the rest of the old run follows, then the rest of the new one.
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

#[test]
fn a_sum_that_is_broken_for_a_moment_is_found_by_nothing_else() {
    for delivery in [AtLeastOnce, ExactlyOnce] {
        let mut history = History::good_with_all();
        // The next transaction has the right balances again, so the tables are equal in the end.
        let index = history.find(Table::Account, 1, 1);
        history.change(index).row = Row::Account { account: 2, version: 1, balance: 131 };
        assert_eq!(history.broken(delivery), [Promise::Sum]);
    }
}

#[test]
fn a_transaction_that_is_seen_before_the_first_accounts_says_nothing_of_the_money() {
    for delivery in [AtLeastOnce, ExactlyOnce] {
        let mut history = History { commit: 900, ..History::default() };
        history.expected.sum = 200;
        history.push(Table::Message, 5, Op::Message, Row::Key);
        history.expected.messages.insert(5, true);
        history.commit();
        history.account(Op::Create, 10, 1, 0, 100);
        history.account(Op::Create, 20, 2, 0, 100);
        history.commit();
        assert_eq!(history.broken(delivery), []);
    }
}

#[test]
fn a_reader_who_folds_by_key_and_sees_an_old_balance_again_finds_the_sum_broken() {
    let mut history = History::good_with_all();
    let old = history.find(Table::Account, 1, 1);
    let old = history.records[old].clone();
    history.records.push(old);
    let broken = history.broken(ExactlyOnce);
    assert!(broken.contains(&Promise::Sum) && broken.contains(&Promise::Once), "{broken:?}");
}

#[test]
fn an_order_that_the_positions_do_not_tell_of_is_found() {
    // Two transfers swap places in the reading and have each other's commit LSNs.
    let mut history = History::good();
    let other = |commit| match commit {
        1100 => 1300,
        1300 => 1100,
        commit => commit,
    };
    for record in &mut history.records {
        if let Some(change) = &mut record.change {
            change.place.commit = other(change.place.commit);
            change.xid = 700 + change.place.commit;
        }
    }
    history.records.sort_by_key(|record| record.change.as_ref().map_or(1200, |change| change.place.commit));
    let broken = history.broken(AtLeastOnce);
    assert!(broken.contains(&Promise::Apply) && !broken.contains(&Promise::Whole), "{broken:?}");
}

#[test]
fn two_partitions_that_disagree_on_the_order_are_found() {
    breaks(&[Promise::Order], |history| {
        let (first, second) = (history.find(Table::Marker, 3, 0), history.find(Table::Marker, 4, 0));
        let (earlier, later) = (history.find(Table::Journal, 3, 0), history.find(Table::Bulk, 4, 0));
        assert!(first < second && earlier < later);
        // The batch's marker row is first, and its rows follow the accounts of the transfer in one partition.
        history.records.swap(first, second);
        for index in [later, later + 1, later + 2] {
            history.records[index].table = Table::Journal;
        }
    });
}

#[test]
fn a_transaction_that_was_committed_in_pieces_is_found_in_exactly_once() {
    let mut history = History::good_with_all();
    history.cuts.push(history.find(Table::Bulk, 4, 2));
    assert_eq!(history.broken(ExactlyOnce), [Promise::OneKafkaTransaction]);
    let mut history = History::good_with_all();
    // The tombstone of the second bulk row, after its delete.
    history.cuts.push(history.find(Table::Bulk, 5, 0) + 1);
    assert_eq!(history.broken(ExactlyOnce), [Promise::OneKafkaTransaction]);
    let mut history = History::good_with_all();
    history.cuts.push(history.find(Table::Bulk, 4, 2));
    assert_eq!(history.broken(AtLeastOnce), []);
}

/// The findings of a reader that has read everything except the marker row of the transfer, and then waits.
fn waits(delivery: Delivery, well_for: Duration) -> Vec<Promise> {
    let history = History::good();
    let end = history.find(Table::Marker, 1, 0);
    let (reading, expected) = history.reading();
    let (start, mut findings) = (Instant::now(), Findings::default());
    let mut fold = Fold::new(delivery, expected.sum);
    for record in &reading.records[..end] {
        fold.take(record, start, &mut findings);
    }
    let later = start + PARTIAL_MAX + Duration::from_secs(1);
    fold.look_at_parts(later, later - well_for, &mut findings);
    findings.promises()
}

#[test]
fn a_part_of_a_transaction_that_stays_visible_is_found_while_it_is_so() {
    assert_eq!(waits(ExactlyOnce, PARTIAL_MAX * 3), [Promise::Visible]);
    assert_eq!(waits(ExactlyOnce, PARTIAL_MAX / 2), [], "Kafka was not healthy until just now");
    assert_eq!(waits(AtLeastOnce, PARTIAL_MAX * 3), [], "only exactly-once promises it");
}

#[test]
fn what_was_seen_and_is_gone_or_changed_or_was_never_shown_is_found() {
    let compare = |tamper: &dyn Fn(&mut Vec<Record>)| {
        let (reading, _) = History::good().reading();
        let (mut live, mut findings) = (reading.records.clone(), Findings::default());
        tamper(&mut live);
        compare_readings(&live, &reading.records, &mut findings);
        findings.promises()
    };
    assert_eq!(compare(&|_| ()), []);
    assert_eq!(compare(&|live| live[3].key += 1), [Promise::Stays]);
    assert_eq!(compare(&|live| live[3].offset += 1_000), [Promise::Stays]);
    assert_eq!(compare(&|live| live.truncate(live.len() - 1)), [Promise::Stays]);
}

#[test]
fn a_truncate_or_a_page_that_is_lost_or_invented_is_found() {
    let truncate = |history: &History| history.find(Table::Page, 7, 0);
    breaks(&[Promise::Lost, Promise::Whole], |history| {
        history.records.remove(truncate(history));
    });
    breaks(&[Promise::Lost], |history| history.expected.truncates += 1);
    breaks(&[Promise::Phantom], |history| history.expected.truncates = 0);
    breaks(&[Promise::Lost], |history| {
        // It claims to come after the page that it must not remove.
        let (first, second) = (truncate(history), truncate(history) + 1);
        history.change(first).place.order = 2;
        history.change(second).place.order = 1;
    });
}

#[test]
fn a_message_that_is_lost_or_was_rolled_back_is_found() {
    breaks(&[Promise::Lost, Promise::Whole], |history| {
        history.records.remove(history.find(Table::Message, 6, 0));
    });
    breaks(&[Promise::Lost], |history| {
        history.records.retain(|record| (record.table, record.key) != (Table::Message, 6))
    });
    breaks(&[Promise::Phantom], |history| history.expected.messages.retain(|id, _| *id != 5));
    let mut history = History::good_with_all();
    history.expected.messages.remove(&6);
    assert_eq!(
        history.broken(ExactlyOnce),
        [],
        "outside of a transaction it may have been sent by one that was rolled back"
    );
}

#[test]
fn a_good_record_that_goes_with_a_refused_one_is_found() {
    for document in [7, 8] {
        breaks(&[Promise::Lost, Promise::Whole], |history| {
            history.records.retain(|record| (record.table, record.key) != (Table::Document, document));
        });
    }
}

#[test]
fn a_refused_record_without_a_dead_letter_or_with_one_too_many_is_found() {
    breaks(&[Promise::DeadLetters, Promise::Whole], |history| history.dead_letters.clear());
    breaks(&[Promise::DeadLetters], |history| history.dead_letters.push(DeadLetter { commit: 1800, document: 8 }));
    let mut history = History::good_with_all();
    history.dead_letters.push(history.dead_letters[0].clone());
    assert_eq!(history.broken(ExactlyOnce), [Promise::DeadLetters]);
    let mut history = History::good_with_all();
    history.dead_letters.push(history.dead_letters[0].clone());
    assert_eq!(history.broken(AtLeastOnce), [], "a whole repeat has its dead letters again");
}

#[test]
fn what_was_written_after_its_topic_was_deleted_and_is_lost_is_found() {
    breaks(&[Promise::Lost], |history| history.fleeting.clear());
    let mut history = History::good_with_all();
    history.fleeting.push(history.fleeting[0].clone());
    assert_eq!(history.broken(ExactlyOnce), [Promise::Once]);
}

#[test]
fn a_repeat_of_what_has_no_key_may_lie_in_another_partition() {
    // The second run starts with the TRUNCATE in another partition; the page after it is in the same partition again.
    let repeated = || {
        let mut history = History::good_with_all();
        let truncate = history.find(Table::Page, 7, 0);
        let [mut again, page] = [truncate, truncate + 1].map(|index| history.records[index].clone());
        again.partition = 1;
        history.records.insert(truncate + 2, page);
        // It may be read before the record that it repeats.
        history.records.insert(0, again);
        history
    };
    assert_eq!(repeated().broken(AtLeastOnce), []);
    let broken = repeated().broken(ExactlyOnce);
    assert!(broken.contains(&Promise::Once), "{broken:?}");
    let mut history = History::good_with_all();
    let mut again = history.records[history.find(Table::Page, 7, 0)].clone();
    again.partition = 1;
    history.records.push(again);
    assert_eq!(history.broken(ExactlyOnce), [Promise::Once]);
}
