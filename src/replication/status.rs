//! The standby status update, which the client sends: how positions are confirmed.
//!
//! ```text
//! status update = 'r' Int64 written, Int64 flushed, Int64 applied, Int64 sent_at, Byte reply_requested
//! ```

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;

/// A standby status update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// The last position received.
    pub written: Lsn,
    /// The position that the slot may move to; 0/0 leaves it where it is.
    pub flushed: Lsn,
    /// The same as flushed, for `pg_stat_replication`.
    pub applied: Lsn,
    /// The client's clock.
    pub sent_at: PgTimestamp,
    /// Whether the server is asked to answer at once.
    pub reply_requested: bool,
}

impl StatusUpdate {
    /// Bytes of the message.
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
    }
}
