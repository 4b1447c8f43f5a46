//! What a session asks the pump to do.

use crate::change::{Change, Ticket};
use crate::lsn::Lsn;
use crate::snapshot::progress::RequestAt;
use crate::wire::pgoutput::{Oids, RelationMessage};

/// The clock for the envelope's `ts_ms`, `ts_us` and `ts_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeClock {
    /// The processing clock.
    Processing,
    /// The commit time, so that the same WAL gives the same bytes (dump, decode).
    Commit,
}

/// What to do with a TRUNCATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncations {
    /// A record with op `t` for each table.
    Emit,
    /// No record.
    Skip,
}

/// What the pump has to do for an item.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing.
    Nothing,
    /// Prepare a relation before reading anything else.
    Relation(RelationMessage<'a>),
    /// Hand the change to the sink under the ticket, then call [`Session::emitted`](super::Session::emitted).
    Change {
        /// The change.
        change: Change<'a>,
        /// The ticket of its entry.
        ticket: Ticket,
        /// The seal, if the change is a unit of confirmation by itself: seal it once the sink has taken it.
        sealed: Option<Sealed>,
    },
    /// The same for each of the relations, by [`Session::truncation`](super::Session::truncation).
    Truncate(Lsn, Oids<'a>),
    /// A request for a snapshot; it becomes no record.
    Request {
        /// Its position.
        at: RequestAt,
        /// What is requested.
        content: &'a [u8],
    },
    /// A transaction that has records ends here.
    Sealed(Sealed),
    /// The item lies past the end of the job: ignore it and everything after it.
    Beyond,
}

/// The end of a unit of confirmation, at which a sink can commit whole transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The LSN of the commit record; for a non-transactional message, the LSN of the message.
    pub commit_lsn: Lsn,
    /// The LSN to confirm once all of it is delivered.
    pub end_lsn: Lsn,
    /// The transaction; 0 for a non-transactional message.
    pub xid: u32,
}
