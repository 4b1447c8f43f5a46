//! The failures that stop a session.

use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::ring::UnknownTicket;
use crate::wire::pgoutput::DecodeError;
use crate::wire::replication;

/// The server broke the protocol, or walcat has a defect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a frame of the streaming protocol.
    #[error("the server sent a frame that cannot be decoded, after {after}: {source}")]
    Frame { after: Lsn, source: replication::DecodeError },
    /// The bytes are not a message of pgoutput.
    #[error("the server sent a message that cannot be decoded, at {lsn}: {source}")]
    Message { lsn: Lsn, source: DecodeError },
    /// The message is not allowed at this point.
    #[error("the server broke the protocol at {lsn}: {reason}")]
    Order { lsn: Lsn, reason: String },
    /// The server sent a partly read transaction again, with other changes.
    #[error("the server sent the transaction committed at {commit_lsn} again with other changes")]
    Differs { commit_lsn: Lsn },
    /// A record was settled that is not in flight.
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
