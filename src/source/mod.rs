//! Where changes come from, as the loop sees it: the replication stream, or the polling of a slot.

pub mod open;
pub mod options;
pub mod slot;
pub mod waiting;

use std::os::fd::RawFd;
use std::time::Instant;

use crate::clock::PgTimestamp;
use crate::feedback::{Stalled, Update};
use crate::lsn::Lsn;
use crate::pg;
use crate::pg::ffi::CopyData;
use crate::pg::peek::{Peek, Peeked};
use crate::pg::stream::Stream;
use crate::source::waiting::Waiter;
use crate::wire::replication::StatusUpdate;

/// Where changes come from.
#[derive(Debug)]
pub enum Feed {
    /// A walsender's stream.
    Streaming(Stream),
    /// One peek after another.
    Polling(Box<Peek>),
    /// Nothing any more: the session has ended, so that the slot is free.
    Closed,
}

/// What was read.
#[derive(Debug)]
pub enum Received {
    /// A frame of the replication protocol.
    Frame(CopyData),
    /// What a peek brought.
    Peeked(Peeked),
}

impl Feed {
    /// What there is to read now, if anything.
    pub(crate) fn receive(&mut self, now: Instant) -> Result<Option<Received>, pg::Error> {
        Ok(match self {
            Feed::Streaming(stream) => stream.receive()?.map(Received::Frame),
            Feed::Polling(peek) => peek.receive(now)?.map(Received::Peeked),
            Feed::Closed => None,
        })
    }

    /// Whether bytes have arrived since this was asked last. A peek keeps its own clock.
    pub(crate) fn take_sign_of_life(&mut self) -> bool {
        match self {
            Feed::Streaming(stream) => stream.take_sign_of_life(),
            Feed::Polling(_) | Feed::Closed => false,
        }
    }

    /// Reports the positions.
    pub(crate) fn update(&mut self, update: Update) -> Result<(), pg::Error> {
        match self {
            Feed::Streaming(stream) => stream.send(&status_update(update)),
            Feed::Polling(peek) => {
                peek.confirm(update.flushed);
                Ok(())
            }
            Feed::Closed => Ok(()),
        }
    }

    /// What may be confirmed: a peek goes on with it at once, where a stream waits for the next status update.
    pub(crate) fn confirm(&mut self, lsn: Lsn) {
        if let Feed::Polling(peek) = self {
            peek.confirm(lsn);
        }
    }

    /// Sends what is left to send.
    pub(crate) fn flush(&mut self) -> Result<(), pg::Error> {
        match self {
            Feed::Streaming(stream) => stream.flush(),
            Feed::Polling(_) | Feed::Closed => Ok(()),
        }
    }

    /// The socket to wait for, and whether something is left to send; none while nothing can come.
    pub(crate) fn socket(&self) -> Result<Option<(RawFd, bool)>, pg::Error> {
        match self {
            Feed::Streaming(stream) => stream.socket().map(Some),
            Feed::Polling(peek) => Ok(peek.socket()),
            Feed::Closed => Ok(None),
        }
    }

    /// When it has to be read again at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Feed::Streaming(_) | Feed::Closed => None,
            Feed::Polling(peek) => peek.deadline(),
        }
    }

    /// While nothing is read, silence is ours.
    pub(crate) fn not_reading(&mut self, now: Instant) {
        if let Feed::Polling(peek) = self {
            peek.not_reading(now);
        }
    }

    /// Fails when a peek's server has been silent for too long; a stream's is asked for signs of life.
    pub(crate) fn check_stall(&self, now: Instant) -> Result<(), Stalled> {
        match self {
            Feed::Polling(peek) => peek.silent_for(now).map_or(Ok(()), |silent_for| Err(Stalled { silent_for })),
            Feed::Streaming(_) | Feed::Closed => Ok(()),
        }
    }

    /// Whether nothing more comes before what was read is confirmed.
    pub(crate) fn waits_for_confirmation(&self) -> bool {
        match self {
            Feed::Streaming(_) | Feed::Closed => false,
            Feed::Polling(peek) => peek.waits_for_confirmation(),
        }
    }

    /// Whether the server holds something for this session: the slot, or a peek's snapshot.
    pub(crate) fn is_attached(&self) -> bool {
        match self {
            Feed::Streaming(_) => true,
            Feed::Polling(peek) => peek.is_asking(),
            Feed::Closed => false,
        }
    }

    /// Whether nothing was asked that this session has to see the end of.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Feed::Streaming(_) => true,
            Feed::Polling(peek) => !peek.is_asking() && !peek.waits_for_confirmation(),
            Feed::Closed => false,
        }
    }

    /// The server's process of the session, while the connection works; 0 where there is none.
    pub(crate) fn session_pid(&self) -> i32 {
        match self {
            Feed::Streaming(stream) => stream.session_pid(),
            Feed::Polling(peek) => peek.session_pid(),
            Feed::Closed => 0,
        }
    }

    /// Ends the session, so that another one gets the slot. To cancel what the server does takes a connection that works.
    pub(crate) fn close(&mut self, is_working: bool) {
        if let (Feed::Polling(peek), true) = (&mut *self, is_working) {
            peek.cancel();
        }
        *self = Feed::Closed;
    }

    /// Ends it in order, so that the last report is known to be processed.
    pub(crate) fn finish(&mut self, waiter: &mut Waiter<'_>) -> Result<(), pg::Error> {
        let wait = &mut |socket, direction| waiter.wait(socket, direction);
        match self {
            Feed::Streaming(stream) => stream.finish(wait),
            Feed::Polling(peek) => peek.finish(wait),
            Feed::Closed => Ok(()),
        }
    }
}

fn status_update(update: Update) -> [u8; StatusUpdate::SIZE] {
    StatusUpdate {
        written: update.written,
        flushed: update.flushed,
        applied: update.flushed,
        sent_at: PgTimestamp::now(),
        reply_requested: update.reply_requested,
    }
    .encode()
}
