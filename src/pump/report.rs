//! What walcat logs while the loop runs: a line of statistics each interval, and warnings about relations.

use std::time::{Duration, Instant};

use log::{Level, debug, info, log_enabled, trace, warn};

use super::Incremental;
use super::backlog::Backlog;
use super::display::Display;
use crate::lsn::Lsn;
use crate::record::Prepared;
use crate::relations::Relation;
use crate::session::Session;
use crate::status::{Pace, Status};
use crate::wire::replication::{self, Frame};

/// Logs statistics and relation warnings.
#[derive(Debug)]
pub struct Report {
    slot: String,
    pace: Pace,
    interval: Option<Duration>,
    /// Shows a snapshot, or the way to the end of the run.
    display: Option<Display>,
    backlog: Option<Backlog>,
}

impl Report {
    /// For a slot; the first statistics are due one interval from now.
    pub(super) fn new(slot: String, stats_interval: Option<Duration>, now: Instant) -> Self {
        let pace = Pace::new(stats_interval, now);
        Report { slot, pace, interval: stats_interval, display: None, backlog: None }
    }

    /// The slot of the report.
    pub(super) fn slot(&self) -> &str {
        &self.slot
    }

    /// Logs a frame.
    pub(super) fn frame(&self, frame: &[u8]) {
        if !log_enabled!(Level::Trace) {
            return;
        }
        // A frame that cannot be decoded ends the run with its own error.
        match replication::decode(frame) {
            Ok(Frame::XLogData { start, message, .. }) => self.message(start, message),
            Ok(Frame::Keepalive { wal_end, reply_requested, .. }) => {
                trace!(slot = self.slot.as_str(), lsn:% = wal_end, reply_requested; "keepalive");
            }
            Err(_) => {}
        }
    }

    /// Logs a message of the output plugin, by its first letter.
    pub(super) fn message(&self, lsn: Lsn, message: &[u8]) {
        let letter = char::from(message.first().copied().unwrap_or(b'?'));
        trace!(slot = self.slot.as_str(), lsn:% = lsn, message:% = letter, bytes = message.len(); "message");
    }

    /// The latest time of the next report.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let display = self.display.as_ref().and_then(Display::deadline);
        [self.pace.deadline(), display].into_iter().flatten().min()
    }

    /// Shows how far the run is, when that is due: the snapshot under way, or the backlog of a run with an end.
    pub(super) fn progress(
        &mut self,
        session: &mut Session,
        incremental: Option<&Incremental>,
        is_reading: bool,
        now: Instant,
    ) {
        let received = session.feedback().received();
        let end = session.end().filter(|end| received < *end);
        if end.is_some() {
            let backlog = self.backlog.get_or_insert_with(|| Backlog::begin(received, now));
            backlog.heard(received, session.counters().changes, is_reading, now);
        }
        let snapshot = incremental.filter(|incremental| incremental.is_under_way());
        if end.is_none() && snapshot.is_none() {
            self.display = None;
            return;
        }
        let display = self.display.get_or_insert_with(|| Display::begin(self.interval, now));
        if !display.is_due(now) {
            return;
        }
        match (snapshot, end, &self.backlog) {
            (Some(snapshot), ..) => snapshot.show(display, now),
            (None, Some(end), Some(backlog)) => backlog.show(&self.slot, end, display, now),
            _ => {}
        }
    }

    /// Logs the statistics when they are due.
    pub(super) fn statistics(&mut self, session: &mut Session, refused: u64, turns: u64, now: Instant) {
        if !self.pace.is_due(now) {
            return;
        }
        let Status { confirmed, received, transactions, records, records_refused, in_flight, turns } =
            Status::of(session, refused, turns);
        let records_per_s = self.pace.rate(records, now);
        info!(
            slot = self.slot.as_str(), confirmed:% = confirmed, received:% = received, transactions, records,
            records_per_s, records_refused, in_flight, turns; "statistics"
        );
    }

    /// Logs the destination of a relation's records, and warnings about it.
    pub(super) fn prepared(&self, relation: &Relation, prepared: &Prepared) {
        self::prepared(&self.slot, relation, prepared);
    }

    /// Logs the end of the stream.
    pub(super) fn ended(&mut self, session: &mut Session, refused: u64, turns: u64, now: Instant) {
        let Status { confirmed, transactions, records, records_refused, turns, .. } =
            Status::of(session, refused, turns);
        self.display = None;
        let records_per_s = self.pace.rate_since_start(records, now);
        info!(
            slot = self.slot.as_str(), confirmed:% = confirmed, transactions, records, records_per_s, records_refused,
            turns; "streaming ended"
        );
    }
}

/// Logs the destination of a relation's records, and warnings about it.
pub(super) fn prepared(slot: &str, relation: &Relation, prepared: &Prepared) {
    let (schema, table) = (relation.namespace.as_str(), relation.name.as_str());
    let topic = prepared.topic.as_str();
    if let Some(warning) = &prepared.warning {
        warn!(slot, schema, table, topic; "{warning}");
    }
    debug!(slot, schema, table, topic, has_key = prepared.has_key; "relation ready");
}
