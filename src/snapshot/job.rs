//! The snapshots of a stream: what to read next, the chunk under way, and what may be stored.

use std::collections::VecDeque;
use std::time::Duration;

use super::chunk::{Chunk, Touched, Useless};
use super::key;
use super::progress::{Advance, Progress, RequestAt, TableProgress};
use super::size::Size;
use super::tracking::{Tracking, Verdict};
use super::view::View;
use crate::change::Ticket;
use crate::lsn::Lsn;

/// The chunk that is being read, or is held.
#[derive(Debug)]
pub struct Reading {
    /// Its table, and the key after which it begins.
    pub table: TableProgress,
    /// The most rows that the read returns.
    pub rows_max: u32,
    chunk: Chunk,
    /// Whether the read found no more rows.
    is_last: bool,
}

impl Reading {
    /// The chunk.
    #[must_use]
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// The chunk, to add rows.
    pub fn chunk_mut(&mut self) -> &mut Chunk {
        &mut self.chunk
    }

    /// The read is complete. It returned `rows` rows, and its view sees nothing that committed after `until`.
    pub fn complete(&mut self, rows: u32, until: Lsn) {
        self.is_last = rows < self.rows_max && !self.chunk.is_full();
        self.chunk.hold(until);
    }
}

/// The snapshots of a stream.
#[derive(Debug)]
pub struct Job {
    /// Including every chunk that was emitted.
    progress: Progress,
    /// Including only chunks that are delivered.
    delivered: Progress,
    in_flight: VecDeque<(Ticket, Advance)>,
    tracking: Option<Tracking>,
    reading: Option<Reading>,
    size: Size,
    /// The transaction that the stream is emitting.
    xid: Option<u32>,
    /// The stream has emitted everything that committed before this position.
    passed: Lsn,
}

impl Job {
    /// Continues from what is stored. Chunks take `chunk_time`.
    #[must_use]
    pub fn new(stored: Progress, chunk_time: Duration) -> Self {
        let delivered = stored.clone();
        let in_flight = VecDeque::new();
        let (tracking, reading, size) = (None, None, Size::new(chunk_time));
        Job { progress: stored, delivered, in_flight, tracking, reading, size, xid: None, passed: Lsn::INVALID }
    }

    /// Continues from what is stored: nothing in flight will be delivered.
    pub fn restart(&mut self, stored: Progress) {
        self.delivered = stored.clone();
        self.progress = stored;
        self.in_flight.clear();
        self.reconnected();
    }

    /// A new stream begins: the open chunk is read again. What was emitted stays emitted.
    pub fn reconnected(&mut self) {
        self.reading = None;
        self.tracking = None;
        self.xid = None;
        self.passed = Lsn::INVALID;
    }

    /// The progress including every chunk that was emitted.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The progress including only chunks that are delivered.
    #[must_use]
    pub fn delivered(&self) -> &Progress {
        &self.delivered
    }

    /// Changes what was requested. That is part of every progress stored from now on.
    pub fn request(&mut self, change: impl FnOnce(&mut Progress)) {
        let before = self.progress.tables.clone();
        change(&mut self.progress);
        let Progress { last_request, is_paused, ref patterns, ref tables, ref known, is_initial: _, ref keyless } =
            self.progress;
        (self.delivered.last_request, self.delivered.is_paused) = (last_request, is_paused);
        self.delivered.patterns.clone_from(patterns);
        self.delivered.known.clone_from(known);
        self.delivered.keyless.clone_from(keyless);
        // What is delivered may lag behind a table's last chunk: only what has changed is changed there.
        for gone in before.iter().filter(|table| !tables.contains(table)) {
            self.delivered.tables.retain(|table| (table.oid, table.request) != (gone.oid, gone.request));
            self.in_flight.retain(|(_, advance)| (advance.oid, advance.request) != (gone.oid, gone.request));
        }
        for new in tables.iter().filter(|table| !before.contains(table)) {
            self.delivered.end(new.oid);
            self.delivered.tables.push(new.clone());
        }
        let goes_on = |reading: &Reading| {
            let of = |table: &&TableProgress| table.oid == reading.table.oid && table.request == reading.table.request;
            !self.progress.is_paused
                && self.progress.tables.iter().find(of).is_some_and(|table| *table == reading.table)
        };
        self.reading = self.reading.take().filter(goes_on);
        if self.progress.is_idle() {
            self.tracking = None;
        }
    }

