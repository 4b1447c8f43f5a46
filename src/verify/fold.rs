//! Folds the records of a topic by key as of a snapshot, and judges each row of the table.
//!
//! One pass covers a range of the keys' hashes: first every record of the topic, then every row of the table, then what is
//! left. If the keys of a range do not fit, the range is halved on the way, and more passes follow.
//!
//! Records count by their place in the partition, as for a consumer: a repeat puts the same state there again. What decides
//! whether a record counts at all is its moment.
//!
//! - A truncate has no key, and in a topic of several partitions no place among the rows: everything before its moment is
//!   deleted. So the topic is read again once such a moment is found.
//! - A tombstone has no moment. It belongs to the delete before it; compaction may have removed that delete. Then it is in
//!   the snapshot if it was in Kafka before the snapshot was taken. Otherwise the records of the partition around it
//!   decide; between one that is in the snapshot and one that is not, the key is not judged.
//! - Compaction removes a record that a later one replaces. If the later one is not in the snapshot, the key is not judged
//!   unless it is equal.

use std::collections::{HashMap, HashSet};

use super::columns::Layouts;
use super::entries::{Entries, Entry, Full, State};
use super::hash::KeyHash;
use super::record::{self, Content, Moment};
use crate::lsn::Lsn;

/// What does not change between the passes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The snapshot's LSN.
    pub snapshot: Lsn,
    /// Whether the topic has one partition.
    pub has_one_partition: bool,
    /// Whether the topic still has every record: it was never compacted, and nothing was deleted by retention.
    pub is_complete: bool,
}

/// The verdict on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another pass compares it.
    OtherPass,
    /// The topic has the same row.
    Equal { has_unsent: bool, is_older: bool },
    /// The topic does not have it.
    Missing,
    /// The topic has another row under this key.
    Different,
    /// The topic has only later records of this key.
    ChangedSince,
}

/// What the records of the topic were, in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// All of them.
    pub all: u64,
    /// Later than the snapshot.
    pub later: u64,
    /// Without a key, except truncates.
    pub keyless: u64,
    /// Not walcat's.
    pub foreign: u64,
}

/// A range of the keys' hashes, with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: u64,
    pub to: u64,
}

impl Range {
    pub(super) const ALL: Range = Range { from: 0, to: u64::MAX };

    /// The range after this one, as wide; none after the last one.
    pub(super) fn next(self) -> Option<Range> {
        let Range { from, to } = self;
        let next = to.checked_add(1)?;
        Some(Range { from: next, to: next.saturating_add(to - from) })
    }

    /// The lower half.
    pub(super) fn lower_half(self) -> Range {
        Range { from: self.from, to: self.from + (self.to - self.from) / 2 }
    }

    pub(super) fn has(self, key: KeyHash) -> bool {
        (self.from..=self.to).contains(&key.range)
    }

    /// The passes that all hashes take if each is as wide as this one.
    #[must_use]
    pub fn passes(self) -> u64 {
        let width = u128::from(self.to - self.from) + 1;
        u64::try_from((1_u128 << 64).div_ceil(width)).unwrap_or(u64::MAX)
    }
}

/// The records around a place in a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Partition {
    /// Whether the last record with a moment is later than the snapshot.
    is_later: bool,
    /// The number of the tombstones since that record that have no delete; none if there are none.
    run: Option<u64>,
}

/// The fold of one topic.
#[derive(Debug)]
pub struct Fold {
    settings: Settings,
    layouts: Layouts,
    entries: Entries,
    range: Range,
    /// The last truncate in the snapshot.
    floor: Option<Moment>,
    /// Whether rows of this pass were folded without it.
    is_floor_new: bool,
    partitions: HashMap<i32, Partition>,
    runs: u64,
    /// The runs of tombstones that no record in the snapshot follows.
    doubtful: HashSet<u64>,
    /// Whether a record that was in Kafka before the snapshot is later than the snapshot: the snapshot is from a standby
    /// that lags behind the stream.
    lags: bool,
    records: Records,
}

/// A record of a topic.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Whether it was in Kafka before the snapshot was taken.
    pub was_there: bool,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none for a tombstone.
    pub value: Option<&'a [u8]>,
}

impl Fold {
    /// A fold that begins with its first pass.
    #[must_use]
    pub fn new(settings: Settings, layouts: Layouts, entries: Entries) -> Self {
        Fold {
            settings,
            layouts,
            entries,
            range: Range::ALL,
            floor: None,
            is_floor_new: false,
            partitions: HashMap::new(),
            runs: 0,
            doubtful: HashSet::new(),
            lags: false,
            records: Records::default(),
        }
    }

    /// What this pass has read of the topic.
    #[must_use]
    pub fn records(&self) -> Records {
        self.records
    }

    /// The range of this pass.
    #[must_use]
    pub fn range(&self) -> Range {
        self.range
    }

