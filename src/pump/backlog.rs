//! How far a run with an end is: the WAL that the server still has to send up to the target.

use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use log::info;

use super::display::{Display, Pace};
use crate::lsn::Lsn;

/// A server that sends nothing for this long is decoding.
const STILL_MIN: Duration = Duration::from_secs(5);

/// The way to the target.
#[derive(Debug)]
pub(super) struct Backlog {
    began: Instant,
    from: Lsn,
    /// What was received, and how many changes, when it last moved.
    last: (Lsn, u64),
    moved_at: Instant,
}

impl Backlog {
    /// Begins at this position.
    pub fn begin(from: Lsn, now: Instant) -> Self {
        Backlog { began: now, from, last: (from, 0), moved_at: now }
    }

    /// This much is read. `is_reading` is false while walcat itself pauses.
    pub fn heard(&mut self, received: Lsn, changes: u64, is_reading: bool, now: Instant) {
        if !is_reading || self.last != (received, changes) {
            (self.last, self.moved_at) = ((received, changes), now);
        }
    }

    /// Whether the server decodes something that it has not sent yet.
    fn is_still(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moved_at) >= STILL_MIN
    }

    /// Shows the way that is left.
    pub fn show(&self, slot: &str, target: Lsn, display: &Display, now: Instant) {
        let (received, changes) = self.last;
        let (done, all) = (received.bytes_since(self.from), target.bytes_since(self.from));
        let Pace { rate, per_cent, left } = Pace::new(0, done, all as f64, now.saturating_duration_since(self.began));
        let pace = Pace { rate, per_cent, left: left.filter(|_| !self.is_still(now)) };
        let (bytes_left, left) = (target.bytes_since(received), pace.left_text());
        let what = match self.is_still(now) {
            true => "the server is decoding a large transaction",
            false => "reading the backlog",
        };
        let text = || format!("{what}: {} of WAL left, {}/s, {left} left", HumanBytes(bytes_left), HumanBytes(rate));
        display.show(per_cent, text, || {
            info!(
                slot, received:% = received, target:% = target, bytes_left, bytes_per_s = rate, per_cent,
                left = left.as_str(), changes; "{what}"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_sends_nothing_is_decoding_unless_walcat_pauses() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut backlog = Backlog::begin(Lsn(100), now);
        backlog.heard(Lsn(100), 0, true, now + 4 * second);
        assert!(!backlog.is_still(now + 4 * second) && backlog.is_still(now + 5 * second));
        backlog.heard(Lsn(200), 0, true, now + 6 * second);
        assert!(!backlog.is_still(now + 10 * second));
        backlog.heard(Lsn(200), 7, true, now + 10 * second);
        assert!(!backlog.is_still(now + 14 * second), "changes of one transaction have one position");
        backlog.heard(Lsn(200), 7, false, now + 15 * second);
        assert!(!backlog.is_still(now + 16 * second));
    }
}
