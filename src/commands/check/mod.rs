//! `walcat check`: finds what would stop a stream before it starts. It collects facts, lets `checks` judge them, and prints
//! one line for each.

mod position;
mod snapshot;

use std::collections::HashSet;
use std::path::Path;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::slot::{Commands, print, slot_verdict};
use super::{kafka, stream};
use crate::checks::{self, Age, Creation, Severity, StandbyFacts, TopicFacts, Verdict};
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::pg::publications::{self, PublishedTable};
use crate::pg::server::{self, SERVER_VERSION_MIN, System};
use crate::pg::{self, Connection, Wait, slots, sqlstate};
use crate::pump::store::Store;
use crate::record::topic::Route;
use crate::sink::kafka::TopicTemplate;
use crate::sink::kafka::client::admin::{AdminError, NewTopic};
use crate::sink::kafka::client::inquiry::Inquiry;
use crate::sink::kafka::exactly_once::checkpoint;
use crate::source;
use crate::source::open::{self, Rehearsed};
use crate::source::options::{SlotMode, Source};
use crate::state_file::StateFile;

/// The newest major version that walcat is tested with.
const NEWEST_MAJOR: i32 = 18;

/// Checks everything that can be checked without starting the stream. It succeeds if a stream would start and deliver, as far
/// as this can be known without writing. What cannot be known is a warning.
///
/// # Errors
/// [`Error::Checks`] if a check found an error; an error of the connection ends the checks at once.
pub fn run(settings: &StreamSettings) -> Result<(), Error> {
    let mut report = Report::default();
    let mut commands = Commands::new()?;
    let mut state_file = None;
    match stream::state_file(settings) {
        Ok(opened) => {
            if let Some(path) = settings.state.file.as_ref().filter(|_| !stream::is_look(settings)) {
                report.line(&checks::state_file(&path.display().to_string(), None))?;
            }
            state_file = opened;
        }
        Err(error) => {
            let path = settings.state.file.as_deref().unwrap_or(Path::new("")).display().to_string();
            report.line(&checks::state_file(&path, Some(&error.to_string())))?;
        }
    }
    let found = postgres(settings, state_file, &mut commands, &mut report)?;
    if settings.sink == config::Sink::Kafka && settings.dump.is_none() {
        kafka(settings, &found, &mut commands, &mut report)?;
    }
    if report.errors > 0 {
        return Err(Error::Checks { count: report.errors, total: report.total });
    }
    Ok(())
}

#[derive(Default)]
struct Report {
    total: usize,
    errors: usize,
}

impl Report {
    fn line(&mut self, verdict: &Verdict) -> Result<(), Error> {
        self.total += 1;
        self.errors += usize::from(verdict.severity == Severity::Error);
        print(&format!("{:<8} {}\n", verdict.severity, verdict.finding))?;
        if verdict.hint.is_empty() { Ok(()) } else { print(&format!("         hint: {}\n", verdict.hint)) }
    }
}

/// What the checks of Kafka need to know about PostgreSQL.
#[derive(Default)]
struct Found {
    system: Option<System>,
    tables: Vec<PublishedTable>,
    /// None if the stream would not start.
    rehearsed: Option<Rehearsed>,
}

