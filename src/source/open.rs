//! From a connection string to a running stream: connect, check the setup, and START_REPLICATION.
//!
//! walcat checks first because the server reports some mistakes late or never: a publication that is missing when the WAL
//! is decoded stops the stream permanently, and the server silently raises a start position below the slot's.

use std::time::Instant;

use log::{info, warn};

use crate::lsn::Lsn;
use crate::pg::peek::Peek;
use crate::pg::publications::{self, PublishedTable};
use crate::pg::server::{self, SERVER_VERSION_MIN, System};
use crate::pg::slots;
use crate::pg::stream::Stream;
use crate::pg::{self, Connection, Kind, Server, sqlstate};
use crate::position::{self, Disagreement, Facts, Known, Reached, Start, Stored, Switch};
use crate::source::Feed;
use crate::source::error::Error;
use crate::source::options::{ATTEMPT_INTERVAL, Engine, SlotMode, Source};
use crate::source::slot;
use crate::source::waiting::Waiter;
use crate::wire::replication::command::{self, StartReplication};

/// A running stream and what is known about it.
#[derive(Debug)]
pub struct Started {
    /// The running session.
    pub feed: Feed,
    /// The server of the stream: all other questions go to the same server.
    pub server: Server,
    /// The cluster and its position before the stream started.
    pub system: System,
    /// The server's version, such as 150018.
    pub server_version: i32,
    /// The position that the stream starts from.
    pub start: Lsn,
    /// The end of the last delivered records before that, as far as it is known.
    pub records: Reached,
    /// The end of the WAL that could be decoded before the stream started.
    pub decodable: Lsn,
    /// Whether the known position is past the history that this server shares with it, and had no records there.
    pub is_cut: bool,
    /// The facts against which a stored position is judged.
    pub facts: Facts,
    /// Whether the server knows that the slot was read before. It forgets this in a crash.
    pub was_read: bool,
    /// Whether the server is a standby, whose timeline may change.
    pub is_standby: bool,
    /// The slot, if this run created it.
    pub new_slot: Option<String>,
}

/// Reads the stored position. walcat reads it again after each wait for the slot: the holder may store a newer one.
pub type ReadStore<'a> = dyn FnMut() -> Result<Option<Known>, Error> + 'a;

