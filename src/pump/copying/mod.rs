//! The loop of a consistent snapshot: copies the rows of all tables from connections that share one snapshot to the sink.
//!
//! One turn is that of the stream's loop: serve the output and settle what it delivered; read as far as there is room; sleep
//! until something is ready. A full sink stops the reading, and the server waits. A group of rows is an entry of the ring.
//!
//! With exactly-once delivery an initial snapshot reads each table with a key in the order of the key, piece by piece, so
//! that the rest can be read later by the key.

mod progress;
pub mod record;
mod work;

use std::time::{Duration, Instant};

use log::{info, warn};
use mio::Interest;

use self::progress::Progress;
use self::record::Record;
use self::work::{Emitted, Part, Work};
use super::error::Error;
use super::incremental::after_key;
use super::reading::Read;
use super::report::prepared;
use crate::change::{Change, Operation, Position, RelationIndex, Row, Ticket};
use crate::clock::{PgTimestamp, unix_now_ns};
use crate::limits::{OUTAGE_NOTICE_INTERVAL, RING_ENTRIES_MAX};
use crate::lsn::Lsn;
use crate::pg;
use crate::pg::copy_out::{Copied, CopyOut};
use crate::pg::ffi::CopyData;
use crate::pg::tables::{self, Table};
use crate::poller::{Poller, Wakeup};
use crate::ring::Ring;
use crate::signal::StopSignals;
use crate::sink::kafka::exactly_once::ABORT_LIMIT;
use crate::sink::{Settled, Sink};
use crate::snapshot::key;
use crate::source::waiting::Waiter;
use crate::wire::copy_text::{CopyRow, Splitter};

/// The rows of one entry of the ring.
const ROWS_PER_ENTRY: u64 = 1_000;

/// The rows that are read from one connection before the others and the sink have their turn.
const ROWS_PER_TURN_MAX: u32 = 256;

/// The rows of one piece of a table that is read in the order of its key: few enough for the server to use the index.
const ROWS_PER_PIECE: u64 = 100_000;

/// A connection and what it reads.
#[derive(Debug)]
struct Reader {
    copy: CopyOut,
    part: Option<Part>,
    /// The rows of the present piece.
    rows: u64,
}

/// The key columns of a table: their places and their names; empty without a key.
#[derive(Debug, Default)]
pub struct Keyed {
    /// In the key's order.
    pub places: Vec<usize>,
    /// In the key's order.
    pub names: Vec<String>,
}

/// Prepares the topics of the tables. Returns the key of each.
///
/// # Errors
/// [`Error::Sink`] for a table without a topic or a key of its own.
pub fn prepare(sink: &mut Sink, tables: &[Table]) -> Result<Vec<Keyed>, Error> {
    let mut keys = Vec::new();
    for (place, table) in tables.iter().enumerate() {
        prepared("snapshot", &table.relation, &sink.prepare(index_of(place), &table.relation, &table.answer)?);
        let places = sink.encoder().key_columns(&table.relation, &table.answer).map_err(crate::sink::Error::from)?;
        let names = places.iter().map(|place| table.relation.columns[*place].name.clone()).collect();
        keys.push(Keyed { places, names });
    }
    Ok(keys)
}

/// The entry of the ring that rows join.
#[derive(Clone, Copy, Debug)]
struct Open {
    ticket: Ticket,
    rows: u64,
}

/// What a snapshot needs.
pub struct Parts<'a> {
    /// The consistent point.
    pub lsn: Lsn,
    /// When it was.
    pub time: PgTimestamp,
    /// The tables, which [`prepare`] has prepared.
    pub tables: Vec<Table>,
    /// The key of each.
    pub keys: Vec<Keyed>,
    /// The connections, each with the snapshot.
    pub readers: Vec<CopyOut>,
    /// Where the rows go.
    pub sink: Sink,
    /// What is on record of an initial snapshot; none for one that cannot be resumed.
    pub record: Option<Record<'a>>,
    /// The poll.
    pub poller: &'a mut Poller,
    /// The signals, registered with the poll.
    pub signals: &'a mut StopSignals,
    /// How long the sink may drain after a signal; none for no limit.
    pub shutdown_timeout: Option<Duration>,
    /// The time between two lines about the progress; none for none.
    pub interval: Option<Duration>,
}

