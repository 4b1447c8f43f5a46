//! Reports an outage of Kafka: at once, and then once a minute, with the WAL that the slot retains on the server's disk.
//! walcat asks the server for that size, because the received position does not change while reading is paused.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::Instant;

use log::{info, warn};

use crate::limits::OUTAGE_NOTICE_INTERVAL;
use crate::lsn::Lsn;
use crate::pg::lookup::Lookup;
use crate::pg::{Direction, Server};

/// The size of the WAL that a slot retains, in bytes, and its state.
const QUERY: &CStr = c"
SELECT pg_catalog.concat_ws(' ', wal_status, pg_catalog.pg_wal_lsn_diff(
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
       ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::pg_catalog.int8)
FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";

/// A report that waits for the server's answer.
#[derive(Debug)]
struct Notice {
    since: Instant,
    reason: String,
    confirmed: Lsn,
}

/// Logs the beginning, the course and the end of an outage.
#[derive(Debug)]
pub(super) struct OutageReport {
    slot: String,
    lookup: Lookup,
    told_at: Option<Instant>,
    notice: Option<Notice>,
    is_slot_at_risk: bool,
}

impl OutageReport {
    /// For a slot on this server.
    pub fn new(slot: String, dsn: Option<String>, server: Server) -> Self {
        OutageReport {
            slot,
            lookup: Lookup::new("the size of the WAL", dsn, server),
            told_at: None,
            notice: None,
            is_slot_at_risk: false,
        }
    }

    /// Asks this server from now on.
    pub fn follow(&mut self, server: Server) {
        self.lookup.follow(server);
    }

    /// Logs the beginning, the course or the end of an outage.
    pub fn handle(&mut self, outage: Option<(Instant, &str)>, confirmed: Lsn, now: Instant) {
        let Some((since, reason)) = outage else {
            self.notice = None;
            self.is_slot_at_risk = false;
            if self.told_at.take().is_some() {
                info!(slot = self.slot.as_str(); "Kafka accepts records again");
            }
            return;
        };
        if self.told_at.is_none_or(|told_at| now.saturating_duration_since(told_at) >= OUTAGE_NOTICE_INTERVAL) {
            self.told_at = Some(now);
            self.notice = Some(Notice { since, reason: reason.to_owned(), confirmed });
            if self.lookup.ask(QUERY, &[&self.slot]).is_err() {
                self.tell(None, now);
            }
        }
        if self.notice.is_some() {
            match self.lookup.poll() {
                Ok(None) => {}
                Ok(Some(answer)) => self.tell(Some(&answer), now),
                Err(_) => self.tell(None, now),
            }
        }
    }

    /// The socket to wait for while a question is open.
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        self.notice.as_ref().and_then(|_| self.lookup.socket())
    }

    /// The latest time of the next report.
    pub fn deadline(&self) -> Option<Instant> {
        self.told_at.map(|told_at| told_at + OUTAGE_NOTICE_INTERVAL)
    }

    /// Whether the slot retained more WAL than max_wal_size when walcat last asked the server. A max_slot_wal_keep_size may
    /// soon invalidate such a slot.
    pub fn is_slot_at_risk(&self) -> bool {
        self.is_slot_at_risk
    }

    fn tell(&mut self, answer: Option<&str>, now: Instant) {
        let Some(Notice { since, reason, confirmed }) = self.notice.take() else { return };
        let down_for_s = now.saturating_duration_since(since).as_secs();
        const UNKNOWN: &str = "unknown, PostgreSQL does not answer";
        // A lost slot retains no WAL.
        let (wal_status, wal_held_bytes) = match answer {
            Some(answer) => answer.split_once(' ').unwrap_or((answer, "0")),
            None => (UNKNOWN, UNKNOWN),
        };
        self.is_slot_at_risk = answer.is_some() && wal_status != "reserved";
        warn!(
            slot = self.slot.as_str(), confirmed:% = confirmed, wal_held_bytes, wal_status, down_for_s,
            reason = reason.as_str(); "Kafka is not accepting records; queueing them and keeping the slot"
        );
    }
}
