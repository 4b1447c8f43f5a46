//! What is on record of an initial snapshot, in the store of the positions.
//!
//! | when | position | what is left |
//! |---|---|---|
//! | before the slot is created | 0/0 | the patterns of the tables |
//! | before a row is delivered | the consistent point | each table |
//! | from then on | the consistent point | the tables that are not delivered |
//! | every row is delivered | the consistent point | nothing |
//!
//! So a stream that starts after a crash begins at the consistent point and reads the rest in chunks.
//!
//! A table leaves the record after its rows are delivered. With exactly-once delivery it leaves in the Kafka transaction of
//! its last row, and each transaction stores the key up to which it has rows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Keyed;
use crate::change::Ticket;
use crate::clock::unix_now_ns;
use crate::lsn::Lsn;
use crate::pg::tables::Table;
use crate::position::{FullKeys, Identity, Known, Reached, Start};
use crate::pump::error::Error;
use crate::pump::store::{Found, Store};
use crate::session::Sealed;
use crate::sink::{Settled, Sink};
use crate::snapshot::key;
use crate::snapshot::progress::{Progress, TableProgress};
use crate::source::waiting::Waiter;
use crate::state_file::StateFile;

/// How often to look whether Kafka has stored a position before the snapshot begins.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What was emitted of a table since the record was changed.
#[derive(Debug)]
struct Emitted {
    oid: u32,
    names: Vec<String>,
    rows: u64,
    /// The key of the last row; empty without a key.
    key: Vec<u8>,
}

/// The record.
#[derive(Debug)]
pub struct Record<'a> {
    file: &'a mut Option<StateFile>,
    /// With what is left, as it may be stored now.
    identity: Identity,
    lsn: Lsn,
    tables: Vec<Emitted>,
    /// Tables whose rows are all emitted, each with the ticket of its last row.
    in_flight: VecDeque<(Option<Ticket>, usize)>,
    is_finished: bool,
}

impl<'a> Record<'a> {
    /// Stores that a snapshot of these tables is to be sent, before its slot is created. `judge` refuses what was stored
    /// before.
    ///
    /// # Errors
    /// Those of `judge`, of the sink and of the store.
    pub fn begin(
        file: &'a mut Option<StateFile>,
        identity: Identity,
        sink: &mut Sink,
        judge: impl FnOnce(Option<Known>) -> Result<(), Error>,
        waiter: &mut Waiter<'_>,
    ) -> Result<Self, Error> {
        let mut record = Record {
            file,
            identity,
            lsn: Lsn::INVALID,
            tables: Vec::new(),
            in_flight: VecDeque::new(),
            is_finished: false,
        };
        record.wait(sink, waiter, |store| store.has_begun() || store.found().is_some())?;
        let mut store = Store::of_sink(record.file, sink);
        let found = store.found().map(|Found { stored, store, .. }| stored.map(|stored| Known { stored, store }));
        judge(match found {
            Some(known) => known,
            None => store.read()?,
        })?;
        let nowhere = Start { lsn: Lsn::INVALID, records: Reached::NOTHING, is_cut: false };
        store.begin_at(nowhere, record.identity.timeline, FullKeys::new());
        store.keep_at_once(record.identity.at(Lsn::INVALID, Lsn::INVALID), Instant::now())?;
        record.wait(sink, waiter, |store| store.has_kept())?;
        Ok(record)
    }

    /// No row was sent, and there is no slot: nothing is left to do.
    ///
    /// # Errors
    /// Those of the sink and of the store.
    pub fn withdraw(mut self, sink: &mut Sink, waiter: &mut Waiter<'_>) -> Result<(), Error> {
        self.identity.snapshot = None;
        self.keep(sink, Instant::now())?;
        self.wait(sink, waiter, |store| store.has_kept())
    }

