//! Records that wait, and how they stop waiting.

use crate::change::Ticket;
use crate::lsn::Lsn;
use crate::record::Destination;
use crate::sink::kafka::client::request_size::Limits;
use crate::sink::kafka::flight::Ordinal;

/// A waiting record with its own copy of the bytes.
#[derive(Debug)]
pub struct HeldRecord {
    /// The record's destination.
    pub destination: Destination,
    /// The name of its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its header.
    pub header: Option<(&'static str, Vec<u8>)>,
    /// The entry that the record belongs to.
    pub ticket: Ticket,
    /// The commit LSN of its transaction; its own LSN for a message outside a transaction.
    pub lsn: Lsn,
    /// The place of the record in that transaction.
    pub ordinal: Ordinal,
    /// The record of a TRUNCATE, which a compacted topic rejects.
    pub truncation: bool,
}

impl HeldRecord {
    /// Bytes of key, value and header.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let header = self.header.as_ref().map_or(0, |(name, value)| name.len() + value.len());
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + header
    }
}

/// What to do with the record that has waited longest.
#[derive(Debug)]
pub enum Release {
    /// Send it.
    Send(HeldRecord),
    /// Send it if its compressed size is within these limits.
    Judge(HeldRecord, Limits),
    /// Skip it and settle its ticket.
    Skip(Ticket),
}
