//! Durations and sizes as a user writes them, with a unit.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ValueError;

const DAY: Duration = Duration::from_secs(86_400);

/// The longest duration; use `forever` for no limit.
const DURATION_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// How long to keep trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// For this long; zero means one attempt.
    Within(Duration),
    /// Without a limit.
    Forever,
}

impl Budget {
    /// The limit, or `None` if there is none.
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        match self {
            Budget::Within(duration) => Some(duration),
            Budget::Forever => None,
        }
    }
}

/// A duration from zero up, or `forever`.
pub fn parse_budget(text: &str) -> Result<Budget, ValueError> {
    let text = text.trim();
    if text == "forever" {
        return Ok(Budget::Forever);
    }
    if text.is_empty() {
        return Err(ValueError::Empty);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(ValueError::UnitMissing { example: "\"200ms\", \"30s\" or \"5m\"" });
    }
    let duration = humantime::parse_duration(text).map_err(|_| ValueError::NotADuration)?;
    if duration > DURATION_MAX {
        return Err(ValueError::OutOfBounds { low: "0s".to_owned(), high: "3650d or \"forever\"".to_owned() });
    }
    Ok(Budget::Within(duration))
}

/// A duration within bounds.
pub fn parse_duration(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, ValueError> {
    match parse_budget(text)? {
        Budget::Within(duration) if bounds.contains(&duration) => Ok(duration),
        Budget::Within(_) => {
            Err(ValueError::OutOfBounds { low: render_duration(*bounds.start()), high: render_duration(*bounds.end()) })
        }
        Budget::Forever => Err(ValueError::ForeverNotAllowed { high: render_duration(*bounds.end()) }),
    }
}

/// A duration from a second to a day, or `None` for `0s`, which turns the setting off.
pub fn parse_interval(text: &str) -> Result<Option<Duration>, ValueError> {
    match parse_budget(text)? {
        Budget::Within(Duration::ZERO) => Ok(None),
        _ => parse_duration(text, Duration::from_secs(1)..=DAY).map(Some),
    }
}

/// A duration as [`parse_budget`] reads it.
fn render_duration(duration: Duration) -> String {
    if duration.is_zero() { "0s".to_owned() } else { humantime::format_duration(duration).to_string() }
}

/// A number of bytes within bounds.
pub fn parse_size(text: &str, bounds: RangeInclusive<u64>) -> Result<u64, ValueError> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if text.is_empty() {
        return Err(ValueError::Empty);
    }
    let shift = match unit.trim_start() {
        "" => return Err(ValueError::UnitMissing { example: "\"512KiB\" or \"64MiB\"" }),
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(ValueError::NotASize),
    };
    let number: u64 = number.parse().map_err(|_| ValueError::NotASize)?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bounds.contains(&bytes) => Ok(bytes),
        _ => Err(ValueError::OutOfBounds { low: render_size(*bounds.start()), high: render_size(*bounds.end()) }),
    }
}

/// A size as [`parse_size`] reads it, in the largest unit that leaves a whole number.
fn render_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_duration_is_a_number_with_its_unit() {
        for (text, wanted) in [
            ("200ms", Budget::Within(Duration::from_millis(200))),
            ("5m", Budget::Within(300 * SECOND)),
            ("5min", Budget::Within(300 * SECOND)),
            ("1h 30m", Budget::Within(5_400 * SECOND)),
            ("1h30m", Budget::Within(5_400 * SECOND)),
            ("0s", Budget::Within(Duration::ZERO)),
            (" 2d ", Budget::Within(2 * DAY)),
            ("forever", Budget::Forever),
        ] {
            assert_eq!(parse_budget(text), Ok(wanted), "{text:?}");
        }
    }

    #[test]
    fn a_bare_number_is_refused_because_its_unit_is_missing() {
        for text in ["5", "0", "1.5", "1000"] {
            let error = parse_budget(text).expect_err(text);
            assert_eq!(error.to_string(), "missing unit: write \"200ms\", \"30s\" or \"5m\"");
            assert!(matches!(
                parse_size(text, 0..=u64::MAX),
                Err(ValueError::UnitMissing { .. } | ValueError::NotASize)
            ));
        }
        let error = parse_size("64", 0..=u64::MAX).expect_err("no unit");
        assert_eq!(error.to_string(), "missing unit: write \"512KiB\" or \"64MiB\"");
    }

    #[test]
    fn an_invalid_duration_is_refused() {
        for text in ["5 parsecs", "s", "-1s", "never", "5m!", "99999999999999999999s"] {
            assert_eq!(parse_budget(text), Err(ValueError::NotADuration), "{text:?}");
        }
        assert_eq!(parse_budget(" "), Err(ValueError::Empty));
        assert!(matches!(parse_budget("4000d"), Err(ValueError::OutOfBounds { .. })));
    }

    #[test]
    fn a_duration_keeps_its_bounds() {
        let bounds = Duration::from_millis(50)..=3_600 * SECOND;
        assert_eq!(parse_duration("50ms", bounds.clone()), Ok(Duration::from_millis(50)));
        assert_eq!(parse_duration("1h", bounds.clone()), Ok(3_600 * SECOND));
        for text in ["49ms", "0s", "2h"] {
            let error = parse_duration(text, bounds.clone()).expect_err(text);
            assert_eq!(error.to_string(), "out of range: expected 50ms to 1h");
        }
        let error = parse_duration("forever", bounds).expect_err("no bound");
        assert_eq!(error.to_string(), "out of range: \"forever\" is not allowed here, the maximum is 1h");
    }

    #[test]
    fn zero_seconds_turn_an_interval_off() {
        assert_eq!(parse_interval("0s"), Ok(None));
        assert_eq!(parse_interval("1m"), Ok(Some(60 * SECOND)));
        assert!(matches!(parse_interval("10ms"), Err(ValueError::OutOfBounds { .. })));
    }

    #[test]
    fn a_size_is_a_number_with_its_unit() {
        for (text, wanted) in [("1B", 1), ("512KiB", 512 << 10), ("64MiB", 64 << 20), ("2 GiB", 2 << 30)] {
            assert_eq!(parse_size(text, 0..=u64::MAX), Ok(wanted), "{text:?}");
        }
        for text in ["64MB", "64mib", "MiB", "1.5MiB", "-1MiB", "64 M iB", "99999999999999999999B"] {
            assert_eq!(parse_size(text, 0..=u64::MAX), Err(ValueError::NotASize), "{text:?}");
        }
    }

    #[test]
    fn a_size_keeps_its_bounds() {
        for text in ["1023KiB", "65GiB", "18446744073709551615GiB"] {
            let error = parse_size(text, 1 << 20..=64 << 30).expect_err(text);
            assert_eq!(error.to_string(), "out of range: expected 1MiB to 64GiB", "{text:?}");
        }
        assert_eq!(parse_size("1MiB", 1 << 20..=64 << 30), Ok(1 << 20));
        assert_eq!(render_size(0), "0B");
        assert_eq!(render_size(1_500), "1500B");
    }
}