    /// Serves the sink until its store is ready.
    fn wait(
        &mut self,
        sink: &mut Sink,
        waiter: &mut Waiter<'_>,
        is_ready: impl Fn(&mut Store<'_>) -> bool,
    ) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            sink.serve(now)?;
            while let Some(settled) = sink.settled(now) {
                if let Settled::Refused(ticket, ordinal, failure) = settled {
                    sink.refuse(ticket, (ordinal, failure), Lsn::INVALID, now)?;
                }
            }
            if is_ready(&mut Store::of_sink(self.file, sink)) {
                return Ok(());
            }
            waiter.sleep(LOOK_INTERVAL)?;
        }
    }

    /// The slot exists, and its consistent point is known: stores it with the tables.
    ///
    /// # Errors
    /// Those of the store.
    pub fn point_is(
        &mut self,
        (lsn, timeline): (Lsn, u32),
        tables: &[Table],
        keys: &[Keyed],
        sink: &mut Sink,
    ) -> Result<(), Error> {
        let since_ms = unix_now_ns() / 1_000_000;
        let left = |table: &Table| TableProgress { since_ms, ..TableProgress::of(&table.relation) };
        let (with, without): (Vec<_>, Vec<_>) = tables.iter().zip(keys).partition(|(_, key)| !key.places.is_empty());
        let all = |tables: Vec<(&Table, &Keyed)>| tables.into_iter().map(|(table, _)| left(table)).collect();
        let (tables_left, keyless) = (all(with), all(without));
        self.identity.snapshot =
            Some(Progress { is_initial: true, tables: tables_left, keyless, ..Progress::default() });
        self.identity.timeline = timeline;
        // Consumers hold rows as of this point from now on.
        self.identity.records = Reached { timeline, lsn };
        self.lsn = lsn;
        let emitted = |(table, key): (&Table, &Keyed)| {
            let (oid, names) = (table.relation.oid, key.names.clone());
            Emitted { oid, names, rows: 0, key: Vec::new() }
        };
        self.tables = tables.iter().zip(keys).map(emitted).collect();
        self.keep(sink, Instant::now())
    }

    /// A row of a table was emitted. With exactly-once delivery `key` is its key, and the rows are in the order of their keys.
    pub fn row(&mut self, table: usize, key: &[u8]) {
        let emitted = &mut self.tables[table];
        emitted.rows += 1;
        emitted.key.clear();
        emitted.key.extend_from_slice(key);
    }

    /// All rows of a table are emitted; the last one has this ticket.
    pub fn table_ended(&mut self, table: usize, last: Option<Ticket>) {
        self.in_flight.push_back((last, table));
    }

    /// A group of rows is complete. With exactly-once delivery it gets its progress into its Kafka transaction.
    pub fn group_ended(&mut self, sink: &mut Sink) {
        if sink.transactions().is_none() {
            return;
        }
        let Some(left) = &mut self.identity.snapshot else { return };
        for emitted in self.tables.iter_mut().filter(|emitted| emitted.rows > 0) {
            let mut all = left.tables.iter_mut().chain(&mut left.keyless);
            let Some(table) = all.find(|table| table.oid == emitted.oid) else { continue };
            table.rows += std::mem::take(&mut emitted.rows);
            if let Some(texts) = key::texts(&emitted.key).filter(|texts| !texts.is_empty()) {
                table.key.clone_from(&emitted.names);
                table.after = texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
            }
        }
        for (_, table) in self.in_flight.drain(..) {
            remove(left, self.tables[table].oid);
        }
        let left = Some(left.clone());
        if let Some(transactions) = sink.transactions() {
            transactions.keep_snapshot(left);
        }
        sink.seal(Sealed { commit_lsn: self.lsn, end_lsn: self.lsn, xid: 0 });
    }

    /// Strikes the tables whose entries, and all before them, are not in flight.
    ///
    /// # Errors
    /// Those of the store.
    pub fn settle(
        &mut self,
        sink: &mut Sink,
        is_in_flight: impl Fn(Ticket) -> bool,
        now: Instant,
    ) -> Result<(), Error> {
        if self.is_finished || sink.transactions().is_some() {
            return Ok(());
        }
        let mut has_moved = false;
        while let Some((ticket, table)) = self.in_flight.front()
            && !ticket.is_some_and(&is_in_flight)
        {
            if let Some(left) = &mut self.identity.snapshot {
                remove(left, self.tables[*table].oid);
            }
            self.in_flight.pop_front();
            has_moved = true;
        }
        if has_moved { self.keep(sink, now) } else { Ok(()) }
    }

    /// Every row is delivered. Returns whether that is stored; until then call it again.
    ///
    /// # Errors
    /// Those of the store.
    pub fn finish(&mut self, sink: &mut Sink, now: Instant) -> Result<bool, Error> {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.identity.snapshot = None;
            self.keep(sink, now)?;
        }
        Ok(Store::of_sink(self.file, sink).has_kept())
    }

    fn keep(&mut self, sink: &mut Sink, now: Instant) -> Result<(), Error> {
        Store::of_sink(self.file, sink).keep_at_once(self.identity.at(self.lsn, self.lsn), now)
    }
}

