//! `[state] topic`: the position of at-least-once delivery in the slot's checkpoint topic, for a walcat without a disk.
//!
//! Stages: create or describe the topic; find out whether the topics of the tables have records; write a start record; read
//! the topic until exactly that record is seen, not until an end offset; wait until the loop has judged what was found. Only
//! then are changes taken. From then on one record for each position that the loop offers.
//!
//! Invariants: a position counts as stored when its delivery report has arrived, and at most one is in flight. Nothing
//! fences a previous instance: it can still write a position that it had in flight. Everything up to that position is
//! delivered, and [`History`](crate::sink::kafka::exactly_once::history::History) ignores it if it is behind.
//!
//! Topic, records and reader are those of exactly-once delivery, so a slot can change from one to the other.

use std::time::{Duration, Instant};

use log::{debug, info};
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::lsn::Lsn;
use crate::position::Stored;
use crate::sink::kafka::client::context::Failure;
use crate::sink::kafka::client::link::Link;
use crate::sink::kafka::client::transaction_thread::{Call, Done};
use crate::sink::kafka::error::{Error, is_missing_topic};
use crate::sink::kafka::exactly_once::checkpoint::{self, Checkpoint, Instance, Reader};
use crate::sink::kafka::exactly_once::history::Found;
use crate::sink::kafka::exactly_once::own_records::OwnRecords;
use crate::sink::kafka::flight::Flight;
use crate::sink::kafka::topics::Waiting;
use crate::snapshot::Progress;

/// The time between two checks of what must be polled: the reader, and the requests that create the topic.
const LOOK_INTERVAL: Duration = Duration::from_millis(3);

/// The same while no broker answers, and the pause before a question is repeated.
const OUTAGE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The settings of the topic.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The shortest time between two records.
    pub interval: Duration,
    /// The cluster's identifier, the database and the slot, for the name of the topic.
    pub system_identifier: String,
    pub database: String,
    pub slot: String,
    /// The slot's position at the start.
    pub slot_at: Lsn,
    /// The topics of the published tables.
    pub topics: Vec<String>,
    /// Whether PostgreSQL knows that the slot was read before.
    pub was_slot_read: bool,
}

enum Stage {
    /// Nothing is known about earlier runs.
    New,
    /// Whether the topics of the tables have records is being asked; after a failure, again at this time.
    Looking { again_at: Option<Instant> },
    /// The start record is to be written, or in flight.
    Announcing,
    /// The topic is being read up to the start record.
    Reading(Option<Box<Reader>>),
    /// The topic has no position, and the topics of other clusters are being listed.
    Listing(Found),
    /// The stored position is known, but not judged yet.
    Found(Found),
    /// Positions are stored.
    Running,
}

/// The position in the topic, across producers.
pub struct StateTopic {
    settings: Settings,
    topic: String,
    instance: Instance,
    stage: Stage,
    /// Whether the topics of the tables had records before the start.
    is_any_written: bool,
    /// Whether the topic exists, and this producer has opened it.
    is_open: bool,
    /// The position to write next.
    offered: Option<Stored>,
    /// The record in flight: the position that it stores, 0/0 for none.
    under_way: Option<Lsn>,
    /// What the topic had when it was read.
    found: Option<Stored>,
    stored: Lsn,
    /// The progress of the snapshots in the last position that was offered.
    snapshot: Option<Progress>,
    written_at: Option<Instant>,
    own_records: OwnRecords,
}

