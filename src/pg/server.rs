//! Facts about a server, its slots and its publications, and the commands that change a slot.
//!
//! Facts only: `session`, `checks` and the commands judge them. Each function is one round trip on a replication
//! connection, which takes SQL by the simple protocol too (rule 19).

use serde::Deserialize;

use super::conn::{Connection, Wait, quote_literal};
use super::error::Error;
use super::ffi::QueryResult;
use crate::lsn::Lsn;
use crate::positions::{Switch, parse_timeline_history};
use crate::replication::command::{self, SlotOptions};

/// The oldest server that walcat reads: 14 sends logical messages and can skip what is not published.
pub const SERVER_VERSION_MIN: i32 = 140_000;

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct System {
    /// The cluster's identifier.
    pub identifier: String,
    /// The timeline.
    pub timeline: u32,
    /// What is flushed to disk (on a standby: what can be decoded).
    pub flushed: Lsn,
    /// The database of the connection.
    pub database: String,
}

/// A row of `pg_replication_slots`, as far as this server version has its columns.
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
    /// The oldest WAL that the slot keeps.
    pub restart_lsn: Option<String>,
    /// What was confirmed.
    pub confirmed_flush_lsn: Option<String>,
    /// reserved, extended, unreserved or lost.
    pub wal_status: Option<String>,
    /// Bytes that may still be written before the slot is in danger (`max_slot_wal_keep_size`).
    pub safe_wal_size: Option<i64>,
    /// Whether prepared transactions are decoded at PREPARE.
    pub two_phase: Option<bool>,
    /// Why the slot is unusable (17 and later).
    pub invalidation_reason: Option<String>,
    /// Whether it conflicted with recovery (16).
    pub conflicting: Option<bool>,
    /// Whether it is kept on standbys (17 and later).
    pub failover: Option<bool>,
}

impl Slot {
    /// The confirmed position; 0/0 when there is none.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.confirmed_flush_lsn.as_deref().and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID)
    }

    /// The oldest WAL that it keeps; 0/0 when there is none.
    #[must_use]
    pub fn restart(&self) -> Lsn {
        self.restart_lsn.as_deref().and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID)
    }

    /// Why the slot can never be read again, if so (rule 21).
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
    /// Time between flush on the server and the client's report of write.
    pub write_lag: Option<String>,
    /// The same for flush.
    pub flush_lag: Option<String>,
    /// The same for apply.
    pub replay_lag: Option<String>,
}

/// A table of a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PublishedTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub table: String,
    /// `relreplident`: d, n, f or i.
    pub replica_identity: char,
    /// Whether there is a primary key.
    pub has_primary_key: bool,
    /// Whether the publication sends updates or deletes.
    pub publishes_changes: bool,
}

/// Settings and use of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServerFacts {
    /// `wal_level`.
    pub wal_level: String,
    /// `server_encoding`.
    pub server_encoding: String,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// Walsenders in use, this connection's own among them.
    pub used_wal_senders: i32,
    /// `max_replication_slots`.
    pub max_replication_slots: i32,
    /// Slots that exist.
    pub used_replication_slots: i32,
    /// Whether the role may replicate (REPLICATION or superuser).
    pub role_may_replicate: bool,
    /// Whether this is a standby.
    pub is_standby: bool,
    /// The WAL position: written on a primary, replayed on a standby (rule 23).
    pub wal_lsn: Option<String>,
    /// `wal_sender_timeout` in milliseconds.
    pub wal_sender_timeout_ms: i64,
    /// What a failover depends on.
    pub failover: FailoverFacts,
}

/// Settings that a failover depends on; none for what this version does not have, or the role may not see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FailoverFacts {
    /// On the primary: the standbys that logical walsenders wait for (17 and later).
    pub synchronized_standby_slots: Option<String>,
    /// On the standby: whether it copies failover slots (17 and later).
    pub sync_replication_slots: Option<String>,
    /// On the standby: whether it keeps the primary from removing rows that a copied slot needs.
    pub hot_standby_feedback: Option<String>,
    /// On the standby: its own slot on the primary.
    pub primary_slot_name: Option<String>,
    /// On the standby: whether `primary_conninfo` names a database.
    pub primary_conninfo_has_dbname: Option<bool>,
}

