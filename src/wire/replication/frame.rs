//! The server's frames; each is one CopyData message.
//!
//! ```text
//! XLogData  = 'w' Int64 start, Int64 wal_end, Int64 sent_at, bytes
//! keepalive = 'k' Int64 wal_end, Int64 sent_at, Byte reply_requested
//! ```
//!
//! The payload does not consist of WAL bytes, so `start` plus the payload's length is not a position.

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;

/// One frame, borrowed from the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    XLogData {
        /// Its position in the WAL; 0/0 for a message without one, such as Relation.
        start: Lsn,
        /// The server's position at the time of sending.
        wal_end: Lsn,
        /// The server's clock at the time of sending.
        sent_at: PgTimestamp,
        /// The plugin's message.
        message: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// The last sent position: with nothing in flight, everything before it is complete.
        wal_end: Lsn,
        /// The server's clock at the time of sending.
        sent_at: PgTimestamp,
        /// Whether the server requests a status update at once.
        reply_requested: bool,
    },
}

/// The bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("an empty frame")]
    Empty,
    /// The type is not one of the protocol's.
    #[error("a frame of the unknown type 0x{0:02X}")]
    UnknownType(u8),
    /// The bytes end inside a field.
    #[error("a frame that ends inside its {field}")]
    Underflow { field: &'static str },
    /// Bytes after the last field.
    #[error("{count} bytes after the end of a frame")]
    Trailing { count: usize },
}

/// Decodes one frame, which takes up all of `bytes`.
///
/// # Errors
/// [`DecodeError`] for anything else than exactly one frame.
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let (kind, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    match kind {
        b'w' => {
            let (start, rest) = int64(rest, "start")?;
            let (wal_end, rest) = int64(rest, "wal_end")?;
            let (sent_at, message) = int64(rest, "sent_at")?;
            Ok(Frame::XLogData { start: lsn(start), wal_end: lsn(wal_end), sent_at: PgTimestamp(sent_at), message })
        }
        b'k' => {
            let (wal_end, rest) = int64(rest, "wal_end")?;
            let (sent_at, rest) = int64(rest, "sent_at")?;
            let (reply, rest) = rest.split_first().ok_or(DecodeError::Underflow { field: "reply_requested" })?;
            if !rest.is_empty() {
                return Err(DecodeError::Trailing { count: rest.len() });
            }
            let sent_at = PgTimestamp(sent_at);
            Ok(Frame::Keepalive { wal_end: lsn(wal_end), sent_at, reply_requested: *reply != 0 })
        }
        other => Err(DecodeError::UnknownType(*other)),
    }
}

pub(super) fn int64<'a>(bytes: &'a [u8], field: &'static str) -> Result<(i64, &'a [u8]), DecodeError> {
    let (value, rest) = bytes.split_first_chunk::<8>().ok_or(DecodeError::Underflow { field })?;
    Ok((i64::from_be_bytes(*value), rest))
}

pub(super) fn lsn(value: i64) -> Lsn {
    Lsn(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// w, start 0/10, wal_end 0/20, sent_at 3, message "B".
    const XLOGDATA: [u8; 26] =
        [b'w', 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 3, b'B'];
    /// k, wal_end 1/0, sent_at -1, reply requested.
    const KEEPALIVE: [u8; 18] = [b'k', 0, 0, 0, 1, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];

    #[test]
    fn both_frames_are_decoded() {
        let xlogdata = Frame::XLogData { start: Lsn(0x10), wal_end: Lsn(0x20), sent_at: PgTimestamp(3), message: b"B" };
        assert_eq!(decode(&XLOGDATA), Ok(xlogdata));
        let keepalive = Frame::Keepalive { wal_end: Lsn(1 << 32), sent_at: PgTimestamp(-1), reply_requested: true };
        assert_eq!(decode(&KEEPALIVE), Ok(keepalive));
    }

    #[test]
    fn a_frame_that_is_cut_in_its_header_is_an_error_at_every_length() {
        for length in 1..25 {
            assert!(matches!(decode(&XLOGDATA[..length]), Err(DecodeError::Underflow { .. })), "{length}");
        }
        for length in 1..18 {
            assert!(matches!(decode(&KEEPALIVE[..length]), Err(DecodeError::Underflow { .. })), "{length}");
        }
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(decode(b"x"), Err(DecodeError::UnknownType(b'x')));
        let mut trailing = KEEPALIVE.to_vec();
        trailing.push(0);
        assert_eq!(decode(&trailing), Err(DecodeError::Trailing { count: 1 }));
    }
}
