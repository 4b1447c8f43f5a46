//! Consumers that read a topic from its beginning: partitions are assigned directly, no consumer group is joined, and no
//! offset is stored.

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;

use crate::sink::kafka::client::context;
use crate::sink::kafka::error::Error;

/// A consumer whose errors are those that its calls return.
pub type Consumer = BaseConsumer<ReaderContext>;

/// Creates a consumer. `own` overrides the properties of the user.
///
/// # Errors
/// [`Error::Producer`] if librdkafka rejects a property.
pub fn create(
    brokers: &str,
    properties: &[(String, String)],
    read_committed: bool,
    own: &[(&str, String)],
) -> Result<Consumer, Error> {
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", brokers)
        // librdkafka requires a group, although partitions are assigned directly and no offset is committed.
        .set("group.id", "walcat")
        .set("isolation.level", if read_committed { "read_committed" } else { "read_uncommitted" })
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in own {
        config.set(*name, value);
    }
    config.create_with_context(ReaderContext).map_err(|error| Error::Producer { reason: error.to_string() })
}

/// Writes librdkafka's log.
pub struct ReaderContext;

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka warns about producer-only properties one by one at each start.
        if facility != "CONFWARN" {
            context::log_line(level, facility, message);
        }
    }

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for ReaderContext {}
