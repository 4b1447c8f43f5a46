//! Incremental snapshots beside the stream: reads chunks on a connection of its own and gives them to the sink between two
//! transactions. `crate::snapshot` has the rule.
//!
//! The connection writes nothing to the database. Its failures never end the stream: a lost connection is opened again, and a
//! table that cannot be read ends with a message.

mod emission;
mod progress;
mod requests;
mod sql;

pub(super) use self::sql::after_key;

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use self::progress::Sent;
use self::sql::{After, Holders, Listing, Seen};
use super::display::Display;
use crate::backoff::{Backoff, Policy};
use crate::change::{Change, OldRow, Operation, RelationIndex, Ticket};
use crate::lsn::Lsn;
use crate::patterns::Pattern;
use crate::pg::copy_out::{Copied, CopyOut};
use crate::pg::ffi::CopyData;
use crate::pg::tables::{self, Table};
use crate::pg::{self, Direction, Server, sqlstate};
use crate::record::Encoder;
use crate::relations::{Relation, Relations};
use crate::snapshot::job::Job;
use crate::snapshot::tracking::Verdict;
use crate::snapshot::{Progress, Touched, View, key};
use crate::wire::copy_text::Splitter;
use crate::wire::pgoutput::Cell;

const NAME: &str = "the incremental snapshot";

/// The rows that are read before the stream has its turn.
const ROWS_PER_TURN_MAX: u32 = 512;

/// The shortest and the longest time between two attempts to read.
const RETRY: Policy = Policy { initial: Duration::from_millis(100), max: Duration::from_secs(10), budget: None };

/// How often walcat looks for new tables.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How long a chunk waits for transactions before the log says so, and how often it says so again.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// A table as it is read.
#[derive(Debug)]
struct Facts {
    table: Table,
    /// Of the relation in the session; the stream may have another one for the same table.
    index: RelationIndex,
    /// The places of the key columns, and their names.
    key: Vec<usize>,
    names: Vec<String>,
    definition: Option<String>,
}

/// What the connection does.
#[derive(Debug)]
enum Stage {
    /// Nothing.
    Idle,
    /// Lists the published tables.
    Listing { first: Option<Listing>, tables: Vec<Table> },
    /// Asks the catalog about the table to read.
    Answering { table: Box<Table>, definition: Option<String> },
    /// Asks who holds the transactions that a chunk waits for.
    Asking { view: View, waited_for: Vec<u64> },
    /// Reads a chunk.
    Reading(Reading),
    /// A chunk is complete. Its rows were read at this time.
    Held { time_us: i64 },
    /// The chunk's rows are given to the sink; this one is the next.
    Emitting { ticket: Ticket, row: usize, until: Lsn, time_us: i64, is_stale: bool },
}

/// A chunk's read.
#[derive(Debug)]
struct Reading {
    began: Instant,
    seen: Option<Seen>,
    /// Whether the view has ended.
    is_past_view: bool,
    is_past_rows: bool,
    /// The number of rows that arrived.
    rows: u32,
    until: Lsn,
    /// Whether the rows count. Otherwise they are read to their end.
    is_used: bool,
    /// The transactions to wait for, and the view that does not see them.
    waits: Option<(View, Vec<u64>)>,
}

/// The settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The conninfo of the stream.
    pub dsn: Option<String>,
    /// The publications of the stream.
    pub publications: Vec<String>,
    /// How long the read of a chunk should take.
    pub chunk_time: Duration,
    /// Whether all tables are read once, from the first stream of the slot on.
    pub is_automatic: bool,
    /// Whether tables that are published later are read too.
    pub new_tables: bool,
    /// Which tables these are; empty for all.
    pub tables: Vec<Pattern>,
}

impl Settings {
    /// What is to be read from the beginning, if nothing was stored for the slot yet. It is stored with the first position, so
    /// no crash can come between.
    #[must_use]
    pub fn at_first(&self) -> Option<Progress> {
        let texts = self.tables.iter().map(|pattern| pattern.text().to_owned());
        self.is_automatic.then(|| Progress::of(texts.collect()))
    }
}

