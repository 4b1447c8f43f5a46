//! Every setting by its one name: the key of the configuration file, and with `-` for `_` the long flag.
//!
//! [`Key::ALL`] is the one table of names, kinds, defaults and short texts. `--help` is made from it; the manual pages and
//! the example file are compared with it.

use std::fmt;

/// A setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Dsn,
    Slot,
    Publication,
    CreateSlot,
    TemporarySlot,
    Failover,
    Brokers,
    TopicPrefix,
    Sink,
    Delivery,
    Engine,
    Stdout,
    Dump,
    DumpKeepalives,
    Record,
    Startpos,
    Endpos,
    Once,
    Wait,
    Truncate,
    OnError,
    DeadLetterTopic,
    StatusInterval,
    StallTimeout,
    ShutdownTimeout,
    StatsInterval,
    LogFormat,
    Verbose,
    Quiet,
    AcceptGap,
    AcceptKeyless,
    Takeover,
    RetryInitial,
    RetryMax,
    RetryFor,
    RetryBrokerFor,
    StateFile,
    StateTopic,
    StateInterval,
    TransactionInterval,
    TransactionMaxRecords,
    PollInterval,
    PollMaxChanges,
    PollIdleBytes,
    MemoryMax,
    TopicsCreate,
    TopicsPartitions,
    TopicsReplicationFactor,
    SnapshotMode,
    SnapshotConnections,
    SnapshotTables,
    SnapshotChunkTime,
    SnapshotNewTables,
}

/// What a value looks like in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string, or a list of strings; commas separate them in an environment variable.
    List,
    /// A string with a unit of time.
    Duration,
    /// A string with a unit of size.
    Size,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Bool,
}

/// One line of [`Key::ALL`].
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub key: Key,
    /// Dotted if it is in a table.
    pub name: &'static str,
    pub kind: Kind,
    /// The text of the default; `None` if the setting has no effect unless it is given.
    pub default: Option<&'static str>,
    /// What the setting does, without a final dot: `--help`, both manual pages and the example file say it in these words.
    pub summary: &'static str,
}

impl Row {
    /// The line of `--help`: the summary, and the default unless it is that of a switch or a number.
    #[must_use]
    pub fn help(&self) -> String {
        match (self.kind, self.default) {
            (Kind::Bool | Kind::Integer, _) | (_, None) => self.summary.to_owned(),
            (_, Some(default)) => format!("{} [default: {default}]", self.summary),
        }
    }
}

/// Tables with keys that are not walcat's: librdkafka's properties and Kafka's topic configuration.
pub const OPEN_TABLES: [&str; 2] = ["kafka", "topics.properties"];

/// Tables whose keys are in [`Key::ALL`].
pub const TABLES: [&str; 7] = ["retry", "state", "transaction", "poll", "memory", "topics", "snapshot"];

const fn row(key: Key, name: &'static str, kind: Kind, default: Option<&'static str>, summary: &'static str) -> Row {
    Row { key, name, kind, default, summary }
}

