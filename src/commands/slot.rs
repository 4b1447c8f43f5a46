//! `walcat slot create|drop|status`.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use super::incremental;
use crate::checks::{self, Severity, SlotFacts, Verdict};
use crate::cli::StatusFormat;
use crate::config::{Engine, SlotSettings, StreamSettings};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pg::server::{self, ServerFacts};
use crate::pg::slots::{self, ReplicationLag, Slot};
use crate::pg::{self, Connection, Kind};
use crate::poller::Poller;
use crate::pump;
use crate::signal::StopSignals;
use crate::snapshot::Progress;
use crate::source::slot::missing_slot;
use crate::source::waiting::Waiter;
use crate::source::{open, slot};
use crate::wire::replication::command::SlotOptions;

/// Connections for short commands, and the means to wait for them.
pub(super) struct Commands {
    poller: Poller,
    signals: StopSignals,
}

impl Commands {
    /// Starts to catch signals.
    pub(super) fn new() -> Result<Self, Error> {
        let mut poller = Poller::new().map_err(pump::Error::from)?;
        let mut signals = StopSignals::install().map_err(pump::Error::from)?;
        poller.register_signals(signals.source()).map_err(pump::Error::from)?;
        Ok(Commands { poller, signals })
    }

    /// Whether a signal ends the process by itself, because nothing here would notice it.
    pub(super) fn end_at_once(&self, ends: bool) {
        self.signals.end_at_once(ends);
    }

    /// A wait that ends at the first signal.
    pub(super) fn waiter(&mut self) -> Waiter<'_> {
        Waiter::new(&mut self.poller, &mut self.signals)
    }

    /// A connection of the kind that the engine uses: polling exists for servers without replication connections.
    pub(super) fn connect(&mut self, dsn: Option<&str>, engine: Engine) -> Result<Connection, pg::Error> {
        self.connect_as(dsn, if engine == Engine::Polling { Kind::Pooled } else { Kind::Replication })
    }

    /// A connection for SQL, which uses no walsender.
    pub(super) fn connect_for_sql(&mut self, dsn: Option<&str>, engine: Engine) -> Result<Connection, pg::Error> {
        self.connect_as(dsn, if engine == Engine::Polling { Kind::Pooled } else { Kind::Ordinary })
    }

    fn connect_as(&mut self, dsn: Option<&str>, kind: Kind) -> Result<Connection, pg::Error> {
        let mut waiter = self.waiter();
        Connection::connect(dsn, kind, &mut |socket, way| waiter.wait(socket, way))
    }
}

/// Creates the slot after checking that the publications exist.
///
/// # Errors
/// The server's errors; 78 for a missing publication or a wrong wal_level.
pub fn create(settings: &SlotSettings) -> Result<(), Error> {
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    let mut commands = Commands::new()?;
    let mut connection = commands.connect(dsn, settings.engine)?;
    open::check_version(connection.server_version())?;
    let mut waiter = commands.waiter();
    open::check_publications(&settings.publications, &settings.slot, &mut connection, &mut waiter)?;
    let options = SlotOptions { temporary: false, failover: settings.failover, exports_snapshot: false };
    let lsn = slot::create_slot(dsn, &settings.slot, options, &mut connection, &mut waiter)?.lsn;
    slot::say_what_is_not_sent(&settings.slot);
    print(&format!("slot {} created, starting at {lsn}\n", settings.slot))
}

