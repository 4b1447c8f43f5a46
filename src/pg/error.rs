//! The failures between walcat and PostgreSQL, sorted by who has to act.

use super::sqlstate;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;

/// A failure of the connection or of a command on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libpq rejects the connection string.
    #[error("invalid conninfo: {message}")]
    Conninfo { message: String },
    /// No server could be reached.
    #[error("cannot connect to PostgreSQL: {message}")]
    Connect { sqlstate: Option<String>, needs_password: bool, message: String },
    /// An open connection was lost.
    #[error("the connection to PostgreSQL is lost: {message}")]
    Lost { message: String },
    /// The server refused a command.
    #[error("{command} failed: {message} (SQLSTATE {sqlstate})")]
    Command { command: &'static str, sqlstate: String, message: String },
    /// The server fails at one change, and would fail again: a value exceeds the server's own limits.
    #[error("the server cannot print the change at {lsn}: {message} (SQLSTATE {sqlstate})")]
    Unprintable { sqlstate: String, message: String, lsn: Lsn },
    /// Another process has moved the slot past what this one has delivered.
    #[error("another process has moved the slot: {message}")]
    SlotMoved { message: String },
    /// The server's answer violates the protocol or the documentation.
    #[error("{command}: unexpected answer from the server: {reason}")]
    Answer { command: &'static str, reason: String },
    /// The user asked walcat to stop during a wait.
    #[error("stopped by a signal while waiting for PostgreSQL")]
    Interrupted,
    /// The operating system refused to wait.
    #[error("cannot wait for the socket: {0}")]
    Wait(#[from] std::io::Error),
}

/// The name of the command that ends another session, in messages.
pub(super) const TERMINATE: &str = "pg_terminate_backend";

/// Who has to act on a failure. The class decides whether walcat retries, and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Temporary: the same may work a little later.
    Transient,
    /// Authentication failed, or a privilege is missing.
    Permission,
    /// The setup of walcat or of the server.
    Setup,
    /// A value that the server cannot send.
    Data,
    /// The server's answer violates the protocol.
    Protocol,
    /// The user asked walcat to stop.
    Stopped,
    /// The operating system.
    Os,
}

impl Class {
    fn exit_code(self) -> ExitCode {
        match self {
            Class::Transient => ExitCode::Unavailable,
            Class::Permission => ExitCode::Permission,
            Class::Setup => ExitCode::Setup,
            Class::Data => ExitCode::Data,
            Class::Protocol => ExitCode::Protocol,
            Class::Stopped => ExitCode::TryAgain,
            Class::Os => ExitCode::Os,
        }
    }
}

impl Error {
    /// The SQLSTATE, if the server sent one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Connect { sqlstate, .. } => sqlstate.as_deref(),
            Error::Command { sqlstate, .. } => Some(sqlstate).filter(|text| !text.is_empty()).map(String::as_str),
            _ => None,
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Error::Conninfo { .. } => Class::Setup,
            Error::Connect { needs_password: true, .. } => Class::Permission,
            Error::Connect { sqlstate, .. } => sqlstate.as_deref().map_or(Class::Transient, sqlstate::class_of),
            Error::Lost { .. } | Error::SlotMoved { .. } => Class::Transient,
            Error::Command { sqlstate, .. } => sqlstate::class_of(sqlstate),
            Error::Unprintable { .. } => Class::Data,
            Error::Answer { .. } => Class::Protocol,
            Error::Interrupted => Class::Stopped,
            Error::Wait(_) => Class::Os,
        }
    }

    /// Whether the same may work a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class() == Class::Transient
    }

    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        self.class().exit_code()
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match (self, self.sqlstate()) {
            (Error::Conninfo { .. }, _) => {
                "write it as for psql: 'host=... port=... dbname=... user=...' or postgresql://user@host:port/dbname, \
                 and put the password into ~/.pgpass"
            }
            (Error::Connect { needs_password: true, .. }, _) => {
                "put the password into ~/.pgpass (or PGPASSFILE), or give the dsn as file:PATH or env:NAME"
            }
            (_, Some(sqlstate::INVALID_PASSWORD | sqlstate::INVALID_AUTHORIZATION_SPECIFICATION)) => {
                "check user, password and pg_hba.conf; a replication connection needs a line for the database itself"
            }
            (_, Some(sqlstate::INVALID_CATALOG_NAME)) => "name an existing database with dbname= in the dsn",
            (Error::Command { command: TERMINATE, .. }, Some(sqlstate::INSUFFICIENT_PRIVILEGE)) => {
                "grant pg_signal_backend to walcat's role (only a superuser can end a superuser's session), or end the \
                 session by hand"
            }
            (_, Some(sqlstate::INSUFFICIENT_PRIVILEGE)) => {
                "run ALTER ROLE ... REPLICATION for walcat's role; SELECT is not required"
            }
            (_, Some(sqlstate::TOO_MANY_CONNECTIONS)) => {
                "raise max_wal_senders or max_connections, or stop other replication clients"
            }
            (_, Some(sqlstate::CONFIGURATION_LIMIT_EXCEEDED)) => "raise max_replication_slots, or drop an unused slot",
            (_, Some(sqlstate::OBJECT_IN_USE)) => "stop the process that reads the slot, or use another slot",
            (_, Some(sqlstate::DUPLICATE_OBJECT)) => {
                "run walcat slot status to check whether the existing slot is the right one"
            }
            (_, Some(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE)) => {
                "run walcat slot status to see the state of the slot"
            }
            (_, Some(sqlstate::UNDEFINED_OBJECT)) => {
                "create the missing object: run walcat slot create, or CREATE PUBLICATION on the server"
            }
            (_, Some(sqlstate::CHARACTER_NOT_IN_REPERTOIRE | sqlstate::UNTRANSLATABLE_CHARACTER)) => {
                "a text is not valid in its encoding: for future changes, fix it or remove its column from the \
                 publication. The slot still holds the transaction: to skip it, move the slot past it with \
                 pg_replication_slot_advance"
            }
            (Error::Unprintable { .. }, _) => {
                "PostgreSQL can send a value or a row of at most 1 GB as text (a bytea doubles in size): for future \
                 changes, remove the column or the table from the publication. The slot still holds the transaction: \
                 to skip it, move the slot past it with pg_replication_slot_advance"
            }
            (Error::Connect { .. }, None) => "check host and port, and that the server is running",
            (Error::SlotMoved { .. }, _) => "run one instance per slot",
            (Error::Lost { .. }, _) => "start walcat again when the server is back: nothing is lost",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// libpq's messages have several lines; this joins them.
pub(super) fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("LOCATION:"));
    let line = without_passwords(&lines.collect::<Vec<_>>().join("; "));
    if line.is_empty() { "the server closed the connection".to_owned() } else { line }
}