impl Key {
    /// Every setting, in the order of the enum and of the manual.
    #[rustfmt::skip]
    pub const ALL: [Row; 53] = [
        row(Key::Dsn, "dsn", Kind::Text, None,
            "Connect to this database: a conninfo string or a URI, as psql accepts"),
        row(Key::Slot, "slot", Kind::Text, None,
            "The replication slot: 1 to 63 of a-z, 0-9 and _"),
        row(Key::Publication, "publication", Kind::List, None,
            "The publication to stream; more than one is allowed"),
        row(Key::CreateSlot, "create_slot", Kind::Bool, Some("false"),
            "Create the slot if it does not exist"),
        row(Key::TemporarySlot, "temporary_slot", Kind::Bool, Some("false"),
            "Create a slot that the server drops when walcat exits"),
        row(Key::Failover, "failover", Kind::Bool, Some("false"),
            "Create the slot as a failover slot, which standbys copy; PostgreSQL 17 or later"),
        row(Key::Brokers, "brokers", Kind::List, None,
            "Connect to Kafka through these brokers, a list of HOST:PORT"),
        row(Key::TopicPrefix, "topic_prefix", Kind::Text, None,
            "Name topics PREFIX.SCHEMA.TABLE; without a prefix, SCHEMA.TABLE"),
        row(Key::Sink, "sink", Kind::Text, Some("kafka"),
            "Send the records to kafka or stdout"),
        row(Key::Delivery, "delivery", Kind::Text, Some("at-least-once"),
            "Deliver at-least-once or exactly-once"),
        row(Key::Engine, "engine", Kind::Text, Some("streaming"),
            "Read the slot by streaming or polling"),
        row(Key::Stdout, "stdout", Kind::Text, Some("value"),
            "With the sink stdout, print each record's value or the whole record"),
        row(Key::Dump, "dump", Kind::Text, None,
            "Print each protocol message as json instead of delivering records"),
        row(Key::DumpKeepalives, "dump_keepalives", Kind::Bool, Some("false"),
            "Print keepalives too"),
        row(Key::Record, "record", Kind::Text, None,
            "Also save what the server sends to this file, for walcat decode"),
        row(Key::Startpos, "startpos", Kind::Text, None,
            "Start at this LSN instead of at the slot's position"),
        row(Key::Endpos, "endpos", Kind::Text, None,
            "Deliver every transaction that commits at or before this LSN, then exit"),
        row(Key::Once, "once", Kind::Bool, Some("false"),
            "Deliver what is committed when walcat starts, then exit"),
        row(Key::Wait, "wait", Kind::Duration, Some("0s"),
            "Keep trying to reach Kafka and PostgreSQL this long at the start"),
        row(Key::Truncate, "truncate", Kind::Text, Some("emit"),
            "For a TRUNCATE, emit a record or skip it"),
        row(Key::OnError, "on_error", Kind::Text, Some("stop"),
            "For a record that Kafka permanently rejects: stop, skip or dead-letter"),
        row(Key::DeadLetterTopic, "dead_letter_topic", Kind::Text, None,
            "Write dead letters to this topic"),
        row(Key::StatusInterval, "status_interval", Kind::Duration, Some("1s"),
            "Report the position to PostgreSQL at least this often"),
        row(Key::StallTimeout, "stall_timeout", Kind::Duration, Some("60s"),
            "Give up on a server that is silent this long"),
        row(Key::ShutdownTimeout, "shutdown_timeout", Kind::Duration, Some("10s"),
            "Wait this long for Kafka when asked to stop"),
        row(Key::StatsInterval, "stats_interval", Kind::Duration, Some("1m"),
            "Log statistics this often"),
        row(Key::LogFormat, "log_format", Kind::Text, Some("text"),
            "Write the log as text or json"),
        row(Key::Verbose, "verbose", Kind::Integer, Some("0"),
            "Log every transaction at level 1, every message at level 2"),
        row(Key::Quiet, "quiet", Kind::Bool, Some("false"),
            "Log errors only"),
        row(Key::AcceptGap, "accept_gap", Kind::Bool, Some("false"),
            "Continue from the slot's position if the stored position differs or is missing"),
        row(Key::AcceptKeyless, "accept_keyless", Kind::Bool, Some("false"),
            "Send changes without a key if the key of their table is no longer known"),
        row(Key::Takeover, "takeover", Kind::Bool, Some("false"),
            "Terminate the process that holds the slot, once"),
        row(Key::RetryInitial, "retry.initial", Kind::Duration, Some("200ms"),
            "Wait this long before the first attempt to reconnect to PostgreSQL"),
        row(Key::RetryMax, "retry.max", Kind::Duration, Some("30s"),
            "Wait at most this long between two attempts"),
        row(Key::RetryFor, "retry.for", Kind::Duration, None,
            "Keep trying to reconnect to PostgreSQL this long"),
        row(Key::RetryBrokerFor, "retry.broker_for", Kind::Duration, Some("forever"),
            "Wait this long for Kafka once a broker has answered"),
        row(Key::StateFile, "state.file", Kind::Text, None,
            "Store the last delivered position in this file"),
        row(Key::StateTopic, "state.topic", Kind::Bool, Some("false"),
            "Store the last delivered position in a compacted topic"),
        row(Key::StateInterval, "state.interval", Kind::Duration, Some("1s"),
            "Store the position at most this often"),
        row(Key::TransactionInterval, "transaction.interval", Kind::Duration, Some("100ms"),
            "Keep a Kafka transaction open this long for more PostgreSQL transactions"),
        row(Key::TransactionMaxRecords, "transaction.max_records", Kind::Integer, Some("50000"),
            "Add no more PostgreSQL transactions to a Kafka transaction after this many records"),
        row(Key::PollInterval, "poll.interval", Kind::Duration, Some("1s"),
            "Wait this long between two peeks if nothing is left to read"),
        row(Key::PollMaxChanges, "poll.max_changes", Kind::Integer, Some("100000"),
            "End a peek at the first end of a transaction after this many changes"),
        row(Key::PollIdleBytes, "poll.idle_bytes", Kind::Size, Some("16MiB"),
            "Move an idle slot forward once it holds this much WAL"),
        row(Key::MemoryMax, "memory.max", Kind::Size, Some("16MiB"),
            "Queue at most this many bytes of records for Kafka"),
        row(Key::TopicsCreate, "topics.create", Kind::Bool, Some("false"),
            "Create missing topics"),
        row(Key::TopicsPartitions, "topics.partitions", Kind::Integer, Some("1"),
            "Create topics with this many partitions"),
        row(Key::TopicsReplicationFactor, "topics.replication_factor", Kind::Integer, Some("-1"),
            "Create topics with this many replicas; -1 is the broker's default"),
        row(Key::SnapshotMode, "snapshot.mode", Kind::Text, Some("never"),
            "Send the rows that are already there: never, initial (before the stream), incremental (beside it) or only"),
        row(Key::SnapshotConnections, "snapshot.connections", Kind::Integer, Some("2"),
            "Read the rows through this many connections"),
        row(Key::SnapshotTables, "snapshot.tables", Kind::List, None,
            "Send the rows of these tables only, a list of patterns"),
        row(Key::SnapshotChunkTime, "snapshot.chunk_time", Kind::Duration, Some("200ms"),
            "Read about this long for each chunk of an incremental snapshot"),
        row(Key::SnapshotNewTables, "snapshot.new_tables", Kind::Bool, Some("false"),
            "Send the rows of tables that are added to the publication later, in chunks"),
    ];

