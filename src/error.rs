//! The failures of the commands. `program` prints them once.

use std::io;

use crate::config::ConfigError;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::{pg, pump, record, recording, sink, source};

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A failure of a stream or of a connection.
    #[error(transparent)]
    Pump(#[from] pump::Error),
    /// An input file cannot be opened.
    #[error("cannot read {path}: {source}")]
    Input { path: String, source: io::Error },
    /// A recording is invalid or truncated.
    #[error("cannot read the recording {path}: {source}")]
    Recording { path: String, source: recording::Error },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// `check` found errors and printed them.
    #[error("{count} of {total} checks failed")]
    Checks { count: usize, total: usize },
    /// `slot status` found an error and printed it.
    #[error("{finding}")]
    Slot { finding: String, hint: Option<String> },
    /// `verify` found differences and printed them.
    #[error("{differing} of {compared} topics differ from their tables as of {snapshot}")]
    Differs { differing: u64, compared: u64, snapshot: Lsn },
    /// `verify` cannot compare, because the stream has not delivered what the snapshot has.
    #[error(
        "cannot compare: the slot {slot} has confirmed only {confirmed}, {} bytes of WAL before the snapshot at \
         {snapshot}, and {why}",
        snapshot.bytes_since(*confirmed)
    )]
    Behind { slot: String, confirmed: Lsn, snapshot: Lsn, why: &'static str },
    /// `verify` has no table to compare.
    #[error("no published table matches {}", if patterns.is_empty() { "the publication".to_owned() } else { patterns.join(", ") })]
    NoTable { patterns: Vec<String> },
    /// A request for a snapshot cannot be met.
    #[error("{reason}")]
    Snapshot { reason: String, hint: Option<String> },
    /// `slot drop` would discard changes, and there is no terminal to ask on.
    #[error("cannot drop the slot {slot}: {bytes} bytes of unread WAL would be discarded")]
    Unasked { slot: String, bytes: u64 },
}

impl Error {
    /// The exit code of this failure.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Config(error) => error.exit_code(),
            Error::Pump(error) => error.exit_code(),
            Error::Input { .. } => ExitCode::NoInput,
            Error::Recording { source, .. } => source.exit_code(),
            Error::Output(_) => ExitCode::Os,
            Error::Checks { .. } | Error::Slot { .. } | Error::NoTable { .. } | Error::Snapshot { .. } => {
                ExitCode::Setup
            }
            Error::Differs { .. } => ExitCode::Data,
            Error::Behind { .. } => ExitCode::Unavailable,
            Error::Unasked { .. } => ExitCode::Usage,
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Config(error) => error.hint(),
            Error::Pump(error) => error.hint(),
            Error::Recording { source: recording::Error::Cut { .. }, .. } => Some(
                "the run that wrote it ended early or is still writing; every complete frame was printed".to_owned(),
            ),
            Error::Slot { hint, .. } | Error::Snapshot { hint, .. } => hint.clone(),
            Error::Unasked { .. } => {
                Some("use --force to drop it without a question, or run walcat on a terminal to be asked".to_owned())
            }
            Error::Behind { .. } => Some(
                "start walcat stream, or wait until it has delivered its backlog, and run walcat verify again"
                    .to_owned(),
            ),
            Error::NoTable { .. } => {
                Some("a pattern is SCHEMA.TABLE; pg_publication_tables lists the tables of a publication".to_owned())
            }
            Error::Differs { .. } => None,
            Error::Input { .. } | Error::Recording { .. } | Error::Output(_) | Error::Checks { .. } => None,
        }
    }
}

impl From<pg::Error> for Error {
    fn from(error: pg::Error) -> Self {
        Error::Pump(error.into())
    }
}

impl From<source::Error> for Error {
    fn from(error: source::Error) -> Self {
        Error::Pump(error.into())
    }
}

impl From<sink::Error> for Error {
    fn from(error: sink::Error) -> Self {
        Error::Pump(error.into())
    }
}

impl From<record::PrepareError> for Error {
    fn from(error: record::PrepareError) -> Self {
        Error::Pump(sink::Error::from(error).into())
    }
}
