//! A hash table of fixed size: what is known of each key, in 40 bytes.
//!
//! It never grows, because a table that doubles needs three times its memory for a moment. If it is full, the caller
//! removes the keys of a part of the range and compares them in another pass.

use super::hash::KeyHash;

/// What the topic says of a key as of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Only records that are later than the snapshot were found.
    Unknown,
    /// The row with this hash, of the columns of this layout.
    Live { layout: u16, hash: u64 },
    /// Deleted, by a record with a position.
    Deleted,
    /// Deleted, by a tombstone without its delete. The run tells the tombstones between the same two records.
    Tombstone { run: u64 },
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key's hash.
    pub key: KeyHash,
    /// The state as of the snapshot.
    pub state: State,
    /// Whether there is a record that is later than the snapshot.
    pub later: bool,
    /// Whether such a record is a row that was read, not a change.
    pub later_read: bool,
    /// Whether the last record of the key is later than the snapshot.
    pub last_is_later: bool,
    /// Whether the table has the row.
    pub found: bool,
}

impl Entry {
    /// A key of which nothing is known yet.
    #[must_use]
    pub fn new(key: KeyHash) -> Self {
        Entry { key, state: State::Unknown, later: false, later_read: false, last_is_later: false, found: false }
    }
}

/// The bytes of a place in the table.
pub const ENTRY_BYTES: usize = size_of::<Option<Entry>>();
const _: () = assert!(ENTRY_BYTES == 40);

/// The table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The entries by key, with linear probing.
#[derive(Debug)]
pub struct Entries {
    places: Vec<Option<Entry>>,
    len: usize,
    len_max: usize,
}

impl Entries {
    /// A table in at most this much memory, for at most this many keys.
    #[must_use]
    pub fn new(bytes_max: usize, keys_max: u64) -> Self {
        /// A table that is fuller than this becomes slow.
        const LOAD: (usize, usize) = (7, 8);
        let wanted = usize::try_from(keys_max).unwrap_or(usize::MAX).saturating_mul(2).max(16);
        let count = (bytes_max / ENTRY_BYTES).max(16).min(wanted);
        Entries { places: vec![None; count], len: 0, len_max: count * LOAD.0 / LOAD.1 }
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.places.fill(None);
        self.len = 0;
    }

    /// The entry of a key.
    pub fn find(&mut self, key: KeyHash) -> Option<&mut Entry> {
        let place = self.place_of(key);
        self.places[place].as_mut()
    }

    /// The entry of a key, which is added if it is new.
    ///
    /// # Errors
    /// [`Full`] if there is no room for a new key.
    pub fn find_or_add(&mut self, key: KeyHash) -> Result<&mut Entry, Full> {
        let place = self.place_of(key);
        if self.places[place].is_none() {
            if self.len >= self.len_max {
                return Err(Full);
            }
            self.len += 1;
        }
        Ok(self.places[place].get_or_insert_with(|| Entry::new(key)))
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.places.iter().flatten()
    }

    /// Changes all entries.
    pub fn for_each(&mut self, change: impl FnMut(&mut Entry)) {
        self.places.iter_mut().flatten().for_each(change);
    }

    /// Keeps only the entries that pass.
    pub fn retain(&mut self, keeps: impl Fn(&Entry) -> bool) {
        let mut place = 0;
        while place < self.places.len() {
            match &self.places[place] {
                // Another entry may move to this place, so it is looked at again.
                Some(entry) if !keeps(entry) => self.remove(place),
                _ => place += 1,
            }
        }
    }

    /// The place of a key, or the empty place where it belongs. There always is one, because the table is never full.
    fn place_of(&self, key: KeyHash) -> usize {
        let mut place = self.home_of(key);
        while self.places[place].is_some_and(|entry| entry.key != key) {
            place = self.after(place);
        }
        place
    }

    fn home_of(&self, key: KeyHash) -> usize {
        let scaled = (u128::from(key.place) * self.places.len() as u128) >> 64;
        usize::try_from(scaled).expect("an index of the table")
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.places.len() { 0 } else { place + 1 }
    }

    /// Empties a place and closes the gap: an entry that follows moves back unless it would pass its home.
    fn remove(&mut self, place: usize) {
        self.len -= 1;
        let (mut gap, mut next, count) = (place, self.after(place), self.places.len());
        while let Some(entry) = self.places[next] {
            let home = self.home_of(entry.key);
            let distance = |from: usize, to: usize| (to + count - from) % count;
            if distance(home, next) >= distance(gap, next) {
                self.places[gap] = Some(entry);
                gap = next;
            }
            next = self.after(next);
        }
        self.places[gap] = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys share few homes and few ranges, so that they collide, and removals close gaps across the end.
        #[test]
        fn the_table_has_what_a_map_has(
            steps in prop::collection::vec((0_u64..40, 0_u64..8, 0_u8..20, any::<u64>()), 1..200),
        ) {
            let mut entries = Entries::new(0, 100);
            prop_assert_eq!(entries.places.len(), 16);
            let mut map: HashMap<KeyHash, u64> = HashMap::new();
            for (range, place, what, hash) in steps {
                let key = KeyHash { range, place: place << 61 };
                if what == 0 {
                    entries.retain(|entry| entry.key.range < range);
                    map.retain(|key, _| key.range < range);
                } else {
                    match entries.find_or_add(key) {
                        Ok(entry) => {
                            entry.state = State::Live { layout: 0, hash };
                            map.insert(key, hash);
                        }
                        Err(Full) => prop_assert!(map.len() == 14 && !map.contains_key(&key)),
                    }
                }
                prop_assert_eq!(entries.len(), map.len());
                prop_assert_eq!(entries.iter().count(), map.len());
                for (key, hash) in &map {
                    let found = entries.find(*key).map(|entry| entry.state);
                    prop_assert_eq!(found, Some(State::Live { layout: 0, hash: *hash }));
                }
            }
        }
    }
}
