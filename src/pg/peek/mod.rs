//! The polling source: `pg_logical_slot_peek_binary_changes` on an ordinary connection, one peek after another.
//!
//! A round is a transaction of its own, so that it works through a pooler in transaction mode. It reads the flushed
//! position, then peeks in single-row mode and binary format. When all rows are delivered,
//! `pg_replication_slot_advance` moves the slot to the last row's LSN, which for a commit is its end LSN. The `get`
//! variant would move the slot before anything is delivered. Apart from that, only walcat's own message moves the slot,
//! so the slot is never inside a WAL record: the server accepts any LSN as it is, and would skip a transaction whose
//! commit record contains it.
//!
//! If what precedes a later position was delivered before, the first round ends there. It needs no deliveries, so the slot
//! moves even if every later round is interrupted.
//!
//! Source: PostgreSQL documentation, "9.28.6 Replication Management Functions" and "34.6 Retrieving Query Results in
//! Chunks" (single-row mode).

mod sql;
mod state;

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::warn;

use super::conn::{Connection, Wait, begin_pinned, command_error};
use super::error::Error;
use super::ffi::{Outcome, QueryResult};
use super::sqlstate;
use crate::lsn::Lsn;
use crate::session::IDLE_PREFIX;
use crate::wire::replication::command::{quote_identifier, quote_literal};
use sql::{ADVANCE, EMIT, PEEK};
use state::{Idle, Round, State};

/// The settings of the polling.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time from the end of one round to the next when nothing is left to read.
    pub interval: Duration,
    /// The number of changes after which a peek ends, at the end of a transaction.
    pub changes_max: u32,
    /// The WAL that the slot may retain while none of it has changes for walcat.
    pub idle_bytes: u64,
    /// How long the server may be silent in a command; none for no limit.
    pub stall_timeout: Option<Duration>,
    /// The factor on this limit, after commands that took longer.
    pub patience_factor: u32,
}

/// One message of the output plugin, in libpq's memory.
#[derive(Debug)]
pub struct Row(QueryResult);

impl Row {
    /// Its position in the WAL, as in XLogData.
    ///
    /// # Errors
    /// [`Error::Answer`] for a value that is not a pg_lsn.
    pub fn lsn(&self) -> Result<Lsn, Error> {
        let bytes = self.0.bytes(0, 0).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| Lsn(u64::from_be_bytes(bytes))).ok_or_else(|| not_understood("a row has no LSN"))
    }

    /// The message.
    ///
    /// # Errors
    /// [`Error::Answer`] for NULL.
    pub fn message(&self) -> Result<&[u8], Error> {
        self.0.bytes(0, 1).ok_or_else(|| not_understood("a row has no data"))
    }
}

/// What a peek returns.
#[derive(Debug)]
pub enum Peeked {
    /// A message.
    Row(Row),
    /// Everything committed before this position has been read.
    ReadUpTo(Lsn),
}

/// The polling source.
#[derive(Debug)]
pub struct Peek {
    connection: Connection,
    settings: Settings,
    slot: String,
    /// The names of the publications, as an SQL literal.
    publications: String,
    /// Everything committed before this position was delivered before this session.
    passed: Lsn,
    state: State,
    /// The position of the slot.
    advanced: Lsn,
    /// The position that may be confirmed.
    confirmed: Lsn,
    unsent: bool,
    /// Whether the server has refused the message that advances an idle slot; the warning is logged once.
    is_emit_refused: bool,
    /// When the server was last asked or last answered.
    heard_at: Instant,
    /// When the session became idle.
    idle_since: Instant,
    /// How long it may be idle; none for no limit. walcat cannot set this for a session that a pooler may share.
    idle_max: Option<Duration>,
}

impl Peek {
    /// Creates the source; sends nothing yet.
    #[must_use]
    pub fn new(
        connection: Connection,
        settings: Settings,
        slot: &str,
        publications: &[String],
        confirmed: Lsn,
        now: Instant,
    ) -> Self {
        let list = publications.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>();
        Peek {
            connection,
            settings,
            slot: slot.to_owned(),
            publications: quote_literal(&list.join(",")),
            passed: confirmed,
            state: State::Waiting { until: now },
            advanced: confirmed,
            confirmed,
            unsent: false,
            is_emit_refused: false,
            heard_at: now,
            idle_since: now,
            idle_max: None,
        }
    }

