//! From a connection string to a running stream: connect, look before anything is started, and START_REPLICATION.
//!
//! Looks first, because the server reports some mistakes late or never: a publication that is missing when the WAL is
//! decoded stops the stream for ever (rule 20), and a start position below the slot's is moved in silence (rule 8).

use std::time::{Duration, Instant};

use log::{info, warn};

use super::error::Error;
use super::feed::Feed;
use super::waiting::Waiter;
use crate::lsn::Lsn;
use crate::pg::peek::{self, Peek};
use crate::pg::server::{self, SERVER_VERSION_MIN, Slot, System};
use crate::pg::stream::Stream;
use crate::pg::{self, Connection, Kind};
use crate::positions::{self, Facts, Stored, Switch};
use crate::replication::command::{self, FAILOVER_SINCE, SlotOptions, StartReplication};

/// The time between two attempts to connect or to get the slot.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);

/// Creating a slot says what it waits for after this time, and again each time it has passed.
const SLOT_NOTICE_INTERVAL: Duration = Duration::from_secs(5);

/// What to read, and how to get at it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The connection string; none for libpq's own variables and files.
    pub dsn: Option<String>,
    /// The slot.
    pub slot: String,
    /// The publications.
    pub publications: Vec<String>,
    /// How the slot is read.
    pub engine: Engine,
    /// What to do about the slot when it is not there.
    pub slot_mode: SlotMode,
    /// Whether standbys keep a copy of a slot that is made.
    pub failover: bool,
    /// Where to start; none for the slot's confirmed position.
    pub startpos: Option<Lsn>,
    /// How long to keep trying to connect at the start; none for ever.
    pub connect_for: Option<Duration>,
    /// How long to wait for a slot that another process holds; none for ever.
    pub slot_for: Option<Duration>,
    /// End the process that holds the slot.
    pub takeover: bool,
    /// Go on from the slot's position where the stored one disagrees.
    pub accept_gap: bool,
}

/// A position that was delivered, and what messages call the place where it is kept.
#[derive(Clone, Debug)]
pub struct Known {
    /// The position.
    pub stored: Stored,
    /// As in "the state file /var/lib/walcat/shop.json".
    pub store: String,
}

/// How the slot is read.
#[derive(Clone, Debug)]
pub enum Engine {
    /// By a walsender, on a replication connection.
    Streaming,
    /// By one peek after another, on an ordinary connection.
    Polling(peek::Settings),
}

/// Which slot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMode {
    /// One that exists.
    Existing,
    /// One that exists, or a new one.
    Create,
    /// A new one that ends with the session.
    Temporary,
    /// One that exists, or, when another process reads it, a temporary copy of it: for a look without confirming.
    ExistingOrCopy,
}

/// A running stream and what is known about it.
#[derive(Debug)]
pub struct Started {
    /// What is read.
    pub feed: Feed,
    /// The cluster and its position before the stream began.
    pub system: System,
    /// The server's version, such as 150018.
    pub server_version: i32,
    /// The position that the stream starts from.
    pub start: Lsn,
    /// What a stored position is judged by.
    pub facts: Facts,
}

/// Reads what is stored, as often as the slot has to be waited for: its holder may be the one that stores.
pub type ReadStore<'a> = dyn FnMut() -> Result<Option<Known>, Error> + 'a;

