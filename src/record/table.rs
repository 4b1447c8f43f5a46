//! Encodes one change of one table into the workspace.
//!
//! | operation | records |
//! |---|---|
//! | insert | c |
//! | update | u; if the key changed: d, tombstone, c, each with the other key in a header |
//! | delete | d, and a tombstone if the table has a key |
//! | truncate | t |
//! | read, by a snapshot | r |

use std::ops::Range;

use crate::change::{Marker, OldRow, Operation, Position, RelationIndex, Row};
use crate::record::error::Fault;
use crate::record::plan::{Placeholder, Plan};
use crate::record::records::{HeaderName, Ranges};
use crate::record::shape::debezium;
use crate::record::{RestOf, Workspace};

/// An error contains the column that it concerns.
type RowResult<T = ()> = Result<T, (Fault, Option<usize>)>;

/// Everything needed to encode one change of one relation.
pub(in crate::record) struct TableEncoder<'e> {
    pub(in crate::record) index: RelationIndex,
    pub(in crate::record) plan: &'e Plan,
    pub(in crate::record) source: &'e debezium::Source,
    pub(in crate::record) placeholder: &'e Placeholder,
    pub(in crate::record) position: &'e Position,
    /// The place of a row in its snapshot; `None` for a row of the stream.
    pub(in crate::record) marker: Option<Marker>,
    pub(in crate::record) workspace: &'e mut Workspace,
}

