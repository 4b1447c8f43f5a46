//! `walcat snapshot start|pause|resume|stop|status`: incremental snapshots of a stream that runs on the slot now, or
//! runs later. A request is a logical message in the WAL, which that stream reads.

use std::fmt::Write as _;

use super::kafka;
use super::slot::{Commands, print};
use super::stream;
use crate::cli::StatusFormat;
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::patterns::Pattern;
use crate::pg::copy_out::CopyOut;
use crate::pg::tables::{self, Table};
use crate::pg::{Connection, slots};
use crate::record::{self, Encoder};
use crate::session::REQUEST_PREFIX;
use crate::sink;
use crate::sink::kafka::exactly_once::checkpoint;
use crate::snapshot::Progress;
use crate::snapshot::request::{Kind, Request};
use crate::source::open;
use crate::source::options::Source;
use crate::source::slot::missing_slot;
use crate::source::waiting::Waiter;
use crate::state_file::StateFile;
use crate::wire::replication::command::quote_literal;

const NAME: &str = "the request for a snapshot";

/// Requests something of the stream.
///
/// # Errors
/// 78 without a place for the progress, for a pattern that no published table fits, and for a table without a key.
pub fn request(settings: &StreamSettings, kind: Kind, patterns: &[String]) -> Result<(), Error> {
    check_place(settings)?;
    let parsed = parse(patterns)?;
    let mut commands = Commands::new()?;
    let mut connection = connect(settings, &mut commands)?;
    let slot = find_slot(settings, &mut commands, &mut connection)?;
    if kind == Kind::Start {
        let tables = published(settings, &mut commands.waiter(), &connection)?;
        check_tables(settings, &connection, &chosen(&tables, &parsed, patterns)?)?;
    }
    let request = Request { slot: settings.slot.clone(), request: kind, tables: patterns.to_vec() };
    // The commit flushes the message. A standby that is away must not delay the command.
    let text = format!(
        "BEGIN; SET LOCAL synchronous_commit = local; \
         SELECT pg_catalog.pg_logical_emit_message(true, {}, {}); COMMIT",
        quote_literal(REQUEST_PREFIX),
        quote_literal(&request.render())
    );
    let mut waiter = commands.waiter();
    connection.command(NAME, &text, &mut |socket, way| waiter.wait(socket, way))?;
    let word = kind.word();
    print(&match slot.active {
        true => format!("snapshot {word} requested of the stream on the slot {}\n", settings.slot),
        false => format!(
            "snapshot {word} requested; no stream reads the slot {} now: the request waits until one runs\n",
            settings.slot
        ),
    })
}

/// Checks what the stream's own incremental snapshots need, before it creates or takes the slot.
///
/// # Errors
/// 78 without a place for the progress, and for a table without a key if the snapshot of all tables is still to begin.
pub(super) fn check(
    settings: &StreamSettings,
    source: &Source,
    state_file: Option<&StateFile>,
    waiter: &mut Waiter<'_>,
) -> Result<(), Error> {
    if !needs_place(settings) {
        return Ok(());
    }
    check_place(settings)?;
    if settings.snapshot.mode != config::SnapshotMode::Incremental {
        return Ok(());
    }
    let mut connection = open::connect(source, source.engine.kind(), waiter)?;
    let slot = slots::find(&mut connection, &settings.slot, &mut |socket, way| waiter.wait(socket, way))?;
    let has_stored = state_file.is_some_and(|file| file.stored().is_some());
    if !must_begin(settings, slot.is_some(), has_stored) {
        return Ok(());
    }
    let tables = wanted(settings, waiter, &connection)?;
    check_tables(settings, &connection, &tables.iter().collect::<Vec<_>>())
}

/// Whether the stream reads tables in chunks without a request.
pub(super) fn needs_place(settings: &StreamSettings) -> bool {
    let is_automatic = settings.snapshot.mode == config::SnapshotMode::Incremental;
    let is_only = settings.snapshot.mode == config::SnapshotMode::Only;
    !stream::is_look(settings) && !is_only && (is_automatic || settings.snapshot.new_tables)
}

