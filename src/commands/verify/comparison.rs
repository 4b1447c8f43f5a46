//! Compares one table with its topic.

mod keyless;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::snapshot::Snapshot;
use super::{Pair, Run};
use crate::change::{Change, Marker, Operation, Position, Row};
use crate::clock::PgTimestamp;
use crate::config::StreamSettings;
use crate::error::Error;
use crate::pg;
use crate::pg::copy_out::Copied;
use crate::pg::ffi::CopyData;
use crate::pg::tables::Part;
use crate::pump::display::{Display, Pace, count};
use crate::sink;
use crate::sink::kafka;
use crate::sink::kafka::client::topic_reader::{Partition, Progress, TopicReader};
use crate::verify::columns::Layouts;
use crate::verify::entries::Entries;
use crate::verify::fold::{self, Fold, Records, Verdict};
use crate::verify::hash::KeyHash;
use crate::verify::record::{self, Content};
use crate::wire::copy_text::Splitter;

/// The number of examples of each kind.
pub(super) const EXAMPLES_MAX: usize = 10;

/// How long Kafka may return nothing before the end of a topic.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long an open Kafka transaction may hide the end of a topic.
const HIDDEN_MAX: Duration = Duration::from_secs(120);

/// The time between two lines about the progress.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// How often a signal is looked for while Kafka is read.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(200);

/// How `[memory] max` is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// For what is known of the keys.
    pub entries_bytes: usize,
    /// For what librdkafka reads ahead.
    pub queue_bytes: usize,
}

impl Memory {
    pub(super) fn of(settings: &StreamSettings) -> Self {
        let bytes = usize::try_from(settings.memory_bytes_max).unwrap_or(usize::MAX);
        Memory { entries_bytes: bytes / 2, queue_bytes: bytes / 4 }
    }
}

/// The kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Missing,
    Surplus,
    Different,
}

/// A row that differs.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub kind: Kind,
    hash: KeyHash,
    /// None until a surplus key is found in the topic again.
    pub key: Option<String>,
    /// The row in the table, with `--show-values`.
    pub table: Option<String>,
    /// The row in the topic, with `--show-values`.
    pub topic: Option<String>,
}

/// What is said of a table without a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyless {
    /// Records that were recognized as repeats.
    pub repeats: u64,
    /// Records with other columns than the table.
    pub reshaped: u64,
}

/// The result of a comparison.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    pub rows: u64,
    pub missing: u64,
    pub surplus: u64,
    pub different: u64,
    pub changed_since: u64,
    /// Equal rows with a value that the stream did not send.
    pub unsent: u64,
    /// Equal rows whose record has other columns than the table.
    pub older: u64,
    pub records: Records,
    /// What is said of a table without a key; none for one with a key.
    pub keyless: Option<Keyless>,
    pub examples: Vec<Example>,
    pub topic_exists: bool,
    /// The first partition whose oldest records were deleted.
    pub cut: Option<Partition>,
}

impl Compared {
    /// Whether the topic is the table, as far as it can be judged.
    pub(super) fn is_equal(&self) -> bool {
        self.missing == 0 && self.surplus == 0 && self.different == 0 && self.records.foreign == 0
    }

    /// Counts the verdict on a row.
    fn row(&mut self, verdict: Verdict, key: &[u8], after: &str, show_values: bool) {
        let kind = match verdict {
            Verdict::OtherPass => return,
            Verdict::Equal { has_unsent, is_older } => {
                self.unsent += u64::from(has_unsent);
                self.older += u64::from(is_older);
                return;
            }
            Verdict::ChangedSince => {
                self.changed_since += 1;
                return;
            }
            Verdict::Missing => {
                self.missing += 1;
                Kind::Missing
            }
            Verdict::Different => {
                self.different += 1;
                Kind::Different
            }
        };
        let table = show_values.then(|| after.to_owned());
        let key_text = Some(String::from_utf8_lossy(key).into_owned());
        self.example(Example { kind, hash: KeyHash::of(key), key: key_text, table, topic: None });
    }

    fn example(&mut self, example: Example) {
        let same = self.examples.iter().filter(|other| other.kind == example.kind).count();
        if same < EXAMPLES_MAX {
            self.examples.push(example);
        }
    }
}

/// The comparison of one table.
pub(super) struct Comparison<'c> {
    run: &'c mut Run,
    snapshot: &'c mut Snapshot,
    pair: &'c Pair,
    partitions: Vec<Partition>,
    is_compacted: bool,
    result: Compared,
}

impl<'c> Comparison<'c> {
    /// Finds the topic's partitions. The stream has delivered everything from before the snapshot.
    pub(super) fn new(run: &'c mut Run, snapshot: &'c mut Snapshot, pair: &'c Pair) -> Result<Self, Error> {
        let partitions = run.topics.partitions(&pair.topic).map_err(sink::Error::from)?;
        // If the policy cannot be read, the topic may be compacted.
        let policy = run.inquiry.cleanup_policy(&pair.topic).unwrap_or_else(|_| "compact".to_owned());
        let result = Compared {
            topic_exists: !partitions.is_empty(),
            cut: partitions.iter().find(|partition| partition.low > 0).copied(),
            ..Compared::default()
        };
        Ok(Comparison { run, snapshot, pair, partitions, is_compacted: policy.contains("compact"), result })
    }