/// Reads a snapshot.
pub struct Copying<'a> {
    /// Of each row: the consistent point.
    position: Position,
    tables: Vec<Table>,
    keys: Vec<Keyed>,
    /// Whether tables are read in the order of their keys, and the rows of a group are in one Kafka transaction.
    is_ordered: bool,
    readers: Vec<Reader>,
    work: Work<CopyData>,
    ring: Ring,
    open: Option<Open>,
    splitter: Splitter,
    key: Vec<u8>,
    sink: Sink,
    record: Option<Record<'a>>,
    poller: &'a mut Poller,
    signals: &'a mut StopSignals,
    shutdown_timeout: Option<Duration>,
    /// When the sink must be drained after a signal; `Some(None)` for no limit.
    stopping: Option<Option<Instant>>,
    progress: Progress,
    told_outage_at: Option<Instant>,
}

impl<'a> Copying<'a> {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts<'a>) -> Self {
        let Parts { lsn, time, tables, keys, readers, mut sink, record, poller, .. } = parts;
        // The start has waited for the sockets of the readers under this name.
        poller.disarm(Wakeup::Postgres);
        let is_ordered = record.is_some() && sink.transactions().is_some();
        // What is read in the order of its key is read in one part.
        let pages = |(table, key): (&Table, &Keyed)| {
            if is_ordered && !key.places.is_empty() { 0 } else { table.size.pages_max }
        };
        let pages: Vec<u32> = tables.iter().zip(&keys).map(pages).collect();
        let connections = u32::try_from(readers.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        let position = Position {
            lsn,
            transaction: None,
            commit_time: time,
            total_order: 1,
            data_collection_order: 1,
            processed_unix_ns: 0,
        };
        Copying {
            position,
            work: Work::new(&pages, connections),
            readers: readers.into_iter().map(|copy| Reader { copy, part: None, rows: 0 }).collect(),
            progress: Progress::new(&tables, parts.interval, now),
            tables,
            keys,
            is_ordered,
            ring: Ring::with_capacity(RING_ENTRIES_MAX),
            open: None,
            splitter: Splitter::default(),
            key: Vec::new(),
            sink,
            record,
            poller,
            signals: parts.signals,
            shutdown_timeout: parts.shutdown_timeout,
            stopping: None,
            told_outage_at: None,
        }
    }

    /// Reads and delivers all rows.
    ///
    /// # Errors
    /// [`Error::Incomplete`] after a signal; [`Error::Postgres`], [`Error::Sink`], [`Error::State`].
    pub fn run(mut self) -> Result<(), Error> {
        let readers = self.readers.len();
        let result = self.turns();
        // The poll outlives the sockets.
        (0..readers).for_each(|number| self.poller.disarm(reader_of(number)));
        self.poller.disarm(Wakeup::Stdout);
        // Report only the failure that ends the snapshot.
        let _ = self.close();
        self.poller.disarm(Wakeup::Kafka);
        result
    }

    /// Aborts an open Kafka transaction, so that the stream can begin one. A further signal does not wait for that.
    fn close(&mut self) -> Result<(), Error> {
        let Sink::Kafka(kafka) = &mut self.sink else { return Ok(()) };
        kafka.close(ABORT_LIMIT, Instant::now());
        let signals_max = self.signals.received() + 1;
        while kafka.is_closing() {
            let now = Instant::now();
            kafka.serve(now)?;
            self.poller.arm(Wakeup::Kafka, kafka.descriptor(), Interest::READABLE)?;
            let deadline = kafka.deadline(now).unwrap_or(now);
            Waiter::new(self.poller, self.signals).up_to(signals_max).doze(deadline)?;
        }
        Ok(())
    }