/// Whether the snapshot of all tables is still to begin, as far as it can be known before Kafka is asked.
pub(super) fn must_begin(settings: &StreamSettings, has_slot: bool, has_stored: bool) -> bool {
    if has_slot { settings.state.file.is_some() && !has_stored } else { settings.create_slot }
}

/// The published tables that `[snapshot] tables` chooses.
pub(super) fn wanted(
    settings: &StreamSettings,
    waiter: &mut Waiter<'_>,
    connection: &Connection,
) -> Result<Vec<Table>, Error> {
    let patterns = &settings.snapshot.tables;
    let fits = |table: &Table| {
        let Table { relation, .. } = table;
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&relation.namespace, &relation.name))
    };
    let mut tables = published(settings, waiter, connection)?;
    tables.retain(fits);
    Ok(tables)
}

/// Shows what is left.
///
/// # Errors
/// 78 without a place for the progress.
pub fn status(settings: &StreamSettings, format: StatusFormat) -> Result<(), Error> {
    check_place(settings)?;
    let mut commands = Commands::new()?;
    let mut connection = connect(settings, &mut commands)?;
    let slot = find_slot(settings, &mut commands, &mut connection)?;
    let progress = stored(settings, &mut commands.waiter(), &mut connection)?.unwrap_or_default();
    print(&match format {
        StatusFormat::Json => {
            let mut text = serde_json::to_string(&progress).expect("names and numbers can be written as JSON");
            text.push('\n');
            text
        }
        StatusFormat::Table => table(&progress, slot.active),
    })
}

/// One line about what is left.
pub(super) fn summary(progress: &Option<Progress>) -> String {
    let Some(progress) = progress.as_ref().filter(|progress| !progress.is_idle()) else {
        return "none under way".to_owned();
    };
    let paused = if progress.is_paused { "paused; " } else { "" };
    let left = progress.tables.len() + progress.patterns.len();
    match progress.tables.first() {
        Some(table) => {
            let (schema, name, rows) = (&table.schema, &table.table, table.rows);
            format!("{paused}{schema}.{name}: {rows} rows sent; {left} tables or patterns left")
        }
        None => format!("{paused}requested: {}", progress.patterns.join(", ")),
    }
}

fn table(progress: &Progress, is_active: bool) -> String {
    if progress.is_idle() {
        return "no snapshot is under way\n".to_owned();
    }
    let mut text = String::new();
    if progress.is_paused {
        text.push_str("paused: walcat snapshot resume goes on\n");
    } else if !is_active {
        text.push_str("no stream reads the slot now: the snapshot goes on when one runs\n");
    }
    let _ = writeln!(text, "{:>14}  table", "rows sent");
    for table in &progress.tables {
        let _ = writeln!(text, "{:>14}  {}.{}", table.rows, table.schema, table.table);
    }
    for pattern in &progress.patterns {
        let _ = writeln!(text, "{:>14}  {pattern} (not looked up yet)", "-");
    }
    text
}

pub(super) fn connect(settings: &StreamSettings, commands: &mut Commands) -> Result<Connection, Error> {
    Ok(commands.connect_for_sql(settings.dsn.as_ref().map(|dsn| dsn.expose()), settings.engine)?)
}

fn find_slot(
    settings: &StreamSettings,
    commands: &mut Commands,
    connection: &mut Connection,
) -> Result<slots::Slot, Error> {
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    Ok(slots::find(connection, &settings.slot, wait)?.ok_or_else(|| missing_slot(&settings.slot))?)
}

/// Progress needs a place, so that a crash does not begin again.
fn check_place(settings: &StreamSettings) -> Result<(), Error> {
    if has_place(settings) { Ok(()) } else { Err(no_place()) }
}

/// The error of [`check_place`].
pub(super) fn no_place() -> Error {
    Error::Snapshot {
        reason: "a snapshot has no place for its progress".to_owned(),
        hint: Some("set file or topic in [state], or delivery = \"exactly-once\", here and for the stream".to_owned()),
    }
}