/// Drops the slot. This discards the changes that it still holds, so walcat asks first unless `--force` is given.
///
/// # Errors
/// 78 if the slot does not exist or belongs to another database, 69 if a process reads it, 2 if there is no terminal to ask
/// on.
pub fn drop(settings: &SlotSettings, force: bool) -> Result<(), Error> {
    let mut commands = Commands::new()?;
    let mut connection = commands.connect_for_sql(settings.dsn.as_ref().map(|dsn| dsn.expose()), settings.engine)?;
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let slot = slots::find(&mut connection, &settings.slot, wait)?.ok_or_else(|| missing_slot(&settings.slot))?;
    slot::check_plugin(&slot)?;
    slot::check_database(&slot, &connection.database())?;
    let discarded_bytes = |facts: &ServerFacts| wal_lsn(facts).bytes_since(slot.confirmed());
    // The server refuses to drop an active slot, so there is nothing to ask.
    if !slot.active && !force {
        let bytes = discarded_bytes(&server::facts(&mut connection, wait)?);
        commands.end_at_once(true);
        let is_confirmed = is_confirmed_by_user(&settings.slot, bytes)?;
        commands.end_at_once(false);
        if !is_confirmed {
            return print(&format!("slot {} not dropped\n", settings.slot));
        }
    }
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let bytes = discarded_bytes(&server::facts(&mut connection, wait)?);
    slots::drop(&mut connection, &settings.slot, wait)?;
    let confirmed = slot.confirmed();
    print(&format!("slot {} dropped; {bytes} bytes of unread WAL after {confirmed} discarded\n", settings.slot))
}

/// Asks on the terminal whether to drop the slot.
fn is_confirmed_by_user(slot: &str, bytes: u64) -> Result<bool, Error> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::Unasked { slot: slot.to_owned(), bytes });
    }
    eprint!("Drop the slot {slot}? This discards {bytes} bytes of unread WAL. [y/N] ");
    let mut answer = String::new();
    stdin.read_line(&mut answer).map_err(pump::Error::from)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Prints the state of the slot and, if something is wrong with it, what to do.
///
/// # Errors
/// 78 if the slot does not exist or has an error.
///
/// `stream` has the settings of the stream, if they are complete: they say where the progress of a snapshot is.
pub fn status(settings: &SlotSettings, stream: Option<&StreamSettings>, format: StatusFormat) -> Result<(), Error> {
    let mut commands = Commands::new()?;
    let mut connection = commands.connect_for_sql(settings.dsn.as_ref().map(|dsn| dsn.expose()), settings.engine)?;
    let database = connection.database();
    let mut waiter = commands.waiter();
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let slot = slots::find(&mut connection, &settings.slot, wait)?.ok_or_else(|| missing_slot(&settings.slot))?;
    let facts = server::facts(&mut connection, wait)?;
    let lag = match slot.active_pid {
        Some(pid) => slots::replication_lag(&mut connection, pid, wait)?,
        None => None,
    };
    let mut status = Status::new(&slot, &facts, lag, &database);
    let mut progress = || {
        let stream = stream.filter(|stream| incremental::has_place(stream))?;
        Some(incremental::stored(stream, &mut waiter, &mut connection))
    };
    match format {
        // Kafka may not answer.
        StatusFormat::Table => {
            print(&status.table())?;
            if let Some(progress) = progress() {
                let text = progress.map_or_else(|error| format!("unknown: {error}"), |one| incremental::summary(&one));
                print(&format!("{:<20} {text}\n", "snapshot"))?;
            }
        }
        StatusFormat::Json => {
            status.snapshot = progress().and_then(Result::ok).flatten();
            print(&status.json())?;
        }
    }
    match status.severity {
        Severity::Error => Err(Error::Slot { finding: status.finding, hint: status.hint }),
        Severity::Ok | Severity::Warning => Ok(()),
    }
}

/// What `slot status` prints. A name that PostgreSQL has is used unchanged.
#[derive(Debug, Serialize)]
struct Status {
    slot_name: String,
    plugin: Option<String>,
    database: Option<String>,
    active_pid: Option<i32>,
    wal_status: Option<String>,
    invalidation_reason: Option<String>,
    confirmed_flush_lsn: Option<Lsn>,
    restart_lsn: Option<Lsn>,
    retained_bytes: u64,
    lag_bytes: u64,
    safe_wal_size: Option<i64>,
    state: Option<String>,
    write_lag: Option<String>,
    flush_lag: Option<String>,
    replay_lag: Option<String>,
    verdict: String,
    #[serde(skip)]
    severity: Severity,
    finding: String,
    hint: Option<String>,
    /// The progress of the snapshots; none if it has no place, or cannot be read.
    snapshot: Option<Progress>,
}