    /// The key's row in the table.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &Key::ALL[self as usize]
    }

    /// The name in the file, dotted if it is in a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The environment variable of a top-level key, and of the mode of snapshots, whose flag is `--snapshot`; other keys in
    /// tables have none.
    #[must_use]
    pub fn variable(self) -> Option<String> {
        let name = self.flag();
        (!name.contains('.')).then(|| format!("WALCAT_{}", name.to_ascii_uppercase()))
    }

    /// The name of the flag, with `_` for `-`: the mode of snapshots has its table's name.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Key::SnapshotMode => "snapshot",
            key => key.name(),
        }
    }

    /// The row of this flag.
    #[must_use]
    pub fn with_flag(flag: &str) -> Option<&'static Row> {
        let name = flag.replace('-', "_");
        Key::ALL.iter().find(|row| row.key.flag() == name)
    }

    /// The row with this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Row> {
        Key::ALL.iter().find(|row| row.name == name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The known key that is most similar to `unknown`, if one is similar enough.
#[must_use]
pub fn nearest(unknown: &str) -> Option<&'static str> {
    let unknown = unknown.to_lowercase().replace('-', "_");
    let tables = OPEN_TABLES.into_iter().chain(TABLES);
    nearest_among(&unknown, Key::ALL.iter().map(|row| row.name).chain(tables))
}

/// A message for each environment variable that resembles a setting and is not one; `names` are those of the process.
pub fn mistaken_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let mistaken = names.filter_map(|name| {
        let setting = name.strip_prefix("WALCAT_")?.to_ascii_lowercase();
        let is_known = setting == "config" || Key::ALL.iter().any(|row| row.key.variable().as_deref() == Some(&*name));
        let nearest = nearest(&setting).filter(|_| !is_known)?;
        Some(match Key::find(nearest).and_then(|row| row.key.variable()) {
            Some(variable) => format!("{name} is not a setting; did you mean {variable}?"),
            None => format!("{name} is not a setting; {nearest} can only be set in the configuration file"),
        })
    });
    mistaken.collect()
}

/// The known table that is most similar to `unknown`.
#[must_use]
pub fn nearest_table(unknown: &str) -> Option<&'static str> {
    nearest_among(&unknown.to_lowercase(), OPEN_TABLES.into_iter().chain(TABLES))
}

fn nearest_among(unknown: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    const ALIKE: f64 = 0.6;
    const MOVED_ALIKE: f64 = 0.7;
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let scored = names.map(|name| {
        let whole = strsim::normalized_damerau_levenshtein(unknown, name);
        // A key in the wrong table is still similar.
        let moved = strsim::normalized_damerau_levenshtein(&last(unknown), &last(name)) * 0.95;
        (name, if moved >= MOVED_ALIKE { whole.max(moved) } else { whole })
    });
    scored.filter(|(_, likeness)| *likeness >= ALIKE).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, row) in Key::ALL.iter().enumerate() {
            assert_eq!(row.key as usize, index, "{}", row.name);
            assert_eq!(Key::find(row.name).map(|found| found.key), Some(row.key));
        }
    }

    #[test]
    fn only_keys_at_the_top_level_have_a_variable() {
        assert_eq!(Key::TopicPrefix.variable().as_deref(), Some("WALCAT_TOPIC_PREFIX"));
        assert_eq!(Key::RetryFor.variable(), None);
        assert_eq!(Key::SnapshotMode.variable().as_deref(), Some("WALCAT_SNAPSHOT"));
        assert_eq!(Key::SnapshotTables.variable(), None);
    }

    #[test]
    fn a_variable_that_resembles_a_setting_is_reported() {
        let names = ["WALCAT_TOPIC_PREFX", "WALCAT_STATE_FILE", "WALCAT_SLOT", "WALCAT_CONFIG", "WALCAT_XYZZY", "HOME"];
        assert_eq!(
            mistaken_variables(names.into_iter().map(str::to_owned)),
            [
                "WALCAT_TOPIC_PREFX is not a setting; did you mean WALCAT_TOPIC_PREFIX?",
                "WALCAT_STATE_FILE is not a setting; state.file can only be set in the configuration file",
            ]
        );
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        for (unknown, meant) in [
            ("slto", Some("slot")),
            ("publications", Some("publication")),
            ("topic-prefix", Some("topic_prefix")),
            ("Sink", Some("sink")),
            ("broker", Some("brokers")),
            ("status_intervall", Some("status_interval")),
            ("broker_for", Some("retry.broker_for")),
            ("memory.maximum", Some("memory.max")),
            ("retry.fro", Some("retry.for")),
            ("topics.replication", Some("topics.replication_factor")),
            ("kafak", Some("kafka")),
            ("format", Some("log_format")),
            ("engin", Some("engine")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(unknown), meant, "{unknown}");
        }
    }
}
