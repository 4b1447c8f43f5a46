//! From texts to settings: parses values, checks their range, and finds missing and contradicting settings.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::error::{ConfigError, Origin, Place, Required, ValueError};
use super::file::{self, FileSettings};
use super::kafka::Property;
use super::key::Key;
use super::layers::{Given, Layers};
use super::mask::is_secret_property;
use super::secret::{self, Environment, Secret};
use super::settings::{
    Delivery, DumpFormat, Engine, LogFormat, LogSettings, OnError, Poll, Retry, Sink, SlotSettings, Snapshot,
    SnapshotMode, State, StreamSettings, Topics, Transaction,
};
use super::units::{parse_budget, parse_duration, parse_interval, parse_size};
use super::value;
use crate::limits::SNAPSHOT_CONNECTIONS_MAX;
use crate::session::Truncations;
use crate::sink::stdout::LineForm;

const STATUS_INTERVAL_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(3_600);
const RETRY_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3_600);
const STATE_INTERVAL_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const TRANSACTION_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
const TRANSACTION_RECORDS_BOUNDS: RangeInclusive<i32> = 1..=10_000_000;
const POLL_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);
const POLL_CHANGES_BOUNDS: RangeInclusive<i32> = 1..=1_000_000_000;
const POLL_IDLE_BYTES_BOUNDS: RangeInclusive<u64> = 64 << 10..=1 << 50;
const MEMORY_BYTES_BOUNDS: RangeInclusive<u64> = 1 << 20..=64 << 30;
/// librdkafka's own upper bounds.
const PARTITIONS_BOUNDS: RangeInclusive<i32> = 1..=100_000;
const REPLICATION_FACTOR_BOUNDS: RangeInclusive<i32> = 1..=10_000;

const CHUNK_TIME_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Each connection is a backend of the server.
const SNAPSHOT_CONNECTIONS_BOUNDS: RangeInclusive<i32> = 1..=SNAPSHOT_CONNECTIONS_MAX;

/// With `--once`, an unreachable broker ends the run, so that cron reports it.
const BROKER_FOR_ONCE: &str = "1m";

const SLOT: Required =
    Required { name: "slot", hint: "set the slot with -s, --slot, WALCAT_SLOT or slot in the configuration file" };
const PUBLICATION: Required = Required {
    name: "publication",
    hint: "set the publication with -p, --publication, WALCAT_PUBLICATION or publication in the configuration file",
};
const DEAD_LETTER_TOPIC: Required = Required {
    name: "dead_letter_topic",
    hint: "set the topic with --dead-letter-topic, WALCAT_DEAD_LETTER_TOPIC or dead_letter_topic in the configuration \
           file; on_error = \"skip\" does not need it",
};
const BROKERS: Required = Required {
    name: "brokers",
    hint: "set the brokers with -b, --brokers, WALCAT_BROKERS or brokers in the configuration file; --sink stdout does not \
           need them",
};

/// The configuration: every value is parsed, and no secret is read.
pub struct Config {
    pub(super) layers: Layers,
    /// The settings without the secrets; a setting that only some commands require may be missing.
    draft: StreamSettings,
}

impl Config {
    /// Reads the file that `--config` or `WALCAT_CONFIG` names, and lays the environment and the flags over it.
    pub fn load(given: &Given, environment: &Environment<'_>) -> Result<Config, ConfigError> {
        let variable = || environment("WALCAT_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = match given.config.clone().or_else(variable) {
            Some(path) => file::read(&path)?,
            None => FileSettings::default(),
        };
        Config::build(given, environment, file)
    }

    /// For a command that takes no configuration file.
    pub fn without_file(given: &Given, environment: &Environment<'_>) -> Result<Config, ConfigError> {
        Config::build(given, environment, FileSettings::default())
    }

    pub(super) fn build(
        given: &Given,
        environment: &Environment<'_>,
        file: FileSettings,
    ) -> Result<Config, ConfigError> {
        let mut layers = Layers::gather(given, environment, file)?;
        settle(&mut layers)?;
        let draft = parse(&layers)?;
        check(&layers, &draft)?;
        Ok(Config { layers, draft })
    }

    /// The log settings, which every command needs first.
    #[must_use]
    pub fn log(&self) -> LogSettings {
        self.draft.log
    }