/// Connects, checks and starts the stream. While another process holds the slot, walcat tries again: after a crash the dead
/// session holds the slot for up to wal_sender_timeout.
///
/// # Errors
/// [`Error::Postgres`], [`Error::Setup`], [`Error::Positions`], [`Error::SlotHeld`].
pub fn start(source: &Source, store: &mut ReadStore<'_>, waiter: &mut Waiter<'_>) -> Result<Started, Error> {
    let mut connection = connect(source, source.engine.kind(), waiter)?;
    let (server, server_version) = (connection.server(), connection.server_version());
    check_version(server_version)?;
    let system = identify(&mut connection, waiter)?.0;
    let database = system.database.clone();
    let exists = slot::check_existing(source, &database, &mut connection, waiter)?;
    if !exists && source.slot_mode == SlotMode::Create {
        check_new_slot(source, &system.identifier, store)?;
    }
    check_publications(&source.publications, &source.slot, &mut connection, waiter)?;
    let (began, mut held) = (Instant::now(), slot::HeldSlot::default());
    loop {
        let (name, confirmed) = match slot::choose(source, &database, &mut connection, waiter)? {
            slot::Choice::Free { name, confirmed } => (name, confirmed),
            slot::Choice::Held => {
                held.wait(source, began, &mut connection, waiter)?;
                continue;
            }
        };
        // The store is read at this point: while another process still delivers, its position is never before the slot
        // that was seen, nor past the end of the WAL.
        let known = store()?;
        // A standby that is promoted after this counts as a standby, and walcat asks for its timeline again.
        let is_standby = server::is_standby(&mut connection, &mut |socket, way| waiter.wait(socket, way))?;
        let was_read = was_read(&name, &mut connection, waiter)?;
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
                    was_read,
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

/// What a stream that starts now would know before it reads a position from Kafka.
#[derive(Debug)]
pub struct Rehearsed {
    /// The server's facts. A slot that does not exist yet counts as one at the end of the WAL.
    pub facts: Facts,
    /// Whether the slot exists.
    pub has_slot: bool,
    /// Whether the server knows that the slot was read before.
    pub was_read: bool,
}

/// The checks of [`start`] before it creates or takes a slot, for `walcat check`. They change nothing and do not wait for a
/// held slot. They cannot find what only START_REPLICATION shows.
///
/// # Errors
/// Those of [`start`].
pub fn rehearse(source: &Source, store: &mut ReadStore<'_>, waiter: &mut Waiter<'_>) -> Result<Rehearsed, Error> {
    let mut connection = connect(source, source.engine.kind(), waiter)?;
    check_version(connection.server_version())?;
    let System { database, identifier, .. } = identify(&mut connection, waiter)?.0;
    let exists = slot::check_existing(source, &database, &mut connection, waiter)?;
    if !exists && source.slot_mode == SlotMode::Create {
        check_new_slot(source, &identifier, store)?;
    }
    check_publications(&source.publications, &source.slot, &mut connection, waiter)?;
    let confirmed = slot::rehearse(source, &mut connection, waiter)?;
    let known = store()?;
    let was_read = confirmed.is_some() && was_read(&source.slot, &mut connection, waiter)?;
    let (system, switches) = identify(&mut connection, waiter)?;
    let has_slot = confirmed.is_some();
    let confirmed = confirmed.unwrap_or(system.flushed);
    let facts = Facts {
        system_identifier: system.identifier,
        timeline: system.timeline,
        wal_end: system.flushed,
        slot: source.slot.clone(),
        confirmed,
        switches,
    };
    if has_slot {
        match source.startpos {
            Some(startpos) => check_startpos(source, startpos, &facts, known.as_ref())?,
            None => check_stored(known.as_ref(), &facts, source.accept_gap)?,
        };
    }
    Ok(Rehearsed { facts, has_slot, was_read })
}

/// Returns the cluster, its position, and the history of its timeline.
pub(crate) fn identify(connection: &mut Connection, waiter: &mut Waiter<'_>) -> Result<(System, Vec<Switch>), Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let system = server::identify_system(connection, wait)?;
    let switches = server::timeline_history(connection, system.timeline, wait)?;
    Ok((system, switches))
}

/// Starts to read. A refusal that leaves the connection usable, such as an active slot (55006), returns the connection.
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
            let mut peek = Peek::new(connection, settings, slot, &source.publications, confirmed, now);
            peek.pass_before(start);
            Ok(Feed::Polling(Box::new(peek)))
        }
    }
}

/// Returns the start for a stored position: that position, or the slot's position if the two disagree and the operator
/// accepts it.
///
/// # Errors
/// [`Error::Positions`].
pub fn check_stored(known: Option<&Known>, facts: &Facts, accept_gap: bool) -> Result<Start, Error> {
    let (stored, store) = known.map_or((None, ""), |known| (Some(&known.stored), known.store.as_str()));
    let verdict = position::judge(stored, store, facts);
    if let (Ok(Start { is_cut: true, lsn, records }), Some(stored)) = (&verdict, stored) {
        info!(slot = facts.slot.as_str(), idle:% = stored.end_lsn, stored_timeline = stored.timeline,
            timeline = facts.timeline, records_end:% = records.lsn, lsn:%;
            "the server does not have the WAL up to the stored position, which held no records; going back");
    }
    accept(verdict, stored, facts, accept_gap)
}

/// Returns the start for a position that is read from Kafka after the start of the stream; `unread_slot_at` and
/// `known_lsn` tell whether it may be missing, as in [`position::judge_missing`].
///
/// # Errors
/// [`Error::Positions`].
pub fn check_found(
    known: Option<&Known>,
    store: &str,
    (unread_slot_at, known_lsn): (Option<Lsn>, Lsn),
    facts: &Facts,
    accept_gap: bool,
) -> Result<Start, Error> {
    match position::judge_missing(unread_slot_at, known_lsn, store, facts) {
        Err(missing) if known.is_none() => accept(Err(missing), None, facts, accept_gap),
        _ => check_stored(known, facts, accept_gap),
    }
}

