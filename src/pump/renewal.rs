//! Renews the session with PostgreSQL after a huge message, to give its memory back.
//!
//! libpq's input buffer grows to the largest message of a session and never shrinks: one row of 112 MB keeps 128 MB for as
//! long as the session lasts. Only a new session has a small buffer. The session is renewed once nothing depends on it:
//! nothing is in flight, no transaction is open, all that is delivered is confirmed, and no huge message has come for a
//! while. A huge message renews at most one session.

use std::time::{Duration, Instant};

use log::info;

use super::error::Error;
use super::hold::Hold;
use super::reading::Read;
use super::{Pump, Stage};
use crate::limits::{MESSAGE_BUFFER_KEPT_BYTES, RENEWAL_REST};

/// What the present session has received that its buffer had to grow for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Huge {
    /// The size of the largest message, and when a huge one came last.
    seen: Option<(usize, Instant)>,
}

impl Huge {
    /// A message of this size was received.
    pub fn handle(&mut self, bytes: usize, now: Instant) {
        if bytes > MESSAGE_BUFFER_KEPT_BYTES {
            let largest = self.seen.map_or(bytes, |(largest, _)| largest.max(bytes));
            self.seen = Some((largest, now));
        }
    }

    /// The size of the largest message, once no huge one has come for a while.
    fn rested(self, now: Instant) -> Option<usize> {
        self.seen.filter(|(_, last)| now >= *last + RENEWAL_REST).map(|(bytes, _)| bytes)
    }

    /// When it will have rested. What it waits for after that wakes the loop.
    pub fn deadline(self, now: Instant) -> Option<Instant> {
        self.seen.map(|(_, last)| last + RENEWAL_REST).filter(|rested_at| *rested_at > now)
    }
}

impl Pump {
    /// Renews the session when it holds the memory of a huge message and nothing else. Says whether it did.
    pub(super) fn handle_huge(&mut self, read: Read, now: Instant) -> Result<bool, Error> {
        let Some(message_bytes) = self.huge.rested(now) else { return Ok(false) };
        if read != Read::Drained || !self.is_at_rest() || !self.may_reconnect() {
            return Ok(false);
        }
        // With no time to connect again a slot that is still held for a moment would end the run.
        if self.backoff.left(now) == Some(Duration::ZERO) {
            return Ok(false);
        }
        info!(slot = self.report.slot(), message_bytes;
            "renewing the session with PostgreSQL, to free the memory that a huge message took");
        self.give_up_session(now);
        self.reclaim(None, "the session is renewed")?;
        Ok(true)
    }

    /// Whether a new session would begin exactly where this one is, with nothing to be delivered or confirmed.
    fn is_at_rest(&mut self) -> bool {
        self.stage == Stage::Reading
            && matches!(self.hold, Hold::InUse)
            && !self.session.is_done()
            && !self.session.is_inside_transaction()
            && self.session.is_settled()
            && self.session.feedback().is_stored()
            && self.session.feedback().is_sent()
            && self.output.is_drained()
            && !self.asking.is_open()
            && self.feed.is_idle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: usize = MESSAGE_BUFFER_KEPT_BYTES + 1;

    #[test]
    fn only_a_huge_message_that_was_the_last_for_a_while_asks_for_a_renewal() {
        let now = Instant::now();
        let mut huge = Huge::default();
        huge.handle(MESSAGE_BUFFER_KEPT_BYTES, now);
        assert_eq!((huge.rested(now + 2 * RENEWAL_REST), huge.deadline(now)), (None, None));
        huge.handle(HUGE + 1, now);
        assert_eq!((huge.rested(now), huge.deadline(now)), (None, Some(now + RENEWAL_REST)));
        let next = now + RENEWAL_REST / 2;
        huge.handle(HUGE, next);
        huge.handle(1, next + RENEWAL_REST);
        assert_eq!(huge.rested(now + RENEWAL_REST), None, "another one has come");
        let rested_at = next + RENEWAL_REST;
        assert_eq!((huge.rested(rested_at), huge.deadline(rested_at)), (Some(HUGE + 1), None));
    }
}
