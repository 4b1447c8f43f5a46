//! When walcat stores a position, and with which timeline: it asks a standby for its timeline first.

use std::time::Instant;

use super::{Error, Pump, Stage};
use crate::position::Vouched;

impl Pump {
    /// Stores what is delivered, so that it may be confirmed. The write does not wait for the interval when the server waits
    /// or the run ends.
    pub(super) fn store(&mut self, now: Instant) -> Result<(), Error> {
        self.handle_timeline();
        let ends = self.stage != Stage::Reading;
        let feedback = self.session.feedback();
        let at_once = ends || feedback.is_reply_owed() || self.feed.waits_for_confirmation();
        let latest = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
        if let Some(transactions) = self.output.transactions() {
            if ends {
                transactions.hurry();
            }
            transactions.offer(latest.delivered, at_once);
            feedback.confirm(transactions.stored());
            let wants = transactions.wants_timeline();
            if (wants || self.watch.is_due(now)) && self.watch.ask(now) {
                self.asked_for_transaction = wants;
            }
            return Ok(());
        }
        if !self.watch.is_needed() {
            return self.store.keep(&self.identity, latest, feedback, at_once, now);
        }
        let is_due = self.store.deadline(latest.delivered, now).is_some_and(|due_at| at_once || now >= due_at);
        if (is_due || self.watch.is_due(now)) && self.watch.ask(now) {
            self.asked_for = latest;
        }
        self.store.keep(&self.identity, self.vouched, self.session.feedback(), at_once, now)
    }

    /// Handles the standby's answer. Everything received before the question belongs to the history of that timeline.
    fn handle_timeline(&mut self) {
        let Some(timeline) = self.watch.answer() else { return };
        if timeline != self.identity.timeline {
            self.identity.go_on(timeline, self.identity.records.lsn);
            self.facts.timeline = timeline;
        }
        self.vouched = self.asked_for;
        let is_for_transaction = std::mem::take(&mut self.asked_for_transaction);
        let Some(transactions) = self.output.transactions() else { return };
        if !self.watch.is_needed() {
            transactions.is_promoted(timeline);
        } else if is_for_transaction {
            transactions.timeline_is(timeline);
        }
    }

    /// Whether a delivered position waits for the standby's answer.
    pub(super) fn waits_for_timeline(&mut self) -> bool {
        let delivered = self.session.feedback().delivered();
        self.watch.is_needed()
            && self.output.transactions().is_none()
            && self.feed.session_pid() != 0
            && self.store.deadline(delivered, Instant::now()).is_some()
    }
}
