//! Closes the session with PostgreSQL while nothing can be delivered, and opens a new one when there is room again.
//!
//! A walsender whose client does not read blocks in a write that nothing interrupts: neither pg_terminate_backend, nor the
//! checkpointer that enforces max_slot_wal_keep_size, nor a fast shutdown. walcat cannot ask the server to pause, so it
//! closes the connection. Records in flight stay in flight. A transaction that was read in part continues where reading
//! stopped: none of its records is sent twice, and a transaction of any size makes progress through any number of pauses.
//!
//! A temporary slot ends with its session, and a dump or a recording shows one session, so these runs keep their session.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::error::Error;
use super::reconnect::HOLDER_LOOK;
use super::{Pump, Stage};
use crate::limits::{BLOCKED_SESSION_MAX, BLOCKED_SESSION_MIN, FINISH_TIMEOUT};
use crate::lsn::Lsn;
use crate::pg;
use crate::poller::Wakeup;
use crate::position::Known;
use crate::sink::kafka::exactly_once::ABORT_LIMIT;
use crate::source::open;

/// How the session is used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    /// walcat reads from it.
    InUse,
    /// walcat has read nothing since then, because there is no room.
    Blocked { since: Instant },
    /// The same, in a run that cannot close its session; the warning is logged.
    Kept,
    /// walcat closed it, with this position confirmed.
    Released { confirmed: Lsn },
}

impl Hold {
    /// Whether the session is closed.
    pub fn is_released(self) -> bool {
        matches!(self, Hold::Released { .. })
    }
}

impl Pump {
    /// Closes the session when it was blocked for too long, and opens a new one when there is room.
    pub(super) fn handle_hold(&mut self, now: Instant) -> Result<(), Error> {
        if self.hold.is_released() {
            return if self.wants_session(now) { self.reclaim(None, "there is room again") } else { Ok(()) };
        }
        let (is_blocked, outage_since) = (self.is_blocked(now), self.outage_since());
        self.hold = match self.hold {
            Hold::Blocked { .. } | Hold::Kept if is_blocked => self.hold,
            Hold::Kept if outage_since.is_some() => Hold::Kept,
            _ if is_blocked => Hold::Blocked { since: now },
            _ => Hold::InUse,
        };
        let blocked_since = match self.hold {
            Hold::Blocked { since } => Some(since),
            Hold::InUse | Hold::Kept | Hold::Released { .. } => None,
        };
        let is_due = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let limit = self.blocked_max();
        let is_due = blocked_since.is_some_and(|since| is_due(since, limit))
            || outage_since.is_some_and(|since| is_due(since, BLOCKED_SESSION_MAX));
        let is_kept = matches!(self.hold, Hold::Kept);
        if is_due && !is_kept && !self.asking.is_open() && self.feed.is_attached() {
            self.release(now);
        }
        Ok(())
    }

    /// How long the session may stay blocked before walcat closes it.
    fn blocked_max(&self) -> Duration {
        if self.outage.is_slot_at_risk() { BLOCKED_SESSION_MIN } else { BLOCKED_SESSION_MAX }
    }

    /// The latest time of the next call of [`Pump::handle_hold`].
    pub(super) fn hold_deadline(&self) -> Option<Instant> {
        let limit = self.blocked_max();
        if self.asking.is_open() {
            return None;
        }
        match self.hold {
            Hold::Blocked { since } if self.feed.is_attached() => Some(since + limit),
            Hold::InUse if self.feed.is_attached() => self.outage_since().map(|since| since + BLOCKED_SESSION_MAX),
            _ => None,
        }
    }

    /// Notes that something was read.
    pub(super) fn has_read(&mut self) {
        if matches!(self.hold, Hold::Blocked { .. }) {
            self.hold = Hold::InUse;
        }
    }

    /// Whether walcat leaves the server's data unread: there is no room, or the job is done.
    fn is_blocked(&self, now: Instant) -> bool {
        let has_room = self.session.has_room() && self.output.has_room(now);
        !self.stage.is_reading() || self.session.is_done() || !has_room
    }

