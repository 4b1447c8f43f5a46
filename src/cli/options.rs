//! The options in groups, each shared by the commands that accept it.
//!
//! The short text of a setting comes from [`Key::ALL`]. The comment on its field is the rest of the text, which `--help` adds.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::config::{Given, Key};

#[derive(Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct ConnectionOptions {
    /// Read settings from this TOML file
    ///
    /// WALCAT_CONFIG can name it too. An unknown key is an error.
    #[arg(short, long, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Without it, libpq's environment variables (PGHOST, ...), the connection service file and the password file apply.
    /// Anyone on the machine can read a command line, so keep a password in ~/.pgpass, or write file:PATH or env:NAME: walcat
    /// reads the whole conninfo from there.
    #[arg(short, long, value_name = "CONNINFO")]
    dsn: Option<String>,
    #[arg(short, long, value_name = "NAME")]
    slot: Option<String>,
    /// polling uses pg_logical_slot_peek_binary_changes on an ordinary connection, for servers where a replication connection
    /// is not available. The records are the same; each poll decodes again what is not yet confirmed.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
}

impl ConnectionOptions {
    pub fn add_to(&self, given: &mut Given) {
        let ConnectionOptions { config, dsn, slot, engine } = self;
        given.config.clone_from(config);
        add(given, Key::Dsn, dsn);
        add(given, Key::Slot, slot);
        add(given, Key::Engine, engine);
    }
}

#[derive(Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct PublicationOptions {
    #[arg(short, long, value_name = "NAME")]
    publication: Vec<String>,
}

impl PublicationOptions {
    pub fn add_to(&self, given: &mut Given) {
        let PublicationOptions { publication } = self;
        if !publication.is_empty() {
            given.settings.push((Key::Publication, publication.clone()));
        }
    }
}

#[derive(Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaOptions {
    #[arg(short, long, value_name = "LIST")]
    brokers: Option<String>,
    /// Set a librdkafka property, as in kcat; may be repeated
    ///
    /// Write a secret as file:PATH or env:NAME: walcat reads the value from there. walcat refuses properties that would
    /// break its guarantees or its memory limit: acks, enable.idempotence, delivery.report.only.error,
    /// message.timeout.ms, transactional.id, partitioner, queue.buffering.max.*.
    #[arg(short = 'X', value_name = "KEY=VALUE", id = "property")]
    properties: Vec<String>,
    /// walcat replaces each character that Kafka does not allow in a topic name with _.
    #[arg(long, value_name = "PREFIX")]
    topic_prefix: Option<String>,
    /// stdout prints one line of JSON for each record, for pipelines.
    #[arg(long, value_name = "SINK")]
    sink: Option<String>,
    /// With exactly-once, walcat writes whole PostgreSQL transactions and its position in Kafka transactions. A consumer with
    /// isolation.level=read_committed sees each PostgreSQL transaction once and whole.
    #[arg(long, value_name = "MODE")]
    delivery: Option<String>,
}

impl KafkaOptions {
    pub fn add_to(&self, given: &mut Given) {
        let KafkaOptions { brokers, properties, topic_prefix, sink, delivery } = self;
        add(given, Key::Brokers, brokers);
        given.properties.clone_from(properties);
        add(given, Key::TopicPrefix, topic_prefix);
        add(given, Key::Sink, sink);
        add(given, Key::Delivery, delivery);
    }
}

#[derive(Args)]
#[command(next_help_heading = "Slot and output")]
pub struct OutputOptions {
    /// walcat first checks that the publications exist, because the publication has to be older than the slot.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    create_slot: Option<String>,
    /// Use it to look at a database without leaving anything behind. The slot starts now. Without --slot, its name is
    /// walcat_tmp_PID.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    temporary_slot: Option<String>,
    /// value prints the record's value alone, and nothing for a tombstone. record prints an object of topic, key, headers and
    /// value.
    #[arg(long, value_name = "FORM")]
    stdout: Option<String>,
    /// For debugging: each line shows the LSNs, the xid, the flags, the columns with their type OIDs, and the records that a
    /// row would become. walcat contacts no broker, confirms nothing and never moves the slot. walcat-records(7) describes the
    /// format.
    #[arg(long, value_name = "FORMAT")]
    dump: Option<String>,
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dump_keepalives: Option<String>,
    /// Nothing is confirmed, so the slot does not move and the server will send the changes again. The file contains the data
    /// of your tables; only its owner may read it (mode 0600).
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
    /// The record has no key. If the topic is compacted, walcat leaves the record out and logs one warning.
    #[arg(long, value_name = "POLICY")]
    truncate: Option<String>,
    /// Kafka rejects a record that is too large, or that has no key and goes to a compacted topic. stop exits with 65. skip
    /// counts and logs the record and continues. dead-letter first writes a small description of the record to
    /// --dead-letter-topic.
    #[arg(long, value_name = "POLICY")]
    on_error: Option<String>,
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
    /// A row is a record with op r, like that of an insert. initial needs --create-slot, and does nothing for a slot that
    /// exists. incremental reads all tables in chunks beside the first stream of a slot. Both need [state] file, [state] topic
    /// or exactly-once delivery. only reads all rows as of one point in time, needs no slot and leaves none behind. The server
    /// cannot remove dead rows while initial and only read.
    #[arg(long, value_name = "MODE")]
    snapshot: Option<String>,
}

