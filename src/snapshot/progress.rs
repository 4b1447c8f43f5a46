//! What is left to read, as it is kept with the position.

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::relations::Relation;

/// The pattern of all tables.
pub const ALL: &str = "*.*";

/// The snapshots that are under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The last request that is included.
    #[serde(default)]
    pub last_request: RequestAt,
    /// Whether no chunks are read until a request resumes them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_paused: bool,
    /// Requested tables that are not looked up yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// The tables left; chunks of the first one are being read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableProgress>,
    /// The OIDs of the published tables that need no snapshot any more, in ascending order; none if new tables get none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Vec<u32>>,
    /// Whether what was first requested is an initial snapshot: no table of it is left out in silence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_initial: bool,
    /// The tables of an initial snapshot that are left and have no key: they cannot be read in chunks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyless: Vec<TableProgress>,
}

/// The position of a request: of its commit record, or of a message outside a transaction, then of the message itself. It
/// ascends in the order of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestAt {
    /// Of the unit of confirmation.
    pub unit: Lsn,
    /// Of the message.
    pub message: Lsn,
}

/// A table that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProgress {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// The key columns in the key's order; empty before the first chunk.
    #[serde(default)]
    pub key: Vec<String>,
    /// The key of the last row that was read; empty before the first chunk.
    #[serde(default)]
    pub after: Vec<String>,
    /// The rows read so far.
    #[serde(default)]
    pub rows: u64,
    /// Milliseconds since 1970 when it was requested.
    #[serde(default)]
    pub since_ms: i64,
    /// The request; 0/0 for that of the configuration.
    #[serde(default)]
    pub request: RequestAt,
    /// Chunks are read once every transaction before this one has ended: the stream may lack changes of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<u64>,
}

impl TableProgress {
    /// A table of which nothing is read yet.
    #[must_use]
    pub fn of(relation: &Relation) -> Self {
        TableProgress {
            oid: relation.oid,
            schema: relation.namespace.clone(),
            table: relation.name.clone(),
            key: Vec::new(),
            after: Vec::new(),
            rows: 0,
            since_ms: 0,
            request: RequestAt::default(),
            waits_for: None,
        }
    }
}

/// What a chunk adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The table.
    pub oid: u32,
    /// The request that the chunk belongs to.
    pub request: RequestAt,
    /// The key columns.
    pub key: Vec<String>,
    /// The key of the chunk's last row.
    pub after: Vec<String>,
    /// The chunk's rows.
    pub rows: u64,
    /// Whether the table has no more rows.
    pub is_last: bool,
}

impl Progress {
    /// A snapshot of the tables that these patterns fit; of all if there are none.
    #[must_use]
    pub fn of(patterns: Vec<String>) -> Self {
        let patterns = if patterns.is_empty() { vec![ALL.to_owned()] } else { patterns };
        Progress { patterns, ..Progress::default() }
    }

    /// Whether nothing is left to read in chunks.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.patterns.is_empty() && self.tables.is_empty()
    }

    /// What can be read in chunks: the operator has given up the rest.
    #[must_use]
    pub fn in_chunks(self) -> Self {
        Progress { keyless: Vec::new(), ..self }
    }

    /// Keeps a table of an initial snapshot on record that turned out to have no key. Returns whether it is one.
    pub fn set_aside(&mut self, oid: u32) -> bool {
        let of = |table: &TableProgress| table.oid == oid && table.request == RequestAt::default();
        let Some(place) = self.tables.iter().position(of).filter(|_| self.is_initial) else { return false };
        self.keyless.push(self.tables.remove(place));
        true
    }

    /// Moves past a chunk. A table that was stopped meanwhile stays so.
    pub fn advance(&mut self, advance: &Advance) {
        let of = |table: &TableProgress| table.oid == advance.oid && table.request == advance.request;
        let Some(place) = self.tables.iter().position(of) else { return };
        if advance.is_last {
            self.tables.remove(place);
            return;
        }
        let table = &mut self.tables[place];
        table.key.clone_from(&advance.key);
        table.after.clone_from(&advance.after);
        table.rows += advance.rows;
    }

    /// Ends a table; returns it if it was under way.
    pub fn end(&mut self, oid: u32) -> Option<TableProgress> {
        let place = self.tables.iter().position(|table| table.oid == oid)?;
        Some(self.tables.remove(place))
    }

    /// Begins a table again.
    pub fn begin_again(&mut self, oid: u32) {
        for table in self.tables.iter_mut().filter(|table| table.oid == oid) {
            (table.key, table.after, table.rows) = (Vec::new(), Vec::new(), 0);
        }
    }
}

#[cfg(test)]
pub(super) fn table(oid: u32, request: u64) -> TableProgress {
    let request = RequestAt { unit: Lsn(request), message: Lsn(request) };
    let (schema, table) = ("public".to_owned(), format!("t{oid}"));
    TableProgress {
        oid,
        schema,
        table,
        key: Vec::new(),
        after: Vec::new(),
        rows: 0,
        since_ms: 0,
        request,
        waits_for: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(table: &TableProgress, after: &str, is_last: bool) -> Advance {
        let (key, after) = (vec!["id".to_owned()], vec![after.to_owned()]);
        Advance { oid: table.oid, request: table.request, key, after, rows: 10, is_last }
    }

    #[test]
    fn a_chunk_moves_its_own_table_and_the_last_one_ends_it() {
        let (a, b) = (table(1, 5), table(2, 5));
        let mut progress = Progress { tables: vec![a.clone(), b.clone()], ..Progress::default() };
        progress.advance(&advance(&a, "7", false));
        assert_eq!((progress.tables[0].after[0].as_str(), progress.tables[0].rows), ("7", 10));
        assert_eq!(progress.tables[1], b);
        progress.advance(&advance(&a, "", true));
        assert_eq!(progress.tables, std::slice::from_ref(&b));
        progress.advance(&advance(&a, "9", false));
        assert_eq!(progress.tables, [b]);
    }

    #[test]
    fn a_chunk_of_a_stopped_snapshot_does_not_move_the_one_requested_after_it() {
        let (old, new) = (table(1, 5), table(1, 6));
        let mut progress = Progress { tables: vec![new.clone()], ..Progress::default() };
        progress.advance(&advance(&old, "7", false));
        progress.advance(&advance(&old, "", true));
        assert_eq!(progress.tables, [new]);
    }

    #[test]
    fn it_is_stored_as_json_and_unknown_fields_are_ignored() {
        let mut progress = Progress { tables: vec![table(1, 5)], ..Progress::default() };
        let text = serde_json::to_string(&progress).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress);
        assert_eq!(serde_json::from_str::<Progress>(r#"{"later":1}"#).unwrap(), Progress::default());
        let table = r#"{"tables":[{"oid":1,"schema":"public","table":"t1","later":{}}]}"#;
        progress.tables[0].request = RequestAt::default();
        assert_eq!(serde_json::from_str::<Progress>(table).unwrap(), progress);
    }
}
