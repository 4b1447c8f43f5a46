//! The published tables: each as the Relation that the stream would announce for it, and the SELECT that reads its rows.
//!
//! | what | as the stream has it |
//! |---|---|
//! | partitions | the root, if a publication publishes it with publish_via_partition_root, otherwise each leaf |
//! | inheritance | each table alone: ONLY |
//! | columns | those of the column list; generated ones from PostgreSQL 18 on, if the publication says so |
//! | rows | those that a row filter of any publication accepts; all, if a publication has no filter |
//!
//! PostgreSQL's own initial copy (`fetch_remote_table_info` in `tablesync.c`) follows the same rules, and like it a
//! snapshot takes no notice of `publish`.

use serde::Deserialize;

use super::catalog::{self, Question};
use super::conn::Wait;
use super::copy_out::CopyOut;
use super::error::Error;
use super::ffi::CopyData;
use crate::catalog_facts::CatalogAnswer;
use crate::patterns::Pattern;
use crate::relations::{Column, Relation};
use crate::wire::copy_text::Splitter;
use crate::wire::pgoutput::{Cell, ReplicaIdentity};
use crate::wire::replication::command::{quote_identifier, quote_literal};

const NAME: &str = "reading the published tables";

/// The first version with column lists and row filters.
const LISTS_SINCE: i32 = 150_000;

/// A published table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// As the stream announces it.
    pub relation: Relation,
    /// What the catalog says about it.
    pub answer: CatalogAnswer,
    /// Its row filter, in SQL.
    pub filter: Option<String>,
    /// Whether it is the root of partitions, whose rows are read through it.
    pub is_root: bool,
    /// How large it is.
    pub size: Size,
}

/// The size of a table, its partitions included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Size {
    /// The number of rows as estimated from `pg_class`; 0 if nothing is known.
    pub rows: f64,
    /// The bytes of its pages and of its TOAST.
    pub bytes: u64,
    /// The number of pages of the largest partition, or of the table.
    pub pages_max: u32,
}

/// The part of a table to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part<'a> {
    /// A condition in SQL, besides the row filter.
    pub condition: Option<&'a str>,
    /// The columns to order by.
    pub order_by: &'a [String],
    /// The number of rows.
    pub limit: Option<u64>,
}

impl Table {
    /// The table's name in SQL.
    #[must_use]
    pub fn quoted_name(&self) -> String {
        format!("{}.{}", quote_identifier(&self.relation.namespace), quote_identifier(&self.relation.name))
    }

    /// The table as FROM and LOCK TABLE name it, without the tables that inherit from it.
    #[must_use]
    pub fn only(&self) -> String {
        format!("{}{}", if self.is_root { "" } else { "ONLY " }, self.quoted_name())
    }

    /// Whether the table fits the pattern.
    #[must_use]
    pub fn fits(&self, pattern: &Pattern) -> bool {
        pattern.matches(&self.relation.namespace, &self.relation.name)
    }

    /// The SELECT of a part of it, with the columns of the relation in its order.
    #[must_use]
    pub fn select(&self, part: &Part<'_>) -> String {
        let columns: Vec<_> = self.relation.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let mut text = format!("SELECT {} FROM {}", columns.join(", "), self.only());
        let conditions: Vec<_> =
            self.filter.as_deref().into_iter().chain(part.condition).map(|one| format!("({one})")).collect();
        if !conditions.is_empty() {
            text.push_str(" WHERE ");
            text.push_str(&conditions.join(" AND "));
        }
        if !part.order_by.is_empty() {
            let columns: Vec<_> = part.order_by.iter().map(|name| quote_identifier(name)).collect();
            text.push_str(" ORDER BY ");
            text.push_str(&columns.join(", "));
        }
        if let Some(limit) = part.limit {
            text.push_str(&format!(" LIMIT {limit}"));
        }
        text
    }

    /// The COPY of a part of it.
    #[must_use]
    pub fn copy(&self, part: &Part<'_>) -> String {
        format!("COPY ({}) TO STDOUT", self.select(part))
    }
}

/// The command that locks tables against changes of their definition, but not of their rows.
#[must_use]
pub fn lock(tables: &[Table]) -> String {
    let names: Vec<_> = tables.iter().map(Table::only).collect();
    format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))
}

/// A row of the query.
#[derive(Debug, Deserialize)]
struct Found {
    oid: u32,
    namespace: String,
    name: String,
    replica_identity: char,
    columns: Vec<FoundColumn>,
    filter: Option<String>,
    /// How many different column lists the publications have for it.
    lists: u32,
    is_root: bool,
    size: Size,
}

