//! Values other than durations and sizes: names, positions, choices, numbers.

use std::ops::RangeInclusive;

use super::error::{Echo, ValueError};
use crate::lsn::Lsn;
use crate::patterns::Pattern;

/// PostgreSQL's `NAMEDATALEN`, less the closing zero.
const NAME_BYTES_MAX: usize = 63;

/// A topic name has at most 249 characters, and the schema and the table need the rest.
const TOPIC_PREFIX_BYTES_MAX: usize = 200;

/// A slot name as the server allows it (`ReplicationSlotValidateName`).
pub fn slot(text: &str) -> Result<String, ValueError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::NotASlotName { given: Echo::new(text) })
    }
}

/// A publication name: any identifier that the server does not truncate.
pub fn publication(text: &str) -> Result<String, ValueError> {
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(ValueError::NotAPublicationName)
    }
}

/// A pattern of tables.
pub fn table_pattern(text: &str) -> Result<Pattern, ValueError> {
    Pattern::parse(text).map_err(|why| ValueError::NotAPattern { given: Echo::new(text), why })
}

pub fn topic_prefix(text: &str) -> Result<String, ValueError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=TOPIC_PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::NotATopicPrefix { given: Echo::new(text) })
    }
}

pub fn not_empty(text: &str) -> Result<String, ValueError> {
    let text = text.trim();
    if text.is_empty() { Err(ValueError::Empty) } else { Ok(text.to_owned()) }
}

/// One or more brokers, separated by commas, each HOST or HOST:PORT; an IPv6 address is in brackets.
pub fn brokers(text: &str) -> Result<String, ValueError> {
    let brokers: Vec<&str> = text.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
    if brokers.is_empty() {
        return Err(ValueError::Empty);
    }
    for broker in &brokers {
        if broker.contains("://") {
            return Err(ValueError::BrokerScheme);
        }
        let (host, port) = match broker.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (*broker, None),
        };
        let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
        let is_port = port.is_none_or(|port| port.parse().is_ok_and(|port: u16| port > 0));
        if !is_host || !is_port {
            return Err(ValueError::NotABroker { given: Echo::new(host) });
        }
    }
    Ok(brokers.join(","))
}

pub fn lsn(text: &str) -> Result<Lsn, ValueError> {
    text.parse().map_err(|_| ValueError::NotAnLsn { given: Echo::new(text) })
}

/// An LSN other than 0/0.
pub fn valid_lsn(text: &str) -> Result<Lsn, ValueError> {
    let lsn = lsn(text)?;
    if lsn.is_valid() { Ok(lsn) } else { Err(ValueError::InvalidLsn) }
}

/// A parser for one of `choices`.
pub fn choice<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, ValueError> {
    move |text| match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let choices = match names.split_last() {
                Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
                _ => names.concat(),
            };
            Err(ValueError::NotAChoice { given: Echo::new(text), choices })
        }
    }
}

/// `true` or `false`, or PostgreSQL's other words for them.
pub fn boolean(text: &str) -> Result<bool, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(ValueError::NotABool { given: Echo::new(text) }),
    }
}

pub fn integer(text: &str) -> Result<i64, ValueError> {
    text.trim().parse().map_err(|_| ValueError::NotAnInteger { given: Echo::new(text) })
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
        assert_eq!(topic_prefix(&"a".repeat(201)), Err(ValueError::NotATopicPrefix { given: Echo::new("") }));
    }

    #[test]
    fn a_choice_names_what_was_given_and_what_can_be_chosen() {
        let parse = choice(&[("kafka", 1), ("stdout", 2)]);
        assert_eq!(parse("stdout"), Ok(2));
        for (text, message) in [
            ("kafak", "invalid value \"kafak\": use kafka or stdout"),
            ("host=x password=hunter2", "invalid value: use kafka or stdout"),
        ] {
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(message.to_owned()));
        }
        let more = choice(&[("stop", 1), ("skip", 2), ("dead-letter", 3)])("").map_err(|error| error.to_string());
        assert_eq!(more, Err("invalid value: use stop, skip or dead-letter".to_owned()));
    }

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        for (text, wanted) in
            [("a:9092", "a:9092"), ("a:9092, b , ", "a:9092,b"), ("[::1]:9092", "[::1]:9092"), ("[::1]", "[::1]")]
        {
            assert_eq!(brokers(text), Ok(wanted.to_owned()), "{text}");
        }
        assert_eq!(brokers("a:1,SASL_SSL://b:9092"), Err(ValueError::BrokerScheme));
        assert_eq!(brokers(" ,"), Err(ValueError::Empty));
        for text in ["a:", "a:port", "a:0", "a:65536", ":9092", "a b:1"] {
            assert!(matches!(brokers(text), Err(ValueError::NotABroker { .. })), "{text}");
        }
    }

    #[test]
    fn switches_and_numbers_are_parsed() {
        for (text, wanted) in [
            ("true", Ok(true)),
            ("ON", Ok(true)),
            ("0", Ok(false)),
            ("maybe", Err(ValueError::NotABool { given: Echo::new("maybe") })),
        ] {
            assert_eq!(boolean(text), wanted);
        }
        assert_eq!(integer_within("7", 1..=9), Ok(7));
        assert_eq!(integer_within("x", 1..=9), Err(ValueError::NotAnInteger { given: Echo::new("x") }));
        for text in ["0", "10", "99999999999"] {
            assert!(matches!(integer_within(text, 1..=9), Err(ValueError::OutOfBounds { .. })), "{text}");
        }
    }

    #[test]
    fn zero_is_an_lsn_but_not_a_position() {
        assert_eq!(lsn("0/0"), Ok(Lsn::INVALID));
        assert_eq!(valid_lsn("0/0"), Err(ValueError::InvalidLsn));
        assert_eq!(valid_lsn("0/1"), Ok(Lsn(1)));
    }
}
