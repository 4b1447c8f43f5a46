//! The failures of a source while it starts.

use crate::exit_code::ExitCode;
use crate::position::Disagreement;
use crate::{pg, state_file};

/// A failure of a start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] pg::Error),
    /// The stored position cannot be read.
    #[error(transparent)]
    State(#[from] state_file::Error),
    /// The setup on the server does not allow the request.
    #[error("{message}")]
    Setup { message: String, hint: String },
    /// The slot, the server and a store disagree.
    #[error(transparent)]
    Positions(#[from] Disagreement),
    /// Another process held the slot for longer than allowed.
    #[error("another process has held the slot {slot} for {seconds} s ({holder})")]
    SlotHeld { slot: String, holder: String, seconds: u64 },
    /// A table was rewritten before its snapshot could be read.
    #[error(
        "the table {table} was rewritten while the snapshot began (ALTER TABLE, TRUNCATE, CLUSTER or VACUUM FULL), so the \
         snapshot does not see its rows"
    )]
    Rewritten { table: String },
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Postgres(error) => error.exit_code(),
            Error::State(error) => error.exit_code(),
            Error::Setup { .. } | Error::Positions(_) => ExitCode::Setup,
            Error::SlotHeld { .. } | Error::Rewritten { .. } => ExitCode::Unavailable,
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Postgres(error) => error.hint(),
            Error::State(error) => Some(error.hint().to_owned()),
            Error::Setup { hint, .. } => Some(hint.clone()),
            Error::Positions(disagreement) => Some(disagreement.hint().to_owned()),
            Error::SlotHeld { .. } => Some(
                "stop the other process (--takeover ends a dead or frozen one; a working one reconnects); after a \
                 crash the server frees the slot within wal_sender_timeout: [retry] for says how long walcat waits"
                    .to_owned(),
            ),
            Error::Rewritten { .. } => Some("start walcat again: it reads another snapshot".to_owned()),
        }
    }
}
