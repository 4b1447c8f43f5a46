//! One row of COPY's text format: `COPY ... TO STDOUT` sends each row in one CopyData.
//!
//! ```text
//! row    = [ cell { tab cell } ] newline
//! cell   = "\N" (null) | { byte | escape }
//! escape = "\b" | "\f" | "\n" | "\r" | "\t" | "\v" | "\\"
//! ```
//!
//! Source: PostgreSQL documentation, "COPY", "Text Format". The server writes no other escape, and a tab inside a value
//! only as an escape. A row without columns is empty.
//!
//! A cell without an escape is borrowed from the row, any other from a buffer that is reused: no row allocates once the
//! buffers have grown.

use memchr::{memchr, memchr_iter};

use super::error::DecodeError;
use super::pgoutput::Cell;
use crate::limits::ENCODE_BUFFER_KEPT_BYTES;

/// Where the bytes of a cell are.
#[derive(Clone, Copy, Debug)]
enum Span {
    Null,
    /// In the row, from the first offset up to the second.
    Plain(usize, usize),
    /// In the buffer of cells with escapes.
    Unescaped(usize, usize),
}

/// Splits rows into cells; reuses its buffers.
#[derive(Debug, Default)]
pub struct Splitter {
    spans: Vec<Span>,
    unescaped: Vec<u8>,
}

impl Splitter {
    /// Splits a row that has `columns` cells.
    ///
    /// # Errors
    /// [`DecodeError`] for another number of cells, an unknown escape, or a row without its newline.
    pub fn split<'a>(&'a mut self, row: &'a [u8], columns: usize) -> Result<CopyRow<'a>, DecodeError> {
        self.spans.clear();
        self.unescaped.clear();
        // A huge row may be the last one for hours.
        self.unescaped.shrink_to(ENCODE_BUFFER_KEPT_BYTES);
        let Some((b'\n', cells)) = row.split_last() else {
            return Err(DecodeError::Truncated { reading: "the newline of a row", offset: row.len(), available: 0 });
        };
        // Most rows have no escape and no null: one search for tabs is enough.
        if columns > 0 && memchr(b'\\', cells).is_none() {
            let mut start = 0_usize;
            for tab in memchr_iter(b'\t', cells) {
                self.spans.push(Span::Plain(start, tab));
                start = tab.saturating_add(1);
            }
            self.spans.push(Span::Plain(start, cells.len()));
            if self.spans.len() == columns {
                return Ok(CopyRow { row, unescaped: &self.unescaped, spans: &self.spans });
            }
            self.spans.clear();
        }
        let mut start = 0_usize;
        for _ in 0..columns {
            let Some(rest) = cells.get(start..) else {
                return Err(DecodeError::Truncated { reading: "a cell", offset: cells.len(), available: 0 });
            };
            let length = rest.iter().position(|byte| *byte == b'\t').unwrap_or(rest.len());
            let end = start.saturating_add(length);
            let cell = rest.get(..length).unwrap_or_default();
            let span = match cell.iter().position(|byte| *byte == b'\\') {
                None => Span::Plain(start, end),
                Some(_) if cell == br"\N" => Span::Null,
                Some(first) => {
                    let from = self.unescaped.len();
                    unescape(cell, first, start, &mut self.unescaped)?;
                    Span::Unescaped(from, self.unescaped.len())
                }
            };
            self.spans.push(span);
            // Past the tab; one past the end after the last cell.
            start = end.saturating_add(1);
        }
        let expected_end = if columns == 0 { 0 } else { start.saturating_sub(1) };
        match cells.len().saturating_sub(expected_end) {
            0 => Ok(CopyRow { row, unescaped: &self.unescaped, spans: &self.spans }),
            count => Err(DecodeError::TrailingBytes { offset: expected_end, count }),
        }
    }
}

/// Appends a cell without its escapes. The first escape is at `first`; the cell begins at the offset `start` of its row.
fn unescape(cell: &[u8], first: usize, start: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let (plain, mut rest) = cell.split_at_checked(first).unwrap_or_default();
    out.extend_from_slice(plain);
    while let Some((_, escape)) = rest.split_first() {
        let offset = || start.saturating_add(cell.len().saturating_sub(escape.len()));
        let Some((letter, after)) = escape.split_first() else {
            return Err(DecodeError::Truncated { reading: "an escape", offset: offset(), available: 0 });
        };
        out.push(match letter {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'\\' => b'\\',
            _ => return Err(DecodeError::UnknownValue { reading: "escape", offset: offset(), value: *letter }),
        });
        let length = after.iter().position(|byte| *byte == b'\\').unwrap_or(after.len());
        let (plain, next) = after.split_at_checked(length).unwrap_or_default();
        out.extend_from_slice(plain);
        rest = next;
    }
    Ok(())
}

/// The cells of a row.
#[derive(Clone, Copy, Debug)]
pub struct CopyRow<'a> {
    row: &'a [u8],
    unescaped: &'a [u8],
    spans: &'a [Span],
}

impl<'a> CopyRow<'a> {
    /// The number of cells.
    #[must_use]
    pub fn column_count(&self) -> usize {
        self.spans.len()
    }

    /// The cells, in the order of the columns.
    #[must_use]
    pub fn cells(&self) -> CopyCells<'a> {
        CopyCells { row: self.row, unescaped: self.unescaped, spans: self.spans.iter() }
    }
}