fn postgres(
    settings: &StreamSettings,
    state_file: Option<StateFile>,
    commands: &mut Commands,
    report: &mut Report,
) -> Result<Found, Error> {
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    // An ordinary connection: there may be no free walsender.
    let mut connection = commands.connect_for_sql(dsn, settings.engine)?;
    let version = connection.server_version();
    report.line(&checks::server_version(version, SERVER_VERSION_MIN, NEWEST_MAJOR))?;
    if version < SERVER_VERSION_MIN {
        return Ok(Found::default());
    }
    let database = connection.database();
    let (facts, slot) = {
        let mut waiter = commands.waiter();
        let wait = &mut |socket, way| waiter.wait(socket, way);
        (server::facts(&mut connection, wait)?, slots::find(&mut connection, &settings.slot, wait)?)
    };
    let has_stored = state_file.as_ref().is_some_and(|file| file.stored().is_some());
    let (rehearsed, mut rehearsal) = match rehearse(settings, state_file, commands) {
        Ok(rehearsed) => (Some(rehearsed), None),
        Err(error) => (None, Some(error)),
    };
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    report.line(&checks::wal_level(&facts.wal_level))?;
    report.line(&checks::server_encoding(&facts.server_encoding))?;
    report.line(&checks::role(facts.role_may_replicate))?;
    if settings.engine == config::Engine::Streaming {
        let slot_is_read = slot.as_ref().is_some_and(|slot| slot.active);
        report.line(&checks::wal_senders(facts.used_wal_senders, facts.max_wal_senders, slot_is_read))?;
        let failure = rehearsal.take_if(|error| matches!(error, source::Error::Postgres(pg::Error::Connect { .. })));
        report.line(&checks::replication_connection(failure.map(|error| (error.to_string(), error.hint()))))?;
    }
    let (used, max) = (facts.used_replication_slots, facts.max_replication_slots);
    report.line(&checks::replication_slots(used, max, slot.is_some()))?;
    match &slot {
        Some(slot) => {
            let mut verdict = slot_verdict(slot, &facts, &database);
            if verdict.severity == Severity::Error
                && slot.wal_status.as_deref() == Some("unreserved")
                && rehearsal.is_none()
            {
                // The slot is about to be lost, and a stream that starts now saves it.
                verdict.severity = Severity::Warning;
            }
            report.line(&verdict)?;
        }
        None => {
            let is_created = settings.create_slot || settings.temporary_slot || is_only(settings);
            report.line(&checks::missing_slot(&stream_source(settings).slot, is_created))?;
        }
    }
    let failover = &facts.failover;
    if facts.is_standby {
        let standby = StandbyFacts {
            sync_replication_slots: failover.sync_replication_slots.as_deref(),
            hot_standby_feedback: failover.hot_standby_feedback.as_deref(),
            primary_slot_name: failover.primary_slot_name.as_deref(),
            primary_conninfo_has_dbname: failover.primary_conninfo_has_dbname,
        };
        for verdict in checks::failover_standby(&standby) {
            report.line(&verdict)?;
        }
    } else if let Some(slot) = &slot {
        let slots = failover.synchronized_standby_slots.as_deref();
        match slot.failover {
            Some(true) => {
                report.line(&checks::failover_primary(&settings.slot, slots, &failover.missing_standby_slots))?;
            }
            _ if settings.failover => report.line(&checks::no_failover(&settings.slot))?,
            _ => {}
        }
    }
    let existing = publications::existing(&mut connection, &settings.publications, wait)?;
    for name in &settings.publications {
        report.line(&checks::publication(name, existing.contains(name)))?;
    }
    if slot.as_ref().is_some_and(|slot| {
        slot.plugin.as_deref() == Some("pgoutput")
            && slot.lost().is_none()
            && slot.database.as_deref() == Some(database.as_str())
    }) {
        ages(settings, &existing, &mut connection, wait, report)?;
    }
    let tables = publications::published_tables(&mut connection, &settings.publications, wait)?;
    report.line(&checks::table_count(tables.len()))?;
    for table in &tables {
        report.line(&checks::replica_identity(
            &table.schema,
            &table.table,
            table.replica_identity,
            table.has_primary_key,
            table.publishes_changes,
        ))?;
    }
    // One mistake is one error: a line above may report the same.
    if rehearsal.is_none() || report.errors == 0 {
        report.line(&checks::start(rehearsal.map(|error| (error.to_string(), error.hint()))))?;
    }
    if existing.len() == settings.publications.len() {
        snapshot::check(settings, slot.is_some(), has_stored, &connection, commands, report)?;
    }
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    // A role without the privilege has its line above.
    let system = server::identify_system(&mut connection, wait).ok();
    Ok(Found { system, tables, rehearsed })
}

fn is_only(settings: &StreamSettings) -> bool {
    settings.snapshot.mode == config::SnapshotMode::Only
}

/// The source of the stream; a snapshot alone has a temporary slot of its own.
fn stream_source(settings: &StreamSettings) -> Source {
    let mut source = stream::source(settings);
    if is_only(settings) {
        source.slot = super::snapshot::temporary_slot();
        source.slot_mode = SlotMode::Temporary;
    }
    source
}

/// Performs the start of a stream as far as it changes nothing.
fn rehearse(
    settings: &StreamSettings,
    mut state_file: Option<StateFile>,
    commands: &mut Commands,
) -> Result<Rehearsed, source::Error> {
    open::rehearse(
        &stream_source(settings),
        &mut || Ok(Store::on_disk(&mut state_file).read()?),
        &mut commands.waiter(),
    )
}

/// Reports whether the publications are older than the changes that the slot holds.
fn ages(
    settings: &StreamSettings,
    existing: &[String],
    connection: &mut Connection,
    wait: &mut Wait<'_>,
    report: &mut Report,
) -> Result<(), Error> {
    /// Up to PostgreSQL 17 the server fails to decode without the publication; 18 and later skip the changes.
    const SKIPS_SINCE: i32 = 180_000;
    if existing.is_empty() {
        return Ok(());
    }
    let slot = settings.slot.as_str();
    let doubtful = publications::perhaps_too_young(connection, slot, existing, wait)?;
    let age = if doubtful.is_empty() {
        Age::Older
    } else if connection.server_version() >= SKIPS_SINCE {
        Age::Unknown { reason: "PostgreSQL 18 skips what it cannot decode and does not report it".to_owned() }
    } else {
        match publications::try_decoding(connection, slot, existing, wait) {
            Ok(()) => Age::Older,
            Err(error) if error.sqlstate() == Some(sqlstate::UNDEFINED_OBJECT) => Age::Younger,
            Err(error @ pg::Error::Command { .. }) => Age::Unknown { reason: error.to_string() },
            Err(error) => return Err(error.into()),
        }
    };
    let names = if doubtful.is_empty() { existing } else { &doubtful };
    report.line(&checks::publication_age(&names.join(", "), slot, &age))
}

