//! The checkpoint topic: stores the position of each Kafka transaction and the instance that wrote it.
//!
//! Each slot has its own topic, `__walcat.SYSTEMID.DATABASE.SLOT`, with one partition and compaction. In a shared
//! partition, the open transaction of another instance would hide the last checkpoint from a `read_committed` reader.
//! The topic has two kinds of JSON records, each with a constant key: a start record when an instance has taken over,
//! and a checkpoint in every transaction.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::warn;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::position::Stored;
use crate::record::topic::sanitize;
use crate::sink::kafka::client::consumer::{self, Consumer};
use crate::sink::kafka::error::Error;
use crate::sink::kafka::exactly_once::history::{History, Record};

/// The key of start records.
pub const START_KEY: &[u8] = b"start";

/// The key of checkpoints.
pub const CHECKPOINT_KEY: &[u8] = b"checkpoint";

/// The prefix of the topic's name.
pub(in crate::sink::kafka) const TOPIC_PREFIX: &str = "__walcat.";

/// A process that has, or had, the transactional id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How often the process has renewed its producer since.
    pub renewal: u32,
}

impl Instance {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Instance {
            host: host.trim().to_owned(),
            pid: std::process::id(),
            started_unix_ms: u64::try_from(started).unwrap_or(u64::MAX),
            renewal: 0,
        }
    }

    /// Whether both are the same process.
    #[must_use]
    pub fn is_same_process(&self, other: &Instance) -> bool {
        (&self.host, self.pid, self.started_unix_ms) == (&other.host, other.pid, other.started_unix_ms)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started = UNIX_EPOCH + Duration::from_millis(self.started_unix_ms);
        write!(f, "pid {} on {}, started {}", self.pid, self.host, humantime::format_rfc3339_seconds(started))
    }
}

/// The position that a transaction stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The position and its slot.
    #[serde(flatten)]
    pub stored: Stored,
    /// The commit LSN of the last PostgreSQL transaction in it, or the position itself if there is none.
    pub commit_lsn: Lsn,
    /// The xid of that transaction, or 0 if there is none.
    pub xid: u32,
    /// The instance that wrote the checkpoint.
    pub instance: Instance,
}

/// An instance has taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The instance.
    pub instance: Instance,
    /// The slot's position when the instance started, if nothing had been read from the slot yet. In that case a
    /// missing checkpoint is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_slot_at: Option<Lsn>,
}

/// The value of a start record.
#[must_use]
pub fn render_start(start: Start) -> Vec<u8> {
    render(&Record::Start(start))
}

/// The value of a checkpoint.
#[must_use]
pub fn render_checkpoint(checkpoint: Checkpoint) -> Vec<u8> {
    render(&Record::Checkpoint(Box::new(checkpoint)))
}

fn render(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("numbers and strings can be written as JSON")
}

/// The topic's name. A slot's name is unique in its cluster, so two slots never share a topic.
#[must_use]
pub fn topic(system_identifier: &str, database: &str, slot: &str) -> String {
    sanitize(&format!("{TOPIC_PREFIX}{system_identifier}.{database}.{slot}"))
}

/// Warns that a slot that looks new may have been read: PostgreSQL forgets in a crash that it was.
pub fn warn_of_records(slot: &str) {
    warn!(slot;
        "no position is stored for this slot, but the topics of its tables have records: if they are from this slot, the \
         checkpoint topic was deleted, and changes after the slot's position are delivered again");
}

/// The transactional id.
#[must_use]
pub fn transactional_id(system_identifier: &str, database: &str, slot: &str) -> String {
    format!("walcat.{system_identifier}.{database}.{slot}")
}

/// Why the topic cannot be written, if a permission is missing; `is_denied` means that the topic may not be created.
#[must_use]
pub fn denied(topic: &str, code: Code, is_denied: bool) -> Option<String> {
    match code {
        Code::TopicAuthorizationFailed | Code::UnknownTopic | Code::UnknownTopicOrPartition if is_denied => {
            Some(format!(
                "no permission to create the checkpoint topic {topic}: grant the ACL Create, or create the topic \
                 yourself (one partition, cleanup.policy=compact) and grant the ACL Write"
            ))
        }
        Code::TopicAuthorizationFailed => {
            Some(format!("no permission to write to the checkpoint topic {topic}: grant the ACL Write"))
        }
        _ => None,
    }
}

/// Reads the topic from its beginning with `read_committed` and keeps the newest records.
pub struct Reader {
    consumer: Consumer,
    topic: String,
    history: History,
    /// Whether everything in the topic has been read.
    is_at_end: bool,
}

