//! One JSON object a line for each protocol message: what `--dump json` and `decode` print.
//!
//! The same WAL gives the same lines: nothing depends on a clock or on the session, so the times and positions that the
//! server adds when it sends (XLogData's `wal_end` and time, a keepalive's time) are left out.
//!
//! Every line has `type` (the message's name), `tag` (its letter on the wire), `lsn` (XLogData start) and `xid` (the
//! transaction that it belongs to, else null), and then:
//!
//! | type | fields |
//! |---|---|
//! | begin | `commit_lsn`, `commit_time` |
//! | commit | `flags`, `commit_lsn`, `end_lsn`, `commit_time` |
//! | origin | `commit_lsn`, `name` |
//! | relation | `relation` (OID), `schema`, `table`, `replica_identity`, `columns`: `name`, `flags`, `type_oid`, `type_modifier` |
//! | type | `oid`, `schema`, `name` |
//! | insert, update, delete | `relation`, `schema`, `table`, `old_kind` (K, O or null), `old`, `new`, `records` |
//! | truncate | `flags`, `relations`: `relation`, `schema`, `table`; `records` |
//! | message | `flags`, `message_lsn`, `prefix`, `content` (base64), `records` |
//! | keepalive (only when asked for) | `wal_end` instead of `lsn`, `reply_requested` |
//!
//! A row is an array of columns: `name`, `type_oid`, `kind` (text, binary, null, unchanged_toast) and `value` (a text; in
//! base64 with `"encoding":"base64"` when it is binary or not UTF-8). A record has `topic`, `key`, `headers` and `value`,
//! each as JSON; a tombstone has `"value":null`.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::pgoutput::{Cell, Message, OldTuple, RelationMessage, Tuple};
use crate::relations::Relation;

/// Microseconds at 9999-12-31 23:59:59 UTC, the last that has four digits in its year.
const LAST_UNIX_US: i64 = 253_402_300_799_000_000;

