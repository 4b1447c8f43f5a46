//! Two-phase commit (since protocol version 3, `two_phase`).
//!
//! ```text
//! Begin Prepare     = 'b' Int64 prepare_lsn, Int64 end_lsn, Int64 prepare_time, Int32 xid, String gid
//! Prepare           = 'P' Int8 flags (0), Int64 prepare_lsn, Int64 end_lsn, Int64 prepare_time, Int32 xid, String gid
//! Stream Prepare    = 'p' as Prepare
//! Commit Prepared   = 'K' Int8 flags (0), Int64 commit_lsn, Int64 end_lsn, Int64 commit_time, Int32 xid, String gid
//! Rollback Prepared = 'r' Int8 flags (0), Int64 prepare_end_lsn, Int64 rollback_end_lsn, Int64 prepare_time,
//!                         Int64 rollback_time, Int32 xid, String gid
//! ```

use super::message::Commit;
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::wire::error::DecodeError;
use crate::wire::reader::Reader;

/// A prepared transaction: its position, its time and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// The LSN of the prepare record.
    pub prepare_lsn: Lsn,
    /// The LSN just past it.
    pub end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: PgTimestamp,
    /// The transaction.
    pub xid: u32,
    /// The name given by PREPARE TRANSACTION.
    pub gid: &'a str,
}

/// `b`: a prepared transaction begins; sent in place of Begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeginPrepare<'a> {
    /// The transaction.
    pub prepared: Prepared<'a>,
}

impl<'a> BeginPrepare<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(BeginPrepare { prepared: Prepared::decode(reader)? })
    }
}

/// `P`: a transaction is prepared, `p`: a streamed one; sent in place of Commit and Stream Commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare<'a> {
    /// Unused by the server so far (0).
    pub flags: u8,
    /// The transaction.
    pub prepared: Prepared<'a>,
}

impl<'a> Prepare<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Prepare { flags: reader.u8("the flags")?, prepared: Prepared::decode(reader)? })
    }
}

impl<'a> Prepared<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Prepared {
            prepare_lsn: reader.lsn("the prepare LSN")?,
            end_lsn: reader.lsn("the end LSN")?,
            prepare_time: reader.timestamp("the prepare time")?,
            xid: reader.u32("the xid")?,
            gid: reader.string("the prepared transaction's name")?,
        })
    }
}

/// `K`: a prepared transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPrepared<'a> {
    /// The same fields as for a transaction that was not prepared.
    pub commit: Commit,
    /// The transaction.
    pub xid: u32,
    /// The name given by PREPARE TRANSACTION.
    pub gid: &'a str,
}

impl<'a> CommitPrepared<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(CommitPrepared {
            commit: Commit::decode(reader)?,
            xid: reader.u32("the xid")?,
            gid: reader.string("the prepared transaction's name")?,
        })
    }
}

/// `r`: a prepared transaction is rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackPrepared<'a> {
    /// Unused by the server so far (0).
    pub flags: u8,
    /// The LSN just past the prepare record.
    pub prepare_end_lsn: Lsn,
    /// The LSN just past the record of the rollback.
    pub rollback_end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: PgTimestamp,
    /// When it was rolled back.
    pub rollback_time: PgTimestamp,
    /// The transaction.
    pub xid: u32,
    /// The name given by PREPARE TRANSACTION.
    pub gid: &'a str,
}

impl<'a> RollbackPrepared<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(RollbackPrepared {
            flags: reader.u8("the flags")?,
            prepare_end_lsn: reader.lsn("the end LSN of the prepared transaction")?,
            rollback_end_lsn: reader.lsn("the end LSN of the rollback")?,
            prepare_time: reader.timestamp("the prepare time")?,
            rollback_time: reader.timestamp("the rollback time")?,
            xid: reader.u32("the xid")?,
            gid: reader.string("the prepared transaction's name")?,
        })
    }
}