    /// Whether the request at this position is already included.
    #[must_use]
    pub fn includes(&self, request: RequestAt) -> bool {
        request <= self.progress.last_request
    }

    /// The stream is in this transaction, or between two. It has emitted everything that committed before `passed`. Call it
    /// before each change.
    pub fn stream_is_at(&mut self, xid: Option<u32>, passed: Lsn) {
        self.passed = passed;
        if let (Some(new), Some(tracking)) = (xid, &mut self.tracking)
            && self.xid != xid
        {
            tracking.begin(new);
        }
        self.xid = xid;
    }

    /// The table of the open chunk.
    #[must_use]
    pub fn watched(&self) -> Option<u32> {
        self.reading.as_ref().map(|reading| reading.table.oid)
    }

    /// The stream emits a change of the watched table.
    pub fn touched(&mut self, xid: u32, touched: Touched<'_>) {
        if let Some(reading) = &mut self.reading {
            reading.chunk.touched(xid, touched);
        }
    }

    /// The stream emits a TRUNCATE, or the table is gone: every later row is in the stream. Returns the table if its snapshot
    /// was under way.
    pub fn end_table(&mut self, oid: u32) -> Option<TableProgress> {
        let ended = self.progress.tables.iter().find(|table| table.oid == oid).cloned();
        self.request(|progress| drop(progress.end(oid)));
        self.size.begin();
        ended
    }

    /// Whether a table is to be read and no chunk is open.
    #[must_use]
    pub fn wants_chunk(&self) -> bool {
        !self.progress.is_paused && self.reading.is_none() && !self.progress.tables.is_empty()
    }

    /// Opens the next chunk before its read begins.
    pub fn open(&mut self) -> Option<&mut Reading> {
        if !self.wants_chunk() {
            return None;
        }
        let tracking = self.tracking.get_or_insert_default();
        if let Some(xid) = self.xid {
            tracking.begin(xid);
        }
        tracking.open_chunk();
        let table = self.progress.tables.first()?.clone();
        let rows_max = self.size.rows();
        Some(self.reading.insert(Reading { table, rows_max, chunk: Chunk::open(), is_last: false }))
    }

    /// The chunk that is being read, or is held.
    pub fn reading(&mut self) -> Option<&mut Reading> {
        self.reading.as_mut()
    }

    /// The open chunk's read has taken its view. If it has to wait, the chunk is closed.
    pub fn view(&mut self, view: View, next_xid: u64) -> Verdict {
        let (Some(tracking), Some(reading)) = (&mut self.tracking, &mut self.reading) else {
            return Verdict::Wait(Vec::new());
        };
        let verdict = tracking.judge(&view, next_xid);
        match verdict {
            Verdict::Read => reading.chunk.begin(view),
            Verdict::Wait(_) => self.reading = None,
        }
        verdict
    }

    /// These transactions are not committed now.
    pub fn are_open(&mut self, view: &View, xids: &[u32]) {
        if let Some(tracking) = &mut self.tracking {
            tracking.are_open(view, xids);
        }
    }

    /// Closes the open chunk, which is read again. Returns why, if concurrent changes are the reason.
    pub fn close(&mut self) -> Option<Useless> {
        let useless = self.reading.take()?.chunk.useless();
        if useless.is_some() {
            self.size.was_useless();
        }
        useless
    }

