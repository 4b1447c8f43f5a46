//! The configuration of the producer: the properties that walcat's guarantees require, walcat's defaults, and the
//! user's properties.
//!
//! Source: librdkafka's `CONFIGURATION.md`.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaConfRes;

use crate::limits::{RECORDS_IN_FLIGHT_MAX, RECORDS_PER_CHANGE_MAX};
use crate::sink::kafka::client::context::Context;
use crate::sink::kafka::client::ffi;
use crate::sink::kafka::error::Error;

/// Defaults that the user can change.
const CHOSEN: [(&str, &str); 5] = [
    ("client.id", "walcat"),
    ("compression.type", "lz4"),
    ("linger.ms", "5"),
    // The broker's limit applies.
    ("message.max.bytes", "1000000000"),
    ("socket.keepalive.enable", "true"),
];

/// Several requests in flight to a broker would be faster if the brokers are far away. But librdkafka takes the success
/// of a later request for that of an earlier one, and a broker without state of the producer accepts the later request
/// first. If the leader changes at that time, records are lost or out of order. A Kafka transaction is aborted in that
/// case.
const IN_FLIGHT: (&str, &str) = ("max.in.flight.requests.per.connection", "1");

/// Properties that the guarantees and the memory bound depend on; the configuration rejects them from the user.
const PINNED: [(&str, &str); 4] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("partitioner", "murmur2_random"),
    // [memory] max and the ring limit the queue; librdkafka's own limit must never be reached.
    ("queue.buffering.max.kbytes", "2147483647"),
];

/// Additional settings of a producer with Kafka transactions.
#[derive(Clone, Debug)]
pub struct Transactional {
    /// The transactional id.
    pub id: String,
    /// Kafka's limit for a transaction. The timeout of a record may not be longer, or librdkafka rejects the
    /// configuration.
    pub timeout: Duration,
}

/// Creates the idempotent producer. Its records never time out, except those of a transaction.
///
/// # Errors
/// [`Error::Producer`] if librdkafka does not know a property or rejects its value.
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
    if transactional.is_none() {
        config.set(IN_FLIGHT.0, IN_FLIGHT.1);
    }
    for (name, value) in properties {
        config.set(name, value);
    }
    for (name, value) in PINNED {
        config.set(name, value);
    }
    match transactional {
        Some(Transactional { id, timeout }) => {
            let timeout_ms = timeout.as_millis().to_string();
            config.set("transactional.id", id);
            config.set("transaction.timeout.ms", &timeout_ms).set("message.timeout.ms", &timeout_ms);
            if config.get(PROPAGATION).is_none() {
                config.set(PROPAGATION, propagation(*timeout).as_millis().to_string());
            }
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

/// How long librdkafka looks for a topic before it reports that the topic does not exist.
const PROPAGATION: &str = "topic.metadata.propagation.max.ms";

/// This time for transactions: librdkafka's default of 30 s is longer than some transactions may be, and records that
/// time out first would be sent again forever. It must not be shorter than an automatic creation of a topic can take.
fn propagation(timeout: Duration) -> Duration {
    timeout.mul_f64(0.75).clamp(Duration::from_secs(10), Duration::from_secs(30))
}

/// Whether [`create`] would accept the properties, including the files that they name. Contacts no broker.
///
/// # Errors
/// Those of [`create`].
pub fn check(properties: &[(String, String)], transaction_timeout: Option<Duration>) -> Result<(), Error> {
    let transactional = transaction_timeout.map(|timeout| Transactional { id: "check".to_owned(), timeout });
    let (context, _) = Context::new(0);
    create("", properties, transactional.as_ref(), context).map(drop)
}

/// Whether librdkafka has a property or an alias of this name.
#[must_use]
pub fn knows_property(name: &str) -> bool {
    use rdkafka::error::KafkaError;
    // An empty value may be rejected, but only after the name was found.
    let set = ClientConfig::new().set(name, "").create_native_config();
    !matches!(set, Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)))
}

/// librdkafka's message without the value, which may be a secret.
fn reason(error: &rdkafka::error::KafkaError, properties: &[(String, String)]) -> String {
    use rdkafka::error::KafkaError;
    let words = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => match nearest_property(name) {
            Some(nearest) => format!("{name}: no such property of librdkafka; the nearest is {nearest}"),
            None => format!("{name}: no such property of librdkafka"),
        },
        KafkaError::ClientConfig(_, description, name, _) => format!("{name}: {description}"),
        other => other.to_string(),
    };
    let long_values = properties.iter().map(|(_, value)| value).filter(|value| value.len() > 3);
    long_values.fold(words, |words, value| words.replace(value.as_str(), "***"))
}

/// The property with the most similar name.
fn nearest_property(name: &str) -> Option<String> {
    /// The similarity of a word with one or two wrong letters.
    const SIMILARITY_MIN: f64 = 0.8;
    // librdkafka lists only the first name of a property, and these are aliases.
    let chosen = CHOSEN.iter().map(|(known, _)| (*known).to_owned());
    let known = ffi::property_names().into_iter().chain(chosen);
    let rated = known.map(|known| (strsim::normalized_damerau_levenshtein(&known, name), known));
    let best = rated.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN);
    best.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseRecord, Producer as _};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::sink::kafka::client::context::{Report, UNPROVEN};

    /// The reports for ten records in ten requests. The first request is rejected as by a broker that is not the leader
    /// of the partition yet.
    fn reports(properties: &[(&str, &str)]) -> Vec<Report> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let own = [("batch.num.messages", "1"), ("linger.ms", "0"), ("retry.backoff.ms", "300")];
        let properties = own.iter().chain(properties).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (context, inbox) = Context::new(100);
        let properties: Vec<_> = properties.collect();
        let producer = create(&cluster.bootstrap_servers(), &properties, None, context).unwrap();
        let send = |value: &str| {
            let record = BaseRecord::<(), str, usize>::with_opaque_to("t", 7).payload(value).partition(0);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        };
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
        (0..10).for_each(|number| send(&number.to_string()));
        let mut reports = Vec::new();
        for _ in 0..300 {
            producer.poll(Duration::from_millis(100));
            reports.extend(inbox.reports.try_iter());
            if reports.len() == 10 {
                break;
            }
        }
        assert_eq!(producer.in_flight_count(), 0);
        reports
    }

    #[test]
    fn a_record_whose_delivery_is_only_assumed_counts_as_failed_and_the_defaults_prevent_it() {
        let concluded = reports(&[(IN_FLIGHT.0, "5")]);
        let failed = concluded.iter().filter_map(|report| report.failure.as_ref()).collect::<Vec<_>>();
        assert!(failed.iter().any(|failure| failure.code == UNPROVEN), "{concluded:?}");
        let proven = reports(&[]);
        assert_eq!(proven.len(), 10);
        assert!(proven.iter().all(|report| report.failure.is_none()), "{proven:?}");
    }
}
