//! Turns settings into the parts of the Kafka sink.

use std::time::{Duration, Instant};

use log::warn;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::stream;
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pg;
use crate::pg::publications::PublishedTable;
use crate::pg::server::System;
use crate::position::{FullKeys, Stored};
use crate::record::topic;
use crate::sink;
use crate::sink::kafka::client::admin::AdminError;
use crate::sink::kafka::client::inquiry::Inquiry;
use crate::sink::kafka::client::producer;
use crate::sink::kafka::client::topic_reader;
use crate::sink::kafka::delivery::Settings as Delivery;
use crate::sink::kafka::exactly_once::history::History;
use crate::sink::kafka::exactly_once::look;
use crate::sink::kafka::refusals::dead_letters::OnError;
use crate::sink::kafka::{self, TopicTemplate, state_topic};
use crate::source::open::{self, Started};
use crate::source::options::Source;
use crate::source::waiting::Waiter;

/// librdkafka's property, and its default.
const TRANSACTION_TIMEOUT: &str = "transaction.timeout.ms";
const TRANSACTION_TIMEOUT_MS_DEFAULT: u64 = 60_000;

/// The default of librdkafka's `batch.size`.
const BATCH_BYTES_DEFAULT: usize = 1_000_000;

/// At the first contact: how long the first attempt waits for an answer (each next one twice as long), how long walcat tries
/// in all if nothing answers, how often it looks for an answer, and the time between two attempts.
const FIRST_ANSWER_PATIENCE: Duration = Duration::from_secs(3);
const SILENCE_MAX: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);

/// librdkafka's own bound.
const SOCKET_TIMEOUT_MS_MAX: u128 = 300_000;

pub(super) fn sink_settings(settings: &StreamSettings, delivery: Delivery) -> kafka::Settings {
    let topics = &settings.topics;
    kafka::Settings {
        memory_bytes_max: usize::try_from(settings.memory_bytes_max).unwrap_or(usize::MAX),
        create_topics: topics.create.then(|| topic_template(topics)),
        stall_timeout: settings.stall_timeout,
        broker_for: settings.retry.broker_for.limit(),
        batch_bytes: property(settings, "batch.size").unwrap_or(BATCH_BYTES_DEFAULT),
        on_error: match settings.on_error {
            config::OnError::Stop => OnError::Stop,
            config::OnError::Skip => OnError::Skip,
            config::OnError::DeadLetter => {
                OnError::DeadLetter { topic: settings.dead_letter_topic.clone().unwrap_or_default() }
            }
        },
        delivery,
    }
}

/// The first contact: waits for a broker's answer as long as `--wait` allows; without it the first failure is final. For later
/// outages, `[retry] broker_for` is the limit.
pub(super) fn reach(settings: &StreamSettings, waiter: &mut Waiter<'_>) -> Result<Inquiry, Error> {
    let brokers = settings.brokers.as_deref().unwrap_or_default();
    let (began, mut told) = (Instant::now(), None);
    let mut patience = FIRST_ANSWER_PATIENCE;
    loop {
        let inquiry = Inquiry::new(&producer_properties(settings), brokers, told.is_some());
        let mut inquiry = inquiry.map_err(sink::Error::from)?;
        let Err(failure) = first_answer(&mut inquiry, patience, waiter)? else { return Ok(inquiry) };
        if matches!(failure.code, Code::Authentication | Code::SaslAuthenticationFailed) {
            return Err(sink::Error::from(kafka::Error::Authentication { reason: failure.message }).into());
        }
        // The request waits for one broker that the cluster chose; a new client may get another one.
        let is_silent = failure.code == Code::OperationTimedOut;
        patience = patience.saturating_mul(2);
        let limit = settings.wait.limit().map(|limit| if is_silent { limit.max(SILENCE_MAX) } else { limit });
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            let brokers = brokers.to_owned();
            return Err(sink::Error::from(kafka::Error::Unreached { brokers, reason: failure.message }).into());
        }
        // librdkafka adds how long the attempt took.
        let cause = failure.message.split(" (after ").next().unwrap_or_default();
        if told.as_deref() != Some(cause) {
            warn!(slot = settings.slot.as_str(), brokers, reason = failure.message.as_str();
                "Kafka does not answer yet: waiting");
            told = Some(cause.to_owned());
        }
        sleep(waiter, ATTEMPT_INTERVAL)?;
    }
}