impl Reader {
    /// Starts reading.
    ///
    /// # Errors
    /// [`Error::Producer`] if librdkafka rejects a property.
    pub fn new(
        brokers: &str,
        properties: &[(String, String)],
        topic: &str,
        instance: &Instance,
    ) -> Result<Self, Error> {
        let consumer = consumer::create(brokers, properties, true, &[])?;
        let refused = |error: KafkaError| Error::Producer { reason: error.to_string() };
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Beginning).map_err(refused)?;
        consumer.assign(&assignment).map_err(refused)?;
        Ok(Reader { consumer, topic: topic.to_owned(), history: History::new(instance), is_at_end: false })
    }

    /// What was read so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Processes the records that have arrived, without waiting. Ignores connection errors: the sink decides whether
    /// the brokers are available.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a record that is not walcat's; [`Error::Transactional`] without permission to read the
    /// topic.
    pub fn advance(&mut self) -> Result<(), Error> {
        while let Some(message) = self.consumer.poll(Duration::ZERO) {
            let message = match message {
                Ok(message) => message,
                Err(KafkaError::PartitionEOF(_)) => {
                    self.is_at_end = true;
                    continue;
                }
                Err(error) => match error.rdkafka_error_code() {
                    Some(code @ Code::TopicAuthorizationFailed) => {
                        let reason =
                            format!("no permission to read the checkpoint topic {}: grant the ACL Read", self.topic);
                        return Err(Error::Transactional { code, reason });
                    }
                    // librdkafka looks up the group coordinator in any case. walcat assigns partitions directly and
                    // stores nothing in the group, so missing permission for the group does not matter.
                    _ => continue,
                },
            };
            let malformed = |reason: String| Error::Checkpoint { topic: self.topic.clone(), reason };
            let value = message.payload().ok_or_else(|| malformed("found a record without a value".to_owned()))?;
            self.history.take(value).map_err(malformed)?;
        }
        Ok(())
    }

    /// A start record of another process after our own, if one was read. Records before our own are old. With
    /// `has_announced`, our start record was in the topic; if it is missing, a later start record has replaced it by
    /// compaction.
    #[must_use]
    pub fn successor(&self, has_announced: bool) -> Option<&Instance> {
        self.history.successor(has_announced && self.is_at_end)
    }
}

/// Warns if another cluster has a checkpoint topic for the same database and slot names: the cluster was recreated or
/// copied, or this is another cluster. `topics` are those with [`TOPIC_PREFIX`].
pub(in crate::sink::kafka) fn warn_of_other_systems(slot: &str, topics: &[String], ours: &str) {
    for topic in topics.iter().filter(|topic| is_of_other_system(topic, ours)) {
        warn!(slot, topic = topic.as_str();
            "another cluster has a checkpoint for this database and slot; check that dsn names the right server");
    }
}

/// Whether the two topics belong to the same database and slot names in two clusters.
fn is_of_other_system(name: &str, ours: &str) -> bool {
    let parts = |name: &'_ str| {
        let (system, rest) = name.strip_prefix(TOPIC_PREFIX)?.split_once('.')?;
        system.bytes().all(|byte| byte.is_ascii_digit()).then(|| (system.to_owned(), rest.to_owned()))
    };
    match (parts(name), parts(ours)) {
        (Some((system, rest)), Some((our_system, our_rest))) => system != our_system && rest == our_rest,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::position::Reached;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let instance = Instance { host: "h".to_owned(), pid: 7, started_unix_ms: 1_700_000_000_000, renewal: 2 };
        let records = Some(Reached { timeline: 1, lsn: Lsn(0x10) });
        let stored = Stored {
            system_identifier: "1".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            end_lsn: Lsn(0x10),
            records,
            full_keys: BTreeMap::from([("16400".to_owned(), vec!["b".to_owned(), "a".to_owned()])]),
            snapshot: None,
        };
        let checkpoint = Checkpoint { stored, commit_lsn: Lsn(8), xid: 5, instance: instance.clone() };
        let text = render_checkpoint(checkpoint.clone());
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"type":"checkpoint","system_identifier":"1","timeline":1,"slot":"s","end_lsn":"0/10","records":{"timeline":1,"lsn":"0/10"},"full_keys":{"16400":["b","a"]},"commit_lsn":"0/8","xid":5,"instance":{"host":"h","pid":7,"started_unix_ms":1700000000000,"renewal":2}}"#
        );
        match serde_json::from_slice(&text).unwrap() {
            Record::Checkpoint(found) => assert_eq!(*found, checkpoint),
            other => panic!("{other:?}"),
        }
        for unread_slot_at in [None, Some(Lsn(0x10))] {
            let start = Start { instance: instance.clone(), unread_slot_at };
            match serde_json::from_slice(&render_start(start.clone())).unwrap() {
                Record::Start(found) => assert_eq!(found, start),
                other => panic!("{other:?}"),
            }
        }
        let old = br#"{"type":"checkpoint","system_identifier":"1","timeline":1,"slot":"s","end_lsn":"0/10","commit_lsn":"0/8","xid":5,"instance":{"host":"h","pid":7,"started_unix_ms":1700000000000,"renewal":2}}"#;
        match serde_json::from_slice(old).unwrap() {
            Record::Checkpoint(found) => assert_eq!((found.xid, found.stored.records), (5, None)),
            other => panic!("{other:?}"),
        }
        assert_eq!(instance.to_string(), "pid 7 on h, started 2023-11-14T22:13:20Z");
    }

    #[test]
    fn a_topic_of_another_cluster_has_the_same_database_and_slot() {
        let ours = topic("7", "d.e", "s");
        for (name, expected) in [
            (topic("8", "d.e", "s"), true),
            (topic("7", "d.e", "s"), false),
            (topic("8", "d.e", "t"), false),
            (topic("8", "d", "s"), false),
            ("__walcat.8".to_owned(), false),
            ("__walcat.x.d.e.s".to_owned(), false),
            ("8.d.e.s".to_owned(), false),
        ] {
            assert_eq!(is_of_other_system(&name, &ours), expected, "{name}");
        }
    }

    #[test]
    fn the_topic_is_the_slots_own_and_one_that_kafka_takes() {
        assert_eq!(topic("7", "a b", "s"), "__walcat.7.a_b.s");
        assert_eq!(transactional_id("7", "a b", "s"), "walcat.7.a b.s");
    }
}
