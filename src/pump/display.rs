//! Where a run is, for people: a line that changes on a terminal, a line of the log at each interval otherwise. It serves
//! snapshots of both kinds and the backlog of `--once`.

use std::time::{Duration, Instant};

use indicatif::HumanCount;

use crate::terminal::Line;

/// How often the line on a terminal changes.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// When and where progress is shown.
#[derive(Debug)]
pub struct Display {
    interval: Option<Duration>,
    due: Option<Instant>,
    line: Option<Line>,
}

/// How much of something is done, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Units per second.
    pub rate: u64,
    /// Of all; not 100 before the end.
    pub per_cent: u64,
    /// The time left at this rate; none if it cannot be known.
    pub left: Option<Duration>,
}

impl Pace {
    /// `done` units of `all` took `elapsed`, after `before` units that were done already.
    #[must_use]
    pub fn new(before: u64, done: u64, all: f64, elapsed: Duration) -> Self {
        let share = ((before + done) as f64 / all.max(1.0)).clamp(0.0, 0.99);
        let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
        let rest = (all - (before + done) as f64).max(0.0);
        // An estimate that is used up says nothing.
        let is_known = rate > 0.0 && rest > 0.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are not negative")]
        let (rate_whole, per_cent, seconds) = (rate as u64, (share * 100.0) as u64, (rest / rate.max(0.001)) as u64);
        Pace { rate: rate_whole, per_cent, left: is_known.then(|| Duration::from_secs(seconds)) }
    }

    /// The time left, as text.
    #[must_use]
    pub fn left_text(&self) -> String {
        self.left.map_or("unknown".to_owned(), |left| humantime::format_duration(left).to_string())
    }
}

impl Display {
    /// Shows something from one interval after now on.
    #[must_use]
    pub fn begin(interval: Option<Duration>, now: Instant) -> Self {
        let line = Line::begin();
        let interval = if line.is_some() { Some(DRAW_INTERVAL) } else { interval };
        Display { interval, due: interval.map(|interval| now + interval), line }
    }

    /// The time of the next line.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the next line is due; then the one after it is due an interval later.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let (Some(due), Some(interval)) = (self.due, self.interval) else { return false };
        if now < due {
            return false;
        }
        self.due = Some(now + interval);
        true
    }

    /// Shows the line.
    pub fn show(&self, per_cent: u64, text: impl FnOnce() -> String, log: impl FnOnce()) {
        match &self.line {
            Some(line) => line.show(per_cent, text()),
            None => log(),
        }
    }
}

/// A number with separators.
pub fn count(number: u64) -> HumanCount {
    HumanCount(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_from_what_was_done_in_this_run() {
        let pace = |before, done, all| {
            let Pace { rate, per_cent, left } = Pace::new(before, done, all, Duration::from_secs(10));
            (rate, per_cent, left.map(|left| left.as_secs()))
        };
        assert_eq!(pace(0, 250, 1_000.0), (25, 25, Some(30)));
        assert_eq!(pace(500, 250, 1_000.0), (25, 75, Some(10)), "what an earlier run did took no time of this one");
        assert_eq!(pace(0, 0, 1_000.0), (0, 0, None));
        assert_eq!(pace(0, 1_500, 1_000.0), (150, 99, None), "the estimate was too low");
        assert_eq!(pace(0, 10, 0.0), (1, 99, None), "nothing is known");
    }

    #[test]
    fn a_line_is_due_at_each_interval_and_never_without_one() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut display = Display { interval: Some(second), due: Some(now + second), line: None };
        assert!(!display.is_due(now) && display.is_due(now + second) && !display.is_due(now + second));
        assert_eq!(display.deadline(), Some(now + 2 * second));
        assert!(!Display { interval: None, due: None, line: None }.is_due(now));
    }
}
