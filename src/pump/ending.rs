//! The end of a run: of its stream, and with a failure.

use std::time::{Duration, Instant};

use log::debug;

use super::Pump;
use super::error::Error;
use super::hold::Hold;
use super::output::Output;
use super::stage::Stage;
use super::store::Urgency;
use crate::limits::{COPY_END_TIMEOUT, FINISH_TIMEOUT};
use crate::lsn::Lsn;
use crate::pg;
use crate::poller::Wakeup;
use crate::position::Vouched;
use crate::sink::kafka::exactly_once::ABORT_LIMIT;
use crate::source::waiting::Waiter;
use crate::source::{self, Feed};

impl Pump {
    /// Ends the stream in order: a last status update, CopyDone, and the server's own CopyDone.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.store(now)?;
        self.reclaim_to_finish()?;
        let update = self.session.feedback().update(now);
        self.feed.update(update)?;
        if let Some(recorder) = self.recorder.take() {
            recorder.finish()?;
        }
        let unacknowledged = matches!(self.stage, Stage::Stopping { .. }) && self.has_unacknowledged();
        self.end_stream(unacknowledged)?;
        let refused = self.output.refused_count();
        self.report.ended(&mut self.session, refused, self.poller.turns(), now);
        if unacknowledged { Err(self.unacknowledged()) } else { Ok(()) }
    }

    /// Ends the copy in order. A server in the middle of a large transaction would first send all of it. Then walcat
    /// closes the session and confirms on a new one, before that one has anything to send.
    fn end_stream(&mut self, unacknowledged: bool) -> Result<(), Error> {
        // Moving a slot by SQL takes a while.
        let is_stream = matches!(self.feed, Feed::Streaming(_));
        if self.finish_feed(if is_stream { COPY_END_TIMEOUT } else { FINISH_TIMEOUT })? {
            return Ok(());
        }
        let slot = self.report.slot();
        debug!(slot; "the server keeps sending; closing the session");
        self.poller.disarm(Wakeup::Postgres);
        self.feed.close(false);
        // A peek has nothing to confirm, and a run that stopped inside a transaction has confirmed everything before it.
        if unacknowledged || !self.may_reconnect() {
            return Ok(());
        }
        self.hold = Hold::Released { confirmed: Lsn::INVALID };
        self.reclaim_to_finish()?;
        let update = self.session.feedback().update(Instant::now());
        self.feed.update(update)?;
        if self.finish_feed(FINISH_TIMEOUT)? {
            return Ok(());
        }
        let message = format!("the server did not end the stream within {} s", FINISH_TIMEOUT.as_secs());
        Err(pg::Error::Lost { message }.into())
    }

    /// Returns whether the server ended the copy within the limit.
    fn finish_feed(&mut self, limit: Duration) -> Result<bool, Error> {
        let signals = self.signals.received();
        let mut waiter = Waiter::new(&mut self.poller, &mut self.signals).until(Instant::now() + limit);
        match self.feed.finish(&mut waiter) {
            Err(pg::Error::Interrupted) if self.signals.received() == signals => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    fn has_unacknowledged(&self) -> bool {
        match &self.output {
            Output::Records(sink) => {
                let unreached = !sink.ever_reached();
                unreached || !self.session.is_settled() || self.session.is_inside_transaction()
            }
            Output::Dump(_) => false,
        }
    }

    pub(super) fn unacknowledged(&mut self) -> Error {
        Error::Unacknowledged { confirmed: self.session.feedback().confirmed() }
    }

    /// How long to wait for the end of the open Kafka transaction at the end of the run. A broker that answers needs much
    /// less than the least time, and a frozen one must not prolong a stop.
    pub(super) fn abort_limit(&self, now: Instant) -> Duration {
        const LIMIT_MIN: Duration = Duration::from_millis(500);
        let left = |deadline: Instant| deadline.saturating_duration_since(now).clamp(LIMIT_MIN, ABORT_LIMIT);
        self.stage.deadline().map_or(ABORT_LIMIT, left)
    }

    /// Ends the run with this failure.
    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.confirm_before_failing();
        self.abandon_output();
        if matches!(error, Error::Source(source::Error::Positions(_))) {
            self.drop_new_slot();
        }
        error
    }

    /// Whether everything that was read whole is delivered before this failure ends the run. This includes the failure of a
    /// lost or dropped slot: no other source has what was read from it.
    pub(super) fn delivers_before(&self, error: &Error) -> bool {
        let is_of_source = matches!(
            error,
            Error::Server { .. } | Error::Postgres(_) | Error::Stalled(_) | Error::Source(source::Error::Setup { .. })
        );
        is_of_source || matches!(error, Error::Session(_))
    }

    pub(super) fn begin_failing(&mut self, error: Error) {
        if !matches!(error, Error::Session(_)) {
            self.feed.close(false);
        }
        self.asking.give_up(None);
        let limit = self.times.shutdown_timeout.unwrap_or(FINISH_TIMEOUT);
        self.stage = Stage::Failing { error: Box::new(error), deadline: Instant::now() + limit };
    }

    /// Confirms what was delivered before the failure, so that the next run does not deliver it again.
    fn confirm_before_failing(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            // Report only the failure that ends the run.
            let _ = recorder.finish();
        }
        let feedback = self.session.feedback();
        let latest = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
        // If the store is what failed, nothing more is confirmed.
        if self.keep(latest, Urgency::AtOnce, Instant::now()).is_ok() && !self.session.feedback().is_sent() {
            let update = self.session.feedback().update(Instant::now());
            // The connection may be what failed.
            let _: Result<(), pg::Error> = self.feed.update(update);
        }
    }
}
