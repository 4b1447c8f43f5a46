//! Slots: the server's facts about one, and the commands that create, copy, free and drop it.
//!
//! Each function is one round trip; a replication connection accepts SQL through the simple protocol too.

use serde::Deserialize;

use super::conn::{Connection, Wait};
use super::connecting::Kind;
use super::error::{Error, TERMINATE};
use super::ffi::QueryResult;
use super::server::json_row;
use crate::lsn::Lsn;
use crate::wire::replication::command::{self, SlotOptions, quote_literal};

/// A row of `pg_replication_slots`, with the columns that this server version has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// The slot's name.
    pub slot_name: String,
    /// The output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// `logical` or `physical`.
    pub slot_type: String,
    /// The database of a logical slot.
    pub database: Option<String>,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// Whether a process reads it now.
    pub active: bool,
    /// That process.
    pub active_pid: Option<i32>,
    /// The oldest WAL that the slot retains.
    pub restart_lsn: Option<Lsn>,
    /// The confirmed position.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// reserved, extended, unreserved or lost.
    pub wal_status: Option<String>,
    /// Bytes that the server may still write before the slot is in danger (`max_slot_wal_keep_size`).
    pub safe_wal_size: Option<i64>,
    /// Whether prepared transactions are decoded at PREPARE.
    pub two_phase: Option<bool>,
    /// Why the slot is unusable (17 and later).
    pub invalidation_reason: Option<String>,
    /// Whether it conflicted with recovery (16).
    pub conflicting: Option<bool>,
    /// Whether standbys keep a copy of it (17 and later).
    pub failover: Option<bool>,
}

impl Slot {
    /// The confirmed position; 0/0 when there is none.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed_flush_lsn.unwrap_or(Lsn::INVALID)
    }

    /// The oldest WAL that it retains; 0/0 when there is none.
    #[must_use]
    pub fn restart(&self) -> Lsn {
        self.restart_lsn.unwrap_or(Lsn::INVALID)
    }

    /// Whether prepared transactions are decoded at PREPARE, which walcat does not support.
    #[must_use]
    pub fn is_two_phase(&self) -> bool {
        self.two_phase == Some(true)
    }

    /// Why the slot can never be read again; none if it can.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        match (&self.invalidation_reason, self.wal_status.as_deref()) {
            (Some(reason), _) => Some(format!("invalidation_reason = {reason}")),
            (None, Some("lost")) => Some("wal_status = lost".to_owned()),
            _ if self.conflicting == Some(true) => Some("it conflicted with recovery".to_owned()),
            _ => None,
        }
    }
}

/// The row of `pg_stat_replication` of the process that reads a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ReplicationLag {
    /// The client's `application_name`.
    pub application_name: Option<String>,
    /// startup, catchup, streaming, backup or stopping.
    pub state: Option<String>,
    /// The time between the flush on the server and the client's report of the write.
    pub write_lag: Option<String>,
    /// The same for flush.
    pub flush_lag: Option<String>,
    /// The same for apply.
    pub replay_lag: Option<String>,
}

/// The holder of a slot, as far as the role may see it: client, application, and since when.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn holder(connection: &mut Connection, pid: i32, wait: &mut Wait<'_>) -> Result<Option<String>, Error> {
    let query = format!(
        "SELECT concat_ws(', ', 'pid ' || pid, 'user ' || usename, \
         CASE WHEN backend_start IS NULL THEN NULL ELSE 'client ' || COALESCE(host(client_addr), 'on this host') END, \
         'application ' || NULLIF(application_name, ''), \
         'since ' || to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) \
         FROM pg_catalog.pg_stat_activity WHERE pid = {pid}"
    );
    let result = connection.command("reading pg_stat_activity", &query, wait)?;
    Ok(result.value(0, 0).map(str::to_owned))
}

/// The slot's row; none if the slot does not exist.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn find(connection: &mut Connection, name: &str, wait: &mut Wait<'_>) -> Result<Option<Slot>, Error> {
    let name = quote_literal(name);
    let query = format!("SELECT row_to_json(s) FROM pg_catalog.pg_replication_slots s WHERE slot_name = {name}");
    json_row(&connection.command("reading pg_replication_slots", &query, wait)?, "reading pg_replication_slots")
}

/// Whether no transaction was ever sent from a slot, according to the server's statistics: a crash erases them, and standbys
/// do not copy them.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn is_unread(connection: &mut Connection, name: &str, wait: &mut Wait<'_>) -> Result<bool, Error> {
    const NAME: &str = "reading pg_stat_replication_slots";
    let name = quote_literal(name);
    let query = format!("SELECT total_txns FROM pg_catalog.pg_stat_replication_slots WHERE slot_name = {name}");
    let result = connection.command(NAME, &query, wait)?;
    Ok(result.value(0, 0).is_none_or(|count| count == "0"))
}

/// The statistics of the process that reads a slot; none if no process reads it.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn replication_lag(
    connection: &mut Connection,
    pid: i32,
    wait: &mut Wait<'_>,
) -> Result<Option<ReplicationLag>, Error> {
    const NAME: &str = "reading pg_stat_replication";
    let query = format!("SELECT row_to_json(s) FROM pg_catalog.pg_stat_replication s WHERE pid = {pid}");
    json_row(&connection.command(NAME, &query, wait)?, NAME)
}

/// Ends the session of a process with `pg_terminate_backend`; returns whether the process existed.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn terminate(connection: &mut Connection, pid: i32, wait: &mut Wait<'_>) -> Result<bool, Error> {
    let query = format!("SELECT pg_catalog.pg_terminate_backend({pid})");
    let result = connection.command(TERMINATE, &query, wait)?;
    Ok(result.value(0, 0) == Some("t"))
}

