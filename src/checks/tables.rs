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
            "run CREATE PUBLICATION {} FOR ALL TABLES before you create the slot",
            quote_identifier_where_needed(name)
        ),
    )
}

/// Whether a publication is older than the changes that a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Age {
    /// It exists for all changes that were decoded.
    Older,
    /// It does not exist yet at the slot's next changes.
    Younger,
    /// The server does not report it.
    Unknown { reason: String },
}

/// A publication must be older than the changes that the slot holds: PostgreSQL decodes them with the catalog of their time.
#[must_use]
pub fn publication_age(name: &str, slot: &str, age: &Age) -> Verdict {
    let cure = format!(
        "drop the slot {slot}, create it after the publication, and reload the tables with walcat snapshot start"
    );
    match age {
        Age::Older => Verdict::ok(format!("publication {name}: older than the changes that the slot holds")),
        Age::Younger => Verdict::error(
            format!(
                "publication {name}: younger than changes that the slot {slot} holds, which PostgreSQL cannot decode"
            ),
            cure,
        ),
        Age::Unknown { reason } => Verdict::warning(
            format!("publication {name}: may be younger than changes that the slot {slot} holds: {reason}"),
            format!("if it was created after the slot: {cure}"),
        ),
    }
}

/// The number of published tables.
#[must_use]
pub fn table_count(count: usize) -> Verdict {
    if count == 0 {
        return Verdict::warning("published tables: none", "run ALTER PUBLICATION ... ADD TABLE ...");
    }
    Verdict::ok(format!("published tables: {count}"))
}

/// A published table's replica identity. Without one, UPDATE and DELETE fail in the application.
#[must_use]
pub fn replica_identity(
    schema: &str,
    table: &str,
    identity: char,
    has_primary_key: bool,
    publishes_changes: bool,
) -> Verdict {
    let name = format!("table {schema}.{table}");
    let cure = "add a primary key, or run ALTER TABLE ... REPLICA IDENTITY USING INDEX or FULL";
    match (identity, has_primary_key) {
        ('f', false) => Verdict::warning(
            format!("{name}: replica identity FULL without a primary key: its records have no key"),
            "add a primary key if consumers need one, or if the topic is compacted",
        ),
        ('f', true) => Verdict::ok(format!("{name}: replica identity FULL; the primary key is the key of its records")),
        ('i', _) => Verdict::ok(format!("{name}: replica identity USING INDEX")),
        ('d', true) => Verdict::ok(format!("{name}: replica identity DEFAULT, the primary key")),
        // This breaks the application, not the stream.
        _ if publishes_changes => Verdict::warning(
            format!("{name}: no replica identity: UPDATE and DELETE on it fail while it is published"),
            cure,
        ),
        _ => Verdict::warning(format!("{name}: no replica identity: its records have no key"), cure),
    }
}
