//! Opens a consistent snapshot: a slot whose snapshot is exported, the connections that import it, and the tables.
//!
//! An exported snapshot lasts as long as the connection that made the slot stays idle. Once every reader has imported it,
//! that connection is not needed any more. The tables are locked (ACCESS SHARE) by the first reader, so that nobody drops
//! or changes them meanwhile; a table that was rewritten before that has lost its rows for the snapshot.

use std::time::{Duration, Instant};

use log::{info, warn};

use super::error::Error;
use super::open::{self, check_publications, check_version};
use super::options::Source;
use super::slot;
use super::waiting::Waiter;
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::patterns::Pattern;
use crate::pg::copy_out::CopyOut;
use crate::pg::server::System;
use crate::pg::tables::{self, Table, json_cell};
use crate::pg::{self, Connection, Direction, Kind};
use crate::wire::replication::command::SlotOptions;

/// The name of the readers' commands in messages.
const NAME: &str = "reading the snapshot";

/// How long a lock may take before the log says that walcat waits for it.
const LOCK_NOTICE: Duration = Duration::from_secs(5);

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The slot that is created.
    pub slot: &'a str,
    /// How it is created.
    pub options: SlotOptions,
    /// The number of connections that read.
    pub connections: u32,
    /// Which of the published tables; empty for all.
    pub tables: &'a [Pattern],
}

/// An open snapshot.
#[derive(Debug)]
pub struct Opened {
    /// The connection that has created the slot. A temporary slot ends with it.
    pub connection: Connection,
    /// The cluster.
    pub system: System,
    /// The consistent point: everything committed before it is in the snapshot, everything later in the slot.
    pub lsn: Lsn,
    /// When it was taken, by the server's clock.
    pub time: PgTimestamp,
    /// The tables, in the order of their names.
    pub tables: Vec<Table>,
    /// The connections, each in a transaction with the snapshot.
    pub readers: Vec<CopyOut>,
}

/// Creates the slot and opens its snapshot.
///
/// # Errors
/// [`Error::Postgres`], [`Error::Setup`], [`Error::Rewritten`].
pub fn open(source: &Source, request: Request<'_>, waiter: &mut Waiter<'_>) -> Result<Opened, Error> {
    let mut connection = open::connect(source, Kind::Replication, waiter)?;
    let (server, server_version) = (connection.server(), connection.server_version());
    check_version(server_version)?;
    let system = open::identify(&mut connection, waiter)?.0;
    check_publications(&source.publications, request.slot, &mut connection, waiter)?;
    let dsn = source.dsn.as_deref();
    let created = slot::create_slot(dsn, request.slot, request.options, &mut connection, waiter)?;
    let temporary = request.options.temporary;
    info!(slot = request.slot, lsn:% = created.lsn, temporary; "slot created, with its snapshot");
    let missing = || pg::Error::Answer { command: "CREATE_REPLICATION_SLOT", reason: "no snapshot".to_owned() };
    let snapshot = created.snapshot.ok_or_else(missing)?;

    let wait = &mut |socket, way| waiter.wait(socket, way);
    let mut readers = Vec::new();
    for _ in 0..request.connections {
        let mut reader = CopyOut::connect(NAME, dsn, &server)?;
        reader.import(&snapshot, wait)?;
        readers.push(reader);
    }
    let [first, ..] = readers.as_mut_slice() else {
        return Err(missing().into());
    };
    let mut tables = tables::published(first, &source.publications, server_version, wait)?;
    let is_wanted =
        |table: &Table| request.tables.is_empty() || request.tables.iter().any(|pattern| table.fits(pattern));
    tables.retain(is_wanted);
    for pattern in request.tables {
        if !tables.iter().any(|table| table.fits(pattern)) {
            warn!(pattern = pattern.text(); "no published table fits the pattern");
        }
    }
    let time = now(first, wait)?;
    lock(first, &tables, waiter)?;
    Ok(Opened { connection, system, lsn: created.lsn, time, tables, readers })
}

/// The time of the snapshot, by the server's clock.
fn now(reader: &mut CopyOut, wait: &mut pg::Wait<'_>) -> Result<PgTimestamp, Error> {
    let query = "COPY (SELECT (extract(epoch FROM transaction_timestamp()) * 1000000)::int8) TO STDOUT";
    let rows = reader.rows(query, wait)?;
    let missing = || pg::Error::Answer { command: NAME, reason: "no time".to_owned() };
    Ok(PgTimestamp::from_unix_us(json_cell(rows.first().ok_or_else(missing)?)?))
}

/// Locks the tables against changes of their definition, and checks that none was rewritten since the snapshot: an old
/// snapshot sees no rows in such a table.
fn lock(reader: &mut CopyOut, tables: &[Table], waiter: &mut Waiter<'_>) -> Result<(), Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    let mut told = false;
    let mut wait = |socket, way: Direction| {
        if !told && began.elapsed() >= LOCK_NOTICE {
            warn!("waiting for a lock on the published tables: another session changes one of them (see pg_locks)");
            told = true;
        }
        waiter.wait(socket, way)
    };
    reader.rows(&tables::lock(tables), &mut wait)?;
    let oids: Vec<_> = tables.iter().map(|table| table.relation.oid.to_string()).collect();
    // The row of pg_class is the snapshot's, the function's answer is of today.
    let rewritten = format!(
        "COPY (SELECT to_json(n.nspname || '.' || c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode AND (c.oid IN ({0}) \
         OR c.oid IN (SELECT t.relid FROM pg_class r CROSS JOIN LATERAL pg_partition_tree(r.oid) t WHERE r.oid IN ({0})))) \
         TO STDOUT",
        oids.join(", ")
    );
    match reader.rows(&rewritten, &mut wait)?.first() {
        Some(row) => Err(Error::Rewritten { table: json_cell(row)? }),
        None => Ok(()),
    }
}
