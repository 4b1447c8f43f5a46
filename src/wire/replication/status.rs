//! The standby status update, with which a client confirms positions.
//!
//! ```text
//! status update = 'r' Int64 written, Int64 flushed, Int64 applied, Int64 sent_at, Byte reply_requested
//! ```

use super::frame::{DecodeError, int64, lsn};
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;

/// A standby status update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// The last position received.
    pub written: Lsn,
    /// The position to which the slot may move; 0/0 keeps its position.
    pub flushed: Lsn,
    /// The same as `flushed`, for `pg_stat_replication`.
    pub applied: Lsn,
    /// The client's clock.
    pub sent_at: PgTimestamp,
    /// Whether the client requests an answer at once.
    pub reply_requested: bool,
}

impl StatusUpdate {
    /// The size of the message in bytes.
    pub const SIZE: usize = 34;

    /// The message, for one CopyData.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut message = [0; Self::SIZE];
        let numbers = [self.written.0, self.flushed.0, self.applied.0, self.sent_at.0.cast_unsigned()];
        let fields = message.iter_mut().skip(1);
        for (place, byte) in fields.zip(numbers.iter().flat_map(|number| number.to_be_bytes())) {
            *place = byte;
        }
        let [first, .., last] = &mut message;
        *first = b'r';
        *last = u8::from(self.reply_requested);
        message
    }

    /// Reads a status update as a server does; for the servers of tests.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else than exactly one status update.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (kind, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        if *kind != b'r' {
            return Err(DecodeError::UnknownType(*kind));
        }
        let (written, rest) = int64(rest, "written")?;
        let (flushed, rest) = int64(rest, "flushed")?;
        let (applied, rest) = int64(rest, "applied")?;
        let (sent_at, rest) = int64(rest, "sent_at")?;
        let (reply, rest) = rest.split_first().ok_or(DecodeError::Underflow { field: "reply_requested" })?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing { count: rest.len() });
        }
        Ok(StatusUpdate {
            written: lsn(written),
            flushed: lsn(flushed),
            applied: lsn(applied),
            sent_at: PgTimestamp(sent_at),
            reply_requested: *reply != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let update = StatusUpdate {
            written: Lsn(0x0102_0304_0506_0708),
            flushed: Lsn(2),
            applied: Lsn(3),
            sent_at: PgTimestamp(-2),
            reply_requested: true,
        };
        let expected: [u8; StatusUpdate::SIZE] = [
            b'r', 1, 2, 3, 4, 5, 6, 7, 8, // written
            0, 0, 0, 0, 0, 0, 0, 2, // flushed
            0, 0, 0, 0, 0, 0, 0, 3, // applied
            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, // sent_at
            1,    // reply_requested
        ];
        assert_eq!(update.encode(), expected);
        assert_eq!(StatusUpdate::decode(&expected), Ok(update));
    }

    #[test]
    fn what_is_no_status_update_is_refused() {
        let update = StatusUpdate {
            written: Lsn(1),
            flushed: Lsn(0),
            applied: Lsn(0),
            sent_at: PgTimestamp(0),
            reply_requested: false,
        };
        let mut bytes = update.encode().to_vec();
        assert_eq!(StatusUpdate::decode(&[]), Err(DecodeError::Empty));
        for length in 1..bytes.len() {
            let result = StatusUpdate::decode(&bytes[..length]);
            assert!(matches!(result, Err(DecodeError::Underflow { .. })), "{length}");
        }
        bytes.push(0);
        assert_eq!(StatusUpdate::decode(&bytes), Err(DecodeError::Trailing { count: 1 }));
        assert_eq!(StatusUpdate::decode(b"k"), Err(DecodeError::UnknownType(b'k')));
    }
}
