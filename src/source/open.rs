//! From a connection string to a running stream: connect, look before anything is started, and START_REPLICATION.
//!
//! Looks first, because the server reports some mistakes late or never: a publication that is missing when the WAL is
//! decoded stops the stream for ever, and a start position below the slot's is moved in silence.

use std::time::Instant;

use log::{info, warn};

use crate::lsn::Lsn;
use crate::pg::peek::Peek;
use crate::pg::publications::{self, PublishedTable};
use crate::pg::server::{self, SERVER_VERSION_MIN, System};
use crate::pg::slots;
use crate::pg::stream::Stream;
use crate::pg::{self, Connection, Server, sqlstate};
use crate::positions::{self, Disagreement, Facts, Reached, Start, Stored, Switch};
use crate::pump::Error;
use crate::source::Feed;
use crate::source::options::{ATTEMPT_INTERVAL, Engine, SlotMode, Source};
use crate::source::slot;
use crate::source::waiting::Waiter;
use crate::wire::replication::command::{self, StartReplication};

/// A position that was delivered, and what messages call the place where it is kept.
#[derive(Clone, Debug)]
pub struct Known {
    /// The position.
    pub stored: Stored,
    /// As in "the state file /var/lib/walcat/shop.json".
    pub store: String,
}

/// A running stream and what is known about it.
#[derive(Debug)]
pub struct Started {
    /// What is read.
    pub feed: Feed,
    /// The server that it comes from: every other question goes there too.
    pub server: Server,
    /// The cluster and its position before the stream began.
    pub system: System,
    /// The server's version, such as 150018.
    pub server_version: i32,
    /// The position that the stream starts from.
    pub start: Lsn,
    /// The end of the last records before it that were delivered, as far as it is known.
    pub records: Reached,
    /// The end of the WAL that could be decoded before the stream began.
    pub decodable: Lsn,
    /// Whether what was known lies beyond what this server shares with it, and had no records.
    pub is_cut: bool,
    /// What a stored position is judged by.
    pub facts: Facts,
    /// The tables that are published, if something was read from the slot before, as far as the server knows; else none.
    pub read_tables: Vec<PublishedTable>,
    /// Whether the server is a standby, whose timeline may change.
    pub is_standby: bool,
    /// The slot, where this run has made it.
    pub new_slot: Option<String>,
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
    let (server, server_version) = (connection.server(), connection.server_version());
    check_version(server_version)?;
    let system = identify(&mut connection, waiter)?.0;
    let database = system.database.clone();
    let exists = slot::check_existing(source, &database, &mut connection, waiter)?;
    if !exists && source.slot_mode == SlotMode::Create {
        check_new_slot(source, &system.identifier, store)?;
    }
    check_publications(&source.publications, &source.slot, &mut connection, waiter)?;
    let (began, mut held) = (Instant::now(), slot::Held::default());
    loop {
        let (name, confirmed) = match slot::choose(source, &database, &mut connection, waiter)? {
            slot::Choice::Free { name, confirmed } => (name, confirmed),
            slot::Choice::Held => {
                held.wait(source, began, &mut connection, waiter)?;
                continue;
            }
        };
        // In this order: while another process still delivers, what is stored is never before the slot that was seen, nor
        // after the WAL's end.
        let known = store()?;
        // In this order: one that is promoted in between counts as a standby, whose timeline is asked for again.
        let is_standby = server::is_standby(&mut connection, &mut |socket, way| waiter.wait(socket, way))?;
        let read_tables = read_tables(source, &name, &mut connection, waiter)?;
        let (system, switches) = identify(&mut connection, waiter)?;
        let replayed = server::replayed(&mut connection, &mut |socket, way| waiter.wait(socket, way))?;
        let decodable = replayed.unwrap_or(system.flushed).min(system.flushed);
        let facts = Facts {
            system_identifier: system.identifier.clone(),
            timeline: system.timeline,
            wal_end: system.flushed,
            slot: source.slot.clone(),
            confirmed,
            switches,
        };
        let start = match source.startpos {
            Some(startpos) => check_startpos(source, startpos, &facts, known.as_ref())?,
            None => check_stored(known.as_ref(), &facts, source.accept_gap)?,
        };
        match begin(source, &name, start.lsn, confirmed, connection, waiter) {
            Ok(feed) => {
                info!(slot = name.as_str(), lsn:% = start.lsn, system = system.identifier.as_str(),
                    timeline = system.timeline; "streaming started");
                let Start { lsn: start, records, is_cut } = start;
                let new_slot = (!exists && source.slot_mode == SlotMode::Create).then_some(name);
                return Ok(Started {
                    feed,
                    server,
                    system,
                    server_version,
                    start,
                    records,
                    decodable,
                    is_cut,
                    facts,
                    read_tables,
                    is_standby,
                    new_slot,
                });
            }
            Err((back, error)) if error.sqlstate() == Some(sqlstate::OBJECT_IN_USE) => {
                connection = back;
                held.wait(source, began, &mut connection, waiter)?;
            }
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// What [`start`] looks at before it makes or takes a slot, for `walcat check`: nothing is changed, and a slot that is held is
/// not waited for. What comes later, from START_REPLICATION on, cannot be known without doing it.
///
/// # Errors
/// Those of [`start`].
pub fn rehearse(source: &Source, store: &mut ReadStore<'_>, waiter: &mut Waiter<'_>) -> Result<(), Error> {
    let mut connection = connect(source, waiter)?;
    check_version(connection.server_version())?;
    let database = identify(&mut connection, waiter)?.0.database;
    slot::check_existing(source, &database, &mut connection, waiter)?;
    check_publications(&source.publications, &source.slot, &mut connection, waiter)?;
    let Some(confirmed) = slot::rehearse(source, &mut connection, waiter)? else { return Ok(()) };
    let known = store()?;
    let (system, switches) = identify(&mut connection, waiter)?;
    let facts = Facts {
        system_identifier: system.identifier,
        timeline: system.timeline,
        wal_end: system.flushed,
        slot: source.slot.clone(),
        confirmed,
        switches,
    };
    match source.startpos {
        Some(startpos) => check_startpos(source, startpos, &facts, known.as_ref()).map(drop),
        None => check_stored(known.as_ref(), &facts, source.accept_gap).map(drop),
    }
}

/// The cluster, its position, and how its timeline came about.
fn identify(connection: &mut Connection, waiter: &mut Waiter<'_>) -> Result<(System, Vec<Switch>), Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let system = server::identify_system(connection, wait)?;
    let switches = server::timeline_history(connection, system.timeline, wait)?;
    Ok((system, switches))
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

/// Where to start by what is stored: there, or, where the positions disagree and the operator accepts it, where the slot
/// stands.
///
/// # Errors
/// [`Error::Positions`].
pub fn check_stored(known: Option<&Known>, facts: &Facts, accept_gap: bool) -> Result<Start, Error> {
    let (stored, store) = known.map_or((None, ""), |known| (Some(&known.stored), known.store.as_str()));
    let verdict = positions::judge(stored, store, facts);
    if let (Ok(Start { is_cut: true, lsn, records }), Some(stored)) = (&verdict, stored) {
        info!(slot = facts.slot.as_str(), idle:% = stored.end_lsn, stored_timeline = stored.timeline,
            timeline = facts.timeline, records_end:% = records.lsn, lsn:%;
            "the server does not have the WAL up to the stored position, which held no records: going back");
    }
    accept(verdict, stored, facts, accept_gap)
}

/// A verdict, or the slot's position where the operator accepts that.
///
/// # Errors
/// [`Error::Positions`].
pub fn accept(
    verdict: Result<Start, Disagreement>,
    stored: Option<&Stored>,
    facts: &Facts,
    accept_gap: bool,
) -> Result<Start, Error> {
    match verdict {
        Err(disagreement) if accept_gap => {
            let end_lsn = stored.map_or(Lsn::INVALID, |stored| stored.end_lsn);
            warn!(slot = facts.slot.as_str(), lsn:% = facts.confirmed, stored:% = end_lsn,
                disagreement:% = disagreement; "--accept-gap: going on from the slot's position");
            Ok(Start::accepted(stored, facts))
        }
        verdict => Ok(verdict?),
    }
}

/// A slot that is missing may be made: no store says that it was read.
fn check_new_slot(source: &Source, system_identifier: &str, store: &mut ReadStore<'_>) -> Result<(), Error> {
    let Some(Known { stored, store }) = store()? else { return Ok(()) };
    match positions::judge_new_slot(&stored, &store, system_identifier, &source.slot) {
        Err(disagreement) if !source.accept_gap => Err(disagreement.into()),
        _ => Ok(()),
    }
}

/// The tables that are published, where transactions were sent from the slot before.
fn read_tables(
    source: &Source,
    slot: &str,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<Vec<PublishedTable>, Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    if source.publications.is_empty() || slots::is_unread(connection, slot, wait)? {
        return Ok(Vec::new());
    }
    Ok(publications::published_tables(connection, &source.publications, wait)?)
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
        let error = match Connection::connect(dsn, source.engine.kind(), &mut |socket, way| waiter.wait(socket, way)) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let may_wait = source.connect_for.is_none_or(|limit| started.elapsed() < limit);
        if !error.may_pass() || !may_wait {
            return Err(error.into());
        }
        if !told {
            warn!(slot = source.slot.as_str(), error:% = error; "PostgreSQL does not answer yet: waiting");
            told = true;
        }
        waiter.sleep(ATTEMPT_INTERVAL)?;
    }
}

/// The publications exist.
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
    let existing = publications::existing(connection, publications, wait)?;
    let Some(missing) = publications.iter().find(|name| !existing.contains(name)) else { return Ok(()) };
    let quoted = command::quote_identifier_where_needed(missing);
    Err(Error::Setup {
        message: format!("the publication {missing} does not exist in the database {}", connection.database()),
        hint: format!(
            "CREATE PUBLICATION {quoted} FOR ALL TABLES (or FOR TABLE ...); if the slot {slot} already holds changes \
             from before the publication, PostgreSQL cannot decode them: drop and create the slot after it"
        ),
    })
}

/// A position that was asked for is one that the server has, and leaves out nothing but what lies before it.
fn check_startpos(source: &Source, startpos: Lsn, facts: &Facts, known: Option<&Known>) -> Result<Start, Error> {
    let start = check_stored(known, facts, source.accept_gap)?;
    let confirmed = facts.confirmed;
    if startpos > facts.wal_end {
        return Err(Error::Setup {
            message: format!(
                "startpos {startpos} is past the end of the server's WAL, {}: all that is committed before it would be \
                 confirmed without being delivered",
                facts.wal_end
            ),
            hint: "leave --startpos away to start at the confirmed position".to_owned(),
        });
    }
    if startpos >= confirmed {
        return Ok(Start { lsn: startpos, ..start });
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