impl StateTopic {
    /// The start: nothing was read.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let topic = checkpoint::topic(&settings.system_identifier, &settings.database, &settings.slot);
        StateTopic {
            settings,
            topic,
            instance: Instance::this(),
            stage: Stage::New,
            is_any_written: false,
            is_open: false,
            offered: None,
            under_way: None,
            found: None,
            stored: Lsn::INVALID,
            snapshot: None,
            written_at: None,
            own_records: OwnRecords::new(),
        }
    }

    /// The topic's name.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The producer was replaced: what was in flight is not stored.
    pub fn renew(&mut self) {
        self.is_open = false;
        self.lose();
        if matches!(self.stage, Stage::Looking { .. } | Stage::Announcing | Stage::Listing(_)) {
            self.stage = Stage::New;
        }
    }

    /// The stored position, once it is known and until [`StateTopic::begin_at`].
    #[must_use]
    pub fn found(&self) -> Option<&Found> {
        match &self.stage {
            Stage::Found(found) => Some(found),
            _ => None,
        }
    }

    /// What was found is judged: positions can be offered.
    pub fn begin_at(&mut self) {
        if let Stage::Found(found) = std::mem::replace(&mut self.stage, Stage::Running) {
            self.found = found.stored;
        }
    }

    /// Whether what was found is judged.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::Running)
    }

    /// Stores the start of a stream, before anything is confirmed.
    pub fn begin(&mut self, position: Stored) {
        if !self.has_begun() {
            return;
        }
        self.snapshot.clone_from(&position.snapshot);
        if self.found.take().as_ref() == Some(&position) {
            self.stored = position.end_lsn;
            return;
        }
        self.stored = Lsn::INVALID;
        // A record in flight belongs to another timeline.
        self.under_way = self.under_way.map(|_| Lsn::INVALID);
        self.offered = Some(position);
    }

    /// When a position after the stored one can be offered; none while one is being written.
    #[must_use]
    pub fn due_at(&self, delivered: Lsn, now: Instant) -> Option<Instant> {
        let is_free = self.has_begun() && self.offered.is_none() && self.under_way.is_none();
        (is_free && delivered > self.stored)
            .then(|| self.written_at.map_or(now, |written_at| written_at + self.settings.interval))
    }

    /// Stores this position with the next record.
    pub fn offer(&mut self, position: Stored) {
        self.snapshot.clone_from(&position.snapshot);
        self.offered = Some(position);
    }

    /// Whether nothing is being written, and this progress of the snapshots differs from the last one.
    #[must_use]
    pub fn lacks(&self, snapshot: Option<&Progress>) -> bool {
        self.has_begun() && self.has_written() && self.snapshot.as_ref() != snapshot
    }

    /// The position that the topic has; 0/0 for none.
    #[must_use]
    pub fn stored(&self) -> Lsn {
        self.stored
    }

    /// Whether no position waits to be written.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.offered.is_none()
    }

    /// Whether the last position that was offered is written.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.is_drained() && self.under_way.is_none()
    }

    /// The record in flight has this offset.
    pub fn delivered_own(&mut self, offset: i64) {
        self.own_records.delivered(offset, true);
        let Some(position) = self.under_way.take() else { return };
        match self.stage {
            Stage::Announcing => self.stage = Stage::Reading(None),
            _ if self.own_records.are_elsewhere() => {}
            _ => {
                self.stored = position;
                debug!(slot = self.settings.slot.as_str(), stored:% = position; "position stored");
            }
        }
    }

    /// The record in flight was discarded, not refused; its position is offered again.
    pub fn lose(&mut self) {
        self.under_way = None;
        self.offered = None;
        self.snapshot = None;
    }

    /// The error for a record of the topic that was refused; `is_denied` means that the topic may not be created.
    #[must_use]
    pub fn explain(&self, code: Code, is_denied: bool) -> Error {
        let topic = self.topic.as_str();
        if let Some(reason) = checkpoint::denied(topic, code, is_denied) {
            return Error::CheckpointDenied { code: Code::TopicAuthorizationFailed, reason };
        }
        match is_missing_topic(code) {
            true => Error::CheckpointGone { topic: topic.to_owned(), reason: code.to_string() },
            false => Error::CheckpointRefused { topic: topic.to_owned(), code },
        }
    }

    /// Whether a failed record of ours was only discarded with others, or did not leave librdkafka.
    #[must_use]
    pub fn is_discarded(failure: &Failure) -> bool {
        matches!(failure.code, Code::PurgeQueue | Code::PurgeInflight)
    }

    /// Does all work that is possible without waiting.
    ///
    /// # Errors
    /// [`Error::CheckpointGone`] and the other errors of the topic end the run.
    pub fn advance(
        &mut self,
        link: &mut Link,
        waiting: &mut Waiting,
        flight: &mut Flight,
        now: Instant,
    ) -> Result<(), Error> {
        if self.own_records.are_elsewhere() {
            let reason = "it was replaced by another one".to_owned();
            return Err(Error::CheckpointGone { topic: self.topic.clone(), reason });
        }
        if !self.is_open {
            if !waiting.ensure_checkpoints(link.admin(), &self.topic, now)? {
                return Ok(());
            }
            // Only now: opening the handle requests metadata, and the broker might auto-create the topic with its own
            // settings.
            link.open_checkpoints(&self.topic)?;
            self.is_open = true;
        }
        match &mut self.stage {
            Stage::New if self.settings.topics.is_empty() => {
                self.stage = Stage::Announcing;
            }
            Stage::New => {
                link.ask(Call::Look { topics: self.settings.topics.clone() })?;
                self.stage = Stage::Looking { again_at: None };
            }
            Stage::Looking { again_at: Some(at) } => {
                if now >= *at {
                    self.stage = Stage::New;
                }
            }
            Stage::Looking { again_at } => match link.answer() {
                None => {}
                Some(Ok(Done::Begun { is_any_written })) => {
                    self.is_any_written = is_any_written;
                    self.stage = Stage::Announcing;
                }
                // The brokers did not answer in time.
                Some(_) => *again_at = Some(now + OUTAGE_LOOK_INTERVAL),
            },
            Stage::Announcing => {
                if self.under_way.is_none() {
                    let was_read = self.settings.was_slot_read && self.is_any_written;
                    let unread_slot_at = (!was_read).then_some(self.settings.slot_at);
                    let start = checkpoint::Start { instance: self.instance.clone(), unread_slot_at };
                    let value = checkpoint::render_start(start);
                    self.produce(link, waiting, flight, (checkpoint::START_KEY, &value), Lsn::INVALID)?;
                }
            }
            Stage::Reading(reader) => {
                let reader = match reader {
                    Some(reader) => reader,
                    None => {
                        let (brokers, properties) = link.addresses();
                        reader.insert(Box::new(Reader::new(brokers, properties, &self.topic, &self.instance)?))
                    }
                };
                reader.advance().map_err(in_this_delivery)?;
                match Found::of(reader.history()) {
                    None => {}
                    Some(found) if found.stored.is_some() => self.has_read(found),
                    Some(found) => {
                        link.ask(Call::List { prefix: checkpoint::TOPIC_PREFIX })?;
                        self.stage = Stage::Listing(found);
                    }
                }
            }
            Stage::Listing(found) => {
                let Some(answer) = link.answer() else { return Ok(()) };
                // A cluster that does not answer costs only the warning.
                if let Ok(Done::Listed(topics)) = answer {
                    checkpoint::warn_of_other_systems(&self.settings.slot, &topics, &self.topic);
                }
                let found = found.clone();
                self.has_read(found);
            }
            Stage::Found(_) => {}
            Stage::Running => {
                if self.under_way.is_none()
                    && let Some(stored) = self.offered.take()
                {
                    let end_lsn = stored.end_lsn;
                    let instance = self.instance.clone();
                    let value =
                        checkpoint::render_checkpoint(Checkpoint { stored, commit_lsn: end_lsn, xid: 0, instance });
                    self.produce(link, waiting, flight, (checkpoint::CHECKPOINT_KEY, &value), end_lsn)?;
                    self.written_at = Some(now);
                }
            }
        }
        Ok(())
    }

    fn has_read(&mut self, found: Found) {
        if found.stored.is_none() && self.is_any_written && !self.settings.was_slot_read {
            checkpoint::warn_of_records(&self.settings.slot);
        }
        let end_lsn = found.stored.as_ref().map_or(Lsn::INVALID, |stored| stored.end_lsn);
        info!(slot = self.settings.slot.as_str(), stored:% = end_lsn; "checkpoint read");
        self.stage = Stage::Found(found);
    }

    fn produce(
        &mut self,
        link: &Link,
        waiting: &Waiting,
        flight: &mut Flight,
        (key, value): (&[u8], &[u8]),
        position: Lsn,
    ) -> Result<(), Error> {
        let refused = |code| self.explain(code, waiting.is_denied(&self.topic));
        flight.add(link.produce_own(key, value).map_err(refused)?);
        self.under_way = Some(position);
        Ok(())
    }

    /// The time by which [`StateTopic::advance`] must be called again.
    #[must_use]
    pub fn deadline(&self, is_outage: bool, now: Instant) -> Option<Instant> {
        let look = now + if is_outage { OUTAGE_LOOK_INTERVAL } else { LOOK_INTERVAL };
        if !self.is_open {
            return Some(look);
        }
        match &self.stage {
            Stage::New => Some(now),
            Stage::Looking { again_at } => *again_at,
            Stage::Reading(_) => Some(look),
            // A delivery report wakes the loop.
            Stage::Announcing => self.under_way.is_none().then_some(now),
            Stage::Running => (self.offered.is_some() && self.under_way.is_none()).then_some(now),
            // The answer wakes the loop.
            Stage::Listing(_) | Stage::Found(_) => None,
        }
    }
}

