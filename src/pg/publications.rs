//! Facts about publications and their tables.

use serde::Deserialize;

use super::conn::{Connection, Wait};
use super::connecting::Kind;
use super::error::Error;
use super::server::json_row;
use super::slots;
use crate::wire::replication::command::{quote_identifier, quote_literal};

/// A table of a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PublishedTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub table: String,
    /// `relreplident`: d, n, f or i.
    pub replica_identity: char,
    /// Whether there is a primary key.
    pub has_primary_key: bool,
    /// Whether the publication sends updates or deletes.
    pub publishes_changes: bool,
}

/// Which of the publications exist.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn existing(connection: &mut Connection, names: &[String], wait: &mut Wait<'_>) -> Result<Vec<String>, Error> {
    let list = names.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ");
    let query = format!("SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ({list})");
    let result = connection.command("reading pg_publication", &query, wait)?;
    Ok((0..result.row_count()).filter_map(|row| result.value(row, 0).map(str::to_owned)).collect())
}

/// The tables of the publications, each once.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn published_tables(
    connection: &mut Connection,
    publications: &[String],
    wait: &mut Wait<'_>,
) -> Result<Vec<PublishedTable>, Error> {
    const NAME: &str = "reading pg_publication_tables";
    let list = publications.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ");
    let query = format!(
        "SELECT COALESCE(json_agg(json_build_object('oid', c.oid::int8, 'schema', n.nspname, 'table', c.relname, \
         'replica_identity', c.relreplident, \
         'has_primary_key', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), \
         'publishes_changes', t.changes) ORDER BY n.nspname, c.relname), '[]') \
         FROM (SELECT t.schemaname, t.tablename, bool_or(p.pubupdate OR p.pubdelete) AS changes \
               FROM pg_publication_tables t JOIN pg_publication p USING (pubname) \
               WHERE t.pubname IN ({list}) GROUP BY 1, 2) t \
         JOIN pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename"
    );
    Ok(json_row(&connection.command(NAME, &query, wait)?, NAME)?.unwrap_or_default())
}

/// Those of the publications that may be newer than a change that the slot still has to decode.
///
/// The slot's `catalog_xmin` is the oldest transaction that the slot may still have to treat as unfinished: every later
/// change sees everything committed before it. So a row of `pg_publication` older than `catalog_xmin` proves that the
/// publication works. A newer row proves nothing: ALTER PUBLICATION writes a new row too, and there may be no change
/// between the slot and the publication; [`try_decoding`] finds out more.
///
/// # Errors
/// Those of [`Connection::command`].
pub fn perhaps_too_young(
    connection: &mut Connection,
    slot: &str,
    publications: &[String],
    wait: &mut Wait<'_>,
) -> Result<Vec<String>, Error> {
    let list = publications.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ");
    let query = format!(
        "SELECT p.pubname FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_replication_slots s \
         ON s.slot_name = {} WHERE p.pubname IN ({list}) AND age(p.xmin) <= age(s.catalog_xmin) ORDER BY 1",
        quote_literal(slot)
    );
    let result = connection.command("comparing pg_publication with the slot", &query, wait)?;
    Ok((0..result.row_count()).filter_map(|row| result.value(row, 0).map(str::to_owned)).collect())
}

/// The number of changes to decode for a try.
const TRIED_CHANGES_MAX: u32 = 10_000;

/// Decodes the slot's WAL with the publications, up to `TRIED_CHANGES_MAX` changes for them, on a temporary copy of the
/// slot. On shared sessions it uses the slot itself, which a peek does not move.
///
/// The first change of any table makes the server look up the publications: if one does not exist at that time, the peek
/// fails as the stream would (before PostgreSQL 18, which only warns). Success proves only what was decoded, so not a
/// publication that is dropped and recreated later in the WAL.
///
/// # Errors
/// 42704 for a publication that the server cannot see, 57014 after ten seconds; those of [`Connection::command`].
pub fn try_decoding(
    connection: &mut Connection,
    slot: &str,
    publications: &[String],
    wait: &mut Wait<'_>,
) -> Result<(), Error> {
    let copy = format!("walcat_check_{}", std::process::id());
    let read = if connection.kind() == Kind::Pooled {
        slot
    } else {
        slots::copy(connection, slot, &copy, wait)?;
        &copy
    };
    let list = publications.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(",");
    let peek = format!(
        "BEGIN; SET LOCAL statement_timeout = '10s'; \
         SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, NULL, {TRIED_CHANGES_MAX}, \
         'proto_version', '1', 'publication_names', {}, 'messages', 'true'); COMMIT",
        quote_literal(read),
        quote_literal(&list)
    );
    let peeked = connection.command("pg_logical_slot_peek_binary_changes", &peek, wait).map(drop);
    if peeked.is_err() {
        connection.command("ROLLBACK", "ROLLBACK", wait)?;
    }
    if read == copy {
        slots::drop(connection, &copy, wait)?;
    }
    peeked
}