fn kafka(settings: &StreamSettings, found: &Found, commands: &mut Commands, report: &mut Report) -> Result<(), Error> {
    let failure = kafka::check_properties(settings).err();
    let is_refused = failure.is_some();
    report.line(&checks::kafka_properties(failure.map(|error| (error.to_string(), error.hint()))))?;
    if is_refused {
        return Ok(());
    }
    let brokers = settings.brokers.as_deref().unwrap_or_default();
    let inquiry = match kafka::reach(settings, &mut commands.waiter()) {
        Ok(inquiry) => inquiry,
        Err(error) => return report.line(&checks::brokers(brokers, Some((error.to_string(), error.hint())))),
    };
    report.line(&checks::brokers(brokers, None))?;
    // The answers of Kafka are waited for one by one.
    commands.end_at_once(true);
    let keeps_topic = settings.state.topic && !stream::is_look(settings);
    if let (true, Some(system)) = (keeps_topic || settings.delivery == config::Delivery::ExactlyOnce, &found.system) {
        let topic = checkpoint::topic(&system.identifier, &system.database, &settings.slot);
        let facts = topic_facts(inquiry.cleanup_policy(&topic), || creation(&inquiry, checkpoint_topic(&topic)));
        let verdict = checks::checkpoint_topic(&topic, &facts);
        report.line(&verdict)?;
        if let (Some(rehearsed), true) = (&found.rehearsed, verdict.severity != Severity::Error) {
            position::check(settings, (rehearsed, &found.tables), &topic, &inquiry, commands, report)?;
        }
    }
    if settings.delivery == config::Delivery::ExactlyOnce {
        let given_ms = u64::try_from(kafka::transaction_timeout(settings)?.as_millis()).unwrap_or(u64::MAX);
        let limit_ms = inquiry.transaction_timeout_ms_max().map_err(|error| error.message);
        if let Some(verdict) = checks::transaction_timeout(given_ms, limit_ms) {
            report.line(&verdict)?;
        }
    }
    let mut route = Route::new(settings.topic_prefix.as_deref()).map_err(crate::record::PrepareError::from)?;
    let mut brokers_create = None;
    let passes_refused = settings.on_error != config::OnError::Stop;
    let mut seen = HashSet::new();
    for (index, table) in (0..).zip(&found.tables) {
        let claimed = route.claim(crate::change::RelationIndex(index), &table.schema, &table.table);
        let topic = match claimed {
            Ok(topic) => topic.to_owned(),
            Err(error) => {
                report.line(&Verdict::error(error.to_string(), "rename a table, or remove it from the publication"))?;
                continue;
            }
        };
        if !seen.insert(topic.clone()) {
            continue;
        }
        let has_key = matches!((table.replica_identity, table.has_primary_key), ('i', _) | ('d' | 'f', true));
        let facts = topic_facts(inquiry.cleanup_policy(&topic), || {
            let template = kafka::topic_template(&settings.topics);
            if settings.topics.create {
                return creation(&inquiry, new_topic(&topic, template));
            }
            match brokers_create.get_or_insert_with(|| inquiry.brokers_create_topics()) {
                Ok(true) => creation(&inquiry, new_topic(&topic, BROKERS_OWN)),
                Ok(false) => Creation::Off,
                Err(error) => Creation::Unknown { reason: error.message.clone() },
            }
        });
        report.line(&checks::topic(&topic, &facts, has_key, settings.topics.create, passes_refused))?;
    }
    Ok(())
}

/// The settings of a topic that a broker creates automatically.
const BROKERS_OWN: TopicTemplate = TopicTemplate { partitions: -1, replication_factor: -1, properties: Vec::new() };

fn new_topic(name: &str, template: TopicTemplate) -> NewTopic {
    let TopicTemplate { partitions, replication_factor, properties } = template;
    NewTopic { name: name.to_owned(), partitions, replication_factor, properties }
}

fn checkpoint_topic(name: &str) -> NewTopic {
    let properties = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
    NewTopic { name: name.to_owned(), partitions: 1, replication_factor: -1, properties }
}

/// Asks the cluster whether it would create a topic, without creating it.
fn creation(inquiry: &Inquiry, topic: NewTopic) -> Creation {
    match inquiry.would_create(topic) {
        Ok(()) => Creation::Works,
        Err(error) if error.code == Code::TopicAlreadyExists => Creation::Works,
        // The broker is too old for the question, or none answers.
        Err(error)
            if !error.is_an_answer() || matches!(error.code, Code::UnsupportedVersion | Code::UnsupportedFeature) =>
        {
            Creation::Unknown { reason: error.message }
        }
        Err(error) => Creation::Refused { reason: error.message },
    }
}

fn topic_facts(answer: Result<String, AdminError>, creation: impl FnOnce() -> Creation) -> TopicFacts {
    match answer {
        Ok(cleanup_policy) => TopicFacts::Exists { cleanup_policy },
        Err(error) if matches!(error.code, Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
            TopicFacts::Missing { creation: creation() }
        }
        Err(error) => TopicFacts::Unknown { reason: error.message },
    }
}
