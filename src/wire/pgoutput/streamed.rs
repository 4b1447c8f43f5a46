//! Transactions that the server sends in blocks before they commit (since protocol version 2, `streaming`).
//!
//! ```text
//! Stream Start  = 'S' Int32 xid, Int8 first_segment
//! Stream Stop   = 'E'
//! Stream Commit = 'c' Int32 xid, Int8 flags (0), Int64 commit_lsn, Int64 end_lsn, Int64 commit_time
//! Stream Abort  = 'A' Int32 xid, Int32 subxid [, Int64 abort_lsn, Int64 abort_time]
//! ```
//!
//! A Stream Abort has the LSN and the time only with `streaming 'parallel'` (version 4).

use super::message::Commit;
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::wire::error::DecodeError;
use crate::wire::reader::Reader;

/// `S`: a stream block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStart {
    /// The transaction.
    pub xid: u32,
    /// The received byte.
    pub flags: u8,
    /// Whether this is the first block of the transaction.
    pub first_segment: bool,
}

impl StreamStart {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let xid = reader.u32("the xid")?;
        let flags = reader.u8("the first segment's mark")?;
        Ok(StreamStart { xid, flags, first_segment: flags != 0 })
    }
}

/// `c`: a streamed transaction has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCommit {
    /// The transaction.
    pub xid: u32,
    /// The same fields as for a transaction that was not streamed.
    pub commit: Commit,
}

impl StreamCommit {
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(StreamCommit { xid: reader.u32("the xid")?, commit: Commit::decode(reader)? })
    }
}

/// `A`: a streamed transaction, or a part of it, has been rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// The transaction.
    pub xid: u32,
    /// The subtransaction that was rolled back; `xid` if it is the whole transaction.
    pub subxid: u32,
    /// The position and the time, with `streaming 'parallel'`.
    pub abort: Option<Abort>,
}

/// The position and the time of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The LSN of the abort record.
    pub lsn: Lsn,
    /// The time of the rollback.
    pub time: PgTimestamp,
}

impl StreamAbort {
    pub(super) fn decode(parallel: bool, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let xid = reader.u32("the xid")?;
        let subxid = reader.u32("the subtransaction's xid")?;
        let abort = match parallel {
            true => Some(Abort { lsn: reader.lsn("the abort LSN")?, time: reader.timestamp("the abort time")? }),
            false => None,
        };
        Ok(StreamAbort { xid, subxid, abort })
    }
}
