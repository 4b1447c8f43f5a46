//! Reads topics with a consumer that shares nothing with walcat's producer.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A record as it is in Kafka.
#[derive(Clone, Debug)]
pub struct Record {
    pub partition: i32,
    pub key: Option<Value>,
    /// `None` for a tombstone.
    pub value: Option<Value>,
    pub headers: Vec<(String, Value)>,
}

impl Record {
    pub fn op(&self) -> &str {
        self.value.as_ref().map_or("tombstone", |value| value["op"].as_str().expect("op"))
    }
}

fn consumer(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "walcat-tests")
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .create()
        .expect("consumer")
}

/// What a `read_committed` consumer sees in a topic now, partition by partition in order.
pub fn read_committed(brokers: &str, topic: &str) -> Vec<Record> {
    read_each(brokers, topic, record)
}

/// The values in a checkpoint topic, as a `read_committed` consumer sees them.
pub fn read_checkpoints(brokers: &str, topic: &str) -> Vec<serde_json::Value> {
    read_each(brokers, topic, |message| serde_json::from_slice(message.payload().expect("a value")).expect("JSON"))
}

fn read_each<T>(brokers: &str, topic: &str, convert: impl Fn(&BorrowedMessage<'_>) -> T) -> Vec<T> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "walcat-tests")
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .expect("consumer");
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).expect("metadata");
    let partitions: Vec<i32> =
        metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|partition| partition.id())).collect();
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).expect("assignment");
    }
    consumer.assign(&assignment).expect("assign");
    // A long topic takes as long as the machine needs, but something must arrive.
    let mut deadline = Instant::now() + TIMEOUT;
    let (mut records, mut ended) = (Vec::new(), HashSet::new());
    while ended.len() < partitions.len() {
        assert!(Instant::now() < deadline, "{topic}: after {} records nothing within {TIMEOUT:?}", records.len());
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                records.push(convert(&message));
                deadline = Instant::now() + TIMEOUT;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(error)) => panic!("{topic}: {error}"),
        }
    }
    records
}

/// Reads `count` records as they become visible to a `read_committed` consumer. Returns for each the time since its
/// transaction's commit in PostgreSQL, by the clock of this machine.
pub fn delays_ms(brokers: &str, topic: &str, count: usize) -> Vec<i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "walcat-tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "5")
        .create()
        .expect("consumer");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).expect("assignment");
    consumer.assign(&assignment).expect("assign");
    let deadline = Instant::now() + TIMEOUT;
    let mut delays = Vec::new();
    while delays.len() < count {
        assert!(Instant::now() < deadline, "{topic}: {} of {count} records within {TIMEOUT:?}", delays.len());
        let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
        let seen = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_millis();
        let value = record(&message.expect("message")).value.expect("a value");
        let committed = value["source"]["ts_ms"].as_i64().expect("ts_ms");
        delays.push(i64::try_from(seen).expect("clock") - committed);
    }
    delays
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).expect("JSON");
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key.to_owned(), json(header.value.expect("header")))).collect()
    });
    Record { partition: message.partition(), key: message.key().map(json), value: message.payload().map(json), headers }
}

/// All records in a topic now, partition by partition in order; none for a topic that does not exist.
pub fn read(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer = consumer(brokers);
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).expect("metadata");
    let partitions: Vec<i32> =
        metadata.topics().iter().flat_map(|topic| topic.partitions().iter().map(|partition| partition.id())).collect();
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, TIMEOUT).expect("watermarks");
        left += high - low;
        assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("assignment");
    }
    consumer.assign(&assignment).expect("assign");
    let deadline = Instant::now() + TIMEOUT;
    let mut records = Vec::new();
    while (records.len() as i64) < left {
        assert!(Instant::now() < deadline, "{topic}: {} of {left} records within {TIMEOUT:?}", records.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("message");
        records.push(record(&message));
    }
    records
}

/// The names of all topics.
pub fn topics(brokers: &str) -> Vec<String> {
    let metadata = consumer(brokers).fetch_metadata(None, TIMEOUT).expect("metadata");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

/// Writes one record, as somebody else would.
pub fn produce(brokers: &str, topic: &str, key: &str, value: &str) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer with default properties");
    producer.send(BaseRecord::to(topic).key(key).payload(value)).expect("an empty queue");
    producer.flush(Duration::from_secs(30)).expect("Kafka answers");
}

/// Deletes the records before an offset of partition 0, as retention does.
pub fn delete_records(brokers: &str, topic: &str, before: i64) {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("admin");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(before)).expect("offset");
    let mut future = std::pin::pin!(admin.delete_records(&offsets, &AdminOptions::new()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) {
            result.expect("delete_records");
            return;
        }
        assert!(Instant::now() < deadline, "no answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}
