//! The options by subject, each group shared by the commands that take it.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::config::{Given, Key};

#[derive(Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct ConnectionOptions {
    /// Read settings from this TOML file
    ///
    /// An unknown key is an error. WALCAT_CONFIG names it too.
    #[arg(short, long, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Connect to this database: a conninfo or a URI, as psql takes it
    ///
    /// Without one libpq's own variables (PGHOST, ...), service file and password file apply. Everybody on the
    /// machine can read a command line, so keep a password in ~/.pgpass, or write file:PATH or env:NAME: the whole
    /// conninfo is then read from there.
    #[arg(short, long, value_name = "CONNINFO")]
    dsn: Option<String>,
    /// The replication slot
    #[arg(short, long, value_name = "NAME")]
    slot: Option<String>,
    /// How the slot is read: streaming or polling [default: streaming]
    ///
    /// polling: by pg_logical_slot_peek_binary_changes on an ordinary connection, where a replication connection is not to
    /// be had. The same records; each poll decodes anew what is not confirmed yet.
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
    /// The publication; may be repeated
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
    /// The brokers to ask first: HOST:PORT,...
    #[arg(short, long, value_name = "LIST")]
    brokers: Option<String>,
    /// A property of librdkafka, as kcat takes it; may be repeated
    ///
    /// A value file:PATH or env:NAME is read from there; write every secret so. Refused, because they would break
    /// what walcat promises or its memory bound: acks, enable.idempotence, delivery.report.only.error,
    /// message.timeout.ms, transactional.id, partitioner, queue.buffering.max.*.
    #[arg(short = 'X', value_name = "KEY=VALUE", id = "property")]
    properties: Vec<String>,
    /// Topics are NAME.SCHEMA.TABLE
    ///
    /// SCHEMA.TABLE without one. Characters that Kafka refuses in a topic become _.
    #[arg(long, value_name = "NAME")]
    topic_prefix: Option<String>,
    /// Where the records go: kafka or stdout [default: kafka]
    #[arg(long, value_name = "SINK")]
    sink: Option<String>,
    /// at-least-once or exactly-once [default: at-least-once]
    ///
    /// exactly-once: whole PostgreSQL transactions in Kafka transactions, with their position in the same transaction, so
    /// that a consumer with isolation.level=read_committed sees each once and whole.
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
    /// Create the slot when it is missing
    ///
    /// After checking that the publication is there, which has to be older than the slot.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    create_slot: Option<String>,
    /// Create a slot that vanishes when walcat ends
    ///
    /// For looking into a database without leaving anything behind. It begins now. Without --slot its name is
    /// walcat_tmp_PID.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    temporary_slot: Option<String>,
    /// A line of --sink stdout: value or record [default: value]
    ///
    /// value is the record's value alone, and nothing for a tombstone; record is an object of topic, key, headers and
    /// value.
    #[arg(long, value_name = "FORM")]
    stdout: Option<String>,
    /// Print one line per protocol message, confirm nothing: json
    ///
    /// For debugging: LSNs, xid, flags, columns with their type OIDs, and the record that a row would become. Contacts
    /// no broker and never moves the slot. The format is in walcat-records(7).
    #[arg(long, value_name = "FORMAT")]
    dump: Option<String>,
    /// Print keepalives too, with --dump
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dump_keepalives: Option<String>,
    /// Also write what the server sends to this file, for `walcat decode`
    ///
    /// Nothing is confirmed meanwhile, so the slot does not move and the changes come again. The file holds the data of
    /// your tables; only its owner may read it (mode 0600).
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
    /// What becomes of a TRUNCATE: emit or skip [default: emit]
    ///
    /// Its record has no key, so for a compacted topic it is left out, with one warning.
    #[arg(long, value_name = "POLICY")]
    truncate: Option<String>,
    /// A record that Kafka refuses for good: stop, skip or dead-letter [default: stop]
    ///
    /// Too large, or without a key in a compacted topic. skip counts and logs it and goes on; dead-letter first puts a
    /// small record that says where it came from into --dead-letter-topic.
    #[arg(long, value_name = "POLICY")]
    on_error: Option<String>,
    /// Where dead letters go
    #[arg(long, value_name = "TOPIC")]
    dead_letter_topic: Option<String>,
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
        } = self;
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
    /// Begin here instead of where the slot stands
    ///
    /// Below the slot's confirmed position it is an error: the server would move it forward and say nothing. 0/0 is
    /// where the slot stands.
    #[arg(long, value_name = "LSN")]
    startpos: Option<String>,
    /// Deliver what is committed up to here, then exit
    ///
    /// Every transaction whose commit LSN is at or before it, whole, and none after.
    #[arg(long, value_name = "LSN")]
    endpos: Option<String>,
    /// Deliver what is committed up to now, then exit; for cron
    ///
    /// Now is the server's WAL position at the start. A broker that is lost meanwhile is waited for a minute, not
    /// for ever.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    once: Option<String>,
    /// Go on from the slot's position though the stored one disagrees with it or is missing
    ///
    /// After reading what the error said: changes between the two positions are not in the stream, or come again.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    accept_gap: Option<String>,
    /// Send changes without a key where the key that their table had is not known any more
    ///
    /// Of tables with REPLICA IDENTITY FULL that were dropped, or got another primary key, before their changes were read.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    accept_keyless: Option<String>,
    /// End the process that holds the slot, once
    ///
    /// For a session that died without the server noticing. Never beside a walcat that works.
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

/// How a slot is created.
#[derive(Args)]
#[command(next_help_heading = "PostgreSQL")]
pub struct FailoverOptions {
    /// Have standbys keep a copy of the slot that is created; PostgreSQL 17 and later
    ///
    /// walcat check says what else a failover needs, on the primary and on the standby.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    failover: Option<String>,
}

impl FailoverOptions {
    pub fn add_to(&self, given: &mut Given) {
        let FailoverOptions { failover } = self;
        add(given, Key::Failover, failover);
    }
}

/// Durations are texts with units; what is said of each default is tested against the table of keys.
#[derive(Args)]
#[command(next_help_heading = "Time")]
pub struct TimeOptions {
    /// Keep trying to reach Kafka and PostgreSQL this long at the start [default: 0s]
    ///
    /// For machines that boot together. Without it each is tried once, so that a mistyped broker or conninfo answers at
    /// once. A duration has a unit: 200ms, 30s, 5m, 1h; or forever.
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
    /// Report to PostgreSQL at least this often [default: 1s]
    #[arg(long, value_name = "DURATION")]
    status_interval: Option<String>,
    /// Give up a server that is silent this long [default: 60s]
    ///
    /// It is asked for a sign of life before. 0s is off.
    #[arg(long, value_name = "DURATION")]
    stall_timeout: Option<String>,
    /// Wait this long for Kafka when asked to stop [default: 10s]
    ///
    /// On SIGTERM and SIGINT; a second signal ends at once.
    #[arg(long, value_name = "DURATION")]
    shutdown_timeout: Option<String>,
    /// Log a line of numbers this often [default: 1m]
    ///
    /// 0s is off.
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
    /// The form of the log on stderr: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log more: every transaction; -vv every message
    ///
    /// RUST_LOG goes before -v and -q.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Log errors only
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    quiet: Option<String>,
}

/// `-vvv` asks for no more than `-vv`.
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
