//! One chunk, from before its read until its emission.
//!
//! From the moment it is opened it collects which keys the stream changes. As soon as its rows are complete it needs only
//! its own keys, so it does not grow while it waits for the stream.

use std::collections::HashMap;
use std::ops::Range;

use super::view::View;
use crate::limits::{SNAPSHOT_CHANGED_KEYS_MAX, SNAPSHOT_CHUNK_BYTES_MAX};
use crate::lsn::Lsn;

/// A row that the stream changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched<'a> {
    /// The row with this key, before or after the change. `is_whole` is false if the change omits a TOASTed value: then a
    /// consumer that has no older row cannot complete it.
    Key { key: &'a [u8], is_whole: bool },
    /// Some row of the table.
    Unknown,
}

/// Why a chunk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Useless {
    /// An unseen transaction has changed one of its rows without its TOASTed values.
    Incomplete,
    /// An unseen transaction has changed a row whose key is not known.
    UnknownKey,
    /// Too many keys have changed during the read.
    TooManyKeys,
}

/// A row that was touched before the view was known.
#[derive(Debug)]
struct Early {
    xid: u32,
    /// None for an unknown key.
    key: Option<Box<[u8]>>,
    is_whole: bool,
}

#[derive(Debug)]
enum Stage {
    /// Opened; the view is not known yet.
    Opened(Vec<Early>),
    /// Rows arrive. Contains the keys that unseen transactions have changed, and whether the changes are whole.
    Reading { view: View, changed: HashMap<Box<[u8]>, bool> },
    /// All rows have arrived. Held until the stream has passed `until`.
    Held { view: View, until: Lsn },
}

/// One chunk of a table.
#[derive(Debug)]
pub struct Chunk {
    stage: Stage,
    /// The rows as they were read, one after another.
    bytes: Vec<u8>,
    /// Each row's place; none if it is dropped.
    rows: Vec<Option<Range<usize>>>,
    places: HashMap<Box<[u8]>, usize>,
    last_key: Vec<u8>,
    dropped: u64,
    is_full: bool,
    useless: Option<Useless>,
}

impl Chunk {
    /// Opens a chunk before its read begins.
    #[must_use]
    pub fn open() -> Self {
        Chunk {
            stage: Stage::Opened(Vec::new()),
            bytes: Vec::new(),
            rows: Vec::new(),
            places: HashMap::new(),
            last_key: Vec::new(),
            dropped: 0,
            is_full: false,
            useless: None,
        }
    }

    /// The stream emits a change of its table.
    pub fn touched(&mut self, xid: u32, touched: Touched<'_>) {
        match &mut self.stage {
            Stage::Opened(early) if early.len() >= SNAPSHOT_CHANGED_KEYS_MAX => {
                self.useless = Some(Useless::TooManyKeys);
            }
            Stage::Opened(early) => early.push(match touched {
                Touched::Key { key, is_whole } => Early { xid, key: Some(key.into()), is_whole },
                Touched::Unknown => Early { xid, key: None, is_whole: false },
            }),
            Stage::Reading { view, .. } | Stage::Held { view, .. } if view.sees(xid) => {}
            Stage::Reading { .. } | Stage::Held { .. } => self.is_changed(touched),
        }
    }

    /// An unseen transaction changed a row.
    fn is_changed(&mut self, touched: Touched<'_>) {
        let Touched::Key { key, is_whole } = touched else {
            self.useless = Some(Useless::UnknownKey);
            return;
        };
        if let Some(place) = self.places.get(key) {
            self.drop_row(*place, is_whole);
        } else if let Stage::Reading { changed, .. } = &mut self.stage {
            let is_full = changed.len() >= SNAPSHOT_CHANGED_KEYS_MAX;
            match changed.get_mut(key) {
                // The change before may be the one that omits a value.
                Some(all_whole) => *all_whole &= is_whole,
                None if is_full => self.useless = Some(Useless::TooManyKeys),
                None => drop(changed.insert(key.into(), is_whole)),
            }
        }
    }