/// The reader's error without the words of exactly-once delivery.
fn in_this_delivery(error: Error) -> Error {
    match error {
        Error::Transactional { code, reason } => Error::CheckpointDenied { code, reason },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::FullKeys;

    fn position(end_lsn: u64) -> Stored {
        Stored {
            system_identifier: "7".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            end_lsn: Lsn(end_lsn),
            records: None,
            full_keys: FullKeys::new(),
            snapshot: None,
        }
    }

    /// A topic that had a position, judged, and the stream started at `start`.
    fn running(had: Option<u64>, start: u64) -> StateTopic {
        let mut state = StateTopic::new(Settings {
            interval: Duration::from_secs(1),
            system_identifier: "7".to_owned(),
            database: "d".to_owned(),
            slot: "s".to_owned(),
            slot_at: Lsn(start),
            topics: Vec::new(),
            was_slot_read: false,
        });
        assert_eq!(state.topic(), "__walcat.7.d.s");
        state.begin(position(start));
        assert!(state.is_drained() && !state.has_begun(), "offered before the topic was read");
        state.stage = Stage::Found(Found { stored: had.map(position), unread_slot_at: None });
        state.begin_at();
        state.begin(position(start));
        state
    }

    /// What `advance` does with the offered position.
    fn write(state: &mut StateTopic, now: Instant) {
        state.under_way = Some(state.offered.take().expect("a position to write").end_lsn);
        state.written_at = Some(now);
    }

    #[test]
    fn a_position_is_stored_when_its_report_has_arrived_and_one_is_in_flight_at_a_time() {
        let (mut state, now) = (running(Some(100), 100), Instant::now());
        assert_eq!((state.stored(), state.is_drained()), (Lsn(100), true));
        assert_eq!(state.due_at(Lsn(100), now), None, "nothing new");
        assert_eq!(state.due_at(Lsn(200), now), Some(now));
        state.offer(position(200));
        write(&mut state, now);
        assert_eq!((state.stored(), state.due_at(Lsn(300), now)), (Lsn(100), None), "in flight");
        state.delivered_own(5);
        assert_eq!(state.stored(), Lsn(200));
        assert_eq!(state.due_at(Lsn(300), now), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_start_that_the_topic_does_not_have_is_stored_before_anything_counts_as_stored() {
        let now = Instant::now();
        for had in [None, Some(150)] {
            let mut state = running(had, 100);
            assert_eq!((state.stored(), state.is_drained()), (Lsn::INVALID, false));
            write(&mut state, now);
            state.delivered_own(0);
            assert_eq!(state.stored(), Lsn(100));
        }
    }

    #[test]
    fn what_was_in_flight_when_the_timeline_changed_or_the_producer_failed_is_not_stored() {
        let now = Instant::now();
        let mut state = running(Some(100), 100);
        state.offer(position(200));
        write(&mut state, now);
        state.begin(position(150));
        state.delivered_own(5);
        assert_eq!(state.stored(), Lsn::INVALID, "a position of the old timeline");
        write(&mut state, now);
        state.delivered_own(6);
        assert_eq!(state.stored(), Lsn(150));
        state.offer(position(300));
        write(&mut state, now);
        state.renew();
        assert_eq!((state.stored(), state.is_open), (Lsn(150), false));
        assert!(state.due_at(Lsn(300), now).is_some(), "it is offered again");
    }

    #[test]
    fn the_progress_of_a_snapshot_is_offered_although_the_position_has_not_moved() {
        let (mut state, now) = (running(Some(100), 100), Instant::now());
        let chunk = Progress::of(Vec::new());
        assert!(!state.lacks(None) && state.lacks(Some(&chunk)));
        state.offer(Stored { snapshot: Some(chunk.clone()), ..position(100) });
        assert!(!state.lacks(None), "a record is in flight");
        write(&mut state, now);
        state.delivered_own(5);
        assert!(state.lacks(None) && !state.lacks(Some(&chunk)));
        state.lose();
        assert!(state.lacks(Some(&chunk)), "it is offered again");
    }

    #[test]
    fn a_record_that_lands_in_another_topic_stores_nothing() {
        let (mut state, now) = (running(Some(100), 100), Instant::now());
        state.own_records.delivered(7, true);
        state.offer(position(200));
        write(&mut state, now);
        state.delivered_own(0);
        assert_eq!((state.stored(), state.own_records.are_elsewhere()), (Lsn(100), true));
    }
}
