//! Gives the rows of a chunk to the sink, and keeps the progress with the position.

use std::time::Instant;

use log::{debug, info, warn};

use super::{Incremental, Stage};
use crate::change::{Change, Marker, Operation, Position, Row};
use crate::clock::{PgTimestamp, unix_now_ns};
use crate::position::Disagreement;
use crate::pump::store::Store;
use crate::pump::{Error, Feed, Output, Pump, reading};
use crate::session::Sealed;
use crate::sink;
use crate::snapshot::Progress;

/// The rows that are emitted before everything else has its turn.
const ROWS_PER_TURN_MAX: u32 = 1_000;

/// How often a reply is requested while a chunk waits for the stream: a chunk of an idle server waits for one.
const ASK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(20);

impl Pump {
    /// Reads chunks, emits the one that is ready, and keeps the progress. Returns whether there is more to do at once.
    /// `has_read_all` says whether the stream has nothing more to read now.
    pub(in crate::pump) fn serve_snapshot(&mut self, has_read_all: bool, now: Instant) -> Result<bool, Error> {
        let Some(incremental) = &mut self.incremental else { return Ok(false) };
        self.session.feedback().ask_every(None);
        let has_nothing = incremental.is_idle() && !incremental.has_changed && !incremental.job.has_in_flight();
        if has_nothing && !incremental.must_look(now) {
            return Ok(false);
        }
        let is_reading = self.stage.is_reading();
        let mut is_busy = false;
        if is_reading {
            is_busy = incremental.poll(self.session.relations(), self.output.encoder(), now);
        }
        if is_reading || incremental.is_emitting() {
            is_busy |= self.emit_chunk(now)?;
        }
        let Some(incremental) = &mut self.incremental else { return Ok(false) };
        let ring = self.session.ring();
        let has_moved = incremental.job.settle(|ticket| ring.position(ticket).is_some());
        if has_moved || std::mem::take(&mut incremental.has_changed) {
            self.keep_snapshot();
        }
        if let Some(tables) = self.incremental.as_ref().and_then(Incremental::keyless) {
            let store = "the stored progress".to_owned();
            return Err(Disagreement::Keyless { store, slot: self.report.slot().to_owned(), tables }.into());
        }
        if has_read_all {
            self.ask_for_position();
        }
        Ok(is_busy)
    }

    /// Requests a keepalive if a chunk waits for the stream to pass its position.
    fn ask_for_position(&mut self) {
        let Some(incremental) = &mut self.incremental else { return };
        let (Stage::Held { .. }, Feed::Streaming(_)) = (&incremental.stage, &self.feed) else { return };
        let until = incremental.job.reading().and_then(|reading| reading.chunk().held_until());
        if until.is_some_and(|until| self.session.passed() < until) {
            self.session.feedback().ask_every(Some(ASK_INTERVAL));
        }
    }

    /// Keeps the progress with each position from now on.
    pub(in crate::pump) fn keep_snapshot(&mut self) {
        let Some(incremental) = &self.incremental else { return };
        self.identity.snapshot = Some(incremental.job.delivered().clone()).filter(|kept| *kept != Progress::default());
        let emitted = Some(incremental.job.progress().clone()).filter(|kept| *kept != Progress::default());
        Store::of(&mut self.state_file, &mut self.output).keep_snapshot(emitted);
    }

