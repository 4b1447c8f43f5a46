//! Where the changes go, as the loop sees it.

use std::os::fd::RawFd;
use std::time::Instant;

use mio::Interest;

use super::dumping::Dumping;
use super::error::Error;
use crate::change::RelationIndex;
use crate::limits::STDOUT_BUFFER_BYTES;
use crate::lsn::Lsn;
use crate::record::Encoder;
use crate::session::Session;
use crate::sink::kafka::exactly_once::Transactions;
use crate::sink::stdout::Output as Lines;
use crate::sink::{self, Settled, Sink};

/// Where the changes go.
pub enum Output {
    /// As records to a sink.
    Records(Sink),
    /// As one line per protocol message to standard output.
    Dump(Box<Dump>),
}

/// Frames as lines, and the lines on their way.
pub struct Dump {
    /// Turns frames into lines.
    pub dumping: Dumping,
    /// Standard output.
    pub lines: Lines,
}

impl Output {
    /// The Kafka transactions of exactly-once delivery.
    pub(super) fn transactions(&mut self) -> Option<&mut Transactions> {
        match self {
            Output::Records(Sink::Kafka(kafka)) => kafka.transactions(),
            _ => None,
        }
    }

    /// Gives up what only the end of a transaction would deliver.
    pub(super) fn close(&mut self) -> Result<(), sink::Error> {
        match self {
            Output::Records(Sink::Kafka(kafka)) => Ok(kafka.close()?),
            _ => Ok(()),
        }
    }

    /// What was taken is given up: fails too when nothing has been delivered for too long.
    pub(super) fn has_failed(&mut self, reason: &str, now: Instant) -> Result<(), sink::Error> {
        match self {
            Output::Records(Sink::Kafka(kafka)) => Ok(kafka.has_failed(reason, now)?),
            _ => Ok(()),
        }
    }

    /// Fails when another instance has taken over the Kafka transactions.
    pub(super) fn check_successor(&mut self) -> Result<(), sink::Error> {
        match self {
            Output::Records(Sink::Kafka(kafka)) => Ok(kafka.check_successor()?),
            _ => Ok(()),
        }
    }

    /// How many records were refused and left out.
    pub(super) fn refused_count(&self) -> u64 {
        match self {
            Output::Records(Sink::Kafka(kafka)) => kafka.refused_count(),
            _ => 0,
        }
    }

    /// Whether the stream is to begin again at what is delivered, on whatever connection.
    pub(super) fn begins_again(&self) -> bool {
        match self {
            Output::Records(Sink::Kafka(kafka)) => kafka.begins_again(),
            _ => false,
        }
    }

    /// Begins anew where what was taken is given up; says whether that is so.
    pub(super) fn renew(&mut self, now: Instant) -> Result<bool, sink::Error> {
        match self {
            Output::Records(Sink::Kafka(kafka)) if kafka.begins_again() => kafka.renew(now).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Whether another frame can be taken.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        match self {
            Output::Records(sink) => sink.has_room(now),
            Output::Dump(dump) => dump.lines.pending() < STDOUT_BUFFER_BYTES,
        }
    }

    /// Whether nothing is queued or under way.
    pub(super) fn is_drained(&self) -> bool {
        match self {
            Output::Records(sink) => sink.is_drained(),
            Output::Dump(dump) => dump.lines.pending() == 0,
        }
    }

    /// What concerns relations.
    pub(super) fn encoder(&mut self) -> &mut Encoder {
        match self {
            Output::Records(sink) => sink.encoder(),
            Output::Dump(dump) => dump.dumping.encoder(),
        }
    }

    /// Forgets a relation of which nothing is under way and nothing comes any more.
    pub(super) fn forget(&mut self, index: RelationIndex, oid: u32) {
        match self {
            Output::Records(sink) => sink.forget(index, oid),
            Output::Dump(dump) => drop(dump.dumping.encoder().forget(index, oid)),
        }
    }

    /// Since when nothing can be delivered, if so, and why.
    pub(super) fn outage(&self) -> Option<(Instant, &str)> {
        match self {
            Output::Records(sink) => sink.outage(),
            Output::Dump(_) => None,
        }
    }

    /// When it has to be served again at the latest.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Output::Records(sink) => sink.deadline(now),
            Output::Dump(_) => None,
        }
    }

    /// The descriptor by which Kafka wakes the loop.
    pub(super) fn kafka_descriptor(&self) -> Option<RawFd> {
        match self {
            Output::Records(Sink::Kafka(sink)) => Some(sink.descriptor()),
            _ => None,
        }
    }

    /// What to wait for of standard output: room for lines, or the end of its reader.
    pub(super) fn stdout(&self) -> Option<(RawFd, Interest)> {
        match self {
            Output::Records(Sink::Stdout(sink)) => sink.awaited(),
            Output::Records(Sink::Kafka(_)) => None,
            Output::Dump(dump) => dump.lines.awaited(),
        }
    }
}

/// Lets the output work, and settles what it has delivered.
pub(super) fn serve_output(output: &mut Output, session: &mut Session, now: Instant) -> Result<(), Error> {
    let sink = match output {
        Output::Records(sink) => sink,
        Output::Dump(dump) => return Ok(dump.lines.write().map(drop).map_err(sink::Error::from)?),
    };
    sink.serve(now)?;
    let mut settled = false;
    while let Some(report) = sink.settled(now) {
        match report {
            Settled::Delivered(ticket, records) => session.settle(ticket, records)?,
            Settled::Refused(ticket, ordinal, failure) => {
                session.advance();
                let lsn = session.ring().position(ticket).unwrap_or(Lsn::INVALID);
                sink.refuse(ticket, (ordinal, failure), lsn, now)?;
            }
        }
        settled = true;
    }
    if settled {
        session.advance();
        if let Sink::Kafka(kafka) = sink {
            kafka.has_delivered(session.feedback().delivered());
        }
    }
    Ok(())
}
