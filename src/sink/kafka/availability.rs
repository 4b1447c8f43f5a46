//! Decides whether the brokers are reachable, from what librdkafka reports. Deterministic: the caller passes the time.
//!
//! librdkafka also reports "all brokers down" when it closed its only connection because it was idle, and it reports
//! nothing when a broker is frozen. Therefore a probe checks the report of an idle producer first. Records without any
//! delivery for a while also count as an outage, which only a delivery ends: a broker that answers is not necessarily
//! the broker that the records wait for.
//!
//! A failed Kafka transaction is repeated, and its deliveries may be discarded again. An outage that spans such
//! failures therefore starts at the first of them and lasts until a transaction with changes is committed.

use std::time::{Duration, Instant};

/// The maximum time that records may be in flight without a delivery before that counts as an outage.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// Why records wait although brokers may answer.
const NO_DELIVERY: &str =
    "no record was acknowledged: a broker is frozen, a partition has no leader, or a topic does not exist";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was reported yet.
    Unknown,
    /// The last report was good.
    Reachable,
    /// librdkafka reported an outage while nothing was in flight: a probe decides.
    Suspect { since: Instant },
    /// No broker answers, or no broker accepts the records.
    Unreachable { since: Instant },
}

/// The availability of the brokers.
#[derive(Debug)]
pub struct Availability {
    state: State,
    ever_reached: bool,
    started: Instant,
    progress: Instant,
    patience: Duration,
    /// Records are in flight.
    under_way: bool,
    /// When records were first in flight since the last committed Kafka transaction.
    attempt: Option<Instant>,
    /// When Kafka transactions began to fail.
    fruitless: Option<Instant>,
    /// When the sink last became idle.
    idle_since: Option<Instant>,
    reason: String,
    /// Brokers answer, although records are not delivered.
    is_answering: bool,
    /// The last error of a single broker: why it is down.
    cause: Option<String>,
}

impl Availability {
    /// The start: nothing is known. Silence for longer than the stall timeout is an outage in any case.
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
            is_answering: false,
            cause: None,
        }
    }

    /// A record was delivered.
    pub fn delivered(&mut self, now: Instant) {
        self.state = State::Reachable;
        self.ever_reached = true;
        self.progress = now;
        self.is_answering = false;
        self.cause = None;
    }

    /// A Kafka transaction with changes or a position was committed.
    pub fn committed(&mut self) {
        self.attempt = None;
        self.fruitless = None;
    }

    /// A Kafka transaction has failed. Returns the time of the first failure.
    pub fn failed(&mut self, now: Instant) -> Instant {
        *self.fruitless.get_or_insert(self.attempt.unwrap_or(now))
    }

    /// The records in flight were discarded.
    pub fn begin_again(&mut self, now: Instant) {
        self.attempt = None;
        self.idle_since = None;
        self.progress = now;
    }

    /// There is nothing to deliver: the records of a failed transaction were delivered after all, or no longer exist.
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
        self.cause = None;
        if self.under_way && matches!(self.state, State::Unreachable { .. }) {
            NO_DELIVERY.clone_into(&mut self.reason);
            self.is_answering = true;
        } else {
            self.state = State::Reachable;
        }
    }

    /// One broker failed; the others may still work.
    pub fn broker_failed(&mut self, reason: &str) {
        self.cause = Some(reason.to_owned());
    }

    /// librdkafka reports that all brokers are down.
    pub fn all_down(&mut self, reason: &str, under_way: bool, now: Instant) {
        // This reason only counts the brokers; librdkafka reported the cause before.
        self.reason = self.cause.clone().unwrap_or_else(|| reason.to_owned());
        match self.state {
            State::Reachable if !under_way => self.state = State::Suspect { since: now },
            State::Reachable => self.state = State::Unreachable { since: now },
            State::Unknown => self.state = State::Unreachable { since: self.started },
            State::Suspect { .. } | State::Unreachable { .. } => {}
        }
    }

    /// Whether to probe the brokers.
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

    /// Time has passed; `under_way` says whether records are in flight.
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

    /// The time by which [`Availability::tick`] must be called again.
    #[must_use]
    pub fn deadline(&self, under_way: bool) -> Option<Instant> {
        (under_way && !matches!(self.state, State::Unreachable { .. })).then_some(self.progress + self.patience)
    }

    /// Since when records cannot be delivered, and why; `None` if there is no outage.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        match self.state {
            State::Unreachable { since } => {
                Some((self.fruitless.map_or(since, |first| first.min(since)), &self.reason))
            }
            _ => None,
        }
    }

    /// Whether brokers answer during the outage, so that the records themselves may be what they do not take.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.is_answering
    }

    /// Whether the last report was good.
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
    fn an_outage_is_reported_with_its_cause() {
        let now = Instant::now();
        let mut availability = Availability::new(None, now);
        availability.broker_failed("b:1: certificate verify failed");
        // librdkafka reports the cause once, and the count of brokers again and again.
        for _ in 0..2 {
            availability.all_down("1/1 brokers are down", false, now);
            assert_eq!(availability.outage(), Some((now, "b:1: certificate verify failed")));
        }
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
    fn an_outage_continues_when_a_transaction_is_repeated_and_delivers_something() {
        let now = Instant::now();
        let mut availability = Availability::new(Some(3 * SECOND), now);
        availability.tick(true, now + SECOND);
        availability.tick(true, now + 5 * SECOND);
        assert_eq!(availability.failed(now + 6 * SECOND), now + SECOND);
        availability.begin_again(now + 7 * SECOND);
        availability.tick(true, now + 7 * SECOND);
        availability.delivered(now + 8 * SECOND);
        assert_eq!(availability.outage(), None, "the new attempt may succeed");
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
        assert!(availability.is_answering());
        availability.delivered(now + 4 * SECOND);
        assert_eq!(availability.outage(), None);
        assert!(!availability.is_answering());
    }
}
