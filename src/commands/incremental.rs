//! `walcat snapshot start|pause|resume|stop|status|estimate`: incremental snapshots of a stream that runs on the slot now, or
//! runs later. A request is a logical message in the WAL, which that stream reads.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::kafka::producer_properties;
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
use crate::sink::kafka::exactly_once::checkpoint::{self, Instance, Reader};
use crate::snapshot::Progress;
use crate::snapshot::request::{Kind, Request};
use crate::source::open;
use crate::source::options::Source;
use crate::source::slot::missing_slot;
use crate::source::waiting::Waiter;
use crate::state_file::StateFile;
use crate::wire::replication::command::quote_literal;

const NAME: &str = "the request for a snapshot";

/// How long to read the checkpoint topic.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(30);

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
    let is_automatic = settings.snapshot.mode == config::SnapshotMode::Incremental;
    if stream::is_look(settings) || !is_automatic && !settings.snapshot.new_tables {
        return Ok(());
    }
    check_place(settings)?;
    if !is_automatic {
        return Ok(());
    }
    let mut connection = open::connect(source, source.engine.kind(), waiter)?;
    let slot = slots::find(&mut connection, &settings.slot, &mut |socket, way| waiter.wait(socket, way))?;
    let is_to_begin = match slot {
        None => settings.create_slot,
        Some(_) => state_file.is_some_and(|file| file.stored().is_none()),
    };
    if !is_to_begin {
        return Ok(());
    }
    let tables = published(settings, waiter, &connection)?;
    let fits = |table: &&Table| {
        let Table { relation, .. } = table;
        settings.snapshot.tables.is_empty()
            || settings.snapshot.tables.iter().any(|pattern| pattern.matches(&relation.namespace, &relation.name))
    };
    check_tables(settings, &connection, &tables.iter().filter(fits).collect::<Vec<_>>())
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
    let progress = stored(settings, &mut commands, &mut connection)?.unwrap_or_default();
    print(&match format {
        StatusFormat::Json => {
            let mut text = serde_json::to_string(&progress).expect("names and numbers can be written as JSON");
            text.push('\n');
            text
        }
        StatusFormat::Table => table(&progress, slot.active),
    })
}

/// Shows how large the tables are.
///
/// # Errors
/// 78 for a pattern that no published table fits.
pub fn estimate(settings: &StreamSettings, patterns: &[String]) -> Result<(), Error> {
    let parsed = parse(patterns)?;
    let mut commands = Commands::new()?;
    let connection = connect(settings, &mut commands)?;
    let tables = published(settings, &mut commands.waiter(), &connection)?;
    let mut text = format!("{:>14} {:>16}  table\n", "rows", "bytes");
    let (mut rows, mut bytes) = (0.0, 0);
    for table in chosen(&tables, &parsed, patterns)? {
        let (size, relation) = (table.size, &table.relation);
        let _ = writeln!(text, "{:>14.0} {:>16}  {}.{}", size.rows, size.bytes, relation.namespace, relation.name);
        (rows, bytes) = (rows + size.rows, bytes + size.bytes);
    }
    let _ = writeln!(text, "{rows:>14.0} {bytes:>16}  in all, as the statistics of the server estimate it");
    print(&text)
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

fn connect(settings: &StreamSettings, commands: &mut Commands) -> Result<Connection, Error> {
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
    let (file, topic) = (&settings.state.file, settings.state.topic);
    if file.is_some() || topic || settings.delivery == config::Delivery::ExactlyOnce {
        return Ok(());
    }
    Err(Error::Snapshot {
        reason: "a snapshot has no place for its progress".to_owned(),
        hint: Some("set file or topic in [state], or delivery = \"exactly-once\", here and for the stream".to_owned()),
    })
}

fn parse(patterns: &[String]) -> Result<Vec<Pattern>, Error> {
    let parse = |text: &String| {
        Pattern::parse(text)
            .map_err(|why| Error::Snapshot { reason: format!("invalid pattern of tables: {why}"), hint: None })
    };
    patterns.iter().map(parse).collect()
}

fn published(settings: &StreamSettings, waiter: &mut Waiter<'_>, connection: &Connection) -> Result<Vec<Table>, Error> {
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    let mut copy = CopyOut::connect(NAME, dsn, &connection.server())?;
    let wait = &mut |socket, way| waiter.wait(socket, way);
    Ok(tables::published(&mut copy, &settings.publications, connection.server_version(), wait)?)
}

/// The tables that fit a pattern; all without patterns.
fn chosen<'a>(tables: &'a [Table], patterns: &[Pattern], texts: &[String]) -> Result<Vec<&'a Table>, Error> {
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
fn check_tables(settings: &StreamSettings, connection: &Connection, tables: &[&Table]) -> Result<(), Error> {
    let mut encoder = Encoder::new(&record::Settings {
        accept_keyless: false,
        ..stream::encoding(settings, &connection.database())
    })?;
    for table in tables {
        if encoder.key_columns(&table.relation, &table.answer)?.is_empty() {
            let (schema, name) = (&table.relation.namespace, &table.relation.name);
            return Err(Error::Snapshot {
                reason: format!("the table {schema}.{name} has no key, so it cannot be read in chunks"),
                hint: Some("add a primary key or set REPLICA IDENTITY USING INDEX, or choose other tables".to_owned()),
            });
        }
    }
    Ok(())
}

/// The progress as it is stored.
fn stored(
    settings: &StreamSettings,
    commands: &mut Commands,
    connection: &mut Connection,
) -> Result<Option<Progress>, Error> {
    if let Some(path) = &settings.state.file {
        let file = StateFile::open(path, settings.state.interval).map_err(crate::pump::Error::from)?;
        return Ok(file.stored().and_then(|stored| stored.snapshot.clone()));
    }
    if settings.state.topic {
        return Err(Error::Snapshot {
            reason: "cannot show the progress that [state] topic keeps".to_owned(),
            hint: Some("the log of the stream says when a table is complete".to_owned()),
        });
    }
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    const QUERY: &str = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
    let result = connection.command("reading the system identifier", QUERY, wait)?;
    let identifier = result.value(0, 0).unwrap_or_default().to_owned();
    let topic = checkpoint::topic(&identifier, &connection.database(), &settings.slot);
    let brokers = settings.brokers.as_deref().unwrap_or_default();
    let mut reader =
        Reader::new(brokers, &producer_properties(settings), &topic, &Instance::this()).map_err(sink::Error::from)?;
    let began = Instant::now();
    while !reader.is_at_end() {
        reader.advance().map_err(sink::Error::from)?;
        if began.elapsed() >= CHECKPOINT_PATIENCE {
            let reason = format!("cannot read the checkpoint topic {topic}");
            return Err(Error::Snapshot { reason, hint: None });
        }
        waiter.sleep(LOOK_INTERVAL)?;
    }
    Ok(reader.history().checkpoint.as_ref().and_then(|checkpoint| checkpoint.stored.snapshot.clone()))
}