    /// The number of keys in memory.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// After the last record of the topic: whether a truncate was found that the rows of other partitions were folded
    /// without, so that the topic has to be read again for this pass.
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
        self.entries.clear();
        self.partitions.clear();
        self.doubtful.clear();
        self.records = Records::default();
    }

    /// Takes a record. Those of a partition come in order.
    pub fn take(&mut self, record: &Record<'_>) {
        self.records.all += 1;
        let Record { partition, was_there, key, value } = *record;
        let Some(value) = value else {
            match key {
                Some(key) => self.tombstone(partition, was_there, KeyHash::of(key)),
                None => self.records.foreign += 1,
            }
            return;
        };
        let Ok(seen) = record::read(value) else {
            self.records.foreign += 1;
            return;
        };
        let is_later = !seen.moment.is_in(self.settings.snapshot);
        self.records.later += u64::from(is_later);
        self.lags |= is_later && was_there;
        self.pass_by(partition, is_later);
        match (key, seen.content) {
            (_, Content::Truncate) if is_later => {}
            (_, Content::Truncate) => self.truncate(seen.moment),
            (None, _) => self.records.keyless += 1,
            (Some(key), content) => self.change(KeyHash::of(key), seen.moment, content, is_later),
        }
    }

    fn pass_by(&mut self, partition: i32, is_later: bool) {
        let partition = self.partitions.entry(partition).or_default();
        if let Some(run) = partition.run.take()
            && !is_later
        {
            self.doubtful.remove(&run);
        }
        partition.is_later = is_later;
    }

    fn truncate(&mut self, moment: Moment) {
        if self.floor.is_some_and(|floor| moment <= floor) {
            return;
        }
        self.floor = Some(moment);
        if self.settings.has_one_partition {
            self.entries.retain(|entry| entry.later);
            // Their state is before the truncate too.
            self.entries.for_each(|entry| entry.state = State::Deleted);
        } else {
            self.is_floor_new = true;
        }
    }

    fn change(&mut self, key: KeyHash, moment: Moment, content: Content<'_>, is_later: bool) {
        if !self.range.has(key) {
            return;
        }
        let is_truncated = self.floor.is_some_and(|floor| moment < floor);
        let (state, is_read) = match content {
            Content::Row { is_read, .. } if is_later => (None, is_read),
            Content::Row { .. } if is_truncated => (Some(State::Deleted), false),
            Content::Row { after, .. } => match self.layouts.of_record(after) {
                Ok((layout, hash)) => (Some(State::Live { layout, hash }), false),
                Err(_) => {
                    self.records.foreign += 1;
                    return;
                }
            },
            Content::Delete | Content::Truncate => ((!is_later).then_some(State::Deleted), false),
        };
        let Some(entry) = self.entry(key) else { return };
        entry.last_is_later = is_later;
        match state {
            Some(state) => entry.state = state,
            None => {
                entry.later = true;
                entry.later_read |= is_read;
            }
        }
    }

    fn tombstone(&mut self, partition: i32, was_there: bool, key: KeyHash) {
        if !self.range.has(key) {
            return;
        }
        let Partition { is_later, run } = self.partitions.get(&partition).copied().unwrap_or_default();
        let (number, is_known) = (run.unwrap_or(self.runs), was_there && !self.lags);
        let Some(entry) = self.entry(key) else { return };
        // It belongs to the delete before it, or comes after a later record.
        if entry.last_is_later || entry.state == State::Deleted {
            return;
        }
        if is_known {
            entry.state = State::Deleted;
        } else if is_later {
            (entry.later, entry.last_is_later) = (true, true);
        } else {
            entry.state = State::Tombstone { run: number };
            if run.is_none() {
                self.runs += 1;
                self.doubtful.insert(number);
                self.partitions.entry(partition).or_default().run = Some(number);
            }
        }
    }

    /// The entry of a key; none if the range was halved and no longer has it.
    fn entry(&mut self, key: KeyHash) -> Option<&mut Entry> {
        while self.range.has(key) {
            match self.entries.find_or_add(key) {
                Ok(_) => return self.entries.find(key),
                Err(Full) => self.halve(),
            }
        }
        None
    }

    fn halve(&mut self) {
        let Range { from, to } = self.range;
        assert!(from < to, "the keys with one hash fill the memory");
        let range = Range { from, to: from + (to - from) / 2 };
        self.range = range;
        self.entries.retain(|entry| range.has(entry.key));
    }

    /// The state of an entry, with the doubt about a tombstone resolved.
    fn resolved(&self, entry: &Entry) -> (State, bool) {
        match entry.state {
            State::Tombstone { run } if self.doubtful.contains(&run) => (State::Unknown, true),
            State::Tombstone { .. } => (State::Deleted, entry.later),
            state => (state, entry.later),
        }
    }

    /// Judges a row of the table.
    pub fn row(&mut self, key: &[u8], after: &str) -> Verdict {
        let key = KeyHash::of(key);
        if !self.range.has(key) {
            return Verdict::OtherPass;
        }
        let Some(entry) = self.entries.find(key) else { return Verdict::Missing };
        entry.found = true;
        let entry = *entry;
        let is_complete = self.settings.is_complete;
        match self.resolved(&entry) {
            (State::Live { layout, hash }, later) => match (self.layouts.layout(layout), later) {
                (None, _) => Verdict::ChangedSince,
                (Some(columns), _) if self.layouts.of_row(layout, after) == Ok(hash) => {
                    Verdict::Equal { has_unsent: columns.has_unsent, is_older: columns.is_older }
                }
                (Some(_), true) if !is_complete => Verdict::ChangedSince,
                _ => Verdict::Different,
            },
            // A row that was read later was not in the topic before, and nothing is wrong with that.
            (State::Unknown, _) if !is_complete || entry.later_read || entry.state != State::Unknown => {
                Verdict::ChangedSince
            }
            (State::Deleted | State::Tombstone { .. }, true) if !is_complete => Verdict::ChangedSince,
            _ => Verdict::Missing,
        }
    }

    /// After the last row: calls `surplus` with each key that the table does not have, and returns the number of keys that
    /// it may not have because of later changes.
    pub fn finish(&self, mut surplus: impl FnMut(KeyHash)) -> u64 {
        let mut changed_since = 0;
        for entry in self.entries.iter().filter(|entry| !entry.found) {
            match self.resolved(entry) {
                (State::Live { .. }, true) if !self.settings.is_complete => changed_since += 1,
                (State::Live { .. }, _) => surplus(entry.key),
                _ => {}
            }
        }
        changed_since
    }
}
