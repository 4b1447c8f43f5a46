//! Reads a checkpoint topic as it is, for `walcat check`: takes no transactional id, writes no start record, and so fences
//! nobody.

use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::sink::kafka::client::topic_reader::{Progress, Settings, TopicReader, Topics};
use crate::sink::kafka::error::Error;
use crate::sink::kafka::exactly_once::checkpoint::Instance;
use crate::sink::kafka::exactly_once::history::History;

/// How long Kafka may return nothing before the end of the topic.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// The time of one wait for a record.
const POLL_TIME: Duration = Duration::from_millis(100);

/// What the topic has, up to its end at this time; empty if it does not exist.
///
/// # Errors
/// [`Error::Checkpoint`] for a record that is not walcat's, and [`Error::Read`].
pub fn history(settings: &Settings, topic: &str) -> Result<History, Error> {
    let mut history = History::new(&Instance::this());
    let partitions = Topics::new(settings)?.partitions(topic)?;
    let mut reader = TopicReader::new(settings, topic, &partitions, false)?;
    let mut heard_at = Instant::now();
    loop {
        let mut malformed = None;
        let progress = reader.poll(POLL_TIME, &mut |record| {
            malformed = match record.value {
                Some(value) => history.take(value).err(),
                None => Some("found a record without a value".to_owned()),
            };
        })?;
        if let Some(reason) = malformed {
            return Err(Error::Checkpoint { topic: topic.to_owned(), reason });
        }
        match progress {
            Progress::Done => return Ok(history),
            Progress::Record => heard_at = Instant::now(),
            Progress::Nothing if heard_at.elapsed() >= SILENCE_MAX => {
                let reason = format!("no record for {} s", SILENCE_MAX.as_secs());
                return Err(Error::Read { topic: topic.to_owned(), code: Code::OperationTimedOut, reason });
            }
            Progress::Nothing => {}
        }
    }
}
