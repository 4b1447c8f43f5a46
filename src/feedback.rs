//! Decides which LSN can be confirmed to PostgreSQL and when the next status update is due.
//!
//! Deterministic: the caller passes the time as an [`Instant`]. Together with `ring` it keeps invariant 1: the
//! confirmed LSN never goes back and never passes the last received LSN.

use std::time::{Duration, Instant};

use crate::limits::{CONFIRMED_BYTES_BEFORE_UPDATE, STATUS_UPDATE_SPACING};
use crate::lsn::Lsn;

/// The intervals of status updates and the timeout for a silent server.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The maximum time between two status updates.
    pub status_interval: Duration,
    /// How long the server may be silent before the connection counts as lost; `None` for no limit.
    pub stall_timeout: Option<Duration>,
    /// How often walcat requests a reply while the end of the job depends on one; `None` if it does not.
    pub ask_interval: Option<Duration>,
}

/// Whether positions are confirmed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirming {
    /// Confirmed as soon as they are delivered.
    Yes,
    /// Confirmed by [`Feedback::confirm`] once they are delivered and stored: store first, then confirm.
    Stored,
    /// For a dump or a recording: flush stays 0/0, so the slot does not move; write is the last received LSN, so that
    /// the server can shut down.
    Never,
}

/// The positions that a status update carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The last LSN received.
    pub written: Lsn,
    /// The LSN confirmed, 0/0 for none.
    pub flushed: Lsn,
    /// Whether the update requests a reply.
    pub reply_requested: bool,
}

/// The server was silent for longer than the stall timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent nothing for {} s although a reply was requested", silent_for.as_secs())]
pub struct Stalled {
    /// How long the server has been silent.
    pub silent_for: Duration,
}

/// The positions and timers of the connection to one walsender.
#[derive(Debug)]
pub struct Feedback {
    timing: Timing,
    confirming: Confirming,
    received: Lsn,
    /// Everything up to this LSN is delivered, so it can be stored.
    delivered: Lsn,
    /// The end of the last delivered records; 0/0 if there are none. The WAL between it and `delivered` has no records:
    /// another server may not have it, and nothing is lost.
    records_end: Lsn,
    confirmed: Lsn,
    /// The flush position of the last status update.
    sent: Lsn,
    sent_at: Instant,
    asked_at: Instant,
    heard_at: Instant,
    /// The server may be silent for this multiple of `stall_timeout`.
    patience_factor: u32,
    reply_owed: bool,
    /// How often a reply is requested for another reason than the end of the job.
    extra_interval: Option<Duration>,
}

impl Feedback {
    /// Starts at the slot's confirmed position. The first status update is due at once.
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
            extra_interval: None,
        }
    }

    /// The server sent something up to `lsn` (0/0 if the message has no position).
    pub fn heard(&mut self, lsn: Lsn, now: Instant) {
        self.received = self.received.max(lsn);
        self.heard_at = now;
    }

    /// Bytes arrived, although not a whole message: the server is alive.
    pub fn heard_bytes(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Resets the stall timeout if something was read since the last call, then doubles it after a stall: a busy server
    /// that answers late looks like a dead connection.
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

    /// A message names a position after its own start: the end of a commit record.
    pub fn heard_position(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// walcat is not reading because of back pressure, so the silence is its own: restarts the stall timer.
    pub fn not_reading(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Requests replies this often from now on, although the end of the job does not depend on them; `None` for no more.
    pub fn ask_every(&mut self, interval: Option<Duration>) {
        self.extra_interval = interval;
    }

    /// The server requested a reply.
    pub fn reply_requested(&mut self) {
        self.reply_owed = true;
    }

    /// Everything up to `lsn` is delivered. Limits `lsn` to the last received position. Also confirms it, unless it has
    /// to be stored first; a dump confirms nothing.
    pub fn deliver(&mut self, lsn: Lsn) {
        self.delivered = self.delivered.max(lsn.min(self.received));
        if self.confirming == Confirming::Yes {
            self.confirmed = self.delivered;
        }
    }

    /// Records are delivered; the last of them ends at `lsn`.
    pub fn deliver_records(&mut self, lsn: Lsn) {
        self.records_end = self.records_end.max(lsn);
    }

    /// The server's WAL differs from the WAL that was read after `limit`: positions beyond it are no longer valid.
    pub fn cut(&mut self, limit: Lsn) {
        self.received = self.received.min(limit);
        self.delivered = self.delivered.min(limit);
        self.records_end = self.records_end.min(limit);
        self.confirmed = self.confirmed.min(limit);
        self.sent = Lsn::INVALID;
    }

    /// Everything up to `lsn` is stored. Limits `lsn` to the delivered position.
    pub fn confirm(&mut self, lsn: Lsn) {
        if self.confirming == Confirming::Stored {
            self.confirmed = self.confirmed.max(lsn.min(self.delivered));
        }
    }

    /// The stream continues on a new connection: no update was sent on it yet, and the stall timer restarts.
    pub fn reconnected(&mut self, now: Instant) {
        self.sent = Lsn::INVALID;
        self.sent_at = now;
        self.asked_at = now;
        self.heard_at = now;
        self.reply_owed = true;
    }

    /// The LSN up to which everything is delivered.
    #[must_use]
    pub fn delivered(&self) -> Lsn {
        self.delivered
    }

    /// The end of the last delivered records; 0/0 if there are none.
    #[must_use]
    pub fn records_end(&self) -> Lsn {
        self.records_end
    }

    /// Whether everything that is delivered is confirmed, as far as this mode confirms at all.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.confirming != Confirming::Stored || self.confirmed == self.delivered
    }

    /// Whether the server waits for a reply.
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

    /// The status update that is due now, if any. The caller sends it.
    pub fn update_due(&mut self, now: Instant) -> Option<Update> {
        (self.reply_owed || now >= self.next_update_at()).then(|| self.update(now))
    }

    /// A status update regardless of the timers, such as the last one before the end.
    pub fn update(&mut self, now: Instant) -> Update {
        assert!(self.confirmed <= self.delivered, "the confirmed position is past the delivered one");
        assert!(self.delivered <= self.received, "the delivered position is past the received one");
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

    /// Whether the last status update carried the confirmed LSN.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sent == self.confirmed
    }

    /// Returns an error if the server has been silent for too long.
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

    /// The time by which the loop must check again.
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

    /// When to request a reply: halfway to the stall timeout, or earlier if the end of the job depends on it.
    fn ask_at(&self) -> Instant {
        let far = self.asked_at.max(self.heard_at) + Duration::from_secs(86_400);
        let stall = self.stall_timeout().map(|timeout| self.asked_at.max(self.heard_at) + timeout / 2);
        let goal = self.timing.ask_interval.map(|interval| self.asked_at + interval);
        let extra = self.extra_interval.map(|interval| self.asked_at + interval);
        [stall, goal, extra].into_iter().flatten().min().unwrap_or(far)
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
