//! One line of JSON for each protocol message: what `--dump json` and `decode` print.
//!
//! The same WAL gives the same lines. Nothing depends on a clock or on the session, so a line does not contain the times and
//! positions that the server adds when it sends (the `wal_end` and time of XLogData, the time of a keepalive).
//!
//! Every line has `type` (the message's name), `tag` (its letter on the wire), `lsn` (the start of XLogData) and `xid` (its
//! transaction, or null), and then:
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
//! | stream start | `flags`, `first_segment` |
//! | stream stop | |
//! | stream commit | as commit |
//! | stream abort | `subxid`, `abort_lsn`, `abort_time` (both null unless the stream is parallel) |
//! | begin prepare | `prepare_lsn`, `end_lsn`, `prepare_time`, `gid` |
//! | prepare, stream prepare | `flags`, and as begin prepare |
//! | commit prepared | as commit, and `gid` |
//! | rollback prepared | `flags`, `prepare_end_lsn`, `rollback_end_lsn`, `prepare_time`, `rollback_time`, `gid` |
//! | keepalive (only with `--dump-keepalives`) | `wal_end` instead of `lsn`, `reply_requested` |
//!
//! A row is an array of columns: `name`, `type_oid`, `kind` (text, binary, null, unchanged_toast) and `value` (a text; in
//! base64 with `"encoding":"base64"` when it is binary or not UTF-8). A record has `topic`, `key`, `headers` and `value`,
//! each as JSON; a tombstone has `"value":null`.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::relations::Relation;
use crate::wire::pgoutput::{Cell, Commit, Message, OldTuple, Prepared, RelationMessage, StreamAbort, Tuple};

/// 9999-12-31 23:59:59 UTC in microseconds: the last second of a year with four digits.
const LAST_UNIX_US: i64 = 253_402_300_799_000_000;