/// Iterates over the cells of a [`CopyRow`].
#[derive(Clone, Debug)]
pub struct CopyCells<'a> {
    row: &'a [u8],
    unescaped: &'a [u8],
    spans: std::slice::Iter<'a, Span>,
}

impl<'a> Iterator for CopyCells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        match *self.spans.next()? {
            Span::Null => Some(Cell::Null),
            Span::Plain(start, end) => self.row.get(start..end).map(Cell::Text),
            Span::Unescaped(start, end) => self.unescaped.get(start..end).map(Cell::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(row: &[u8], columns: usize) -> Result<Vec<Option<Vec<u8>>>, DecodeError> {
        let mut splitter = Splitter::default();
        let row = splitter.split(row, columns)?;
        assert_eq!(row.column_count(), columns);
        let value = |cell| match cell {
            Cell::Text(text) => Some(text.to_vec()),
            _ => None,
        };
        Ok(row.cells().map(value).collect())
    }

    #[test]
    fn a_row_is_split_into_its_cells() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        for (row, expected) in [
            (&b"1\ta\n"[..], vec![text("1"), text("a")]),
            (b"\n", vec![text("")]),
            (b"\t\n", vec![text(""), text("")]),
            (b"\\N\tx\t\\N\n", vec![None, text("x"), None]),
            (b"\\\\N\n", vec![text("\\N")]),
            (b"a\\tb\\nc\\\\\\r\\b\\f\\v\n", vec![text("a\tb\nc\\\r\x08\x0c\x0b")]),
            (b"\\n\t\\n\n", vec![text("\n"), text("\n")]),
            ("\u{e4}\t\u{1f600}\n".as_bytes(), vec![text("\u{e4}"), text("\u{1f600}")]),
        ] {
            assert_eq!(split(row, expected.len()), Ok(expected), "{}", row.escape_ascii());
        }
        assert_eq!(split(b"\n", 0), Ok(Vec::new()));
    }

    #[test]
    fn a_row_that_the_server_cannot_have_written_is_an_error() {
        let newline = |offset| DecodeError::Truncated { reading: "the newline of a row", offset, available: 0 };
        let cell = |offset| DecodeError::Truncated { reading: "a cell", offset, available: 0 };
        let escape = |offset, value| DecodeError::UnknownValue { reading: "escape", offset, value };
        for (row, columns, expected) in [
            (&b""[..], 1, newline(0)),
            (b"a", 1, newline(1)),
            (b"a\n", 2, cell(1)),
            (b"\n", 2, cell(0)),
            (b"a\tb\n", 1, DecodeError::TrailingBytes { offset: 1, count: 2 }),
            (b"a\n", 0, DecodeError::TrailingBytes { offset: 0, count: 1 }),
            (b"a\tb\\x41\n", 2, escape(4, b'x')),
            (b"a\\N\n", 1, escape(2, b'N')),
            (b"a\\\n", 1, DecodeError::Truncated { reading: "an escape", offset: 2, available: 0 }),
        ] {
            assert_eq!(split(row, columns), Err(expected), "{}", row.escape_ascii());
        }
    }

    #[test]
    fn the_buffers_are_reused_and_a_huge_one_is_given_back() {
        let mut splitter = Splitter::default();
        let huge = [b"\\n".repeat(ENCODE_BUFFER_KEPT_BYTES * 2), b"\n".to_vec()].concat();
        assert_eq!(splitter.split(&huge, 1).unwrap().cells().count(), 1);
        assert_eq!(splitter.split(b"a\\n\n", 1).unwrap().cells().next(), Some(Cell::Text(b"a\n")));
        assert!(splitter.unescaped.capacity() <= ENCODE_BUFFER_KEPT_BYTES);
    }

    /// CopyAttributeOutText of PostgreSQL.
    fn escape(value: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(value) = value else {
            out.extend_from_slice(b"\\N");
            return;
        };
        for byte in value {
            match byte {
                0x08 => out.extend_from_slice(b"\\b"),
                0x0c => out.extend_from_slice(b"\\f"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0x0b => out.extend_from_slice(b"\\v"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte => out.push(*byte),
            }
        }
    }

    /// Bytes with many that are escaped.
    fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
        let byte = prop_oneof![any::<u8>(), proptest::sample::select(&b"\\Nntbfv\t\n\r\x08\x0b\x0c"[..])];
        proptest::option::of(proptest::collection::vec(byte, 0..12))
    }

    proptest! {
        #[test]
        fn a_row_that_was_escaped_is_split_into_the_same_values(rows in proptest::collection::vec(proptest::collection::vec(value(), 0..6), 1..4)) {
            let mut splitter = Splitter::default();
            for values in rows {
                let mut row = Vec::new();
                for (place, value) in values.iter().enumerate() {
                    if place > 0 {
                        row.push(b'\t');
                    }
                    escape(value.as_deref(), &mut row);
                }
                row.push(b'\n');
                let split = splitter.split(&row, values.len()).unwrap();
                let cells: Vec<_> = split.cells().collect();
                let expected: Vec<_> = values.iter().map(|value| value.as_deref().map_or(Cell::Null, Cell::Text)).collect();
                prop_assert_eq!(cells, expected);
            }
        }

        #[test]
        fn no_row_panics(row in proptest::collection::vec(proptest::sample::select(&b"\\Nntx\t\n"[..]), 0..12), columns in 0..5_usize) {
            let _ = split(&row, columns);
        }
    }
}
