//! Whether brokers are reachable, judged from what librdkafka reports. Deterministic: time comes in.
//!
//! librdkafka reports "all brokers down" also when the only connection was closed for being idle, and reports nothing
//! when a broker is frozen. So an idle producer's report is first checked by a probe, and records without any delivery
//! for a while count as an outage too.

use std::time::{Duration, Instant};

/// How long records may be under way without one being delivered before the brokers count as unreachable.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing heard yet.
    Unknown,
    /// The last thing heard was good.
    Reachable,
    /// librdkafka reported an outage while nothing was under way: a probe decides.
    Suspect { since: Instant },
    /// No broker answers.
    Unreachable { since: Instant },
}

/// The judgement.
#[derive(Debug)]
pub struct Availability {
    state: State,
    ever_reached: bool,
    started: Instant,
    progress: Instant,
    reason: String,
}

impl Availability {
    /// Nothing is known at the start.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Availability { state: State::Unknown, ever_reached: false, started: now, progress: now, reason: String::new() }
    }

    /// A broker answered.
    pub fn answered(&mut self, now: Instant) {
        self.state = State::Reachable;
        self.ever_reached = true;
        self.progress = now;
    }

    /// librdkafka says that all brokers are down. Says whether a probe should decide.
    pub fn all_down(&mut self, reason: &str, under_way: bool, now: Instant) -> bool {
        reason.clone_into(&mut self.reason);
        match self.state {
            State::Unreachable { .. } => return false,
            State::Reachable if !under_way => self.state = State::Suspect { since: now },
            State::Reachable => self.state = State::Unreachable { since: now },
            State::Unknown => self.state = State::Unreachable { since: self.started },
            State::Suspect { .. } => {}
        }
        true
    }

    /// A probe got no answer.
    pub fn probe_failed(&mut self, reason: &str) {
        if self.reason.is_empty() {
            reason.clone_into(&mut self.reason);
        }
        match self.state {
            State::Suspect { since } => self.state = State::Unreachable { since },
            State::Unknown => self.state = State::Unreachable { since: self.started },
            State::Reachable | State::Unreachable { .. } => {}
        }
    }

    /// Time has passed; `under_way` says whether records wait for their delivery.
    pub fn tick(&mut self, under_way: bool, now: Instant) {
        if !under_way {
            self.progress = now;
        } else if now.saturating_duration_since(self.progress) >= PATIENCE
            && !matches!(self.state, State::Unreachable { .. })
        {
            self.state = State::Unreachable { since: self.progress };
            "records are under way and none has been acknowledged".clone_into(&mut self.reason);
        }
    }

    /// When [`Availability::tick`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self, under_way: bool) -> Option<Instant> {
        (under_way && !matches!(self.state, State::Unreachable { .. })).then_some(self.progress + PATIENCE)
    }

    /// Since when no broker answers, if so, and what librdkafka said.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        match self.state {
            State::Unreachable { since } => Some((since, &self.reason)),
            _ => None,
        }
    }

    /// Whether the last thing heard was good.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.state == State::Reachable
    }

    /// Whether a broker ever answered.
    #[must_use]
    pub fn ever_reached(&self) -> bool {
        self.ever_reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_outage_at_the_start_is_known_at_once_and_dates_from_the_start() {
        let now = Instant::now();
        let mut availability = Availability::new(now);
        assert!(availability.all_down("refused", false, now + SECOND));
        assert_eq!(availability.outage(), Some((now, "refused")));
        assert!(!availability.ever_reached());
        availability.answered(now + 2 * SECOND);
        assert_eq!(availability.outage(), None);
        assert!(availability.ever_reached());
    }

    #[test]
    fn a_connection_closed_for_being_idle_is_no_outage_until_a_probe_fails() {
        let now = Instant::now();
        let mut availability = Availability::new(now);
        availability.answered(now);
        assert!(availability.all_down("closed", false, now + SECOND));
        assert_eq!(availability.outage(), None);
        availability.probe_failed("timed out");
        assert_eq!(availability.outage(), Some((now + SECOND, "closed")));
    }

    #[test]
    fn records_that_are_not_acknowledged_are_an_outage_though_nothing_is_reported() {
        let now = Instant::now();
        let mut availability = Availability::new(now);
        availability.answered(now);
        availability.tick(false, now + 100 * SECOND);
        availability.tick(true, now + 105 * SECOND);
        assert_eq!(availability.outage(), None);
        availability.tick(true, now + 110 * SECOND);
        assert_eq!(availability.outage().map(|(since, _)| since), Some(now + 100 * SECOND));
    }
}