    /// Whether the open chunk has to be read again.
    #[must_use]
    pub fn is_useless(&self) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.chunk.useless().is_some())
    }

    /// The time that a read took, for the size of the next chunk.
    pub fn took(&mut self, took: Duration) {
        let Some(reading) = &self.reading else { return };
        let chunk = &reading.chunk;
        match (chunk.is_full(), reading.is_last) {
            (true, _) => self.size.fits(chunk.row_count()),
            (false, false) => self.size.took(chunk.row_count(), took),
            // A table's rest says nothing about the rate.
            (false, true) => {}
        }
    }

    /// Whether the chunk can be emitted now: the stream is between two transactions and has passed the chunk's position.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.xid.is_none() && self.reading.as_ref().is_some_and(|reading| reading.chunk.is_ready(self.passed))
    }

    /// The chunk was emitted under this ticket.
    ///
    /// # Panics
    /// If there is no chunk.
    pub fn emitted(&mut self, ticket: Ticket, key: &[String]) -> Reading {
        let reading = self.reading.take().expect("a chunk that was emitted");
        let texts = key::texts(reading.chunk.last_key()).unwrap_or_default();
        let advance = Advance {
            oid: reading.table.oid,
            request: reading.table.request,
            key: key.to_vec(),
            after: texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
            rows: reading.chunk.row_count() as u64,
            is_last: reading.is_last,
        };
        self.progress.advance(&advance);
        self.in_flight.push_back((ticket, advance));
        if reading.is_last {
            self.size.begin();
        }
        if self.progress.is_idle() {
            self.tracking = None;
        }
        reading
    }

    /// Whether a chunk that was emitted is not known to be delivered.
    #[must_use]
    pub fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Moves what may be stored past the chunks that are delivered: their entries, and all before them, are not in flight.
    /// Returns whether it has moved.
    pub fn settle(&mut self, is_in_flight: impl Fn(Ticket) -> bool) -> bool {
        let mut has_moved = false;
        while let Some((ticket, advance)) = self.in_flight.front()
            && !is_in_flight(*ticket)
        {
            self.delivered.advance(advance);
            self.in_flight.pop_front();
            has_moved = true;
        }
        has_moved
    }
}

impl Reading {
    /// Whether it was the table's last chunk.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.is_last
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::table;
    use super::*;

    fn job(tables: &[u32]) -> Job {
        let tables = tables.iter().map(|oid| table(*oid, 5)).collect();
        Job::new(Progress { tables, ..Progress::default() }, Duration::from_millis(200))
    }

    fn view() -> View {
        View::parse("100:100:", false).unwrap()
    }

    /// Reads a chunk with these keys, up to a position that the stream has passed.
    fn read(job: &mut Job, keys: &[&str], is_last: bool) {
        job.stream_is_at(None, Lsn(60));
        job.open().expect("a chunk");
        assert_eq!(job.view(view(), 100), Verdict::Read);
        let reading = job.reading().unwrap();
        for text in keys {
            let mut bytes = Vec::new();
            key::push(&mut bytes, text.as_bytes());
            reading.chunk_mut().row(&bytes, b"row");
        }
        let count = if is_last { 0 } else { reading.rows_max };
        reading.complete(count, Lsn(50));
    }

    fn after(progress: &Progress) -> Vec<(u32, String)> {
        progress.tables.iter().map(|table| (table.oid, table.after.join(","))).collect()
    }

    #[test]
    fn what_is_stored_has_only_the_chunks_that_are_delivered_with_all_before_them() {
        let mut job = job(&[1]);
        let key = ["id".to_owned()];
        read(&mut job, &["1", "2"], false);
        job.emitted(Ticket(4), &key);
        read(&mut job, &["3"], false);
        job.emitted(Ticket(6), &key);
        assert_eq!(after(job.progress()), [(1, "3".to_owned())]);
        assert_eq!(after(job.delivered()), [(1, String::new())]);
        assert!(!job.settle(|_| true));
        assert!(!job.settle(|ticket| ticket == Ticket(4)), "a later chunk cannot be delivered before an earlier one");
        assert!(job.settle(|ticket| ticket == Ticket(6)));
        assert_eq!(after(job.delivered()), [(1, "2".to_owned())]);
        assert_eq!(job.delivered().tables[0].rows, 2);
        assert!(job.settle(|_| false));
        assert_eq!(after(job.delivered()), [(1, "3".to_owned())]);
    }

