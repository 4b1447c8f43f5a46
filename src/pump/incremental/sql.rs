//! The commands that read a chunk and what they need to know.

use serde::Deserialize;

use crate::lsn::Lsn;
use crate::pg::Error;
use crate::pg::tables::{self, Part, Table};
use crate::snapshot::View;
use crate::snapshot::view::end_of_records;
use crate::wire::replication::command::{quote_identifier, quote_literal};

/// Where the reading is: a view and what belongs to it.
#[derive(Debug, Deserialize)]
pub struct Seen {
    snapshot: String,
    lsn: Lsn,
    /// Whether the server was in recovery just after the view was taken.
    pub is_standby: bool,
    /// The distance of the next transaction id from id 3.
    next: i32,
    block: u64,
    segment: u64,
    /// The OID that the table's name has now; none if there is no such table.
    pub oid: Option<u32>,
    /// Changes with the table's definition.
    pub definition: Option<String>,
    /// Microseconds since 1970.
    pub time_us: i64,
}

/// What a read shows after its rows.
#[derive(Debug, Deserialize)]
pub struct After {
    /// On a standby, what is replayed now.
    pub lsn: Option<Lsn>,
    /// Whether the server is in recovery.
    pub is_standby: bool,
}

/// The transactions in progress.
#[derive(Debug, Default, Deserialize)]
pub struct Holders {
    /// Those whose sessions are idle in them.
    pub idle: Vec<u32>,
    /// Their sessions; 0 for a prepared transaction.
    pub sessions: Vec<(u32, i32)>,
}

impl Seen {
    /// The view.
    ///
    /// # Errors
    /// [`Error::Answer`] for an unreadable one.
    pub fn view(&self) -> Result<View, Error> {
        view(&self.snapshot, self.is_standby)
    }

    /// The next transaction id.
    pub fn next_xid(&self, view: &View) -> u64 {
        next_xid(view, self.next)
    }

    /// The position after every transaction that the view sees.
    pub fn until(&self) -> Lsn {
        end_of_records(self.lsn, self.block, self.segment)
    }
}

/// What changes with the definition of a table: its columns, its keys, and what the publications say.
fn definition(oid: u32) -> String {
    let of = |catalog: &str, condition: &str| {
        format!(
            "(SELECT pg_catalog.string_agg(c.ctid::pg_catalog.text || c.xmin::pg_catalog.text, ',' ORDER BY c.ctid) \
             FROM pg_catalog.{catalog} c WHERE {condition})"
        )
    };
    let parts = [
        of("pg_attribute", &format!("c.attrelid = {oid} AND c.attnum > 0")),
        of("pg_index", &format!("c.indrelid = {oid} AND (c.indisprimary OR c.indisreplident)")),
        format!(
            "(SELECT pg_catalog.concat(c.relname, c.relnamespace, c.relreplident) FROM pg_catalog.pg_class c \
             WHERE c.oid = {oid})"
        ),
        of("pg_publication", "true"),
        of("pg_publication_rel", "true"),
    ];
    format!("pg_catalog.md5(pg_catalog.concat_ws('/', {}))", parts.join(", "))
}

/// Reads the rows of a chunk: the view with its position, the rows, and what is replayed after them.
///
/// The lock comes before the view: TRUNCATE and rewrites do not keep old rows for a view. The server's standby state
/// frames the view: a standby's view lists no transactions.
pub fn chunk(table: &Table, key: &[String], after: &[String], rows_max: u32) -> String {
    let (oid, name) = (table.relation.oid, table.quoted_name());
    let view = format!(
        "SELECT pg_catalog.json_build_object({VIEW}, 'lsn', CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
         ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
         'is_standby', pg_catalog.pg_is_in_recovery(), \
         'block', pg_catalog.current_setting('wal_block_size')::pg_catalog.int8, \
         'segment', pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), \
         'oid', pg_catalog.to_regclass({name})::pg_catalog.oid::pg_catalog.int8, \
         'definition', {definition}, \
         'time_us', (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8)",
        name = quote_literal(&name),
        definition = definition(oid),
    );
    let condition = after_key(key, after);
    let part = Part { condition: condition.as_deref(), order_by: key, limit: Some(u64::from(rows_max)) };
    let end = "SELECT pg_catalog.json_build_object('lsn', CASE WHEN pg_catalog.pg_is_in_recovery() \
               THEN pg_catalog.pg_last_wal_replay_lsn() END, 'is_standby', pg_catalog.pg_is_in_recovery())";
    format!(
        "{BEGIN}; {}; COPY ({view}) TO STDOUT; {}; COPY ({end}) TO STDOUT; COMMIT",
        tables::lock(std::slice::from_ref(table)),
        table.copy(&part)
    )
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Lists the published tables, after the definition of one of them.
pub fn list(oid: u32, list_command: &str) -> String {
    let definition = definition(oid);
    format!(
        "{BEGIN}; COPY (SELECT pg_catalog.json_build_object('definition', {definition}, {VIEW}, \
         'is_standby', pg_catalog.pg_is_in_recovery())) TO STDOUT; {list_command}; COMMIT"
    )
}

