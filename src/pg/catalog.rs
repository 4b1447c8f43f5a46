//! The catalog's answer for a Relation.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::Deserialize;

use super::connecting::{Direction, Server};
use super::error::Error;
use super::lookup::Lookup;
use crate::catalog_facts::CatalogAnswer;
use crate::lsn::Lsn;
use crate::relations::AnnouncedType;
use crate::wire::replication::command::quote_literal;

const NAME: &str = "the catalog query";

/// One row, one value: the reply as JSON in the form of [`Reply`]. The settings of the session do not change it.
const QUERY: &CStr = c"
WITH RECURSIVE dropped(oid, base) AS (
  -- Types that are there no more, each with the type that the stream has named in its place.
    SELECT DISTINCT announced.oid, base.oid
    FROM pg_catalog.json_to_recordset($3::pg_catalog.json)
      AS announced(oid pg_catalog.oid, namespace pg_catalog.text, name pg_catalog.text)
    JOIN pg_catalog.pg_namespace n ON n.nspname = COALESCE(NULLIF(announced.namespace, ''), 'pg_catalog')
    JOIN pg_catalog.pg_type base ON base.typnamespace = n.oid AND base.typname = announced.name
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = announced.oid)
), wanted(oid) AS (
    SELECT oid FROM (SELECT pg_catalog.unnest($2::pg_catalog.oid[]) AS oid UNION SELECT base FROM dropped) AS first
  UNION
    SELECT related.oid
    FROM wanted
    JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
    CROSS JOIN LATERAL (VALUES (t.typbasetype), (CASE WHEN t.typcategory = 'A' THEN t.typelem END)) AS related(oid)
    WHERE related.oid <> 0
), lists(columns) AS (
  -- The column lists of publications (15 and later), of the table or of what it is a partition of.
    SELECT ARRAY(
      SELECT a.attname
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.jsonb_array_elements_text(p.row -> 'prattrs') AS listed(number)
        ON a.attnum = listed.number::pg_catalog.int2
      WHERE a.attrelid = p.prrelid)
    FROM (SELECT prrelid, pg_catalog.to_jsonb(p) AS row FROM pg_catalog.pg_publication_rel p) p
    WHERE pg_catalog.jsonb_typeof(p.row -> 'prattrs') = 'array'
      AND (p.prrelid = $1::pg_catalog.oid
        OR p.prrelid IN (SELECT pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass)))
)
SELECT pg_catalog.json_build_object(
  'relation', $1::pg_catalog.int8,
  'table', (
    SELECT pg_catalog.json_build_object(
      'namespace', n.nspname,
      'name', c.relname,
      'replica_identity', c.relreplident,
      'identity_columns', COALESCE((
        SELECT pg_catalog.json_agg(a.attname ORDER BY k.place)
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE i.indrelid = c.oid AND k.place <= i.indnkeyatts
          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), '[]'),
      'primary_key', COALESCE((
        SELECT pg_catalog.json_agg(a.attname ORDER BY k.place)
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts), '[]'),
      'columns', COALESCE((
        SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
      'unpublished', COALESCE((
        SELECT pg_catalog.json_agg(DISTINCT a.attname)
        FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::pg_catalog.int2[])
        WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
          AND (a.attgenerated <> '' OR EXISTS (
            SELECT FROM lists WHERE a.attname <> ALL (lists.columns)))), '[]'),
      'is_partition', c.relispartition)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = $1::pg_catalog.oid),
  'types', COALESCE((
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', t.oid::pg_catalog.int8,
      'name', t.name,
      'kind', t.kind,
      'base_type', t.base::pg_catalog.int8,
      'element_type', t.element::pg_catalog.int8,
      'delimiter', t.delimiter) ORDER BY t.oid)
    FROM (
        SELECT t.oid, t.typname AS name, t.typtype AS kind, t.typbasetype AS base,
          CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END AS element,
          COALESCE(e.typdelim, t.typdelim) AS delimiter
        FROM wanted
        JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
        LEFT JOIN pg_catalog.pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
        WHERE t.oid >= 16384
      UNION ALL
        SELECT dropped.oid, base.typname, 'd', base.oid, 0::pg_catalog.oid, base.typdelim
        FROM dropped
        JOIN pg_catalog.pg_type base ON base.oid = dropped.base) AS t), '[]'),
  'others', COALESCE((
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', c.oid::pg_catalog.int8, 'namespace', n.nspname, 'name', c.relname))
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY ($4::pg_catalog.oid[])), '[]'),
  'wal_lsn', CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
    ELSE pg_catalog.pg_current_wal_insert_lsn() END,
  'is_visible', (
    SELECT wanted.xid = 0 OR (
      ((wanted.xid - (snapshot.xmax & 4294967295) + 6442450944) % 4294967296) - 2147483648 < 0
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_snapshot_xip(snapshot.whole) AS xip
        WHERE (xip::pg_catalog.text::pg_catalog.int8 & 4294967295) = wanted.xid))
    FROM (SELECT $5::pg_catalog.int8 AS xid) AS wanted
    CROSS JOIN LATERAL (
      SELECT whole, pg_catalog.pg_snapshot_xmax(whole)::pg_catalog.text::pg_catalog.int8 AS xmax
      FROM (SELECT pg_catalog.pg_current_snapshot() AS whole) AS current) AS snapshot))";