/// The snapshots of a stream.
#[derive(Debug)]
pub(super) struct Incremental {
    job: Job,
    settings: Settings,
    slot: String,
    server: Server,
    server_version: i32,
    copy: Option<CopyOut>,
    stage: Stage,
    facts: Option<Facts>,
    /// Whether the server was in recovery when last asked.
    was_standby: bool,
    retry_at: Option<Instant>,
    /// When walcat looks for new tables; none if it does not.
    look_at: Option<Instant>,
    backoff: Backoff,
    waiting_since: Option<Instant>,
    told_at: Option<Instant>,
    splitter: Splitter,
    key: Vec<u8>,
    /// Whether something other than a delivered chunk has changed the progress.
    has_changed: bool,
    sent: Sent,
}

impl Incremental {
    /// Continues what is stored.
    pub fn new(
        settings: Settings,
        slot: String,
        server: Server,
        server_version: i32,
        stored: Option<Progress>,
    ) -> Self {
        let mut incremental = Incremental {
            job: Job::new(Progress::default(), settings.chunk_time),
            look_at: settings.new_tables.then(Instant::now),
            settings,
            slot,
            server,
            server_version,
            copy: None,
            stage: Stage::Idle,
            facts: None,
            was_standby: false,
            retry_at: None,
            backoff: Backoff::new(RETRY),
            waiting_since: None,
            told_at: None,
            splitter: Splitter::default(),
            key: Vec::new(),
            has_changed: false,
            sent: Sent::default(),
        };
        incremental.restart(stored.unwrap_or_default());
        incremental
    }

    /// What is to be read from the beginning, if nothing was stored for the slot yet.
    pub fn at_first(&self) -> Option<Progress> {
        self.settings.at_first()
    }

    /// Whether it is time to look for new tables.
    fn must_look(&self, now: Instant) -> bool {
        let is_time = |at: Instant| now >= at;
        matches!(self.stage, Stage::Idle) && !self.job.progress().is_paused && self.look_at.is_some_and(is_time)
    }

    /// Whether tables are being read.
    pub fn is_under_way(&self) -> bool {
        let progress = self.job.progress();
        !progress.is_paused && !progress.tables.is_empty()
    }

    /// Shows how far the snapshots are.
    pub fn show(&self, display: &Display, now: Instant) {
        self.sent.show(&self.slot, self.job.progress(), display, now);
    }

    /// Whether there is nothing to read or to emit.
    fn is_idle(&self) -> bool {
        self.job.progress().is_idle() && matches!(self.stage, Stage::Idle)
    }

    /// Whether rows of a chunk are being given to the sink: nothing of the stream may come between them.
    pub fn is_emitting(&self) -> bool {
        matches!(self.stage, Stage::Emitting { .. })
    }

    /// The stream comes from this server from now on.
    pub fn follow(&mut self, server: Server) {
        self.server = server;
    }

    /// A new stream begins. What was emitted stays in flight.
    pub fn reconnected(&mut self) {
        self.copy = None;
        self.facts = self.facts.take().filter(|_| self.is_emitting());
        if let Stage::Emitting { is_stale, .. } = &mut self.stage {
            *is_stale = true;
        } else {
            self.stage = Stage::Idle;
            self.job.reconnected();
        }
    }

    /// The stream begins again where this was stored: nothing in flight will be delivered.
    pub fn restart(&mut self, mut stored: Progress) {
        if !self.settings.new_tables {
            stored.known = None;
        }
        (self.copy, self.facts, self.stage) = (None, None, Stage::Idle);
        self.job.restart(stored);
    }

    /// The progress that is delivered.
    pub fn delivered(&self) -> &Progress {
        self.job.delivered()
    }

