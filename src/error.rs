//! What a command can fail with, and how `main` prints it: once.

use std::io;

use crate::config::ConfigError;
use crate::exit_code::ExitCode;
use crate::{pg, pump, record, recording, sink};

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A run.
    #[error(transparent)]
    Pump(#[from] pump::Error),
    /// An input file.
    #[error("cannot read {path}: {source}")]
    Input { path: String, source: io::Error },
    /// A recording, which is not one or not whole.
    #[error("cannot read the recording {path}: {source}")]
    Recording { path: String, source: recording::Error },
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// `check` found errors, which it has printed.
    #[error("{count} of {total} checks failed")]
    Checks { count: usize, total: usize },
    /// `slot status` found an error, which it has printed with the rest.
    #[error("{finding}")]
    Slot { finding: String, hint: Option<String> },
    /// `slot drop` would discard changes, and there is nobody to ask.
    #[error("the slot {slot} is not dropped: {bytes} bytes of WAL that nobody has read would be discarded")]
    Unasked { slot: String, bytes: u64 },
}

impl Error {
    /// The exit code that this failure ends with.
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
            Error::Recording { source: recording::Error::Cut { .. }, .. } => {
                Some("the run that wrote it ended early, or writes it still; all that is whole was printed".to_owned())
            }
            Error::Slot { hint, .. } => hint.clone(),
            Error::Unasked { .. } => Some("--force drops it without a question; on a terminal walcat asks".to_owned()),
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
