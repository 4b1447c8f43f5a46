//! A change on its way from a source to a sink: what happened to which row, and where in the WAL.
//!
//! Borrowed throughout: a [`Row`] is a view over cells, made from a wire tuple or from any slice of cells, so that a
//! snapshot or a replay hands over the same thing as the stream.

use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use crate::wire::pgoutput::{Cell, Cells, Tuple};

/// The number that [`crate::relations::Relations`] gave a relation in this session: dense, from 0, for tables by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationIndex(pub u32);

/// Names the ring entry (the unit of confirmation) that a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The transaction that a change belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The transaction's identifier, from Begin.
    pub xid: u32,
    /// The LSN of the commit record, from Begin (`final_lsn`) and again from Commit.
    pub commit_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTimestamp,
}

/// Where a change stands in the WAL and in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The LSN of the change itself (XLogData start).
    pub lsn: Lsn,
    /// None for a non-transactional logical message.
    pub transaction: Option<Transaction>,
    /// The transaction's commit time; for a non-transactional message that of the transaction before it, or the epoch
    /// of 1970 when there was none.
    pub commit_time: PgTimestamp,
    /// The number, from 1, of the first record with a value that this change becomes, in its transaction.
    pub total_order: u64,
    /// The same among the records of its relation.
    pub data_collection_order: u64,
    /// Nanoseconds since 1970 for the envelope's `ts_ms`, `ts_us` and `ts_ns`: the processing clock, or the commit
    /// time where the output may not depend on the clock.
    pub processed_unix_ns: i64,
}

impl Position {
    /// The LSN that names the unit of confirmation: of the commit record, or of the message that belongs to none.
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
    /// What happened.
    pub operation: Operation<'a>,
    /// Where.
    pub position: Position,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// A row was inserted.
    Insert { new: Row<'a> },
    /// A row was updated. `old` is absent when replica identity is DEFAULT or INDEX and no key column changed.
    Update { old: Option<OldRow<'a>>, new: Row<'a> },
    /// A row was deleted.
    Delete { old: OldRow<'a> },
    /// The relation was truncated.
    Truncate,
    /// `pg_logical_emit_message`.
    Message { transactional: bool, prefix: &'a str, content: &'a [u8] },
}

/// The row before the change, as far as the replica identity keeps it.
#[derive(Clone, Copy, Debug)]
pub enum OldRow<'a> {
    /// Only the columns of the replica identity; the others are sent as null without being null.
    Key(Row<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Row<'a>),
}

/// A view over the cells of one row, in the relation's column order.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// A tuple as it came over the wire.
    Wire(Tuple<'a>),
    /// Cells from anywhere else.
    Cells(&'a [Cell<'a>]),
}

impl<'a> Row<'a> {
    /// The cells, one per column.
    #[must_use]
    pub fn cells(&self) -> RowCells<'a> {
        match self {
            Row::Wire(tuple) => RowCells::Wire(tuple.cells()),
            Row::Cells(cells) => RowCells::Cells(cells.iter()),
        }
    }

    /// How many cells there are.
    #[must_use]
    pub fn column_count(&self) -> usize {
        match self {
            Row::Wire(tuple) => tuple.column_count(),
            Row::Cells(cells) => cells.len(),
        }
    }
}

/// Iterates over the cells of a [`Row`].
#[derive(Clone, Debug)]
pub enum RowCells<'a> {
    /// Of a wire tuple.
    Wire(Cells<'a>),
    /// Of a slice.
    Cells(std::slice::Iter<'a, Cell<'a>>),
}

impl<'a> Iterator for RowCells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        match self {
            RowCells::Wire(cells) => cells.next(),
            RowCells::Cells(cells) => cells.next().copied(),
        }
    }
}