/// The SQLSTATE in a connection failure, in the format of PQERRORS_VERBOSE (`SEVERITY:  SQLSTATE: message`), and the message
/// without the lines that name the server's source code. Before the first result, libpq offers the code in no other way.
#[must_use]
pub fn split_connect_message(verbose: &str) -> (Option<String>, String) {
    let sqlstate = verbose.match_indices(":  ").find_map(|(at, _)| {
        let (code, rest) = verbose.get(at + 3..)?.split_at_checked(5)?;
        let is_code = code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        (is_code && rest.starts_with(": ")).then(|| code.to_owned())
    });
    let is_source_line = |line: &&str| line.starts_with("LOCATION:");
    let message = verbose.lines().map(str::trim).filter(|line| !is_source_line(line)).collect::<Vec<_>>().join("; ");
    (sqlstate, without_passwords(&message))
}

/// Masks what looks like the password of a URI: the server repeats an unknown database name.
fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.extend([before, "://"]);
        let end = after.find(['"', ' ', '\'']).unwrap_or(after.len());
        let (authority, next) = after.split_at(end);
        match (authority.find(':'), authority.rfind('@')) {
            (Some(colon), Some(at)) if colon < at => {
                shown.extend([&authority[..=colon], "********", &authority[at..]]);
            }
            _ => shown.push_str(authority),
        }
        rest = next;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sqlstate_is_found_in_a_verbose_connect_message() {
        let text = "connection to server at \"localhost\" (127.0.0.1), port 5432 failed: FATAL:  28P01: password \
                    authentication failed for user \"x\"\nLOCATION:  auth_failed, auth.c:338";
        let (sqlstate, message) = split_connect_message(text);
        assert_eq!(sqlstate.as_deref(), Some("28P01"));
        assert!(message.ends_with("for user \"x\""), "{message}");

        let refused = "connection to server at \"localhost\" (::1), port 1 failed: Connection refused\n\tIs the server \
                       running on that host and accepting TCP/IP connections?";
        assert_eq!(split_connect_message(refused).0, None);
    }

    #[test]
    fn what_looks_like_a_password_in_a_message_is_masked() {
        for (text, shown) in [
            (
                "database \"postgre://bob:hunter2@h/x\" does not exist",
                "database \"postgre://bob:********@h/x\" does not exist",
            ),
            ("a://b:hunter2@c d://e:hunter@2@f", "a://b:********@c d://e:********@f"),
            ("see https://example.com:8080/x", "see https://example.com:8080/x"),
            ("plain", "plain"),
        ] {
            assert_eq!(one_line(text), shown);
            assert_eq!(split_connect_message(text).1, shown);
        }
    }
}
