//! What the loop is doing, and when it is over.

use std::time::Instant;

use log::kv::Value;
use log::{info, warn};

use super::Pump;
use super::error::Error;
use super::incremental::Incremental;
use super::store::Store;

/// What the loop is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// Reading the stream.
    Reading,
    /// The job is done: delivering what was read.
    Draining,
    /// A signal came: delivering what was read until the deadline.
    Stopping { deadline: Option<Instant> },
    /// The source has failed: delivering what was read whole until the deadline. Then the failure is reported, whatever
    /// else fails meanwhile.
    Failing { error: Box<Error>, deadline: Instant },
}

impl Stage {
    pub fn is_reading(&self) -> bool {
        matches!(self, Stage::Reading)
    }

    /// The time at which nothing more is delivered.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Stage::Reading | Stage::Draining => None,
            Stage::Stopping { deadline } => *deadline,
            Stage::Failing { deadline, .. } => Some(*deadline),
        }
    }
}

impl Pump {
    pub(super) fn handle_signals(&mut self, now: Instant) -> Result<(), Error> {
        let received = self.signals.received();
        if received == 0 {
            return Ok(());
        }
        if received > 1 {
            warn!(slot = self.report.slot(); "second signal: stopping at once");
            return Err(self.unacknowledged());
        }
        if !matches!(self.stage, Stage::Stopping { .. } | Stage::Failing { .. }) {
            self.log_first_signal();
            self.stage = Stage::Stopping { deadline: self.times.shutdown_timeout.map(|timeout| now + timeout) };
        }
        Ok(())
    }

    /// Logs what the first signal waits for, how long, and how to end at once.
    fn log_first_signal(&self) {
        let (slot, in_flight) = (self.report.slot(), self.session.ring().outstanding());
        let wait_s = self.times.shutdown_timeout.map_or(Value::from("forever"), |limit| Value::from(limit.as_secs()));
        match self.output.outage() {
            Some((_, reason)) => warn!(slot, in_flight, wait_s, reason;
                "signal: Kafka is not accepting records; waiting for it before the end (a second signal ends at once)"),
            None if in_flight > 0 => info!(slot, in_flight, wait_s;
                "signal: waiting until the records in flight are delivered (a second signal ends at once)"),
            None => info!(slot; "signal: stopping"),
        }
    }

    /// Whether everything that was read is delivered, or the time limit has passed.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let drained = self.output.is_drained();
        // A job with nothing to read is not done before the stored position was compared with the slot.
        let has_begun = Store::of(&mut self.state_file, &mut self.output).has_begun();
        match self.stage {
            Stage::Reading => false,
            _ if self.incremental.as_ref().is_some_and(Incremental::is_emitting) && !self.has_expired(now) => false,
            Stage::Draining => drained && has_begun && self.session.is_settled() && self.session.feedback().is_stored(),
            // Nothing more is delivered.
            Stage::Stopping { .. } | Stage::Failing { .. } if self.output.is_finding_cause() => true,
            Stage::Stopping { .. } | Stage::Failing { .. } => {
                drained && !self.waits_for_timeline() || self.has_expired(now)
            }
        }
    }

    /// Whether the time for a stop is over.
    fn has_expired(&self, now: Instant) -> bool {
        self.stage.deadline().is_some_and(|deadline| now >= deadline)
    }
}
