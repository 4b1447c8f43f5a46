//! Reads a record of a table's topic: what happened to the row, and when.
//!
//! A transaction is in the snapshot if its commit record is before the snapshot's LSN. A row of a snapshot, `op` r, has the
//! LSN that it was read at: the snapshot contains it if its own LSN is the same or later.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::lsn::Lsn;

/// When something happened: the order of the records of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The commit LSN; for a row that was read, the LSN of its snapshot.
    pub lsn: Lsn,
    /// The number in the transaction, from 1; 0 for a row that was read.
    pub order: u64,
}

impl Moment {
    /// Whether a snapshot at this LSN shows it.
    #[must_use]
    pub fn is_in(self, snapshot: Lsn) -> bool {
        if self.order == 0 { self.lsn <= snapshot } else { self.lsn < snapshot }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// The row, in JSON.
    Row { after: &'a str, is_read: bool },
    /// The row was deleted.
    Delete,
    /// The table was emptied.
    Truncate,
}

/// A record with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// When it happened.
    pub moment: Moment,
    /// What happened.
    pub content: Content<'a>,
    /// The row before it, in JSON, if the record has it.
    pub before: Option<&'a str>,
}

/// A record is not one that walcat writes to a table's topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow)]
    transaction: Option<Transaction<'a>>,
    #[serde(borrow)]
    op: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow)]
    snapshot: Cow<'a, str>,
    lsn: u64,
}

#[derive(Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    total_order: u64,
}

/// Reads a value.
///
/// # Errors
/// [`Foreign`].
pub fn read(value: &[u8]) -> Result<Seen<'_>, Foreign> {
    let envelope: Envelope<'_> = serde_json::from_slice(value).map_err(|_| Foreign)?;
    let moment = match &envelope.transaction {
        Some(Transaction { id, total_order }) => {
            let (_, commit_lsn) = id.split_once(':').ok_or(Foreign)?;
            Moment { lsn: Lsn(commit_lsn.parse().map_err(|_| Foreign)?), order: (*total_order).max(1) }
        }
        None if envelope.source.snapshot != "false" => Moment { lsn: Lsn(envelope.source.lsn), order: 0 },
        None => return Err(Foreign),
    };
    let content = match (envelope.op.as_ref(), envelope.after) {
        ("c" | "u", Some(after)) => Content::Row { after: after.get(), is_read: false },
        ("r", Some(after)) => Content::Row { after: after.get(), is_read: true },
        ("d", None) => Content::Delete,
        ("t", None) => Content::Truncate,
        _ => return Err(Foreign),
    };
    Ok(Seen { moment, content, before: envelope.before.map(RawValue::get) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(after: &str, snapshot: &str, transaction: &str, op: &str) -> String {
        format!(
            r#"{{"before":null,"after":{after},"source":{{"version":"0","snapshot":"{snapshot}","sequence":"[\"9\",\"7\"]","lsn":7}},"transaction":{transaction},"op":"{op}","ts_ms":1}}"#
        )
    }

    #[test]
    fn a_record_is_read_with_its_moment() {
        let commit = r#"{"id":"751:9","total_order":3,"data_collection_order":1}"#;
        let at = |lsn, order| Moment { lsn: Lsn(lsn), order };
        let row = r#"{"a":"x","b":[1]}"#;
        for (after, snapshot, transaction, op, expected) in [
            (row, "false", commit, "c", Ok((at(9, 3), Content::Row { after: row, is_read: false }))),
            (row, "false", commit, "u", Ok((at(9, 3), Content::Row { after: row, is_read: false }))),
            (row, "true", "null", "r", Ok((at(7, 0), Content::Row { after: row, is_read: true }))),
            (row, "incremental", "null", "r", Ok((at(7, 0), Content::Row { after: row, is_read: true }))),
            ("null", "false", commit, "d", Ok((at(9, 3), Content::Delete))),
            ("null", "false", commit, "t", Ok((at(9, 3), Content::Truncate))),
            (row, "false", "null", "c", Err(Foreign)),
            ("null", "false", commit, "c", Err(Foreign)),
            ("null", "false", commit, "m", Err(Foreign)),
            (row, "false", r#"{"id":"751","total_order":3}"#, "c", Err(Foreign)),
        ] {
            let text = value(after, snapshot, transaction, op);
            let found = read(text.as_bytes()).map(|seen| (seen.moment, seen.content));
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(read(b"{}"), Err(Foreign));
        assert_eq!(read(b"\xff"), Err(Foreign));
    }

    #[test]
    fn a_transaction_is_in_a_snapshot_that_is_later_and_a_row_that_was_read_also_in_its_own() {
        for (order, lsn, expected) in [(1, 9, true), (1, 10, false), (0, 9, true), (0, 10, true), (0, 11, false)] {
            assert_eq!(Moment { lsn: Lsn(lsn), order }.is_in(Lsn(10)), expected, "{order} {lsn}");
        }
    }
}
