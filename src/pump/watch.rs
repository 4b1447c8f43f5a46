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
    timeline: u32,
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
        Watch { slot, lookup, is_asking: false, has_failed: false, asked_at: now, timeline }
    }

    /// Whether the timeline may change.
    pub fn is_needed(&self) -> bool {
        self.lookup.is_some()
    }

    /// Asks, unless a question is open. Returns whether it asked: the answer covers everything received before.
    pub fn ask(&mut self, now: Instant) -> bool {
        let Some(lookup) = &mut self.lookup else { return false };
        if self.is_asking || (self.has_failed && now < self.asked_at + INTERVAL) {
            return false;
        }
        self.asked_at = now;
        self.is_asking = lookup.ask(QUERY, &[]).is_ok();
        self.has_failed = !self.is_asking;
        self.is_asking
    }

    /// The timeline, once the answer has arrived. A failure returns none, and walcat asks again.
    pub fn answer(&mut self) -> Option<u32> {
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
        Some(timeline)
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