#[derive(Debug, Deserialize)]
struct FoundColumn {
    name: String,
    type_oid: u32,
    type_modifier: i32,
    part_of_key: bool,
}

/// The query for the published tables, in the order of their names: one row each, a JSON object.
///
/// A deferrable primary key is no replica identity, and the columns of INCLUDE are no part of one.
fn query(publications: &[String], server_version: i32) -> String {
    let names = publications.iter().map(|name| quote_literal(name)).collect::<Vec<_>>().join(", ");
    let lists = if server_version >= LISTS_SINCE {
        "t.attrs::pg_catalog.text AS attrs, pg_catalog.pg_get_expr(t.qual, t.relid) AS filter"
    } else {
        "NULL::pg_catalog.text AS attrs, NULL::pg_catalog.text AS filter"
    };
    format!(
        "WITH published AS MATERIALIZED (
  SELECT t.relid, {lists}
  FROM pg_catalog.pg_publication p
  CROSS JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname) t
  WHERE p.pubname IN ({names})
), tops AS (
  SELECT p.relid, pg_catalog.min(p.attrs) AS attrs,
    pg_catalog.count(DISTINCT COALESCE(p.attrs, '')) AS lists,
    CASE WHEN pg_catalog.bool_and(p.filter IS NOT NULL)
      THEN pg_catalog.string_agg(DISTINCT '(' || p.filter || ')', ' OR ') END AS filter
  FROM published p
  WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_partition_ancestors(p.relid::pg_catalog.regclass) AS above(relid)
    JOIN published q ON q.relid = above.relid
    WHERE above.relid <> p.relid)
  GROUP BY p.relid
)
SELECT pg_catalog.json_build_object(
  'oid', c.oid::pg_catalog.int8, 'namespace', n.nspname, 'name', c.relname, 'replica_identity', c.relreplident,
  'columns', COALESCE((
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', a.attname, 'type_oid', a.atttypid::pg_catalog.int8, 'type_modifier', a.atttypmod,
      'part_of_key', c.relreplident = 'f' OR EXISTS (
        SELECT FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(number, place)
        WHERE i.indrelid = c.oid AND k.number = a.attnum AND k.place <= i.indnkeyatts
          AND i.indimmediate AND (i.indisvalid OR c.relkind = 'p')
          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END))
      ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND CASE WHEN tops.attrs IS NULL THEN a.attgenerated = ''
        ELSE a.attnum = ANY (pg_catalog.string_to_array(tops.attrs, ' ')::pg_catalog.int2[]) END), '[]'),
  'filter', tops.filter, 'lists', tops.lists, 'is_root', c.relkind = 'p',
  'size', (
    SELECT pg_catalog.json_build_object(
      'rows', COALESCE(pg_catalog.sum(CASE WHEN l.relpages > 0 AND l.reltuples > 0
        THEN l.reltuples / l.relpages * (l.bytes / block.size) ELSE 0 END), 0),
      'bytes', COALESCE(pg_catalog.sum(l.all_bytes), 0),
      'pages_max', COALESCE(pg_catalog.max(l.bytes / block.size), 0))
    FROM (
      SELECT leaf.relpages, leaf.reltuples::pg_catalog.float8, pg_catalog.pg_relation_size(leaf.oid) AS bytes,
        pg_catalog.pg_table_size(leaf.oid) AS all_bytes
      FROM pg_catalog.pg_class leaf
      WHERE leaf.relkind = 'r' AND (leaf.oid = c.oid OR leaf.oid IN (
        SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid::pg_catalog.regclass) t WHERE t.isleaf))) AS l
    CROSS JOIN (SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8 AS size) AS block))
FROM tops
JOIN pg_catalog.pg_class c ON c.oid = tops.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname"
    )
}

/// The command that lists the published tables; [`listed`] reads each row.
#[must_use]
pub fn list_command(publications: &[String], server_version: i32) -> String {
    format!("COPY ({}) TO STDOUT", query(publications, server_version))
}

