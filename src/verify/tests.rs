//! The fold against a model: what a table was at an LSN, and a topic with partitions, repeats, later records and
//! compaction.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::columns::Layouts;
use super::entries::Entries;
use super::fold::{self, Fold, Records, Settings, Verdict};
use super::hash::KeyHash;
use crate::lsn::Lsn;

type Record = (i32, Option<Vec<u8>>, Option<Vec<u8>>);

/// Records, each with its place in the order in which they were written.
type Topic = Vec<(usize, Record)>;

fn key(id: u64) -> Vec<u8> {
    format!(r#"{{"id":{id}}}"#).into_bytes()
}

fn row(id: u64, value: u64) -> String {
    format!(r#"{{"id":{id},"v":{value}}}"#)
}

fn value(commit: u64, order: u64, op: char, after: Option<&str>) -> Vec<u8> {
    let after = after.unwrap_or("null");
    let (snapshot, transaction) = match op {
        'r' => ("true", "null".to_owned()),
        _ => ("false", format!(r#"{{"id":"7:{commit}","total_order":{order}}}"#)),
    };
    format!(
        r#"{{"before":null,"after":{after},"source":{{"snapshot":"{snapshot}","lsn":{commit}}},"transaction":{transaction},"op":"{op}"}}"#
    )
    .into_bytes()
}

fn change(partition: i32, id: u64, commit: u64, op: char, new: u64) -> Record {
    let after = (op != 'd').then(|| row(id, new));
    (partition, Some(key(id)), Some(value(commit, id + 1, op, after.as_deref())))
}

fn tombstone(partition: i32, id: u64) -> Record {
    (partition, Some(key(id)), None)
}

fn truncate(partition: i32, commit: u64) -> Record {
    (partition, None, Some(value(commit, 1, 't', None)))
}

fn fold(snapshot: u64, has_one_partition: bool, is_complete: bool, bytes_max: usize) -> Fold {
    let settings = Settings { snapshot: Lsn(snapshot), has_one_partition, is_complete };
    let layouts = Layouts::new(vec!["id".to_owned(), "v".to_owned()], vec![r#""unsent""#.to_owned()]);
    Fold::new(settings, layouts, Entries::new(bytes_max, u64::MAX / 2))
}

/// The verdicts on rows, the surplus keys, and the number of keys that may have changed since.
#[derive(Debug, Default, PartialEq)]
struct Result {
    rows: BTreeMap<u64, Verdict>,
    surplus: HashSet<KeyHash>,
    changed_since: u64,
    passes: u32,
    records: Records,
}

/// `there` says of a record's place in the topic whether it was in Kafka before the snapshot.
fn compare(mut fold: Fold, topic: &[(usize, Record)], there: usize, rows: &BTreeMap<u64, u64>) -> Result {
    let mut result = Result::default();
    loop {
        loop {
            for (place, (partition, key, value)) in topic {
                let (key, value, was_there) = (key.as_deref(), value.as_deref(), *place < there);
                fold.take(&fold::Record { partition: *partition, was_there, key, value });
            }
            if !fold.must_read_again() {
                break;
            }
        }
        for (id, value) in rows {
            let verdict = fold.row(&key(*id), &row(*id, *value));
            if verdict != Verdict::OtherPass {
                assert!(result.rows.insert(*id, verdict).is_none(), "two passes have judged {id}");
            }
        }
        result.changed_since += fold.finish(|key| assert!(result.surplus.insert(key), "surplus twice"));
        result.passes += 1;
        result.records = fold.records();
        if !fold.next_pass() {
            return result;
        }
    }
}

const EQUAL: Verdict = Verdict::Equal { has_unsent: false, is_older: false };

/// One key, id 1, in a topic that is complete or not. The snapshot is at 100.
#[test]
fn a_key_is_judged_by_its_last_record_in_the_snapshot() {
    let (insert, update) = (change(0, 1, 10, 'c', 1), change(0, 1, 20, 'u', 2));
    let (delete, later_update) = (change(0, 1, 30, 'd', 0), change(0, 1, 100, 'u', 3));
    let (later_delete, dead) = (change(0, 1, 110, 'd', 0), tombstone(0, 1));
    let (read, later_read) = (change(0, 1, 100, 'r', 2), change(0, 1, 101, 'r', 2));
    let (other, later_other) = (change(0, 2, 40, 'd', 0), change(0, 2, 120, 'd', 0));
    let complete = |topic: &[&Record], row: Option<u64>| verdict(topic, row, true);
    let compacted = |topic: &[&Record], row: Option<u64>| verdict(topic, row, false);
    fn verdict(topic: &[&Record], row: Option<u64>, is_complete: bool) -> (Option<Verdict>, usize, u64) {
        let topic: Vec<_> = topic.iter().map(|record| (*record).clone()).enumerate().collect();
        let rows = row.map(|value| (1, value)).into_iter().collect();
        let result = compare(fold(100, true, is_complete, 1 << 12), &topic, 2, &rows);
        (result.rows.get(&1).copied(), result.surplus.len(), result.changed_since)
    }
    let judged = |verdict: Verdict| (Some(verdict), 0, 0);
    for (topic, row, expected, expected_compacted) in [
        (vec![], Some(1), judged(Verdict::Missing), judged(Verdict::Missing)),
        (vec![], None, (None, 0, 0), (None, 0, 0)),
        (vec![&insert], Some(1), judged(EQUAL), judged(EQUAL)),
        (vec![&insert], None, (None, 1, 0), (None, 1, 0)),
        (vec![&insert], Some(2), judged(Verdict::Different), judged(Verdict::Different)),
        (vec![&insert, &update], Some(2), judged(EQUAL), judged(EQUAL)),
        (vec![&read], Some(2), judged(EQUAL), judged(EQUAL)),
        // A repeat ends where it was.
        (vec![&insert, &update, &insert, &update], Some(2), judged(EQUAL), judged(EQUAL)),
        (vec![&insert, &update, &insert], Some(2), judged(Verdict::Different), judged(Verdict::Different)),
        // Later records do not count, and may have replaced what counts.
        (vec![&insert, &later_update], Some(1), judged(EQUAL), judged(EQUAL)),
        (vec![&insert, &later_update], Some(3), judged(Verdict::Different), judged(Verdict::ChangedSince)),
        (vec![&insert, &later_update], None, (None, 1, 0), (None, 0, 1)),
        (vec![&later_update], Some(1), judged(Verdict::Missing), judged(Verdict::ChangedSince)),
        (vec![&later_read], Some(2), judged(Verdict::ChangedSince), judged(Verdict::ChangedSince)),
        (vec![&later_update], None, (None, 0, 0), (None, 0, 0)),
        (vec![&insert, &later_delete, &dead], Some(1), judged(EQUAL), judged(EQUAL)),
        (vec![&later_delete, &dead], Some(1), judged(Verdict::Missing), judged(Verdict::ChangedSince)),
        // Deletes.
        (vec![&insert, &delete, &dead], None, (None, 0, 0), (None, 0, 0)),
        (vec![&insert, &delete, &dead], Some(1), judged(Verdict::Missing), judged(Verdict::Missing)),
        (vec![&delete, &dead, &later_update], Some(1), judged(Verdict::Missing), judged(Verdict::ChangedSince)),
        // A tombstone alone: by hand, or its delete was compacted.
        (vec![&insert, &dead], Some(1), judged(Verdict::Missing), judged(Verdict::Missing)),
        (vec![&insert, &dead, &later_other], Some(1), judged(Verdict::Missing), judged(Verdict::Missing)),
        // The same, but only the first two records were there before the snapshot.
        (vec![&other, &insert, &dead], Some(1), judged(Verdict::ChangedSince), judged(Verdict::ChangedSince)),
        (vec![&other, &insert, &dead, &other], Some(1), judged(Verdict::Missing), judged(Verdict::Missing)),
        (
            vec![&other, &insert, &dead, &later_other],
            Some(1),
            judged(Verdict::ChangedSince),
            judged(Verdict::ChangedSince),
        ),
        (vec![&other, &insert, &later_other, &dead], Some(1), judged(EQUAL), judged(EQUAL)),
        // A later record was there before the snapshot: it is from a standby that lags.
        (vec![&later_other, &dead, &insert], Some(1), judged(EQUAL), judged(EQUAL)),
        (vec![&insert, &later_other, &dead], Some(1), judged(EQUAL), judged(EQUAL)),
        (vec![&dead, &other, &insert], Some(1), judged(EQUAL), judged(EQUAL)),
    ] {
        assert_eq!(complete(&topic, row), expected, "{topic:?} {row:?}");
        assert_eq!(compacted(&topic, row), expected_compacted, "compacted: {topic:?} {row:?}");
    }
}

#[test]
fn a_truncate_deletes_what_is_before_it_in_every_partition() {
    let topic = [
        change(0, 1, 10, 'c', 1),
        change(1, 2, 12, 'c', 1),
        truncate(0, 20),
        change(0, 1, 20, 'c', 5),
        // Partition 1 comes later, with rows from before and after the truncate.
        change(1, 3, 15, 'c', 1),
        change(1, 4, 30, 'c', 1),
        truncate(1, 90),
        change(1, 5, 95, 'r', 1),
        change(0, 6, 89, 'r', 1),
        truncate(1, 100),
    ];
    let topic: Vec<_> = topic.into_iter().enumerate().collect();
    let rows = BTreeMap::from([(5, 1)]);
    let result = compare(fold(100, false, true, 1 << 12), &topic, 9, &rows);
    assert_eq!(result.rows, BTreeMap::from([(5, EQUAL)]));
    assert_eq!(result.surplus, HashSet::new());
    assert_eq!(result.records, Records { all: 10, later: 1, keyless: 0, foreign: 0 });
    let at_50 = compare(fold(50, false, true, 1 << 12), &topic, 4, &BTreeMap::from([(1, 5), (4, 1)]));
    assert_eq!(at_50.rows, BTreeMap::from([(1, EQUAL), (4, EQUAL)]));
    assert_eq!(at_50.surplus, HashSet::new());
}

#[test]
fn records_that_are_not_walcats_and_records_without_a_key_are_counted() {
    let topic =
        [(0, None, None), (0, Some(key(1)), Some(b"{}".to_vec())), (0, None, Some(value(10, 1, 'c', Some("{}"))))];
    let topic: Vec<_> = topic.into_iter().enumerate().collect();
    let result = compare(fold(100, true, true, 1 << 12), &topic, 0, &BTreeMap::new());
    assert_eq!(result.records, Records { all: 3, later: 0, keyless: 1, foreign: 2 });
}

/// What happens to a row.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        id: u64,
        value: u64,
    },
    Delete {
        id: u64,
    },
    Truncate,
    /// The stream restarts and repeats this many transactions.
    Restart {
        back: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0_u64..20, 0_u64..4).prop_map(|(id, value)| Step::Write { id, value }),
        4 => (0_u64..20).prop_map(|id| Step::Delete { id }),
        1 => Just(Step::Truncate),
        2 => (1_usize..10).prop_map(|back| Step::Restart { back }),
    ];
    prop::collection::vec(step, 0..120)
}

/// The records of the steps with the table after each commit. Each transaction has one change; its LSN is its number
/// times 10.
fn stream(steps: &[Step], partitions: i32, truncates: bool) -> (Topic, BTreeMap<u64, BTreeMap<u64, u64>>) {
    let partition = |id: u64| i32::try_from(id % 7).unwrap_or_default() % partitions;
    let (mut topic, mut table, mut tables) = (Vec::new(), BTreeMap::new(), BTreeMap::from([(0, BTreeMap::new())]));
    let mut transactions: Vec<Vec<Record>> = Vec::new();
    for step in steps {
        let commit = (transactions.len() as u64 + 1) * 10;
        let records = match *step {
            Step::Restart { back } => {
                let from = transactions.len().saturating_sub(back);
                topic.extend(transactions[from..].iter().flatten().cloned());
                continue;
            }
            Step::Write { id, value } => {
                let op = if table.insert(id, value).is_some() { 'u' } else { 'c' };
                vec![change(partition(id), id, commit, op, value)]
            }
            Step::Delete { id } if table.remove(&id).is_some() => {
                vec![change(partition(id), id, commit, 'd', 0), tombstone(partition(id), id)]
            }
            Step::Truncate if truncates => {
                table.clear();
                vec![truncate(i32::try_from(commit % 3).unwrap_or_default() % partitions, commit)]
            }
            Step::Delete { .. } | Step::Truncate => continue,
        };
        topic.extend(records.iter().cloned());
        transactions.push(records);
        tables.insert(commit, table.clone());
    }
    (topic.into_iter().enumerate().collect(), tables)
}

/// Removes what a later record of the same key replaces, up to this place.
fn compact(topic: &[(usize, Record)], up_to: usize) -> Topic {
    let kept = topic.iter().filter(|(place, record)| {
        let replaces = |later: usize, other: &Record| later > *place && later < up_to && other.1 == record.1;
        record.1.is_none() || !topic.iter().any(|(later, other)| replaces(*later, other))
    });
    kept.cloned().collect()
}

/// The records partition by partition, as one reader may see them.
fn by_partition(topic: &[(usize, Record)], partitions: i32) -> Topic {
    let of = |partition| topic.iter().filter(move |(_, record)| record.0 == partition).cloned();
    (0..partitions).flat_map(of).collect()
}

/// How many records may have been in Kafka before a snapshot after this commit: all those before the first later one.
fn there_at_most(topic: &[(usize, Record)], commit: u64) -> usize {
    let is_later = |record: &Record| {
        let seen = record.2.as_deref().map(super::record::read);
        seen.is_some_and(|seen| seen.is_ok_and(|seen| seen.moment.lsn > Lsn(commit)))
    };
    topic.iter().position(|(_, record)| is_later(record)).unwrap_or(topic.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the snapshot, the memory and the partitions: a complete topic equals its table.
    #[test]
    fn a_complete_topic_equals_the_table_at_any_snapshot(
        steps in steps(), at in 0_usize..1_000, between in 1_u64..=10, partitions in 1_i32..4, small in any::<bool>(),
        there in 0_usize..200,
    ) {
        let (topic, tables) = stream(&steps, partitions, true);
        let (commit, table) = tables.iter().nth(at % tables.len()).unwrap();
        let bytes_max = if small { 0 } else { 1 << 14 };
        let fold = fold(commit + between, partitions == 1, true, bytes_max);
        let there = there.min(there_at_most(&topic, *commit));
        let result = compare(fold, &by_partition(&topic, partitions), there, table);
        prop_assert!(result.rows.values().all(|verdict| *verdict == EQUAL), "{:?}", result);
        prop_assert_eq!(result.rows.len(), table.len());
        prop_assert!(result.surplus.is_empty() && result.changed_since == 0, "{:?}", result);
    }

    /// Compaction never makes a difference out of nothing, whatever was changed since the snapshot.
    #[test]
    fn a_compacted_topic_never_differs(
        steps in steps(), at in 0_usize..1_000, up_to in 0_usize..200, partitions in 1_i32..4, small in any::<bool>(),
        there in 0_usize..200,
    ) {
        let (topic, tables) = stream(&steps, partitions, false);
        let (commit, table) = tables.iter().nth(at % tables.len()).unwrap();
        let there = there.min(there_at_most(&topic, *commit));
        let topic = by_partition(&compact(&topic, up_to), partitions);
        let fold = fold(commit + 1, partitions == 1, false, if small { 0 } else { 1 << 14 });
        let result = compare(fold, &topic, there, table);
        let passes = |verdict: &Verdict| matches!(verdict, Verdict::ChangedSince) || *verdict == EQUAL;
        prop_assert!(result.rows.values().all(passes), "{:?}", result);
        prop_assert!(result.surplus.is_empty(), "{:?}", result);
    }

    /// One wrong row in the table is found, and nothing else, in one pass as in several.
    #[test]
    fn one_difference_is_found(
        steps in steps(), which in 0_u64..20, partitions in 1_i32..4, small in any::<bool>(),
    ) {
        let (topic, tables) = stream(&steps, partitions, true);
        let (commit, table) = tables.last_key_value().unwrap();
        let topic = by_partition(&topic, partitions);
        let compare = |table: &BTreeMap<u64, u64>| {
            compare(fold(commit + 1, partitions == 1, true, if small { 0 } else { 1 << 14 }), &topic, 0, table)
        };
        let mut other = table.clone();
        let expected = match other.remove(&which) {
            Some(value) => {
                let result = compare(&other);
                prop_assert_eq!(result.surplus, HashSet::from([KeyHash::of(&key(which))]));
                other.insert(which, value + 1);
                Verdict::Different
            }
            None => {
                other.insert(which, 1);
                Verdict::Missing
            }
        };
        let result = compare(&other);
        let found: Vec<_> = result.rows.iter().filter(|(_, verdict)| **verdict != EQUAL).collect();
        prop_assert_eq!(found, vec![(&which, &expected)]);
        prop_assert!(result.surplus.is_empty() && (!small || other.len() < 15 || result.passes > 1), "{:?}", result);
    }
}