    /// The settings of `stream` and `check`, complete, with the secrets read.
    pub fn stream(&self, environment: &Environment<'_>) -> Result<StreamSettings, ConfigError> {
        let mut settings = self.draft.clone();
        let needs_brokers = settings.sink == Sink::Kafka && settings.dump.is_none();
        let required = [
            (
                SLOT,
                settings.slot.is_empty() && !settings.temporary_slot && settings.snapshot.mode != SnapshotMode::Only,
            ),
            (PUBLICATION, settings.publications.is_empty()),
            (BROKERS, needs_brokers && settings.brokers.is_none()),
            (DEAD_LETTER_TOPIC, settings.on_error == OnError::DeadLetter && settings.dead_letter_topic.is_none()),
        ];
        // One error names all of them, so that the user does not have to start walcat four times.
        let missing: Vec<Required> =
            required.iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| *what).collect();
        if !missing.is_empty() {
            return Err(ConfigError::Missing { missing });
        }
        if settings.slot.is_empty() && settings.snapshot.mode != SnapshotMode::Only {
            settings.slot = format!("walcat_tmp_{}", std::process::id());
        }
        settings.dsn = self.dsn(environment)?;
        settings.kafka = self.kafka(environment)?;
        Ok(settings)
    }

    /// The settings of `verify`, complete, with the secrets read. The slot may be missing.
    pub fn verify(&self, environment: &Environment<'_>) -> Result<StreamSettings, ConfigError> {
        let mut settings = self.draft.clone();
        let required = [(PUBLICATION, settings.publications.is_empty()), (BROKERS, settings.brokers.is_none())];
        let missing: Vec<Required> =
            required.iter().filter(|(_, is_missing)| *is_missing).map(|(what, _)| *what).collect();
        if !missing.is_empty() {
            return Err(ConfigError::Missing { missing });
        }
        settings.dsn = self.dsn(environment)?;
        settings.kafka = self.kafka(environment)?;
        Ok(settings)
    }

    /// The settings of `slot create`, `slot drop` and `slot status`.
    pub fn slot(&self, environment: &Environment<'_>) -> Result<SlotSettings, ConfigError> {
        if self.draft.slot.is_empty() {
            return Err(ConfigError::Missing { missing: vec![SLOT] });
        }
        Ok(SlotSettings {
            dsn: self.dsn(environment)?,
            slot: self.draft.slot.clone(),
            publications: self.draft.publications.clone(),
            engine: self.draft.engine,
            failover: self.draft.failover,
        })
    }

    /// Warnings for the log about settings that are valid but unwise.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let on_argv = |property: &&Property| {
            let value = &property.text.value;
            property.text.origin == Origin::Flag
                && !secret::is_reference(value)
                && is_secret_property(&property.name, value)
        };
        let warning = |property: &Property| {
            format!(
                "-X {}: anyone on this machine can read the value in the process list; write file:PATH or env:NAME",
                property.name
            )
        };
        self.layers.kafka.iter().filter(on_argv).map(warning).collect()
    }

    fn dsn(&self, environment: &Environment<'_>) -> Result<Option<Secret>, ConfigError> {
        let Some(text) = self.layers.optional(Key::Dsn, |text| Ok(text.to_owned()))? else {
            return Ok(None);
        };
        let read = secret::read(&text, environment);
        read.map(Some).map_err(|why| ConfigError::Secret { place: self.layers.place(Key::Dsn), why })
    }

    fn kafka(&self, environment: &Environment<'_>) -> Result<Vec<(String, Secret)>, ConfigError> {
        let read = |property: &Property| match secret::read(&property.text.value, environment) {
            Ok(value) => Ok((property.name.clone(), value)),
            Err(why) => {
                let place = Place { origin: property.text.origin.clone(), key: format!("kafka.{}", property.name) };
                Err(ConfigError::Secret { place, why })
            }
        };
        self.layers.kafka.iter().map(read).collect()
    }
}

/// Between settings that contradict each other, the higher layer wins.
fn settle(layers: &mut Layers) -> Result<(), ConfigError> {
    layers.settle(Key::Quiet, Key::Verbose, "quiet logs less, verbose logs more")?;
    layers.settle(Key::CreateSlot, Key::TemporarySlot, "a slot is either permanent or temporary")?;
    layers.settle(Key::Once, Key::Endpos, "each sets the end")?;
    layers.settle(Key::Dump, Key::Sink, "a dump replaces the records")?;
    layers.settle(Key::Dump, Key::Stdout, "a dump replaces the records")?;
    let is_only = layers.required(Key::SnapshotMode, value::choice(&SnapshotMode::CHOICES))? == SnapshotMode::Only;
    if layers.is_on(Key::Once)? || is_only {
        layers.change_default(Key::RetryBrokerFor, BROKER_FOR_ONCE);
    }
    Ok(())
}

