//! Which LSN may be confirmed to PostgreSQL, and when the next status update is due.
//!
//! Deterministic: time comes in as an [`Instant`]. Keeps invariant 1 together with `ring`: the confirmed LSN never goes
//! back and never passes what was received.

use std::time::{Duration, Instant};

use crate::limits::{CONFIRMED_BYTES_BEFORE_UPDATE, STATUS_UPDATE_SPACING};
use crate::lsn::Lsn;

/// When status updates are sent and how long silence is borne.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A status update is sent at least this often.
    pub status_interval: Duration,
    /// Silence of the server after which the connection counts as lost; none to wait for ever.
    pub stall_timeout: Option<Duration>,
    /// How often a reply is asked for while the end of the job depends on the server's word; none when it does not.
    pub ask_interval: Option<Duration>,
}

/// Whether positions are confirmed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirming {
    /// As soon as it is delivered.
    Yes,
    /// Once it is delivered and in a store, by [`Feedback::confirm`]: store first, confirm second.
    Stored,
    /// A dump or a recording: flush stays 0/0, so the slot does not move; write says what was received, so that a
    /// server can shut down.
    Never,
}

/// The positions that a status update carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The last LSN received.
    pub written: Lsn,
    /// The LSN confirmed, 0/0 for none.
    pub flushed: Lsn,
    /// Whether the server is asked to answer.
    pub reply_requested: bool,
}

/// The server has been silent for longer than the stall timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server has sent nothing for {} s, though it was asked", silent_for.as_secs())]
pub struct Stalled {
    /// Since when.
    pub silent_for: Duration,
}

/// The state of the positions and of the clock between walcat and one walsender.
#[derive(Debug)]
pub struct Feedback {
    timing: Timing,
    confirming: Confirming,
    received: Lsn,
    /// All up to it is delivered, so that a store may take it.
    delivered: Lsn,
    /// The end of the last thing that has records, of what is delivered; 0/0 for nothing. What is between it and
    /// `delivered` had none: another server may know nothing of it, and nothing is lost.
    records_end: Lsn,
    confirmed: Lsn,
    /// What the last status update carried as flushed.
    sent: Lsn,
    sent_at: Instant,
    asked_at: Instant,
    heard_at: Instant,
    /// How many times `stall_timeout` the server may be silent.
    patience_factor: u32,
    reply_owed: bool,
}

impl Feedback {
    /// Starts at the slot's confirmed position; the first status update is due at once.
    #[must_use]
    pub fn new(start: Lsn, timing: Timing, confirming: Confirming, now: Instant) -> Self {
        Feedback {
            timing,
            confirming,
            received: start,
            delivered: start,
            records_end: Lsn::INVALID,
            confirmed: start,
            sent: Lsn::INVALID,
            sent_at: now,
            asked_at: now,
            heard_at: now,
            patience_factor: 1,
            reply_owed: true,
        }
    }

    /// The server sent something up to `lsn` (0/0 when the message carries no position).
    pub fn heard(&mut self, lsn: Lsn, now: Instant) {
        self.received = self.received.max(lsn);
        self.heard_at = now;
    }

