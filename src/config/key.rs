//! Every setting by its one name: the key of the configuration file, and with `-` for `_` the long flag.
//!
//! [`Key::ALL`] is the one table of names, kinds and defaults; the manual page and the example file are checked
//! against it.

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
    /// Dotted where it is in a table.
    pub name: &'static str,
    pub kind: Kind,
    /// The text of the default; `None` where the setting is not in force unless it is given.
    pub default: Option<&'static str>,
}

/// Tables whose keys are not walcat's: librdkafka's properties, and Kafka's topic configuration.
pub const OPEN_TABLES: [&str; 2] = ["kafka", "topics.properties"];

/// Tables whose keys are in [`Key::ALL`].
pub const TABLES: [&str; 6] = ["retry", "state", "transaction", "poll", "memory", "topics"];

const fn row(key: Key, name: &'static str, kind: Kind, default: Option<&'static str>) -> Row {
    Row { key, name, kind, default }
}

impl Key {
    /// Every setting, in the order of the enum and of the manual.
    #[rustfmt::skip]
    pub const ALL: [Row; 47] = [
        row(Key::Dsn, "dsn", Kind::Text, None),
        row(Key::Slot, "slot", Kind::Text, None),
        row(Key::Publication, "publication", Kind::List, None),
        row(Key::CreateSlot, "create_slot", Kind::Bool, Some("false")),
        row(Key::TemporarySlot, "temporary_slot", Kind::Bool, Some("false")),
        row(Key::Failover, "failover", Kind::Bool, Some("false")),
        row(Key::Brokers, "brokers", Kind::List, None),
        row(Key::TopicPrefix, "topic_prefix", Kind::Text, None),
        row(Key::Sink, "sink", Kind::Text, Some("kafka")),
        row(Key::Delivery, "delivery", Kind::Text, Some("at-least-once")),
        row(Key::Engine, "engine", Kind::Text, Some("streaming")),
        row(Key::Stdout, "stdout", Kind::Text, Some("value")),
        row(Key::Dump, "dump", Kind::Text, None),
        row(Key::DumpKeepalives, "dump_keepalives", Kind::Bool, Some("false")),
        row(Key::Record, "record", Kind::Text, None),
        row(Key::Startpos, "startpos", Kind::Text, None),
        row(Key::Endpos, "endpos", Kind::Text, None),
        row(Key::Once, "once", Kind::Bool, Some("false")),
        row(Key::Wait, "wait", Kind::Duration, Some("0s")),
        row(Key::Truncate, "truncate", Kind::Text, Some("emit")),
        row(Key::OnError, "on_error", Kind::Text, Some("stop")),
        row(Key::DeadLetterTopic, "dead_letter_topic", Kind::Text, None),
        row(Key::StatusInterval, "status_interval", Kind::Duration, Some("1s")),
        row(Key::StallTimeout, "stall_timeout", Kind::Duration, Some("60s")),
        row(Key::ShutdownTimeout, "shutdown_timeout", Kind::Duration, Some("10s")),
        row(Key::StatsInterval, "stats_interval", Kind::Duration, Some("1m")),
        row(Key::LogFormat, "log_format", Kind::Text, Some("text")),
        row(Key::Verbose, "verbose", Kind::Integer, Some("0")),
        row(Key::Quiet, "quiet", Kind::Bool, Some("false")),
        row(Key::AcceptGap, "accept_gap", Kind::Bool, Some("false")),
        row(Key::AcceptKeyless, "accept_keyless", Kind::Bool, Some("false")),
        row(Key::Takeover, "takeover", Kind::Bool, Some("false")),
        row(Key::RetryInitial, "retry.initial", Kind::Duration, Some("200ms")),
        row(Key::RetryMax, "retry.max", Kind::Duration, Some("30s")),
        row(Key::RetryFor, "retry.for", Kind::Duration, None),
        row(Key::RetryBrokerFor, "retry.broker_for", Kind::Duration, Some("forever")),
        row(Key::StateFile, "state.file", Kind::Text, None),
        row(Key::StateInterval, "state.interval", Kind::Duration, Some("1s")),
        row(Key::TransactionInterval, "transaction.interval", Kind::Duration, Some("100ms")),
        row(Key::TransactionMaxRecords, "transaction.max_records", Kind::Integer, Some("50000")),
        row(Key::PollInterval, "poll.interval", Kind::Duration, Some("1s")),
        row(Key::PollMaxChanges, "poll.max_changes", Kind::Integer, Some("100000")),
        row(Key::PollIdleBytes, "poll.idle_bytes", Kind::Size, Some("16MiB")),
        row(Key::MemoryMax, "memory.max", Kind::Size, Some("16MiB")),
        row(Key::TopicsCreate, "topics.create", Kind::Bool, Some("false")),
        row(Key::TopicsPartitions, "topics.partitions", Kind::Integer, Some("1")),
        row(Key::TopicsReplicationFactor, "topics.replication_factor", Kind::Integer, Some("-1")),
    ];

    /// The line of the table that is about this key.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &Key::ALL[self as usize]
    }

    /// The name in the file, dotted where it is in a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The environment variable of a key at the top level; tables have none.
    #[must_use]
    pub fn variable(self) -> Option<String> {
        let name = self.name();
        (!name.contains('.')).then(|| format!("WALCAT_{}", name.to_ascii_uppercase()))
    }

    /// The key of this name.
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

/// The known key that `unknown` was most likely meant to be.
#[must_use]
pub fn nearest(unknown: &str) -> Option<&'static str> {
    let unknown = unknown.to_lowercase().replace('-', "_");
    let tables = OPEN_TABLES.into_iter().chain(TABLES);
    nearest_among(&unknown, Key::ALL.iter().map(|row| row.name).chain(tables))
}

/// What to say of environment variables that look like settings and are none; `names` are those of the process.
pub fn mistaken_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let mistaken = names.filter_map(|name| {
        let setting = name.strip_prefix("WALCAT_")?.to_ascii_lowercase();
        let is_known = setting == "config" || Key::ALL.iter().any(|row| row.key.variable().as_deref() == Some(&*name));
        let nearest = nearest(&setting).filter(|_| !is_known)?;
        Some(match Key::find(nearest).and_then(|row| row.key.variable()) {
            Some(variable) => format!("{name} is not a setting: is {variable} meant?"),
            None => format!("{name} is not a setting: {nearest} is a key of the configuration file only"),
        })
    });
    mistaken.collect()
}

/// The same for a table.
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
        // A key that stands in the wrong table is still the key that was meant.
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
    }

    #[test]
    fn a_variable_that_was_meant_for_a_setting_is_told() {
        let names = ["WALCAT_TOPIC_PREFX", "WALCAT_STATE_FILE", "WALCAT_SLOT", "WALCAT_CONFIG", "WALCAT_XYZZY", "HOME"];
        assert_eq!(
            mistaken_variables(names.into_iter().map(str::to_owned)),
            [
                "WALCAT_TOPIC_PREFX is not a setting: is WALCAT_TOPIC_PREFIX meant?",
                "WALCAT_STATE_FILE is not a setting: state.file is a key of the configuration file only",
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
