//! TupleData: the cells of one row.
//!
//! ```text
//! TupleData = Int16 column_count, { cell }
//! cell      = 'n' | 'u' | 't' Int32 length, bytes | 'b' Int32 length, bytes
//! old       = 'K' TupleData | 'O' TupleData
//! new       = 'N' TupleData
//! ```
//!
//! The decoder checks a whole [`Tuple`], so iterating over its cells cannot fail.

use crate::wire::error::DecodeError;
use crate::wire::reader::Reader;

/// One column's value in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL; in an old key tuple, also every column outside the key.
    Null,
    /// A TOASTed value that the change did not touch and the server did not send.
    UnchangedToast,
    /// The type's text output.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// The cells of a row, already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    column_count: u16,
    cells: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Reads a tuple and checks all its cells.
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let column_count = reader.u16("the tuple's column count")?;
        let before = reader.clone();
        for _ in 0..column_count {
            let offset = reader.offset();
            match reader.u8("a cell's kind")? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    let length = reader.length("a cell's length")?;
                    reader.bytes(length, "a cell")?;
                }
                value => return Err(DecodeError::UnknownValue { reading: "kind of cell", offset, value }),
            }
        }
        Ok(Tuple { column_count, cells: reader.since(&before, "the tuple")? })
    }

    /// Reads the tuple after an `N`.
    pub(super) fn decode_new(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let offset = reader.offset();
        match reader.u8("the kind of the new tuple")? {
            b'N' => Tuple::decode(reader),
            value => Err(DecodeError::UnknownValue { reading: "kind of new tuple", offset, value }),
        }
    }

    /// The number of cells.
    #[must_use]
    pub fn column_count(&self) -> usize {
        usize::from(self.column_count)
    }

    /// The cells, in the Relation's column order.
    #[must_use]
    pub fn cells(&self) -> Cells<'a> {
        Cells { left: self.column_count, bytes: self.cells }
    }
}

/// The row before the change, as far as the replica identity logs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// `K`: the columns of the replica identity; all other columns appear as null.
    Key(Tuple<'a>),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// Reads the tuple of a Delete, which always exists.
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let offset = reader.offset();
        match reader.u8("the kind of the old tuple")? {
            b'K' => Ok(OldTuple::Key(Tuple::decode(reader)?)),
            b'O' => Ok(OldTuple::Full(Tuple::decode(reader)?)),
            value => Err(DecodeError::UnknownValue { reading: "kind of old tuple", offset, value }),
        }
    }

    /// Reads the old tuple of an Update, if there is one before the new tuple's `N`.
    pub(super) fn decode_optional(reader: &mut Reader<'a>) -> Result<Option<Self>, DecodeError> {
        match reader.clone().u8("the kind of the tuple")? {
            b'N' => Ok(None),
            _ => OldTuple::decode(reader).map(Some),
        }
    }
}

/// Iterates over the cells of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    left: u16,
    bytes: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (kind, rest) = self.bytes.split_first()?;
        if matches!(kind, b'n' | b'u') {
            self.bytes = rest;
            return Some(if *kind == b'n' { Cell::Null } else { Cell::UnchangedToast });
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
        self.bytes = rest;
        Some(if *kind == b't' { Cell::Text(value) } else { Cell::Binary(value) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}
