//! Renews the session with PostgreSQL after a huge message, to free its memory.
//!
//! libpq's input buffer grows to the largest message of a session and never shrinks: one row of 112 MB keeps 128 MB for as
//! long as the session lasts. Only a new session has a small buffer. walcat renews the session once nothing depends on it:
//! nothing is in flight, no transaction is open, everything delivered is confirmed, and no huge message has come for a
//! while. A huge message renews at most one session.

use std::time::{Duration, Instant};

use log::info;

use super::Pump;
use super::error::Error;
use super::hold::Hold;
use super::reading::Read;
use crate::limits::{MESSAGE_BUFFER_KEPT_BYTES, RENEWAL_REST};

/// The huge messages of the present session, for which libpq's buffer had to grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Huge {
    /// The size of the largest message, and the time of the last huge one.
    seen: Option<(usize, Instant)>,
}

impl Huge {
    /// Notes a received message of this size.
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

    /// The time at which no huge message has come for a while. Later events wake the loop by themselves.
    pub fn deadline(self, now: Instant) -> Option<Instant> {
        self.seen.map(|(_, last)| last + RENEWAL_REST).filter(|rested_at| *rested_at > now)
    }
}

impl Pump {
    /// Renews the session if it still holds the memory of a huge message and nothing else. Returns whether it did.
    pub(super) fn handle_huge(&mut self, read: Read, now: Instant) -> Result<bool, Error> {
        let Some(message_bytes) = self.huge.rested(now) else { return Ok(false) };
        if read != Read::Drained || !self.is_at_rest() || !self.may_reconnect() {
            return Ok(false);
        }
        // Without time to reconnect, a slot that is still held for a moment would end the run.
        if self.reconnects.left(now) == Some(Duration::ZERO) {
            return Ok(false);
        }
        info!(slot = self.report.slot(), message_bytes;
            "renewing the session with PostgreSQL to free the memory of a huge message");
        self.give_up_session(now);
        self.reclaim(None, "the session is renewed")?;
        Ok(true)
    }

    /// Whether a new session would start exactly where this one is, with nothing left to deliver or confirm.
    fn is_at_rest(&mut self) -> bool {
        self.stage.is_reading()
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