    /// Bytes have arrived, if no whole message: the server is alive.
    pub fn heard_bytes(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// A server that is busy answers late, which looks like a connection that is dead: after a silence without anything
    /// read since the last one the next gets twice the time, and its own again once something was read.
    pub fn be_patient(&mut self, has_stalled: bool, has_read: bool) {
        if has_read {
            self.patience_factor = 1;
        }
        if has_stalled {
            self.patience_factor = self.patience_factor.saturating_mul(2);
        }
    }

    fn stall_timeout(&self) -> Option<Duration> {
        self.timing.stall_timeout.map(|timeout| timeout.saturating_mul(self.patience_factor))
    }

    /// A message names a position beyond its own: the end of a commit record.
    pub fn heard_position(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// While nothing is read, under back pressure, silence is ours: the stall clock starts anew.
    pub fn not_reading(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// The server asked for a reply.
    pub fn reply_requested(&mut self) {
        self.reply_owed = true;
    }

    /// All up to `lsn` is delivered. A position beyond what was received is cut to it. Confirms it too, unless it has
    /// to be stored before; a dump confirms none.
    pub fn deliver(&mut self, lsn: Lsn) {
        self.delivered = self.delivered.max(lsn.min(self.received));
        if self.confirming == Confirming::Yes {
            self.confirmed = self.delivered;
        }
    }

    /// Records are delivered, the last of which end at `lsn`.
    pub fn deliver_records(&mut self, lsn: Lsn) {
        self.records_end = self.records_end.max(lsn);
    }

    /// The server's WAL is another one after `limit`: nothing beyond it may be claimed any more.
    pub fn cut(&mut self, limit: Lsn) {
        self.received = self.received.min(limit);
        self.delivered = self.delivered.min(limit);
        self.records_end = self.records_end.min(limit);
        self.confirmed = self.confirmed.min(limit);
        self.sent = Lsn::INVALID;
    }

    /// All up to `lsn` is stored. A position beyond what was delivered is cut to it.
    pub fn confirm(&mut self, lsn: Lsn) {
        if self.confirming == Confirming::Stored {
            self.confirmed = self.confirmed.max(lsn.min(self.delivered));
        }
    }

    /// A new connection goes on: nothing was sent on it yet, and its silence begins now.
    pub fn reconnected(&mut self, now: Instant) {
        self.sent = Lsn::INVALID;
        self.sent_at = now;
        self.asked_at = now;
        self.heard_at = now;
        self.reply_owed = true;
    }

    /// The LSN up to which all is delivered.
    #[must_use]
    pub fn delivered(&self) -> Lsn {
        self.delivered
    }

    /// The end of the last records that are delivered; 0/0 for none.
    #[must_use]
    pub fn records_end(&self) -> Lsn {
        self.records_end
    }

    /// Whether all that is delivered may be confirmed, as far as it ever may.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.confirming != Confirming::Stored || self.confirmed == self.delivered
    }

    /// Whether the server waits for an answer.
    #[must_use]
    pub fn is_reply_owed(&self) -> bool {
        self.reply_owed
    }

    /// The confirmed LSN.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// The last LSN received.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// The status update that is due now, if one is. The caller sends it.
    pub fn update_due(&mut self, now: Instant) -> Option<Update> {
        (self.reply_owed || now >= self.next_update_at()).then(|| self.update(now))
    }

    /// A status update at any time: the last one before the end.
    pub fn update(&mut self, now: Instant) -> Update {
        assert!(self.confirmed <= self.delivered, "a position is confirmed that is not delivered");
        assert!(self.delivered <= self.received, "a position is delivered that was not received");
        let reply_requested = now >= self.ask_at();
        if reply_requested {
            self.asked_at = now;
        }
        self.reply_owed = false;
        self.sent_at = now;
        self.sent = self.confirmed;
        let flushed = match self.confirming {
            Confirming::Yes | Confirming::Stored => self.confirmed,
            Confirming::Never => Lsn::INVALID,
        };
        Update { written: self.received, flushed, reply_requested }
    }

    /// Whether the last status update carried all that is confirmed.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sent == self.confirmed
    }

    /// Fails when the server has been silent for too long.
    ///
    /// # Errors
    /// [`Stalled`], after `stall_timeout`.
    pub fn check_stall(&self, now: Instant) -> Result<(), Stalled> {
        let silent_for = now.saturating_duration_since(self.heard_at);
        match self.stall_timeout() {
            Some(timeout) if silent_for >= timeout => Err(Stalled { silent_for }),
            _ => Ok(()),
        }
    }

    /// When the loop has to look again, at the latest.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let stall = self.stall_timeout().map(|timeout| self.heard_at + timeout);
        stall.map_or(self.next_update_at(), |stall| stall.min(self.next_update_at()))
    }