    /// Runs all passes.
    pub(super) fn run(mut self) -> Result<Compared, Error> {
        self.wait_until_visible()?;
        let is_complete = !self.is_compacted && self.result.cut.is_none();
        let (settings, layouts, records) = self.terms(is_complete);
        let entries = Entries::new(self.run.memory.entries_bytes, records);
        let mut fold = Fold::new(settings, layouts, entries);
        let mut pass = 1_u64;
        loop {
            self.read_topic(|record| fold.take(record))?;
            while fold.must_read_again() {
                info!(topic = self.pair.topic.as_str(); "the topic has a TRUNCATE: reading it again");
                self.read_topic(|record| fold.take(record))?;
            }
            let passes = fold.range().passes();
            if passes > 1 {
                info!(topic = self.pair.topic.as_str(), pass, passes, keys = fold.keys();
                    "the keys do not fit [memory] max: comparing a part of them in each pass");
            }
            let show_values = self.run.show_values;
            self.read_table(|result, key, after| {
                let key = key.expect("the table has a key");
                result.row(fold.row(key, after), key, after, show_values);
            })?;
            self.result.records = fold.records();
            let result = &mut self.result;
            let changed_since = fold.finish(|hash| {
                result.surplus += 1;
                result.example(Example { kind: Kind::Surplus, hash, key: None, table: None, topic: None });
            });
            self.result.changed_since += changed_since;
            if !fold.next_pass() {
                break;
            }
            pass += 1;
        }
        drop(fold);
        self.complete_examples()?;
        Ok(self.result)
    }

    /// How records are read, the columns of the table's rows, and the number of records.
    fn terms(&self, is_complete: bool) -> (fold::Settings, Layouts, u64) {
        let settings =
            fold::Settings { snapshot: self.snapshot.lsn, has_one_partition: self.partitions.len() == 1, is_complete };
        let names = self.pair.table.relation.columns.iter().map(|column| column.name.clone()).collect();
        let layouts = Layouts::new(names, self.run.encoder.placeholders());
        let records = self.partitions.iter().map(|partition| u64::try_from(partition.end - partition.low).unwrap_or(0));
        (settings, layouts, records.sum())
    }

    /// An open transaction hides what comes after it from a reader of committed records.
    fn wait_until_visible(&mut self) -> Result<(), Error> {
        let (began, mut told) = (Instant::now(), false);
        for partition in &self.partitions {
            while !self.run.topics.is_visible(&self.pair.topic, *partition).map_err(sink::Error::from)? {
                if began.elapsed() >= HIDDEN_MAX {
                    warn!(topic = self.pair.topic.as_str(), partition = partition.id;
                        "an open Kafka transaction hides records of the topic from consumers: comparing without them");
                    return Ok(());
                }
                if !told {
                    info!(topic = self.pair.topic.as_str(); "waiting for the end of an open Kafka transaction");
                    told = true;
                }
                self.run.commands.waiter().sleep(Duration::from_millis(50))?;
            }
        }
        Ok(())
    }

