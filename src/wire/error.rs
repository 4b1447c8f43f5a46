//! Why bytes from the server are no message: sorted by what is wrong with them.

/// A message that cannot be decoded. Offsets count from the message's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before its last field does.
    #[error("message cut short: {reading} at byte {offset} wants more than the {available} bytes that are left")]
    Truncated {
        /// The field that was being read.
        reading: &'static str,
        /// Where it begins.
        offset: usize,
        /// How many bytes the message still has there.
        available: usize,
    },
    /// The message goes on after its last field.
    #[error("message too long: {count} bytes are left after its end at byte {offset}")]
    TrailingBytes {
        /// Where the message should have ended.
        offset: usize,
        /// How many bytes follow.
        count: usize,
    },
    /// A message type of which no protocol version up to 4 knows.
    #[error("unknown message type: byte {tag:#04x}")]
    UnknownMessage {
        /// The message's first byte.
        tag: u8,
    },
    /// A byte that chooses between forms has a value of which the protocol does not know.
    #[error("unknown {reading}: byte {value:#04x} at byte {offset}")]
    UnknownValue {
        /// The field that was being read.
        reading: &'static str,
        /// Where it stands.
        offset: usize,
        /// Its value.
        value: u8,
    },
    /// A length or a count below zero.
    #[error("negative {reading}: {value} at byte {offset}")]
    Negative {
        /// The field that was being read.
        reading: &'static str,
        /// Where it stands.
        offset: usize,
        /// Its value.
        value: i32,
    },
    /// A name is not valid UTF-8, though the connection asked for it.
    #[error("{reading} is not valid UTF-8: at byte {offset}")]
    NotUtf8 {
        /// The field that was being read.
        reading: &'static str,
        /// The first byte that is wrong.
        offset: usize,
    },
}
