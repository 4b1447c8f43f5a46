//! Whether brokers are reachable, judged from what librdkafka reports. Deterministic: time comes in.
//!
//! librdkafka reports "all brokers down" also when the only connection was closed for being idle, and reports nothing
//! when a broker is frozen. So an idle producer's report is first checked by a probe, and records without any delivery
//! for a while count as an outage too, which only a delivery ends: a broker that answers need not be the one that they
//! wait for.
//!
//! A Kafka transaction that fails is begun again, and what is delivered then may be delivered in vain again. So an outage
//! that lasts over such failures dates from the first of them, until a transaction with changes is committed.

use std::time::{Duration, Instant};

/// How long records may be under way without one being delivered, at most, before that counts as an outage.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// Why records wait though brokers may answer.
const NO_DELIVERY: &str =
    "no record is acknowledged: a broker is frozen, a partition has no leader, or a topic is missing";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing heard yet.
    Unknown,
    /// The last thing heard was good.
    Reachable,
    /// librdkafka reported an outage while nothing was under way: a probe decides.
    Suspect { since: Instant },
    /// No broker answers, or none takes the records.
    Unreachable { since: Instant },
}

/// The judgement.
#[derive(Debug)]
pub struct Availability {
    state: State,
    ever_reached: bool,
    started: Instant,
    progress: Instant,
    patience: Duration,
    /// Records are under way.
    under_way: bool,
    /// Since when they have been, at times, without a Kafka transaction being committed.
    attempt: Option<Instant>,
    /// Since when Kafka transactions have come to nothing.
    fruitless: Option<Instant>,
    /// Since when there has been nothing to deliver.
    idle_since: Option<Instant>,
    reason: String,
    /// What was said last of a single broker: why it is down.
    cause: Option<String>,
}

impl Availability {
    /// Nothing is known at the start. Silence longer than the stall timeout is an outage in any case.
    #[must_use]
    pub fn new(stall_timeout: Option<Duration>, now: Instant) -> Self {
        Availability {
            state: State::Unknown,
            ever_reached: false,
            started: now,
            progress: now,
            patience: stall_timeout.unwrap_or(PATIENCE_MAX).min(PATIENCE_MAX),
            under_way: false,
            attempt: None,
            fruitless: None,
            idle_since: None,
            reason: String::new(),
            cause: None,
        }
    }

    /// A record was delivered.
    pub fn delivered(&mut self, now: Instant) {
        self.state = State::Reachable;
        self.ever_reached = true;
        self.progress = now;
        self.cause = None;
    }

    /// A Kafka transaction with changes or a position was committed.
    pub fn committed(&mut self) {
        self.attempt = None;
        self.fruitless = None;
    }

    /// A Kafka transaction has failed. Says since when they have.
    pub fn failed(&mut self, now: Instant) -> Instant {
        *self.fruitless.get_or_insert(self.attempt.unwrap_or(now))
    }

    /// What was under way has been given up.
    pub fn begin_again(&mut self, now: Instant) {
        self.attempt = None;
        self.idle_since = None;
        self.progress = now;
    }

    /// There is nothing to deliver: what a failed transaction held has been delivered after all, or is gone.
    pub fn rest(&mut self, now: Instant) {
        self.attempt = None;
        let since = *self.idle_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.patience {
            self.fruitless = None;
        }
    }

    /// A broker answered.
    pub fn answered(&mut self) {
        self.ever_reached = true;
        if self.under_way && matches!(self.state, State::Unreachable { .. }) {
            NO_DELIVERY.clone_into(&mut self.reason);
        } else {
            self.state = State::Reachable;
        }
    }

    /// Something is wrong with one broker; the others may do.
    pub fn broker_failed(&mut self, reason: &str) {
        self.cause = Some(reason.to_owned());
    }

    /// librdkafka says that all brokers are down.
    pub fn all_down(&mut self, reason: &str, under_way: bool, now: Instant) {
        // librdkafka counts the brokers here; what is wrong with them it has said before.
        self.reason = self.cause.take().unwrap_or_else(|| reason.to_owned());
        match self.state {
            State::Reachable if !under_way => self.state = State::Suspect { since: now },
            State::Reachable => self.state = State::Unreachable { since: now },
            State::Unknown => self.state = State::Unreachable { since: self.started },
            State::Suspect { .. } | State::Unreachable { .. } => {}
        }
    }

