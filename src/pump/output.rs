//! Where the changes go, as the loop sees it.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use mio::Interest;

use super::dumping::Dumping;
use super::error::Error;
use crate::change::RelationIndex;
use crate::limits::STDOUT_BUFFER_BYTES;
use crate::lsn::Lsn;
use crate::record::Encoder;
use crate::session::Session;
use crate::sink::stdout::LineWriter;
use crate::sink::{self, Settled, Sink};

/// Where the changes go.
pub enum Output {
    /// As records to a sink.
    Records(Sink),
    /// As one line per protocol message to standard output.
    Dump(Box<Dump>),
}

/// The conversion of frames to lines, and the lines that are not written yet.
pub struct Dump {
    /// Turns frames into lines.
    pub dumping: Dumping,
    /// Standard output.
    pub lines: LineWriter,
}

impl Output {
    /// Starts to discard what only the end of a transaction would deliver, which ends after `limit` at the latest.
    pub(super) fn close(&mut self, limit: Duration, now: Instant) {
        if let Output::Records(Sink::Kafka(kafka)) = self {
            kafka.close(limit, now);
        }
    }

    /// Whether that is under way.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self, Output::Records(Sink::Kafka(kafka)) if kafka.is_closing())
    }

    /// Whether nothing more is delivered, and only the reason is being looked for.
    pub(super) fn is_finding_cause(&self) -> bool {
        matches!(self, Output::Records(Sink::Kafka(kafka)) if kafka.is_finding_cause())
    }

    /// Discards what was taken; also fails when nothing has been delivered for too long.
    pub(super) fn has_failed(&mut self, reason: &str, now: Instant) -> Result<(), sink::Error> {
        match self {
            Output::Records(Sink::Kafka(kafka)) => Ok(kafka.has_failed(reason, now)?),
            _ => Ok(()),
        }
    }

    /// Starts to look whether another instance has taken over the Kafka transactions.
    pub(super) fn check_successor(&mut self, now: Instant) {
        if let Output::Records(Sink::Kafka(kafka)) = self {
            kafka.check_successor(now);
        }
    }

    /// How many records were refused and skipped.
    pub(super) fn refused_count(&self) -> u64 {
        match self {
            Output::Records(Sink::Kafka(kafka)) => kafka.refused_count(),
            _ => 0,
        }
    }

    /// Whether the stream has to start again at the delivered position, whatever the connection.
    pub(super) fn begins_again(&self) -> bool {
        match self {
            Output::Records(Sink::Kafka(kafka)) => kafka.begins_again(),
            _ => false,
        }
    }

    /// Starts the output again if what was taken is discarded; returns whether it was.
    pub(super) fn renew(&mut self, now: Instant) -> Result<bool, sink::Error> {
        match self {
            Output::Records(Sink::Kafka(kafka)) if kafka.begins_again() => kafka.renew(now).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Whether the output accepts another frame.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        match self {
            Output::Records(sink) => sink.has_room(now),
            Output::Dump(dump) => dump.lines.pending() < STDOUT_BUFFER_BYTES,
        }
    }

    /// Whether nothing is queued or in flight.
    pub(super) fn is_drained(&self) -> bool {
        match self {
            Output::Records(sink) => sink.is_drained(),
            Output::Dump(dump) => dump.lines.pending() == 0,
        }
    }

    /// The encoder, for work on relations.
    pub(super) fn encoder(&mut self) -> &mut Encoder {
        match self {
            Output::Records(sink) => sink.encoder(),
            Output::Dump(dump) => dump.dumping.encoder(),
        }
    }

    /// Forgets a relation that has no changes left in the stream or in flight.
    pub(super) fn forget(&mut self, index: RelationIndex, oid: u32) {
        match self {
            Output::Records(sink) => sink.forget(index, oid),
            Output::Dump(dump) => drop(dump.dumping.encoder().forget(index, oid)),
        }
    }

    /// Since when nothing can be delivered, and why; none if deliveries work.
    pub(super) fn outage(&self) -> Option<(Instant, &str)> {
        match self {
            Output::Records(sink) => sink.outage(),
            Output::Dump(_) => None,
        }
    }

    /// The latest time to serve it again.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Output::Records(sink) => sink.deadline(now),
            Output::Dump(_) => None,
        }
    }

    /// The descriptor through which Kafka wakes the loop.
    pub(super) fn kafka_descriptor(&self) -> Option<RawFd> {
        match self {
            Output::Records(Sink::Kafka(sink)) => Some(sink.descriptor()),
            _ => None,
        }
    }

    /// What to wait for on standard output: room for lines, or the end of its reader.
    pub(super) fn stdout(&self) -> Option<(RawFd, Interest)> {
        match self {
            Output::Records(Sink::Stdout(sink)) => sink.awaited(),
            Output::Records(Sink::Kafka(_)) => None,
            Output::Dump(dump) => dump.lines.awaited(),
        }
    }
}

/// Serves the output, and settles what it has delivered.
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
