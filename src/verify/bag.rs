//! Compares the rows of a table without a key with the records of its topic: as multisets of the rows' hashes.
//!
//! An insert and a row that was read add a row, a delete removes its old row, an update does both, a truncate removes all.
//! The order does not matter, except that of a truncate. Each row of the table is then taken out again; what is left over
//! is missing or surplus. A record that at-least-once delivery has repeated leaves a surplus row, except in a topic of one
//! partition, where it is recognized because its position goes back.
//!
//! One pass covers a range of the hashes. If they do not fit, the range is halved on the way, and more passes follow.

use std::collections::HashMap;

use super::columns::{Layouts, WHOLE};
use super::fold::{Range, Record, Records, Settings};
use super::hash::KeyHash;
use super::record::{self, Content, Moment};

/// The bytes of a hash and its count in the map.
const PLACE_BYTES: usize = 25;

/// The rows of a topic, and of its table.
#[derive(Debug)]
pub struct Bag {
    settings: Settings,
    layouts: Layouts,
    /// How often the topic has a row more often than the table.
    counts: HashMap<KeyHash, i64>,
    len_max: usize,
    range: Range,
    /// The last truncate in the snapshot.
    floor: Option<Moment>,
    is_floor_new: bool,
    /// The last position of the only partition.
    last: Option<Moment>,
    records: Records,
    repeats: u64,
    reshaped: u64,
}

impl Bag {
    /// A bag in at most this much memory, for at most this many rows.
    #[must_use]
    pub fn new(settings: Settings, layouts: Layouts, bytes_max: usize, rows_max: u64) -> Self {
        // The map has a power of two of places, and uses 7 of 8. It never grows.
        let wanted = usize::try_from(rows_max).unwrap_or(usize::MAX / 2).max(16).next_power_of_two().saturating_mul(2);
        let affordable = 1_usize << (bytes_max / PLACE_BYTES).max(16).ilog2();
        let len_max = wanted.min(affordable) / 8 * 7;
        Bag {
            settings,
            layouts,
            counts: HashMap::with_capacity(len_max),
            len_max,
            range: Range::ALL,
            floor: None,
            is_floor_new: false,
            last: None,
            records: Records::default(),
            repeats: 0,
            reshaped: 0,
        }
    }

    /// What this pass has read of the topic.
    #[must_use]
    pub fn records(&self) -> Records {
        self.records
    }

    /// The records that were recognized as repeats, and those that have other columns than the table.
    #[must_use]
    pub fn repeats_and_reshaped(&self) -> (u64, u64) {
        (self.repeats, self.reshaped)
    }

    /// The range of this pass.
    #[must_use]
    pub fn range(&self) -> Range {
        self.range
    }

    /// After the last record: whether the topic has to be read again, because a truncate came after rows of other
    /// partitions.
    pub fn must_read_again(&mut self) -> bool {
        let again = std::mem::take(&mut self.is_floor_new);
        if again {
            self.begin();
        }
        again
    }

    /// Begins the next pass; false if there is none.
    pub fn next_pass(&mut self) -> bool {
        let Some(next) = self.range.next() else { return false };
        self.range = next;
        self.begin();
        true
    }

    fn begin(&mut self) {
        self.counts.clear();
        self.last = None;
        (self.records, self.repeats, self.reshaped) = (Records::default(), 0, 0);
    }

    /// Takes a record. Those of a partition come in order.
    pub fn take(&mut self, record: &Record<'_>) {
        self.records.all += 1;
        let Some(Ok(seen)) = record.value.map(record::read) else {
            self.records.foreign += 1;
            return;
        };
        if !seen.moment.is_in(self.settings.snapshot) {
            self.records.later += 1;
            return;
        }
        if self.settings.has_one_partition && seen.moment.order > 0 {
            if self.last.is_some_and(|last| seen.moment <= last) {
                self.repeats += 1;
                return;
            }
            self.last = Some(seen.moment);
        }
        if self.floor.is_some_and(|floor| seen.moment <= floor) {
            return;
        }
        match seen.content {
            Content::Truncate => {
                self.floor = Some(seen.moment);
                if self.settings.has_one_partition {
                    self.counts.clear();
                } else {
                    self.is_floor_new = true;
                }
            }
            Content::Row { after, .. } => {
                self.count(seen.before, -1);
                self.count(Some(after), 1);
            }
            Content::Delete => self.count(seen.before, -1),
        }
    }

    fn count(&mut self, row: Option<&str>, by: i64) {
        let Some(row) = row else { return };
        let is_whole = self.layouts.of_record(row).is_ok_and(|(layout, _)| layout == WHOLE);
        self.reshaped += u64::from(!is_whole);
        self.add(KeyHash::of(row.as_bytes()), by);
    }

    /// Takes a row of the table.
    pub fn row(&mut self, row: &str) {
        self.add(KeyHash::of(row.as_bytes()), -1);
    }