/// IDENTIFY_SYSTEM.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn identify_system(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<System, Error> {
    const NAME: &str = "IDENTIFY_SYSTEM";
    let result = connection.command(NAME, &command::identify_system(), wait)?;
    let field = |column: usize, name: &str| {
        let missing = || Error::Answer { command: NAME, reason: format!("no {name}") };
        result.value(0, column).ok_or_else(missing)
    };
    let wrong = |what: &str| Error::Answer { command: NAME, reason: format!("{what} is not a number") };
    Ok(System {
        identifier: field(0, "systemid")?.to_owned(),
        timeline: field(1, "timeline")?.parse().map_err(|_| wrong("timeline"))?,
        flushed: field(2, "xlogpos")?.parse().map_err(|_| wrong("xlogpos"))?,
        database: field(3, "dbname")?.to_owned(),
    })
}

/// TIMELINE_HISTORY: the timelines before this one; none for the first, which has no history.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn timeline_history(connection: &mut Connection, timeline: u32, wait: &mut Wait<'_>) -> Result<Vec<Switch>, Error> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let result = connection.command("TIMELINE_HISTORY", &format!("TIMELINE_HISTORY {timeline}"), wait)?;
    Ok(parse_timeline_history(result.value(0, 1).unwrap_or_default()))
}

/// Ends the session of a process, as `pg_terminate_backend` does; says whether there was one.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn terminate(connection: &mut Connection, pid: i32, wait: &mut Wait<'_>) -> Result<bool, Error> {
    let query = format!("SELECT pg_catalog.pg_terminate_backend({pid})");
    let result = connection.command("pg_terminate_backend", &query, wait)?;
    Ok(result.value(0, 0) == Some("t"))
}

/// What IDENTIFY_SYSTEM says, on an ordinary connection. The timeline is that of the last checkpoint.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn identify_system_by_sql(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<System, Error> {
    const NAME: &str = "reading the system's identity";
    const QUERY: &str = "SELECT pg_catalog.json_build_object(\
        'identifier', (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
        'timeline', (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
        'flushed', CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                   ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
        'database', pg_catalog.current_database())";
    let result = connection.command(NAME, QUERY, wait)?;
    json_row(&result, NAME)?.ok_or_else(|| Error::Answer { command: NAME, reason: "no row".to_owned() })
}

/// `pg_create_logical_replication_slot`; returns the slot's consistent point.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn create_slot_by_sql(
    connection: &mut Connection,
    name: &str,
    options: SlotOptions,
    wait: &mut Wait<'_>,
) -> Result<Lsn, Error> {
    const NAME: &str = "pg_create_logical_replication_slot";
    let more = if options.failover { ", false, false, true" } else { "" };
    let query = format!("SELECT lsn FROM pg_catalog.{NAME}({}, 'pgoutput'{more})", quote_literal(name));
    let result = connection.command(NAME, &query, wait)?;
    let lsn = result.value(0, 0).and_then(|text| text.parse().ok());
    lsn.ok_or_else(|| Error::Answer { command: NAME, reason: "no LSN".to_owned() })
}

/// The slot's row; none when there is no such slot.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn slot(connection: &mut Connection, name: &str, wait: &mut Wait<'_>) -> Result<Option<Slot>, Error> {
    let name = quote_literal(name);
    let query = format!("SELECT row_to_json(s) FROM pg_catalog.pg_replication_slots s WHERE slot_name = {name}");
    json_row(&connection.command("reading pg_replication_slots", &query, wait)?, "reading pg_replication_slots")
}

/// The statistics of the process that reads a slot; none when nobody does.
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