    /// Returns what can be read now, if anything.
    ///
    /// # Errors
    /// [`Error::Command`] with the SQLSTATE, 55006 while another process holds the slot, and [`Error::Lost`].
    pub fn receive(&mut self, now: Instant) -> Result<Option<Peeked>, Error> {
        loop {
            match self.state {
                State::Waiting { until } if now >= until => {
                    self.heard_at = now;
                    self.send(&self.begin_command())?;
                    self.state = State::Beginning(Round::default());
                }
                State::Waiting { until } if self.must_ping(now) => self.ping(Idle::Round { until }, now)?,
                State::Waiting { .. } => return Ok(None),
                State::Delivering(round) if self.confirmed >= round.last => {
                    // A position that was stored before this session may lie inside a WAL record.
                    let to = if round.upto.is_some() { round.last } else { self.confirmed };
                    self.heard_at = now;
                    let begin = begin_pinned(self.connection.server_version());
                    self.send(&format!("{begin} {}; COMMIT", self.advance_command(to)))?;
                    self.state = State::Advancing { round, to };
                }
                State::Delivering(round) if self.must_ping(now) => self.ping(Idle::Delivery(round), now)?,
                State::Delivering(_) => return Ok(None),
                State::Beginning(_)
                | State::Peeking(_)
                | State::Ending(_)
                | State::Advancing { .. }
                | State::Emitting
                | State::Pinging(_) => match self.result(now)? {
                    None => return Ok(None),
                    Some(result) => {
                        self.heard_at = now;
                        if let Some(peeked) = self.handle(result, now)? {
                            return Ok(Some(peeked));
                        }
                    }
                },
            }
        }
    }

    /// Notes what may be confirmed; the slot follows when the round is delivered.
    pub fn confirm(&mut self, lsn: Lsn) {
        self.confirmed = self.confirmed.max(lsn);
    }

    /// Notes that everything committed before this position was delivered before.
    pub fn pass_before(&mut self, lsn: Lsn) {
        self.passed = self.passed.max(lsn);
    }

    /// Whether the next round waits until what was read is confirmed.
    #[must_use]
    pub fn waits_for_confirmation(&self) -> bool {
        matches!(self.state, State::Delivering(_) | State::Pinging(Idle::Delivery(_)))
    }

    /// Notes that walcat is not reading, so silence is not the server's fault.
    pub fn not_reading(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// How long the server has been silent, once that exceeds the limit. While it decodes it is silent too, and walcat
    /// cannot ask it for a sign of life.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let silent_for = now.saturating_duration_since(self.heard_at);
        self.patience().filter(|patience| self.is_asking() && silent_for >= *patience).map(|_| silent_for)
    }

    fn patience(&self) -> Option<Duration> {
        self.settings.stall_timeout.map(|timeout| timeout.saturating_mul(self.settings.patience_factor))
    }

