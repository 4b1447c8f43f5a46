//! The parts of Debezium's envelope other than the rows: `source`, `transaction`, `op` and the timestamps.
//!
//! The fields and their order are those of Debezium 3.5 and later, with the `sequence` and `transaction` of `lossless`.
//! The constant parts are rendered once.

use crate::change::{Marker, Position, Transaction};
use crate::record::format::json::{push_integer, push_string};

/// The rendered parts that all records of a run share.
#[derive(Debug)]
pub(in crate::record) struct Source {
    /// `"source":{` up to the value of `ts_ms`.
    head: Vec<u8>,
    /// `,"snapshot":"` follows the value of `ts_ms`, then the word; the rest up to the content of `sequence`.
    middle: Vec<u8>,
}

impl Source {
    pub(in crate::record) fn new(source_name: &str, database: &str) -> Self {
        let mut head = br#""source":{"version":""#.to_vec();
        head.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
        head.extend_from_slice(br#"","connector":"postgresql","name":"#);
        push_string(&mut head, source_name);
        head.extend_from_slice(br#","ts_ms":"#);
        let mut middle = br#"","db":"#.to_vec();
        push_string(&mut middle, database);
        middle.extend_from_slice(br#","sequence":"[\""#);
        Source { head, middle }
    }

    /// Appends `"source":{...}`; `collection` is the result of [`collection`].
    pub(in crate::record) fn push(
        &self,
        out: &mut Vec<u8>,
        collection: &[u8],
        position: &Position,
        marker: Option<Marker>,
    ) {
        let unix_us = position.commit_time.unix_us();
        let sequence_start = position.transaction.map_or(position.lsn, |transaction| transaction.commit_lsn);
        let mut lsn = itoa::Buffer::new();
        let lsn = lsn.format(position.lsn.0).as_bytes();
        out.extend_from_slice(&self.head);
        push_integer(out, unix_us.div_euclid(1_000));
        out.extend_from_slice(br#","snapshot":""#);
        out.extend_from_slice(marker.map_or("false", Marker::text).as_bytes());
        out.extend_from_slice(&self.middle);
        push_integer(out, sequence_start.0);
        out.extend_from_slice(br#"\",\""#);
        out.extend_from_slice(lsn);
        out.extend_from_slice(br#"\"]","ts_us":"#);
        push_integer(out, unix_us);
        out.extend_from_slice(br#","ts_ns":"#);
        push_integer(out, unix_us.saturating_mul(1_000));
        out.extend_from_slice(collection);
        match position.transaction {
            Some(transaction) => push_integer(out, transaction.xid),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","lsn":"#);
        out.extend_from_slice(lsn);
        out.extend_from_slice(br#","xmin":null,"origin":null,"origin_lsn":null}"#);
    }
}

/// `,"schema":S,"table":T,"txId":`, the part of `source` that depends on the relation.
pub(in crate::record) fn collection(schema: &str, table: &str) -> Vec<u8> {
    let mut piece = br#","schema":"#.to_vec();
    push_string(&mut piece, schema);
    piece.extend_from_slice(br#","table":"#);
    push_string(&mut piece, table);
    piece.extend_from_slice(br#","txId":"#);
    piece
}

/// Appends `,"transaction":{...}` for the record with number `ordinal`, starting at 0, among the change's records with
/// a value.
pub(in crate::record) fn push_transaction(out: &mut Vec<u8>, position: &Position, ordinal: u64) {
    let Some(Transaction { xid, commit_lsn, .. }) = position.transaction else {
        out.extend_from_slice(br#","transaction":null"#);
        return;
    };
    out.extend_from_slice(br#","transaction":{"id":""#);
    push_integer(out, xid);
    out.push(b':');
    push_integer(out, commit_lsn.0);
    out.extend_from_slice(br#"","total_order":"#);
    push_integer(out, position.total_order.saturating_add(ordinal));
    out.extend_from_slice(br#","data_collection_order":"#);
    push_integer(out, position.data_collection_order.saturating_add(ordinal));
    out.push(b'}');
}

/// Appends `,"op":"O","ts_ms":...,"ts_us":...,"ts_ns":...}`, the end of the envelope.
pub(in crate::record) fn push_end(out: &mut Vec<u8>, op: u8, position: &Position) {
    let unix_ns = position.processed_unix_ns;
    out.extend_from_slice(br#","op":""#);
    out.push(op);
    out.extend_from_slice(br#"","ts_ms":"#);
    push_integer(out, unix_ns.div_euclid(1_000_000));
    out.extend_from_slice(br#","ts_us":"#);
    push_integer(out, unix_ns.div_euclid(1_000));
    out.extend_from_slice(br#","ts_ns":"#);
    push_integer(out, unix_ns);
    out.push(b'}');
}