/// A line under construction: an object whose fields are appended one by one.
pub struct Line<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Line<'o> {
    /// Begins a message's line.
    pub fn begin(out: &'o mut Vec<u8>, kind: &str, tag: char, lsn: Lsn, xid: Option<u32>) -> Self {
        out.extend_from_slice(b"{\"type\":");
        let mut line = Line { out };
        line.json(kind);
        line.text("tag", tag.encode_utf8(&mut [0; 4]));
        line.lsn("lsn", lsn);
        line.field("xid");
        line.json(&xid);
        line
    }

    /// A keepalive's whole line.
    pub fn keepalive(out: &mut Vec<u8>, wal_end: Lsn, reply_requested: bool) {
        out.extend_from_slice(b"{\"type\":\"keepalive\",\"tag\":\"k\"");
        let mut line = Line { out };
        line.lsn("wal_end", wal_end);
        line.field("reply_requested");
        line.json(&reply_requested);
        line.end();
    }

    /// What a message says of itself; its relation is the one it names, none for a message without.
    pub fn message(&mut self, message: &Message<'_>, relation: Option<&Relation>) {
        match message {
            Message::Begin(begin) => {
                self.lsn("commit_lsn", begin.final_lsn);
                self.time("commit_time", begin.commit_time);
            }
            Message::Commit(commit) => {
                self.number("flags", commit.flags.into());
                self.lsn("commit_lsn", commit.commit_lsn);
                self.lsn("end_lsn", commit.end_lsn);
                self.time("commit_time", commit.commit_time);
            }
            Message::Origin(origin) => {
                self.lsn("commit_lsn", origin.commit_lsn);
                self.text("name", origin.name);
            }
            Message::Relation(relation) => self.relation(relation),
            Message::Type(kind) => {
                self.number("oid", kind.oid);
                self.text("schema", kind.namespace);
                self.text("name", kind.name);
            }
            Message::Insert(insert) => self.row(insert.relation, relation, None, Some(insert.new)),
            Message::Update(update) => self.row(update.relation, relation, update.old, Some(update.new)),
            Message::Delete(delete) => self.row(delete.relation, relation, Some(delete.old), None),
            Message::Truncate(truncate) => self.number("flags", truncate.options.into()),
            Message::Logical(message) => {
                self.number("flags", message.flags.into());
                self.lsn("message_lsn", message.lsn);
                self.text("prefix", message.prefix);
                self.text("content", &BASE64.encode(message.content));
            }
            // Messages of streamed and two-phase transactions, which the session does not ask for.
            _ => {}
        }
    }

    /// The relations of a Truncate.
    pub fn truncated<'r>(&mut self, relations: impl Iterator<Item = (u32, Option<&'r Relation>)>) {
        self.field("relations");
        self.out.push(b'[');
        for (index, (oid, relation)) in relations.enumerate() {
            self.comma(index);
            self.out.extend_from_slice(b"{\"relation\":");
            self.json(&oid);
            self.names(relation);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    /// Opens the array of records; [`Line::record`] adds to it and [`Line::end_records`] closes it.
    pub fn begin_records(&mut self) {
        self.field("records");
        self.out.push(b'[');
    }

    /// Adds a record: key, header value and value are JSON already.
    pub fn record(
        &mut self,
        index: usize,
        topic: &str,
        key: Option<&[u8]>,
        header: Option<(&str, &[u8])>,
        value: Option<&[u8]>,
    ) {
        self.comma(index);
        self.out.extend_from_slice(b"{\"topic\":");
        self.json(topic);
        self.out.extend_from_slice(b",\"key\":");
        self.out.extend_from_slice(key.unwrap_or(b"null"));
        self.out.extend_from_slice(b",\"headers\":{");
        if let Some((name, value)) = header {
            self.json(name);
            self.out.push(b':');
            self.out.extend_from_slice(value);
        }
        self.out.extend_from_slice(b"},\"value\":");
        self.out.extend_from_slice(value.unwrap_or(b"null"));
        self.out.push(b'}');
    }

    /// Closes the array of records.
    pub fn end_records(&mut self) {
        self.out.push(b']');
    }

    /// Ends the line.
    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn relation(&mut self, relation: &RelationMessage<'_>) {
        self.number("relation", relation.oid);
        self.text("schema", relation.namespace);
        self.text("table", relation.name);
        self.text("replica_identity", relation.replica_identity.letter().encode_utf8(&mut [0; 4]));
        self.field("columns");
        self.out.push(b'[');
        for (index, column) in relation.columns().enumerate() {
            self.comma(index);
            self.out.extend_from_slice(b"{\"name\":");
            self.json(column.name);
            self.number("flags", column.flags.into());
            self.number("type_oid", column.type_oid);
            self.field("type_modifier");
            self.json(&column.type_modifier);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    fn row(&mut self, oid: u32, relation: Option<&Relation>, old: Option<OldTuple<'_>>, new: Option<Tuple<'_>>) {
        self.number("relation", oid);
        self.names(relation);
        let (kind, old) = match old {
            Some(OldTuple::Key(tuple)) => (Some("K"), Some(tuple)),
            Some(OldTuple::Full(tuple)) => (Some("O"), Some(tuple)),
            None => (None, None),
        };
        self.field("old_kind");
        self.json(&kind);
        self.tuple("old", old, relation);
        self.tuple("new", new, relation);
    }

    fn tuple(&mut self, name: &str, tuple: Option<Tuple<'_>>, relation: Option<&Relation>) {
        self.field(name);
        let Some(tuple) = tuple else {
            self.out.extend_from_slice(b"null");
            return;
        };
        self.out.push(b'[');
        for (index, cell) in tuple.cells().enumerate() {
            self.comma(index);
            let column = relation.and_then(|relation| relation.columns.get(index));
            self.out.extend_from_slice(b"{\"name\":");
            self.json(&column.map(|column| column.name.as_str()));
            self.field("type_oid");
            self.json(&column.map(|column| column.type_oid));
            self.cell(cell);
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    fn cell(&mut self, cell: Cell<'_>) {
        let (kind, bytes) = match cell {
            Cell::Null => ("null", None),
            Cell::UnchangedToast => ("unchanged_toast", None),
            Cell::Text(bytes) => ("text", Some(bytes)),
            Cell::Binary(bytes) => ("binary", Some(bytes)),
        };
        self.text("kind", kind);
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).filter(|_| kind == "text");
        match (bytes, text) {
            (Some(_), Some(text)) => self.text("value", text),
            (Some(bytes), None) => {
                self.text("encoding", "base64");
                self.text("value", &BASE64.encode(bytes));
            }
            (None, _) => {
                self.field("value");
                self.out.extend_from_slice(b"null");
            }
        }
    }

    fn names(&mut self, relation: Option<&Relation>) {
        self.field("schema");
        self.json(&relation.map(|relation| relation.namespace.as_str()));
        self.field("table");
        self.json(&relation.map(|relation| relation.name.as_str()));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.field(name);
        self.json(value);
    }

    fn number(&mut self, name: &str, value: u32) {
        self.field(name);
        self.json(&value);
    }

    fn lsn(&mut self, name: &str, lsn: Lsn) {
        self.text(name, &lsn.to_string());
    }

    /// ISO 8601 with microseconds; past the year 9999 and before 1970 the microseconds since 1970 as a number.
    fn time(&mut self, name: &str, time: PgTimestamp) {
        let unix_us = time.unix_us();
        match u64::try_from(unix_us) {
            Ok(since_epoch) if unix_us <= LAST_UNIX_US => {
                let time = UNIX_EPOCH + Duration::from_micros(since_epoch);
                self.text(name, &humantime::format_rfc3339_micros(time).to_string());
            }
            _ => {
                self.field(name);
                self.json(&unix_us);
            }
        }
    }

    fn field(&mut self, name: &str) {
        self.out.push(b',');
        self.json(name);
        self.out.push(b':');
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.out.push(b',');
        }
    }

    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) {
        // Texts and numbers always serialise, and a Vec takes every byte.
        let written = serde_json::to_writer(&mut *self.out, value);
        debug_assert!(written.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Begin;

    #[test]
    fn a_begin_is_one_line_of_json() {
        let begin = Begin { final_lsn: Lsn(0x30), commit_time: PgTimestamp::from_unix_us(1_000_001), xid: 7 };
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, "begin", 'B', Lsn(0x20), Some(7));
        line.message(&Message::Begin(begin), None);
        line.end();
        let expected = "{\"type\":\"begin\",\"tag\":\"B\",\"lsn\":\"0/20\",\"xid\":7,\"commit_lsn\":\"0/30\",\
                        \"commit_time\":\"1970-01-01T00:00:01.000001Z\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_time_that_no_calendar_of_four_digits_holds_is_a_number() {
        let mut out = Vec::new();
        Line { out: &mut out }.time("t", PgTimestamp(i64::MAX));
        Line { out: &mut out }.time("t", PgTimestamp::from_unix_us(-1));
        assert_eq!(out, format!(",\"t\":{},\"t\":-1", i64::MAX).into_bytes());
    }
}
