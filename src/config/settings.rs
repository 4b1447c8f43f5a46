//! The settings of a command: each in its type, and checked against the others.

use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;
use super::units::Budget;
use crate::lsn::Lsn;
use crate::patterns::Pattern;
use crate::session::Truncations;
use crate::sink::stdout::LineForm;

/// The settings of `stream`; `check` checks the same settings.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// A conninfo or a URI; without it, libpq's variables and files apply.
    pub dsn: Option<Secret>,
    pub slot: String,
    /// At least one, in the given order.
    pub publications: Vec<String>,
    pub create_slot: bool,
    pub temporary_slot: bool,
    /// Whether to create the slot as a failover slot.
    pub failover: bool,
    /// `host:port,...`; always set for the sink Kafka, except in a dump.
    pub brokers: Option<String>,
    /// librdkafka's properties.
    pub kafka: Vec<(String, Secret)>,
    pub topic_prefix: Option<String>,
    pub sink: Sink,
    pub delivery: Delivery,
    pub engine: Engine,
    pub stdout: LineForm,
    /// Replaces the sink.
    pub dump: Option<DumpFormat>,
    pub dump_keepalives: bool,
    pub record: Option<PathBuf>,
    /// `None` is the slot's position.
    pub startpos: Option<Lsn>,
    pub endpos: Option<Lsn>,
    pub once: bool,
    /// How long to try the first connection; zero means once.
    pub wait: Budget,
    pub truncate: Truncations,
    pub on_error: OnError,
    /// Always set if `on_error` is `DeadLetter`.
    pub dead_letter_topic: Option<String>,
    pub status_interval: Duration,
    /// `None` if it is off.
    pub stall_timeout: Option<Duration>,
    pub shutdown_timeout: Budget,
    /// `None` if it is off.
    pub stats_interval: Option<Duration>,
    /// Continue from the slot's position if the stored position differs.
    pub accept_gap: bool,
    /// Send changes without a key if the key of their table is no longer known.
    pub accept_keyless: bool,
    /// Terminate the process that holds the slot.
    pub takeover: bool,
    pub retry: Retry,
    pub state: State,
    pub transaction: Transaction,
    pub poll: Poll,
    pub memory_bytes_max: u64,
    pub topics: Topics,
    pub snapshot: Snapshot,
    pub log: LogSettings,
}

/// The settings of the `slot` commands.
#[derive(Clone, Debug)]
pub struct SlotSettings {
    pub dsn: Option<Secret>,
    pub slot: String,
    /// They have to exist before the slot is created; may be empty.
    pub publications: Vec<String>,
    /// How the slot is read.
    pub engine: Engine,
    /// Whether it is a failover slot.
    pub failover: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Kafka,
    Stdout,
}

impl Sink {
    pub const CHOICES: [(&str, Self); 2] = [("kafka", Self::Kafka), ("stdout", Self::Stdout)];
}

/// Whether a consumer of Kafka can see repeats.
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

/// What to do with a record that Kafka permanently rejects.
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

impl LineForm {
    pub const CHOICES: [(&str, Self); 2] = [("value", Self::Value), ("record", Self::Record)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFormat {
    Json,
}

impl DumpFormat {
    pub const CHOICES: [(&str, Self); 1] = [("json", Self::Json)];
}

impl Truncations {
    pub const CHOICES: [(&str, Self); 2] = [("emit", Self::Emit), ("skip", Self::Skip)];
}

/// The table `[retry]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first delay.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// `None` if it is not set: each wait then has its own default.
    pub for_: Option<Budget>,
    pub broker_for: Budget,
}

/// The table `[state]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The file with the delivered position.
    pub file: Option<PathBuf>,
    /// Whether the position is kept in a topic.
    pub topic: bool,
    /// The shortest time between two writes.
    pub interval: Duration,
}

/// The table `[transaction]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// How long a Kafka transaction stays open for more PostgreSQL transactions.
    pub interval: Duration,
    /// Records after which no further PostgreSQL transaction joins.
    pub records_max: u32,
}

/// The table `[poll]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// The time between two peeks if nothing is left to read.
    pub interval: Duration,
    /// Changes after which a peek ends, at the end of a transaction.
    pub changes_max: u32,
    /// How much WAL an idle slot may hold.
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

/// The table `[snapshot]`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub mode: SnapshotMode,
    /// How many connections read.
    pub connections: u32,
    /// Which tables; empty for all.
    pub tables: Vec<Pattern>,
    /// How long the read of a chunk should take.
    pub chunk_time: Duration,
    /// Whether tables that are published later are read too.
    pub new_tables: bool,
}

/// Which rows that are already there are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotMode {
    /// None.
    Never,
    /// All, before the stream, if this run creates the slot.
    Initial,
    /// All, in chunks beside the stream, once for each slot.
    Incremental,
    /// All, and nothing else.
    Only,
}

impl SnapshotMode {
    pub const CHOICES: [(&str, Self); 4] =
        [("never", Self::Never), ("initial", Self::Initial), ("incremental", Self::Incremental), ("only", Self::Only)];
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
    /// `RUST_LOG` overrides it.
    pub level: log::LevelFilter,
}