/// A table of the list, without the catalog's answer.
///
/// # Errors
/// [`Error::Answer`] for an unreadable row, and [`Error::Command`] for a table with different column lists, which the stream
/// would not send either.
pub fn listed(row: &CopyData) -> Result<Table, Error> {
    let found: Found = json_cell(row)?;
    if found.lists > 1 {
        let message =
            format!("the publications have different column lists for the table {}.{}", found.namespace, found.name);
        return Err(Error::Command { command: NAME, sqlstate: "0A000".to_owned(), message });
    }
    let column = |column: FoundColumn| Column {
        name: column.name,
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
        part_of_key: column.part_of_key,
    };
    let letter = found.replica_identity;
    let unknown = || Error::Answer { command: NAME, reason: format!("unknown replica identity {letter:?}") };
    let relation = Relation {
        oid: found.oid,
        namespace: found.namespace,
        name: found.name,
        replica_identity: ReplicaIdentity::from_letter(letter).ok_or_else(unknown)?,
        columns: found.columns.into_iter().map(column).collect(),
    };
    let answer = CatalogAnswer { relation: relation.oid, table: None, types: Vec::new() };
    Ok(Table { relation, answer, filter: found.filter, is_root: found.is_root, size: found.size })
}

/// The command that asks the catalog about a table; [`answered`] reads its row.
#[must_use]
pub fn answer_command(relation: &Relation) -> String {
    let types = relation.columns.iter().map(|column| column.type_oid).collect();
    let question = Question { relation: relation.oid, types, ..Question::default() };
    format!("COPY ({}) TO STDOUT", catalog::query(&question))
}

/// The catalog's answer about a table.
///
/// # Errors
/// [`Error::Answer`] for an unreadable row.
pub fn answered(row: &CopyData) -> Result<CatalogAnswer, Error> {
    let reply: catalog::Reply = json_cell(row)?;
    Ok(reply.answer)
}

/// The published tables, in the order of their names, as the transaction of the connection sees them.
///
/// # Errors
/// Those of [`CopyOut::rows`], [`Error::Answer`] for an unreadable reply, and [`Error::Command`] for a table with
/// different column lists, which the stream would not send either.
pub fn published(
    connection: &mut CopyOut,
    publications: &[String],
    server_version: i32,
    wait: &mut Wait<'_>,
) -> Result<Vec<Table>, Error> {
    let mut tables = Vec::new();
    for row in connection.rows(&list_command(publications, server_version), wait)? {
        let mut table = listed(&row)?;
        let reply = connection.rows(&answer_command(&table.relation), wait)?;
        let missing = || Error::Answer { command: NAME, reason: "no row".to_owned() };
        table.answer = answered(reply.first().ok_or_else(missing)?)?;
        tables.push(table);
    }
    Ok(tables)
}

/// The only cell of a row, parsed as JSON.
///
/// # Errors
/// [`Error::Answer`].
pub fn json_cell<T: for<'de> Deserialize<'de>>(row: &CopyData) -> Result<T, Error> {
    let answer = |reason: String| Error::Answer { command: NAME, reason };
    let mut splitter = Splitter::default();
    let cells = splitter.split(row, 1).map_err(|error| answer(error.to_string()))?;
    match cells.cells().next() {
        Some(Cell::Text(text)) => serde_json::from_slice(text).map_err(|error| answer(error.to_string())),
        _ => Err(answer("null".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(filter: Option<&str>, is_root: bool) -> Table {
        let column = |name: &str| Column { name: name.to_owned(), type_oid: 23, type_modifier: -1, part_of_key: false };
        Table {
            relation: Relation {
                oid: 1,
                namespace: "s".to_owned(),
                name: "o'\"dd".to_owned(),
                replica_identity: ReplicaIdentity::Default,
                columns: ["a", "B \"c\""].map(column).to_vec(),
            },
            answer: CatalogAnswer { relation: 1, table: None, types: Vec::new() },
            filter: filter.map(str::to_owned),
            is_root,
            size: Size::default(),
        }
    }

    #[test]
    fn the_select_of_a_part_has_the_filter_and_every_name_quoted() {
        let name = r#""s"."o'""dd""#;
        let columns = r#""a", "B ""c""""#;
        let whole = table(None, false).copy(&Part::default());
        assert_eq!(whole, format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT"));
        let root = table(Some("a > 1"), true).select(&Part::default());
        assert_eq!(root, format!("SELECT {columns} FROM {name} WHERE (a > 1)"));
        let order_by = ["a".to_owned(), "B \"c\"".to_owned()];
        let part = Part { condition: Some("a < 5 OR a > 7"), order_by: &order_by, limit: Some(10) };
        let expected =
            format!("SELECT {columns} FROM ONLY {name} WHERE (a > 1) AND (a < 5 OR a > 7) ORDER BY {columns} LIMIT 10");
        assert_eq!(table(Some("a > 1"), false).select(&part), expected);
    }

    #[test]
    fn a_table_without_published_columns_is_read_too() {
        let mut table = table(None, true);
        table.relation.columns.clear();
        assert!(table.select(&Part::default()).starts_with("SELECT  FROM "));
    }
}
