//! The snapshot: that of a temporary slot, so that it is exact which transactions it has. Nothing is left behind; the
//! server drops a temporary slot with its session.
//!
//! TRUNCATE and the forms of ALTER TABLE that rewrite a table ignore snapshots: an older snapshot finds the table empty.
//! So the tables are locked in ACCESS SHARE mode, and the snapshot is taken again if a table has other files than before.

use std::collections::BTreeMap;

use log::{info, warn};

use crate::error::Error;
use crate::lsn::Lsn;
use crate::patterns::Pattern;
use crate::pg::copy_out::CopyOut;
use crate::pg::tables::{self, Table};
use crate::pg::{self, Connection, Kind, Server, slots};
use crate::source::slot::create_and_tell;
use crate::source::waiting::Waiter;
use crate::wire::replication::command::SlotOptions;

/// Where the tables are, and which.
pub(super) struct Source<'s> {
    pub dsn: Option<&'s str>,
    pub server: Server,
    pub server_version: i32,
    pub publications: &'s [String],
    pub patterns: &'s [Pattern],
}

/// A transaction that reads as of an LSN.
pub(super) struct Snapshot {
    pub reader: CopyOut,
    pub lsn: Lsn,
}

/// An attempt to take a snapshot.
pub(super) struct Attempt {
    reader: CopyOut,
    /// The tables as they are before the snapshot.
    pub tables: Vec<Table>,
    files: BTreeMap<u32, String>,
}

impl Attempt {
    /// Finds the tables and their files.
    pub(super) fn begin(source: &Source<'_>, waiter: &mut Waiter<'_>) -> Result<Self, Error> {
        let mut reader = CopyOut::connect("reading the tables", source.dsn, &source.server)?;
        let tables = published(&mut reader, source, waiter)?;
        let files = files(&mut reader, &tables, waiter)?;
        Ok(Attempt { reader, tables, files })
    }

    /// Takes the snapshot; none if a table was rewritten meanwhile.
    pub(super) fn take(
        self,
        source: &Source<'_>,
        waiter: &mut Waiter<'_>,
    ) -> Result<Option<(Snapshot, Vec<Table>)>, Error> {
        let Attempt { mut reader, tables: _, files: before } = self;
        let (mut slot_session, lsn, name) = export(source, waiter)?;
        let wait = &mut |socket, way| waiter.wait(socket, way);
        reader.import(&name, wait)?;
        // The snapshot is imported, so the slot has done its work.
        slots::drop(&mut slot_session, &slot_name(), wait)?;
        drop(slot_session);
        let tables = published(&mut reader, source, waiter)?;
        if !tables.is_empty() {
            reader.rows(&tables::lock(&tables), &mut |socket, way| waiter.wait(socket, way))?;
        }
        let after = files(&mut reader, &tables, waiter)?;
        if after.iter().any(|(oid, files)| before.get(oid) != Some(files)) {
            info!("a table was truncated, rewritten or created while the snapshot was taken: taking another one");
            return Ok(None);
        }
        Ok(Some((Snapshot { reader, lsn }, tables)))
    }
}

fn slot_name() -> String {
    format!("walcat_verify_{}", std::process::id())
}

/// Creates the temporary slot; returns its session, its consistent point and the name of its snapshot.
fn export(source: &Source<'_>, waiter: &mut Waiter<'_>) -> Result<(Connection, Lsn, String), Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let mut session = Connection::connect_to(source.dsn, Some(&source.server), Kind::Replication, wait)?;
    let options = SlotOptions { temporary: true, failover: false, exports_snapshot: true };
    let tell = |blocking: &str| warn!(blocking; "taking the snapshot waits for older transactions to end");
    let slots::Created { lsn, snapshot } =
        create_and_tell(source.dsn, &slot_name(), options, &mut session, waiter, &tell)?;
    let missing = || pg::Error::Answer { command: "CREATE_REPLICATION_SLOT", reason: "no snapshot_name".to_owned() };
    Ok((session, lsn, snapshot.ok_or_else(missing)?))
}

fn published(reader: &mut CopyOut, source: &Source<'_>, waiter: &mut Waiter<'_>) -> Result<Vec<Table>, Error> {
    let wait = &mut |socket, way| waiter.wait(socket, way);
    let mut tables = tables::published(reader, source.publications, source.server_version, wait)?;
    if !source.patterns.is_empty() {
        tables.retain(|table| source.patterns.iter().any(|pattern| table.fits(pattern)));
    }
    Ok(tables)
}

/// The files of each table as the server has them now, whatever the snapshot shows.
fn files(reader: &mut CopyOut, tables: &[Table], waiter: &mut Waiter<'_>) -> Result<BTreeMap<u32, String>, Error> {
    if tables.is_empty() {
        return Ok(BTreeMap::new());
    }
    let oids = tables.iter().map(|table| table.relation.oid.to_string()).collect::<Vec<_>>().join(",");
    let query = format!(
        "COPY (SELECT pg_catalog.json_build_object('oid', wanted.oid::pg_catalog.int8, 'files', COALESCE((\
           SELECT pg_catalog.string_agg(pg_catalog.pg_relation_filenode(leaf.relid)::pg_catalog.text, ' ' ORDER BY leaf.relid) \
           FROM pg_catalog.pg_partition_tree(wanted.oid::pg_catalog.regclass) leaf WHERE leaf.isleaf), \
           pg_catalog.pg_relation_filenode(wanted.oid)::pg_catalog.text, '')) \
         FROM pg_catalog.unnest('{{{oids}}}'::pg_catalog.oid[]) AS wanted(oid)) TO STDOUT"
    );
    #[derive(serde::Deserialize)]
    struct Files {
        oid: u32,
        files: String,
    }
    let mut found = BTreeMap::new();
    for row in reader.rows(&query, &mut |socket, way| waiter.wait(socket, way))? {
        let Files { oid, files } = tables::json_cell(&row)?;
        found.insert(oid, files);
    }
    Ok(found)
}
