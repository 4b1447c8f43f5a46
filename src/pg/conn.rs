//! A connection: the settings that it pins, and commands whose waiting the caller controls.
//!
//! A replication connection accepts only the simple protocol, so commands are text; callers quote names and values with
//! `quote_literal`.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::Instant;

use super::connecting::{Connecting, Direction, Kind, Server};
use super::error::{Error, one_line};
use super::ffi::{Handle, Outcome, QueryResult};
use super::sqlstate;
use crate::limits::COMMAND_TIMEOUT;
use crate::lsn::Lsn;

/// Waits until the socket is ready, or for a while. It may return early, and fails with [`Error::Interrupted`] when the user
/// has asked walcat to stop.
pub type Wait<'w> = dyn FnMut(RawFd, Direction) -> Result<(), Error> + 'w;

/// The settings that fix the form of what the server sends and keep it from ending the session, each with the server version
/// that introduced it. Every connection of walcat has them. They are SET, not startup options: startup options would replace
/// the options of the user's own conninfo or service file, and poolers reject them.
const SESSION_SETTINGS: [(&str, &str, i32); 16] = [
    // First, because it applies to the other commands until it is set.
    ("statement_timeout", "0", 0),
    ("client_encoding", "'UTF8'", 0),
    ("\"DateStyle\"", "'ISO'", 0),
    ("\"IntervalStyle\"", "'postgres'", 0),
    ("\"TimeZone\"", "'UTC'", 0),
    ("extra_float_digits", "3", 0),
    ("bytea_output", "'hex'", 0),
    ("lc_monetary", "'C'", 0),
    ("xmloption", "'content'", 0),
    ("search_path", "pg_catalog", 0),
    ("standard_conforming_strings", "on", 0),
    // A standby rejects serializable queries.
    ("default_transaction_isolation", "'read committed'", 0),
    ("lock_timeout", "0", 0),
    ("idle_in_transaction_session_timeout", "0", 0),
    // walcat rejects servers older than 14 later, with its own message.
    ("idle_session_timeout", "0", 140_000),
    // It also ends walsenders and peeks.
    ("transaction_timeout", "0", 170_000),
];

fn pinned(set: &str, server_version: i32) -> String {
    let known = SESSION_SETTINGS.iter().filter(|(_, _, since)| server_version >= *since);
    known.map(|(name, value, _)| format!("{set} {name} = {value};")).collect::<Vec<_>>().join(" ")
}

/// The command that sets [`SESSION_SETTINGS`] for a session.
pub(super) fn pin_session(server_version: i32) -> String {
    pinned("SET", server_version)
}

/// The command that begins a transaction with [`SESSION_SETTINGS`] and leaves none of them in the session, which a pooler
/// hands to others. The caller sends the next command separately, because the server reads a whole command in one encoding.
pub(super) fn begin_pinned(server_version: i32) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED; {}", pinned("SET LOCAL", server_version))
}

/// An open connection with pinned session settings.
#[derive(Debug)]
pub struct Connection {
    pub(super) handle: Handle,
    kind: Kind,
}

impl Connection {
    /// Connects and pins the session's settings. Without a `dsn`, libpq's environment variables and files apply.
    ///
    /// # Errors
    /// [`Error::Conninfo`], [`Error::Connect`], and what `wait` returns.
    pub fn connect(dsn: Option<&str>, kind: Kind, wait: &mut Wait<'_>) -> Result<Self, Error> {
        Self::connect_to(dsn, None, kind, wait)
    }

    /// The same, to the server of the conninfo that another connection has reached.
    ///
    /// # Errors
    /// Those of [`Connection::connect`].
    pub fn connect_to(
        dsn: Option<&str>,
        server: Option<&Server>,
        kind: Kind,
        wait: &mut Wait<'_>,
    ) -> Result<Self, Error> {
        let mut connecting = Connecting::start(dsn, server, kind)?;
        let handle = loop {
            if connecting.poll(Instant::now())? {
                break connecting.into_handle()?;
            }
            if let Some((socket, direction)) = connecting.socket() {
                wait(socket, direction)?;
            }
        };
        let mut connection = Connection { handle, kind };
        if kind != Kind::Pooled {
            connection.command("SET", &pin_session(connection.server_version()), wait)?;
        }
        Ok(connection)
    }

