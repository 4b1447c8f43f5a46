//! What a source hands to a session: one keepalive, one message of the plugin, or a position that has been read up to.

use super::Error;
use crate::lsn::Lsn;
use crate::wire::pgoutput::{self, Context, Message};
use crate::wire::replication::{self, Frame};

/// One item, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A keepalive of a walsender.
    Keepalive {
        /// The last position that was sent: with no open transaction nothing before it is missing.
        wal_end: Lsn,
        /// Whether the server wants a status update at once.
        reply_requested: bool,
    },
    /// A message of the output plugin.
    Message {
        /// Its position; 0/0 for a message that belongs nowhere, such as Relation.
        lsn: Lsn,
        /// The message.
        message: Message<'a>,
    },
    /// Everything that was committed before this position has been read. It may lie inside a WAL record.
    ReadUpTo(Lsn),
}

impl<'a> Item<'a> {
    /// Decodes a frame of a replication stream. `after` names it in errors: the last position that was received.
    ///
    /// # Errors
    /// [`Error::Frame`], [`Error::Message`].
    pub fn of_frame(frame: &'a [u8], after: Lsn) -> Result<Self, Error> {
        match replication::decode(frame).map_err(|source| Error::Frame { after, source })? {
            Frame::Keepalive { wal_end, reply_requested, .. } => Ok(Item::Keepalive { wal_end, reply_requested }),
            Frame::XLogData { start, message, .. } => Item::of_message(start, message),
        }
    }

    /// Decodes a message of the output plugin at its position.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub fn of_message(lsn: Lsn, message: &'a [u8]) -> Result<Self, Error> {
        let message = pgoutput::decode(message, Context::default()).map_err(|source| Error::Message { lsn, source })?;
        Ok(Item::Message { lsn, message })
    }
}
