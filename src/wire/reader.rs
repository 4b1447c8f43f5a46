//! Reads fields from the front of a message, and checks each field before reading it.
//!
//! Source: PostgreSQL documentation, "55.6 Message Data Types": integers in network byte order, strings ended by a zero
//! byte.

use super::error::DecodeError;
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;

/// The unread part of a message.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Reader { rest: message, offset: 0 }
    }

    /// The offset of the next field.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn bytes(&mut self, count: usize, reading: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.truncated(reading))?;
        self.advance(count, rest);
        Ok(taken)
    }

    /// The bytes read since `earlier`, an older copy of this reader.
    pub(crate) fn since(&self, earlier: &Reader<'a>, reading: &'static str) -> Result<&'a [u8], DecodeError> {
        earlier.clone().bytes(self.offset.saturating_sub(earlier.offset), reading)
    }

    pub(crate) fn u8(&mut self, reading: &'static str) -> Result<u8, DecodeError> {
        let [value] = self.array(reading)?;
        Ok(value)
    }

    pub(crate) fn u16(&mut self, reading: &'static str) -> Result<u16, DecodeError> {
        self.array(reading).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, reading: &'static str) -> Result<u32, DecodeError> {
        self.array(reading).map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, reading: &'static str) -> Result<i32, DecodeError> {
        self.array(reading).map(i32::from_be_bytes)
    }

    pub(crate) fn lsn(&mut self, reading: &'static str) -> Result<Lsn, DecodeError> {
        self.array(reading).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn timestamp(&mut self, reading: &'static str) -> Result<PgTimestamp, DecodeError> {
        self.array(reading).map(|bytes| PgTimestamp(i64::from_be_bytes(bytes)))
    }

    /// An Int32 that holds the number of bytes or items that follow.
    pub(crate) fn length(&mut self, reading: &'static str) -> Result<usize, DecodeError> {
        let offset = self.offset;
        let value = self.i32(reading)?;
        usize::try_from(value).map_err(|_| DecodeError::Negative { reading, offset, value })
    }

    /// A string; the zero byte that ends it is read too.
    pub(crate) fn string(&mut self, reading: &'static str) -> Result<&'a str, DecodeError> {
        let offset = self.offset;
        let length = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.truncated(reading))?;
        let text = self.bytes(length, reading)?;
        self.u8(reading)?;
        str::from_utf8(text)
            .map_err(|error| DecodeError::NotUtf8 { reading, offset: offset.saturating_add(error.valid_up_to()) })
    }

    /// Fails if anything is left.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { offset: self.offset, count }),
        }
    }

    fn array<const N: usize>(&mut self, reading: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated(reading))?;
        self.advance(N, rest);
        Ok(*taken)
    }

    fn advance(&mut self, count: usize, rest: &'a [u8]) {
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
    }

    fn truncated(&self, reading: &'static str) -> DecodeError {
        DecodeError::Truncated { reading, offset: self.offset, available: self.rest.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_in_network_byte_order_with_their_offsets() {
        let mut reader = Reader::new(b"\x01\x00\x02\x00\x00\x00\x03\xff\xff\xff\xfeab\0rest");
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        let before = reader.clone();
        assert_eq!(reader.i32("d"), Ok(-2));
        assert_eq!(reader.string("e"), Ok("ab"));
        assert_eq!(reader.since(&before, "d and e"), Ok(&b"\xff\xff\xff\xfeab\0"[..]));
        assert_eq!(reader.offset(), 14);
        assert_eq!(reader.finish(), Err(DecodeError::TrailingBytes { offset: 14, count: 4 }));
        assert_eq!(reader.bytes(4, "rest"), Ok(b"rest".as_slice()));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_field_that_does_not_fit_takes_nothing() {
        let mut reader = Reader::new(b"abc");
        let error = DecodeError::Truncated { reading: "x", offset: 0, available: 3 };
        assert_eq!(reader.u32("x"), Err(error));
        assert_eq!(reader.lsn("x"), Err(error));
        assert_eq!(reader.timestamp("x"), Err(error));
        assert_eq!(reader.string("x"), Err(error));
        assert_eq!(reader.bytes(4, "x"), Err(error));
        assert_eq!(reader.bytes(usize::MAX, "x"), Err(error));
        assert_eq!(reader.bytes(3, "x"), Ok(&b"abc"[..]));
    }

    #[test]
    fn a_negative_length_and_a_name_that_is_not_utf8_are_errors_of_their_own() {
        let error = DecodeError::Negative { reading: "x", offset: 0, value: -1 };
        assert_eq!(Reader::new(b"\xff\xff\xff\xff").length("x"), Err(error));
        let error = DecodeError::NotUtf8 { reading: "x", offset: 2 };
        assert_eq!(Reader::new(b"ab\xffc\0").string("x"), Err(error));
    }
}