fn first_answer(
    inquiry: &mut Inquiry,
    patience: Duration,
    waiter: &mut Waiter<'_>,
) -> Result<Result<(), AdminError>, Error> {
    let asked = Instant::now();
    inquiry.ask();
    while asked.elapsed() < patience {
        if let Some(answer) = inquiry.handle() {
            return Ok(answer);
        }
        sleep(waiter, LOOK_INTERVAL)?;
    }
    Ok(Err(inquiry.silence(patience)))
}

fn sleep(waiter: &mut Waiter<'_>, time: Duration) -> Result<(), Error> {
    waiter.sleep(time).map_err(|error| match error {
        pg::Error::Interrupted => sink::Error::from(kafka::Error::Interrupted).into(),
        error => error.into(),
    })
}

/// The settings of topics that walcat creates.
pub(super) fn topic_template(topics: &config::Topics) -> TopicTemplate {
    TopicTemplate {
        partitions: topics.partitions,
        replication_factor: topics.replication_factor,
        properties: topics.properties.clone(),
    }
}

/// Checks that librdkafka accepts the properties and that they agree with the other settings.
pub(super) fn check_properties(settings: &StreamSettings) -> Result<(), Error> {
    let transaction_timeout = match settings.delivery {
        config::Delivery::AtLeastOnce => None,
        config::Delivery::ExactlyOnce => Some(transaction_timeout(settings)?),
    };
    check_mechanism(settings)?;
    Ok(producer::check(&producer_properties(settings), transaction_timeout).map_err(sink::Error::from)?)
}

/// Without a mechanism librdkafka defaults to GSSAPI and fails because it was built without it.
fn check_mechanism(settings: &StreamSettings) -> Result<(), Error> {
    let given = |wanted: &str| {
        let found = settings.kafka.iter().rev().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.expose().to_ascii_lowercase())
    };
    let protocol = given("security.protocol").unwrap_or_default();
    if !protocol.starts_with("sasl_") || given("sasl.mechanism").is_some() {
        return Ok(());
    }
    let protocol = protocol.to_ascii_uppercase();
    let reason = format!(
        "security.protocol={protocol} needs sasl.mechanism: use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    );
    Err(sink::Error::from(kafka::Error::Producer { reason }).into())
}

/// Kafka's limit for a transaction.
pub(super) fn transaction_timeout(settings: &StreamSettings) -> Result<Duration, Error> {
    let given = settings.kafka.iter().rev().find(|(name, _)| name == TRANSACTION_TIMEOUT);
    let timeout_ms = match given.map(|(_, text)| text.expose().parse()) {
        None => TRANSACTION_TIMEOUT_MS_DEFAULT,
        Some(Ok(timeout_ms)) => timeout_ms,
        Some(Err(_)) => {
            let reason = "transaction.timeout.ms is not a number".to_owned();
            return Err(sink::Error::from(kafka::Error::Producer { reason }).into());
        }
    };
    if settings.transaction.interval.as_millis() * 2 > u128::from(timeout_ms) {
        let reason =
            format!("[transaction] interval must be at most half of transaction.timeout.ms, which is {timeout_ms} ms");
        return Err(sink::Error::from(kafka::Error::Producer { reason }).into());
    }
    Ok(Duration::from_millis(timeout_ms))
}

/// What a delivery needs to know of the slot.
struct SlotFacts {
    at: Lsn,
    /// The topics of the published tables.
    topics: Vec<String>,
    /// Whether PostgreSQL knows that it was read before.
    was_read: bool,
}

/// What a checkpoint topic has. Reads only, and fences nobody.
///
/// # Errors
/// Those of [`look::history`].
pub(super) fn stored_history(settings: &StreamSettings, topic: &str) -> Result<History, kafka::Error> {
    /// The memory for records that librdkafka reads ahead.
    const QUEUE_BYTES: usize = 4 * 1024 * 1024;
    let reading = topic_reader::Settings {
        brokers: settings.brokers.clone().unwrap_or_default(),
        properties: producer_properties(settings),
        read_committed: true,
        queue_bytes: QUEUE_BYTES,
    };
    look::history(&reading, topic)
}

/// The topics of the published tables, if Kafka keeps the position: their records tell whether the slot was read before.
pub(super) fn table_topics(
    settings: &StreamSettings,
    source: &Source,
    waiter: &mut Waiter<'_>,
) -> Result<Vec<String>, Error> {
    let is_kept = settings.delivery == config::Delivery::ExactlyOnce || settings.state.topic;
    if !is_kept || settings.dump.is_some() {
        return Ok(Vec::new());
    }
    let tables = open::published_tables(source, waiter)?;
    Ok(tables.iter().map(|table| topic_of(settings, table)).collect())
}

