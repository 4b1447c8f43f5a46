//! Dates and times: converts PostgreSQL's ISO text to ISO 8601 where that is possible.
//!
//! The session sets DateStyle and TimeZone. Values that ISO 8601 cannot express (`infinity`, BC, years past 9999,
//! offsets with seconds, 24:00:00 with an offset) keep PostgreSQL's text, which PostgreSQL reads back as the same
//! value.

/// Appends a timestamp: `2024-03-01 10:34:56.789` becomes `2024-03-01T10:34:56.789`.
///
/// Returns false and appends nothing if the text has another form.
pub(in crate::record) fn push_timestamp(out: &mut Vec<u8>, text: &[u8]) -> bool {
    match split_date(text) {
        Some((date, time)) if time_length(time) == Some(time.len()) => {
            push_all(out, &[date, b"T", time]);
            true
        }
        _ => false,
    }
}

/// Appends a timestamp with its offset, `Z` for `+00`.
pub(in crate::record) fn push_timestamptz(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let Some((date, rest)) = split_date(text) else { return false };
    let Some((time, offset)) = split_offset(rest) else { return false };
    push_all(out, &[date, b"T", time]);
    push_offset(out, offset);
    true
}

/// Appends a time of day with its offset, `Z` for `+00`.
pub(in crate::record) fn push_timetz(out: &mut Vec<u8>, text: &[u8]) -> bool {
    match split_offset(text) {
        Some((time, offset)) if !time.starts_with(b"24") => {
            push_all(out, &[time]);
            push_offset(out, offset);
            true
        }
        _ => false,
    }
}

fn push_all(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Splits `YYYY-MM-DD` and a space from the rest.
fn split_date(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (date, rest) = text.split_at_checked(10)?;
    let (space, rest) = rest.split_first()?;
    (*space == b' ' && fits(date, b"0000-00-00")).then_some((date, rest))
}

/// Splits a time from an offset of hours with or without minutes.
fn split_offset(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (time, offset) = text.split_at_checked(time_length(text)?)?;
    let (sign, digits) = offset.split_first()?;
    let whole = matches!(sign, b'+' | b'-') && (fits(digits, b"00") || fits(digits, b"00:00"));
    whole.then_some((time, offset))
}

/// Appends `Z` for +00, otherwise the offset with the minutes that the extended format of ISO 8601 requires.
fn push_offset(out: &mut Vec<u8>, offset: &[u8]) {
    match offset {
        b"+00" => out.push(b'Z'),
        [_, _, _] => push_all(out, &[offset, b":00"]),
        _ => push_all(out, &[offset]),
    }
}

/// The length of `HH:MM:SS[.F]` at the beginning of the text.
fn time_length(text: &[u8]) -> Option<usize> {
    let (time, rest) = text.split_at_checked(8)?;
    if !fits(time, b"00:00:00") {
        return None;
    }
    let Some((b'.', fraction)) = rest.split_first() else { return Some(8) };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then_some(9 + digits)
}

/// Whether the text has a digit where the pattern has 0, and the same byte as the pattern elsewhere.
fn fits(text: &[u8], pattern: &[u8]) -> bool {
    text.len() == pattern.len()
        && text.iter().zip(pattern).all(|(byte, want)| if *want == b'0' { byte.is_ascii_digit() } else { byte == want })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Push = fn(&mut Vec<u8>, &[u8]) -> bool;

    fn pushed(push: Push, text: &str) -> Option<String> {
        let mut out = Vec::new();
        let taken = push(&mut out, text.as_bytes());
        assert!(taken || out.is_empty(), "a rejected text must append nothing");
        taken.then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_iso_8601_can_say_is_said_so() {
        for (push, text, iso) in [
            (push_timestamp as Push, "2024-03-01 10:34:56", "2024-03-01T10:34:56"),
            (push_timestamp, "0001-01-01 00:00:00.000001", "0001-01-01T00:00:00.000001"),
            (push_timestamptz, "2024-03-01 10:34:56.789+00", "2024-03-01T10:34:56.789Z"),
            (push_timestamptz, "2024-03-01 10:34:56+05:30", "2024-03-01T10:34:56+05:30"),
            (push_timestamptz, "9999-12-31 23:59:59.999999-08", "9999-12-31T23:59:59.999999-08:00"),
            (push_timetz, "11:51:30.123789+00", "11:51:30.123789Z"),
            (push_timetz, "11:51:30+02", "11:51:30+02:00"),
            (push_timetz, "00:00:00-03:30", "00:00:00-03:30"),
        ] {
            assert_eq!(pushed(push, text).as_deref(), Some(iso));
        }
    }

    #[test]
    fn a_value_that_iso_8601_cannot_express_is_not_converted() {
        for (push, text) in [
            (push_timestamp as Push, "infinity"),
            (push_timestamp, "-infinity"),
            (push_timestamp, "0044-03-15 10:00:00 BC"),
            (push_timestamp, "12345-03-15 10:00:00"),
            (push_timestamp, "2024-03-01 10:34:56+00"),
            (push_timestamp, "2024-03-01 10:34:56."),
            (push_timestamp, "2024-03-01"),
            (push_timestamp, ""),
            (push_timestamptz, "infinity"),
            (push_timestamptz, "0044-03-15 10:00:00+00 BC"),
            (push_timestamptz, "12345-03-15 10:00:00+00"),
            (push_timestamptz, "1890-01-01 00:00:00+00:19:32"),
            (push_timestamptz, "2024-03-01 10:34:56"),
            (push_timetz, "24:00:00+00"),
            (push_timetz, "24:00:00"),
            (push_timetz, "11:51:30"),
        ] {
            assert_eq!(pushed(push, text), None, "{text}");
        }
    }
}
