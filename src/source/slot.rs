//! Which slot to read, and what to do if it is missing or another process holds it.
//!
//! walcat never recreates a slot by itself: a missing slot was dropped, and the changes since then are a gap.

use std::time::{Duration, Instant};

use log::{info, warn};

use crate::checks::{TWO_PHASE, two_phase_cure};
use crate::lsn::Lsn;
use crate::pg::server;
use crate::pg::slots::{self, Created, Slot};
use crate::pg::{self, Connection, Kind, Server, sqlstate};
use crate::source::error::Error;
use crate::source::options::{ATTEMPT_INTERVAL, Engine, SlotMode, Source};
use crate::source::waiting::Waiter;
use crate::wire::replication::command::{FAILOVER_SINCE, SlotOptions};

/// While a slot is being created, walcat logs what it waits for, each time this interval has passed.
const SLOT_NOTICE_INTERVAL: Duration = Duration::from_secs(5);

/// The slot to read.
pub(crate) enum Choice {
    /// As far as walcat knows, the slot can be read.
    Free { name: String, confirmed: Lsn },
    /// Another process reads the slot, so a peek would fail.
    Held,
}

impl From<(String, Lsn)> for Choice {
    fn from((name, confirmed): (String, Lsn)) -> Self {
        Choice::Free { name, confirmed }
    }
}