/// At-least-once or exactly-once, for the stream that has started.
pub(super) fn delivery(
    settings: &StreamSettings,
    started: &Started,
    table_topics: Vec<String>,
) -> Result<Delivery, Error> {
    let slot = SlotFacts { at: started.facts.confirmed, topics: table_topics, was_read: started.was_read };
    delivery_of(settings, &started.system, slot)
}

/// At-least-once or exactly-once, for an initial snapshot whose slot does not exist.
pub(super) fn delivery_before_slot(settings: &StreamSettings, system: &System) -> Result<Delivery, Error> {
    delivery_of(settings, system, SlotFacts { at: Lsn::INVALID, topics: Vec::new(), was_read: false })
}

fn delivery_of(settings: &StreamSettings, system: &System, slot: SlotFacts) -> Result<Delivery, Error> {
    Ok(match settings.delivery {
        config::Delivery::AtLeastOnce => {
            let is_kept = settings.state.topic && !stream::is_look(settings);
            Delivery::AtLeastOnce(is_kept.then(|| state_topic(settings, system, slot)))
        }
        config::Delivery::ExactlyOnce => Delivery::ExactlyOnce(Box::new(transactions(settings, system, slot)?)),
    })
}

fn transactions(
    settings: &StreamSettings,
    system: &System,
    slot: SlotFacts,
) -> Result<kafka::exactly_once::Settings, Error> {
    Ok(kafka::exactly_once::Settings {
        interval: settings.transaction.interval,
        records_max: u64::from(settings.transaction.records_max),
        timeout: transaction_timeout(settings)?,
        identity: Stored {
            system_identifier: system.identifier.clone(),
            timeline: system.timeline,
            slot: settings.slot.clone(),
            end_lsn: Lsn::INVALID,
            records: None,
            full_keys: FullKeys::new(),
            snapshot: None,
        },
        database: system.database.clone(),
        slot_at: slot.at,
        topics: slot.topics,
        was_slot_read: slot.was_read,
    })
}

fn state_topic(settings: &StreamSettings, system: &System, slot: SlotFacts) -> state_topic::Settings {
    state_topic::Settings {
        interval: settings.state.interval,
        system_identifier: system.identifier.clone(),
        database: system.database.clone(),
        slot: settings.slot.clone(),
        slot_at: slot.at,
        topics: slot.topics,
        was_slot_read: slot.was_read,
    }
}

pub(super) fn topic_of(settings: &StreamSettings, table: &PublishedTable) -> String {
    topic::topic_of(settings.topic_prefix.as_deref(), &table.schema, &table.table)
}

/// librdkafka's properties: first those derived from the settings, then the user's.
pub(super) fn producer_properties(settings: &StreamSettings) -> Vec<(String, String)> {
    [derived_properties(settings), properties(&settings.kafka)].concat()
}

/// The properties derived from the settings. The user's properties follow these and override them.
fn derived_properties(settings: &StreamSettings) -> Vec<(String, String)> {
    let mut derived = Vec::new();
    if let Some(timeout_ms) = socket_timeout_ms(settings) {
        derived.push(("socket.timeout.ms".to_owned(), timeout_ms.to_string()));
    }
    if settings.topics.create {
        // Otherwise the broker would create the topic first, with its own settings.
        derived.push(("allow.auto.create.topics".to_owned(), "false".to_owned()));
    }
    derived
}

/// A silent broker gets the same time as a silent PostgreSQL. librdkafka requires a value below the transaction's timeout.
fn socket_timeout_ms(settings: &StreamSettings) -> Option<u128> {
    let timeout_ms = settings.stall_timeout?.as_millis().min(SOCKET_TIMEOUT_MS_MAX);
    if settings.delivery == config::Delivery::AtLeastOnce {
        return Some(timeout_ms);
    }
    let limit_ms = property(settings, TRANSACTION_TIMEOUT).unwrap_or(TRANSACTION_TIMEOUT_MS_DEFAULT);
    Some(timeout_ms.min(u128::from(limit_ms)))
}

/// The user's properties, with their secrets.
pub(super) fn properties(properties: &[(String, config::Secret)]) -> Vec<(String, String)> {
    properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
}

/// A property that the user sets, if it is a number.
fn property<T: std::str::FromStr>(settings: &StreamSettings, name: &str) -> Option<T> {
    let given = settings.kafka.iter().rev().find(|(given, _)| given == name);
    given.and_then(|(_, text)| text.expose().parse().ok())
}
