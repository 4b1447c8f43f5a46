//! Facts about a server: its cluster, its WAL position, its settings.
//!
//! Only facts: `source/open`, `positions` and `checks` judge them. Each function is one round trip; a replication
//! connection accepts SQL through the simple protocol too.

use serde::Deserialize;

use super::conn::{Connection, Wait};
use super::connecting::Kind;
use super::error::Error;
use super::ffi::QueryResult;
use super::sqlstate;
use crate::lsn::Lsn;
use crate::position::{Switch, parse_timeline_history};
use crate::wire::replication::command;

/// The oldest server that walcat supports: version 14 sends logical messages and can skip unpublished tables.
pub const SERVER_VERSION_MIN: i32 = 140_000;

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct System {
    /// The cluster's identifier.
    pub identifier: String,
    /// The timeline.
    pub timeline: u32,
    /// The position flushed to disk (on a standby: the position up to which it can decode).
    pub flushed: Lsn,
    /// The database of the connection.
    pub database: String,
}

/// Settings and usage of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServerFacts {
    /// `wal_level`.
    pub wal_level: String,
    /// `server_encoding`.
    pub server_encoding: String,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// Walsenders in use.
    pub used_wal_senders: i32,
    /// `max_replication_slots`.
    pub max_replication_slots: i32,
    /// Slots that exist.
    pub used_replication_slots: i32,
    /// Whether the role may replicate (REPLICATION or superuser).
    pub role_may_replicate: bool,
    /// Whether this is a standby.
    pub is_standby: bool,
    /// The WAL position: written on a primary, replayed on a standby.
    pub wal_lsn: Option<String>,
    /// `wal_sender_timeout` in milliseconds.
    pub wal_sender_timeout_ms: i64,
    /// What a failover depends on.
    pub failover: FailoverFacts,
}

/// Settings that a failover depends on; none if this version has no such setting, or the role may not see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FailoverFacts {
    /// On the primary: the standbys that logical walsenders wait for (17 and later).
    pub synchronized_standby_slots: Option<String>,
    /// Slots that `synchronized_standby_slots` names but that do not exist.
    pub missing_standby_slots: Vec<String>,
    /// On the standby: whether it copies failover slots (17 and later).
    pub sync_replication_slots: Option<String>,
    /// On the standby: whether it keeps the primary from removing rows that a copied slot needs.
    pub hot_standby_feedback: Option<String>,
    /// On the standby: its own slot on the primary.
    pub primary_slot_name: Option<String>,
    /// On the standby: whether `primary_conninfo` names a database.
    pub primary_conninfo_has_dbname: Option<bool>,
}

/// IDENTIFY_SYSTEM, or the same facts by SQL on an ordinary connection.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn identify_system(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<System, Error> {
    const NAME: &str = "IDENTIFY_SYSTEM";
    if connection.kind() != Kind::Replication {
        return identify_system_by_sql(connection, wait);
    }
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

/// A primary reports the timeline that it writes; a standby knows only the timeline of its last restartpoint.
fn identify_system_by_sql(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<System, Error> {
    const NAME: &str = "reading the system's identity";
    const QUERY: &str = "SELECT pg_catalog.json_build_object(\
        'identifier', (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
        'timeline', CASE WHEN pg_catalog.pg_is_in_recovery() \
                    THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) \
                    ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int \
                    END, \
        'flushed', CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                   ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
        'database', pg_catalog.current_database())";
    let result = connection.command(NAME, QUERY, wait)?;
    json_row(&result, NAME)?.ok_or_else(|| Error::Answer { command: NAME, reason: "no row".to_owned() })
}

/// Whether the server is in recovery.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn is_standby(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<bool, Error> {
    let result = connection.command("pg_is_in_recovery", "SELECT pg_catalog.pg_is_in_recovery()", wait)?;
    Ok(result.value(0, 0) == Some("t"))
}

/// TIMELINE_HISTORY: the timelines before this one; none for the first, which has no history. An ordinary connection reads
/// the server's history file if the role may; otherwise none.
///
/// # Errors
/// Those of [`Connection::command`], and [`Error::Answer`] for an invalid history.
pub fn timeline_history(connection: &mut Connection, timeline: u32, wait: &mut Wait<'_>) -> Result<Vec<Switch>, Error> {
    const NAME: &str = "TIMELINE_HISTORY";
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let (command, column) = if connection.kind() == Kind::Replication {
        (format!("TIMELINE_HISTORY {timeline}"), 1)
    } else {
        (format!("SELECT pg_catalog.pg_read_file('pg_wal/{timeline:08X}.history')"), 0)
    };
    let result = match connection.command(NAME, &command, wait) {
        Err(Error::Command { sqlstate, .. }) if sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE => return Ok(Vec::new()),
        result => result?,
    };
    let switches = parse_timeline_history(result.value(0, column).unwrap_or_default());
    switches.ok_or_else(|| Error::Answer { command: NAME, reason: "not a timeline history".to_owned() })
}

/// On a standby, the end of the replayed WAL, up to which it decodes; none on a primary. The standby may have received and
/// flushed more.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn replayed(connection: &mut Connection, wait: &mut Wait<'_>) -> Result<Option<Lsn>, Error> {
    const QUERY: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() END";
    let result = connection.command("reading the position of the replay", QUERY, wait)?;
    let replayed = result.value(0, 0).map(str::parse).transpose();
    replayed.map_err(|_| Error::Answer { command: "reading the position of the replay", reason: "no LSN".to_owned() })
}

/// Settings and usage of the server.
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
            'missing_standby_slots', (SELECT COALESCE(json_agg(wanted), '[]') FROM (\
                SELECT trim(unnest(string_to_array(setting, ','))) AS wanted FROM pg_settings \
                WHERE name = 'synchronized_standby_slots') AS list \
                WHERE wanted <> '' AND wanted NOT IN (SELECT slot_name::text FROM pg_replication_slots)), \
            'sync_replication_slots', (SELECT setting FROM pg_settings WHERE name = 'sync_replication_slots'), \
            'hot_standby_feedback', (SELECT setting FROM pg_settings WHERE name = 'hot_standby_feedback'), \
            'primary_slot_name', (SELECT setting FROM pg_settings WHERE name = 'primary_slot_name'), \
            'primary_conninfo_has_dbname', \
            (SELECT setting ~ '(^|\\s)dbname\\s*=' FROM pg_settings WHERE name = 'primary_conninfo')))";
    let result = connection.command(NAME, QUERY, wait)?;
    json_row(&result, NAME)?.ok_or_else(|| Error::Answer { command: NAME, reason: "no row".to_owned() })
}

/// The first value of the first row, parsed as JSON.
pub(super) fn json_row<T: for<'de> Deserialize<'de>>(
    result: &QueryResult,
    command: &'static str,
) -> Result<Option<T>, Error> {
    let Some(text) = result.value(0, 0) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| Error::Answer { command, reason: error.to_string() })
}
