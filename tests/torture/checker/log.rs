//! Checks one partition in its own order.
//!
//! With at-least-once, several runs of walcat write a partition. Each run is a piece of the partition's history without a
//! gap, and starts with a transaction's first record in it. Runs overlap if a broker accepts the last requests of a dead
//! process after the first ones of its successor. So every record must be the next one of a run, or start a run. New records
//! must be in the order of the history, so that a consumer can drop repeats by position. With exactly-once there is one run.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Counts, Findings, Promise};
use crate::options::Delivery;
use crate::record::{NO_KEY, Op, Place, Record, Row, Table};

pub fn check(delivery: Delivery, records: &[Record], findings: &mut Findings, counts: &mut Counts) {
    let mut partitions: BTreeMap<(Table, u32), Vec<&Record>> = BTreeMap::new();
    let mut homes: HashMap<(Table, i64), u32> = HashMap::new();
    let mut keyless = BTreeSet::new();
    for record in records {
        if record.key == NO_KEY
            && let Some(change) = &record.change
            && !keyless.insert(change.place)
        {
            counts.repeats += 1;
            if delivery == Delivery::ExactlyOnce {
                findings.add(Promise::Once, || format!("{:?}: {} again", record.table, change.place));
            }
        }
        partitions.entry((record.table, record.partition)).or_default().push(record);
        let home = *homes.entry((record.table, record.key)).or_insert(record.partition);
        if record.key != NO_KEY && home != record.partition {
            let Record { table, key, partition, .. } = record;
            findings.add(Promise::OnePartition, || format!("{table:?} {key} is in {home} and in {partition}"));
        }
    }
    for ((table, partition), log) in &partitions {
        let name = format!("{table:?} {partition}");
        for pair in log.windows(2).filter(|pair| pair[0].offset >= pair[1].offset) {
            findings.add(Promise::Reading, || format!("{name}: offset {} after {}", pair[1].offset, pair[0].offset));
        }
        runs(delivery, &name, log, findings, counts);
        keys(&name, log, findings);
        tombstones(delivery, &name, log, findings);
        if delivery == Delivery::ExactlyOnce {
            pieces(&name, log, findings);
        }
    }
}

/// The marker at the end of a Kafka transaction uses an offset, so a hole between two records of one transaction shows that it
/// was committed in parts.
fn pieces(name: &str, log: &[&Record], findings: &mut Findings) {
    let mut last: Option<(u64, u64)> = None;
    for record in log {
        // A tombstone belongs to the delete before it.
        let Some(commit) = record.change.as_ref().map(|change| change.place.commit).or(last.map(|(commit, _)| commit))
        else {
            continue;
        };
        if let Some((before, offset)) = last
            && before == commit
            && record.offset != offset + 1
        {
            let place = Place { commit, order: 0 };
            findings.add(Promise::OneKafkaTransaction, || {
                format!("{name}: the transaction of {place} continues at {} after {offset}", record.offset)
            });
        }
        last = Some((commit, record.offset));
    }
}

/// The changes of a log with their offsets, except those without a key: a repeat of one may be in another partition.
fn places<'r>(log: &'r [&Record]) -> impl Iterator<Item = (u64, Place)> + 'r {
    let keyed = log.iter().filter(|record| record.key != NO_KEY);
    keyed.filter_map(|record| Some((record.offset, record.change.as_ref()?.place)))
}

fn runs(delivery: Delivery, name: &str, log: &[&Record], findings: &mut Findings, counts: &mut Counts) {
    let distinct: BTreeSet<Place> = places(log).map(|(_, place)| place).collect();
    let history: Vec<Place> = distinct.into_iter().collect();
    let begins = |index: usize| index == 0 || history[index - 1].commit != history[index].commit;
    // The next index of each run, the newest last.
    let mut open: Vec<usize> = Vec::new();
    let mut seen = 0;
    for (offset, place) in places(log) {
        let Ok(index) = history.binary_search(&place) else { continue };
        let is_repeat = index < seen;
        if index > seen {
            let missing = history[seen];
            findings.add(Promise::Order, || format!("{name}@{offset}: {place} comes before {missing}"));
        }
        seen = seen.max(index + 1);
        if is_repeat {
            counts.repeats += 1;
            if delivery == Delivery::ExactlyOnce {
                findings.add(Promise::Once, || format!("{name}@{offset}: {place} again"));
            }
        }
        if let Some(run) = open.iter().rposition(|next| *next == index) {
            if run + 1 < open.len() {
                // From here on, this run is being written.
                counts.late += 1;
                let run = open.remove(run);
                open.push(run);
            }
            if let Some(newest) = open.last_mut() {
                *newest += 1;
            }
            continue;
        }
        if !begins(index) {
            findings.add(Promise::Repeat, || format!("{name}@{offset}: {place} begins inside its transaction"));
        }
        if !open.is_empty() {
            counts.restarts += 1;
        }
        open.push(index + 1);
    }
}

/// The versions of each account's key, in the order of the log.
fn keys(name: &str, log: &[&Record], findings: &mut Findings) {
    let mut versions: HashMap<i64, i64> = HashMap::new();
    let mut seen = BTreeSet::new();
    for record in log {
        let Some(change) = &record.change else { continue };
        let Row::Account { version, .. } = change.row else { continue };
        if !seen.insert(change.place) {
            continue;
        }
        if let Some(last) = versions.insert(record.key, version)
            && last + 1 != version
        {
            let Record { key, offset, .. } = record;
            findings.add(Promise::KeyOrder, || format!("{name}@{offset}: {key} has version {version} after {last}"));
        }
    }
}

/// A tombstone follows every delete, and every tombstone follows a delete.
fn tombstones(delivery: Delivery, name: &str, log: &[&Record], findings: &mut Findings) {
    #[derive(Default)]
    struct Seen {
        deletes: BTreeSet<Place>,
        tombstones: usize,
        /// The first copy of a delete, without a tombstone yet.
        waits: bool,
    }
    let mut keys: HashMap<i64, Seen> = HashMap::new();
    for record in log {
        match &record.change {
            Some(change) if change.op == Op::Delete => {
                let seen = keys.entry(record.key).or_default();
                seen.waits |= seen.deletes.insert(change.place);
            }
            Some(_) => {}
            None => {
                let seen = keys.entry(record.key).or_default();
                seen.tombstones += 1;
                seen.waits = false;
                if seen.deletes.is_empty() {
                    findings.add(Promise::Tombstone, || {
                        format!("{name}@{}: of {}, which was not deleted", record.offset, record.key)
                    });
                }
            }
        }
    }
    for (key, seen) in &keys {
        let (deletes, tombstones) = (seen.deletes.len(), seen.tombstones);
        let too_few = tombstones < deletes || seen.waits;
        let too_many = delivery == Delivery::ExactlyOnce && tombstones > deletes;
        if too_few || too_many {
            findings
                .add(Promise::Tombstone, || format!("{name}: {key} has {deletes} deletes, {tombstones} tombstones"));
        }
    }
}
