//! The records of a change: one to three, borrowed from the encoder's buffer.

use std::ops::Range;

use crate::change::RelationIndex;

/// The destination of the records of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The topic of a relation, from [`super::Prepared`].
    Relation(RelationIndex),
    /// The topic of logical messages.
    Message,
}

/// The header of the records of a key change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) enum HeaderName {
    NewKey,
    OldKey,
}

impl HeaderName {
    fn name(self) -> &'static str {
        match self {
            HeaderName::NewKey => "__debezium.newkey",
            HeaderName::OldKey => "__debezium.oldkey",
        }
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'s> {
    /// `None` for a table without a key, and for a truncate.
    pub key: Option<&'s [u8]>,
    /// At most one header, by name.
    pub header: Option<(&'static str, &'s [u8])>,
    /// `None` for a tombstone.
    pub value: Option<&'s [u8]>,
}

impl Record<'_> {
    /// Bytes of key, value and header together.
    #[must_use]
    pub fn size(&self) -> usize {
        let header = self.header.map_or(0, |(name, value)| name.len() + value.len());
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + header
    }
}

/// A record as ranges of the buffer.
#[derive(Clone, Debug)]
pub(in crate::record) struct Ranges {
    pub(in crate::record) key: Option<Range<usize>>,
    pub(in crate::record) header: Option<(HeaderName, Range<usize>)>,
    pub(in crate::record) value: Option<Range<usize>>,
}

/// The records of one change, in the order in which they must be sent.
#[derive(Clone, Copy, Debug)]
pub struct Records<'s> {
    /// Where they go.
    pub destination: Destination,
    /// The name of its topic.
    pub topic: &'s str,
    pub(in crate::record) bytes: &'s [u8],
    pub(in crate::record) ranges: &'s [Ranges],
}

impl<'s> Records<'s> {
    /// The records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'s>> + use<'s> {
        let Records { bytes, ranges, .. } = *self;
        ranges.iter().map(move |ranges| Record {
            key: ranges.key.clone().map(|range| &bytes[range]),
            header: ranges.header.clone().map(|(header, range)| (header.name(), &bytes[range])),
            value: ranges.value.clone().map(|range| &bytes[range]),
        })
    }

    /// The number of records: 1 to 3.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The number of records with a value; each uses one number of `total_order` and of `data_collection_order`.
    #[must_use]
    pub fn values(&self) -> u64 {
        self.ranges.iter().filter(|ranges| ranges.value.is_some()).count() as u64
    }
}
