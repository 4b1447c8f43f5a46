//! Delays between retries: exponential backoff with jitter, within a budget. Deterministic: time and chance are parameters.

use std::time::{Duration, Instant};

/// The limits of the retries.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The first delay.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// How long to retry since the first failure; none for no limit, zero for no retries.
    pub budget: Option<Duration>,
}

/// A series of failures.
#[derive(Debug)]
pub struct Backoff {
    policy: Policy,
    began: Option<Instant>,
    failures: u32,
}

impl Backoff {
    /// Creates it without failures.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Backoff { policy, began: None, failures: 0 }
    }

    /// Ends the series: the next failure is a first one.
    pub fn succeeded(&mut self) {
        self.began = None;
        self.failures = 0;
    }

    /// The rest of the budget; none for no limit.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let spent = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        self.policy.budget.map(|budget| budget.saturating_sub(spent))
    }

    /// The delay after one more failure: from half of the exponential delay to all of it, depending on `chance` (0 to
    /// 1); none when the budget is spent.
    pub fn failed(&mut self, now: Instant, chance: f64) -> Option<Duration> {
        self.began.get_or_insert(now);
        let left = self.left(now);
        if left == Some(Duration::ZERO) {
            return None;
        }
        let whole = self.policy.initial.saturating_mul(1 << self.failures.min(20)).min(self.policy.max);
        self.failures += 1;
        let delay = whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        Some(left.map_or(delay, |left| delay.min(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(budget: Option<Duration>) -> Policy {
        Policy { initial: SECOND, max: 5 * SECOND, budget }
    }

    #[test]
    fn delays_double_up_to_the_longest_one_with_jitter_below() {
        let now = Instant::now();
        let mut backoff = Backoff::new(policy(None));
        for (chance, milliseconds) in [(1.0, 1_000), (0.0, 1_000), (0.5, 3_000), (1.0, 5_000), (0.0, 2_500)] {
            assert_eq!(backoff.failed(now, chance), Some(Duration::from_millis(milliseconds)));
        }
        backoff.succeeded();
        assert_eq!(backoff.failed(now, 1.0), Some(SECOND));
    }

    #[test]
    fn the_budget_counts_from_the_first_failure_and_ends_the_trying() {
        let now = Instant::now();
        let mut backoff = Backoff::new(policy(Some(10 * SECOND)));
        assert!(backoff.failed(now, 1.0).is_some());
        assert_eq!(backoff.failed(now + 9 * SECOND, 1.0), Some(SECOND), "no longer than the rest of the budget");
        assert_eq!(backoff.failed(now + 10 * SECOND, 1.0), None);
        backoff.succeeded();
        assert!(backoff.failed(now + 10 * SECOND, 1.0).is_some());
        let mut never = Backoff::new(policy(Some(Duration::ZERO)));
        assert_eq!(never.failed(now, 1.0), None);
    }
}
