//! Where changes go. A sink takes borrowed changes with a ticket, encodes them, and later reports the tickets that are
//! settled. The confirmation rule (`ring`, `feedback`) does not depend on what is behind the sink.
//!
//! The caller asks [`Sink::has_room`] before it offers a change; a sink with room takes the whole change.

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
use crate::sink::kafka::exactly_once::Transactions;
pub use kafka::KafkaSink;
use kafka::client::context::Failure;
use kafka::flight::Ordinal;
pub use stdout::StdoutSink;

/// The result of taking a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The number of records; each is settled once.
    pub records: u32,
    /// The number of records that have a value; each uses one number of `total_order`.
    pub values: u64,
}

/// A record that is finished.
#[derive(Debug)]
pub enum Settled {
    /// This many records of the entry are delivered.
    Delivered(Ticket, u32),
    /// The record is permanently rejected: its place in the entry, and the reason.
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
    /// A change that cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A relation that cannot be prepared.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A defect of walcat.
    #[error("received a change of a relation that is not prepared")]
    Unprepared,
}

impl Error {
    /// Whether a new producer delivers what was discarded by this failure.
    #[must_use]
    pub fn is_discarded(&self) -> bool {
        match self {
            Error::Kafka(error) => error.class() == kafka::Class::Discarded,
            Error::Stdout(_) | Error::Encode(_) | Error::Prepare(_) | Error::Unprepared => false,
        }
    }

    /// The exit code for this failure.
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

/// The destination of the stream.
pub enum Sink {
    /// Apache Kafka.
    Kafka(Box<KafkaSink>),
    /// Standard output, one JSON line per record.
    Stdout(Box<StdoutSink>),
}

impl Sink {
    /// Prepares the encoder for a relation and opens the topic of its records.
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

    /// The encoder.
    pub fn encoder(&mut self) -> &mut Encoder {
        match self {
            Sink::Kafka(sink) => sink.encoder(),
            Sink::Stdout(sink) => sink.encoder(),
        }
    }

    /// Forgets a relation that has nothing in flight and gets no more changes.
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

    /// The Kafka transactions of exactly-once delivery.
    pub fn transactions(&mut self) -> Option<&mut Transactions> {
        match self {
            Sink::Kafka(sink) => sink.delivery().transactions_mut(),
            Sink::Stdout(_) => None,
        }
    }

    /// A transaction, or a message outside a transaction, was taken completely.
    pub fn seal(&mut self, sealed: Sealed) {
        match self {
            Sink::Kafka(sink) => sink.seal(sealed),
            Sink::Stdout(_) => {}
        }
    }

    /// Does all work that is possible without waiting.
    ///
    /// # Errors
    /// [`Error::Kafka`] and [`Error::Stdout`].
    pub fn serve(&mut self, now: Instant) -> Result<(), Error> {
        match self {
            Sink::Kafka(sink) => sink.serve(now),
            Sink::Stdout(sink) => Ok(sink.serve()?),
        }
    }

    /// The next settled record, if any.
    pub fn settled(&mut self, now: Instant) -> Option<Settled> {
        match self {
            Sink::Kafka(sink) => sink.settled(now),
            Sink::Stdout(sink) => sink.settled().map(|(ticket, records)| Settled::Delivered(ticket, records)),
        }
    }

    /// Applies the `on_error` policy to a record that was reported as rejected. `lsn` names its entry.
    ///
    /// # Errors
    /// [`Error::Kafka`] if the policy is to stop.
    ///
    /// # Panics
    /// For standard output, which rejects nothing.
    pub fn refuse(&mut self, ticket: Ticket, refused: (Ordinal, Failure), lsn: Lsn, now: Instant) -> Result<(), Error> {
        match self {
            Sink::Kafka(sink) => Ok(sink.refuse(ticket, refused, lsn, now)?),
            Sink::Stdout(_) => unreachable!("standard output reported a rejected record"),
        }
    }

    /// Whether nothing is queued or in flight.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        match self {
            Sink::Kafka(sink) => sink.is_drained(),
            Sink::Stdout(sink) => sink.is_drained(),
        }
    }

    /// Since when nothing can be delivered, and why; `None` if there is no outage.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        match self {
            Sink::Kafka(sink) => sink.outage(),
            Sink::Stdout(_) => None,
        }
    }

    /// Whether the destination was ever reachable.
    #[must_use]
    pub fn ever_reached(&self) -> bool {
        match self {
            Sink::Kafka(sink) => sink.ever_reached(),
            Sink::Stdout(_) => true,
        }
    }

    /// The time by which [`Sink::serve`] must be called again.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Sink::Kafka(sink) => sink.deadline(now),
            Sink::Stdout(_) => None,
        }
    }
}
