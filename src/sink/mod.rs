//! Where changes go. A sink takes borrowed changes under a ticket, encodes them on its side, and later reports the
//! tickets that are settled; the confirmation rule (`ring`, `feedback`) knows nothing of what is behind it.
//!
//! "Full" is answered before a change is offered, by [`Sink::has_room`]: a change is then taken whole or refused.

pub mod kafka;
pub mod stdout;

use std::time::Instant;

use crate::catalog_facts::CatalogAnswer;
use crate::change::{Change, RelationIndex, Ticket};
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::record::{EncodeError, Encoder, PrepareError, Prepared};
use crate::relations::Relation;
use crate::session::Sealed;
pub use kafka::KafkaSink;
use kafka::client::context::Failure;
use kafka::flight::Ordinal;
pub use stdout::StdoutSink;

/// What a change became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many records; each of them is settled once.
    pub records: u32,
    /// How many of these have a value: they use up numbers of `total_order`.
    pub values: u64,
}

/// A record that needs no more attention.
#[derive(Debug)]
pub enum Settled {
    /// So many records of the entry are where they belong.
    Delivered(Ticket, u32),
    /// It is refused for good: which record of its entry, and why.
    Refused(Ticket, Ordinal, Failure),
}

/// A failure that ends the stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// Standard output.
    #[error(transparent)]
    Stdout(#[from] stdout::Error),
    /// A change that has no record.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A relation that has no records.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A defect of walcat.
    #[error("a change of a relation was offered before the relation was prepared")]
    Unprepared,
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Kafka(error) => error.exit_code(),
            Error::Stdout(error) => error.exit_code(),
            Error::Encode(error) => error.exit_code(),
            Error::Prepare(_) => ExitCode::Setup,
            Error::Unprepared => ExitCode::Defect,
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Kafka(error) => error.hint(),
            Error::Encode(error) => error.hint().map(str::to_owned),
            Error::Prepare(error) => Some(error.hint().to_owned()),
            Error::Stdout(_) | Error::Unprepared => None,
        }
    }
}

/// One of the places.
pub enum Sink {
    /// Apache Kafka.
    Kafka(Box<KafkaSink>),
    /// Standard output, one JSON line a record.
    Stdout(Box<StdoutSink>),
}

impl Sink {
    /// Learns how to encode a relation and where its records go.
    ///
    /// # Errors
    /// [`Error::Prepare`] and [`Error::Kafka`].
    pub fn prepare(
        &mut self,
        index: RelationIndex,
        relation: &Relation,
        answer: &CatalogAnswer,
    ) -> Result<Prepared, Error> {
        match self {
            Sink::Kafka(sink) => sink.prepare(index, relation, answer),
            Sink::Stdout(sink) => sink.prepare(index, relation, answer),
        }
    }

    /// The encoder, for what concerns relations.
    pub fn encoder(&mut self) -> &mut Encoder {
        match self {
            Sink::Kafka(sink) => sink.encoder(),
            Sink::Stdout(sink) => sink.encoder(),
        }
    }

    /// Forgets a relation of which nothing is under way and nothing comes any more.
    pub fn forget(&mut self, index: RelationIndex, oid: u32) {
        match self {
            Sink::Kafka(sink) => sink.forget(index, oid),
            Sink::Stdout(sink) => sink.forget(index, oid),
        }
    }

    /// Whether another change can be taken.
    #[must_use]
    pub fn has_room(&self, now: Instant) -> bool {
        match self {
            Sink::Kafka(sink) => sink.has_room(now),
            Sink::Stdout(sink) => sink.has_room(),
        }
    }

    /// Encodes a change and takes its records. Call it only while [`Sink::has_room`].
    ///
    /// # Errors
    /// [`Error::Encode`], and a record that is refused at once.
    pub fn take(&mut self, change: &Change<'_>, ticket: Ticket, now: Instant) -> Result<Taken, Error> {
        match self {
            Sink::Kafka(sink) => sink.take(change, ticket, now),
            Sink::Stdout(sink) => sink.take(change, ticket),
        }
    }

    /// A transaction, or a message outside of any, has been taken whole.
    pub fn seal(&mut self, sealed: Sealed) {
        match self {
            Sink::Kafka(sink) => sink.seal(sealed),
            Sink::Stdout(_) => {}
        }
    }

    /// Does what can be done without waiting.
    ///
    /// # Errors
    /// [`Error::Kafka`] and [`Error::Stdout`].
    pub fn serve(&mut self, now: Instant) -> Result<(), Error> {
        match self {
            Sink::Kafka(sink) => sink.serve(now),
            Sink::Stdout(sink) => Ok(sink.serve()?),
        }
    }

    /// The next record that is settled, if any.
    pub fn settled(&mut self, now: Instant) -> Option<Settled> {
        match self {
            Sink::Kafka(sink) => sink.settled(now),
            Sink::Stdout(sink) => sink.settled().map(|(ticket, records)| Settled::Delivered(ticket, records)),
        }
    }

    /// Deals with a record that was reported as refused: the policy decides. `lsn` names its entry.
    ///
    /// # Errors
    /// [`Error::Kafka`] when the policy is to stop.
    ///
    /// # Panics
    /// For standard output, which refuses nothing.
    pub fn refuse(&mut self, ticket: Ticket, refused: (Ordinal, Failure), lsn: Lsn, now: Instant) -> Result<(), Error> {
        match self {
            Sink::Kafka(sink) => Ok(sink.refuse(ticket, refused, lsn, now)?),
            Sink::Stdout(_) => unreachable!("standard output reported a refused record"),
        }
    }

    /// Whether nothing is queued or under way.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        match self {
            Sink::Kafka(sink) => sink.is_drained(),
            Sink::Stdout(sink) => sink.is_drained(),
        }
    }

    /// Since when nothing can be delivered, if so, and why.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        match self {
            Sink::Kafka(sink) => sink.outage(),
            Sink::Stdout(_) => None,
        }
    }

    /// Whether the other side was ever there.
    #[must_use]
    pub fn ever_reached(&self) -> bool {
        match self {
            Sink::Kafka(sink) => sink.ever_reached(),
            Sink::Stdout(_) => true,
        }
    }

    /// When [`Sink::serve`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Sink::Kafka(sink) => sink.deadline(now),
            Sink::Stdout(_) => None,
        }
    }
}