impl TableEncoder<'_> {
    pub(in crate::record) fn encode(&mut self, operation: Operation<'_>) -> RowResult {
        match operation {
            Operation::Insert { new } => self.row_without_before(new, b'c'),
            Operation::Update { old: None, new } => self.row_without_before(new, b'u'),
            Operation::Update { old: Some(old), new } => self.update_with_old(old, new),
            Operation::Delete { old } => self.delete(old),
            Operation::Truncate => {
                let value = self.push_value(None, None, b't', 0);
                self.record(None, None, Some(value));
                Ok(())
            }
            Operation::Read { new, marker } => {
                self.marker = Some(marker);
                self.read(new)
            }
            Operation::Message { .. } => unreachable!("the encoder handles messages before it chooses a table"),
        }
    }

    fn row_without_before(&mut self, new: Row<'_>, op: u8) -> RowResult {
        self.push(br#"{"before":null,"after":"#);
        self.push_new_row(new, None)?;
        self.push_rest(op, 0);
        let value = 0..self.workspace.bytes.len();
        let key = self.push_new_key();
        self.record(key, None, Some(value));
        Ok(())
    }

    /// Encodes the row of a snapshot. What follows the row is the same for many rows and is copied.
    fn read(&mut self, new: Row<'_>) -> RowResult {
        self.push(br#"{"before":null,"after":"#);
        self.push_new_row(new, None)?;
        let end = self.workspace.bytes.len();
        let same = Some(RestOf { index: self.index, marker: self.marker, position: *self.position });
        if self.workspace.rest_of == same {
            let Workspace { bytes, rest, .. } = &mut *self.workspace;
            bytes.extend_from_slice(rest);
        } else {
            self.push_rest(b'r', 0);
            let Workspace { bytes, rest, rest_of, .. } = &mut *self.workspace;
            rest.clear();
            rest.extend_from_slice(&bytes[end..]);
            *rest_of = same;
        }
        let value = 0..self.workspace.bytes.len();
        let key = self.push_new_key();
        self.record(key, None, Some(value));
        Ok(())
    }

    /// Encodes both rows as in an update under FULL. If the key has changed, copies the rows from there into a delete
    /// and a create.
    fn update_with_old(&mut self, old: OldRow<'_>, new: Row<'_>) -> RowResult {
        let (OldRow::Key(old_row) | OldRow::Full(old_row)) = old;
        self.push(br#"{"before":"#);
        let before = self.push_old_row(old_row)?;
        self.push(br#","after":"#);
        let after = self.push_new_row(new, Some(old_row))?;
        let staged = self.workspace.bytes.len();
        let old_key = self.push_old_key();
        let new_key = self.push_new_key();
        if let (Some(old_key), Some(new_key)) = (&old_key, &new_key)
            && self.bytes(old_key) != self.bytes(new_key)
        {
            self.delete_and_create(before, after, old_key.clone(), new_key.clone());
            return Ok(());
        }
        let value = match old {
            OldRow::Full(_) => {
                self.workspace.bytes.truncate(staged);
                self.push_rest(b'u', 0);
                0..self.workspace.bytes.len()
            }
            OldRow::Key(_) => self.push_value(None, Some(after), b'u', 0),
        };
        let key = self.push_new_key();
        self.record(key, None, Some(value));
        Ok(())
    }

    fn delete_and_create(
        &mut self,
        before: Range<usize>,
        after: Range<usize>,
        old_key: Range<usize>,
        new_key: Range<usize>,
    ) {
        let to_new = Some((HeaderName::NewKey, new_key.clone()));
        let to_old = Some((HeaderName::OldKey, old_key.clone()));
        let delete = self.push_value(Some(before), None, b'd', 0);
        let create = self.push_value(None, Some(after), b'c', 1);
        self.record(Some(old_key.clone()), to_new.clone(), Some(delete));
        self.record(Some(old_key), to_new, None);
        self.record(Some(new_key), to_old, Some(create));
    }

    fn delete(&mut self, old: OldRow<'_>) -> RowResult {
        let (OldRow::Key(old_row) | OldRow::Full(old_row)) = old;
        self.push(br#"{"before":"#);
        self.push_old_row(old_row)?;
        self.push(br#","after":null"#);
        self.push_rest(b'd', 0);
        let value = 0..self.workspace.bytes.len();
        let key = self.push_old_key();
        self.record(key.clone(), None, Some(value));
        if key.is_some() {
            self.record(key, None, None);
        }
        Ok(())
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.workspace.bytes[range.clone()]
    }

    fn push(&mut self, piece: &[u8]) {
        self.workspace.bytes.extend_from_slice(piece);
    }

    fn push_old_row(&mut self, old: Row<'_>) -> RowResult<Range<usize>> {
        let Workspace { bytes, scratch, old_key, .. } = &mut *self.workspace;
        let start = bytes.len();
        self.plan.push_row(bytes, old, None, self.placeholder, scratch, old_key)?;
        Ok(start..bytes.len())
    }

    fn push_new_row(&mut self, new: Row<'_>, old: Option<Row<'_>>) -> RowResult<Range<usize>> {
        let Workspace { bytes, scratch, new_key, .. } = &mut *self.workspace;
        let start = bytes.len();
        self.plan.push_row(bytes, new, old, self.placeholder, scratch, new_key)?;
        Ok(start..bytes.len())
    }

    fn push_old_key(&mut self) -> Option<Range<usize>> {
        self.plan.push_key(&mut self.workspace.bytes, &self.workspace.old_key)
    }

    fn push_new_key(&mut self) -> Option<Range<usize>> {
        self.plan.push_key(&mut self.workspace.bytes, &self.workspace.new_key)
    }

    /// Appends a whole value with copies of rows that are already encoded.
    fn push_value(
        &mut self,
        before: Option<Range<usize>>,
        after: Option<Range<usize>>,
        op: u8,
        ordinal: u64,
    ) -> Range<usize> {
        let start = self.workspace.bytes.len();
        for (piece, row) in [(&br#"{"before":"#[..], before), (br#","after":"#, after)] {
            self.push(piece);
            match row {
                Some(row) => self.workspace.bytes.extend_from_within(row),
                None => self.push(b"null"),
            }
        }
        self.push_rest(op, ordinal);
        start..self.workspace.bytes.len()
    }

    /// Appends the part of the value after the rows.
    fn push_rest(&mut self, op: u8, ordinal: u64) {
        let bytes = &mut self.workspace.bytes;
        bytes.push(b',');
        self.source.push(bytes, &self.plan.collection, self.position, self.marker);
        debezium::push_transaction(bytes, self.position, ordinal);
        debezium::push_end(bytes, op, self.position);
    }

    fn record(
        &mut self,
        key: Option<Range<usize>>,
        header: Option<(HeaderName, Range<usize>)>,
        value: Option<Range<usize>>,
    ) {
        self.workspace.ranges.push(Ranges { key, header, value });
    }
}