/// Settings and use of the server.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn facts(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<ServerFacts, Error> {
    const NAME: &str = "reading the server's settings";
    const QUERY: &str = "SELECT json_build_object(\
        'wal_level', current_setting('wal_level'), \
        'server_encoding', current_setting('server_encoding'), \
        'max_wal_senders', current_setting('max_wal_senders')::int, \
        'used_wal_senders', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'), \
        'max_replication_slots', current_setting('max_replication_slots')::int, \
        'used_replication_slots', (SELECT count(*) FROM pg_replication_slots), \
        'role_may_replicate', (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
        'is_standby', pg_is_in_recovery(), \
        'wal_lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, \
        'wal_sender_timeout_ms', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'), \
        'failover', json_build_object(\
            'synchronized_standby_slots', (SELECT setting FROM pg_settings WHERE name = 'synchronized_standby_slots'), \
            'sync_replication_slots', (SELECT setting FROM pg_settings WHERE name = 'sync_replication_slots'), \
            'hot_standby_feedback', (SELECT setting FROM pg_settings WHERE name = 'hot_standby_feedback'), \
            'primary_slot_name', (SELECT setting FROM pg_settings WHERE name = 'primary_slot_name'), \
            'primary_conninfo_has_dbname', \
            (SELECT setting ~ '(^|\\s)dbname\\s*=' FROM pg_settings WHERE name = 'primary_conninfo')))";
    let result = connection.command(NAME, QUERY, wait)?;
    json_row(&result, NAME)?.ok_or_else(|| Error::Answer { command: NAME, reason: "no row".to_owned() })
}

/// Which of the publications exist.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn existing_publications(
    connection: &mut Connection,
    names: &[String],
    wait: &mut Wait<'_>,
) -> Result<Vec<String>, Error> {
    let list = names.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ");
    let query = format!("SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ({list})");
    let result = connection.command("reading pg_publication", &query, wait)?;
    Ok((0..result.row_count()).filter_map(|row| result.value(row, 0).map(str::to_owned)).collect())
}

/// The tables of the publications, each once.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn published_tables(
    connection: &mut Connection,
    publications: &[String],
    wait: &mut Wait<'_>,
) -> Result<Vec<PublishedTable>, Error> {
    const NAME: &str = "reading pg_publication_tables";
    let list = publications.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ");
    let query = format!(
        "SELECT COALESCE(json_agg(json_build_object('oid', c.oid::int8, 'schema', n.nspname, 'table', c.relname, \
         'replica_identity', c.relreplident, \
         'has_primary_key', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), \
         'publishes_changes', t.changes) ORDER BY n.nspname, c.relname), '[]') \
         FROM (SELECT t.schemaname, t.tablename, bool_or(p.pubupdate OR p.pubdelete) AS changes \
               FROM pg_publication_tables t JOIN pg_publication p USING (pubname) \
               WHERE t.pubname IN ({list}) GROUP BY 1, 2) t \
         JOIN pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename"
    );
    Ok(json_row(&connection.command(NAME, &query, wait)?, NAME)?.unwrap_or_default())
}

/// The transactions that a new slot has to wait for (rule 17): pid, state and age of each, without their queries.
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

/// CREATE_REPLICATION_SLOT; returns the slot's consistent point. Waits for every older transaction.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn create_slot(
    connection: &mut Connection,
    name: &str,
    options: SlotOptions,
    wait: &mut Wait<'_>,
) -> Result<Lsn, Error> {
    const NAME: &str = "CREATE_REPLICATION_SLOT";
    let text = command::create_replication_slot(name, options, connection.server_version());
    let result = connection.command(NAME, &text, wait)?;
    result
        .value(0, 1)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::Answer { command: NAME, reason: "no consistent_point".to_owned() })
}

/// Copies a slot to a temporary one of this session, which ends with it; returns the copy's confirmed position.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn copy_slot(connection: &mut Connection, name: &str, copy: &str, wait: &mut Wait<'_>) -> Result<(), Error> {
    let (name, copy) = (quote_literal(name), quote_literal(copy));
    let query = format!("SELECT pg_catalog.pg_copy_logical_replication_slot({name}, {copy}, true)");
    connection.command("pg_copy_logical_replication_slot", &query, wait).map(drop)
}

/// DROP_REPLICATION_SLOT; fails when the slot is active.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn drop_slot(connection: &mut Connection, name: &str, wait: &mut Wait<'_>) -> Result<(), Error> {
    connection
        .command("DROP_REPLICATION_SLOT", &command::drop_replication_slot(name, command::IfActive::Fail), wait)
        .map(drop)
}

/// The first value of the first row, read as JSON.
fn json_row<T: for<'de> Deserialize<'de>>(result: &QueryResult, command: &'static str) -> Result<Option<T>, Error> {
    let Some(text) = result.value(0, 0) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| Error::Answer { command, reason: error.to_string() })
}