impl OutputOptions {
    pub fn add_to(&self, given: &mut Given) {
        let OutputOptions {
            create_slot,
            temporary_slot,
            stdout,
            dump,
            dump_keepalives,
            record,
            truncate,
            on_error,
            dead_letter_topic,
            snapshot,
        } = self;
        add(given, Key::SnapshotMode, snapshot);
        add(given, Key::OnError, on_error);
        add(given, Key::DeadLetterTopic, dead_letter_topic);
        add(given, Key::CreateSlot, create_slot);
        add(given, Key::TemporarySlot, temporary_slot);
        add(given, Key::Stdout, stdout);
        add(given, Key::Dump, dump);
        add(given, Key::DumpKeepalives, dump_keepalives);
        add(given, Key::Record, record);
        add(given, Key::Truncate, truncate);
    }
}

#[derive(Args)]
#[command(next_help_heading = "Start and end")]
pub struct EndOptions {
    /// An LSN below the slot's confirmed position is an error, because the server would silently move it forward. 0/0 is the
    /// slot's position.
    #[arg(long, value_name = "LSN")]
    startpos: Option<String>,
    /// walcat delivers these transactions whole, and none that commit later.
    #[arg(long, value_name = "LSN")]
    endpos: Option<String>,
    /// For cron. walcat reads up to the server's WAL position at the start. If it loses Kafka meanwhile, it waits at most a
    /// minute.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    once: Option<String>,
    /// Read the error message first. It says which case applies: changes are missing, changes are sent again, or consumers
    /// have changes that the server lost. Use this option for one start only, on the command line.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    accept_gap: Option<String>,
    /// This concerns tables with REPLICA IDENTITY FULL that were dropped, or got another primary key, before walcat read their
    /// changes.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    accept_keyless: Option<String>,
    /// For a session that died without the server noticing. Do not use it while another walcat reads the slot.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    takeover: Option<String>,
}

impl EndOptions {
    pub fn add_to(&self, given: &mut Given) {
        let EndOptions { startpos, endpos, once, accept_gap, accept_keyless, takeover } = self;
        add(given, Key::Startpos, startpos);
        add(given, Key::Endpos, endpos);
        add(given, Key::Once, once);
        add(given, Key::AcceptGap, accept_gap);
        add(given, Key::AcceptKeyless, accept_keyless);
        add(given, Key::Takeover, takeover);
    }
}

/// How to create a slot.
#[derive(Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct FailoverOptions {
    /// walcat check reports what else a failover needs, on the primary and on the standby.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    failover: Option<String>,
}

impl FailoverOptions {
    pub fn add_to(&self, given: &mut Given) {
        let FailoverOptions { failover } = self;
        add(given, Key::Failover, failover);
    }
}

/// Durations are texts with a unit.
#[derive(Args)]
#[command(next_help_heading = "Time")]
pub struct TimeOptions {
    /// For machines that boot together. By default walcat tries each once, so that a mistyped broker or conninfo fails at
    /// once. A duration has a unit: 200ms, 30s, 5m, 1h. forever sets no limit.
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
    #[arg(long, value_name = "DURATION")]
    status_interval: Option<String>,
    /// walcat requests a reply from the server before it gives up. 0s turns the timeout off.
    #[arg(long, value_name = "DURATION")]
    stall_timeout: Option<String>,
    /// This applies to SIGTERM and SIGINT. A second signal ends walcat at once.
    #[arg(long, value_name = "DURATION")]
    shutdown_timeout: Option<String>,
    /// 0s turns the statistics off.
    #[arg(long, value_name = "DURATION")]
    stats_interval: Option<String>,
}

impl TimeOptions {
    pub fn add_to(&self, given: &mut Given) {
        let TimeOptions { wait, status_interval, stall_timeout, shutdown_timeout, stats_interval } = self;
        add(given, Key::Wait, wait);
        add(given, Key::StatusInterval, status_interval);
        add(given, Key::StallTimeout, stall_timeout);
        add(given, Key::ShutdownTimeout, shutdown_timeout);
        add(given, Key::StatsInterval, stats_interval);
    }
}

#[derive(Args)]
#[command(next_help_heading = "Logging")]
pub struct LogOptions {
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// -v is level 1, -vv is level 2. RUST_LOG overrides -v and -q.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    quiet: Option<String>,
}

/// `-vvv` is the same as `-vv`.
const VERBOSE_MAX: u8 = 2;

impl LogOptions {
    pub fn add_to(&self, given: &mut Given) {
        let LogOptions { log_format, verbose, quiet } = self;
        add(given, Key::LogFormat, log_format);
        if *verbose > 0 {
            given.settings.push((Key::Verbose, vec![(*verbose).min(VERBOSE_MAX).to_string()]));
        }
        add(given, Key::Quiet, quiet);
    }
}

fn add(given: &mut Given, key: Key, text: &Option<String>) {
    if let Some(text) = text {
        given.settings.push((key, vec![text.clone()]));
    }
}