/// A line under construction: an object to which fields are appended.
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

    /// Appends the complete line of a keepalive.
    pub fn keepalive(out: &mut Vec<u8>, wal_end: Lsn, reply_requested: bool) {
        out.extend_from_slice(b"{\"type\":\"keepalive\",\"tag\":\"k\"");
        let mut line = Line { out };
        line.lsn("wal_end", wal_end);
        line.field("reply_requested");
        line.json(&reply_requested);
        line.end();
    }

    /// Appends the fields of a message; `relation` is the one that it names, if any.
    pub fn message(&mut self, message: &Message<'_>, relation: Option<&Relation>) {
        match message {
            Message::Begin(begin) => {
                self.lsn("commit_lsn", begin.final_lsn);
                self.time("commit_time", begin.commit_time);
            }
            Message::Commit(commit) => self.commit(commit),
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
            Message::StreamStart(start) => {
                self.number("flags", start.flags.into());
                self.field("first_segment");
                self.json(&start.first_segment);
            }
            Message::StreamStop => {}
            Message::StreamCommit(streamed) => self.commit(&streamed.commit),
            Message::StreamAbort(abort) => self.stream_abort(abort),
            Message::BeginPrepare(begin) => self.prepared(&begin.prepared),
            Message::Prepare(prepare) | Message::StreamPrepare(prepare) => {
                self.number("flags", prepare.flags.into());
                self.prepared(&prepare.prepared);
            }
            Message::CommitPrepared(committed) => {
                self.commit(&committed.commit);
                self.text("gid", committed.gid);
            }
            Message::RollbackPrepared(rollback) => {
                self.number("flags", rollback.flags.into());
                self.lsn("prepare_end_lsn", rollback.prepare_end_lsn);
                self.lsn("rollback_end_lsn", rollback.rollback_end_lsn);
                self.time("prepare_time", rollback.prepare_time);
                self.time("rollback_time", rollback.rollback_time);
                self.text("gid", rollback.gid);
            }
        }
    }

    /// Appends the relations of a Truncate.
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

    /// Appends a record. Key, header value and value must be JSON.
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

    fn commit(&mut self, commit: &Commit) {
        self.number("flags", commit.flags.into());
        self.lsn("commit_lsn", commit.commit_lsn);
        self.lsn("end_lsn", commit.end_lsn);
        self.time("commit_time", commit.commit_time);
    }

    fn stream_abort(&mut self, abort: &StreamAbort) {
        self.number("subxid", abort.subxid);
        match abort.abort {
            Some(abort) => {
                self.lsn("abort_lsn", abort.lsn);
                self.time("abort_time", abort.time);
            }
            None => self.out.extend_from_slice(b",\"abort_lsn\":null,\"abort_time\":null"),
        }
    }

    fn prepared(&mut self, prepared: &Prepared<'_>) {
        self.lsn("prepare_lsn", prepared.prepare_lsn);
        self.lsn("end_lsn", prepared.end_lsn);
        self.time("prepare_time", prepared.prepare_time);
        self.text("gid", prepared.gid);
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

    /// ISO 8601 with microseconds; after the year 9999 and before 1970, the microseconds since 1970 as a number.
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
        serde_json::to_writer(&mut *self.out, value).expect("texts and numbers are JSON, and a Vec takes every byte");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::pgoutput::{self, Begin, Context, samples};

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

    fn line(hex: &str, (in_stream, parallel): samples::Flags) -> serde_json::Value {
        let bytes = samples::bytes(hex);
        let message = pgoutput::decode(&bytes, Context { in_stream, parallel }).unwrap();
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, message.name(), message.letter(), Lsn(0x20), Some(751));
        line.message(&message, None);
        line.end();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_message_is_one_object_with_the_fields_of_all() {
        for (name, flags, hex) in samples::ALL {
            let line = line(hex, *flags);
            let fields: Vec<&String> = line.as_object().unwrap().keys().take(4).collect();
            assert_eq!(fields, ["type", "tag", "lsn", "xid"], "{name}");
        }
    }

    #[test]
    fn messages_of_streamed_and_prepared_transactions_say_all_they_carry() {
        let time = "2000-01-01T00:00:01.000000Z";
        let (lsn, end) = ("0/16B3748", "0/16B3778");
        for (name, expected) in [
            ("stream start", json!({"flags": 1, "first_segment": true})),
            ("stream stop", json!({})),
            ("stream commit", json!({"flags": 0, "commit_lsn": lsn, "end_lsn": end, "commit_time": time})),
            ("stream abort", json!({"subxid": 752, "abort_lsn": null, "abort_time": null})),
            ("stream abort, parallel", json!({"subxid": 752, "abort_lsn": lsn, "abort_time": time})),
            ("begin prepare", json!({"prepare_lsn": lsn, "end_lsn": end, "prepare_time": time, "gid": "gx"})),
            ("prepare", json!({"flags": 0, "prepare_lsn": lsn, "end_lsn": end, "prepare_time": time, "gid": "gx"})),
            (
                "stream prepare",
                json!({"flags": 0, "prepare_lsn": lsn, "end_lsn": end, "prepare_time": time, "gid": "gx"}),
            ),
            (
                "commit prepared",
                json!({"flags": 0, "commit_lsn": lsn, "end_lsn": end, "commit_time": time, "gid": "gx"}),
            ),
            (
                "rollback prepared",
                json!({
                    "flags": 0, "prepare_end_lsn": lsn, "rollback_end_lsn": end, "prepare_time": time,
                    "rollback_time": "2000-01-01T00:00:02.000000Z", "gid": "gx"
                }),
            ),
        ] {
            let (_, flags, hex) = samples::ALL.iter().find(|sample| sample.0 == name).unwrap();
            let mut found = line(hex, *flags);
            found.as_object_mut().unwrap().retain(|field, _| !["type", "tag", "lsn", "xid"].contains(&field.as_str()));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn each_kind_of_cell_has_its_own_kind() {
        let line = line(samples::INSERT, (false, false));
        let cell = |kind: &str, value: serde_json::Value| json!({"name": null, "type_oid": null, "kind": kind, "value": value});
        let expected = json!([
            cell("text", json!("42")),
            cell("null", json!(null)),
            cell("unchanged_toast", json!(null)),
            {"name": null, "type_oid": null, "kind": "binary", "encoding": "base64", "value": "AP8B"},
            cell("text", json!("")),
        ]);
        assert_eq!(line["new"], expected);
        assert_eq!(line["old_kind"], json!(null));
    }

    #[test]
    fn a_time_that_no_calendar_of_four_digits_holds_is_a_number() {
        let mut out = Vec::new();
        Line { out: &mut out }.time("t", PgTimestamp(i64::MAX));
        Line { out: &mut out }.time("t", PgTimestamp::from_unix_us(-1));
        assert_eq!(out, format!(",\"t\":{},\"t\":-1", i64::MAX).into_bytes());
    }
}