    /// Runs a command and returns its last result. Messages call the command `name`.
    ///
    /// # Errors
    /// [`Error::Command`] with the SQLSTATE, [`Error::Lost`], also after [`COMMAND_TIMEOUT`], and the errors of `wait`.
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

    /// The same, without a time limit, for a command that may have to wait for other transactions.
    ///
    /// # Errors
    /// [`Error::Command`] with the SQLSTATE, [`Error::Lost`], and the errors of `wait`.
    pub fn command_without_limit(
        &mut self,
        name: &'static str,
        text: &str,
        wait: &mut Wait<'_>,
    ) -> Result<QueryResult, Error> {
        if self.kind != Kind::Pooled {
            return self.send(name, text, wait);
        }
        self.send("BEGIN", &begin_pinned(self.server_version()), wait)?;
        match self.send(name, text, wait) {
            Ok(result) => self.send("COMMIT", "COMMIT", wait).map(|_| result),
            Err(error) => {
                // A lost connection has nothing to roll back.
                let _ = self.send("ROLLBACK", "ROLLBACK", wait);
                Err(error)
            }
        }
    }

    /// Sends a command unchanged and reads its results.
    pub(super) fn send(&mut self, name: &'static str, text: &str, wait: &mut Wait<'_>) -> Result<QueryResult, Error> {
        let text = CString::new(text).map_err(|_| Error::Answer {
            command: name,
            reason: "a name in the command contains a NUL byte".to_owned(),
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
                Outcome::CopyOut => {
                    return Err(Error::Answer { command: name, reason: "rows of COPY".to_owned() });
                }
                Outcome::Command | Outcome::Rows => last = Some(result),
            }
        }
        last.ok_or_else(|| Error::Answer { command: name, reason: "no result".to_owned() })
    }

    /// Reads the rest of a failed command: it is over only when libpq has returned a null result.
    fn drain(&mut self, wait: &mut Wait<'_>) {
        while self.wait_for_result(wait).is_ok() && self.handle.result().is_some() {}
    }

    /// The server's version, such as 150018.
    #[must_use]
    pub fn server_version(&self) -> i32 {
        self.handle.server_version()
    }

    /// The purpose of the connection.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The server of this connection, for another connection to it.
    #[must_use]
    pub fn server(&self) -> Server {
        Server::of(&self.handle)
    }

    /// The database of this connection.
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

/// The failure in a result; [`Error::Lost`] if the server has ended the session with it.
pub(super) fn command_error(name: &'static str, result: &QueryResult) -> Error {
    let fields = result.error();
    if fields.sqlstate.is_empty() || fields.sqlstate.starts_with("57P") {
        return Error::Lost { message: one_line(&fields.message) };
    }
    let unprintable =
        fields.context.as_deref().filter(|_| sqlstate::is_of_change(&fields.sqlstate)).and_then(change_lsn);
    let message = match fields.detail {
        Some(detail) => format!("{}: {detail}", fields.message),
        None => fields.message,
    };
    let (sqlstate, message) = (fields.sqlstate, one_line(&message));
    match unprintable {
        Some(lsn) => Error::Unprintable { sqlstate, message, lsn },
        None => Error::Command { command: name, sqlstate, message },
    }
}

/// The LSN of the change for which the server called the output plugin, from the context that the server sends: `slot "s",
/// output plugin "pgoutput", in the change callback, associated LSN 0/16B3748`. In languages other than English the wording
/// differs; then the failure is reported like any other.
fn change_lsn(context: &str) -> Option<Lsn> {
    let (_, rest) = context.split_once("in the change callback, associated LSN ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_of_a_change_names_its_lsn() {
        let context = "slot \"s\", output plugin \"pgoutput\", in the change callback, associated LSN 0/16B3748";
        assert_eq!(change_lsn(context), Some(Lsn(0x016B_3748)));
        assert_eq!(change_lsn(&context.replace("change", "begin")), None);
    }
}
