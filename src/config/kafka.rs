//! librdkafka's properties, as `-X KEY=VALUE` and in the table `[kafka]`: handed on verbatim, but for those that would
//! break what walcat promises or its memory bound.

use super::error::{Setting, ValueError};

/// A property as it was given; the value is not yet read from where `file:` or `env:` point.
#[derive(Clone)]
pub struct Property {
    pub name: String,
    pub text: Setting<String>,
}

/// Names that are refused, the reason, and what to do instead.
#[rustfmt::skip]
const REFUSED: &[(&[&str], &str, &str)] = &[
    (&["acks", "request.required.acks"],
     "refused: only acks=all keeps the promise that what is confirmed to PostgreSQL is in Kafka",
     "leave it out; the topic's min.insync.replicas says how many copies that is"),
    (&["enable.idempotence"],
     "refused: without idempotence a retry may repeat or reorder records",
     "leave it out; it is always on"),
    (&["delivery.report.only.error"],
     "refused: without a report for each record nothing could be confirmed to PostgreSQL",
     "leave it out"),
    (&["message.timeout.ms", "delivery.timeout.ms"],
     "refused: a record that times out would stop the stream",
     "set broker_for in [retry], which bounds the wait for Kafka"),
    (&["transactional.id"],
     "refused: a transactional producer that walcat does not drive would fail at the first record",
     "leave it out"),
    (&["partitioner"],
     "refused: the records of one key stay in order only in one partition, for good",
     "leave it out; murmur2_random, the partitioner of Kafka's Java client, is always on"),
    (&["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
     "refused: it would break the memory bound",
     "set max in [memory]"),
    (&["queue.buffering.max.ms"],
     "refused: queue.buffering.max.* is walcat's own",
     "write linger.ms, its other name"),
    (&["bootstrap.servers", "metadata.broker.list"],
     "refused: the brokers have a setting of their own",
     "write brokers in the file, or -b, --brokers"),
];

/// Why walcat does not hand on this property, if so.
pub fn check_property(name: &str) -> Result<(), ValueError> {
    if name.is_empty() {
        return Err(ValueError::NotAProperty);
    }
    match REFUSED.iter().find(|(names, ..)| names.contains(&name)) {
        Some((_, reason, instead)) => Err(ValueError::Refused { reason, instead }),
        None => Ok(()),
    }
}

/// The two halves of `KEY=VALUE`.
pub fn split_property(text: &str) -> Result<(&str, &str), ValueError> {
    text.split_once('=').map(|(name, value)| (name.trim(), value)).ok_or(ValueError::NotAProperty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_promise_is_refused_with_reason_and_cure() {
        for name in [
            "acks",
            "request.required.acks",
            "enable.idempotence",
            "delivery.report.only.error",
            "message.timeout.ms",
            "delivery.timeout.ms",
            "transactional.id",
            "partitioner",
            "queue.buffering.max.messages",
            "queue.buffering.max.kbytes",
            "queue.buffering.max.ms",
            "bootstrap.servers",
            "metadata.broker.list",
        ] {
            let Err(ValueError::Refused { reason, instead }) = check_property(name) else {
                panic!("{name} is not refused");
            };
            assert!(reason.starts_with("refused: ") && !instead.is_empty());
        }
    }

    #[test]
    fn every_refused_property_is_in_the_manual() {
        let manual = include_str!("../../man/walcat.toml.5");
        let refused: Vec<&str> = manual.lines().filter_map(|line| line.strip_prefix(".It Li ")).collect();
        let refused: Vec<&str> = refused.iter().flat_map(|names| names.split(" , ")).collect();
        let known: Vec<&str> = REFUSED.iter().flat_map(|(names, ..)| names.iter().copied()).collect();
        assert_eq!(refused, known);
    }

    #[test]
    fn every_other_property_is_handed_on() {
        for name in ["linger.ms", "compression.type", "sasl.password", "message.max.bytes", "some.future.property"] {
            assert_eq!(check_property(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_property_is_split_at_its_first_equals_sign() {
        assert_eq!(split_property("a.b=c=d "), Ok(("a.b", "c=d ")));
        assert_eq!(split_property("a ="), Ok(("a", "")));
        assert_eq!(split_property("hunter2"), Err(ValueError::NotAProperty));
    }
}