    fn drop_row(&mut self, place: usize, is_whole: bool) {
        if !is_whole {
            self.useless = Some(Useless::Incomplete);
        }
        if self.rows[place].take().is_some() {
            self.dropped += 1;
        }
    }

    /// The read begins with this view.
    ///
    /// # Panics
    /// If it has begun already.
    pub fn begin(&mut self, view: View) {
        let Stage::Opened(early) = &mut self.stage else { panic!("a chunk is read once") };
        let early = std::mem::take(early);
        self.stage = Stage::Reading { view, changed: HashMap::new() };
        for Early { xid, key, is_whole } in early {
            let touched = match &key {
                Some(key) => Touched::Key { key, is_whole },
                None => Touched::Unknown,
            };
            self.touched(xid, touched);
        }
    }

    /// Adds a row, in the order of the keys. Once the chunk has as many bytes as it may keep, rows are left to the next one.
    ///
    /// # Panics
    /// If its rows are not being read.
    pub fn row(&mut self, key: &[u8], row: &[u8]) {
        let Stage::Reading { changed, .. } = &self.stage else { panic!("a row belongs to a read") };
        if self.is_full || !self.rows.is_empty() && self.bytes.len() + row.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            self.is_full = true;
            return;
        }
        let changed = changed.get(key).copied();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(row);
        self.rows.push(Some(start..self.bytes.len()));
        self.places.insert(key.into(), self.rows.len() - 1);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        if let Some(is_whole) = changed {
            self.drop_row(self.rows.len() - 1, is_whole);
        }
    }

    /// All rows have arrived. The view sees nothing that committed after `until`.
    ///
    /// # Panics
    /// If its rows are not being read.
    pub fn hold(&mut self, until: Lsn) {
        let stage = std::mem::replace(&mut self.stage, Stage::Opened(Vec::new()));
        let Stage::Reading { view, .. } = stage else { panic!("only what was read is held") };
        self.stage = Stage::Held { view, until };
    }

    /// The position that the stream has to pass, once all rows have arrived.
    #[must_use]
    pub fn held_until(&self) -> Option<Lsn> {
        match self.stage {
            Stage::Held { until, .. } => Some(until),
            Stage::Opened(_) | Stage::Reading { .. } => None,
        }
    }

    /// Whether it can be emitted when the stream has passed `passed` and is between two transactions.
    #[must_use]
    pub fn is_ready(&self, passed: Lsn) -> bool {
        self.useless.is_none() && self.held_until().is_some_and(|until| passed >= until)
    }

    /// Why it has to be read again, if it has to.
    #[must_use]
    pub fn useless(&self) -> Option<Useless> {
        self.useless
    }

    /// The number of rows that were read and fit.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// The number of rows that the stream has changed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether rows were left to the next chunk because of their bytes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// The key of the last row.
    #[must_use]
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The bytes of a row; none if it is dropped.
    #[must_use]
    pub fn bytes_of(&self, row: usize) -> Option<&[u8]> {
        Some(&self.bytes[self.rows.get(row)?.clone()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &[u8]) -> Touched<'_> {
        Touched::Key { key, is_whole: true }
    }

    /// With the rows a, b and c, read with a view that sees everything except 103 and the transactions from 105 on.
    fn chunk(before: &[(u32, Touched<'_>)], meanwhile: &[(u32, Touched<'_>)], after: &[(u32, Touched<'_>)]) -> Chunk {
        let mut chunk = Chunk::open();
        before.iter().for_each(|(xid, touched)| chunk.touched(*xid, *touched));
        chunk.begin(View::parse("103:105:103", false).unwrap());
        chunk.row(b"a", b"row a");
        meanwhile.iter().for_each(|(xid, touched)| chunk.touched(*xid, *touched));
        chunk.row(b"b", b"row b");
        chunk.row(b"c", b"row c");
        assert!(!chunk.is_ready(Lsn(u64::MAX)), "ready before all rows have arrived");
        chunk.hold(Lsn(70));
        after.iter().for_each(|(xid, touched)| chunk.touched(*xid, *touched));
        chunk
    }

    fn left(chunk: &Chunk) -> Vec<&[u8]> {
        (0..chunk.row_count()).filter_map(|row| chunk.bytes_of(row)).collect()
    }

    #[test]
    fn it_is_held_until_the_stream_has_passed_the_position_of_its_view() {
        let chunk = chunk(&[], &[], &[]);
        assert_eq!((chunk.is_ready(Lsn(69)), chunk.is_ready(Lsn(70))), (false, true));
        assert_eq!(left(&chunk), [b"row a", b"row b", b"row c"]);
        assert_eq!(chunk.last_key(), b"c");
    }

    #[test]
    fn a_row_is_dropped_if_an_unseen_transaction_changed_it_at_any_time_since_the_chunk_was_opened() {
        for xid in [103, 105, 900] {
            for (what, chunk, rows) in [
                ("before", chunk(&[(xid, key(b"b"))], &[], &[]), [b"row a", b"row c"]),
                ("during, read", chunk(&[], &[(xid, key(b"a"))], &[]), [b"row b", b"row c"]),
                ("during, not read", chunk(&[], &[(xid, key(b"c"))], &[]), [b"row a", b"row b"]),
                ("after", chunk(&[], &[], &[(xid, key(b"b")), (xid, key(b"b"))]), [b"row a", b"row c"]),
            ] {
                assert_eq!((left(&chunk), chunk.dropped()), (rows.iter().map(|row| &row[..]).collect(), 1), "{what}");
                assert!(chunk.is_ready(Lsn(70)) && chunk.last_key() == b"c", "{what}");
            }
        }
    }

    #[test]
    fn a_row_stays_if_the_view_sees_the_transaction_that_changed_it() {
        let seen = [(102, key(b"a")), (104, key(b"b")), (104, Touched::Unknown)];
        assert_eq!(left(&chunk(&seen, &seen, &seen)).len(), 3);
    }

    #[test]
    fn it_is_useless_if_a_changed_row_is_not_known_or_not_whole() {
        let incomplete = |key| Touched::Key { key, is_whole: false };
        for (unseen, why) in [
            (Touched::Unknown, Some(Useless::UnknownKey)),
            (incomplete(b"b"), Some(Useless::Incomplete)),
            (incomplete(b"x"), None),
        ] {
            for chunk in [
                chunk(&[(105, unseen)], &[], &[]),
                chunk(&[], &[(105, unseen)], &[]),
                chunk(&[], &[], &[(105, unseen)]),
            ] {
                assert_eq!((chunk.useless(), chunk.is_ready(Lsn(70))), (why, why.is_none()), "{unseen:?}");
            }
        }
    }

    #[test]
    fn a_change_that_omits_a_value_counts_though_another_one_is_whole() {
        let touched = [(105, Touched::Key { key: b"b", is_whole: false }), (105, key(b"b"))];
        assert_eq!(chunk(&touched, &[], &[]).useless(), Some(Useless::Incomplete));
    }

    #[test]
    fn its_bytes_and_its_changed_keys_are_bounded() {
        let mut chunk = Chunk::open();
        for number in 0..=SNAPSHOT_CHANGED_KEYS_MAX {
            assert_eq!(chunk.useless(), None);
            chunk.touched(105, key(&number.to_be_bytes()));
        }
        assert_eq!(chunk.useless(), Some(Useless::TooManyKeys));
        let mut chunk = Chunk::open();
        chunk.begin(View::parse("103:105:103", false).unwrap());
        let row = vec![b'x'; SNAPSHOT_CHUNK_BYTES_MAX];
        chunk.row(b"a", &[row.clone(), row].concat());
        chunk.row(b"b", b"small");
        chunk.row(b"c", b"small");
        assert_eq!((chunk.row_count(), chunk.last_key(), chunk.is_full()), (1, &b"a"[..], true), "one row always fits");
    }
}