/// The first row of [`list`].
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// As in [`Seen`].
    pub definition: Option<String>,
    /// Whether the server is in recovery.
    pub is_standby: bool,
    snapshot: String,
    next: i32,
}

impl Listing {
    /// The next transaction id.
    ///
    /// # Errors
    /// [`Error::Answer`] for an unreadable view.
    pub fn next_xid(&self) -> Result<u64, Error> {
        Ok(next_xid(&view(&self.snapshot, self.is_standby)?, self.next))
    }
}

/// The view, and the distance of the next transaction id from id 3.
const VIEW: &str = "'snapshot', pg_catalog.pg_current_snapshot()::pg_catalog.text, \
                    'next', pg_catalog.age('3'::pg_catalog.xid)";

fn view(text: &str, is_standby: bool) -> Result<View, Error> {
    View::parse(text, is_standby).ok_or_else(|| Error::Answer {
        command: "reading a chunk",
        reason: "pg_current_snapshot() has an unknown format".to_owned(),
    })
}

fn next_xid(view: &View, distance: i32) -> u64 {
    view.widen(3_u32.wrapping_add_signed(distance))
}

/// The transactions in progress and their sessions.
pub const HOLDERS: &str = "COPY (SELECT pg_catalog.json_build_object(
  'idle', COALESCE(pg_catalog.json_agg(l.transactionid::pg_catalog.text::pg_catalog.int8)
    FILTER (WHERE a.state LIKE 'idle in transaction%'), '[]'),
  'sessions', COALESCE(pg_catalog.json_agg(pg_catalog.json_build_array(
    l.transactionid::pg_catalog.text::pg_catalog.int8, COALESCE(l.pid, 0))), '[]'))
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted) TO STDOUT";

/// The condition of the rows after a key.
pub fn after_key(key: &[String], after: &[String]) -> Option<String> {
    if after.is_empty() {
        return None;
    }
    let columns: Vec<String> = key.iter().map(|name| quote_identifier(name)).collect();
    let values: Vec<String> = after.iter().map(|value| literal(value)).collect();
    // A row of one column would compare as a record.
    Some(match (columns.as_slice(), values.as_slice()) {
        ([column], [value]) => format!("{column} > {value}"),
        _ => format!("({}) > ({})", columns.join(", "), values.join(", ")),
    })
}

/// A value, whatever standard_conforming_strings is.
fn literal(value: &str) -> String {
    let prefix = if value.contains('\\') { "E" } else { "" };
    format!("{prefix}{}", quote_literal(&value.replace('\\', "\\\\")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_after_a_key_are_those_with_a_greater_one() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(after_key(&texts(&["id"]), &[]), None);
        assert_eq!(after_key(&texts(&["id"]), &texts(&["7"])).unwrap(), r#""id" > '7'"#);
        let pair = after_key(&texts(&["a", "b \"x\""]), &texts(&["o'clock", "2"])).unwrap();
        assert_eq!(pair, r#"("a", "b ""x""") > ('o''clock', '2')"#);
        assert_eq!(after_key(&texts(&["id"]), &texts(&["a\\b"])).unwrap(), r#""id" > E'a\\b'"#);
    }
}