    /// Whether a command is running and the server holds the slot and a snapshot for it.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        !matches!(self.state, State::Waiting { .. } | State::Delivering(_))
    }

    /// The socket to wait for and whether something is left to send; none while no command is running.
    #[must_use]
    pub fn socket(&self) -> Option<(RawFd, bool)> {
        if !self.is_asking() {
            return None;
        }
        Some((self.connection.handle.socket()?, self.unsent))
    }

    /// The latest time of the next call of [`Peek::receive`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(self.ping_at().map_or(until, |ping_at| ping_at.min(until))),
            State::Delivering(round) if self.confirmed >= round.last => Some(Instant::now()),
            State::Delivering(_) => self.ping_at(),
            _ => self.patience().map(|patience| self.heard_at + patience),
        }
    }

    /// The pid of the session's server process, while the connection works.
    #[must_use]
    pub fn session_pid(&self) -> i32 {
        self.connection.handle.backend_pid()
    }

    /// Cancels the running command: otherwise a peek continues after the end of its session and holds the slot.
    pub fn cancel(&mut self) {
        if self.is_asking() && !self.connection.handle.is_bad() {
            self.connection.handle.cancel();
        }
    }

    /// Ends the present round and moves the slot to the confirmed position.
    ///
    /// # Errors
    /// Those of [`Connection::command`].
    pub fn finish(&mut self, wait: &mut Wait<'_>) -> Result<(), Error> {
        if self.is_asking() {
            self.cancel();
            loop {
                self.connection.wait_for_result(wait)?;
                // A cancelled command fails as intended.
                if self.connection.handle.result().is_none() {
                    break;
                }
            }
            if !matches!(self.state, State::Advancing { .. } | State::Emitting | State::Pinging(_)) {
                self.connection.send("ROLLBACK", "ROLLBACK", wait)?;
            }
        }
        if self.confirmed > self.advanced {
            self.connection.command(ADVANCE, &self.advance_command(self.confirmed), wait)?;
        }
        Ok(())
    }

    /// Handles a result of the running command, or its end.
    fn handle(&mut self, result: Option<QueryResult>, now: Instant) -> Result<Option<Peeked>, Error> {
        let failed = result.as_ref().filter(|result| result.outcome() == Outcome::Failed);
        match (&mut self.state, result.as_ref()) {
            (State::Emitting, Some(result)) => {
                if failed.is_some() && !std::mem::replace(&mut self.is_emit_refused, true) {
                    warn!(slot = self.slot.as_str(), error:% = command_error(EMIT, result);
                        "the server refuses the message that advances an idle slot; while no table of the publication \
                         changes, the slot retains its WAL (run GRANT EXECUTE ON FUNCTION \
                         pg_logical_emit_message(boolean, text, text); the role must be able to write)");
                }
            }
            (State::Advancing { .. }, Some(result)) if failed.is_some() => {
                return Err(match command_error(ADVANCE, result) {
                    // A slot does not move backwards.
                    Error::Command { sqlstate, message, .. }
                        if sqlstate == sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE =>
                    {
                        Error::SlotMoved { message }
                    }
                    error => error,
                });
            }
            (_, Some(result)) if failed.is_some() => return Err(command_error(PEEK, result)),
            (State::Beginning(round), Some(result)) if result.row_count() > 0 => {
                let flushed = result.value(0, 0).and_then(|text| text.parse().ok());
                round.flushed = flushed.ok_or_else(|| not_understood("no flushed position"))?;
                check_slot(result, self.advanced)?;
                let idle_ms = result.value(0, 2).and_then(|text| text.parse().ok()).filter(|ms| *ms > 0);
                self.idle_max = idle_ms.map(Duration::from_millis);
            }
            (State::Ending(_), Some(result)) if result.row_count() > 0 => check_slot(result, self.advanced)?,
            (State::Peeking(round), Some(found)) if found.row_count() > 0 => {
                round.rows += 1;
                let Some(result) = result else { return Ok(None) };
                let row = Row(result);
                round.last = row.lsn()?.max(round.last);
                return Ok(Some(Peeked::Row(row)));
            }
            (_, Some(_)) => {}
            (state, None) => {
                let state = *state;
                self.idle_since = now;
                return self.ended(state, now);
            }
        }
        Ok(None)
    }

    /// Handles the end of the command that ran in `state`.
    fn ended(&mut self, state: State, now: Instant) -> Result<Option<Peeked>, Error> {
        let waiting = State::Waiting { until: now + self.settings.interval };
        match state {
            State::Beginning(mut round) => {
                round.upto = (self.passed > self.advanced).then_some(self.passed);
                let peek = CString::new(self.peek_command(round.upto));
                let peek = peek.map_err(|_| not_understood("a name contains a NUL byte"))?;
                if !self.connection.handle.send_query_params_binary(&peek) || !self.connection.handle.single_rows() {
                    return Err(self.connection.lost());
                }
                self.unsent = true;
                self.state = State::Peeking(round);
                Ok(None)
            }
            State::Peeking(round) => {
                self.send(&format!("{}; COMMIT", self.look_command()))?;
                self.state = State::Ending(round);
                Ok(None)
            }
            State::Ending(Round { rows: 0, upto: Some(_), .. }) => {
                self.passed = self.advanced;
                self.state = State::Waiting { until: now };
                Ok(None)
            }
            State::Ending(round) if round.rows > 0 => {
                self.state = State::Delivering(round);
                // A peek that ended early may have left changes.
                Ok((!self.ended_early(round)).then_some(Peeked::ReadUpTo(round.flushed)))
            }
            State::Ending(round) => {
                self.state = waiting;
                if round.flushed.bytes_since(self.advanced) >= self.settings.idle_bytes {
                    // A standby accepts no message; its slot moves with the next transaction.
                    self.send(&format!(
                        "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
                         THEN pg_catalog.{EMIT}(false, '{IDLE_PREFIX}', '') END"
                    ))?;
                    self.state = State::Emitting;
                }
                Ok(Some(Peeked::ReadUpTo(round.flushed)))
            }
            State::Advancing { round, to } => {
                self.advanced = to;
                if round.upto.is_some() && !self.has_too_many_rows(round) {
                    self.passed = to;
                }
                self.state = if self.ended_early(round) { State::Waiting { until: now } } else { waiting };
                Ok(None)
            }
            State::Pinging(idle) => {
                self.state = idle.into();
                Ok(None)
            }
            State::Emitting | State::Waiting { .. } | State::Delivering(_) => {
                self.state = waiting;
                Ok(None)
            }
        }
    }

    fn must_ping(&self, now: Instant) -> bool {
        self.ping_at().is_some_and(|ping_at| now >= ping_at)
    }

    /// The time of the next query, well before the server ends the idle session.
    fn ping_at(&self) -> Option<Instant> {
        self.idle_max.map(|idle_max| self.idle_since + idle_max / 2)
    }

    fn ping(&mut self, idle: Idle, now: Instant) -> Result<(), Error> {
        self.heard_at = now;
        self.send("SELECT")?;
        self.state = State::Pinging(idle);
        Ok(())
    }

    /// Whether the round may have left changes.
    fn ended_early(&self, round: Round) -> bool {
        round.upto.is_some() || self.has_too_many_rows(round)
    }

    fn has_too_many_rows(&self, round: Round) -> bool {
        round.rows >= self.settings.changes_max
    }

    fn send(&mut self, command: &str) -> Result<(), Error> {
        let command = CString::new(command).map_err(|_| not_understood("a name contains a NUL byte"))?;
        if !self.connection.handle.send_query(&command) {
            return Err(self.connection.lost());
        }
        self.unsent = true;
        Ok(())
    }

    /// The next result, `Some(None)` at the end of the command, or none while the server works.
    fn result(&mut self, now: Instant) -> Result<Option<Option<QueryResult>>, Error> {
        self.unsent = !self.connection.handle.flush().map_err(|_| self.connection.lost())?;
        // Rows that libpq already holds do not need the socket.
        if self.connection.handle.is_busy() {
            // A part of a large row is a sign of life too.
            if self.connection.handle.is_readable() {
                self.heard_at = now;
            }
            if !self.connection.handle.consume_input() {
                return Err(self.connection.lost());
            }
            if self.unsent || self.connection.handle.is_busy() {
                return Ok(None);
            }
        }
        Ok(Some(self.connection.handle.result()))
    }
}

/// Checks that the slot is where this process has moved it. It is free between two peeks, so another process may move it;
/// and a server that has crashed behind a pooler may have lost the move.
fn check_slot(look: &QueryResult, advanced: Lsn) -> Result<(), Error> {
    let stands = look.value(0, 1).and_then(|text| text.parse::<Lsn>().ok());
    match stands {
        Some(lsn) if lsn == advanced => Ok(()),
        Some(lsn) => {
            Err(Error::SlotMoved { message: format!("it is at {lsn}, but walcat last moved it to {advanced}") })
        }
        None => Err(Error::SlotMoved { message: "it no longer exists".to_owned() }),
    }
}

fn not_understood(reason: &str) -> Error {
    Error::Answer { command: PEEK, reason: reason.to_owned() }
}
