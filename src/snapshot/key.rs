//! The key of a row as bytes: the text of each key column, with its length before it.

use crate::change::Row;
use crate::wire::pgoutput::Cell;

/// Appends a column's text.
pub fn push(bytes: &mut Vec<u8>, text: &[u8]) {
    let length = u32::try_from(text.len()).expect("a value of PostgreSQL has less than 1 GiB");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(text);
}

/// The columns' texts. None for bytes that [`push`] did not write.
#[must_use]
pub fn texts(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        texts.push(text);
        bytes = rest;
    }
    Some(texts)
}

/// Replaces `bytes` by the key of a row. A key value that the row omits is the same in the old row. Returns false if a
/// value is missing, so the key is not known.
#[must_use]
pub fn encode(bytes: &mut Vec<u8>, columns: &[usize], row: Row<'_>, old: Option<Row<'_>>) -> bool {
    bytes.clear();
    columns.iter().all(|column| {
        let cell = match row.cells().nth(*column) {
            Some(Cell::UnchangedToast) => old.and_then(|old| old.cells().nth(*column)),
            cell => cell,
        };
        match cell {
            Some(Cell::Text(text) | Cell::Binary(text)) => {
                push(bytes, text);
                true
            }
            Some(Cell::Null | Cell::UnchangedToast) | None => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_texts_of_its_columns_in_the_keys_order() {
        let row = [Cell::Text(b"a"), Cell::Null, Cell::Text(b""), Cell::UnchangedToast];
        let old = [Cell::Null, Cell::Null, Cell::Null, Cell::Text(b"long")];
        let mut bytes = Vec::new();
        assert!(encode(&mut bytes, &[3, 2, 0], Row::Cells(&row), Some(Row::Cells(&old))));
        assert_eq!(texts(&bytes).unwrap(), [&b"long"[..], b"", b"a"]);
        for columns in [&[3][..], &[1], &[4]] {
            assert!(!encode(&mut bytes, columns, Row::Cells(&row), None), "{columns:?}");
        }
        assert_eq!(texts(b"\0\0\0\x02a"), None);
        assert_eq!(texts(b"\0\0"), None);
    }

    #[test]
    fn columns_do_not_run_into_each_other() {
        let key = |texts: &[&[u8]]| {
            let mut bytes = Vec::new();
            texts.iter().for_each(|text| push(&mut bytes, text));
            bytes
        };
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    }
}
