//! What a store keeps: a delivered position and what belongs to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::snapshot::Progress;

/// A position, and the timeline on which it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The timeline.
    pub timeline: u32,
    /// The position; 0/0 for none.
    pub lsn: Lsn,
}

impl Reached {
    /// Nothing was delivered.
    pub const NOTHING: Reached = Reached { timeline: 0, lsn: Lsn::INVALID };
}

/// A delivered position, as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The cluster's identifier, of IDENTIFY_SYSTEM.
    pub system_identifier: String,
    /// The timeline on which the position was reached.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// Everything up to this position is delivered, but for the rows that `snapshot` still has to send. 0/0 before the slot
    /// of an initial snapshot is created.
    pub end_lsn: Lsn,
    /// The end of the last records: the WAL between this and `end_lsn` had none. None in files of older versions, which did
    /// not distinguish them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Reached>,
    /// The key columns of tables with REPLICA IDENTITY FULL, by OID: once such a table is dropped, no other source has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub full_keys: FullKeys,
    /// What is left of the initial snapshot and of incremental ones, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Progress>,
}

/// The key columns, in the key's order, of tables with REPLICA IDENTITY FULL, by OID; empty for none. The OID is text
/// because JSON keys are.
pub type FullKeys = BTreeMap<String, Vec<String>>;

impl Stored {
    /// The same without the tables that cannot be read in chunks.
    #[must_use]
    pub fn without_keyless(mut self) -> Self {
        self.snapshot = self.snapshot.map(Progress::in_chunks);
        self
    }

    /// The end of the last records; `end_lsn` if that is not known.
    #[must_use]
    pub fn records_end(&self) -> Reached {
        self.records.unwrap_or(Reached { timeline: self.timeline, lsn: self.end_lsn })
    }
}

/// A delivered position, and the name of its store in messages.
#[derive(Clone, Debug)]
pub struct Known {
    /// The position.
    pub stored: Stored,
    /// For example "the state file /var/lib/walcat/shop.json".
    pub store: String,
}

/// What a standby's answer allows to store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vouched {
    /// Everything up to here is delivered.
    pub delivered: Lsn,
    /// The end of the last records before that.
    pub records_end: Lsn,
}

/// The stream that the positions belong to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's identifier.
    pub system_identifier: String,
    /// The timeline.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// The end of the last records delivered before this connection.
    pub records: Reached,
    /// Kept with each position.
    pub full_keys: FullKeys,
    /// Kept with each position: only what is delivered.
    pub snapshot: Option<Progress>,
}

impl Identity {
    /// A position in this stream. `records_end` counts if it is past the known end of records.
    #[must_use]
    pub fn at(&self, end_lsn: Lsn, records_end: Lsn) -> Stored {
        Stored {
            system_identifier: self.system_identifier.clone(),
            timeline: self.timeline,
            slot: self.slot.clone(),
            end_lsn,
            records: Some(self.records_at(records_end)),
            full_keys: self.full_keys.clone(),
            snapshot: self.snapshot.clone(),
        }
    }

    /// Continues on this timeline, after records that end at `records_end`.
    pub fn go_on(&mut self, timeline: u32, records_end: Lsn) {
        self.records = self.records_at(records_end);
        self.timeline = timeline;
    }

    fn records_at(&self, records_end: Lsn) -> Reached {
        if records_end > self.records.lsn {
            Reached { timeline: self.timeline, lsn: records_end }
        } else {
            self.records
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_the_timeline_on_which_they_were_delivered() {
        let (system_identifier, slot) = ("7".to_owned(), "s".to_owned());
        let (records, full_keys) = (Reached::NOTHING, FullKeys::new());
        let mut identity = Identity { system_identifier, timeline: 1, slot, records, full_keys, snapshot: None };
        let reached = |timeline, lsn| Some(Reached { timeline, lsn: Lsn(lsn) });
        assert_eq!(identity.at(Lsn(9), Lsn::INVALID).records, Some(Reached::NOTHING));
        assert_eq!(identity.at(Lsn(9), Lsn(8)).records, reached(1, 8));
        identity.go_on(2, Lsn(8));
        let position = identity.at(Lsn(20), Lsn(8));
        assert_eq!((position.timeline, position.records), (2, reached(1, 8)));
        assert_eq!(identity.at(Lsn(20), Lsn(15)).records, reached(2, 15));
    }
}