    /// The time since which Kafka has not accepted the records in flight. walcat still reads, but the server's shutdown
    /// would wait for the rest.
    fn outage_since(&self) -> Option<Instant> {
        let (since, _) = self.output.outage()?;
        (!self.session.is_settled()).then_some(since)
    }

    /// Whether there is a use for a session again.
    fn wants_session(&self, now: Instant) -> bool {
        self.stage.is_reading() && !self.is_blocked(now) && self.outage_since().is_none()
    }

    fn release(&mut self, now: Instant) {
        let (slot, received) = (self.report.slot(), self.session.feedback().received());
        let confirmed = self.session.feedback().confirmed();
        if !self.may_reconnect() {
            warn!(slot, received:% = received;
                "nothing can be delivered, and this run cannot reopen its session; until something is delivered, \
                 PostgreSQL cannot end the session (stop walcat to end it)");
            self.hold = Hold::Kept;
            return;
        }
        let reason = match self.output.outage() {
            Some((_, reason)) => format!("Kafka is not accepting records: {reason}"),
            None => "there is no room for more records".to_owned(),
        };
        warn!(slot, received:% = received, confirmed:% = confirmed, in_flight = self.session.ring().outstanding(),
            reason = reason.as_str();
            "nothing can be delivered; closing the session with PostgreSQL until there is room, and keeping the slot \
             and the records in flight");
        self.give_up_session(now);
    }

    /// Ends the session; [`Pump::reclaim`] opens a new one.
    pub(super) fn give_up_session(&mut self, now: Instant) {
        let confirmed = self.session.feedback().confirmed();
        let update = self.session.feedback().update(now);
        // If this update fails, the next session sends the same positions.
        let _: Result<(), pg::Error> = self.feed.update(update);
        self.poller.disarm(Wakeup::Postgres);
        // The server ends a session that it cannot write to.
        self.feed.close(false);
        self.hold = Hold::Released { confirmed };
    }

    /// Opens a session that continues exactly where the last one ended. The log line begins with `why`.
    pub(super) fn reclaim(&mut self, deadline: Option<Instant>, why: &str) -> Result<(), Error> {
        let started = match self.connect_again(Duration::ZERO, HOLDER_LOOK, deadline) {
            Ok(started) => started,
            // The caller finds no session, and the loop handles the signal.
            Err(Error::Postgres(pg::Error::Interrupted)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let taken = self.session.resume_lsn();
        let known = Known {
            stored: self.identity.at(taken, self.session.records_end()),
            store: "what was read before the session was closed".to_owned(),
        };
        let is_same = started.system.identifier == self.identity.system_identifier
            && started.system.timeline == self.identity.timeline;
        if !is_same || open::check_stored(Some(&known), &started.facts, false)?.is_cut {
            // This server may decode differently from the other one. The wait is shorter than the server's for walcat.
            self.output.close(ABORT_LIMIT, Instant::now());
            self.settle_output()?;
            return self.go_on(started);
        }
        let now = Instant::now();
        self.attach(started, now);
        self.session.resumed(now);
        self.session.pass_before(taken);
        if deadline.is_none() {
            info!(slot = self.report.slot(), lsn:% = taken, in_flight = self.session.ring().outstanding();
                "{why}: streaming resumed");
        }
        Ok(())
    }

    /// Opens the session for the end of the run, if walcat closed it and still has a position to confirm.
    pub(super) fn reclaim_to_finish(&mut self) -> Result<(), Error> {
        let Hold::Released { confirmed } = self.hold else { return Ok(()) };
        if matches!(self.stage, Stage::Stopping { .. }) && self.session.feedback().confirmed() == confirmed {
            return Ok(());
        }
        self.reclaim(Some(Instant::now() + FINISH_TIMEOUT), "the run ends")?;
        if self.hold.is_released() { Err(self.unacknowledged()) } else { Ok(()) }
    }
}