/// Returns the verdict, or the slot's position if the operator accepts it.
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
        Err(disagreement @ Disagreement::Keyless { .. }) if accept_gap => {
            warn!(slot = facts.slot.as_str(), disagreement:% = disagreement; "--accept-gap: going on without these tables");
            let rest = stored.cloned().map(Stored::without_keyless);
            accept(position::judge(rest.as_ref(), "the stored position", facts), rest.as_ref(), facts, accept_gap)
        }
        Err(disagreement) if accept_gap => {
            let end_lsn = stored.map_or(Lsn::INVALID, |stored| stored.end_lsn);
            warn!(slot = facts.slot.as_str(), lsn:% = facts.confirmed, stored:% = end_lsn,
                disagreement:% = disagreement; "--accept-gap: continuing from the slot's position");
            Ok(Start::accepted(stored, facts))
        }
        verdict => Ok(verdict?),
    }
}

/// A missing slot may be created if no store has a position of it.
pub(crate) fn check_new_slot(source: &Source, system_identifier: &str, store: &mut ReadStore<'_>) -> Result<(), Error> {
    let Some(Known { stored, store }) = store()? else { return Ok(()) };
    match position::judge_new_slot(&stored, &store, system_identifier, &source.slot) {
        Err(disagreement) if !source.accept_gap => Err(disagreement.into()),
        _ => Ok(()),
    }
}

/// Whether the server knows that the slot was read before.
fn was_read(slot: &str, connection: &mut Connection, waiter: &mut Waiter<'_>) -> Result<bool, Error> {
    Ok(!slots::is_unread(connection, slot, &mut |socket, way| waiter.wait(socket, way))?)
}

/// Returns the published tables, as far as the server knows them, on a connection of its own.
///
/// A walsender that looks at publications and tables keeps their present definitions in its caches. If it starts to decode
/// then, it uses these for older changes too, instead of the definitions of their time.
///
/// # Errors
/// Those of [`connect`] and of the query.
pub fn published_tables(source: &Source, waiter: &mut Waiter<'_>) -> Result<Vec<PublishedTable>, Error> {
    let kind = match &source.engine {
        Engine::Streaming => Kind::Ordinary,
        Engine::Polling(_) => source.engine.kind(),
    };
    let mut connection = connect(source, kind, waiter)?;
    let wait = &mut |socket, way| waiter.wait(socket, way);
    Ok(publications::published_tables(&mut connection, &source.publications, wait)?)
}

/// Checks that walcat supports the server's version.
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

/// Connects. While the server does not answer, walcat tries again for up to `connect_for`.
pub(crate) fn connect(source: &Source, kind: Kind, waiter: &mut Waiter<'_>) -> Result<Connection, Error> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let dsn = source.dsn.as_deref();
        let error = match Connection::connect(dsn, kind, &mut |socket, way| waiter.wait(socket, way)) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let may_wait = source.connect_for.is_none_or(|limit| started.elapsed() < limit);
        if !error.is_transient() || !may_wait {
            return Err(error.into());
        }
        if !told {
            warn!(slot = source.slot.as_str(), error:% = error; "PostgreSQL does not answer yet; waiting");
            told = true;
        }
        waiter.sleep(ATTEMPT_INTERVAL)?;
    }
}

/// Checks that the publications exist.
///
/// # Errors
/// [`Error::Setup`] for the first missing one.
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
            "run CREATE PUBLICATION {quoted} FOR ALL TABLES (or FOR TABLE ...); if the slot {slot} already holds \
             changes from before the publication, PostgreSQL cannot decode them: drop the slot and create it after the \
             publication"
        ),
    })
}

/// Checks that the server has the requested position, and that it skips only what lies before it.
fn check_startpos(source: &Source, startpos: Lsn, facts: &Facts, known: Option<&Known>) -> Result<Start, Error> {
    let start = check_stored(known, facts, source.accept_gap)?;
    let confirmed = facts.confirmed;
    if startpos > facts.wal_end {
        return Err(Error::Setup {
            message: format!(
                "startpos {startpos} is past the end of the server's WAL, {}: everything committed before it would be \
                 confirmed without being delivered",
                facts.wal_end
            ),
            hint: "omit --startpos to start at the confirmed position".to_owned(),
        });
    }
    if startpos >= confirmed {
        return Ok(Start { lsn: startpos, ..start });
    }
    Err(Error::Setup {
        message: format!(
            "startpos {startpos} is below {confirmed}, the confirmed position of the slot {}: the server would \
             silently skip the {} bytes between them",
            source.slot,
            confirmed.bytes_since(startpos)
        ),
        hint: "omit --startpos to start at the confirmed position".to_owned(),
    })
}
