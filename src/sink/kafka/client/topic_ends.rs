//! Checks whether topics have ever contained records: a slot that was read before has left records there. Lists topics.
//!
//! These requests wait for the brokers, so the thread for transactional calls makes them, never the loop.

use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;

use crate::sink::kafka::client::context::Context;
use crate::sink::kafka::client::transaction_calls::CallError;

/// The timeout for all requests of [`is_any_written`] together.
const LIMIT: Duration = Duration::from_secs(30);

/// The timeout for the list of topics.
const LIST_LIMIT: Duration = Duration::from_secs(2);

/// Whether any of the topics exists and ever contained a record. A partition that does not answer in time counts as one
/// that did.
///
/// # Errors
/// If the cluster does not return the list of topics.
pub(super) fn is_any_written(client: &Client<Context>, topics: &[String]) -> Result<bool, CallError> {
    if topics.is_empty() {
        return Ok(false);
    }
    let deadline = Instant::now() + LIMIT;
    let metadata = client.fetch_metadata(None, LIMIT).map_err(failed)?;
    for topic in metadata.topics().iter().filter(|topic| topics.iter().any(|name| name == topic.name())) {
        for partition in topic.partitions() {
            let left = deadline.saturating_duration_since(Instant::now());
            let end = client.fetch_watermarks(topic.name(), partition.id(), left);
            // A partition whose end is unknown may contain records.
            if left.is_zero() || end.map_or(true, |(_, end)| end > 0) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The topics whose names begin with the prefix.
///
/// # Errors
/// If the cluster does not return the list of topics.
pub(super) fn topics_with(client: &Client<Context>, prefix: &str) -> Result<Vec<String>, CallError> {
    let metadata = client.fetch_metadata(None, LIST_LIMIT).map_err(failed)?;
    let names = metadata.topics().iter().map(MetadataTopic::name);
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

fn failed(error: KafkaError) -> CallError {
    CallError {
        code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
        reason: "cannot list the topics".to_owned(),
    }
}
