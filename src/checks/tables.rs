//! The publications and their tables.

use super::Verdict;
use crate::wire::replication::command::quote_identifier_where_needed;

/// A publication.
#[must_use]
pub fn publication(name: &str, exists: bool) -> Verdict {
    if exists {
        return Verdict::ok(format!("publication {name}: exists"));
    }
    Verdict::error(
        format!("publication {name}: does not exist"),
        format!(
            "CREATE PUBLICATION {} FOR ALL TABLES, before the slot is created",
            quote_identifier_where_needed(name)
        ),
    )
}

/// What is known of a publication beside a slot that may be older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Age {
    /// All that the slot still has to decode comes after it, as far as it was decoded.
    Older,
    /// The server does not see it at the slot's next changes.
    Younger,
    /// It is not known.
    Unknown { reason: String },
}

/// A publication has to be older than the changes that the slot holds: PostgreSQL decodes them with the catalog of their time.
#[must_use]
pub fn publication_age(name: &str, slot: &str, age: &Age) -> Verdict {
    let cure = format!("drop the slot {slot}, create it after the publication, and reload the tables");
    match age {
        Age::Older => Verdict::ok(format!("publication {name}: the slot's changes can be decoded with it")),
        Age::Younger => Verdict::error(
            format!(
                "publication {name}: younger than changes that the slot {slot} holds; PostgreSQL cannot decode them"
            ),
            cure,
        ),
        Age::Unknown { reason } => Verdict::warning(
            format!("publication {name}: perhaps younger than changes that the slot {slot} holds: {reason}"),
            format!("if it was created after the slot: {cure}"),
        ),
    }
}

/// How many tables the publications have.
#[must_use]
pub fn table_count(count: usize) -> Verdict {
    if count == 0 {
        return Verdict::warning("published tables: none", "ALTER PUBLICATION ... ADD TABLE ...");
    }
    Verdict::ok(format!("published tables: {count}"))
}

/// A published table's replica identity: without one, UPDATE and DELETE fail in the application.
#[must_use]
pub fn replica_identity(
    schema: &str,
    table: &str,
    identity: char,
    has_primary_key: bool,
    publishes_changes: bool,
) -> Verdict {
    let name = format!("table {schema}.{table}");
    let cure = "add a primary key, or ALTER TABLE ... REPLICA IDENTITY USING INDEX or FULL";
    match (identity, has_primary_key) {
        ('f', false) => Verdict::warning(
            format!("{name}: REPLICA IDENTITY FULL and no primary key: its records have no key"),
            "add a primary key if consumers need one, or if the topic is compacted",
        ),
        ('f', true) => Verdict::ok(format!("{name}: replica identity FULL, keyed by the primary key")),
        ('i', _) => Verdict::ok(format!("{name}: replica identity USING INDEX")),
        ('d', true) => Verdict::ok(format!("{name}: replica identity is the primary key")),
        // The application fails, not the stream.
        _ if publishes_changes => Verdict::warning(
            format!("{name}: no replica identity: UPDATE and DELETE on it fail while it is published"),
            cure,
        ),
        _ => Verdict::warning(format!("{name}: no replica identity: its records have no key"), cure),
    }
}
