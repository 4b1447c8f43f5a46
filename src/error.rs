//! The failures of the commands. `program` prints them once.

use std::io;

use crate::config::ConfigError;
use crate::exit_code::ExitCode;
use crate::{pg, pump, record, recording, sink};

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
            Error::Checks { .. } | Error::Slot { .. } => ExitCode::Setup,
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
            Error::Slot { hint, .. } => hint.clone(),
            Error::Unasked { .. } => {
                Some("use --force to drop it without a question, or run walcat on a terminal to be asked".to_owned())
            }
            Error::Input { .. } | Error::Recording { .. } | Error::Output(_) | Error::Checks { .. } => None,
        }
    }
}

impl From<pg::Error> for Error {
    fn from(error: pg::Error) -> Self {
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
