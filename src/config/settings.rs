//! What a command works with: every setting in its type, checked against the others.

use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;
use super::units::Budget;
use crate::lsn::Lsn;

/// What `stream` works with; `check` judges the same.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// A conninfo or a URI; without one libpq's own variables and files apply.
    pub dsn: Option<Secret>,
    pub slot: String,
    /// One at least, in the order given.
    pub publications: Vec<String>,
    pub create_slot: bool,
    pub temporary_slot: bool,
    /// Whether standbys keep a copy of a slot that is created.
    pub failover: bool,
    /// `host:port,...`; there is one for the sink Kafka unless this is a dump.
    pub brokers: Option<String>,
    /// librdkafka's properties, a later one over an earlier one.
    pub kafka: Vec<(String, Secret)>,
    pub topic_prefix: Option<String>,
    pub sink: Sink,
    pub delivery: Delivery,
    pub engine: Engine,
    pub stdout: StdoutForm,
    /// In place of the sink.
    pub dump: Option<DumpFormat>,
    pub dump_keepalives: bool,
    pub record: Option<PathBuf>,
    /// `None` is where the slot stands.
    pub startpos: Option<Lsn>,
    pub endpos: Option<Lsn>,
    pub once: bool,
    /// How long the first connection is tried; zero is once.
    pub wait: Budget,
    pub truncate: Truncate,
    pub on_error: OnError,
    /// There is one for dead letters.
    pub dead_letter_topic: Option<String>,
    pub status_interval: Duration,
    /// `None` where it is off.
    pub stall_timeout: Option<Duration>,
    pub shutdown_timeout: Budget,
    /// `None` where it is off.
    pub stats_interval: Option<Duration>,
    /// Go on from the slot's position where the stored one disagrees.
    pub accept_gap: bool,
    /// Send changes without a key where the key that their table had is not known any more.
    pub accept_keyless: bool,
    /// End the process that holds the slot.
    pub takeover: bool,
    pub retry: Retry,
    pub state: State,
    pub transaction: Transaction,
    pub poll: Poll,
    pub memory_bytes_max: u64,
    pub topics: Topics,
    pub log: LogSettings,
}

/// What the `slot` commands work with.
#[derive(Clone, Debug)]
pub struct SlotSettings {
    pub dsn: Option<Secret>,
    pub slot: String,
    /// Those that have to be there before the slot is created; perhaps none.
    pub publications: Vec<String>,
    /// How it is to be read.
    pub engine: Engine,
    /// Whether standbys keep a copy of it.
    pub failover: bool,
    pub log: LogSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Kafka,
    Stdout,
}

impl Sink {
    pub const CHOICES: [(&str, Self); 2] = [("kafka", Self::Kafka), ("stdout", Self::Stdout)];
}

/// What a consumer of Kafka may see of a repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

impl Delivery {
    pub const CHOICES: [(&str, Self); 2] = [("at-least-once", Self::AtLeastOnce), ("exactly-once", Self::ExactlyOnce)];
}

/// How the slot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Streaming,
    Polling,
}

impl Engine {
    pub const CHOICES: [(&str, Self); 2] = [("streaming", Self::Streaming), ("polling", Self::Polling)];
}

/// What becomes of a record that Kafka refuses for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Stop,
    Skip,
    DeadLetter,
}

impl OnError {
    pub const CHOICES: [(&str, Self); 3] =
        [("stop", Self::Stop), ("skip", Self::Skip), ("dead-letter", Self::DeadLetter)];
}

/// What a line of the sink stdout holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdoutForm {
    Value,
    Record,
}

impl StdoutForm {
    pub const CHOICES: [(&str, Self); 2] = [("value", Self::Value), ("record", Self::Record)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFormat {
    Json,
}

impl DumpFormat {
    pub const CHOICES: [(&str, Self); 1] = [("json", Self::Json)];
}

/// What becomes of a TRUNCATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncate {
    Emit,
    Skip,
}

impl Truncate {
    pub const CHOICES: [(&str, Self); 2] = [("emit", Self::Emit), ("skip", Self::Skip)];
}

/// The table `[retry]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first delay.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// `None` where nothing is configured, so that each wait has its own default.
    pub for_: Option<Budget>,
    pub broker_for: Budget,
}

/// The table `[state]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where delivered positions are kept, beside the slot.
    pub file: Option<PathBuf>,
    /// How often a position is written, at most.
    pub interval: Duration,
}

/// The table `[transaction]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// How long a Kafka transaction stays open for more.
    pub interval: Duration,
    /// Records after which no further PostgreSQL transaction joins.
    pub records_max: u32,
}

/// The table `[poll]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The time between two peeks, when nothing is left to read.
    pub interval: Duration,
    /// Changes after which a peek ends, at the end of a transaction.
    pub changes_max: u32,
    /// WAL that the slot may hold while nothing of it is of interest.
    pub idle_bytes: u64,
}

/// The table `[topics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    pub create: bool,
    pub partitions: i32,
    /// -1 is the broker's default.
    pub replication_factor: i32,
    /// Kafka's topic configuration.
    pub properties: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    pub const CHOICES: [(&str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub format: LogFormat,
    /// `RUST_LOG` goes before it.
    pub level: log::LevelFilter,
}