/// Parses every setting except the secrets.
fn parse(layers: &Layers) -> Result<StreamSettings, ConfigError> {
    Ok(StreamSettings {
        dsn: None,
        slot: layers.optional(Key::Slot, value::slot)?.unwrap_or_default(),
        publications: unique(layers.parse_list(Key::Publication, value::publication)?.unwrap_or_default()),
        create_slot: layers.is_on(Key::CreateSlot)?,
        temporary_slot: layers.is_on(Key::TemporarySlot)?,
        failover: layers.is_on(Key::Failover)?,
        brokers: layers
            .parse_list(Key::Brokers, value::brokers)?
            .filter(|brokers| !brokers.is_empty())
            .map(|brokers| brokers.join(",")),
        kafka: Vec::new(),
        topic_prefix: layers.optional(Key::TopicPrefix, value::topic_prefix)?,
        sink: layers.required(Key::Sink, value::choice(&Sink::CHOICES))?,
        delivery: layers.required(Key::Delivery, value::choice(&Delivery::CHOICES))?,
        engine: layers.required(Key::Engine, value::choice(&Engine::CHOICES))?,
        stdout: layers.required(Key::Stdout, value::choice(&LineForm::CHOICES))?,
        dump: layers.optional(Key::Dump, value::choice(&DumpFormat::CHOICES))?,
        dump_keepalives: layers.is_on(Key::DumpKeepalives)?,
        record: layers.optional(Key::Record, value::not_empty)?.map(PathBuf::from),
        startpos: layers.optional(Key::Startpos, value::lsn)?.filter(|lsn| lsn.is_valid()),
        endpos: layers.optional(Key::Endpos, value::valid_lsn)?,
        once: layers.is_on(Key::Once)?,
        wait: layers.required(Key::Wait, parse_budget)?,
        truncate: layers.required(Key::Truncate, value::choice(&Truncations::CHOICES))?,
        on_error: layers.required(Key::OnError, value::choice(&OnError::CHOICES))?,
        dead_letter_topic: layers.optional(Key::DeadLetterTopic, value::topic_prefix)?,
        status_interval: layers.required(Key::StatusInterval, |text| parse_duration(text, STATUS_INTERVAL_BOUNDS))?,
        stall_timeout: layers.required(Key::StallTimeout, parse_interval)?,
        shutdown_timeout: layers.required(Key::ShutdownTimeout, parse_budget)?,
        stats_interval: layers.required(Key::StatsInterval, parse_interval)?,
        accept_gap: layers.is_on(Key::AcceptGap)?,
        accept_keyless: layers.is_on(Key::AcceptKeyless)?,
        takeover: layers.is_on(Key::Takeover)?,
        retry: Retry {
            initial: layers.required(Key::RetryInitial, |text| parse_duration(text, RETRY_BOUNDS))?,
            max: layers.required(Key::RetryMax, |text| parse_duration(text, RETRY_BOUNDS))?,
            for_: layers.optional(Key::RetryFor, parse_budget)?,
            broker_for: layers.required(Key::RetryBrokerFor, parse_budget)?,
        },
        state: State {
            file: layers.optional(Key::StateFile, value::not_empty)?.map(PathBuf::from),
            topic: layers.is_on(Key::StateTopic)?,
            interval: layers.required(Key::StateInterval, |text| parse_duration(text, STATE_INTERVAL_BOUNDS))?,
        },
        transaction: Transaction {
            interval: layers.required(Key::TransactionInterval, |text| parse_duration(text, TRANSACTION_BOUNDS))?,
            records_max: layers.required(Key::TransactionMaxRecords, |text| {
                value::integer_within(text, TRANSACTION_RECORDS_BOUNDS).map(i32::cast_unsigned)
            })?,
        },
        poll: Poll {
            interval: layers.required(Key::PollInterval, |text| parse_duration(text, POLL_BOUNDS))?,
            changes_max: layers.required(Key::PollMaxChanges, |text| {
                value::integer_within(text, POLL_CHANGES_BOUNDS).map(i32::cast_unsigned)
            })?,
            idle_bytes: layers.required(Key::PollIdleBytes, |text| parse_size(text, POLL_IDLE_BYTES_BOUNDS))?,
        },
        memory_bytes_max: layers.required(Key::MemoryMax, |text| parse_size(text, MEMORY_BYTES_BOUNDS))?,
        topics: parse_topics(layers)?,
        snapshot: Snapshot {
            mode: layers.required(Key::SnapshotMode, value::choice(&SnapshotMode::CHOICES))?,
            connections: layers.required(Key::SnapshotConnections, |text| {
                value::integer_within(text, SNAPSHOT_CONNECTIONS_BOUNDS).map(i32::cast_unsigned)
            })?,
            tables: layers.parse_list(Key::SnapshotTables, value::table_pattern)?.unwrap_or_default(),
            chunk_time: layers.required(Key::SnapshotChunkTime, |text| parse_duration(text, CHUNK_TIME_BOUNDS))?,
            new_tables: layers.is_on(Key::SnapshotNewTables)?,
        },
        log: parse_log(layers)?,
    })
}

