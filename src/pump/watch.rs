//! The timeline of a stream from a standby. Promotion keeps a standby's walsenders, so the timeline changes while the
//! stream continues; nothing in the stream shows it.
//!
//! walcat stores a position with its timeline. Before it stores one, it asks a standby for its present timeline: everything
//! received before the question belongs to the history of the timeline in the answer. A running primary never changes its
//! timeline, so walcat does not ask it.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::{debug, info};

use crate::pg::lookup::Lookup;
use crate::pg::{Direction, Server};
use crate::position::Vouched;

/// The timeline, and whether the server is a standby. A standby's own functions show only the timeline of its last
/// restartpoint, and the received one only to privileged roles.
const QUERY: &CStr = c"
SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
  THEN pg_catalog.format('%s standby', GREATEST(
    (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
    (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver)))
  ELSE pg_catalog.format('%s primary',
    ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int)
  END";

/// The interval between questions without anything to store, and between attempts after a failure.
const INTERVAL: Duration = Duration::from_secs(1);

/// Asks for the timeline before a position is stored.
#[derive(Debug)]
pub(super) struct Watch {
    slot: String,
    /// None for a primary.
    lookup: Option<Lookup>,
    is_asking: bool,
    /// Whether the last question failed.
    has_failed: bool,
    asked_at: Instant,
    /// What was delivered when walcat last asked, and whether a position waits for the answer.
    asked_for: Vouched,
    is_wanted: bool,
    /// What the standby has vouched for.
    vouched: Vouched,
    timeline: u32,
}

/// The standby's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// The present timeline. Everything received before the question belongs to its history.
    pub timeline: u32,
    /// Whether a position has waited for it.
    pub is_wanted: bool,
}

impl Watch {
    /// For the server of the stream.
    pub fn new(
        slot: String,
        dsn: Option<String>,
        server: Server,
        is_standby: bool,
        timeline: u32,
        now: Instant,
    ) -> Self {
        let lookup = is_standby.then(|| Lookup::new("the standby's timeline", dsn, server));
        Watch {
            slot,
            lookup,
            is_asking: false,
            has_failed: false,
            asked_at: now,
            asked_for: Vouched::default(),
            is_wanted: false,
            vouched: Vouched::default(),
            timeline,
        }
    }

    /// Whether the timeline may change.
    pub fn is_needed(&self) -> bool {
        self.lookup.is_some()
    }

    /// Asks, unless a question is open. The answer covers what is delivered; `is_wanted` if a position waits for it.
    pub fn ask(&mut self, delivered: Vouched, is_wanted: bool, now: Instant) {
        let Some(lookup) = &mut self.lookup else { return };
        if self.is_asking || (self.has_failed && now < self.asked_at + INTERVAL) {
            return;
        }
        self.asked_at = now;
        self.is_asking = lookup.ask(QUERY, &[]).is_ok();
        self.has_failed = !self.is_asking;
        if self.is_asking {
            (self.asked_for, self.is_wanted) = (delivered, is_wanted);
        }
    }

    /// What the standby has vouched for.
    pub fn vouched(&self) -> Vouched {
        self.vouched
    }

    /// The answer, once it has arrived. A failure returns none, and walcat asks again.
    pub fn answer(&mut self) -> Option<Answer> {
        if !self.is_asking {
            return None;
        }
        let answer = match self.lookup.as_mut()?.poll() {
            Ok(None) => return None,
            Ok(Some(answer)) => answer,
            Err(error) => {
                debug!(slot = self.slot.as_str(), error:% = error; "cannot read the standby's timeline");
                (self.is_asking, self.has_failed) = (false, true);
                return None;
            }
        };
        (self.is_asking, self.has_failed) = (false, false);
        let (timeline, role) = answer.split_once(' ')?;
        let timeline = timeline.parse::<u32>().ok()?.max(self.timeline);
        if timeline != self.timeline {
            info!(slot = self.slot.as_str(), timeline, role; "the server has switched to another timeline");
            self.timeline = timeline;
        }
        if role == "primary" {
            self.lookup = None;
        }
        self.vouched = self.asked_for;
        Some(Answer { timeline, is_wanted: std::mem::take(&mut self.is_wanted) })
    }

    /// Whether the next regular question is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// The socket to wait for while a question is open.
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        self.lookup.as_ref().filter(|_| self.is_asking).and_then(Lookup::socket)
    }

    /// The latest time of the next question.
    pub fn deadline(&self) -> Option<Instant> {
        (self.lookup.is_some() && !self.is_asking).then(|| self.asked_at + INTERVAL)
    }
}
