//! TupleData: the cells of one row.
//!
//! ```text
//! TupleData = Int16 column_count, { cell }
//! cell      = 'n' | 'u' | 't' Int32 length, bytes | 'b' Int32 length, bytes
//! ```
//!
//! A [`Tuple`] is checked whole when it is decoded, so that going through its cells cannot fail.

/// One column's value in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL; in an old key tuple also every column outside the key.
    Null,
    /// A TOASTed value that the change did not touch and the server did not send (rule 31).
    UnchangedToast,
    /// The type's text output.
    Text(&'a [u8]),
    /// The type's binary output.
    Binary(&'a [u8]),
}

/// The cells of a row, already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    pub(super) column_count: u16,
    pub(super) cells: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// How many cells there are.
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

/// Iterates over the cells of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    pub(super) left: u16,
    pub(super) bytes: &'a [u8],
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
