//! The failures that end a run.

use std::{fmt, io};

use crate::exit_code::ExitCode;
use crate::feedback::Stalled;
use crate::lsn::Lsn;
use crate::pg::sqlstate;
use crate::position::Disagreement;
use crate::{pg, session, sink, source, state_file};

/// A failure that ends the run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] pg::Error),
    /// PostgreSQL refused to continue the stream.
    #[error("{source}; everything up to {received} had been read{table}")]
    Server { source: pg::Error, received: Lsn, table: LastTable },
    /// The catalog could not be queried within the budget of `[retry]`.
    #[error("the catalog of PostgreSQL could not be asked for {seconds} s: {source}")]
    Catalog { source: pg::Error, seconds: u64 },
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] sink::Error),
    /// The server sent something that the session does not accept.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The server is silent.
    #[error("the connection to PostgreSQL is dead: {0}")]
    Stalled(#[from] Stalled),
    /// The source cannot start.
    #[error(transparent)]
    Source(source::Error),
    /// The checkpoint comes from a process that still delivered after walcat asked for the server's position.
    #[error("the checkpoint at {checkpoint} is past {wal_end}, the end of the WAL when the stream started")]
    Overtaken { checkpoint: Lsn, wal_end: Lsn },
    /// The state file failed.
    #[error(transparent)]
    State(#[from] state_file::Error),
    /// The recording cannot be written.
    #[error("cannot write the recording {path}: {source}")]
    Record { path: String, source: io::Error },
    /// The operating system refused to wait or to catch signals.
    #[error("cannot set up the event loop: {0}")]
    Loop(#[from] io::Error),
    /// A signal ended a snapshot.
    #[error("stopped by a signal before the snapshot was complete, after {rows} rows")]
    Incomplete { rows: u64 },
    /// A signal ended the run before everything that was read was acknowledged.
    #[error("stopped by a signal before everything that was read was acknowledged (confirmed up to {confirmed})")]
    Unacknowledged { confirmed: Lsn },
}

impl From<source::Error> for Error {
    fn from(error: source::Error) -> Self {
        match error {
            source::Error::Postgres(error) => Error::Postgres(error),
            source::Error::State(error) => Error::State(error),
            error => Error::Source(error),
        }
    }
}

impl From<Disagreement> for Error {
    fn from(error: Disagreement) -> Self {
        Error::Source(error.into())
    }
}

/// The table of the last relation or row: a row that the server cannot print most likely belongs to it.
#[derive(Debug)]
pub struct LastTable(Option<String>);

impl fmt::Display for LastTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |table| write!(out, ", last of the table {table}"))
    }
}

/// What the same process can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Make a new connection to PostgreSQL.
    Connection,
    /// Start again at the delivered position, with a new producer.
    Producer,
    /// Nothing.
    None,
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Postgres(error) | Error::Server { source: error, .. } | Error::Catalog { source: error, .. } => {
                error.exit_code()
            }
            Error::Sink(error) => error.exit_code(),
            Error::Session(error) => error.exit_code(),
            Error::Source(error) => error.exit_code(),
            Error::Stalled(_) | Error::Overtaken { .. } => ExitCode::Unavailable,
            Error::State(error) => error.exit_code(),
            Error::Record { .. } | Error::Loop(_) => ExitCode::Os,
            Error::Unacknowledged { .. } | Error::Incomplete { .. } => ExitCode::TryAgain,
        }
    }

    /// The same error; a refusal of the server gets the position and the table that were read last.
    #[must_use]
    pub fn after(self, received: Lsn, table: Option<String>) -> Error {
        match self {
            Error::Postgres(source @ pg::Error::Command { .. }) => {
                Error::Server { source, received, table: LastTable(None) }
            }
            Error::Postgres(source @ pg::Error::Unprintable { .. }) => {
                Error::Server { source, received, table: LastTable(table) }
            }
            other => other,
        }
    }

    /// What fixes this failure, if anything does. Each variant is named, so that a new one is a decision.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        let only_if = |fixed: bool, remedy| if fixed { remedy } else { Remedy::None };
        match self {
            Error::Postgres(error) => only_if(error.is_transient(), Remedy::Connection),
            Error::Sink(error) => only_if(error.is_discarded(), Remedy::Producer),
            Error::Session(session::Error::Differs { .. }) => Remedy::Connection,
            Error::Stalled(_) | Error::Overtaken { .. } => Remedy::Connection,
            Error::Source(source::Error::Postgres(error)) => only_if(error.is_transient(), Remedy::Connection),
            Error::Source(source::Error::SlotHeld { .. }) => Remedy::Connection,
            Error::Source(
                source::Error::State(_)
                | source::Error::Setup { .. }
                | source::Error::Positions(_)
                | source::Error::Rewritten { .. },
            ) => Remedy::None,
            Error::Session(
                session::Error::Frame { .. }
                | session::Error::Message { .. }
                | session::Error::Order { .. }
                | session::Error::Ticket(_),
            ) => Remedy::None,
            Error::Server { .. } | Error::Catalog { .. } => Remedy::None,
            Error::State(_) | Error::Record { .. } | Error::Loop(_) => Remedy::None,
            Error::Incomplete { .. } | Error::Unacknowledged { .. } => Remedy::None,
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Server { source, .. } if source.sqlstate() == Some(sqlstate::UNDEFINED_OBJECT) => Some(
                "create publications before the slot reads changes: a publication that is newer than the slot cannot \
                 decode the slot's older changes. Drop the slot, create it after the publication, and reload the \
                 tables"
                    .to_owned(),
            ),
            // A peek returns nothing that precedes the change, so polling does not know the table.
            Error::Server { source: error @ pg::Error::Unprintable { lsn, .. }, table: LastTable(None), .. } => {
                Some(format!(
                    "{}. To find the table in PostgreSQL 15 or later: CREATE EXTENSION pg_walinspect; SELECT \
                     pg_filenode_relation(0, split_part(substring(block_ref FROM 'rel ([0-9/]+)'), '/', 3)::oid) FROM \
                     pg_get_wal_record_info('{lsn}')",
                    error.hint().unwrap_or_default()
                ))
            }
            Error::Postgres(error) | Error::Server { source: error, .. } | Error::Catalog { source: error, .. } => {
                error.hint()
            }
            Error::Sink(error) => error.hint(),
            Error::Source(error) => error.hint(),
            Error::State(error) => Some(error.hint().to_owned()),
            Error::Session(_) => Some(
                "nothing after the last confirmed LSN is lost; send us a recording of it: walcat stream --record FILE"
                    .to_owned(),
            ),
            Error::Stalled(_) => Some("check the network and the server, then start walcat again".to_owned()),
            Error::Overtaken { .. } | Error::Unacknowledged { .. } => {
                Some("start walcat again: nothing is lost".to_owned())
            }
            Error::Incomplete { .. } => Some(
                "start walcat again: with --snapshot only it reads all rows again, with initial it reads what is left"
                    .to_owned(),
            ),
            Error::Record { .. } | Error::Loop(_) => None,
        }
    }
}
