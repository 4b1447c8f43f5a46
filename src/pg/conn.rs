//! A connection: which settings it pins, and commands on it while the caller decides how to wait.
//!
//! A replication connection takes the simple protocol only, so commands are text; the callers quote what
//! goes into them with `quote_literal`.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::Instant;

use super::connecting::{Connecting, Direction, Kind};
use super::error::{Error, one_line};
use super::ffi::{Handle, Outcome, QueryResult};
use crate::limits::COMMAND_TIMEOUT;

/// Waits until the socket is ready, or for a while: it may return early, and fails with [`Error::Interrupted`] when the
/// user asked to stop.
pub type Wait<'w> = dyn FnMut(RawFd, Direction) -> Result<(), Error> + 'w;

/// The settings that pin what the server sends, and that keep it from ending the session. Sent as SET commands, not as
/// startup options: those would replace options that the user's own conninfo or service file has.
const SESSION_SETTINGS: [(&str, &str); 13] = [
    ("client_encoding", "'UTF8'"),
    ("\"DateStyle\"", "'ISO'"),
    ("\"IntervalStyle\"", "'postgres'"),
    ("\"TimeZone\"", "'UTC'"),
    ("extra_float_digits", "3"),
    ("bytea_output", "'hex'"),
    ("lc_monetary", "'C'"),
    ("xmloption", "'content'"),
    ("search_path", "pg_catalog"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("standard_conforming_strings", "on"),
];

/// [`SESSION_SETTINGS`] as commands: SET for the session, SET LOCAL for a transaction.
pub(super) fn session_settings(set: &str) -> String {
    SESSION_SETTINGS.iter().map(|(name, value)| format!("{set} {name} = {value}; ")).collect()
}

/// What came with PostgreSQL 14: an older server is refused later, in words of ours.
const SESSION_SETTINGS_14: &str = "SET idle_session_timeout = 0";

/// An open connection whose session settings are pinned.
#[derive(Debug)]
pub struct Connection {
    pub(super) handle: Handle,
    kind: Kind,
}

impl Connection {
    /// Connects and pins the session's settings. Without a `dsn` libpq's own variables and files apply.
    ///
    /// # Errors
    /// [`Error::Conninfo`], [`Error::Connect`], and what `wait` returns.
    pub fn connect(dsn: Option<&str>, kind: Kind, wait: &mut Wait<'_>) -> Result<Self, Error> {
        let mut connecting = Connecting::start(dsn, kind)?;
        let mut handle = loop {
            if connecting.poll(Instant::now())? {
                break connecting.into_handle();
            }
            if let Some((socket, direction)) = connecting.socket() {
                wait(socket, direction)?;
            }
        };
        handle.set_nonblocking();
        let mut connection = Connection { handle, kind };
        if kind == Kind::Pooled {
            return Ok(connection);
        }
        connection.command("SET", &session_settings("SET"), wait)?;
        if connection.server_version() >= 140_000 {
            connection.command("SET", SESSION_SETTINGS_14, wait)?;
        }
        Ok(connection)
    }

    /// Runs a command and returns its last result. `name` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Command`] with the SQLSTATE, [`Error::Lost`], also after [`COMMAND_TIMEOUT`], and what `wait` returns.
    pub fn command(&mut self, name: &'static str, text: &str, wait: &mut Wait<'_>) -> Result<QueryResult, Error> {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        self.command_without_limit(name, text, &mut |socket, direction| {
            wait(socket, direction)?;
            if Instant::now() < deadline {
                return Ok(());
            }
            Err(Error::Lost { message: format!("{name}: no answer within {} s", COMMAND_TIMEOUT.as_secs()) })
        })
    }

    /// The same for a command that may have to wait for others.
    ///
    /// # Errors
    /// [`Error::Command`] with the SQLSTATE, [`Error::Lost`], and what `wait` returns.
    pub fn command_without_limit(
        &mut self,
        name: &'static str,
        text: &str,
        wait: &mut Wait<'_>,
    ) -> Result<QueryResult, Error> {
        let text = CString::new(text).map_err(|_| Error::Answer {
            command: name,
            reason: "a name in the command holds a NUL byte".to_owned(),
        })?;
        if !self.handle.send_query(&text) {
            return Err(self.lost());
        }
        let mut last = None;
        loop {
            self.wait_for_result(wait)?;
            let Some(result) = self.handle.result() else { break };
            match result.outcome() {
                Outcome::Failed => {
                    let error = command_error(name, &result);
                    self.drain(wait);
                    return Err(error);
                }
                Outcome::CopyBoth => return Ok(result),
                Outcome::Command | Outcome::Rows => last = Some(result),
            }
        }
        last.ok_or_else(|| Error::Answer { command: name, reason: "no result".to_owned() })
    }

    /// Takes in the rest of a command that has failed: it is over only when libpq has given a null result.
    fn drain(&mut self, wait: &mut Wait<'_>) {
        while self.wait_for_result(wait).is_ok() && self.handle.result().is_some() {}
    }

    /// The server's version, such as 150018.
    #[must_use]
    pub fn server_version(&self) -> i32 {
        self.handle.server_version()
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The database that it is connected to.
    #[must_use]
    pub fn database(&self) -> String {
        self.handle.database()
    }

    pub(super) fn wait_for_result(&mut self, wait: &mut Wait<'_>) -> Result<(), Error> {
        loop {
            let sent = self.handle.flush().map_err(|_| self.lost())?;
            if !self.handle.consume_input() {
                return Err(self.lost());
            }
            if sent && !self.handle.is_busy() {
                return Ok(());
            }
            let socket = self.handle.socket().ok_or_else(|| self.lost())?;
            wait(socket, if sent { Direction::Read } else { Direction::Write })?;
        }
    }

    pub(super) fn lost(&self) -> Error {
        Error::Lost { message: one_line(&self.handle.error_message()) }
    }
}

/// The failure that a result carries; when the session is gone with it, [`Error::Lost`].
pub(super) fn command_error(name: &'static str, result: &QueryResult) -> Error {
    let fields = result.error();
    if fields.sqlstate.is_empty() || fields.sqlstate.starts_with("57P") {
        return Error::Lost { message: one_line(&fields.message) };
    }
    let message = match fields.detail {
        Some(detail) => format!("{}: {detail}", fields.message),
        None => fields.message,
    };
    Error::Command { command: name, sqlstate: fields.sqlstate, message: one_line(&message) }
}
