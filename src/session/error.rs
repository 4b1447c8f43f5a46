//! Why a session cannot go on.

use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::ring::UnknownTicket;
use crate::wire::pgoutput::DecodeError;
use crate::wire::replication;

/// What the server may not send, or what walcat did wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame that is none of the streaming protocol's.
    #[error("the server sent a frame that cannot be decoded, after {after}: {source}")]
    Frame { after: Lsn, source: replication::DecodeError },
    /// A message that is none of pgoutput's.
    #[error("the server sent a message that cannot be decoded, at {lsn}: {source}")]
    Message { lsn: Lsn, source: DecodeError },
    /// A message where it may not be.
    #[error("the server broke the protocol at {lsn}: {reason}")]
    Order { lsn: Lsn, reason: String },
    /// What was read of a transaction does not come again as it was.
    #[error("the transaction committed at {commit_lsn} was read in part, and comes again with other changes")]
    Differs { commit_lsn: Lsn },
    /// A record settled that was never in flight.
    #[error(transparent)]
    Ticket(#[from] UnknownTicket),
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Frame { .. } | Error::Message { .. } | Error::Order { .. } => ExitCode::Protocol,
            Error::Differs { .. } => ExitCode::Unavailable,
            Error::Ticket(_) => ExitCode::Defect,
        }
    }
}
