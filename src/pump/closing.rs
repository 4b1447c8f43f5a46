//! The end of what the output has under way: the abort of a Kafka transaction, and the reason of its failure.
//!
//! Both take seconds at the most. walcat waits for them without a session that must be served, and a signal ends the wait.

use std::time::Instant;

use mio::Interest;

use super::error::{Error, Remedy};
use super::output::{Output, serve_output};
use super::{Pump, Stage};
use crate::pg;
use crate::poller::Wakeup;
use crate::source::waiting::Waiter;

impl Pump {
    /// After a failure: waits until the output is closed, and it is known whether another instance has taken over.
    ///
    /// # Errors
    /// A failure of the output that no reconnect fixes; [`Error::Unacknowledged`] after a signal.
    pub(super) fn settle_output(&mut self) -> Result<(), Error> {
        // The signal that stops the stream may have arrived without being handled yet.
        let signals_max = if matches!(self.stage, Stage::Stopping { .. }) { self.signals.received() + 1 } else { 1 };
        match self.serve_while(is_unsettled, signals_max) {
            Err(Error::Postgres(pg::Error::Interrupted)) => Err(self.unacknowledged()),
            // The stream starts again in any case.
            Err(error) if error.remedy() != Remedy::None => Ok(()),
            result => result,
        }
    }

    /// At the end of a run without a failure: discards what was read of the next transaction.
    ///
    /// # Errors
    /// Another instance has taken over.
    pub(super) fn end_output(&mut self) -> Result<(), Error> {
        // A signal has ended the run while the reason was looked for.
        if self.output.is_finding_cause() {
            return Ok(());
        }
        let now = Instant::now();
        self.output.close(self.abort_limit(now), now);
        let signals_max = self.signals.received() + 1;
        match self.serve_while(is_unsettled, signals_max) {
            Err(error) if error.remedy() == Remedy::None && !is_interrupted(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The same after a failure, which is the only one to report.
    pub(super) fn abandon_output(&mut self) {
        let now = Instant::now();
        self.output.close(self.abort_limit(now), now);
        let signals_max = self.signals.received() + 1;
        let _ = self.serve_while(Output::is_closing, signals_max);
    }

    /// Serves the output while something is under way, up to this many signals.
    fn serve_while(&mut self, is_under_way: impl Fn(&Output) -> bool, signals_max: u32) -> Result<(), Error> {
        while is_under_way(&self.output) {
            let now = Instant::now();
            serve_output(&mut self.output, &mut self.session, now)?;
            if let Some(descriptor) = self.output.kafka_descriptor() {
                self.poller.arm(Wakeup::Kafka, descriptor, Interest::READABLE)?;
            }
            let deadline = self.output.deadline(now).unwrap_or(now);
            Waiter::new(&mut self.poller, &mut self.signals).up_to(signals_max).doze(deadline)?;
        }
        Ok(())
    }
}

fn is_unsettled(output: &Output) -> bool {
    output.is_closing() || output.is_finding_cause()
}

fn is_interrupted(error: &Error) -> bool {
    matches!(error, Error::Postgres(pg::Error::Interrupted))
}
