//! The values that are neither durations nor sizes: names, positions, choices, numbers.

use std::ops::RangeInclusive;

use super::error::ValueError;
use crate::lsn::Lsn;

/// PostgreSQL's `NAMEDATALEN`, less the closing zero.
const NAME_BYTES_MAX: usize = 63;

/// What Kafka leaves of a topic's 249 characters for the schema and the table is short enough already.
const TOPIC_PREFIX_BYTES_MAX: usize = 200;

/// A slot name as the server allows it (`ReplicationSlotValidateName`).
pub fn slot(text: &str) -> Result<String, ValueError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::NotASlotName)
    }
}

/// A publication name: any identifier that the server does not cut.
pub fn publication(text: &str) -> Result<String, ValueError> {
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(ValueError::NotAPublicationName)
    }
}

pub fn topic_prefix(text: &str) -> Result<String, ValueError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=TOPIC_PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::NotATopicPrefix)
    }
}

pub fn not_empty(text: &str) -> Result<String, ValueError> {
    let text = text.trim();
    if text.is_empty() { Err(ValueError::Empty) } else { Ok(text.to_owned()) }
}

pub fn lsn(text: &str) -> Result<Lsn, ValueError> {
    Ok(text.parse()?)
}

/// An LSN that is a position.
pub fn valid_lsn(text: &str) -> Result<Lsn, ValueError> {
    let lsn = lsn(text)?;
    if lsn.is_valid() { Ok(lsn) } else { Err(ValueError::InvalidLsn) }
}

/// A parser of one of `choices`.
pub fn choice<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, ValueError> {
    move |text| match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(ValueError::NotAChoice { choices: names.join(", ") })
        }
    }
}

/// `true` or `false`, and the other words that PostgreSQL has for them.
pub fn boolean(text: &str) -> Result<bool, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(ValueError::NotABool),
    }
}

pub fn integer(text: &str) -> Result<i64, ValueError> {
    text.trim().parse().map_err(|_| ValueError::NotAnInteger)
}

pub fn integer_within(text: &str, bounds: RangeInclusive<i32>) -> Result<i32, ValueError> {
    match i32::try_from(integer(text)?) {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(ValueError::OutOfBounds { low: bounds.start().to_string(), high: bounds.end().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_server_or_kafka_takes() {
        let long = "a".repeat(200);
        for (text, is_slot, is_publication, is_prefix) in [
            ("orders", true, true, true),
            ("o_1", true, true, true),
            ("Orders", false, true, true),
            ("or-ders.x", false, true, true),
            ("żółw", false, true, false),
            ("a b,c\"", false, true, false),
            ("", false, false, false),
            (&long[..63], true, true, true),
            (&long[..64], false, false, true),
            (&long, false, false, true),
            ("a\0", false, false, false),
        ] {
            assert_eq!(slot(text).is_ok(), is_slot, "{text:?}");
            assert_eq!(publication(text).is_ok(), is_publication, "{text:?}");
            assert_eq!(topic_prefix(text).is_ok(), is_prefix, "{text:?}");
        }
        assert_eq!(topic_prefix(&"a".repeat(201)), Err(ValueError::NotATopicPrefix));
    }

    #[test]
    fn a_choice_names_what_can_be_chosen() {
        let parse = choice(&[("kafka", 1), ("stdout", 2)]);
        assert_eq!(parse("stdout"), Ok(2));
        assert_eq!(parse("stderr").map_err(|error| error.to_string()), Err("not one of kafka, stdout".to_owned()));
    }

    #[test]
    fn switches_and_numbers_are_parsed() {
        for (text, wanted) in
            [("true", Ok(true)), ("ON", Ok(true)), ("0", Ok(false)), ("maybe", Err(ValueError::NotABool))]
        {
            assert_eq!(boolean(text), wanted);
        }
        assert_eq!(integer_within("7", 1..=9), Ok(7));
        assert_eq!(integer_within("x", 1..=9), Err(ValueError::NotAnInteger));
        for text in ["0", "10", "99999999999"] {
            assert!(matches!(integer_within(text, 1..=9), Err(ValueError::OutOfBounds { .. })), "{text}");
        }
    }

    #[test]
    fn zero_is_an_lsn_but_no_position() {
        assert_eq!(lsn("0/0"), Ok(Lsn::INVALID));
        assert_eq!(valid_lsn("0/0"), Err(ValueError::InvalidLsn));
        assert_eq!(valid_lsn("0/1"), Ok(Lsn(1)));
    }
}
