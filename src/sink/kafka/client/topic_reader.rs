//! Reads a topic from its beginning to its end, for `walcat verify`: partitions are assigned directly, no consumer group
//! is joined, and no offset is stored.
//!
//! Its calls wait, so only a command that has nothing else to do may use it.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::sink::kafka::client::consumer::{self, Consumer};
use crate::sink::kafka::error::{Error, is_missing_topic};

/// The timeout for one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The smallest queue: librdkafka must be able to hold some batches.
const QUEUE_KIB_MIN: usize = 1_024;

/// How a topic is read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The brokers.
    pub brokers: String,
    /// The user's properties.
    pub properties: Vec<(String, String)>,
    /// Whether to read only what is committed: `isolation.level`.
    pub read_committed: bool,
    /// How many bytes librdkafka may read ahead.
    pub queue_bytes: usize,
}

/// A partition with the offsets of its first record and of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub id: i32,
    pub low: i64,
    pub end: i64,
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// Finds topics and the ends of their partitions.
pub struct Topics {
    /// Sees the end of everything.
    all: Consumer,
    /// Sees the end of what is committed; none without read_committed.
    committed: Option<Consumer>,
}

impl Topics {
    /// Connects at the first request.
    ///
    /// # Errors
    /// [`Error::Producer`] if librdkafka rejects a property.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let consumer = |read_committed| consumer(&Settings { read_committed, ..settings.clone() });
        let committed = settings.read_committed.then(|| consumer(true)).transpose()?;
        Ok(Topics { all: consumer(false)?, committed })
    }

    /// The partitions of a topic; none if it does not exist.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn partitions(&self, topic: &str) -> Result<Vec<Partition>, Error> {
        let metadata = self.all.fetch_metadata(Some(topic), PATIENCE).map_err(|error| failed(topic, &error))?;
        let mut partitions = Vec::new();
        for found in metadata.topics().iter().filter(|found| found.name() == topic) {
            match found.error().map(code_of) {
                None => {}
                Some(code) if is_missing_topic(code) => return Ok(Vec::new()),
                Some(code) => {
                    return Err(Error::Read { topic: topic.to_owned(), code, reason: code.to_string() });
                }
            }
            for partition in found.partitions() {
                let ends = self.all.fetch_watermarks(topic, partition.id(), PATIENCE);
                let (low, end) = ends.map_err(|error| failed(topic, &error))?;
                partitions.push(Partition { id: partition.id(), low, end });
            }
        }
        Ok(partitions)
    }

    /// Whether a reader sees everything before the end of the partition: no open transaction is in the way.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn is_visible(&self, topic: &str, partition: Partition) -> Result<bool, Error> {
        let Some(committed) = &self.committed else { return Ok(true) };
        let ends = committed.fetch_watermarks(topic, partition.id, PATIENCE);
        Ok(ends.map_err(|error| failed(topic, &error))?.1 >= partition.end)
    }
}

/// Reads the partitions of one topic once.
pub struct TopicReader {
    consumer: Consumer,
    topic: String,
    /// The partitions that are not read to their end yet.
    left: Vec<Left>,
}

/// A partition that is being read.
#[derive(Clone, Copy, Debug)]
struct Left {
    id: i32,
    end: i64,
    /// Whether the end moves once: to the one that the partition has when the reader arrives.
    moves: bool,
}

/// What [`TopicReader::poll`] found.
#[derive(Debug)]
pub enum Progress {
    /// The function was called with a record.
    Record,
    /// Nothing has arrived in time.
    Nothing,
    /// Every partition is read.
    Done,
}

impl TopicReader {
    /// Starts to read. With `to_the_present`, a partition is read to the end that it has when the reader arrives at the
    /// given one.
    ///
    /// # Errors
    /// [`Error::Producer`] if librdkafka rejects a property, and [`Error::Read`].
    pub fn new(
        settings: &Settings,
        topic: &str,
        partitions: &[Partition],
        to_the_present: bool,
    ) -> Result<Self, Error> {
        let consumer = consumer(settings)?;
        let read = partitions.iter().filter(|partition| partition.end > partition.low);
        let left: Vec<Left> =
            read.map(|partition| Left { id: partition.id, end: partition.end, moves: to_the_present }).collect();
        let mut assignment = TopicPartitionList::new();
        for partition in &left {
            let added = assignment.add_partition_offset(topic, partition.id, Offset::Beginning);
            added.map_err(|error| failed(topic, &error))?;
        }
        consumer.assign(&assignment).map_err(|error| failed(topic, &error))?;
        Ok(TopicReader { consumer, topic: topic.to_owned(), left })
    }

    /// Calls the function with the next record; waits for it up to this time.
    ///
    /// # Errors
    /// [`Error::Read`] without permission to read the topic, or if it was deleted. Brokers that are away are not an error.
    pub fn poll(&mut self, time: Duration, take: &mut dyn FnMut(Record<'_>)) -> Result<Progress, Error> {
        if self.left.is_empty() {
            return Ok(Progress::Done);
        }
        match self.consumer.poll(time) {
            None => Ok(Progress::Nothing),
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition(), message.offset());
                let Some(place) = self.left.iter().position(|left| left.id == partition) else {
                    return Ok(Progress::Record);
                };
                let left = &mut self.left[place];
                if left.moves && offset + 1 >= left.end {
                    let ends = self.consumer.fetch_watermarks(&self.topic, partition, PATIENCE);
                    let (_, end) = ends.map_err(|error| failed(&self.topic, &error))?;
                    *left = Left { end: end.max(left.end), moves: false, ..*left };
                }
                if offset < left.end {
                    take(Record { partition, offset, key: message.key(), value: message.payload() });
                }
                if offset + 1 >= left.end {
                    self.left.swap_remove(place);
                }
                Ok(Progress::Record)
            }
            // It is reported only once everything before the end was returned, and the end was visible before the start.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.left.retain(|left| left.id != partition);
                Ok(Progress::Record)
            }
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if code == Code::TopicAuthorizationFailed || is_missing_topic(code) => {
                    Err(failed(&self.topic, &error))
                }
                // librdkafka looks up the group coordinator in any case, and connects again by itself.
                _ => Ok(Progress::Nothing),
            },
        }
    }
}

fn consumer(settings: &Settings) -> Result<Consumer, Error> {
    let queue_kib = (settings.queue_bytes / 1_024).max(QUEUE_KIB_MIN);
    let own = [
        ("fetch.wait.max.ms", "50".to_owned()),
        ("queued.max.messages.kbytes", queue_kib.to_string()),
        ("fetch.max.bytes", (queue_kib * 1_024).to_string()),
    ];
    consumer::create(&settings.brokers, &settings.properties, settings.read_committed, &own)
}

fn code_of(error: RDKafkaRespErr) -> Code {
    error.into()
}

fn failed(topic: &str, error: &KafkaError) -> Error {
    let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
    Error::Read { topic: topic.to_owned(), code, reason: error.to_string() }
}