    fn add(&mut self, hash: KeyHash, by: i64) {
        if !self.range.has(hash) {
            return;
        }
        if self.counts.len() >= self.len_max && !self.counts.contains_key(&hash) {
            self.counts.retain(|_, count| *count != 0);
            // A map that is almost full would be searched for zeros again and again.
            while self.counts.len() > self.len_max / 4 * 3 {
                self.range = self.range.lower_half();
                let range = self.range;
                self.counts.retain(|hash, _| range.has(*hash));
            }
            if !self.range.has(hash) {
                return;
            }
        }
        *self.counts.entry(hash).or_default() += by;
    }

    /// The rows of this pass that only the table has, and that only the topic has.
    #[must_use]
    pub fn missing_and_surplus(&self) -> (u64, u64) {
        let sum = |sign: i64| self.counts.values().map(|count| (count * sign).max(0).unsigned_abs()).sum();
        (sum(-1), sum(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    fn value(commit: u64, order: u64, op: char, before: &str, after: &str) -> Vec<u8> {
        format!(
            r#"{{"before":{before},"after":{after},"source":{{"snapshot":"false","lsn":1}},"transaction":{{"id":"7:{commit}","total_order":{order},"data_collection_order":1}},"op":"{op}"}}"#
        )
        .into_bytes()
    }

    fn bag(has_one_partition: bool, bytes_max: usize) -> Bag {
        let settings = Settings { snapshot: Lsn(100), has_one_partition, is_complete: true };
        let layouts = Layouts::new(vec!["v".to_owned()], Vec::new());
        Bag::new(settings, layouts, bytes_max, 10_000)
    }

    fn row(v: u64) -> String {
        format!(r#"{{"v":{v}}}"#)
    }

    /// Missing and surplus rows of all passes.
    fn compared(mut bag: Bag, topic: &[(i32, Vec<u8>)], table: &[u64]) -> ((u64, u64), u64) {
        let (mut found, mut passes) = ((0, 0), 0);
        loop {
            let read = |bag: &mut Bag| {
                for (partition, value) in topic {
                    bag.take(&Record { partition: *partition, was_there: true, key: None, value: Some(value) });
                }
            };
            read(&mut bag);
            while bag.must_read_again() {
                read(&mut bag);
            }
            table.iter().for_each(|v| bag.row(&row(*v)));
            let (missing, surplus) = bag.missing_and_surplus();
            found = (found.0 + missing, found.1 + surplus);
            passes += 1;
            if !bag.next_pass() {
                return (found, passes);
            }
        }
    }

    #[test]
    fn rows_count_as_often_as_they_are_there() {
        let (a, b) = (row(1), row(2));
        let topic = [
            (0, value(10, 1, 'c', "null", &a)),
            (1, value(10, 2, 'c', "null", &a)),
            (0, value(20, 1, 'u', &a, &b)),
            (1, value(30, 1, 'd', &a, "null")),
            (0, value(40, 1, 'c', "null", &a)),
            (0, value(100, 1, 'c', "null", &a)),
        ];
        for (table, expected) in
            [(&[1, 2][..], (0, 0)), (&[1, 1, 2], (1, 0)), (&[2], (0, 1)), (&[1, 3], (1, 1)), (&[], (0, 2))]
        {
            assert_eq!(compared(bag(false, 1 << 20), &topic, table).0, expected, "{table:?}");
        }
    }

    #[test]
    fn a_truncate_removes_what_is_before_it_in_every_partition() {
        let topic = [
            (0, value(10, 1, 'c', "null", &row(1))),
            (0, value(30, 1, 'c', "null", &row(3))),
            (1, value(20, 1, 't', "null", "null")),
            (1, value(15, 1, 'c', "null", &row(2))),
        ];
        assert_eq!(compared(bag(false, 1 << 20), &topic, &[3]).0, (0, 0));
        let ordered: Vec<_> = [0, 2, 1].map(|place: usize| (0, topic[place].1.clone())).to_vec();
        assert_eq!(compared(bag(true, 1 << 20), &ordered, &[3]).0, (0, 0));
    }

    #[test]
    fn a_repeat_is_surplus_unless_the_topic_has_one_partition() {
        let record = value(10, 1, 'c', "null", &row(1));
        let topic = [(0, record.clone()), (0, value(20, 1, 'c', "null", &row(2))), (0, record)];
        assert_eq!(compared(bag(true, 1 << 20), &topic, &[1, 2]).0, (0, 0));
        assert_eq!(compared(bag(false, 1 << 20), &topic, &[1, 2]).0, (0, 1));
    }

    #[test]
    fn what_does_not_fit_is_compared_in_passes() {
        let topic: Vec<_> = (1..=2_000).map(|v| (0, value(v % 90 + 1, v, 'c', "null", &row(v)))).collect();
        let table: Vec<u64> = (2..=2_001).collect();
        let (found, passes) = compared(bag(false, PLACE_BYTES * 256), &topic, &table);
        assert_eq!(found, (1, 1));
        assert!(passes > 4, "{passes}");
    }
}