/// Connects, checks and starts the stream. While another process holds the slot it is looked at again and again: after a
/// crash the dead session holds it for up to wal_sender_timeout.
///
/// # Errors
/// [`Error::Postgres`], [`Error::Setup`], [`Error::Positions`], [`Error::SlotHeld`].
pub fn start(source: &Source, store: &mut ReadStore<'_>, waiter: &mut Waiter<'_>) -> Result<Started, Error> {
    let mut connection = connect(source, waiter)?;
    let server_version = connection.server_version();
    check_version(server_version)?;
    check_publications(&source.publications, &source.slot, &mut connection, waiter)?;
    let database = identify(source, &mut connection, waiter)?.0.database;
    let (began, mut held) = (Instant::now(), Held::default());
    loop {
        let (name, confirmed) = match settle_slot(source, &database, &mut connection, waiter)? {
            Settled::Free { name, confirmed } => (name, confirmed),
            Settled::Held => {
                held.wait(source, began, &mut connection, waiter)?;
                continue;
            }
        };
        // In this order: while another process still delivers, what is stored is never before the slot that was seen, nor
        // after the WAL's end.
        let known = store()?;
        let (system, switches) = identify(source, &mut connection, waiter)?;
        let facts = Facts {
            system_identifier: system.identifier.clone(),
            timeline: system.timeline,
            wal_end: system.flushed,
            slot: source.slot.clone(),
            confirmed,
            switches,
        };
        let start = match source.startpos {
            Some(startpos) => check_startpos(source, startpos, confirmed)?,
            None => check_stored(known.as_ref(), &facts, source.accept_gap)?,
        };
        match begin(source, &name, start, confirmed, connection, waiter) {
            Ok(feed) => {
                info!(slot = name.as_str(), lsn:% = start, system = system.identifier.as_str(),
                    timeline = system.timeline; "streaming started");
                return Ok(Started { feed, system, server_version, start, facts });
            }
            Err((back, error)) if error.sqlstate() == Some("55006") => {
                connection = back;
                held.wait(source, began, &mut connection, waiter)?;
            }
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// The cluster, its position, and how its timeline came about.
fn identify(
    source: &Source,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(System, Vec<Switch>), Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    Ok(match source.engine {
        Engine::Streaming => {
            let system = server::identify_system(connection, wait)?;
            let switches = server::timeline_history(connection, system.timeline, wait)?;
            (system, switches)
        }
        // Only a walsender tells the history.
        Engine::Polling(_) => (server::identify_system_by_sql(connection, wait)?, Vec::new()),
    })
}

/// Begins to read. The connection comes back with a refusal that leaves it usable, such as an active slot (55006).
fn begin(
    source: &Source,
    slot: &str,
    start: Lsn,
    confirmed: Lsn,
    connection: Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Feed, (Connection, pg::Error)> {
    match &source.engine {
        Engine::Streaming => {
            let publications = &source.publications;
            let text = command::start_replication(&StartReplication { slot, lsn: start, publications });
            Stream::start(connection, &text, &mut |socket, way| waiter.wait(socket, way)).map(Feed::Streaming)
        }
        Engine::Polling(settings) => {
            let (settings, now) = (settings.clone(), Instant::now());
            let peek = Peek::new(connection, settings, slot, &source.publications, confirmed, now);
            Ok(Feed::Polling(Box::new(peek)))
        }
    }
}

/// A slot that another process holds, as far as it was dealt with.
#[derive(Default)]
struct Held {
    told: bool,
    taken_over: bool,
}

impl Held {
    /// Ends the holder where that was asked for, or waits a little.
    fn wait(
        &mut self,
        source: &Source,
        began: Instant,
        connection: &mut Connection,
        waiter: &mut Waiter<'_>,
    ) -> Result<(), Error> {
        let slot = source.slot.as_str();
        let found = server::slot(connection, slot, &mut |socket, way| waiter.wait(socket, way))?;
        let holder = found.and_then(|slot| slot.active_pid);
        if let (Some(pid), true, false) = (holder, source.takeover, self.taken_over) {
            warn!(slot, pid; "takeover: ending the process that holds the slot");
            server::terminate(connection, pid, &mut |socket, way| waiter.wait(socket, way))?;
            self.taken_over = true;
        }
        let pid = holder.map_or("unknown".to_owned(), |pid| pid.to_string());
        if source.slot_for.is_some_and(|limit| began.elapsed() >= limit) {
            return Err(Error::SlotHeld { slot: slot.to_owned(), pid, seconds: began.elapsed().as_secs() });
        }
        if !self.told {
            warn!(slot, pid = pid.as_str(); "the slot is held by another process: waiting");
            self.told = true;
        }
        Ok(waiter.sleep(ATTEMPT_INTERVAL)?)
    }
}

/// Where to start by what is stored: there, or, where the positions disagree and the operator accepts it, where the slot
/// stands.
///
/// # Errors
/// [`Error::Positions`].
pub fn check_stored(known: Option<&Known>, facts: &Facts, accept_gap: bool) -> Result<Lsn, Error> {
    let Some(Known { stored, store }) = known else { return Ok(facts.confirmed) };
    match positions::judge(Some(stored), store, facts) {
        Ok(start) => Ok(start),
        Err(disagreement) if accept_gap => {
            warn!(slot = facts.slot.as_str(), lsn:% = facts.confirmed, stored:% = stored.end_lsn,
                disagreement:% = disagreement; "--accept-gap: going on from the slot's position");
            Ok(facts.confirmed)
        }
        Err(disagreement) => Err(disagreement.into()),
    }
}

/// The server is one that walcat reads.
///
/// # Errors
/// [`Error::Setup`] for an older one.
pub fn check_version(server_version: i32) -> Result<(), Error> {
    if server_version >= SERVER_VERSION_MIN {
        return Ok(());
    }
    Err(Error::Setup {
        message: format!("the server is PostgreSQL {}, which is too old", server_version / 10_000),
        hint: format!("walcat reads PostgreSQL {} to 18", SERVER_VERSION_MIN / 10_000),
    })
}

/// Connects, again and again for as long as `connect_for` says when the server is not there.
fn connect(source: &Source, waiter: &mut Waiter<'_>) -> Result<Connection, Error> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let dsn = source.dsn.as_deref();
        let kind = match source.engine {
            Engine::Streaming => Kind::Replication,
            Engine::Polling(_) => Kind::Pooled,
        };
        let error = match Connection::connect(dsn, kind, &mut |socket, way| waiter.wait(socket, way)) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let may_wait = source.connect_for.is_none_or(|limit| started.elapsed() < limit);
        if error.retry() == pg::error::Retry::Never || !may_wait {
            return Err(error.into());
        }
        if !told {
            warn!(slot = source.slot.as_str(), error:% = error; "PostgreSQL does not answer yet: waiting");
            told = true;
        }
        waiter.sleep(ATTEMPT_INTERVAL)?;
    }
}

/// The publications exist (rule 20).
///
/// # Errors
/// [`Error::Setup`] for the first that does not.
pub fn check_publications(
    publications: &[String],
    slot: &str,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(), Error> {
    if publications.is_empty() {
        return Ok(());
    }
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let existing = server::existing_publications(connection, publications, wait)?;
    let Some(missing) = publications.iter().find(|name| !existing.contains(name)) else { return Ok(()) };
    Err(Error::Setup {
        message: format!("the publication {missing} does not exist in the database {}", connection.database()),
        hint: format!(
            "CREATE PUBLICATION {missing} FOR ALL TABLES (or FOR TABLE ...); if the slot {slot} already holds changes \
             from before the publication, PostgreSQL cannot decode them: drop and create the slot after it"
        ),
    })
}

/// A slot that is to be read.
enum Settled {
    /// It can be begun with, as far as is known.
    Free { name: String, confirmed: Lsn },
    /// Another process reads it, so that a peek would fail.
    Held,
}

impl From<(String, Lsn)> for Settled {
    fn from((name, confirmed): (String, Lsn)) -> Self {
        Settled::Free { name, confirmed }
    }
}

/// The slot to read and its confirmed position; made or copied where that was asked for.
fn settle_slot(
    source: &Source,
    database: &str,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Settled, Error> {
    let found = server::slot(connection, &source.slot, &mut |socket, way| waiter.wait(socket, way))?;
    match (found, source.slot_mode) {
        (None, SlotMode::Create) => create(source, false, connection, waiter).map(Settled::from),
        (None, SlotMode::Temporary) => create(source, true, connection, waiter).map(Settled::from),
        (None, SlotMode::Existing | SlotMode::ExistingOrCopy) => Err(missing_slot(&source.slot)),
        (Some(_), SlotMode::Temporary) => Err(Error::Setup {
            message: format!(
                "a slot named {} exists already, so no temporary one of that name can be made",
                source.slot
            ),
            hint: "leave --slot away: walcat then makes up a name".to_owned(),
        }),
        (Some(slot), mode) => {
            check_slot(&slot, database)?;
            if slot.active && mode == SlotMode::ExistingOrCopy {
                return copy(source, &slot, connection, waiter).map(Settled::from);
            }
            if slot.active && matches!(source.engine, Engine::Polling(_)) {
                return Ok(Settled::Held);
            }
            Ok(Settled::Free { name: source.slot.clone(), confirmed: slot.confirmed() })
        }
    }
}

/// The failure for a slot that is not there.
#[must_use]
pub fn missing_slot(name: &str) -> Error {
    Error::Setup {
        message: format!("the slot {name} does not exist"),
        hint: format!(
            "walcat slot create --slot {name}, or stream with --create-slot; if it did exist, the changes since it was \
             dropped are not in the stream"
        ),
    }
}

/// A slot that exists is one that can be read.
fn check_slot(slot: &Slot, database: &str) -> Result<(), Error> {
    let name = &slot.slot_name;
    let setup = |message: String, hint: &str| Err(Error::Setup { message, hint: hint.to_owned() });
    match slot.plugin.as_deref() {
        Some("pgoutput") => {}
        Some(plugin) => {
            return setup(
                format!("the slot {name} has the plugin {plugin}"),
                "walcat reads slots of the plugin pgoutput",
            );
        }
        None => return setup(format!("the slot {name} is a physical one"), "walcat reads logical slots, of pgoutput"),
    }
    if let Some(other) = slot.database.as_deref().filter(|other| *other != database) {
        let message = format!("the slot {name} belongs to the database {other}, and this is {database}");
        return setup(message, "connect to the slot's database, or use another slot");
    }
    if let Some(why) = slot.lost() {
        return setup(
            format!("the slot {name} is lost for good: {why}"),
            "the WAL that it needed is gone: changes are missing. Drop it, create a new one and copy the tables anew \
             (max_slot_wal_keep_size bounds what slots may hold)",
        );
    }
    Ok(())
}

fn check_startpos(source: &Source, startpos: Lsn, confirmed: Lsn) -> Result<Lsn, Error> {
    if startpos >= confirmed {
        return Ok(startpos);
    }
    Err(Error::Setup {
        message: format!(
            "startpos {startpos} is below the confirmed position {confirmed} of the slot {}: the server would skip the {} \
             bytes between in silence",
            source.slot,
            confirmed.bytes_since(startpos)
        ),
        hint: "leave --startpos away to start at the confirmed position".to_owned(),
    })
}

fn create(
    source: &Source,
    temporary: bool,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(String, Lsn), Error> {
    let options = SlotOptions { temporary, failover: source.failover };
    check_failover(options, connection.server_version())?;
    let lsn = match source.engine {
        Engine::Streaming => create_slot(source.dsn.as_deref(), &source.slot, options, connection, waiter)?,
        Engine::Polling(_) => {
            let wait = &mut |socket, way| waiter.wait(socket, way);
            let lsn = server::create_slot_by_sql(connection, &source.slot, options, wait)?;
            info!(slot = source.slot.as_str(), lsn:% = lsn; "slot created");
            lsn
        }
    };
    Ok((source.slot.clone(), lsn))
}

/// Creates a slot, and says what it waits for while it does (rule 17).
///
/// # Errors
/// [`Error::Setup`] when wal_level is not logical, and [`Error::Postgres`].
pub fn create_slot(
    dsn: Option<&str>,
    name: &str,
    options: SlotOptions,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Lsn, Error> {
    check_failover(options, connection.server_version())?;
    let facts = server::facts(connection, &mut |socket, way| waiter.wait(socket, way))?;
    if facts.wal_level != "logical" {
        return Err(Error::Setup {
            message: format!("wal_level is {} on the server, and logical decoding needs logical", facts.wal_level),
            hint: "ALTER SYSTEM SET wal_level = logical, then restart the server".to_owned(),
        });
    }
    let mut notice_at = Instant::now() + SLOT_NOTICE_INTERVAL;
    let lsn = server::create_slot(connection, name, options, &mut |socket, way| {
        if Instant::now() >= notice_at {
            let blocking = blocking_transactions(dsn, waiter).unwrap_or_default().join("; ");
            warn!(slot = name, blocking = blocking.as_str();
                "creating the slot waits for older transactions to end");
            notice_at = Instant::now() + SLOT_NOTICE_INTERVAL;
        }
        waiter.wait(socket, way)
    })?;
    info!(slot = name, lsn:% = lsn, temporary = options.temporary, failover = options.failover; "slot created");
    Ok(lsn)
}

/// The server can have standbys keep a copy of the slot, where that is asked for (rule 22).
fn check_failover(options: SlotOptions, server_version: i32) -> Result<(), Error> {
    if !options.failover || server_version >= FAILOVER_SINCE {
        return Ok(());
    }
    Err(Error::Setup {
        message: format!("PostgreSQL {} has no failover slots", server_version / 10_000),
        hint: "PostgreSQL 17 has them; leave --failover away".to_owned(),
    })
}

/// Asked on a connection of its own, since the first one is busy creating the slot.
fn blocking_transactions(dsn: Option<&str>, waiter: &mut Waiter<'_>) -> Result<Vec<String>, pg::Error> {
    let mut connection = Connection::connect(dsn, Kind::Ordinary, &mut |socket, way| waiter.wait(socket, way))?;
    server::blocking_transactions(&mut connection, &mut |socket, way| waiter.wait(socket, way))
}

fn copy(
    source: &Source,
    slot: &Slot,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(String, Lsn), Error> {
    let copy = format!("walcat_copy_{}", std::process::id());
    let wait = &mut |socket, way| waiter.wait(socket, way);
    server::copy_slot(connection, &source.slot, &copy, wait)?;
    let pid = slot.active_pid.unwrap_or_default();
    warn!(slot = source.slot.as_str(), pid, copy = copy.as_str();
        "the slot is read by another process: a temporary copy of it is read instead");
    let copied = server::slot(connection, &copy, wait)?;
    Ok((copy, copied.map_or(Lsn::INVALID, |copied| copied.confirmed())))
}