pub(super) fn parse(patterns: &[String]) -> Result<Vec<Pattern>, Error> {
    let parse = |text: &String| {
        Pattern::parse(text)
            .map_err(|why| Error::Snapshot { reason: format!("invalid pattern of tables: {why}"), hint: None })
    };
    patterns.iter().map(parse).collect()
}

pub(super) fn published(
    settings: &StreamSettings,
    waiter: &mut Waiter<'_>,
    connection: &Connection,
) -> Result<Vec<Table>, Error> {
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    let mut copy = CopyOut::connect(NAME, dsn, &connection.server())?;
    let wait = &mut |socket, way| waiter.wait(socket, way);
    Ok(tables::published(&mut copy, &settings.publications, connection.server_version(), wait)?)
}

/// The tables that fit a pattern; all without patterns.
pub(super) fn chosen<'a>(tables: &'a [Table], patterns: &[Pattern], texts: &[String]) -> Result<Vec<&'a Table>, Error> {
    for (pattern, text) in patterns.iter().zip(texts) {
        if !tables.iter().any(|table| table.fits(pattern)) {
            return Err(Error::Snapshot {
                reason: format!("no published table fits the pattern {text}"),
                hint: Some("add the table to the publication, or name another one".to_owned()),
            });
        }
    }
    let is_chosen = |table: &&Table| patterns.is_empty() || patterns.iter().any(|pattern| table.fits(pattern));
    Ok(tables.iter().filter(is_chosen).collect())
}

/// A table without a key cannot be read in chunks.
pub(super) fn check_tables(settings: &StreamSettings, connection: &Connection, tables: &[&Table]) -> Result<(), Error> {
    let mut keys = Keys::new(settings, connection)?;
    for table in tables {
        if keys.of(table)?.is_empty() {
            let (schema, name) = (&table.relation.namespace, &table.relation.name);
            return Err(Error::Snapshot {
                reason: format!("the table {schema}.{name} has no key, so it cannot be read in chunks"),
                hint: Some("add a primary key or set REPLICA IDENTITY USING INDEX, or choose other tables".to_owned()),
            });
        }
    }
    Ok(())
}

/// Knows by which columns a table is read in chunks.
pub(super) struct Keys(Encoder);

impl Keys {
    pub(super) fn new(settings: &StreamSettings, connection: &Connection) -> Result<Self, Error> {
        Ok(Keys(Encoder::new(&record::Settings {
            accept_keyless: false,
            ..stream::encoding(settings, &connection.database())
        })?))
    }

    /// The names of the columns; none if the table cannot be read in chunks.
    pub(super) fn of(&mut self, table: &Table) -> Result<Vec<String>, Error> {
        let places = self.0.key_columns(&table.relation, &table.answer)?;
        Ok(places.iter().map(|place| table.relation.columns[*place].name.clone()).collect())
    }
}

/// The progress as it is stored.
///
/// # Errors
/// Those of the state file and of Kafka.
pub(super) fn stored(
    settings: &StreamSettings,
    waiter: &mut Waiter<'_>,
    connection: &mut Connection,
) -> Result<Option<Progress>, Error> {
    if let Some(path) = &settings.state.file {
        let file = StateFile::open(path, settings.state.interval).map_err(crate::pump::Error::from)?;
        return Ok(file.stored().and_then(|stored| stored.snapshot.clone()));
    }
    let wait = &mut |socket, way| waiter.wait(socket, way);
    const QUERY: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
    let result = connection.command("reading the system identifier", QUERY, wait)?;
    let identifier = result.value(0, 0).unwrap_or_default().to_owned();
    let topic = checkpoint::topic(&identifier, &connection.database(), &settings.slot);
    let history = kafka::stored_history(settings, &topic).map_err(sink::Error::from)?;
    Ok(history.checkpoint.and_then(|checkpoint| checkpoint.stored.snapshot))
}

/// Whether the progress of snapshots has a place.
pub(super) fn has_place(settings: &StreamSettings) -> bool {
    let (file, topic) = (&settings.state.file, settings.state.topic);
    file.is_some() || topic || settings.delivery == config::Delivery::ExactlyOnce
}
