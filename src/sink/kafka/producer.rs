//! How the producer is set up: what walcat's promise needs, what it chooses, and what the user says on top.
//!
//! Source: librdkafka's `CONFIGURATION.md`.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::BaseProducer;

use super::context::Context;
use super::error::Error;
use crate::limits::{RECORDS_IN_FLIGHT_MAX, RECORDS_PER_CHANGE_MAX};

/// Defaults of walcat's that the user may change.
const CHOSEN: [(&str, &str); 5] = [
    ("client.id", "walcat"),
    ("compression.type", "lz4"),
    ("linger.ms", "5"),
    // The limit is the broker's to set.
    ("message.max.bytes", "1000000000"),
    ("socket.keepalive.enable", "true"),
];

/// What the promise and the memory bound rest on; the configuration refuses these from the user.
const PINNED: [(&str, &str); 4] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("partitioner", "murmur2_random"),
    // [memory] max and the ring bound what is queued; librdkafka's own bound is never to be met.
    ("queue.buffering.max.kbytes", "2147483647"),
];

/// What a producer of Kafka transactions needs more.
#[derive(Clone, Debug)]
pub struct Transactional {
    /// The transactional id.
    pub id: String,
    /// Kafka's limit for a transaction; a record may not wait longer, or librdkafka refuses the set-up.
    pub timeout: Duration,
    /// The slot's own topic.
    pub checkpoint_topic: String,
}

/// Creates the idempotent producer. Its records never time out, but for those of a transaction.
///
/// # Errors
/// [`Error::Producer`] for a property that librdkafka does not know or a value that it refuses.
pub fn create(
    brokers: &str,
    properties: &[(String, String)],
    transactional: Option<&Transactional>,
    context: Context,
) -> Result<BaseProducer<Context>, Error> {
    let mut config = ClientConfig::new();
    for (name, value) in CHOSEN {
        config.set(name, value);
    }
    for (name, value) in properties {
        config.set(name, value);
    }
    for (name, value) in PINNED {
        config.set(name, value);
    }
    match transactional {
        Some(Transactional { id, timeout, .. }) => {
            let timeout_ms = timeout.as_millis().to_string();
            config.set("transactional.id", id);
            config.set("transaction.timeout.ms", &timeout_ms).set("message.timeout.ms", &timeout_ms);
        }
        None => {
            config.set("message.timeout.ms", "0");
        }
    }
    config.set("bootstrap.servers", brokers);
    config.set("queue.buffering.max.messages", (RECORDS_IN_FLIGHT_MAX + RECORDS_PER_CHANGE_MAX).to_string());
    config.set_log_level(RDKafkaLogLevel::Info);
    config.create_with_context(context).map_err(|error| Error::Producer { reason: reason(&error, properties) })
}

/// librdkafka's words, without the value, which may be a secret.
fn reason(error: &rdkafka::error::KafkaError, properties: &[(String, String)]) -> String {
    use rdkafka::error::KafkaError;
    let words = match error {
        KafkaError::ClientConfig(_, description, name, _) => format!("{name}: {description}"),
        other => other.to_string(),
    };
    let long_values = properties.iter().map(|(_, value)| value).filter(|value| value.len() > 3);
    long_values.fold(words, |words, value| words.replace(value.as_str(), "***"))
}
