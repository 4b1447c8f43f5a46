//! Transactions and the changes in them.
//!
//! ```text
//! Begin    = 'B' Int64 final_lsn, Int64 commit_time, Int32 xid
//! Commit   = 'C' Int8 flags (0), Int64 commit_lsn, Int64 end_lsn, Int64 commit_time
//! Origin   = 'O' Int64 commit_lsn, String name
//! Insert   = 'I' [Int32 xid] Int32 relation, new
//! Update   = 'U' [Int32 xid] Int32 relation, [old] new
//! Delete   = 'D' [Int32 xid] Int32 relation, old
//! Truncate = 'T' [Int32 xid] Int32 count, Int8 options (1: CASCADE, 2: RESTART IDENTITY), { Int32 relation }
//! Message  = 'M' [Int32 xid] Int8 flags (1: transactional), Int64 lsn, String prefix, Int32 length, bytes
//! ```
//!
//! The last five have an xid only within a stream block. [`super::tuple`] describes `old` and `new`.

use super::tuple::{OldTuple, Tuple};
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::wire::error::DecodeError;
use crate::wire::reader::Reader;

/// Bit of a Truncate's options.
const TRUNCATE_CASCADE: u8 = 1;
/// Bit of a Truncate's options.
const TRUNCATE_RESTART_IDENTITY: u8 = 2;
/// Bit of a logical message's flags.
const MESSAGE_IS_TRANSACTIONAL: u8 = 1;
/// Bytes of an OID in a Truncate.
const OID_SIZE: usize = 4;

/// `B`: a transaction begins. Without streaming, the server sends it after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The LSN of the commit record.
    pub final_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTimestamp,
    /// The transaction's identifier.
    pub xid: u32,
}

impl Begin {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Begin {
            final_lsn: reader.lsn("the final LSN")?,
            commit_time: reader.timestamp("the commit time")?,
            xid: reader.u32("the xid")?,
        })
    }
}

/// `C`: the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Unused by the server so far (0).
    pub flags: u8,
    /// The LSN of the commit record.
    pub commit_lsn: Lsn,
    /// The LSN just past the commit record: the one to confirm.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTimestamp,
}

impl Commit {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Commit {
            flags: reader.u8("the flags")?,
            commit_lsn: reader.lsn("the commit LSN")?,
            end_lsn: reader.lsn("the end LSN")?,
            commit_time: reader.timestamp("the commit time")?,
        })
    }
}

/// `O`: the transaction was replicated to this server from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The LSN of the commit on the server of origin.
    pub commit_lsn: Lsn,
    /// The origin's name on this server.
    pub name: &'a str,
}

impl<'a> Origin<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Origin { commit_lsn: reader.lsn("the origin's commit LSN")?, name: reader.string("the origin's name")? })
    }
}

/// `I`: a row was inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// The table, by the OID of its Relation message.
    pub relation: u32,
    /// The row.
    pub new: Tuple<'a>,
}

impl<'a> Insert<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Insert { xid, relation: reader.u32("the relation's OID")?, new: Tuple::decode_new(reader)? })
    }
}

/// `U`: a row was updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// The table, by the OID of its Relation message.
    pub relation: u32,
    /// The row before the change; absent with DEFAULT and INDEX if no column of the key changed.
    pub old: Option<OldTuple<'a>>,
    /// The row after the change.
    pub new: Tuple<'a>,
}

impl<'a> Update<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Update {
            xid,
            relation: reader.u32("the relation's OID")?,
            old: OldTuple::decode_optional(reader)?,
            new: Tuple::decode_new(reader)?,
        })
    }
}

/// `D`: a row was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// The table, by the OID of its Relation message.
    pub relation: u32,
    /// The row before the change.
    pub old: OldTuple<'a>,
}

impl<'a> Delete<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Delete { xid, relation: reader.u32("the relation's OID")?, old: OldTuple::decode(reader)? })
    }
}

/// `T`: tables were truncated by one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// The received byte; bits other than the first two are unused so far.
    pub options: u8,
    /// TRUNCATE ... CASCADE.
    pub cascade: bool,
    /// TRUNCATE ... RESTART IDENTITY.
    pub restart_identity: bool,
    /// The tables, by the OIDs of their Relation messages.
    pub relations: Oids<'a>,
}

impl<'a> Truncate<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.length("the count of relations")?;
        let options = reader.u8("the options of TRUNCATE")?;
        let bytes = reader.bytes(count.saturating_mul(OID_SIZE), "the relations' OIDs")?;
        Ok(Truncate {
            xid,
            options,
            cascade: options & TRUNCATE_CASCADE != 0,
            restart_identity: options & TRUNCATE_RESTART_IDENTITY != 0,
            relations: Oids(bytes.as_chunks().0),
        })
    }
}

/// The OIDs in a [`Truncate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oids<'a>(&'a [[u8; OID_SIZE]]);

impl<'a> Oids<'a> {
    /// Iterates over the OIDs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + Clone + use<'a> {
        self.0.iter().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

/// `M`: a message of `pg_logical_emit_message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The transaction, within a stream block.
    pub xid: Option<u32>,
    /// The received byte; bits other than the first are unused so far.
    pub flags: u8,
    /// Whether it is part of a transaction. If not, it stands alone, possibly before the Begin of a transaction with a lower
    /// LSN.
    pub transactional: bool,
    /// The position of the message in the WAL.
    pub lsn: Lsn,
    /// The writer's label.
    pub prefix: &'a str,
    /// Any bytes.
    pub content: &'a [u8],
}

impl<'a> LogicalMessage<'a> {
    pub(super) fn decode(xid: Option<u32>, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let flags = reader.u8("the message's flags")?;
        let lsn = reader.lsn("the message's LSN")?;
        let prefix = reader.string("the message's prefix")?;
        let length = reader.length("the length of the message's content")?;
        let content = reader.bytes(length, "the message's content")?;
        Ok(LogicalMessage { xid, flags, transactional: flags & MESSAGE_IS_TRANSACTIONAL != 0, lsn, prefix, content })
    }
}