    fn turns(&mut self) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            self.handle_signals(now)?;
            self.serve(now)?;
            let read = self.read(now)?;
            self.serve(now)?;
            self.tell_outage(now);
            let table = self.readers.iter().find_map(|reader| reader.part).map(|part| part.table);
            self.progress.show(&self.tables, table, now);
            if let Some(deadline) = self.stopping {
                if self.is_delivered() || deadline.is_some_and(|deadline| now >= deadline) {
                    return Err(Error::Incomplete { rows: self.progress.rows() });
                }
            } else if self.is_read() && self.is_delivered() && self.is_recorded(now)? {
                break;
            }
            // libpq may hold rows that there is room for now, and no readiness event reports them.
            match read {
                Read::Drained => self.sleep(now)?,
                Read::Blocked if !self.may_read(now) => self.sleep(now)?,
                Read::Blocked | Read::Unfinished => {}
            }
        }
        self.progress.ended(self.tables.len(), Instant::now());
        Ok(())
    }

    /// Every row is delivered. Whether that is on record.
    fn is_recorded(&mut self, now: Instant) -> Result<bool, Error> {
        self.record.as_mut().map_or(Ok(true), |record| record.finish(&mut self.sink, now))
    }

    fn handle_signals(&mut self, now: Instant) -> Result<(), Error> {
        let received = self.signals.received();
        if received > 1 {
            return Err(Error::Incomplete { rows: self.progress.rows() });
        }
        if received == 1 && self.stopping.is_none() {
            let in_flight = self.ring.outstanding();
            info!(in_flight; "signal: stopping the snapshot (a second signal ends at once)");
            self.stopping = Some(self.shutdown_timeout.map(|timeout| now + timeout));
            self.readers.clear();
            if let Some(open) = self.open.take() {
                self.seal(open)?;
            }
            if let Some(transactions) = self.sink.transactions() {
                transactions.hurry();
            }
        }
        Ok(())
    }

    fn is_read(&self) -> bool {
        self.work.is_read() && self.open.is_none()
    }

    fn is_delivered(&self) -> bool {
        self.ring.is_empty() && self.sink.is_drained()
    }

    fn may_read(&self, now: Instant) -> bool {
        self.stopping.is_none() && self.ring.has_room() && self.sink.has_room(now)
    }

    /// Reads from every connection while there is room.
    fn read(&mut self, now: Instant) -> Result<Read, Error> {
        let mut read = Read::Drained;
        self.position.processed_unix_ns = unix_now_ns();
        for number in 0..self.readers.len() {
            match self.read_from(number, now)? {
                Read::Drained => {}
                more => read = more,
            }
        }
        if self.work.is_read()
            && let Some(last) = self.work.last()
        {
            self.emit(last, now)?;
        }
        // A Kafka transaction cannot be committed inside a group, and the server may send nothing for a while.
        if (self.work.is_read() || self.is_ordered)
            && let Some(open) = self.open.take()
        {
            self.seal(open)?;
        }
        Ok(read)
    }

    fn read_from(&mut self, number: usize, now: Instant) -> Result<Read, Error> {
        for _ in 0..ROWS_PER_TURN_MAX {
            if !self.may_read(now) {
                return Ok(Read::Blocked);
            }
            let reader = &mut self.readers[number];
            let Some(part) = reader.part else {
                let Some(part) = self.work.next() else { return Ok(Read::Drained) };
                reader.part = Some(part);
                self.start(number, part, &[])?;
                continue;
            };
            let rows = reader.rows;
            match reader.copy.receive()? {
                Copied::Row(row) => {
                    reader.rows += 1;
                    self.progress.row(part.table, row.len());
                    if let Some(emitted) = self.work.row(part.table, row) {
                        self.emit(emitted, now)?;
                    }
                }
                Copied::EndOfCopy => {}
                Copied::End if self.is_in_order(part.table) && rows == ROWS_PER_PIECE => {
                    let after = self.last_key(part.table)?;
                    self.start(number, part, &after)?;
                }
                Copied::End => {
                    self.readers[number].part = None;
                    match self.work.part_ended(part.table) {
                        Some(emitted) => self.emit(emitted, now)?,
                        // A table without rows has nothing to emit.
                        None => self.strike(part.table, None),
                    }
                    if self.work.is_done(part.table) {
                        self.progress.table_ended(part.table, &self.tables);
                    }
                }
                Copied::Pending => return Ok(Read::Drained),
            }
        }
        Ok(Read::Unfinished)
    }

    fn is_in_order(&self, table: usize) -> bool {
        self.is_ordered && !self.keys[table].places.is_empty()
    }

    /// Starts to read a part, or the piece of a table after a key.
    fn start(&mut self, number: usize, part: Part, after: &[String]) -> Result<(), Error> {
        let (table, names) = (&self.tables[part.table], &self.keys[part.table].names);
        let condition = part.condition();
        let select = if self.is_in_order(part.table) {
            let condition = after_key(names, after);
            let select = tables::Part { condition: condition.as_deref(), order_by: names, limit: Some(ROWS_PER_PIECE) };
            table.copy(&select)
        } else {
            table.copy(&tables::Part { condition: condition.as_deref(), ..tables::Part::default() })
        };
        let reader = &mut self.readers[number];
        reader.rows = 0;
        Ok(reader.copy.start(&select)?)
    }

    /// The key of the row that was read last of a table.
    fn last_key(&mut self, table: usize) -> Result<Vec<String>, Error> {
        let row = self.work.last_read(table).expect("a piece has a last row");
        let new = split(&mut self.splitter, row, &self.tables[table])?;
        if !key::encode(&mut self.key, &self.keys[table].places, Row::Copy(new), None) {
            return Err(keyless(&self.tables[table]));
        }
        let texts = key::texts(&self.key).unwrap_or_default();
        Ok(texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
    }

    /// Strikes a table whose rows are all emitted from what is left; `last` is the ticket of its last row.
    fn strike(&mut self, table: usize, last: Option<Ticket>) {
        if let Some(record) = self.record.as_mut().filter(|_| self.work.is_emitted(table)) {
            record.table_ended(table, last);
        }
    }

    /// Hands a row to the sink.
    fn emit(&mut self, emitted: Emitted<CopyData>, now: Instant) -> Result<(), Error> {
        let Emitted { table, row, marker } = emitted;
        let new = split(&mut self.splitter, &row, &self.tables[table])?;
        if self.is_ordered && !key::encode(&mut self.key, &self.keys[table].places, Row::Copy(new), None) {
            return Err(keyless(&self.tables[table]));
        }
        let operation = Operation::Read { new: Row::Copy(new), marker };
        let change = Change { relation: Some(index_of(table)), operation, position: self.position };
        let mut open = match self.open {
            Some(open) => open,
            None => {
                let ticket = self.ring.open(self.position.lsn).expect("a row is read only if the ring has room");
                Open { ticket, rows: 0 }
            }
        };
        let taken = self.sink.take(&change, open.ticket, now)?;
        self.ring.add(open.ticket, taken.records).map_err(crate::session::Error::from)?;
        open.rows += 1;
        self.open = Some(open);
        if let Some(record) = self.record.as_mut().filter(|_| self.is_ordered) {
            record.row(table, &self.key);
        }
        self.strike(table, Some(open.ticket));
        if open.rows >= ROWS_PER_ENTRY {
            self.open = None;
            self.seal(open)?;
        }
        Ok(())
    }

    fn seal(&mut self, open: Open) -> Result<(), Error> {
        self.ring.seal(open.ticket, self.position.lsn).map_err(crate::session::Error::from)?;
        if let Some(record) = &mut self.record {
            record.group_ended(&mut self.sink);
        }
        Ok(())
    }

    /// Serves the sink, and settles what it has delivered.
    fn serve(&mut self, now: Instant) -> Result<(), Error> {
        self.sink.serve(now)?;
        while let Some(report) = self.sink.settled(now) {
            match report {
                Settled::Delivered(ticket, records) => {
                    self.ring.settle(ticket, records).map_err(crate::session::Error::from)?;
                }
                Settled::Refused(ticket, ordinal, failure) => {
                    self.sink.refuse(ticket, (ordinal, failure), self.position.lsn, now)?;
                }
            }
        }
        self.ring.advance();
        if let Some(record) = &mut self.record {
            record.settle(&mut self.sink, |ticket| self.ring.position(ticket).is_some(), now)?;
        }
        Ok(())
    }

    /// Reports an outage of Kafka: at once, and then once a minute.
    fn tell_outage(&mut self, now: Instant) {
        let Some((since, reason)) = self.sink.outage() else {
            if self.told_outage_at.take().is_some() {
                info!("Kafka accepts records again");
            }
            return;
        };
        if self.told_outage_at.is_none_or(|told| now.saturating_duration_since(told) >= OUTAGE_NOTICE_INTERVAL) {
            let down_for_s = now.saturating_duration_since(since).as_secs();
            warn!(down_for_s, reason; "Kafka is not accepting records; the snapshot waits, and the server cannot \
                remove dead rows meanwhile");
            self.told_outage_at = Some(now);
        }
    }

    fn sleep(&mut self, now: Instant) -> Result<(), Error> {
        let may_read = self.may_read(now);
        for (number, reader) in self.readers.iter().enumerate() {
            let wakeup = reader_of(number);
            // While reading is paused, the socket's readiness would only spin the loop.
            match reader.copy.socket() {
                Some((socket, direction)) if may_read && reader.part.is_some() => {
                    self.poller.arm(wakeup, socket, direction.interest())?;
                }
                _ => self.poller.disarm(wakeup),
            }
        }
        match &self.sink {
            Sink::Kafka(kafka) => self.poller.arm(Wakeup::Kafka, kafka.descriptor(), Interest::READABLE)?,
            Sink::Stdout(stdout) => match stdout.awaited() {
                Some((descriptor, interest)) => self.poller.arm(Wakeup::Stdout, descriptor, interest)?,
                None => self.poller.disarm(Wakeup::Stdout),
            },
        }
        let outage = self.told_outage_at.map(|told| told + OUTAGE_NOTICE_INTERVAL);
        let others = [self.sink.deadline(now), self.progress.deadline(), self.stopping.flatten(), outage];
        let latest = now + OUTAGE_NOTICE_INTERVAL;
        let deadline = others.into_iter().flatten().fold(latest, Instant::min);
        Ok(self.poller.wait(deadline)?)
    }
}

fn split<'b>(splitter: &'b mut Splitter, row: &'b CopyData, table: &Table) -> Result<CopyRow<'b>, Error> {
    let answer =
        |error| pg::Error::Answer { command: "COPY", reason: format!("a row of {}: {error}", table.quoted_name()) };
    Ok(splitter.split(row, table.relation.columns.len()).map_err(answer)?)
}

fn keyless(table: &Table) -> Error {
    let reason = format!("a row of {}: a key column is null", table.quoted_name());
    pg::Error::Answer { command: "COPY", reason }.into()
}

fn reader_of(number: usize) -> Wakeup {
    Wakeup::Reader(u8::try_from(number).expect("the number of connections is bounded"))
}

/// The tables of a snapshot are its relations.
fn index_of(place: usize) -> RelationIndex {
    RelationIndex(u32::try_from(place).expect("each table has its own 32-bit OID"))
}
