//! A change on its way from a source to a sink: the row, the operation and the position in the WAL.
//!
//! Everything is borrowed: a [`Row`] is a view over cells, of a wire tuple, of a row of COPY or of a slice. So a snapshot
//! passes the same type as the stream.

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::wire::copy_text::{CopyCells, CopyRow};
use crate::wire::pgoutput::{Cell, Cells, Tuple};

/// The index that [`crate::relations::Relations`] gave a relation in this session: dense, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationIndex(pub u32);

/// The ring entry (the unit of confirmation) of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The transaction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The transaction's identifier, from Begin.
    pub xid: u32,
    /// The LSN of the commit record, from Begin (`final_lsn`) and again from Commit.
    pub commit_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTimestamp,
}

/// The position of a change in the WAL and in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The LSN of the change itself (XLogData start).
    pub lsn: Lsn,
    /// None for a non-transactional logical message.
    pub transaction: Option<Transaction>,
    /// The transaction's commit time. A non-transactional message has the commit time of the transaction before it, or
    /// the epoch of 1970 if there was none.
    pub commit_time: PgTimestamp,
    /// The number, from 1, of this change's first record with a value in its transaction.
    pub total_order: u64,
    /// The same number among the records of its relation.
    pub data_collection_order: u64,
    /// Nanoseconds since 1970 for the envelope's `ts_ms`, `ts_us` and `ts_ns`: the processing clock, or the commit
    /// time if the output must not depend on the clock.
    pub processed_unix_ns: i64,
}

impl Position {
    /// The LSN that names the unit of confirmation: of the commit record, or of a non-transactional message.
    #[must_use]
    pub fn unit_lsn(&self) -> Lsn {
        self.transaction.map_or(self.lsn, |transaction| transaction.commit_lsn)
    }
}

/// One change.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The relation; none for a logical message.
    pub relation: Option<RelationIndex>,
    /// The operation.
    pub operation: Operation<'a>,
    /// The position.
    pub position: Position,
}

/// The operation of a change.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// A row was inserted.
    Insert { new: Row<'a> },
    /// A row was updated. `old` is absent if the replica identity is DEFAULT or INDEX and no key column changed.
    Update { old: Option<OldRow<'a>>, new: Row<'a> },
    /// A row was deleted.
    Delete { old: OldRow<'a> },
    /// The relation was truncated.
    Truncate,
    /// A snapshot has read the row.
    Read { new: Row<'a>, marker: Marker },
    /// `pg_logical_emit_message`.
    Message { transactional: bool, prefix: &'a str, content: &'a [u8] },
}

/// The place of a row in its snapshot: `source.snapshot`, with Debezium's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The first row of the snapshot.
    First,
    /// The first row of a table.
    FirstInDataCollection,
    /// Any other row.
    True,
    /// The last row of a table.
    LastInDataCollection,
    /// The last row of the snapshot.
    Last,
    /// A row that was read beside the stream.
    Incremental,
}

impl Marker {
    /// The value of `source.snapshot`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Marker::First => "first",
            Marker::FirstInDataCollection => "first_in_data_collection",
            Marker::True => "true",
            Marker::LastInDataCollection => "last_in_data_collection",
            Marker::Last => "last",
            Marker::Incremental => "incremental",
        }
    }
}

/// The row before the change, as far as the replica identity logs it.
#[derive(Clone, Copy, Debug)]
pub enum OldRow<'a> {
    /// Only the columns of the replica identity; the server sends all others as null.
    Key(Row<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Row<'a>),
}

/// A view over the cells of one row, in the relation's column order.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// A tuple from the wire.
    Wire(Tuple<'a>),
    /// A row of COPY.
    Copy(CopyRow<'a>),
    /// Cells from another source.
    Cells(&'a [Cell<'a>]),
}

impl<'a> Row<'a> {
    /// The cells, one per column.
    #[must_use]
    pub fn cells(&self) -> RowCells<'a> {
        match self {
            Row::Wire(tuple) => RowCells::Wire(tuple.cells()),
            Row::Copy(row) => RowCells::Copy(row.cells()),
            Row::Cells(cells) => RowCells::Cells(cells.iter()),
        }
    }

    /// The number of cells.
    #[must_use]
    pub fn column_count(&self) -> usize {
        match self {
            Row::Wire(tuple) => tuple.column_count(),
            Row::Copy(row) => row.column_count(),
            Row::Cells(cells) => cells.len(),
        }
    }
}

/// Iterates over the cells of a [`Row`].
#[derive(Clone, Debug)]
pub enum RowCells<'a> {
    /// Of a wire tuple.
    Wire(Cells<'a>),
    /// Of a row of COPY.
    Copy(CopyCells<'a>),
    /// Of a slice.
    Cells(std::slice::Iter<'a, Cell<'a>>),
}

impl<'a> Iterator for RowCells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        match self {
            RowCells::Wire(cells) => cells.next(),
            RowCells::Copy(cells) => cells.next(),
            RowCells::Cells(cells) => cells.next().copied(),
        }
    }
}
