//! The numbers of a stream, when a line with them is due, and the rate since the previous line.

use std::time::{Duration, Instant};

use crate::lsn::Lsn;
use crate::session::Session;

/// The numbers of a stream, counted since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The position that is confirmed.
    pub confirmed: Lsn,
    /// The position that was received.
    pub received: Lsn,
    /// Transactions whose Commit was read.
    pub transactions: u64,
    /// Records handed to the sink.
    pub records: u64,
    /// Records that Kafka has rejected and that were left out.
    pub records_refused: u64,
    /// Records that no delivery report has settled.
    pub in_flight: u64,
    /// The turns of the loop.
    pub turns: u64,
}

impl Status {
    /// The numbers of the session, and those that the sink and the poller count.
    #[must_use]
    pub fn of(session: &mut Session, records_refused: u64, turns: u64) -> Self {
        let counters = session.counters();
        Status {
            confirmed: session.feedback().confirmed(),
            received: session.feedback().received(),
            transactions: counters.transactions,
            records: counters.records,
            records_refused,
            in_flight: session.ring().outstanding(),
            turns,
        }
    }
}

/// When a line is due, and the rates.
#[derive(Debug)]
pub struct Pace {
    interval: Option<Duration>,
    started: Instant,
    told_at: Instant,
    records_told: u64,
}

impl Pace {
    /// The first line is due one interval from now; without an interval, none is.
    #[must_use]
    pub fn new(interval: Option<Duration>, now: Instant) -> Self {
        Pace { interval, started: now, told_at: now, records_told: 0 }
    }

    /// When the next line is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.interval.map(|interval| self.told_at + interval)
    }

    /// Whether a line is due.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Records per second since the previous line. A new line begins now.
    pub fn rate(&mut self, records: u64, now: Instant) -> u64 {
        let rate = per_second(
            records.checked_sub(self.records_told).expect("a count since the start does not go back"),
            self.told_at,
            now,
        );
        self.told_at = now;
        self.records_told = records;
        rate
    }

    /// Records per second since the start.
    #[must_use]
    pub fn rate_since_start(&self, records: u64, now: Instant) -> u64 {
        per_second(records, self.started, now)
    }
}

fn per_second(count: u64, since: Instant, now: Instant) -> u64 {
    let elapsed_ms = now.saturating_duration_since(since).as_millis().max(1);
    u64::try_from(u128::from(count) * 1_000 / elapsed_ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_each_interval_with_the_rate_since_the_last() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(Some(10 * second), now);
        assert!(!pace.is_due(now + 9 * second));
        assert!(pace.is_due(now + 10 * second));
        assert_eq!(pace.rate(5_000, now + 10 * second), 500);
        assert!(!pace.is_due(now + 19 * second));
        assert_eq!(pace.rate(5_100, now + 20 * second), 10);
        assert_eq!(pace.rate_since_start(5_100, now + 20 * second), 255);
        assert_eq!(Pace::new(None, now).deadline(), None);
    }
}