    /// Whether a probe should tell if brokers answer.
    #[must_use]
    pub fn wants_probe(&self) -> bool {
        matches!(self.state, State::Suspect { .. } | State::Unreachable { .. })
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
        self.under_way = under_way;
        if under_way {
            self.attempt.get_or_insert(now);
            self.idle_since = None;
        }
        if !under_way {
            self.progress = now;
        } else if now.saturating_duration_since(self.progress) >= self.patience
            && !matches!(self.state, State::Unreachable { .. })
        {
            self.state = State::Unreachable { since: self.progress };
            NO_DELIVERY.clone_into(&mut self.reason);
        }
    }

    /// When [`Availability::tick`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self, under_way: bool) -> Option<Instant> {
        (under_way && !matches!(self.state, State::Unreachable { .. })).then_some(self.progress + self.patience)
    }

    /// Since when records cannot be delivered, if so, and why.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        match self.state {
            State::Unreachable { since } => {
                Some((self.fruitless.map_or(since, |first| first.min(since)), &self.reason))
            }
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
        let mut availability = Availability::new(None, now);
        availability.all_down("refused", false, now + SECOND);
        assert!(availability.wants_probe());
        assert_eq!(availability.outage(), Some((now, "refused")));
        assert!(!availability.ever_reached());
        availability.answered();
        assert_eq!(availability.outage(), None);
        assert!(availability.ever_reached());
    }

    #[test]
    fn an_outage_is_told_with_its_cause() {
        let now = Instant::now();
        let mut availability = Availability::new(None, now);
        availability.broker_failed("b:1: certificate verify failed");
        availability.all_down("1/1 brokers are down", false, now);
        assert_eq!(availability.outage(), Some((now, "b:1: certificate verify failed")));
    }

    #[test]
    fn a_connection_closed_for_being_idle_is_no_outage_until_a_probe_fails() {
        let now = Instant::now();
        let mut availability = Availability::new(None, now);
        availability.answered();
        availability.all_down("closed", false, now + SECOND);
        assert!(availability.wants_probe());
        assert_eq!(availability.outage(), None);
        availability.probe_failed("timed out");
        assert_eq!(availability.outage(), Some((now + SECOND, "closed")));
    }

    #[test]
    fn records_that_are_not_acknowledged_are_an_outage_though_nothing_is_reported() {
        let now = Instant::now();
        let mut availability = Availability::new(None, now);
        availability.answered();
        availability.tick(false, now + 100 * SECOND);
        availability.tick(true, now + 105 * SECOND);
        assert_eq!(availability.outage(), None);
        availability.tick(true, now + 110 * SECOND);
        assert_eq!(availability.outage().map(|(since, _)| since), Some(now + 100 * SECOND));
    }

    #[test]
    fn an_outage_goes_on_when_a_transaction_is_begun_again_and_delivers_something() {
        let now = Instant::now();
        let mut availability = Availability::new(Some(3 * SECOND), now);
        availability.tick(true, now + SECOND);
        availability.tick(true, now + 5 * SECOND);
        assert_eq!(availability.failed(now + 6 * SECOND), now + SECOND);
        availability.begin_again(now + 7 * SECOND);
        availability.tick(true, now + 7 * SECOND);
        availability.delivered(now + 8 * SECOND);
        assert_eq!(availability.outage(), None, "what begins again may work");
        availability.tick(true, now + 11 * SECOND);
        assert_eq!(availability.outage(), Some((now + SECOND, NO_DELIVERY)));
        assert_eq!(availability.failed(now + 12 * SECOND), now + SECOND);
        availability.committed();
        assert_eq!(availability.failed(now + 13 * SECOND), now + 13 * SECOND);
    }

    #[test]
    fn a_failure_long_before_is_none_of_a_later_outage() {
        let now = Instant::now();
        let mut availability = Availability::new(Some(3 * SECOND), now);
        availability.tick(true, now);
        availability.failed(now + SECOND);
        availability.begin_again(now + SECOND);
        for second in 2..6 {
            availability.tick(false, now + second * SECOND);
            availability.rest(now + second * SECOND);
        }
        availability.tick(true, now + 100 * SECOND);
        assert_eq!(availability.failed(now + 101 * SECOND), now + 100 * SECOND);
    }

    #[test]
    fn a_broker_that_answers_does_not_end_the_outage_of_another() {
        let now = Instant::now();
        let mut availability = Availability::new(Some(3 * SECOND), now);
        availability.tick(false, now);
        availability.answered();
        availability.tick(true, now + 2 * SECOND);
        assert_eq!(availability.outage(), None);
        availability.tick(true, now + 3 * SECOND);
        availability.answered();
        assert_eq!(availability.outage(), Some((now, NO_DELIVERY)), "records still wait");
        availability.delivered(now + 4 * SECOND);
        assert_eq!(availability.outage(), None);
    }
}