/// Returns the slot to read and its confirmed position; creates or copies the slot on request.
pub(crate) fn choose(
    source: &Source,
    database: &str,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Choice, Error> {
    let found = slots::find(connection, &source.slot, &mut |socket, way| waiter.wait(socket, way))?;
    match (found, source.slot_mode) {
        (None, SlotMode::Create) => create(source, false, connection, waiter).map(Choice::from),
        (None, SlotMode::Temporary) => create(source, true, connection, waiter).map(Choice::from),
        (None, SlotMode::Existing | SlotMode::ExistingOrCopy) => Err(missing_slot(&source.slot)),
        (Some(_), SlotMode::Temporary) => Err(taken_name(&source.slot)),
        (Some(slot), mode) => {
            check_slot(&slot, database)?;
            if slot.active && mode == SlotMode::ExistingOrCopy {
                return copy(source, &slot, connection, waiter).map(Choice::from);
            }
            if slot.active && matches!(source.engine, Engine::Polling(_)) {
                return Ok(Choice::Held);
            }
            Ok(Choice::Free { name: source.slot.clone(), confirmed: slot.confirmed() })
        }
    }
}

/// The result of [`choose`] without its changes: the confirmed position of the slot; none if it would create one.
pub(crate) fn rehearse(
    source: &Source,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Option<Lsn>, Error> {
    let found = slots::find(connection, &source.slot, &mut |socket, way| waiter.wait(socket, way))?;
    match (found, source.slot_mode) {
        (Some(_), SlotMode::Temporary) => Err(taken_name(&source.slot)),
        (Some(slot), _) => Ok(Some(slot.confirmed())),
        (None, SlotMode::Existing | SlotMode::ExistingOrCopy) => Err(missing_slot(&source.slot)),
        (None, mode) => {
            let temporary = mode == SlotMode::Temporary;
            check_failover(
                SlotOptions { temporary, failover: source.failover, exports_snapshot: false },
                connection.server_version(),
            )?;
            Ok(None)
        }
    }
}

fn taken_name(slot: &str) -> Error {
    Error::Setup {
        message: format!("the slot {slot} already exists, so a temporary slot cannot have that name"),
        hint: "omit --slot: walcat then generates a name".to_owned(),
    }
}

/// The failure for a missing slot.
#[must_use]
pub fn missing_slot(name: &str) -> Error {
    Error::Setup {
        message: format!("the slot {name} does not exist"),
        hint: format!(
            "run walcat slot create --slot {name}, or stream with --create-slot; if the slot existed before, the \
             changes since it was dropped are not in the stream"
        ),
    }
}

/// Checks that the slot uses pgoutput.
///
/// # Errors
/// [`Error::Setup`].
pub fn check_plugin(slot: &Slot) -> Result<(), Error> {
    let name = &slot.slot_name;
    let message = match slot.plugin.as_deref() {
        Some("pgoutput") => return Ok(()),
        Some(plugin) => format!("the slot {name} uses the plugin {plugin}"),
        None => format!("the slot {name} is a physical slot"),
    };
    Err(Error::Setup { message, hint: "use a logical slot with the plugin pgoutput".to_owned() })
}

/// Checks that the slot belongs to this database.
///
/// # Errors
/// [`Error::Setup`].
pub fn check_database(slot: &Slot, database: &str) -> Result<(), Error> {
    let Some(other) = slot.database.as_deref().filter(|other| *other != database) else { return Ok(()) };
    Err(Error::Setup {
        message: format!(
            "the slot {} belongs to the database {other}, but the connection is to {database}",
            slot.slot_name
        ),
        hint: "connect to the slot's database, or use another slot".to_owned(),
    })
}

/// Checks that the slot, if it exists, can be read. Returns whether it exists.
pub(crate) fn check_existing(
    source: &Source,
    database: &str,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<bool, Error> {
    let found = slots::find(connection, &source.slot, &mut |socket, way| waiter.wait(socket, way))?;
    found.map_or(Ok(false), |slot| check_slot(&slot, database).map(|()| true))
}

/// Checks that an existing slot can be read.
fn check_slot(slot: &Slot, database: &str) -> Result<(), Error> {
    let name = &slot.slot_name;
    let setup = |message: String, hint: &str| Err(Error::Setup { message, hint: hint.to_owned() });
    check_plugin(slot)?;
    check_database(slot, database)?;
    if let Some(why) = slot.lost() {
        return setup(
            format!("the slot {name} is permanently lost: {why}"),
            "the server removed WAL that the slot needs: changes are missing. Drop the slot, create a new one and \
             reload the tables with walcat snapshot start (max_slot_wal_keep_size limits the WAL that a slot may retain)",
        );
    }
    if slot.is_two_phase() {
        return setup(format!("the slot {name} is {TWO_PHASE}"), &two_phase_cure(name));
    }
    Ok(())
}

/// The wait for a slot that another process holds.
#[derive(Default)]
pub(crate) struct HeldSlot {
    told: bool,
    taken_over: bool,
}

impl HeldSlot {
    /// Ends the holder if requested, otherwise waits a little.
    pub(crate) fn wait(
        &mut self,
        source: &Source,
        began: Instant,
        connection: &mut Connection,
        waiter: &mut Waiter<'_>,
    ) -> Result<(), Error> {
        let slot = source.slot.as_str();
        let found = slots::find(connection, slot, &mut |socket, way| waiter.wait(socket, way))?;
        let holder = found.and_then(|slot| slot.active_pid);
        if let Some(pid) = holder.filter(|pid| !self.taken_over && source.takeover.includes(*pid)) {
            warn!(slot, pid; "takeover: ending the process that holds the slot");
            slots::terminate(connection, pid, &mut |socket, way| waiter.wait(socket, way))?;
            self.taken_over = true;
        }
        let is_over = source.slot_for.is_some_and(|limit| began.elapsed() >= limit);
        if is_over || !self.told {
            let wait = &mut |socket, way| waiter.wait(socket, way);
            let known = holder.map(|pid| slots::holder(connection, pid, wait)).transpose()?.flatten();
            let holder = known.unwrap_or_else(|| match holder {
                Some(pid) => format!("pid {pid}"),
                None => "unknown, it has just ended".to_owned(),
            });
            if is_over {
                return Err(Error::SlotHeld { slot: slot.to_owned(), holder, seconds: began.elapsed().as_secs() });
            }
            warn!(slot, holder = holder.as_str(); "another process holds the slot; waiting");
            self.told = true;
        }
        Ok(waiter.sleep(ATTEMPT_INTERVAL)?)
    }
}

fn create(
    source: &Source,
    temporary: bool,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(String, Lsn), Error> {
    let options = SlotOptions { temporary, failover: source.failover, exports_snapshot: false };
    let lsn = create_slot(source.dsn.as_deref(), &source.slot, options, connection, waiter)?.lsn;
    info!(slot = source.slot.as_str(), lsn:% = lsn, temporary, failover = options.failover; "slot created");
    if !temporary && !source.rows_follow {
        say_what_is_not_sent(&source.slot);
    }
    Ok((source.slot.clone(), lsn))
}

/// Logs that a new slot has only later changes.
pub fn say_what_is_not_sent(slot: &str) {
    info!(slot;
        "rows that are already in the tables are not sent; to send them, run walcat snapshot start (it needs [state] file \
         or exactly-once delivery)");
}

/// Creates a slot, and logs what it waits for.
///
/// # Errors
/// [`Error::Setup`] when wal_level is not logical, and [`Error::Postgres`].
pub fn create_slot(
    dsn: Option<&str>,
    name: &str,
    options: SlotOptions,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Created, Error> {
    check_failover(options, connection.server_version())?;
    let facts = server::facts(connection, &mut |socket, way| waiter.wait(socket, way))?;
    if facts.wal_level != "logical" {
        return Err(Error::Setup {
            message: format!("wal_level is {} on the server, but logical decoding requires logical", facts.wal_level),
            hint: "run ALTER SYSTEM SET wal_level = logical, then restart the server".to_owned(),
        });
    }
    let tell = |blocking: &str| warn!(slot = name, blocking; "creating the slot waits for older transactions to end");
    create_and_tell(dsn, name, options, connection, waiter, &tell).map_err(Error::from)
}

/// Creates a slot, and tells of the transactions that it waits for, each time the interval has passed.
///
/// # Errors
/// Those of the server.
pub fn create_and_tell(
    dsn: Option<&str>,
    name: &str,
    options: SlotOptions,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
    tell: &dyn Fn(&str),
) -> Result<Created, pg::Error> {
    let (server, mut notice_at) = (connection.server(), Instant::now() + SLOT_NOTICE_INTERVAL);
    slots::create(connection, name, options, &mut |socket, way| {
        if Instant::now() >= notice_at {
            tell(&blocking_transactions(dsn, &server, waiter).unwrap_or_default().join("; "));
            notice_at = Instant::now() + SLOT_NOTICE_INTERVAL;
        }
        waiter.wait(socket, way)
    })
}

/// Checks that the server supports failover slots if one is requested.
fn check_failover(options: SlotOptions, server_version: i32) -> Result<(), Error> {
    if !options.failover || server_version >= FAILOVER_SINCE {
        return Ok(());
    }
    Err(Error::Setup {
        message: format!("PostgreSQL {} does not support failover slots", server_version / 10_000),
        hint: "upgrade to PostgreSQL 17 or later, or omit --failover".to_owned(),
    })
}

/// Asks on a second connection to the same server, since the first one is busy creating the slot.
fn blocking_transactions(
    dsn: Option<&str>,
    server: &Server,
    waiter: &mut Waiter<'_>,
) -> Result<Vec<String>, pg::Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let mut connection = Connection::connect_to(dsn, Some(server), Kind::Pooled, wait)?;
    slots::blocking_transactions(&mut connection, &mut |socket, way| waiter.wait(socket, way))
}

/// Drops a slot that this run created and cannot use: it would only retain WAL.
pub(crate) fn drop_new(source: &Source, name: &str, waiter: &mut Waiter<'_>) -> Result<(), pg::Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let mut connection = Connection::connect(source.dsn.as_deref(), source.engine.kind(), wait)?;
    loop {
        match slots::drop(&mut connection, name, &mut |socket, way| waiter.wait(socket, way)) {
            // Our own session has not quite ended.
            Err(error) if error.sqlstate() == Some(sqlstate::OBJECT_IN_USE) => waiter.sleep(ATTEMPT_INTERVAL)?,
            result => return result,
        }
    }
}

fn copy(
    source: &Source,
    slot: &Slot,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(String, Lsn), Error> {
    let copy = format!("walcat_copy_{}", std::process::id());
    let wait = &mut |socket, way| waiter.wait(socket, way);
    slots::copy(connection, &source.slot, &copy, wait)?;
    let pid = slot.active_pid.unwrap_or_default();
    warn!(slot = source.slot.as_str(), pid, copy = copy.as_str();
        "another process reads the slot; reading a temporary copy of it");
    let copied = slots::find(connection, &copy, wait)?;
    Ok((copy, copied.map_or(Lsn::INVALID, |copied| copied.confirmed())))
}
