//! The loop of a consistent snapshot: copies the rows of all tables from connections that share one snapshot to the sink.
//!
//! One turn is that of the stream's loop: serve the output and settle what it delivered; read as far as there is room; sleep
//! until something is ready. A full sink stops the reading, and the server waits. A group of rows is an entry of the ring.

mod progress;
mod work;

use std::time::{Duration, Instant};

use log::{info, warn};
use mio::Interest;

use self::progress::Progress;
use self::work::{Emitted, Part, Work};
use super::error::Error;
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
use crate::sink::{Settled, Sink};
use crate::wire::copy_text::Splitter;

/// The rows of one entry of the ring.
const ROWS_PER_ENTRY: u64 = 1_000;

/// The rows that are read from one connection before the others and the sink have their turn.
const ROWS_PER_TURN_MAX: u32 = 256;

/// A connection and what it reads.
#[derive(Debug)]
struct Reader {
    copy: CopyOut,
    part: Option<Part>,
}

/// The entry of the ring that rows join.
#[derive(Clone, Copy, Debug)]
struct Open {
    ticket: Ticket,
    rows: u64,
}

/// What a snapshot needs.
pub struct Parts {
    /// The consistent point.
    pub lsn: Lsn,
    /// When it was.
    pub time: PgTimestamp,
    /// The tables.
    pub tables: Vec<Table>,
    /// The connections, each with the snapshot.
    pub readers: Vec<CopyOut>,
    /// Where the rows go.
    pub sink: Sink,
    /// The poll.
    pub poller: Poller,
    /// The signals, registered with the poll.
    pub signals: StopSignals,
    /// How long the sink may drain after a signal; none for no limit.
    pub shutdown_timeout: Option<Duration>,
    /// The time between two lines about the progress; none for none.
    pub interval: Option<Duration>,
}

/// Reads a snapshot.
pub struct Copying {
    lsn: Lsn,
    position: Position,
    tables: Vec<Table>,
    readers: Vec<Reader>,
    work: Work<CopyData>,
    ring: Ring,
    open: Option<Open>,
    splitter: Splitter,
    sink: Sink,
    poller: Poller,
    signals: StopSignals,
    shutdown_timeout: Option<Duration>,
    /// When the sink must be drained after a signal; `Some(None)` for no limit.
    stopping: Option<Option<Instant>>,
    progress: Progress,
    told_outage_at: Option<Instant>,
}

impl Copying {
    /// Puts the parts together, and prepares the topics of the tables.
    ///
    /// # Errors
    /// [`Error::Sink`] for a table without a topic or a key of its own.
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { lsn, time, tables, readers, mut sink, mut poller, .. } = parts;
        // The start has waited for the sockets of the readers under this name.
        poller.disarm(Wakeup::Postgres);
        for (place, table) in tables.iter().enumerate() {
            prepared("snapshot", &table.relation, &sink.prepare(index_of(place), &table.relation, &table.answer)?);
        }
        let pages: Vec<u32> = tables.iter().map(|table| table.size.pages_max).collect();
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
        Ok(Copying {
            lsn,
            position,
            work: Work::new(&pages, connections),
            readers: readers.into_iter().map(|copy| Reader { copy, part: None }).collect(),
            progress: Progress::new(&tables, parts.interval, now),
            tables,
            ring: Ring::with_capacity(RING_ENTRIES_MAX),
            open: None,
            splitter: Splitter::default(),
            sink,
            poller,
            signals: parts.signals,
            shutdown_timeout: parts.shutdown_timeout,
            stopping: None,
            told_outage_at: None,
        })
    }

    /// Reads and delivers all rows. Returns what the stream needs after it.
    ///
    /// # Errors
    /// [`Error::Incomplete`] after a signal; [`Error::Postgres`], [`Error::Sink`].
    pub fn run(mut self) -> Result<(Poller, StopSignals), Error> {
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
            } else if self.is_read() && self.is_delivered() {
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
        for number in 0..self.readers.len() {
            self.poller.disarm(reader_of(number));
        }
        self.poller.disarm(Wakeup::Kafka);
        self.poller.disarm(Wakeup::Stdout);
        Ok((self.poller, self.signals))
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
        if self.work.is_read() {
            if let Some(last) = self.work.last() {
                self.emit(last, now)?;
            }
            if let Some(open) = self.open.take() {
                self.seal(open)?;
            }
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
                let condition = part.condition();
                let select = tables::Part { condition: condition.as_deref(), ..tables::Part::default() };
                reader.copy.start(&self.tables[part.table].copy(&select))?;
                reader.part = Some(part);
                continue;
            };
            match reader.copy.receive()? {
                Copied::Row(row) => {
                    self.progress.row(part.table, row.len());
                    if let Some(emitted) = self.work.row(part.table, row) {
                        self.emit(emitted, now)?;
                    }
                }
                Copied::EndOfCopy => {}
                Copied::End => {
                    reader.part = None;
                    if let Some(emitted) = self.work.part_ended(part.table) {
                        self.emit(emitted, now)?;
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

    /// Hands a row to the sink.
    fn emit(&mut self, emitted: Emitted<CopyData>, now: Instant) -> Result<(), Error> {
        let Emitted { table, row, marker } = emitted;
        let columns = self.tables[table].relation.columns.len();
        let new = self.splitter.split(&row, columns).map_err(|error| pg::Error::Answer {
            command: "COPY",
            reason: format!("a row of {}: {error}", self.tables[table].quoted_name()),
        })?;
        let operation = Operation::Read { new: Row::Copy(new), marker };
        let change = Change { relation: Some(index_of(table)), operation, position: self.position };
        let mut open = match self.open {
            Some(open) => open,
            None => {
                let ticket = self.ring.open(self.lsn).expect("a row is read only if the ring has room");
                Open { ticket, rows: 0 }
            }
        };
        let taken = self.sink.take(&change, open.ticket, now)?;
        self.ring.add(open.ticket, taken.records).map_err(crate::session::Error::from)?;
        open.rows += 1;
        self.open = Some(open);
        if open.rows >= ROWS_PER_ENTRY {
            self.open = None;
            self.seal(open)?;
        }
        Ok(())
    }

    fn seal(&mut self, open: Open) -> Result<(), Error> {
        self.ring.seal(open.ticket, self.lsn).map_err(crate::session::Error::from)?;
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
                    self.sink.refuse(ticket, (ordinal, failure), self.lsn, now)?;
                }
            }
        }
        self.ring.advance();
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

fn reader_of(number: usize) -> Wakeup {
    Wakeup::Reader(u8::try_from(number).expect("the number of connections is bounded"))
}

/// The tables of a snapshot are its relations.
fn index_of(place: usize) -> RelationIndex {
    RelationIndex(u32::try_from(place).expect("each table has its own 32-bit OID"))
}