fn remove(left: &mut Progress, oid: u32) {
    left.tables.retain(|table| table.oid != oid);
    left.keyless.retain(|table| table.oid != oid);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Encoder, Settings};
    use crate::sink::stdout::{LineForm, StdoutSink};

    fn table(oid: u32) -> Table {
        use crate::wire::pgoutput::ReplicaIdentity;
        let relation = crate::relations::Relation {
            oid,
            namespace: "public".to_owned(),
            name: format!("t{oid}"),
            replica_identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        };
        let answer = crate::catalog_facts::CatalogAnswer { relation: oid, table: None, types: Vec::new() };
        Table { relation, answer, filter: None, is_root: false, size: crate::pg::tables::Size::default() }
    }

    #[test]
    fn a_table_is_off_the_record_when_its_rows_and_all_before_them_are_delivered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let mut file = Some(StateFile::open(&path, Duration::ZERO).unwrap());
        let identity = Identity {
            system_identifier: "7".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            records: Reached::NOTHING,
            full_keys: FullKeys::new(),
            snapshot: None,
        };
        let settings = Settings {
            database: "d".to_owned(),
            source_name: "s".to_owned(),
            topic_prefix: None,
            unavailable_value: String::new(),
            accept_keyless: false,
        };
        let encoder = Encoder::new(&settings).unwrap();
        let (sink, now) = (&mut Sink::Stdout(Box::new(StdoutSink::new(encoder, LineForm::Value))), Instant::now());
        let mut record = Record {
            file: &mut file,
            identity,
            lsn: Lsn::INVALID,
            tables: Vec::new(),
            in_flight: VecDeque::new(),
            is_finished: false,
        };
        let left = || {
            let stored = StateFile::open(&path, Duration::ZERO).unwrap().stored().cloned().unwrap();
            assert_eq!(stored.end_lsn, Lsn(100), "the stream begins at the consistent point");
            let left = stored.snapshot.unwrap_or_default();
            left.tables.iter().chain(&left.keyless).map(|table| table.oid).collect::<Vec<_>>()
        };
        let keyed = || Keyed { places: vec![0], names: vec!["id".to_owned()] };
        let keys = [keyed(), Keyed::default(), keyed()];
        record.point_is((Lsn(100), 1), &[table(1), table(2), table(3)], &keys, sink).unwrap();
        assert_eq!(left(), [1, 3, 2], "the last one has no key");
        record.table_ended(0, Some(Ticket(5)));
        // It has no rows.
        record.table_ended(2, None);
        record.settle(sink, |_| true, now).unwrap();
        assert_eq!(left(), [1, 3, 2], "its rows are in flight");
        record.settle(sink, |ticket| ticket > Ticket(5), now).unwrap();
        assert_eq!(left(), [2]);
        record.table_ended(1, Some(Ticket(6)));
        record.settle(sink, |_| false, now).unwrap();
        assert_eq!(left(), [0; 0]);
        assert!(record.finish(sink, now).unwrap());
        assert_eq!(left(), [0; 0]);
    }
}
