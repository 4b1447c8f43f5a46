//! Resumes a partly read transaction that the server sends again on a new connection: the session skips the changes that it
//! has taken, and continues with the first change after them.
//!
//! The server decodes the same WAL into the same changes, in the order of their LSNs. The session checks this: if the
//! changes differ, [`Error::Differs`] makes the pump read the whole transaction again as a new one.

use super::{Error, Open, Phase, Session};
use crate::change::Transaction;
use crate::lsn::Lsn;

/// How far a transaction has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// The LSN of the last change.
    lsn: Lsn,
    /// How many changes have this LSN: the rows of one COPY share an LSN.
    at_lsn: u64,
    changes: u64,
}

impl Extent {
    fn add(&mut self, lsn: Lsn) {
        self.at_lsn = if self.lsn == lsn { self.at_lsn + 1 } else { 1 };
        self.lsn = lsn;
        self.changes += 1;
    }

    fn is_empty(self) -> bool {
        self.changes == 0
    }

    fn is_beyond(self, other: Extent) -> bool {
        self.lsn > other.lsn || self.changes > other.changes
    }
}

impl Session {
    /// Prepares for a new session after one that was closed in order. It starts at [`Session::resume_lsn`], on the same
    /// timeline. Records in flight stay in flight, and no change is taken twice, even of a partly read transaction.
    pub fn resumed(&mut self, now: std::time::Instant) {
        self.again = self.partly_read();
        self.begin_connection(now);
    }

    /// The partly read transaction, if there is one.
    pub(super) fn partly_read(&self) -> Option<Open> {
        match self.phase {
            Phase::Transaction(open) | Phase::Again { open, .. } => Some(open).filter(|open| !open.extent.is_empty()),
            Phase::Between | Phase::Passing { .. } | Phase::Done => self.again,
        }
    }

    /// Handles the Begin of a transaction; returns whether it is the partly read one.
    ///
    /// # Errors
    /// [`Error::Differs`] if it is another one.
    pub(super) fn begin_again(&mut self, transaction: Transaction) -> Result<bool, Error> {
        let Some(open) = self.again.take() else { return Ok(false) };
        let expected = open.transaction;
        if (expected.commit_lsn, expected.xid) != (transaction.commit_lsn, transaction.xid) {
            return Err(Error::Differs { commit_lsn: expected.commit_lsn });
        }
        self.phase = Phase::Again { open, seen: Extent::default() };
        Ok(true)
    }

    /// Counts a change of the transaction; returns whether it was taken before.
    ///
    /// # Errors
    /// [`Error::Differs`] if it is not one of the taken changes.
    pub(super) fn was_taken(&mut self, lsn: Lsn) -> Result<bool, Error> {
        match &mut self.phase {
            Phase::Passing { .. } => Ok(true),
            Phase::Again { open, seen } => {
                seen.add(lsn);
                if seen.is_beyond(open.extent) {
                    return Err(Error::Differs { commit_lsn: open.transaction.commit_lsn });
                }
                if *seen == open.extent {
                    self.phase = Phase::Transaction(*open);
                }
                Ok(true)
            }
            Phase::Transaction(open) => {
                open.extent.add(lsn);
                Ok(false)
            }
            // The server broke the protocol; the caller reports it.
            Phase::Between | Phase::Done => Ok(false),
        }
    }
}
