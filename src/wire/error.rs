//! The errors of decoding, sorted by what is wrong with the bytes.

/// A message that cannot be decoded. Offsets count from the message's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before its last field does.
    #[error("message cut short: {reading} at byte {offset} needs more than the remaining {available} bytes")]
    Truncated {
        /// The field that was being read.
        reading: &'static str,
        /// Where it starts.
        offset: usize,
        /// How many bytes the message still has there.
        available: usize,
    },
    /// The message continues after its last field.
    #[error("message too long: {count} bytes follow its end at byte {offset}")]
    TrailingBytes {
        /// Where the message should have ended.
        offset: usize,
        /// How many bytes follow.
        count: usize,
    },
    /// A message type that no protocol version up to 4 defines.
    #[error("unknown message type: byte {tag:#04x}")]
    UnknownMessage {
        /// The message's first byte.
        tag: u8,
    },
    /// A byte that selects a form has an undefined value.
    #[error("unknown {reading}: byte {value:#04x} at byte {offset}")]
    UnknownValue {
        /// The field that was being read.
        reading: &'static str,
        /// Its offset.
        offset: usize,
        /// Its value.
        value: u8,
    },
    /// A length or a count below zero.
    #[error("negative {reading}: {value} at byte {offset}")]
    Negative {
        /// The field that was being read.
        reading: &'static str,
        /// Its offset.
        offset: usize,
        /// Its value.
        value: i32,
    },
    /// A name is not valid UTF-8, although the connection requested UTF-8.
    #[error("{reading} is not valid UTF-8: at byte {offset}")]
    NotUtf8 {
        /// The field that was being read.
        reading: &'static str,
        /// The first wrong byte.
        offset: usize,
    },
}
