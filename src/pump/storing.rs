//! When walcat stores a position, and with which timeline: it asks a standby for its timeline first.

use std::time::Instant;

use super::store::{Store, Urgency};
use super::watch::Answer;
use super::{Error, Pump, Stage};
use crate::position::Vouched;

impl Pump {
    /// Stores what is delivered, so that it may be confirmed. The write does not wait for the interval when the server waits
    /// or the run ends.
    pub(super) fn store(&mut self, now: Instant) -> Result<(), Error> {
        self.handle_timeline();
        let feedback = self.session.feedback();
        let urgency = match self.stage {
            Stage::Reading if feedback.is_reply_owed() || self.feed.waits_for_confirmation() => Urgency::AtOnce,
            Stage::Reading => Urgency::WhenDue,
            Stage::Draining | Stage::Stopping { .. } | Stage::Failing { .. } => Urgency::Last,
        };
        let latest = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
        let store = Store::of(&mut self.state_file, &mut self.output);
        let is_wanted = store.wants_timeline(latest.delivered, urgency, now);
        if is_wanted || self.watch.is_due(now) {
            self.watch.ask(latest, is_wanted, now);
        }
        self.keep(latest, urgency, now)
    }

    /// Offers a delivered position to the store and confirms what is stored. Of a standby, only what it has vouched for is
    /// offered.
    pub(super) fn keep(&mut self, latest: Vouched, urgency: Urgency, now: Instant) -> Result<(), Error> {
        let mut store = Store::of(&mut self.state_file, &mut self.output);
        let position = if self.watch.is_needed() { store.offered(latest, self.watch.vouched()) } else { latest };
        store.keep(&self.identity, position, self.session.feedback(), urgency, now)
    }

    /// Handles the standby's answer. Everything received before the question belongs to the history of that timeline.
    fn handle_timeline(&mut self) {
        let Some(Answer { timeline, is_wanted }) = self.watch.answer() else { return };
        if timeline != self.identity.timeline {
            self.identity.go_on(timeline, self.identity.records.lsn);
            self.facts.timeline = timeline;
        }
        let is_promoted = !self.watch.is_needed();
        Store::of(&mut self.state_file, &mut self.output).timeline_is(timeline, is_promoted, is_wanted);
    }

    /// Whether a delivered position waits for the standby's answer.
    pub(super) fn waits_for_timeline(&mut self) -> bool {
        let delivered = self.session.feedback().delivered();
        let store = Store::of(&mut self.state_file, &mut self.output);
        let waits = store.deadline(delivered, Instant::now()).is_some();
        waits && self.watch.is_needed() && self.feed.session_pid() != 0
    }
}
