//! PostgreSQL's timestamp on the wire, and the processing clock.
//!
//! Source: PostgreSQL documentation, "55.9 Logical Replication Message Formats": microseconds since midnight on
//! 2000-01-01 UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds from 1970-01-01 to 2000-01-01, both at midnight UTC.
const POSTGRES_EPOCH_UNIX_US: i64 = 946_684_800_000_000;

/// Microseconds since 2000-01-01 00:00:00 UTC, as the server sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PgTimestamp(pub i64);

impl PgTimestamp {
    /// Microseconds since 1970-01-01 00:00:00 UTC; saturates at the bounds of `i64`.
    #[must_use]
    pub fn unix_us(self) -> i64 {
        self.0.saturating_add(POSTGRES_EPOCH_UNIX_US)
    }

    /// The timestamp of an instant in microseconds since 1970.
    #[must_use]
    pub fn from_unix_us(unix_us: i64) -> Self {
        PgTimestamp(unix_us.saturating_sub(POSTGRES_EPOCH_UNIX_US))
    }

    /// The present time of the machine's clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from_unix_us(unix_now_ns() / 1_000)
    }
}

/// Nanoseconds since 1970-01-01 00:00:00 UTC by the machine's clock; 0 for a clock set before 1970.
#[must_use]
pub fn unix_now_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_differ_by_thirty_years() {
        assert_eq!(PgTimestamp(0).unix_us(), POSTGRES_EPOCH_UNIX_US);
        assert_eq!(PgTimestamp::from_unix_us(POSTGRES_EPOCH_UNIX_US), PgTimestamp(0));
        assert_eq!(PgTimestamp(i64::MAX).unix_us(), i64::MAX);
    }
}