    /// Emits rows of the chunk that is ready. Returns whether more can be emitted at once.
    fn emit_chunk(&mut self, now: Instant) -> Result<bool, Error> {
        let (Some(incremental), Output::Records(sink)) = (&mut self.incremental, &mut self.output) else {
            return Ok(false);
        };
        if let Stage::Held { time_us } = incremental.stage {
            if !incremental.job.is_ready() || !sink.has_room(now) {
                return Ok(false);
            }
            let Some(until) = incremental.job.reading().and_then(|reading| reading.chunk().held_until()) else {
                return Ok(false);
            };
            let Some(facts) = &incremental.facts else { return Ok(false) };
            let prepared = reading::prepare(sink, self.session.relations(), facts.index, &self.report);
            if let Err(Error::Sink(error @ sink::Error::Prepare(_))) = &prepared {
                let (oid, why) = (facts.table.relation.oid, error.to_string());
                incremental.end_table(oid, &why);
                incremental.stage = Stage::Idle;
                incremental.has_changed = true;
                return Ok(true);
            }
            prepared?;
            let Some(ticket) = self.session.open_chunk() else { return Ok(false) };
            incremental.stage = Stage::Emitting { ticket, row: 0, until, time_us, is_stale: false };
        }
        let Incremental { stage, job, facts, splitter, .. } = incremental;
        let Stage::Emitting { ticket, row, until, time_us, .. } = stage else { return Ok(false) };
        let (Some(facts), Some(chunk)) = (facts, job.reading()) else { return Ok(false) };
        let columns = facts.table.relation.columns.len();
        let count = chunk.chunk().row_count();
        for _ in 0..ROWS_PER_TURN_MAX {
            if *row == count {
                break;
            }
            if !sink.has_room(now) {
                return Ok(false);
            }
            if let Some(bytes) = chunk.chunk().bytes_of(*row) {
                let cells = splitter.split(bytes, columns).expect("a row that was split before");
                let position = Position {
                    lsn: *until,
                    transaction: None,
                    commit_time: PgTimestamp::from_unix_us(*time_us),
                    total_order: 1,
                    data_collection_order: 1,
                    processed_unix_ns: unix_now_ns(),
                };
                let operation = Operation::Read { new: Row::Copy(cells), marker: Marker::Incremental };
                let change = Change { relation: Some(facts.index), operation, position };
                let taken = sink.take(&change, *ticket, now)?;
                self.session.emitted_row(*ticket, taken.records)?;
            }
            *row += 1;
        }
        if *row < count {
            return Ok(true);
        }
        self.end_chunk()
    }

    /// All rows of a chunk are taken.
    fn end_chunk(&mut self) -> Result<bool, Error> {
        let (Some(incremental), Output::Records(sink)) = (&mut self.incremental, &mut self.output) else {
            return Ok(false);
        };
        let Stage::Emitting { ticket, is_stale, .. } = std::mem::replace(&mut incremental.stage, Stage::Idle) else {
            return Ok(false);
        };
        let Some(facts) = &incremental.facts else { return Ok(false) };
        let names = facts.names.clone();
        let reading = incremental.job.emitted(ticket, &names);
        let (chunk, table) = (reading.chunk(), &reading.table);
        let (slot, rows) = (incremental.slot.as_str(), chunk.row_count() as u64);
        debug!(slot, rows, dropped = chunk.dropped(); "chunk emitted");
        incremental.sent.chunk(rows, reading.is_last());
        if reading.is_last() {
            let (schema, name, rows) = (table.schema.as_str(), table.table.as_str(), table.rows + rows);
            info!(slot, schema, table = name, rows; "the snapshot of the table is complete");
            if incremental.job.progress().is_idle() {
                incremental.sent.end(slot);
            }
        }
        if is_stale {
            incremental.facts = None;
            incremental.job.reconnected();
        }
        let has_rows = rows > chunk.dropped();
        let end_lsn = self.session.resume_lsn();
        // The progress joins the Kafka transaction of its rows.
        let progress = Some(incremental.job.progress().clone());
        if let Some(transactions) = sink.transactions() {
            transactions.keep_snapshot(progress);
        }
        if has_rows {
            sink.seal(Sealed { commit_lsn: end_lsn, end_lsn, xid: 0 });
        }
        self.session.seal_chunk(ticket)?;
        Ok(true)
    }

    /// Obeys a request for a snapshot.
    pub(in crate::pump) fn handle_request(&mut self, at: crate::snapshot::progress::RequestAt, content: &[u8]) {
        let keeps_progress = Store::of(&mut self.state_file, &mut self.output).keeps_progress();
        let Some(incremental) = &mut self.incremental else {
            warn!(slot = self.report.slot(); "a snapshot was requested, and this run makes none");
            return;
        };
        if incremental.request(at, content, keeps_progress) {
            self.keep_snapshot();
        }
    }
}
