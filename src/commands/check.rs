//! `walcat check`: what would stop a stream, seen before it is started. Gathers facts, has `checks` judge them, prints a
//! line each.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::kafka;
use super::slot::{Commands, print, slot_verdict};
use crate::checks::{self, Severity, StandbyFacts, TopicFacts, Verdict};
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::pg::publications::{self, PublishedTable};
use crate::pg::server::{self, SERVER_VERSION_MIN, System};
use crate::pg::slots;
use crate::route::Route;
use crate::sink;
use crate::sink::kafka::admin::AdminError;
use crate::sink::kafka::checkpoint;
use crate::sink::kafka::inquiry::Inquiry;

/// The newest server that walcat is tested with.
const NEWEST_MAJOR: i32 = 18;

/// Checks everything that can be checked without starting the stream.
///
/// # Errors
/// 78 when an error was found; before that those of the connection itself.
pub fn run(settings: &StreamSettings) -> Result<(), Error> {
    let mut report = Report::default();
    if let Some(path) = &settings.state.file {
        let failure = state_directory(path).err().map(|error| error.to_string());
        report.line(&checks::state_file(&path.display().to_string(), failure.as_deref()))?;
    }
    let found = postgres(settings, &mut report)?;
    if settings.sink == config::Sink::Kafka {
        kafka(settings, &found, &mut report)?;
    }
    if report.errors > 0 {
        return Err(Error::Checks { count: report.errors, total: report.total });
    }
    Ok(())
}

/// The directory that a state file is to be in.
fn state_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::fs::metadata(directory)?.permissions();
    if permissions.readonly() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
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

/// What the checks of Kafka need to know of PostgreSQL.
#[derive(Default)]
struct Found {
    system: Option<System>,
    tables: Vec<PublishedTable>,
}

fn postgres(settings: &StreamSettings, report: &mut Report) -> Result<Found, Error> {
    let mut commands = Commands::new()?;
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    // Facts take no walsender, of which none may be left.
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
    let replication = match settings.engine {
        config::Engine::Streaming => Some(commands.connect(dsn, settings.engine).err()),
        config::Engine::Polling => None,
    };
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    report.line(&checks::wal_level(&facts.wal_level))?;
    report.line(&checks::server_encoding(&facts.server_encoding))?;
    report.line(&checks::role(facts.role_may_replicate))?;
    if let Some(failure) = replication {
        let slot_is_read = slot.as_ref().is_some_and(|slot| slot.active);
        report.line(&checks::wal_senders(facts.used_wal_senders, facts.max_wal_senders, slot_is_read))?;
        let failure = failure.map(|error| (error.to_string(), error.hint()));
        report.line(&checks::replication_connection(failure))?;
    }
    let (used, max) = (facts.used_replication_slots, facts.max_replication_slots);
    report.line(&checks::replication_slots(used, max, slot.is_some()))?;
    match &slot {
        Some(slot) => report.line(&slot_verdict(slot, &facts, &database))?,
        None => report.line(&checks::missing_slot(&settings.slot, settings.create_slot))?,
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
    // A role that may not ask has its line above.
    let system = server::identify_system(&mut connection, wait).ok();
    Ok(Found { system, tables })
}

fn kafka(settings: &StreamSettings, found: &Found, report: &mut Report) -> Result<(), Error> {
    let failure = kafka::check_properties(settings).err();
    let is_refused = failure.is_some();
    report.line(&checks::kafka_properties(failure.map(|error| (error.to_string(), error.hint()))))?;
    if is_refused {
        return Ok(());
    }
    let brokers = settings.brokers.as_deref().unwrap_or_default();
    let inquiry = Inquiry::new(&kafka::properties(&settings.kafka), brokers).map_err(sink::Error::from)?;
    let failure = inquiry.cluster().err().map(|error| error.message);
    report.line(&checks::brokers(brokers, failure.as_deref()))?;
    if failure.is_some() {
        return Ok(());
    }
    if let (config::Delivery::ExactlyOnce, Some(system)) = (settings.delivery, &found.system) {
        let topic = checkpoint::topic(&system.identifier, &system.database, &settings.slot);
        report.line(&checks::checkpoint_topic(&topic, &topic_facts(inquiry.cleanup_policy(&topic))))?;
    }
    let mut route = Route::new(settings.topic_prefix.as_deref()).map_err(crate::encode::PrepareError::from)?;
    let mut seen = HashSet::new();
    for (index, table) in (0..).zip(&found.tables) {
        let claimed = route.claim(crate::change::RelationIndex(index), &table.schema, &table.table);
        let topic = match claimed {
            Ok(topic) => topic.to_owned(),
            Err(error) => {
                report
                    .line(&Verdict::error(error.to_string(), "rename a table, or leave it out of the publication"))?;
                continue;
            }
        };
        if !seen.insert(topic.clone()) {
            continue;
        }
        let has_key = table.replica_identity == 'i' || table.has_primary_key;
        let facts = topic_facts(inquiry.cleanup_policy(&topic));
        report.line(&checks::topic(&topic, &facts, has_key, settings.topics.create))?;
    }
    Ok(())
}

fn topic_facts(answer: Result<String, AdminError>) -> TopicFacts {
    use rdkafka::error::RDKafkaErrorCode as Code;
    match answer {
        Ok(cleanup_policy) => TopicFacts::Exists { cleanup_policy },
        Err(error) if matches!(error.code, Code::UnknownTopicOrPartition | Code::UnknownTopic) => TopicFacts::Missing,
        Err(error) => TopicFacts::Unknown { reason: error.message },
    }
}
