//! Where delivered positions are kept, as the loop sees it: in the slot alone, in a state file, in a topic, or in Kafka
//! transactions.
//! The loop offers a position, confirms what is stored, and judges what was found; it does not ask where that is.
//!
//! Store first, confirm second: walcat confirms a delivered position to PostgreSQL only after the store has it.

use std::time::Instant;

use super::error::Error;
use super::output::Output;
use crate::feedback::Feedback;
use crate::lsn::Lsn;
use crate::position::{FullKeys, Identity, Known, Start, Stored, Vouched};
use crate::sink::Sink;
use crate::sink::kafka::delivery::Delivery;
use crate::sink::kafka::exactly_once::Transactions;
use crate::sink::kafka::state_topic::StateTopic;
use crate::snapshot::Progress;
use crate::state_file::{self, StateFile};

/// Where delivered positions are kept. Borrowed from its owner for one step of the loop.
pub enum Store<'a> {
    /// In the slot only.
    Slot,
    /// In the state file too.
    File(&'a mut StateFile),
    /// In a topic, which the sink owns.
    Topic(&'a mut StateTopic),
    /// In the Kafka transactions of exactly-once delivery, which the sink owns.
    Transactions(&'a mut Transactions),
}

/// When an offered position is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// At the store's interval.
    WhenDue,
    /// Now: the server waits for the confirmation.
    AtOnce,
    /// Now: the run ends.
    Last,
}

/// What a store that is read after the start of the stream had; the loop judges it before the first change.
#[derive(Debug)]
pub(super) struct Found {
    /// The name of the store in messages.
    pub store: String,
    /// The stored position.
    pub stored: Option<Stored>,
    /// The slot's position when the first instance started, if nothing had been read from the slot.
    pub unread_slot_at: Option<Lsn>,
    /// The last position that this process knew to be stored; 0/0 for none.
    pub known: Lsn,
}

impl<'a> Store<'a> {
    /// The state file, if there is one.
    pub fn on_disk(file: &'a mut Option<StateFile>) -> Self {
        file.as_mut().map_or(Store::Slot, Store::File)
    }

    /// The store of a run.
    pub(super) fn of(file: &'a mut Option<StateFile>, output: &'a mut Output) -> Self {
        match output {
            Output::Records(sink) => Store::of_sink(file, sink),
            Output::Dump(_) => Store::on_disk(file),
        }
    }

    /// The store of a run into this sink.
    pub(super) fn of_sink(file: &'a mut Option<StateFile>, sink: &'a mut Sink) -> Self {
        let Sink::Kafka(kafka) = sink else { return Store::on_disk(file) };
        match kafka.delivery() {
            Delivery::ExactlyOnce(transactions) => Store::Transactions(transactions),
            Delivery::AtLeastOnce(Some(state)) => Store::Topic(state),
            Delivery::AtLeastOnce(None) => Store::on_disk(file),
        }
    }

    /// Reads the position that is stored before the stream starts. Kafka's is found later: see [`Store::found`].
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&mut self) -> Result<Option<Known>, state_file::Error> {
        match self {
            Store::File(file) => {
                file.reload()?;
                Ok(file.stored().map(|stored| Known { stored: stored.clone(), store: file.name() }))
            }
            Store::Slot | Store::Topic(_) | Store::Transactions(_) => Ok(None),
        }
    }

    /// The keys kept with the position that was read.
    #[must_use]
    pub fn full_keys(&self) -> FullKeys {
        match self {
            Store::File(file) => file.stored().map(|stored| stored.full_keys.clone()).unwrap_or_default(),
            Store::Slot | Store::Topic(_) | Store::Transactions(_) => FullKeys::new(),
        }
    }

    /// The progress of the snapshots, as it is in the store that was read.
    #[must_use]
    pub fn snapshot(&self) -> Option<Progress> {
        match self {
            Store::File(file) => file.stored()?.snapshot.clone(),
            Store::Slot | Store::Topic(_) | Store::Transactions(_) => None,
        }
    }

    /// Whether the progress of a snapshot has a place.
    pub(super) fn keeps_progress(&self) -> bool {
        !matches!(self, Store::Slot)
    }

    /// Stores this progress with each position from now on. [`Identity`] has it for a state file.
    pub(super) fn keep_snapshot(&mut self, snapshot: Option<Progress>) {
        if let Store::Transactions(transactions) = self {
            transactions.keep_snapshot(snapshot);
        }
    }

    /// Whether every new stream begins at the stored position, which is read again. Otherwise it continues after what was
    /// read before.
    pub(super) fn is_read_at_each_start(&self) -> bool {
        matches!(self, Store::Transactions(_))
    }

    /// What was read after the start of the stream, until [`Store::begin_at`] has taken the verdict on it.
    pub(super) fn found(&self) -> Option<Found> {
        let (found, topic, known) = match self {
            Store::Slot | Store::File(_) => return None,
            // It is read once in the life of the process.
            Store::Topic(state) => (state.found()?.clone(), state.topic().to_owned(), Lsn::INVALID),
            Store::Transactions(transactions) => {
                (transactions.found()?, transactions.settings().topic(), transactions.known())
            }
        };
        Some(Found {
            store: format!("the checkpoint in the topic {topic}"),
            stored: found.stored,
            unread_slot_at: found.unread_slot_at,
            known,
        })
    }

    /// The stream continues at this position of this timeline, after what was found was judged.
    pub(super) fn begin_at(&mut self, start: Start, timeline: u32, full_keys: FullKeys) {
        match self {
            Store::Slot | Store::File(_) => {}
            Store::Topic(state) => state.begin_at(),
            Store::Transactions(transactions) => {
                transactions.keep_full_keys(full_keys);
                transactions.begin_at(start, timeline);
            }
        }
    }

    /// Whether the previously delivered position is known and judged.
    pub(super) fn has_begun(&self) -> bool {
        match self {
            Store::Slot | Store::File(_) => true,
            Store::Topic(state) => state.has_begun(),
            Store::Transactions(transactions) => transactions.has_begun(),
        }
    }

    /// Stores the start of the stream, before any of it can be confirmed. Kafka transactions store it when it is judged.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn begin(&mut self, position: Stored, now: Instant) -> Result<(), Error> {
        match self {
            Store::File(file) if file.stored() != Some(&position) => Ok(file.write(position, now)?),
            Store::Topic(state) => {
                state.begin(position);
                Ok(())
            }
            Store::File(_) | Store::Slot | Store::Transactions(_) => Ok(()),
        }
    }

    /// Stores this position now, although nothing else is delivered; outside a stream.
    ///
    /// # Errors
    /// [`Error::State`].
    pub(super) fn keep_at_once(&mut self, position: Stored, now: Instant) -> Result<(), Error> {
        match self {
            Store::Transactions(transactions) => {
                transactions.store(position);
                Ok(())
            }
            Store::Slot | Store::File(_) | Store::Topic(_) => self.begin(position, now),
        }
    }

    /// Whether what [`Store::keep_at_once`] was given is stored.
    pub(super) fn has_kept(&self) -> bool {
        match self {
            Store::Slot | Store::File(_) => true,
            Store::Topic(state) => state.has_written(),
            Store::Transactions(transactions) => !transactions.owes(),
        }
    }

    /// Keeps these keys with each position from now on. [`Identity`] has them too, for the stores that it names.
    pub(super) fn keep_full_keys(&mut self, full_keys: &FullKeys) {
        if let Store::Transactions(transactions) = self {
            transactions.keep_full_keys(full_keys.clone());
        }
    }

    /// Offers what is delivered, up to `position`, then allows the confirmation of what is stored.
    ///
    /// # Errors
    /// Those of [`Store::offer`]; then nothing more is confirmed.
    pub fn keep(
        &mut self,
        identity: &Identity,
        position: Vouched,
        feedback: &mut Feedback,
        urgency: Urgency,
        now: Instant,
    ) -> Result<(), Error> {
        self.offer(identity, position, urgency, now)?;
        feedback.confirm(self.stored());
        Ok(())
    }

    /// Stores what is delivered, up to `position`, when that is due.
    ///
    /// # Errors
    /// [`Error::State`].
    fn offer(&mut self, identity: &Identity, position: Vouched, urgency: Urgency, now: Instant) -> Result<(), Error> {
        let Vouched { delivered, records_end } = position;
        let at_once = urgency != Urgency::WhenDue;
        match self {
            Store::Slot => {}
            Store::File(file) => {
                let is_due = delivered > file.end_lsn() && (at_once || now >= file.due_at(now));
                // A chunk is stored at once: reading it again costs more than the write.
                let has_moved = file.stored().is_some_and(|stored| stored.snapshot != identity.snapshot);
                if is_due || has_moved {
                    file.write(identity.at(delivered.max(file.end_lsn()), records_end), now)?;
                }
            }
            Store::Topic(state) => {
                let is_due = state.due_at(delivered, now).is_some_and(|due_at| at_once || now >= due_at);
                if is_due || state.lacks(identity.snapshot.as_ref()) {
                    state.offer(identity.at(delivered.max(state.stored()), records_end));
                }
            }
            Store::Transactions(transactions) => {
                if urgency == Urgency::Last {
                    transactions.hurry();
                }
                transactions.offer(delivered, at_once);
            }
        }
        Ok(())
    }

    /// The stored position; 0/0 if there is none, or if only the slot has one.
    fn stored(&self) -> Lsn {
        match self {
            Store::Slot => Lsn::INVALID,
            Store::File(file) => file.end_lsn(),
            Store::Topic(state) => state.stored(),
            Store::Transactions(transactions) => transactions.stored(),
        }
    }

    /// The latest time of the next write of [`Store::keep`]. Kafka transactions have their own deadline.
    #[must_use]
    pub fn deadline(&self, delivered: Lsn, now: Instant) -> Option<Instant> {
        match self {
            Store::File(file) if delivered > file.end_lsn() => Some(file.due_at(now)),
            Store::Topic(state) => state.due_at(delivered, now),
            Store::File(_) | Store::Slot | Store::Transactions(_) => None,
        }
    }

    /// The server is a standby, or it is not: whether its timeline may change during the stream.
    pub(super) fn ask_timeline(&mut self, may_change: bool) {
        if let Store::Transactions(transactions) = self {
            transactions.ask_timeline(may_change);
        }
    }

    /// Whether a position waits for the timeline of a standby.
    pub(super) fn wants_timeline(&self, delivered: Lsn, urgency: Urgency, now: Instant) -> bool {
        match self {
            Store::Transactions(transactions) => transactions.wants_timeline(),
            store => store.deadline(delivered, now).is_some_and(|at| urgency != Urgency::WhenDue || now >= at),
        }
    }

    /// The position to offer, of the latest one and the one that a standby has vouched for. Kafka transactions wait for the
    /// timeline themselves.
    pub(super) fn offered(&self, latest: Vouched, vouched: Vouched) -> Vouched {
        if matches!(self, Store::Transactions(_)) { latest } else { vouched }
    }

    /// The standby's answer: its timeline, and whether it was promoted. `is_wanted` if a position waited for the question.
    pub(super) fn timeline_is(&mut self, timeline: u32, is_promoted: bool, is_wanted: bool) {
        let Store::Transactions(transactions) = self else { return };
        if is_promoted {
            transactions.is_promoted(timeline);
        } else if is_wanted {
            transactions.timeline_is(timeline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feedback::{Confirming, Timing};
    use crate::position::Reached;

    #[test]
    fn a_position_is_in_the_store_before_it_is_confirmed_and_waits_for_the_interval_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let second = Duration::from_secs(1);
        let mut file = StateFile::open(&path, second).unwrap();
        let mut store = Store::File(&mut file);
        let identity = Identity {
            system_identifier: "7".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            records: Reached::NOTHING,
            full_keys: FullKeys::new(),
            snapshot: None,
        };
        let now = Instant::now();
        let timing = Timing { status_interval: second, stall_timeout: None, ask_interval: None };
        let mut feedback = Feedback::new(Lsn(100), timing, Confirming::Stored, now);
        store.begin(identity.at(Lsn(100), Lsn::INVALID), now).unwrap();
        let on_disk = || StateFile::open(&path, second).unwrap().end_lsn();
        assert_eq!(on_disk(), Lsn(100));

        feedback.heard(Lsn(500), now);
        feedback.deliver(Lsn(300));
        let keep = |store: &mut Store<'_>, feedback: &mut Feedback, urgency, now| {
            let position = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
            store.keep(&identity, position, feedback, urgency, now)
        };
        keep(&mut store, &mut feedback, Urgency::WhenDue, now + second / 2).unwrap();
        assert_eq!((on_disk(), feedback.confirmed()), (Lsn(100), Lsn(100)));
        assert_eq!(store.deadline(feedback.delivered(), now), Some(now + second));
        keep(&mut store, &mut feedback, Urgency::WhenDue, now + second).unwrap();
        assert_eq!((on_disk(), feedback.confirmed()), (Lsn(300), Lsn(300)));
        feedback.deliver(Lsn(400));
        keep(&mut store, &mut feedback, Urgency::AtOnce, now + second).unwrap();
        assert_eq!((on_disk(), feedback.confirmed()), (Lsn(400), Lsn(400)));

        std::fs::remove_dir_all(directory.path()).unwrap();
        feedback.deliver(Lsn(500));
        assert!(keep(&mut store, &mut feedback, Urgency::AtOnce, now + second).is_err());
        assert_eq!(feedback.confirmed(), Lsn(400), "confirmed although it could not be stored");
    }
}
