//! Publications and their tables: facts only.

use serde::Deserialize;

use super::conn::{Connection, Wait};
use super::error::Error;
use super::server::json_row;
use crate::replication::command::quote_literal;

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