    /// The socket to wait for while the server works for a snapshot.
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        match self.stage {
            Stage::Idle | Stage::Held { .. } | Stage::Emitting { .. } => None,
            _ => self.copy.as_ref()?.socket(),
        }
    }

    /// The latest time of the next call of [`Incremental::poll`].
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.stage {
            Stage::Idle if self.job.progress().is_paused => None,
            Stage::Idle if self.is_idle() => self.look_at.map(|at| self.retry_at.map_or(at, |retry| retry.max(at))),
            Stage::Idle => Some(self.retry_at.unwrap_or(now)),
            Stage::Held { .. } | Stage::Emitting { .. } => None,
            _ => self.copy.as_ref()?.deadline(now),
        }
    }

    /// The stream is in this transaction, or between two, and has passed this position.
    pub fn stream_is_at(&mut self, xid: Option<u32>, passed: Lsn) {
        self.job.stream_is_at(xid, passed);
    }

    /// The stream emits a change.
    pub fn touched(&mut self, change: &Change<'_>, xid: Option<u32>, relation: &Relation) {
        if let Operation::Truncate = change.operation {
            if let Some(ended) = self.job.end_table(relation.oid) {
                self.has_changed = true;
                let (slot, schema, table) = (self.slot.as_str(), ended.schema.as_str(), ended.table.as_str());
                info!(slot, schema, table, rows = ended.rows;
                    "the table was truncated: its snapshot has ended, and the stream has every row since");
            }
            return;
        }
        let (Some(xid), Some(facts)) = (xid, &self.facts) else { return };
        if self.job.watched() != Some(relation.oid) {
            return;
        }
        let place = |name: &String| relation.columns.iter().position(|column| column.name == *name);
        let Some(columns) = facts.names.iter().map(place).collect::<Option<Vec<_>>>() else {
            self.job.touched(xid, Touched::Unknown);
            return;
        };
        let (old, new) = match change.operation {
            Operation::Insert { new } => (None, Some(new)),
            Operation::Update { old, new } => (old, Some(new)),
            Operation::Delete { old } => (Some(old), None),
            Operation::Truncate | Operation::Read { .. } | Operation::Message { .. } => return,
        };
        let (old_row, is_full) = match old {
            Some(OldRow::Key(row)) => (Some(row), false),
            Some(OldRow::Full(row)) => (Some(row), true),
            None => (None, false),
        };
        let is_whole = is_full || new.is_none_or(|row| !row.cells().any(|cell| matches!(cell, Cell::UnchangedToast)));
        for (row, other) in [(old_row, None), (new, old_row)] {
            let Some(row) = row else { continue };
            let touched = match key::encode(&mut self.key, &columns, row, other) {
                true => Touched::Key { key: &self.key, is_whole },
                false => Touched::Unknown,
            };
            self.job.touched(xid, touched);
        }
    }

    /// Reads on. Returns whether there is more to read at once.
    pub fn poll(&mut self, relations: &mut Relations, encoder: &mut Encoder, now: Instant) -> bool {
        if self.is_idle() && !self.must_look(now) {
            // A look soon follows, so its connection stays.
            self.copy = self.copy.take().filter(|_| self.look_at.is_some());
            return false;
        }
        for _ in 0..ROWS_PER_TURN_MAX {
            let advanced = match self.stage {
                Stage::Held { .. } => {
                    self.let_go();
                    if matches!(self.stage, Stage::Held { .. }) {
                        return false;
                    }
                    Ok(true)
                }
                Stage::Emitting { .. } => return false,
                Stage::Idle => self.begin(now),
                _ => self.receive(relations, encoder, now),
            };
            match advanced {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    self.failed(&error, now);
                    return false;
                }
            }
        }
        true
    }

    /// Gives up a chunk that has to be read again, or whose table is no longer read.
    fn let_go(&mut self) {
        if self.job.is_useless() {
            debug!(slot = self.slot.as_str(), why:? = self.job.close(); "the chunk is read again");
        }
        if self.job.watched().is_none() {
            self.stage = Stage::Idle;
        }
    }

    /// Begins what is next. Returns whether something has begun.
    fn begin(&mut self, now: Instant) -> Result<bool, pg::Error> {
        let progress = self.job.progress();
        if progress.is_paused || self.retry_at.is_some_and(|at| now < at) {
            return Ok(false);
        }
        self.retry_at = None;
        let next = progress.tables.first().map(|table| table.oid);
        let is_known = |facts: &Facts| Some(facts.table.relation.oid) == next;
        let must_list = match next {
            _ if !progress.patterns.is_empty() => true,
            Some(_) => !self.facts.as_ref().is_some_and(is_known),
            None => self.must_look(now),
        };
        if must_list {
            let list = tables::list_command(&self.settings.publications, self.server_version);
            self.start(&sql::list(next.unwrap_or_default(), &list))?;
            self.stage = Stage::Listing { first: None, tables: Vec::new() };
            return Ok(true);
        }
        let (Some(facts), Some(reading)) = (&self.facts, self.job.open()) else { return Ok(false) };
        if !reading.table.key.is_empty() && reading.table.key != facts.names {
            warn!(slot = self.slot.as_str(), schema = reading.table.schema.as_str(), table = reading.table.table.as_str();
                "the key of the table has changed: its snapshot begins again");
            let oid = reading.table.oid;
            self.job.request(|progress| progress.begin_again(oid));
            return Ok(true);
        }
        self.sent.begin(now);
        let command = sql::chunk(&facts.table, &facts.names, &reading.table.after, reading.rows_max);
        self.start(&command)?;
        self.stage = Stage::Reading(Reading {
            began: now,
            seen: None,
            is_past_view: false,
            is_past_rows: false,
            rows: 0,
            until: Lsn::INVALID,
            is_used: true,
            waits: None,
        });
        Ok(true)
    }

    fn start(&mut self, command: &str) -> Result<(), pg::Error> {
        let copy = match &mut self.copy {
            Some(copy) => copy,
            None => self.copy.insert(CopyOut::connect(NAME, self.settings.dsn.as_deref(), &self.server)?),
        };
        copy.start(command)
    }

    /// Takes one thing from the connection. Returns false if nothing has arrived.
    fn receive(&mut self, relations: &mut Relations, encoder: &mut Encoder, now: Instant) -> Result<bool, pg::Error> {
        let Some(copy) = &mut self.copy else { return Ok(false) };
        let copied = copy.receive()?;
        match copied {
            Copied::Pending => return Ok(false),
            Copied::Row(row) => self.row(&row)?,
            Copied::EndOfCopy => {
                if let Stage::Reading(reading) = &mut self.stage {
                    (reading.is_past_rows, reading.is_past_view) = (reading.is_past_view, true);
                }
            }
            Copied::End => self.end(relations, encoder, now)?,
        }
        Ok(true)
    }

    fn row(&mut self, row: &CopyData) -> Result<(), pg::Error> {
        match &mut self.stage {
            Stage::Listing { first: first @ None, .. } => *first = Some(tables::json_cell(row)?),
            Stage::Listing { tables, .. } => tables.push(tables::listed(row)?),
            Stage::Answering { table, .. } => table.answer = tables::answered(row)?,
            Stage::Asking { view, waited_for } => {
                let holders: Holders = tables::json_cell(row)?;
                self.job.are_open(view, &holders.idle);
                let waited_for = std::mem::take(waited_for);
                let view = view.clone();
                self.tell_waiting(&view, &waited_for, &holders);
            }
            Stage::Reading(Reading { seen: None, .. }) => self.take_view(tables::json_cell(row)?)?,
            Stage::Reading(reading) if reading.is_past_rows => {
                let after: After = tables::json_cell(row)?;
                reading.until = reading.until.max(after.lsn.unwrap_or(Lsn::INVALID));
                // A standby was promoted during the read.
                self.was_standby = after.is_standby;
            }
            Stage::Reading(reading) => {
                reading.rows += 1;
                let (Some(facts), Some(chunk), true) = (&self.facts, self.job.reading(), reading.is_used) else {
                    return Ok(());
                };
                let answer = |reason: String| pg::Error::Answer { command: NAME, reason };
                let columns = facts.table.relation.columns.len();
                let cells = self.splitter.split(row, columns).map_err(|error| answer(error.to_string()))?;
                if !key::encode(&mut self.key, &facts.key, crate::change::Row::Copy(cells), None) {
                    return Err(answer("a key column is null".to_owned()));
                }
                chunk.chunk_mut().row(&self.key, row);
            }
            Stage::Idle | Stage::Held { .. } | Stage::Emitting { .. } => {}
        }
        Ok(())
    }

    /// Judges the view of a chunk.
    fn take_view(&mut self, seen: Seen) -> Result<(), pg::Error> {
        let view = seen.view()?;
        let next_xid = seen.next_xid(&view);
        let Stage::Reading(reading) = &mut self.stage else { return Ok(()) };
        reading.until = seen.until();
        let is_same = self
            .facts
            .as_ref()
            .is_some_and(|facts| Some(facts.table.relation.oid) == seen.oid && facts.definition == seen.definition);
        // A view that was taken during recovery lists nothing, and it may have ended since.
        let is_promoted = self.was_standby && !seen.is_standby;
        self.was_standby = seen.is_standby;
        if !is_same || is_promoted {
            debug!(slot = self.slot.as_str(); "the table has changed since it was looked up");
            self.facts = self.facts.take().filter(|_| is_same);
            self.job.close();
            reading.is_used = false;
        } else if self.job.watched().is_none() {
            reading.is_used = false;
        } else if let Some(end) =
            self.job.reading().and_then(|one| one.table.waits_for).filter(|end| view.xmin() < *end)
        {
            self.job.close();
            reading.is_used = false;
            reading.waits = Some((view.clone(), view.unseen_before(end).collect()));
        } else if let Verdict::Wait(xids) = self.job.view(view.clone(), next_xid) {
            reading.is_used = false;
            reading.waits = Some((view, xids));
        }
        reading.seen = Some(seen);
        Ok(())
    }

    /// A command has ended.
    fn end(&mut self, relations: &mut Relations, encoder: &mut Encoder, now: Instant) -> Result<(), pg::Error> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Listing { first, tables } => self.listed(first, tables)?,
            Stage::Answering { table, definition } => self.answered(*table, definition, relations, encoder),
            Stage::Asking { .. } => {
                self.retry_later(now);
            }
            Stage::Reading(reading) => self.read(reading, now)?,
            stage => self.stage = stage,
        }
        Ok(())
    }

    /// The list of the published tables is complete.
    fn listed(&mut self, first: Option<Listing>, tables: Vec<Table>) -> Result<(), pg::Error> {
        self.resolve(&tables);
        self.sent.listed(&tables);
        if let Some(first) = &first {
            self.find_new(&tables, first.next_xid()?);
        }
        self.look_at = self.look_at.map(|_| Instant::now() + LOOK_INTERVAL);
        let Some(next) = self.job.progress().tables.first().cloned() else { return Ok(()) };
        let Some(table) = tables.into_iter().find(|table| table.relation.oid == next.oid) else {
            self.end_table(next.oid, "it was dropped, or is no longer published");
            return Ok(());
        };
        if (table.relation.namespace.as_str(), table.relation.name.as_str()) != (&next.schema, &next.table) {
            self.end_table(next.oid, "it was renamed");
            return Ok(());
        }
        let Some(Listing { definition, is_standby, .. }) = first else { return Ok(()) };
        self.was_standby = is_standby;
        self.start(&tables::answer_command(&table.relation))?;
        self.stage = Stage::Answering { table: Box::new(table), definition };
        Ok(())
    }

    /// The catalog has answered about the next table.
    fn answered(&mut self, table: Table, definition: Option<String>, relations: &mut Relations, encoder: &mut Encoder) {
        let oid = table.relation.oid;
        let key = match encoder.key_columns(&table.relation, &table.answer) {
            Ok(key) if key.is_empty() => return self.has_no_key(oid),
            Ok(key) => key,
            Err(error) => return self.end_table(oid, &error.to_string()),
        };
        let names = key.iter().map(|place| table.relation.columns[*place].name.clone()).collect();
        let index = relations.add(table.relation.clone(), table.answer.clone());
        self.facts = Some(Facts { table, index, key, names, definition });
    }

    /// A chunk's rows were read.
    fn read(&mut self, reading: Reading, now: Instant) -> Result<(), pg::Error> {
        if let Some((view, waited_for)) = reading.waits {
            self.start(sql::HOLDERS)?;
            self.stage = Stage::Asking { view, waited_for };
            return Ok(());
        }
        let (Some(seen), Some(chunk), true) = (reading.seen, self.job.reading(), reading.is_used) else {
            return Ok(());
        };
        chunk.complete(reading.rows, reading.until);
        self.job.took(now.saturating_duration_since(reading.began));
        (self.waiting_since, self.told_at) = (None, None);
        self.backoff.succeeded();
        self.stage = Stage::Held { time_us: seen.time_us };
        Ok(())
    }

    /// Returns the delay.
    fn retry_later(&mut self, now: Instant) -> Duration {
        let delay = self.backoff.failed(now, 1.0).expect("the retries have no budget");
        self.retry_at = Some(now + delay);
        delay
    }

    /// Logs that a chunk waits for transactions, and whose they are.
    fn tell_waiting(&mut self, view: &View, waited_for: &[u64], holders: &Holders) {
        let now = Instant::now();
        let since = *self.waiting_since.get_or_insert(now);
        if now < self.told_at.unwrap_or(since) + NOTICE_INTERVAL {
            return;
        }
        self.told_at = Some(now);
        let is_waited_for = |xid: &&(u32, i32)| waited_for.contains(&view.widen(xid.0));
        let pids: Vec<String> = holders.sessions.iter().filter(is_waited_for).map(|(_, pid)| pid.to_string()).collect();
        let (slot, waited_s) = (self.slot.as_str(), now.saturating_duration_since(since).as_secs());
        let xids: Vec<String> = waited_for.iter().map(u64::to_string).collect();
        warn!(slot, waited_s, xids = xids.join(","), pids = pids.join(",");
            "the snapshot waits for transactions that are open, or are committed and not visible yet (synchronous \
             replication may be waiting for a standby)");
    }

    /// Ends the snapshot of a table that cannot be read; the stream goes on.
    fn end_table(&mut self, oid: u32, why: &str) {
        let Some(ended) = self.job.end_table(oid) else { return };
        self.has_changed = true;
        self.facts = None;
        let (slot, schema, table) = (self.slot.as_str(), ended.schema.as_str(), ended.table.as_str());
        warn!(slot, schema, table, rows = ended.rows, reason = why;
            "the snapshot of the table has ended before its end; the stream continues");
    }

    /// A table of an initial snapshot stays on record, and the run ends.
    fn has_no_key(&mut self, oid: u32) {
        let mut is_initial = false;
        self.job.request(|progress| is_initial = progress.set_aside(oid));
        if is_initial {
            self.has_changed = true;
        } else {
            self.end_table(oid, "it has no key");
        }
    }

    /// Tables without a key that an initial snapshot still has to send.
    fn keyless(&self) -> Option<String> {
        let names = self.job.delivered().keyless.iter().map(|table| format!("{}.{}", table.schema, table.table));
        Some(names.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty())
    }

    /// Logs what an earlier run has left to read.
    pub fn tell_what_is_left(&self) {
        let progress = self.job.progress();
        if progress.is_idle() {
            return;
        }
        let tables = progress.tables.iter().map(|table| format!("{}.{}", table.schema, table.table));
        let tables: Vec<_> = tables.chain(progress.patterns.iter().cloned()).collect();
        let (slot, rows) = (self.slot.as_str(), progress.tables.iter().map(|table| table.rows).sum::<u64>());
        info!(slot, tables = tables.join(","), rows_before = rows;
            "a snapshot is not finished: what is left is read in chunks beside the stream");
    }

    /// The connection has failed, or a command on it.
    fn failed(&mut self, error: &pg::Error, now: Instant) {
        let oid = self.job.progress().tables.first().map(|table| table.oid);
        let is_reading = matches!(self.stage, Stage::Reading(_));
        (self.copy, self.stage) = (None, Stage::Idle);
        self.job.close();
        self.facts = None;
        // What is gone shows in the list of the tables.
        let is_gone = matches!(error.sqlstate(), Some(sqlstate::UNDEFINED_TABLE | sqlstate::UNDEFINED_COLUMN));
        match oid {
            Some(oid) if is_reading && !is_gone && !error.is_transient() => self.end_table(oid, &error.to_string()),
            _ => {
                let retry_in_ms = u64::try_from(self.retry_later(now).as_millis()).unwrap_or(u64::MAX);
                let slot = self.slot.as_str();
                if is_gone {
                    debug!(slot, error:% = error; "the table has changed since it was looked up");
                } else {
                    warn!(slot, error:% = error, retry_in_ms; "cannot read for the snapshot; the stream continues");
                }
            }
        }
    }
}
