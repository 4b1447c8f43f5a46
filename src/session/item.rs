//! The input of a session: a keepalive, a message of the plugin, or a position up to which everything has been read.

use super::Error;
use crate::lsn::Lsn;
use crate::wire::pgoutput::{self, Context, Message};
use crate::wire::replication::{self, Frame};

/// One item, borrowed from the received bytes.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A keepalive of a walsender.
    Keepalive {
        /// The last sent position: without an open transaction, everything before it has been received.
        wal_end: Lsn,
        /// Whether the server requests a status update at once.
        reply_requested: bool,
    },
    /// A message of the output plugin.
    Message {
        /// Its position; 0/0 for a message without one, such as Relation.
        lsn: Lsn,
        /// The message.
        message: Message<'a>,
    },
    /// Everything that was committed before this position has been read. It may lie inside a WAL record.
    ReadUpTo(Lsn),
}

impl<'a> Item<'a> {
    /// Decodes a frame of a replication stream. Errors name it by `after`, the last received position.
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
