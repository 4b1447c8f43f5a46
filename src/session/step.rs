//! What a session asks of the pump.

use crate::change::{Change, Ticket};
use crate::lsn::Lsn;
use crate::wire::pgoutput::{Oids, RelationMessage};

/// Which clock goes into the envelope's `ts_ms`, `ts_us` and `ts_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeClock {
    /// The processing clock.
    Processing,
    /// The commit time, where the same WAL has to give the same bytes (dump, decode).
    Commit,
}

/// What becomes of a TRUNCATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncations {
    /// A record with op `t` for each table.
    Emit,
    /// Nothing.
    Skip,
}

/// What the pump has to do about a frame.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing.
    Nothing,
    /// Learn a relation before anything else is read.
    Relation(RelationMessage<'a>),
    /// Hand the change to the sink under the ticket, then call [`Session::emitted`](super::Session::emitted).
    Change {
        /// The change.
        change: Change<'a>,
        /// Names its entry.
        ticket: Ticket,
        /// Where the change is a unit of confirmation of its own: seal it once the sink has taken it.
        sealed: Option<Sealed>,
    },
    /// The same for each of the relations, by [`Session::truncation`](super::Session::truncation).
    Truncate(Lsn, Oids<'a>),
    /// A transaction that has records ends here.
    Sealed(Sealed),
    /// The frame lies beyond the end of the job: nothing of it is wanted, and nothing after it.
    Beyond,
}

/// The end of a unit of confirmation: where a sink that delivers whole transactions may draw its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The LSN of the commit record; of the message for a non-transactional one.
    pub commit_lsn: Lsn,
    /// What is confirmed once all of it is delivered.
    pub end_lsn: Lsn,
    /// The transaction; 0 for a non-transactional message.
    pub xid: u32,
}