/// The transactions that a new slot has to wait for: pid, state and age of each, without their queries.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn blocking_transactions(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<Vec<String>, Error> {
    const QUERY: &str = "SELECT format('pid %s (%s, open for %s s)', pid, state, \
         extract(epoch FROM clock_timestamp() - xact_start)::bigint) FROM pg_catalog.pg_stat_activity \
         WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5";
    let result = connection.command("reading pg_stat_activity", QUERY, wait)?;
    Ok((0..result.row_count()).filter_map(|row| result.value(row, 0).map(str::to_owned)).collect())
}

/// Creates a slot and returns its consistent point: by CREATE_REPLICATION_SLOT, or by SQL on an ordinary connection. It
/// waits for every older transaction.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn create(
    connection: &mut Connection,
    name: &str,
    options: SlotOptions,
    wait: &mut Wait<'_>,
) -> Result<Created, Error> {
    const NAME: &str = "CREATE_REPLICATION_SLOT";
    if connection.kind() != Kind::Replication {
        return create_by_sql(connection, name, options, wait).map(|lsn| Created { lsn, snapshot: None });
    }
    let text = command::create_replication_slot(name, options, connection.server_version());
    // The command waits for the end of every older transaction.
    let result = connection.command_without_limit(NAME, &text, wait)?;
    let lsn = result.value(0, 1).and_then(|text| text.parse().ok());
    let lsn = lsn.ok_or_else(|| Error::Answer { command: NAME, reason: "no consistent_point".to_owned() })?;
    Ok(Created { lsn, snapshot: result.value(0, 2).map(str::to_owned) })
}

/// A slot that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its consistent point: everything committed later is in its stream.
    pub lsn: Lsn,
    /// The exported snapshot of everything before it, which lasts until the connection's next command.
    pub snapshot: Option<String>,
}

/// Whether a slot still has to send changes of its publications from before an LSN; none if that cannot be found out in
/// reasonable time. Decodes on a temporary copy of the slot.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn has_changes_before(
    connection: &mut Connection,
    slot: &str,
    publications: &[String],
    before: Lsn,
    wait: &mut Wait<'_>,
) -> Result<Option<bool>, Error> {
    /// The server decodes at most this many changes, and empty transactions before PostgreSQL 15 count too.
    const CHANGES_MAX: i64 = 10_000;
    let copy_name = format!("walcat_verify_{}", std::process::id());
    copy(connection, slot, &copy_name, wait)?;
    let list = publications.iter().map(|name| command::quote_identifier(name)).collect::<Vec<_>>().join(",");
    // Begin and Commit, which an empty transaction has too, are not changes.
    let peek = format!(
        "BEGIN; SET LOCAL statement_timeout = '10s'; \
         SELECT count(*) FILTER (WHERE chr(get_byte(data, 0)) NOT IN ('B', 'C')), count(*) \
         FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, '{before}', {CHANGES_MAX}, \
         'proto_version', '1', 'publication_names', {})",
        quote_literal(&copy_name),
        quote_literal(&list)
    );
    let peeked = connection.command("pg_logical_slot_peek_binary_changes", &peek, wait);
    connection.command("ROLLBACK", "ROLLBACK", wait)?;
    drop(connection, &copy_name, wait)?;
    let number = |result: &QueryResult, column| result.value(0, column).and_then(|text| text.parse::<i64>().ok());
    match peeked {
        Ok(result) => Ok(match (number(&result, 0), number(&result, 1)) {
            (Some(0), Some(all)) if all < CHANGES_MAX => Some(false),
            (Some(0), _) | (None, _) => None,
            (Some(_), _) => Some(true),
        }),
        // It takes too long, or the server cannot decode: the stream reports that.
        Err(Error::Command { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn create_by_sql(
    connection: &mut Connection,
    name: &str,
    options: SlotOptions,
    wait: &mut Wait<'_>,
) -> Result<Lsn, Error> {
    const NAME: &str = "pg_create_logical_replication_slot";
    let temporary = options.temporary;
    let more = if options.failover { ", false, true" } else { "" };
    let query = format!("SELECT lsn FROM pg_catalog.{NAME}({}, 'pgoutput', {temporary}{more})", quote_literal(name));
    let result = connection.command_without_limit(NAME, &query, wait)?;
    let lsn = result.value(0, 0).and_then(|text| text.parse().ok());
    lsn.ok_or_else(|| Error::Answer { command: NAME, reason: "no LSN".to_owned() })
}

/// Copies a slot to a temporary slot of this session, which ends with the session.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn copy(connection: &mut Connection, name: &str, copy: &str, wait: &mut Wait<'_>) -> Result<(), Error> {
    let (name, copy) = (quote_literal(name), quote_literal(copy));
    let query = format!("SELECT pg_catalog.pg_copy_logical_replication_slot({name}, {copy}, true)");
    connection.command("pg_copy_logical_replication_slot", &query, wait).map(|_| ())
}

/// Drops a slot; fails if it is active.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn drop(connection: &mut Connection, name: &str, wait: &mut Wait<'_>) -> Result<(), Error> {
    let dropped = if connection.kind() == Kind::Replication {
        connection.command("DROP_REPLICATION_SLOT", &command::drop_replication_slot(name), wait)
    } else {
        let query = format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(name));
        connection.command("pg_drop_replication_slot", &query, wait)
    };
    dropped.map(|_| ())
}
