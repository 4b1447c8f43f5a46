//! The messages of PostgreSQL's `pgoutput` plugin, protocol versions 1 to 4, decoded into borrowed views.
//!
//! Source: PostgreSQL documentation, "55.9 Logical Replication Message Formats".

pub mod tuple;

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
pub use tuple::{Cell, Cells, Tuple};

/// `B`: a transaction begins; it comes after the commit, when streaming is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The LSN of the commit record.
    pub final_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTimestamp,
    /// The transaction's identifier.
    pub xid: u32,
}

/// `C`: the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Unused by the server so far (0).
    pub flags: u8,
    /// The LSN of the commit record.
    pub commit_lsn: Lsn,
    /// The LSN just past the commit record: the one to confirm (rule 2).
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTimestamp,
}

/// What the old row holds: `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a chosen unique index.
    Index,
}