    #[test]
    fn a_new_stream_reads_the_open_chunk_again_and_a_restart_everything_that_is_not_stored() {
        let mut job = job(&[1, 2]);
        let stored = job.delivered().clone();
        read(&mut job, &["1"], false);
        job.emitted(Ticket(1), &["id".to_owned()]);
        read(&mut job, &["2"], true);
        job.reconnected();
        assert!(job.wants_chunk() && !job.is_ready());
        assert_eq!(job.open().unwrap().table.after, ["1"]);
        job.restart(stored);
        assert_eq!(job.open().unwrap().table.after, [""; 0]);
        assert!(!job.settle(|_| false), "what was in flight is discarded");
    }

    #[test]
    fn a_chunk_is_emitted_between_two_transactions_after_its_position() {
        let mut job = job(&[1]);
        read(&mut job, &["1"], false);
        for (xid, passed, is_ready) in [(None, 49, false), (Some(7), 50, false), (None, 50, true)] {
            job.stream_is_at(xid, Lsn(passed));
            assert_eq!(job.is_ready(), is_ready, "{xid:?} at {passed}");
        }
    }

    #[test]
    fn a_truncate_ends_the_table_and_the_next_one_follows() {
        let mut job = job(&[1, 2]);
        read(&mut job, &["1"], false);
        assert_eq!(job.end_table(1).map(|table| table.oid), Some(1));
        assert_eq!(job.end_table(1), None);
        assert!(!job.is_ready(), "its rows are older than the TRUNCATE");
        assert_eq!(job.open().unwrap().table.oid, 2);
        assert_eq!(after(job.delivered()), [(2, String::new())]);
    }

    #[test]
    fn a_pause_closes_the_chunk_and_keeps_the_rest() {
        let mut job = job(&[1]);
        read(&mut job, &["1"], false);
        job.request(|progress| progress.is_paused = true);
        assert!(!job.is_ready() && !job.wants_chunk() && job.open().is_none());
        job.request(|progress| progress.is_paused = false);
        assert!(job.wants_chunk());
        // Another request leaves it open.
        read(&mut job, &["1"], false);
        job.request(|progress| progress.patterns.push("x".to_owned()));
        assert!(job.is_ready());
    }

    #[test]
    fn a_table_that_is_requested_again_while_its_last_chunk_is_in_flight_is_read_again() {
        let mut job = job(&[1]);
        read(&mut job, &["1"], true);
        job.emitted(Ticket(1), &["id".to_owned()]);
        job.request(|progress| progress.tables.push(table(1, 6)));
        assert_eq!(job.delivered(), job.progress());
        job.settle(|_| false);
        assert_eq!(job.delivered(), job.progress(), "the last chunk of the first request ends the second one");
        read(&mut job, &["1"], true);
        job.emitted(Ticket(2), &["id".to_owned()]);
        job.settle(|_| false);
        assert!(job.delivered().is_idle());
    }

    #[test]
    fn a_table_that_begins_again_forgets_its_chunks_in_flight() {
        let mut job = job(&[1]);
        read(&mut job, &["1"], false);
        job.emitted(Ticket(1), &["id".to_owned()]);
        job.request(|progress| progress.begin_again(1));
        job.settle(|_| false);
        assert_eq!(after(job.delivered()), [(1, String::new())]);
    }

    #[test]
    fn a_table_is_finished_by_a_read_that_returns_less_than_it_may() {
        let mut job = job(&[1]);
        read(&mut job, &["1"], true);
        assert!(job.emitted(Ticket(1), &["id".to_owned()]).is_last());
        assert!(job.progress().is_idle() && !job.delivered().is_idle());
        job.settle(|_| false);
        assert!(job.delivered().is_idle());
    }

    #[test]
    fn a_useless_chunk_is_read_again_with_fewer_rows() {
        let mut job = job(&[1]);
        read(&mut job, &["1"], false);
        let rows = job.size.rows();
        job.touched(200, Touched::Unknown);
        assert!(job.is_useless());
        assert_eq!(job.close(), Some(Useless::UnknownKey));
        assert!(job.open().unwrap().rows_max < rows);
    }
}
