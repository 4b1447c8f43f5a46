//! The consumer of `scripts/demo` and `scripts/bench`: prints records as they arrive, and counts them by topic and operation.
//!
//! Reads every partition of every topic with a prefix from its beginning, without a consumer group, which would rebalance at
//! each new topic. On SIGTERM it reads to the current end of the topics and exits. The operation of a record is the envelope's
//! `op`; a record without a value is a `tombstone`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::Deserialize;

/// How often to look for new topics.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(300);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    /// Bootstrap servers
    #[arg(long)]
    brokers: String,
    /// Read the topics that begin with this
    #[arg(long)]
    prefix: String,
    /// Columns of the terminal
    #[arg(long, default_value_t = 120)]
    width: usize,
    /// Show this many records of each topic and operation, and only count the rest
    #[arg(long, default_value_t = 8)]
    show: u64,
    /// Where to write `TOPIC OPERATION COUNT` lines at the end
    #[arg(long)]
    counts: Option<PathBuf>,
    /// Read at most this long after SIGTERM
    #[arg(long, default_value_t = 30)]
    drain_timeout_s: u64,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    op: &'a str,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &arguments.brokers)
        .set("group.id", "walcat-demo")
        .set("enable.auto.commit", "false")
        // shown as they arrive, not half a second later
        .set("fetch.wait.max.ms", "20")
        .set("fetch.error.backoff.ms", "20")
        .create()?;
    let mut partitions = BTreeSet::new();
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        discover(&consumer, &arguments.prefix, &mut partitions)?;
        read_until(&consumer, Instant::now() + DISCOVERY_INTERVAL, u64::MAX, &mut tally, &arguments)?;
    }
    discover(&consumer, &arguments.prefix, &mut partitions)?;
    let records = records_in(&consumer, &partitions)?;
    let deadline = Instant::now() + Duration::from_secs(arguments.drain_timeout_s);
    read_until(&consumer, deadline, records, &mut tally, &arguments)?;

    if let Some(path) = &arguments.counts {
        fs::write(path, tally.render())?;
    }
    if tally.records < records {
        return Err(format!("{} of {records} records read before the time was up", tally.records).into());
    }
    Ok(())
}

/// Assigns the partitions of topics that have appeared.
fn discover(
    consumer: &BaseConsumer,
    prefix: &str,
    partitions: &mut BTreeSet<(String, i32)>,
) -> Result<(), Box<dyn Error>> {
    let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT)?;
    let mut new = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix)) {
        for partition in topic.partitions() {
            if partitions.insert((topic.name().to_owned(), partition.id())) {
                new.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
            }
        }
    }
    if new.count() > 0 {
        consumer.incremental_assign(&new)?;
    }
    Ok(())
}

/// The number of records in the partitions. There are no transactions, whose markers would use offsets.
fn records_in(consumer: &BaseConsumer, partitions: &BTreeSet<(String, i32)>) -> Result<u64, Box<dyn Error>> {
    let mut records = 0;
    for (topic, partition) in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT)?;
        records += u64::try_from(high - low)?;
    }
    Ok(records)
}

fn read_until(
    consumer: &BaseConsumer,
    deadline: Instant,
    records: u64,
    tally: &mut Tally,
    arguments: &Arguments,
) -> Result<(), Box<dyn Error>> {
    while tally.records < records {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let Some(message) = consumer.poll(left) else { continue };
        tally.take(&message?, arguments);
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    records: u64,
    by_operation: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Tally {
    fn take(&mut self, message: &BorrowedMessage<'_>, arguments: &Arguments) {
        let operation = operation(message.payload());
        self.records += 1;
        let count = self
            .by_operation
            .entry(message.topic().to_owned())
            .or_default()
            .entry(operation.to_owned())
            .and_modify(|count| *count += 1)
            .or_insert(1);
        if *count <= arguments.show {
            let text = |bytes: Option<&[u8]>| bytes.map_or("null".into(), |b| String::from_utf8_lossy(b).into_owned());
            let line = format!("{}  {}  {}", message.topic(), text(message.key()), text(message.payload()));
            println!("{}", shorten(&line, arguments.width));
        } else if count.is_multiple_of(1000) {
            println!("{}  ... {count} records of operation {operation} so far", message.topic());
        }
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for (topic, operations) in &self.by_operation {
            for (operation, count) in operations {
                let _ = writeln!(text, "{topic} {operation} {count}");
            }
        }
        text
    }
}

fn operation(value: Option<&[u8]>) -> &str {
    match value {
        None => "tombstone",
        Some(value) => serde_json::from_slice::<Envelope>(value).map_or("unknown", |envelope| envelope.op),
    }
}

fn shorten(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
