//! Checks the tables whose first rows only snapshots send: the fold of their records equals the tables, and in exactly-once no
//! key goes back and no row is sent twice by one snapshot.

use std::collections::{BTreeMap, HashMap};

use super::{Findings, Promise};
use crate::options::Delivery;
use crate::record::{Op, Place, Record, Row};

/// Ids of one table are in one range of this size.
const IDS: i64 = 1_000_000_000;

/// What is in the tables at the end, and what was requested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// The version of each row.
    pub rows: BTreeMap<i64, i64>,
    /// How many times a snapshot of each table was requested. A request whose answer was lost counts too.
    pub requests: BTreeMap<i64, u32>,
}

/// What the records of one key have said so far.
#[derive(Default)]
struct Seen {
    partition: u32,
    /// The position of the last change.
    place: Option<Place>,
    /// The last version.
    version: i64,
    is_deleted: bool,
    /// How many times a snapshot sent it.
    reads: u32,
}

/// Returns the number of rows that snapshots sent.
pub fn check(delivery: Delivery, records: &[Record], expected: &Stock, findings: &mut Findings) -> usize {
    let mut seen: HashMap<i64, Seen> = HashMap::new();
    let mut rows = 0;
    for record in records {
        let key = record.key;
        let seen = seen.entry(key).or_insert_with(|| Seen { partition: record.partition, ..Seen::default() });
        if seen.partition != record.partition {
            findings.add(Promise::OnePartition, || format!("stock {key}: {} and {}", seen.partition, record.partition));
        }
        let Some(change) = &record.change else {
            // In at-least-once, a process that was frozen or killed may send old records late, which consumers drop by position.
            seen.is_deleted |= delivery == Delivery::ExactlyOnce;
            continue;
        };
        if delivery == Delivery::AtLeastOnce && seen.place.is_some_and(|last| change.place < last) {
            continue;
        }
        seen.place = Some(change.place);
        let Row::Stock { version } = change.row else {
            seen.is_deleted = true;
            continue;
        };
        let is_read = change.op == Op::Read;
        rows += usize::from(is_read);
        seen.reads += u32::from(is_read);
        if delivery == Delivery::ExactlyOnce {
            let requests = expected.requests.get(&(key / IDS)).copied().unwrap_or(0);
            if is_read && seen.reads > requests {
                findings
                    .add(Promise::Once, || format!("stock {key}: sent {} times by {requests} snapshots", seen.reads));
            }
            // A snapshot may send the state that the stream sent before. An id is never used again.
            let goes_back = if is_read { version < seen.version } else { version <= seen.version };
            if goes_back || seen.is_deleted {
                let (last, is_deleted) = (seen.version, seen.is_deleted);
                findings.add(Promise::KeyOrder, || {
                    format!("stock {key}: {:?} of version {version} after {last}, deleted: {is_deleted}", change.op)
                });
            }
        }
        (seen.version, seen.is_deleted) = (version, false);
    }
    for (key, version) in &expected.rows {
        let found = seen.get(key).filter(|seen| !seen.is_deleted).map(|seen| seen.version);
        if found != Some(*version) {
            findings.add(Promise::Lost, || format!("stock {key}: {version} in PostgreSQL, {found:?} in Kafka"));
        }
    }
    for key in
        seen.iter().filter(|(key, seen)| !seen.is_deleted && !expected.rows.contains_key(key)).map(|(key, _)| key)
    {
        findings.add(Promise::Phantom, || format!("stock {key} in Kafka, nothing in PostgreSQL"));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Delivery::{AtLeastOnce, ExactlyOnce};
    use crate::record::{Change, Place, Table};

    fn record(id: i64, op: Op, version: i64) -> Record {
        let row = if op == Op::Delete { Row::None } else { Row::Stock { version } };
        let change = Change { place: Place { commit: 5, order: 1 }, xid: 7, op, row };
        Record { table: Table::Stock, partition: 0, offset: 0, key: 2 * IDS + id, change: Some(change) }
    }

    fn broken(delivery: Delivery, records: &[Record], rows: &[(i64, i64)]) -> Vec<Promise> {
        let rows = rows.iter().map(|(id, version)| (2 * IDS + id, *version)).collect();
        let mut findings = Findings::default();
        check(delivery, records, &Stock { rows, requests: BTreeMap::from([(2, 1)]) }, &mut findings);
        findings.promises()
    }

    #[test]
    fn a_snapshot_beside_the_stream_is_right() {
        let records =
            [record(1, Op::Read, 1), record(2, Op::Update, 2), record(2, Op::Read, 2), record(1, Op::Delete, 0)];
        for delivery in [AtLeastOnce, ExactlyOnce] {
            assert_eq!(broken(delivery, &records, &[(2, 2)]), []);
        }
    }

    #[test]
    fn a_row_that_is_lost_old_or_gone_from_the_table_is_found() {
        let read = [record(1, Op::Read, 1)];
        for delivery in [AtLeastOnce, ExactlyOnce] {
            assert_eq!(broken(delivery, &[], &[(1, 1)]), [Promise::Lost]);
            assert_eq!(broken(delivery, &read, &[(1, 2)]), [Promise::Lost]);
            assert_eq!(broken(delivery, &read, &[]), [Promise::Phantom]);
        }
    }

    #[test]
    fn what_a_dead_process_sends_late_is_dropped_by_position_in_at_least_once() {
        let late = record(1, Op::Create, 1);
        let mut delete = record(1, Op::Delete, 0);
        delete.change.as_mut().expect("a change").place.commit = 9;
        assert_eq!(broken(AtLeastOnce, &[delete.clone(), late.clone()], &[]), []);
        assert_eq!(broken(ExactlyOnce, &[delete, late], &[]), [Promise::KeyOrder, Promise::Phantom]);
    }

    #[test]
    fn an_old_state_after_a_new_one_and_a_row_after_its_delete_are_found() {
        let old = [record(1, Op::Update, 3), record(1, Op::Read, 2), record(1, Op::Update, 4)];
        assert_eq!(broken(ExactlyOnce, &old, &[(1, 4)]), [Promise::KeyOrder]);
        let deleted = [record(1, Op::Delete, 0), record(1, Op::Read, 2), record(1, Op::Delete, 0)];
        assert_eq!(broken(ExactlyOnce, &deleted, &[]), [Promise::KeyOrder]);
    }

    #[test]
    fn a_row_that_a_snapshot_sends_twice_is_found_in_exactly_once() {
        let twice = [record(1, Op::Read, 1), record(1, Op::Read, 1)];
        assert_eq!(broken(ExactlyOnce, &twice, &[(1, 1)]), [Promise::Once]);
        assert_eq!(broken(AtLeastOnce, &twice, &[(1, 1)]), []);
    }

    #[test]
    fn a_key_in_two_partitions_is_found() {
        let mut records = [record(1, Op::Read, 1), record(1, Op::Update, 2)];
        records[1].partition = 1;
        assert_eq!(broken(AtLeastOnce, &records, &[(1, 2)]), [Promise::OnePartition]);
    }
}
