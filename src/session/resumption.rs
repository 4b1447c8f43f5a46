//! A transaction that was read in part and comes again on a new connection: what was taken of it is passed over, and the
//! session goes on with the first change after that.
//!
//! The server decodes the same WAL into the same changes, in the order of their LSNs. That it does so is checked: where the
//! changes differ, [`Error::Differs`] has the whole transaction read again as a new one.

use super::{Error, Open, Phase, Session};
use crate::change::Transaction;
use crate::lsn::Lsn;

/// How far a transaction has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// The LSN of the last change.
    lsn: Lsn,
    /// How many changes have it: the rows of one COPY share an LSN.
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
    /// A session that was given up in order is followed by a new one at [`Session::resume_lsn`], on the same timeline. What
    /// is in flight stays in flight, and no change is taken twice, of a transaction that was read in part neither.
    pub fn resumed(&mut self, now: std::time::Instant) {
        self.again = self.partly_read();
        self.begin_connection(now);
    }

    /// The transaction that was read in part, if there is one.
    pub(super) fn partly_read(&self) -> Option<Open> {
        match self.phase {
            Phase::Transaction(open) | Phase::Again { open, .. } => Some(open).filter(|open| !open.extent.is_empty()),
            Phase::Between | Phase::Passing { .. } | Phase::Done => self.again,
        }
    }

    /// A transaction begins; says whether it is the one that was read in part.
    ///
    /// # Errors
    /// [`Error::Differs`] for another one.
    pub(super) fn begin_again(&mut self, transaction: Transaction) -> Result<bool, Error> {
        let Some(open) = self.again.take() else { return Ok(false) };
        let expected = open.transaction;
        if (expected.commit_lsn, expected.xid) != (transaction.commit_lsn, transaction.xid) {
            return Err(Error::Differs { commit_lsn: expected.commit_lsn });
        }
        self.phase = Phase::Again { open, seen: Extent::default() };
        Ok(true)
    }

    /// Counts a change of the transaction; says whether it was taken before.
    ///
    /// # Errors
    /// [`Error::Differs`] when it is none of those that were.
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
            // An error of the server's, which the caller finds.
            Phase::Between | Phase::Done => Ok(false),
        }
    }
}
