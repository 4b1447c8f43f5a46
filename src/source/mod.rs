//! Where changes come from: the replication stream, or polls of a slot.

pub mod error;
pub mod open;
pub mod options;
pub mod slot;
pub mod snapshot;
pub mod waiting;

pub use self::error::Error;

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
    /// The session has ended, so the slot is free.
    Closed,
}

/// What was read.
#[derive(Debug)]
pub enum Received {
    /// A frame of the replication protocol.
    Frame(CopyData),
    /// Changes from a peek.
    Peeked(Peeked),
}

impl Feed {
    /// Returns what can be read now, if anything.
    pub(crate) fn receive(&mut self, now: Instant) -> Result<Option<Received>, pg::Error> {
        Ok(match self {
            Feed::Streaming(stream) => stream.receive()?.map(Received::Frame),
            Feed::Polling(peek) => peek.receive(now)?.map(Received::Peeked),
            Feed::Closed => None,
        })
    }

    /// Whether bytes have arrived since the last call. A peek keeps its own clock.
    pub(crate) fn take_sign_of_life(&mut self) -> bool {
        match self {
            Feed::Streaming(stream) => stream.take_sign_of_life(),
            Feed::Polling(_) | Feed::Closed => false,
        }
    }

    /// Reports the positions to the server.
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

    /// Passes on what may be confirmed: the polling engine confirms it at once, a stream with its next status update.
    pub(crate) fn confirm(&mut self, lsn: Lsn) {
        if let Feed::Polling(peek) = self {
            peek.confirm(lsn);
        }
    }

    /// Notes that everything committed before this position was delivered before. A walsender is told so when it starts.
    pub(crate) fn pass_before(&mut self, lsn: Lsn) {
        if let Feed::Polling(peek) = self {
            peek.pass_before(lsn);
        }
    }

    /// Sends what is left to send.
    pub(crate) fn flush(&mut self) -> Result<(), pg::Error> {
        match self {
            Feed::Streaming(stream) => stream.flush(),
            Feed::Polling(_) | Feed::Closed => Ok(()),
        }
    }

    /// The socket to wait for, and whether something is left to send; none while nothing can arrive.
    pub(crate) fn socket(&self) -> Result<Option<(RawFd, bool)>, pg::Error> {
        match self {
            Feed::Streaming(stream) => stream.socket().map(Some),
            Feed::Polling(peek) => Ok(peek.socket()),
            Feed::Closed => Ok(None),
        }
    }

    /// The latest time of the next read.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Feed::Streaming(_) | Feed::Closed => None,
            Feed::Polling(peek) => peek.deadline(),
        }
    }

    /// Notes that walcat is not reading, so silence is not the server's fault.
    pub(crate) fn not_reading(&mut self, now: Instant) {
        if let Feed::Polling(peek) = self {
            peek.not_reading(now);
        }
    }

    /// Fails when a peek's server has been silent for too long; a stream's server is asked for signs of life instead.
    pub(crate) fn check_stall(&self, now: Instant) -> Result<(), Stalled> {
        match self {
            Feed::Polling(peek) => peek.silent_for(now).map_or(Ok(()), |silent_for| Err(Stalled { silent_for })),
            Feed::Streaming(_) | Feed::Closed => Ok(()),
        }
    }

    /// Whether nothing more arrives before what was read is confirmed.
    pub(crate) fn waits_for_confirmation(&self) -> bool {
        match self {
            Feed::Streaming(_) | Feed::Closed => false,
            Feed::Polling(peek) => peek.waits_for_confirmation(),
        }
    }

    /// Whether the session holds something on the server: the slot, or a peek's snapshot.
    pub(crate) fn is_attached(&self) -> bool {
        match self {
            Feed::Streaming(_) => true,
            Feed::Polling(peek) => peek.is_asking(),
            Feed::Closed => false,
        }
    }

    /// Whether no command of this session is still running.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Feed::Streaming(_) => true,
            Feed::Polling(peek) => !peek.is_asking() && !peek.waits_for_confirmation(),
            Feed::Closed => false,
        }
    }

    /// The pid of the session's server process while the connection works; 0 without one.
    pub(crate) fn session_pid(&self) -> i32 {
        match self {
            Feed::Streaming(stream) => stream.session_pid(),
            Feed::Polling(peek) => peek.session_pid(),
            Feed::Closed => 0,
        }
    }

    /// Ends the session, so that another process can use the slot. A working connection can also cancel a running command.
    pub(crate) fn close(&mut self, is_working: bool) {
        if let (Feed::Polling(peek), true) = (&mut *self, is_working) {
            peek.cancel();
        }
        *self = Feed::Closed;
    }

    /// Ends the session in order, so that the server has processed the last report.
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