/// A question about a Relation.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Its OID.
    pub relation: u32,
    /// The types of its columns.
    pub types: Vec<u32>,
    /// These types as announced with the Relation.
    pub announced: Vec<AnnouncedType>,
    /// Other relations, to learn whether they still exist.
    pub others: Vec<u32>,
    /// The transaction that announced it; 0 for none.
    pub xid: u32,
}

impl Question {
    /// The parameters of [`QUERY`].
    fn parameters(&self) -> [String; 5] {
        let list = |oids: &[u32]| {
            let oids = oids.iter().map(u32::to_string).collect::<Vec<_>>();
            format!("{{{}}}", oids.join(","))
        };
        let Question { relation, types, announced, others, xid } = self;
        let announced = serde_json::to_string(announced).expect("numbers and texts can be written as JSON");
        [relation.to_string(), list(types), announced, list(others), xid.to_string()]
    }
}

/// A relation that still exists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Other {
    /// Its OID.
    pub oid: u32,
    /// Its present schema.
    pub namespace: String,
    /// Its present name.
    pub name: String,
}

/// The catalog's answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Reply {
    /// About the relation.
    #[serde(flatten)]
    pub answer: CatalogAnswer,
    /// The other relations that still exist.
    pub others: Vec<Other>,
    /// The end of the WAL: everything missing from the catalog was dropped before it.
    pub wal_lsn: Lsn,
    /// Whether the catalog shows the changes of the transaction: a commit is streamed before other sessions see it.
    pub is_visible: bool,
}

/// The query for a question as one text, for a connection that has no parameters, such as one that runs COPY.
#[must_use]
pub fn query(question: &Question) -> String {
    let text = QUERY.to_str().expect("the query is UTF-8");
    let [relation, types, announced, others, xid] = question.parameters();
    // The names come last: one of them may look like a parameter.
    let parameters = [("$1", relation), ("$2", types), ("$4", others), ("$5", xid), ("$3", announced)];
    parameters.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, &quote_literal(value)))
}

/// Queries the catalog, one question at a time.
#[derive(Debug)]
pub struct Catalog(Lookup);

impl Catalog {
    /// Connects at the first question, and to the server of the stream, because another server may lag behind.
    #[must_use]
    pub fn new(dsn: Option<String>, server: Server) -> Self {
        Catalog(Lookup::new(NAME, dsn, server))
    }

    /// Connects to this server from now on.
    pub fn follow(&mut self, server: Server) {
        self.0.follow(server);
    }

    /// Sends a question; [`Catalog::poll`] returns the reply.
    ///
    /// # Errors
    /// Those of [`Lookup::ask`].
    pub fn ask(&mut self, question: &Question) -> Result<(), Error> {
        self.0.ask(QUERY, &question.parameters().each_ref().map(String::as_str))
    }

    /// Returns the reply once it has arrived. The caller calls it whenever the socket is ready.
    ///
    /// # Errors
    /// Those of [`Lookup::poll`], and [`Error::Answer`] for an unreadable reply.
    pub fn poll(&mut self) -> Result<Option<Reply>, Error> {
        let Some(reply) = self.0.poll()? else { return Ok(None) };
        let not_understood = |error: serde_json::Error| Error::Answer { command: NAME, reason: error.to_string() };
        serde_json::from_str(&reply).map(Some).map_err(not_understood)
    }

    /// The latest time of the next call of [`Catalog::poll`].
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.0.deadline(now)
    }

    /// The socket to wait for while a question is open.
    #[must_use]
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        self.0.socket()
    }
}
