//! What the configured snapshot needs: a place for its progress, keys, and rows that the role can read. Reads no row.

use super::Report;
use crate::checks::{self, Readable};
use crate::commands::incremental;
use crate::commands::slot::Commands;
use crate::config::{SnapshotMode, StreamSettings};
use crate::error::Error;
use crate::pg::copy_out::CopyOut;
use crate::pg::tables::{Part, Table};
use crate::pg::{self, Connection, sqlstate};

/// Whether the stream would begin a snapshot, and with which consequence of a table that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// It ends the run.
    Whole,
    /// It ends the snapshot of that table.
    InChunks,
}

/// Checks the snapshot with which a stream would begin now. `has_slot` and `has_stored` say whether the slot exists and a
/// position is stored for it.
pub(super) fn check(
    settings: &StreamSettings,
    has_slot: bool,
    has_stored: bool,
    connection: &Connection,
    commands: &mut Commands,
    report: &mut Report,
) -> Result<(), Error> {
    let is_initial = settings.snapshot.mode == SnapshotMode::Initial && settings.create_slot && !has_slot;
    if (incremental::needs_place(settings) || is_initial) && !incremental::has_place(settings) {
        let error = incremental::no_place();
        return report.line(&checks::snapshot_refused(&error.to_string(), error.hint()));
    }
    let begins = match settings.snapshot.mode {
        SnapshotMode::Never => return Ok(()),
        SnapshotMode::Only => Begins::Whole,
        SnapshotMode::Initial if is_initial => Begins::Whole,
        SnapshotMode::Initial => return Ok(()),
        SnapshotMode::Incremental if !incremental::must_begin(settings, has_slot, has_stored) => return Ok(()),
        SnapshotMode::Incremental => Begins::InChunks,
    };
    let tables = incremental::wanted(settings, &mut commands.waiter(), connection)?;
    if begins == Begins::InChunks
        && let Err(error) = incremental::check_tables(settings, connection, &tables.iter().collect::<Vec<_>>())
    {
        return report.line(&checks::snapshot_refused(&error.to_string(), error.hint()));
    }
    let mut unreadable = Vec::new();
    let mut reader = None;
    for table in &tables {
        if let Err(error) = read_nothing(&mut reader, settings, connection, table, commands) {
            if !matches!(error, pg::Error::Command { .. }) {
                return Err(error.into());
            }
            unreadable.push(error.to_string());
        }
    }
    let readable = Readable { tables: tables.len(), unreadable: &unreadable, ends_the_run: begins == Begins::Whole };
    report.line(&checks::snapshot(&readable))
}

/// Performs the read of a table up to its first row, on the connection of the table before.
fn read_nothing(
    reader: &mut Option<CopyOut>,
    settings: &StreamSettings,
    connection: &Connection,
    table: &Table,
    commands: &mut Commands,
) -> Result<(), pg::Error> {
    let copy = match reader {
        Some(copy) => copy,
        None => {
            let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
            reader.insert(CopyOut::connect("reading the table for a snapshot", dsn, &connection.server())?)
        }
    };
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let select = table.copy(&Part { limit: Some(0), ..Part::default() });
    let name = table.only();
    let read = format!("BEGIN READ ONLY; LOCK TABLE {name} IN ACCESS SHARE MODE NOWAIT; {select}; COMMIT");
    let result = copy.rows(&read, wait);
    if result.is_err() {
        // A failure closes the connection.
        *reader = None;
    }
    match result {
        // Another session changes the table, and a snapshot would wait for it.
        Err(error) if error.sqlstate() == Some(sqlstate::LOCK_NOT_AVAILABLE) => Ok(()),
        result => result.map(drop),
    }
}