fn parse_topics(layers: &Layers) -> Result<Topics, ConfigError> {
    let property = |property: &Property| (property.name.clone(), property.text.value.clone());
    Ok(Topics {
        create: layers.is_on(Key::TopicsCreate)?,
        partitions: layers.required(Key::TopicsPartitions, |text| value::integer_within(text, PARTITIONS_BOUNDS))?,
        replication_factor: layers.required(Key::TopicsReplicationFactor, |text| match value::integer(text)? {
            -1 => Ok(-1),
            _ => value::integer_within(text, REPLICATION_FACTOR_BOUNDS),
        })?,
        properties: layers.topic_properties.iter().map(property).collect(),
    })
}

fn parse_log(layers: &Layers) -> Result<LogSettings, ConfigError> {
    let verbose = layers.required(Key::Verbose, |text| value::integer_within(text, 0..=2))?;
    let level = match verbose {
        _ if layers.is_on(Key::Quiet)? => LevelFilter::Error,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    Ok(LogSettings { format: layers.required(Key::LogFormat, value::choice(&LogFormat::CHOICES))?, level })
}

/// The names without duplicates, in the given order.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

/// Checks the settings of incremental snapshots. A dump and a recording make none, so they ignore what the file says.
fn check_chunks(layers: &Layers, settings: &StreamSettings) -> Result<(), ConfigError> {
    let is_flag = layers.origin(Key::SnapshotMode) == Origin::Flag;
    for (key, is_on) in [
        (Key::SnapshotMode, settings.snapshot.mode == SnapshotMode::Incremental),
        (Key::SnapshotNewTables, settings.snapshot.new_tables && settings.snapshot.mode != SnapshotMode::Only),
    ] {
        for (other, is_set, why) in [
            (Key::Dump, settings.dump.is_some() && is_flag, "a dump prints the stream alone"),
            (Key::Record, settings.record.is_some() && is_flag, "a recording keeps the stream alone"),
            (Key::TemporarySlot, settings.temporary_slot, "the slot has to outlive an interruption"),
        ] {
            if is_on && is_set {
                let places = Box::new([layers.place(key), layers.place(other)]);
                return Err(ConfigError::Contradiction { places, why });
            }
        }
    }
    Ok(())
}

/// Checks settings against each other.
fn check(layers: &Layers, settings: &StreamSettings) -> Result<(), ConfigError> {
    if let (Some(startpos), Some(endpos)) = (settings.startpos, settings.endpos)
        && endpos < startpos
    {
        let places = Box::new([layers.place(Key::Endpos), layers.place(Key::Startpos)]);
        return Err(ConfigError::Contradiction { places, why: "the end is before the start" });
    }
    if settings.temporary_slot && settings.failover {
        let places = Box::new([layers.place(Key::TemporarySlot), layers.place(Key::Failover)]);
        return Err(ConfigError::Contradiction { places, why: "standbys do not copy a temporary slot" });
    }
    if settings.temporary_slot && settings.state.file.is_some() {
        let places = Box::new([layers.place(Key::TemporarySlot), layers.place(Key::StateFile)]);
        let why = "a temporary slot has no position to resume from";
        return Err(ConfigError::Contradiction { places, why });
    }
    if settings.snapshot.mode == SnapshotMode::Initial {
        for (other, is_set, why) in [
            (Key::Dump, settings.dump.is_some(), "a dump prints the stream alone"),
            (Key::Record, settings.record.is_some(), "a recording keeps the stream alone"),
            (Key::TemporarySlot, settings.temporary_slot, "the slot has to outlive an interruption"),
            (Key::Engine, settings.engine == Engine::Polling, "only a replication connection exports a snapshot"),
        ] {
            if is_set {
                let places = Box::new([layers.place(Key::SnapshotMode), layers.place(other)]);
                return Err(ConfigError::Contradiction { places, why });
            }
        }
    }
    check_chunks(layers, settings)?;
    if settings.snapshot.mode == SnapshotMode::Only {
        for (other, is_set, why) in [
            (Key::Dump, settings.dump.is_some(), "a dump prints the stream, which this mode does not read"),
            (Key::Record, settings.record.is_some(), "a recording keeps the stream, which this mode does not read"),
            (Key::Startpos, settings.startpos.is_some(), "this mode does not read the stream"),
            (Key::Endpos, settings.endpos.is_some(), "this mode does not read the stream"),
            (Key::CreateSlot, settings.create_slot, "this mode leaves no slot behind"),
            (Key::Engine, settings.engine == Engine::Polling, "only a replication connection exports a snapshot"),
        ] {
            if is_set {
                let places = Box::new([layers.place(Key::SnapshotMode), layers.place(other)]);
                return Err(ConfigError::Contradiction { places, why });
            }
        }
    }
    if settings.state.topic && settings.dump.is_none() && settings.snapshot.mode != SnapshotMode::Only {
        let is_exactly_once = settings.delivery == Delivery::ExactlyOnce;
        for (other, is_set, why) in [
            (Key::StateFile, settings.state.file.is_some(), "the position is stored in one place"),
            (Key::Delivery, is_exactly_once, "exactly-once delivery stores the position in Kafka"),
            (Key::Sink, settings.sink == Sink::Stdout, "stdout has no topics"),
            (Key::TemporarySlot, settings.temporary_slot, "a temporary slot has no position to resume from"),
            (Key::Startpos, settings.startpos.is_some(), "the stream starts at the position in the topic"),
        ] {
            if is_set {
                let places = Box::new([layers.place(Key::StateTopic), layers.place(other)]);
                return Err(ConfigError::Contradiction { places, why });
            }
        }
    }
    if settings.engine == Engine::Polling {
        for (other, is_set, why) in [
            (Key::Dump, settings.dump.is_some(), "a dump needs streaming"),
            (Key::Record, settings.record.is_some(), "a recording needs streaming"),
            (Key::TemporarySlot, settings.temporary_slot, "polling needs a slot that outlives its session"),
        ] {
            if is_set {
                let places = Box::new([layers.place(Key::Engine), layers.place(other)]);
                return Err(ConfigError::Contradiction { places, why });
            }
        }
    }
    if settings.delivery == Delivery::ExactlyOnce && settings.dump.is_none() {
        for (other, is_set, why) in [
            (Key::StateFile, settings.state.file.is_some(), "exactly-once delivery stores the position in Kafka"),
            (Key::Sink, settings.sink == Sink::Stdout, "stdout has no transactions"),
            (Key::TemporarySlot, settings.temporary_slot, "a temporary slot has no position to resume from"),
            (Key::Startpos, settings.startpos.is_some(), "exactly-once delivery starts at the checkpoint"),
            (Key::Record, settings.record.is_some(), "a recording confirms nothing"),
        ] {
            if is_set {
                let places = Box::new([layers.place(Key::Delivery), layers.place(other)]);
                return Err(ConfigError::Contradiction { places, why });
            }
        }
    }
    // In the file, a value without effect is allowed: it may have one with another flag.
    let without_effect = [
        (Key::Stdout, settings.sink != Sink::Stdout, "--sink stdout"),
        (Key::DeadLetterTopic, settings.on_error != OnError::DeadLetter, "--on-error dead-letter"),
        (Key::DumpKeepalives, settings.dump_keepalives && settings.dump.is_none(), "--dump"),
    ];
    for (key, is_idle, without) in without_effect {
        if is_idle && layers.origin(key) == Origin::Flag {
            return Err(ConfigError::Value { place: layers.place(key), why: ValueError::NoEffect { without } });
        }
    }
    Ok(())
}
