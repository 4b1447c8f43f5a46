//! librdkafka's properties, from `-X KEY=VALUE` and the table `[kafka]`. walcat passes them on verbatim, except those that
//! would break its guarantees or its memory limit.

use super::error::{Setting, ValueError};
use crate::sink::kafka::client::producer;

/// A property as it was given; a `file:` or `env:` value is not yet read.
#[derive(Clone)]
pub struct Property {
    pub name: String,
    pub text: Setting<String>,
}

/// Refused names, the reason, and what to do instead.
#[rustfmt::skip]
const REFUSED: &[(&[&str], &str, &str)] = &[
    (&["acks", "request.required.acks"],
     "refused: only acks=all guarantees that what is confirmed to PostgreSQL is in Kafka",
     "remove it; the topic's min.insync.replicas sets the number of copies"),
    (&["enable.idempotence"],
     "refused: without idempotence, a retry could repeat or reorder records",
     "remove it; it is always on"),
    (&["delivery.report.only.error"],
     "refused: without a report for each record, walcat could confirm nothing to PostgreSQL",
     "remove it"),
    (&["message.timeout.ms", "delivery.timeout.ms"],
     "refused: a record that times out would stop the stream",
     "set broker_for in [retry] to limit the wait for Kafka"),
    (&["transactional.id"],
     "refused: walcat sets it with exactly-once delivery; otherwise the producer would fail at the first record",
     "remove it"),
    (&["partitioner"],
     "refused: the records of one key stay in order only if their partition never changes",
     "remove it; walcat always uses murmur2_random, the partitioner of Kafka's Java client"),
    (&["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
     "refused: it would break the memory limit",
     "set max in [memory]"),
    (&["queue.buffering.max.ms"],
     "refused: walcat sets queue.buffering.max.*",
     "write linger.ms, its other name"),
    (&["bootstrap.servers", "metadata.broker.list"],
     "refused: the brokers are a setting of walcat",
     "set brokers in the file, or use -b, --brokers"),
];

/// librdkafka's second names for producer properties, each with the name that walcat keeps. librdkafka accepts both names,
/// and the last one wins; walcat passes on only one, so that the order has no effect.
const ALIASES: &[(&str, &str)] = &[
    ("compression.codec", "compression.type"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("message.send.max.retries", "retries"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];

/// Properties of Kafka's Java client that librdkafka does not know, and what to write instead.
#[rustfmt::skip]
const JAVA: &[(&[&str], &str)] = &[
    (&["max.request.size"], "write message.max.bytes; without it, the broker's limit applies"),
    (&["buffer.memory"], "set max in [memory]"),
    (&["ssl.truststore.location", "ssl.truststore.certificates"],
     "write ssl.ca.location, the path of a PEM file with the CA's certificate"),
    (&["ssl.truststore.password", "ssl.truststore.type"], "remove it: ssl.ca.location is a PEM file"),
    (&["ssl.keystore.type"], "remove it: ssl.keystore.location is a PKCS#12 file"),
    (&["ssl.keystore.certificate.chain"], "write ssl.certificate.location, the path of a PEM file"),
    (&["ssl.keystore.key"], "write ssl.key.location, the path of a PEM file"),
    (&["sasl.jaas.config"], "write sasl.username and sasl.password"),
    (&["send.buffer.bytes"], "write socket.send.buffer.bytes"),
    (&["receive.buffer.bytes"], "write socket.receive.buffer.bytes"),
    (&["max.block.ms"], "set broker_for in [retry] to limit the wait for Kafka"),
    (&["partitioner.class"], "remove it; walcat always uses murmur2_random, the partitioner of Kafka's Java client"),
    (&["key.serializer", "value.serializer", "interceptor.classes"], "remove it"),
];

/// The name under which walcat keeps a property: always the same one of librdkafka's two names.
#[must_use]
pub fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, kept)| kept)
}

/// Whether this is a librdkafka property or a name that walcat refuses.
#[must_use]
pub fn is_property(name: &str) -> bool {
    let is_refused = REFUSED.iter().any(|(names, ..)| names.contains(&name));
    is_refused || producer::knows_property(name)
}

/// An error if walcat refuses this property.
pub fn check_property(name: &str) -> Result<(), ValueError> {
    if name.is_empty() {
        return Err(ValueError::NotAProperty);
    }
    if let Some((_, reason, instead)) = REFUSED.iter().find(|(names, ..)| names.contains(&name)) {
        return Err(ValueError::Refused { reason, instead });
    }
    match JAVA.iter().find(|(names, _)| names.contains(&name)) {
        Some((_, instead)) => Err(ValueError::Refused { reason: "a property of Kafka's Java client only", instead }),
        None => Ok(()),
    }
}

/// The two parts of `KEY=VALUE`.
pub fn split_property(text: &str) -> Result<(&str, &str), ValueError> {
    text.split_once('=').map(|(name, value)| (name.trim(), value)).ok_or(ValueError::NotAProperty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_would_break_a_guarantee_is_refused_with_a_reason_and_a_hint() {
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
        let (_, manual) = manual.split_once("It also refuses these").unwrap_or_default();
        let refused: Vec<&str> = manual.lines().filter_map(|line| line.strip_prefix(".It Li ")).collect();
        let refused: Vec<&str> = refused.iter().flat_map(|names| names.split(" , ")).collect();
        let known: Vec<&str> = REFUSED.iter().flat_map(|(names, ..)| names.iter().copied()).collect();
        assert_eq!(refused, known);
    }

    #[test]
    fn a_property_of_the_java_client_is_told_from_librdkafkas_own() {
        for name in JAVA.iter().flat_map(|(names, _)| names.iter()) {
            let Err(ValueError::Refused { instead, .. }) = check_property(name) else {
                panic!("{name} is not refused")
            };
            for word in instead.split([' ', ',', ';', ':']).filter(|word| word.contains('.')) {
                assert!(producer::knows_property(word), "{name}: {word} is no property of librdkafka");
            }
        }
    }

    #[test]
    fn of_two_names_for_a_property_one_is_kept_and_librdkafka_knows_both() {
        let listed = include_str!("../../man/walcat.toml.5");
        for (alias, kept) in ALIASES {
            assert_eq!((canonical(alias), canonical(kept)), (*kept, *kept));
            assert!(producer::knows_property(alias) && producer::knows_property(kept), "{alias}");
            assert!(listed.contains(&format!(".It Li {kept} , {alias}")), "{alias} is not in the manual");
        }
        assert_eq!(canonical("linger.ms"), "linger.ms");
    }

    #[test]
    fn every_other_property_is_passed_on() {
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