    fn next_update_at(&self) -> Instant {
        let by_clock = (self.sent_at + self.timing.status_interval).min(self.ask_at());
        if self.confirmed.bytes_since(self.sent) > CONFIRMED_BYTES_BEFORE_UPDATE {
            by_clock.min(self.sent_at + STATUS_UPDATE_SPACING)
        } else {
            by_clock
        }
    }

    /// When the server is asked for a sign of life: halfway to the stall, or when its word ends the job.
    fn ask_at(&self) -> Instant {
        let far = self.asked_at.max(self.heard_at) + Duration::from_secs(86_400);
        let stall = self.stall_timeout().map(|timeout| self.asked_at.max(self.heard_at) + timeout / 2);
        let goal = self.timing.ask_interval.map(|interval| self.asked_at + interval);
        [stall, goal].into_iter().flatten().min().unwrap_or(far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing() -> Timing {
        Timing { status_interval: SECOND, stall_timeout: Some(60 * SECOND), ask_interval: None }
    }

    fn feedback(now: Instant) -> Feedback {
        let mut feedback = Feedback::new(Lsn(100), timing(), Confirming::Yes, now);
        feedback.update_due(now).expect("the first update is due at once");
        feedback
    }

    #[test]
    fn the_confirmed_lsn_never_goes_back_and_never_passes_what_was_received() {
        let now = Instant::now();
        let mut feedback = feedback(now);
        feedback.deliver(Lsn(1_000));
        assert_eq!(feedback.confirmed(), Lsn(100));
        feedback.heard(Lsn(500), now);
        feedback.deliver(Lsn(1_000));
        assert_eq!(feedback.confirmed(), Lsn(500));
        feedback.deliver(Lsn(200));
        assert_eq!(feedback.confirmed(), Lsn(500));
        feedback.heard(Lsn(0), now);
        assert_eq!(feedback.received(), Lsn(500));
    }

    #[test]
    fn an_update_is_due_when_asked_and_by_the_clock() {
        let now = Instant::now();
        let mut feedback = feedback(now);
        assert_eq!(feedback.update_due(now + SECOND / 2), None);
        feedback.reply_requested();
        assert!(feedback.update_due(now + SECOND / 2).is_some());
        assert_eq!(feedback.update_due(now + SECOND), None);
        assert!(feedback.update_due(now + SECOND * 3 / 2).is_some());
    }

    #[test]
    fn a_position_far_ahead_is_sent_sooner_but_not_more_than_twenty_times_a_second() {
        let now = Instant::now();
        let mut feedback = feedback(now);
        feedback.heard(Lsn(10_000_000), now);
        feedback.deliver(Lsn(100 + 256 * 1024));
        assert_eq!(feedback.update_due(now + SECOND / 10), None, "256 KiB are not more than 256 KiB");
        feedback.deliver(Lsn(101 + 256 * 1024));
        assert_eq!(feedback.update_due(now + SECOND / 25), None);
        let update = feedback.update_due(now + SECOND / 20).unwrap();
        assert_eq!(update.flushed, Lsn(101 + 256 * 1024));
    }

    #[test]
    fn a_silent_server_is_asked_halfway_and_given_up_at_the_stall_timeout() {
        let now = Instant::now();
        let mut feedback = feedback(now);
        assert!(!feedback.update_due(now + 29 * SECOND).unwrap().reply_requested);
        assert!(feedback.update_due(now + 30 * SECOND).unwrap().reply_requested);
        assert!(!feedback.update_due(now + 31 * SECOND).unwrap().reply_requested);
        assert_eq!(feedback.check_stall(now + 59 * SECOND), Ok(()));
        assert!(feedback.check_stall(now + 60 * SECOND).is_err());
        feedback.not_reading(now + 59 * SECOND);
        assert_eq!(feedback.check_stall(now + 60 * SECOND), Ok(()));
    }

    #[test]
    fn bytes_are_signs_of_life_and_a_server_that_was_silent_gets_more_time_until_something_is_read() {
        let now = Instant::now();
        let mut feedback = feedback(now);
        feedback.heard_bytes(now + 50 * SECOND);
        assert_eq!(feedback.check_stall(now + 109 * SECOND), Ok(()));
        assert!(feedback.check_stall(now + 110 * SECOND).is_err());
        feedback.be_patient(true, true);
        feedback.reconnected(now);
        assert_eq!(feedback.check_stall(now + 119 * SECOND), Ok(()));
        assert!(feedback.check_stall(now + 120 * SECOND).is_err());
        feedback.be_patient(true, false);
        assert_eq!(feedback.check_stall(now + 239 * SECOND), Ok(()));
        feedback.be_patient(false, true);
        assert!(feedback.check_stall(now + 60 * SECOND).is_err());
    }

    #[test]
    fn a_dump_reports_what_it_wrote_and_confirms_nothing() {
        let now = Instant::now();
        let mut feedback = Feedback::new(Lsn(100), timing(), Confirming::Never, now);
        feedback.heard(Lsn(300), now);
        feedback.deliver(Lsn(300));
        let update = feedback.update_due(now).unwrap();
        assert_eq!((update.written, update.flushed), (Lsn(300), Lsn::INVALID));
    }

    #[test]
    fn a_position_is_confirmed_only_once_it_is_stored_and_never_beyond_what_was_delivered() {
        let now = Instant::now();
        let mut feedback = Feedback::new(Lsn(100), timing(), Confirming::Stored, now);
        feedback.heard(Lsn(500), now);
        feedback.deliver(Lsn(300));
        assert_eq!((feedback.delivered(), feedback.confirmed()), (Lsn(300), Lsn(100)));
        feedback.confirm(Lsn(400));
        assert_eq!(feedback.confirmed(), Lsn(300));
        feedback.confirm(Lsn(200));
        assert_eq!(feedback.confirmed(), Lsn(300));
    }

    #[test]
    fn a_new_connection_is_told_the_confirmed_position_at_once() {
        let now = Instant::now();
        let mut feedback = feedback(now);
        feedback.heard(Lsn(500), now);
        feedback.deliver(Lsn(500));
        let later = now + 50 * SECOND;
        feedback.reconnected(later);
        assert_eq!(feedback.check_stall(later + 59 * SECOND), Ok(()));
        assert_eq!(feedback.update_due(later).map(|update| update.flushed), Some(Lsn(500)));
    }

    #[test]
    fn on_a_server_whose_wal_is_another_one_nothing_beyond_the_fork_is_claimed() {
        for confirming in [Confirming::Yes, Confirming::Stored] {
            let now = Instant::now();
            let mut feedback = Feedback::new(Lsn(100), timing(), confirming, now);
            feedback.heard(Lsn(500), now);
            feedback.deliver(Lsn(500));
            feedback.deliver_records(Lsn(200));
            feedback.confirm(Lsn(400));
            feedback.cut(Lsn(300));
            feedback.reconnected(now);
            assert_eq!((feedback.delivered(), feedback.records_end()), (Lsn(300), Lsn(200)));
            let update = feedback.update_due(now).unwrap();
            assert_eq!((update.written, update.flushed), (Lsn(300), Lsn(300)), "{confirming:?}");
            feedback.deliver(Lsn(450));
            assert_eq!(feedback.confirmed(), Lsn(300), "the cap is the new server's");
        }
    }

    #[test]
    fn the_end_of_a_job_is_asked_for() {
        let now = Instant::now();
        let timing = Timing { ask_interval: Some(SECOND / 10), ..timing() };
        let mut feedback = Feedback::new(Lsn(100), timing, Confirming::Yes, now);
        feedback.update_due(now);
        let update = feedback.update_due(now + SECOND / 10).unwrap();
        assert!(update.reply_requested);
    }
}