    /// Reads the topic once. A compacted topic is read to the present, because a record that has replaced another may be
    /// newer than the end.
    fn read_topic(&mut self, mut take: impl FnMut(&fold::Record<'_>)) -> Result<(), Error> {
        let (topic, pair) = (self.pair.topic.as_str(), self.pair);
        let there: HashMap<i32, i64> = pair.before.iter().map(|partition| (partition.id, partition.end)).collect();
        let mut reader = TopicReader::new(&self.run.reading, topic, &self.partitions, self.is_compacted)
            .map_err(sink::Error::from)?;
        let all: i64 = self.partitions.iter().map(|partition| partition.end - partition.low).sum();
        let mut records = 0_u64;
        let (began, mut last_at) = (Instant::now(), Instant::now());
        let (mut display, mut signal_at) = (Display::begin(Some(NOTICE_INTERVAL), began), last_at + SIGNAL_INTERVAL);
        loop {
            let progress = reader.poll(Duration::from_millis(100), &mut |record| {
                let was_there = there.get(&record.partition).is_some_and(|end| record.offset < *end);
                let (partition, key, value) = (record.partition, record.key, record.value);
                take(&fold::Record { partition, was_there, key, value });
                records += 1;
            });
            let now = Instant::now();
            match progress.map_err(sink::Error::from)? {
                Progress::Done => return Ok(()),
                Progress::Record => last_at = now,
                Progress::Nothing if now.duration_since(last_at) >= SILENCE_MAX => {
                    let reason = format!("no record of the topic {topic} for {} s", SILENCE_MAX.as_secs());
                    let brokers = self.run.reading.brokers.clone();
                    return Err(sink::Error::from(kafka::Error::Unreached { brokers, reason }).into());
                }
                Progress::Nothing => {}
            }
            if display.is_due(now) {
                let Pace { rate, per_cent, .. } = Pace::new(0, records, all as f64, now.duration_since(began));
                let text = || format!("{topic}: {} records, {}/s", count(records), count(rate));
                let log = || info!(topic, records, of = all, records_per_s = rate, per_cent; "reading the topic");
                display.show(per_cent, text, log);
            }
            if now >= signal_at {
                self.run.commands.waiter().sleep(Duration::from_millis(1))?;
                signal_at = now + SIGNAL_INTERVAL;
            }
        }
    }

    /// Gives each row of the table, as the stream would encode it: the key and the row.
    fn read_table(&mut self, mut each: impl FnMut(&mut Compared, Option<&[u8]>, &str)) -> Result<(), Error> {
        let table = &self.pair.table;
        self.snapshot.reader.start(&table.copy(&Part::default()))?;
        let mut splitter = Splitter::default();
        let (mut rows, began) = (0_u64, Instant::now());
        let (mut display, mut signal_at) = (Display::begin(Some(NOTICE_INTERVAL), began), began + SIGNAL_INTERVAL);
        loop {
            match self.snapshot.reader.receive()? {
                Copied::Row(row) => {
                    self.row(&row, &mut splitter, &mut each)?;
                    rows += 1;
                }
                Copied::EndOfCopy => {}
                Copied::End => break,
                Copied::Pending => {
                    if let Some((socket, way)) = self.snapshot.reader.socket() {
                        self.run.commands.waiter().wait(socket, way)?;
                    }
                }
            }
            if rows.is_multiple_of(1_024) {
                let now = Instant::now();
                if display.is_due(now) {
                    let (schema, name) = (table.relation.namespace.as_str(), table.relation.name.as_str());
                    let Pace { rate, per_cent, .. } = Pace::new(0, rows, table.size.rows, now.duration_since(began));
                    let text = || format!("{schema}.{name}: {} rows, {}/s", count(rows), count(rate));
                    let log = || {
                        info!(schema, table = name, rows, of = table.size.rows, rows_per_s = rate, per_cent;
                            "reading the table");
                    };
                    display.show(per_cent, text, log);
                }
                if now >= signal_at {
                    self.run.commands.waiter().sleep(Duration::from_millis(1))?;
                    signal_at = now + SIGNAL_INTERVAL;
                }
            }
        }
        self.result.rows = rows;
        Ok(())
    }

    /// Encodes a row as the stream would.
    fn row(
        &mut self,
        row: &CopyData,
        splitter: &mut Splitter,
        each: &mut impl FnMut(&mut Compared, Option<&[u8]>, &str),
    ) -> Result<(), Error> {
        let columns = self.pair.table.relation.columns.len();
        let wrong = |reason: String| pg::Error::Answer { command: "COPY", reason };
        let row = splitter.split(row, columns).map_err(|error| wrong(error.to_string()))?;
        let change = Change {
            relation: Some(self.pair.index),
            operation: Operation::Read { new: Row::Copy(row), marker: Marker::True },
            position: Position {
                lsn: self.snapshot.lsn,
                transaction: None,
                commit_time: PgTimestamp(0),
                total_order: 0,
                data_collection_order: 0,
                processed_unix_ns: 0,
            },
        };
        let records = self.run.encoder.encode(&change).map_err(sink::Error::from)?;
        let record = records.iter().next().expect("a row is one record");
        let value = record.value.expect("a row has a value");
        let Ok(record::Seen { content: Content::Row { after, .. }, .. }) = record::read(value) else {
            unreachable!("a record of our own is one");
        };
        each(&mut self.result, record.key, after);
        self.run.encoder.release();
        Ok(())
    }

    /// Reads the topic once more for what the examples lack: the keys of surplus rows, and the rows of the topic.
    fn complete_examples(&mut self) -> Result<(), Error> {
        let show_values = self.run.show_values;
        let lacks =
            |example: &&Example| example.kind == Kind::Surplus || (example.kind == Kind::Different && show_values);
        let wanted: HashSet<KeyHash> = self.result.examples.iter().filter(lacks).map(|example| example.hash).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let snapshot = self.snapshot.lsn;
        let mut found: HashMap<KeyHash, (String, Option<String>)> = HashMap::new();
        self.read_topic(|record| {
            let Some(key) = record.key.filter(|key| wanted.contains(&KeyHash::of(key))) else { return };
            let seen = record.value.map(record::read);
            let Some(Ok(record::Seen { moment, content: Content::Row { after, .. }, .. })) = seen else { return };
            if moment.is_in(snapshot) {
                let after = show_values.then(|| after.to_owned());
                found.insert(KeyHash::of(key), (String::from_utf8_lossy(key).into_owned(), after));
            }
        })?;
        for example in &mut self.result.examples {
            if let Some((key, after)) = found.get(&example.hash).cloned() {
                example.key = Some(key);
                example.topic = after;
            }
        }
        Ok(())
    }
}