impl Status {
    fn new(slot: &Slot, facts: &ServerFacts, lag: Option<ReplicationLag>, connected_to: &str) -> Self {
        let verdict = slot_verdict(slot, facts, connected_to);
        let now = wal_lsn(facts);
        let lag = lag.unwrap_or_default();
        Status {
            slot_name: slot.slot_name.clone(),
            plugin: slot.plugin.clone(),
            database: slot.database.clone(),
            active_pid: slot.active_pid,
            wal_status: slot.wal_status.clone(),
            invalidation_reason: slot.invalidation_reason.clone(),
            confirmed_flush_lsn: slot.confirmed_flush_lsn,
            restart_lsn: slot.restart_lsn,
            retained_bytes: retained_bytes(slot, facts),
            lag_bytes: now.bytes_since(slot.confirmed()),
            safe_wal_size: slot.safe_wal_size,
            state: lag.state,
            write_lag: lag.write_lag,
            flush_lag: lag.flush_lag,
            replay_lag: lag.replay_lag,
            verdict: verdict.severity.to_string(),
            severity: verdict.severity,
            finding: verdict.finding,
            snapshot: None,
            hint: Some(verdict.hint).filter(|hint| !hint.is_empty()),
        }
    }

    fn json(&self) -> String {
        let mut line = serde_json::to_string(self).expect("numbers and texts can be written as JSON");
        line.push('\n');
        line
    }

    fn table(&self) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let lsn = |value: Option<Lsn>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let rows = [
            ("slot_name", self.slot_name.clone()),
            ("plugin", text(&self.plugin)),
            ("database", text(&self.database)),
            ("active_pid", number(self.active_pid.map(i64::from))),
            ("wal_status", text(&self.wal_status)),
            ("invalidation_reason", text(&self.invalidation_reason)),
            ("confirmed_flush_lsn", lsn(self.confirmed_flush_lsn)),
            ("restart_lsn", lsn(self.restart_lsn)),
            ("retained_bytes", self.retained_bytes.to_string()),
            ("lag_bytes", self.lag_bytes.to_string()),
            ("safe_wal_size", number(self.safe_wal_size)),
            ("state", text(&self.state)),
            ("write_lag", text(&self.write_lag)),
            ("flush_lag", text(&self.flush_lag)),
            ("replay_lag", text(&self.replay_lag)),
            ("verdict", format!("{}: {}", self.verdict, self.finding)),
        ];
        let mut table = String::new();
        for (name, value) in rows {
            let _ = writeln!(table, "{name:<20} {value}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(table, "{:<20} {hint}", "hint");
        }
        table
    }
}

/// The server's current WAL position.
fn wal_lsn(facts: &ServerFacts) -> Lsn {
    facts.wal_lsn.as_deref().and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID)
}

fn retained_bytes(slot: &Slot, facts: &ServerFacts) -> u64 {
    if slot.restart().is_valid() { wal_lsn(facts).bytes_since(slot.restart()) } else { 0 }
}

/// The verdict on an existing slot.
pub(super) fn slot_verdict(slot: &Slot, facts: &ServerFacts, connected_to: &str) -> Verdict {
    let lost = slot.lost();
    checks::slot(&SlotFacts {
        name: &slot.slot_name,
        plugin: slot.plugin.as_deref(),
        database: slot.database.as_deref(),
        connected_to,
        active_pid: slot.active_pid,
        lost: lost.as_deref(),
        two_phase: slot.is_two_phase(),
        wal_status: slot.wal_status.as_deref(),
        retained_bytes: retained_bytes(slot, facts),
    })
}

/// Prints to standard output. A closed pipe is not an error.
pub(super) fn print(text: &str) -> Result<(), Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}
