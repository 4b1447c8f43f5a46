//! The hashes that stand for keys and rows.
//!
//! Two of ten million keys have the same hash of 128 bits with a probability of about 10^-25. The hash of a row is
//! compared only with that of the record under the same key, so 64 bits are enough for it.

use std::hash::{DefaultHasher, Hasher as _};

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash {
    /// Decides in which pass the key is compared.
    pub range: u64,
    /// Decides the place in the table of entries.
    pub place: u64,
}

impl KeyHash {
    /// The hash of a key's bytes.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        KeyHash { range: seeded(1, key), place: seeded(2, key) }
    }
}

/// The hash of a row's bytes.
#[must_use]
pub fn of_row(bytes: &[u8]) -> u64 {
    seeded(3, bytes)
}

/// The hash of some columns of a row: their indexes and their values.
#[must_use]
pub fn of_columns<'a>(columns: impl Iterator<Item = (usize, &'a str)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(4);
    for (index, value) in columns {
        hasher.write_usize(index);
        hasher.write_usize(value.len());
        hasher.write(value.as_bytes());
    }
    hasher.finish()
}

fn seeded(seed: u8, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u8(seed);
    hasher.write(bytes);
    hasher.finish()
}
