//! A connection: how it is made, which settings it pins, and commands on it while the caller decides how to wait.
//!
//! A replication connection takes the simple protocol only, so commands are text; the callers quote what
//! goes into them with [`quote_literal`].

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::Instant;

use super::error::{Error, split_connect_message};
use super::ffi::{self, Handle, Outcome, Polling, QueryResult};
use crate::limits::CONNECT_TIMEOUT;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `replication=database`: logical replication commands, and SQL by the simple protocol.
    Replication,
    /// SQL only.
    Ordinary,
    /// SQL, perhaps through a pooler that hands the session to others: nothing of it is set.
    Pooled,
}

/// Which readiness of the socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It can be read.
    Read,
    /// It can be written.
    Write,
}

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

/// What libpq is told unless the conninfo says otherwise: find a dead peer within some 30 s.
const SOCKET_DEFAULTS: [(&str, &str); 5] = [
    ("fallback_application_name", "walcat"),
    ("keepalives_idle", "15"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

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
    /// [`Error::Conninfo`], [`Error::Connect`] after at most [`CONNECT_TIMEOUT`] a host, and what `wait` returns.
    pub fn connect(dsn: Option<&str>, kind: Kind, wait: &mut Wait<'_>) -> Result<Self, Error> {
        let mut handle = connect_start(dsn, kind)?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let mut direction = Direction::Write;
        loop {
            let Some(socket) = handle.socket() else { return Err(connect_error(&handle)) };
            wait(socket, direction)?;
            direction = match handle.connect_poll() {
                Polling::Reading => Direction::Read,
                Polling::Writing => Direction::Write,
                Polling::Done => break,
                Polling::Failed => return Err(connect_error(&handle)),
            };
            if Instant::now() >= deadline {
                return Err(connect_timed_out());
            }
        }
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
    /// [`Error::Command`] with the SQLSTATE, [`Error::Lost`], and what `wait` returns.
    pub fn command(&mut self, name: &'static str, text: &str, wait: &mut Wait<'_>) -> Result<QueryResult, Error> {
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
                Outcome::Failed => return Err(command_error(name, &result)),
                Outcome::CopyBoth => return Ok(result),
                Outcome::Command | Outcome::Rows => last = Some(result),
            }
        }
        last.ok_or_else(|| Error::Answer { command: name, reason: "no result".to_owned() })
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

/// Begins to connect, without waiting but for the resolution of host names.
pub(super) fn connect_start(dsn: Option<&str>, kind: Kind) -> Result<Handle, Error> {
    let conninfo = |message: String| Error::Conninfo { message };
    let text = |text: &str| CString::new(text).map_err(|_| conninfo("it holds a NUL byte".to_owned()));
    let mut parameters = Vec::new();
    for (key, value) in SOCKET_DEFAULTS {
        parameters.push((text(key)?, text(value)?));
    }
    if let Some(dsn) = dsn {
        let dsn_text = text(dsn)?;
        if is_conninfo(dsn) {
            let options = ffi::parse_conninfo(&dsn_text).map_err(|_| conninfo(conninfo_complaint(dsn)))?;
            check_port(&options)?;
        }
        parameters.push((text("dbname")?, dsn_text));
    }
    if kind == Kind::Replication {
        parameters.push((text("replication")?, text("database")?));
    }
    let handle = Handle::connect_start(&parameters).map_err(|error| Error::Connect {
        sqlstate: None,
        needs_password: false,
        message: error.to_string(),
    })?;
    // Failed before it could begin: either the host has no address, or the parameters are wrong in themselves.
    if handle.is_bad() && ffi::refuses_parameters(&parameters) {
        return Err(conninfo(one_line(&handle.error_message())));
    }
    Ok(handle)
}

pub(super) fn connect_error(handle: &Handle) -> Error {
    let (sqlstate, message) = split_connect_message(&handle.error_message());
    Error::Connect { sqlstate, needs_password: handle.needs_password(), message }
}

pub(super) fn connect_timed_out() -> Error {
    let message = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
    Error::Connect { sqlstate: None, needs_password: false, message }
}

/// libpq itself looks at a port only when it is about to connect, and then as at a server that is not there.
fn check_port(options: &[(String, String)]) -> Result<(), Error> {
    let Some((_, ports)) = options.iter().find(|(key, _)| key == "port") else { return Ok(()) };
    // A list has one port for each host; an empty one stands for the default.
    match ports.split(',').find(|port| !port.is_empty() && !port.trim().parse().is_ok_and(|port: u16| port > 0)) {
        Some(port) => Err(Error::Conninfo { message: format!("the port {port} is not a number from 1 to 65535") }),
        None => Ok(()),
    }
}

/// What libpq takes as a connection string; anything else is a bare database name.
fn is_conninfo(dsn: &str) -> bool {
    dsn.contains('=') || dsn.starts_with("postgres://") || dsn.starts_with("postgresql://")
}

/// libpq's own message may quote a part of the conninfo, a password among it: name what is known without it.
fn conninfo_complaint(dsn: &str) -> String {
    let form = if dsn.contains("://") { "a connection URI" } else { "a list of key=value pairs" };
    format!("libpq does not take it as {form} (the text itself is not shown, it may hold a password)")
}

/// libpq's messages have several lines.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("LOCATION:"));
    let line = lines.collect::<Vec<_>>().join("; ");
    if line.is_empty() { "the server closed the connection".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conninfo_that_libpq_refuses_is_not_quoted_in_the_error() {
        let error = connect_start(Some("host=localhost password=hunter2 bogus"), Kind::Ordinary).unwrap_err();
        assert!(matches!(error, Error::Conninfo { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn parameters_that_are_wrong_in_themselves_are_told_from_a_server_that_is_not_there() {
        for dsn in ["port=notaport", "host=a,b port=1,2,3", "sslmode=bogus host=localhost", "target_session_attrs=zz"] {
            let error = connect_start(Some(dsn), Kind::Ordinary).unwrap_err();
            assert!(matches!(error, Error::Conninfo { .. }), "{dsn}: {error}");
        }
        let handle = connect_start(Some("host=127.0.0.1 port=1"), Kind::Ordinary);
        assert!(handle.is_ok(), "whether a server is there shows later");
    }

    #[test]
    fn a_literal_is_quoted_for_sql() {}
}
