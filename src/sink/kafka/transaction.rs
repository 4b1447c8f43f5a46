//! Exactly-once delivery: whole PostgreSQL transactions in Kafka transactions, each with a checkpoint in it.
//!
//! Stages: take the transactional id, which fences whoever had it; commit a start record; read the checkpoint topic until
//! that very record is seen, not until an end offset; then transactions, one after another. While one is being committed
//! no change is taken. Bytes are not kept, so whatever makes a transaction fail ends in [`Error::Aborted`]: the stream is
//! begun again from the checkpoint, which also settles a commit of unknown outcome. Nothing here is guessed.
//!
//! Source: Apache Kafka's design documentation, "Using Transactions", and librdkafka's `INTRODUCTION.md`, "Transactional
//! Producer".

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::checkpoint::{self, Checkpoint, Instance, Reader};
use super::error::Error;
use super::link::{Flight, Link};
use super::transaction_calls::{CallError, failure, is_fenced};
use super::transaction_thread::Call;
use super::waiting::Waiting;
use crate::change::Ticket;
use crate::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, RING_ENTRIES_MAX};
use crate::lsn::Lsn;
use crate::positions::{Reached, Start, Stored};
use crate::session::Sealed;

/// Units of confirmation in one Kafka transaction at most: half of what the ring holds.
const UNITS_MAX: usize = RING_ENTRIES_MAX / 2;

/// The time between two looks at what librdkafka does not tell the end of: the checkpoint topic's reader.
const LOOK_INTERVAL: Duration = Duration::from_millis(3);

/// The same while no broker answers.
const OUTAGE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long giving up a transaction may take when walcat ends.
const ABORT_LIMIT: Duration = Duration::from_secs(3);

/// What a transaction is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a transaction stays open for more.
    pub interval: Duration,
    /// Records after which no further PostgreSQL transaction joins.
    pub records_max: u64,
    /// Kafka's own limit, `transaction.timeout.ms`.
    pub timeout: Duration,
    /// Whose position it is, to be filled in with each position.
    pub identity: Stored,
    /// The database, for names.
    pub database: String,
    /// Where the slot stood at the start.
    pub slot_at: Lsn,
    /// The topics of the tables that are published, where the slot may have been read from before; empty where it was not.
    pub read_topics: Vec<String>,
}

impl Settings {
    /// The slot's own topic.
    #[must_use]
    pub fn topic(&self) -> String {
        checkpoint::topic(&self.identity.system_identifier, &self.database, &self.identity.slot)
    }

    /// The transactional id.
    #[must_use]
    pub fn transactional_id(&self) -> String {
        checkpoint::transactional_id(&self.identity.system_identifier, &self.database, &self.identity.slot)
    }
}

/// Whether librdkafka was asked for what ends the stage. Once it was asked to commit, the outcome is its own, and to give
/// up is not possible any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    NotAsked,
    Asked,
}

/// Whether the timeline has to be asked for before a checkpoint carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vouching {
    /// It does not change under the stream.
    Never,
    /// It may; nothing waits for it now.
    Later,
    /// A checkpoint waits for it, and nothing more is taken.
    Wanted,
    /// It is known for the checkpoint that waited.
    Answered,
}

/// What the checkpoint topic holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stored position.
    pub stored: Option<Stored>,
    /// Where the slot stood when the first instance started, if nothing had been read from it.
    pub unread_slot_at: Option<Lsn>,
}

enum Stage {
    /// Takes the transactional id.
    Initializing { call: Asking },
    /// The start record is under way, or its transaction is being committed.
    Announcing { call: Asking },
    /// Reads the checkpoint topic up to the start record.
    Reading(Box<Reader>),
    /// What is stored is known, and waits to be judged.
    Found(Found),
    /// The open transaction is empty: Kafka knows nothing of it.
    Idle,
    /// A transaction is open, and has begun with its first change.
    Open { since: Instant, records: u64 },
    /// The checkpoint is under way, or its transaction is being committed.
    Committing { checkpoint: Lsn, call: Asking },
    /// Given up, to end or to begin anew: with the same producer where it was only asked to take the transactional id. Another
    /// one would be fenced when that late request is answered.
    Closed { untouched: Option<Asking> },
}

/// The transactions of one producer after another.
pub struct Transactions {
    settings: Settings,
    instance: Instance,
    stage: Stage,
    /// Whether a PostgreSQL transaction has been taken in part.
    inside: bool,
    /// The last whole one in the open transaction.
    sealed: Option<Sealed>,
    /// What the open transaction holds: how many records of which entries, in order.
    taken: Vec<(Ticket, u32)>,
    /// What a committed transaction held and has not been reported yet.
    committed: VecDeque<(Ticket, u32)>,
    stored: Lsn,
    stored_at: Option<Instant>,
    /// The end of the last records that are stored.
    records: Reached,
    /// The last position that this process has stored or found stored, whatever has happened since.
    known: Lsn,
    vouching: Vouching,
    /// Whether a start record of this process was ever committed.
    has_announced: bool,
    /// Where the last record of ours is in the topic.
    last_offset: i64,
    /// A record of ours came to lie before the last one: the topic is another one, which the broker may have made in a way of
    /// its own.
    is_other_topic: bool,
    /// A position past the stored one that no transaction carries yet.
    idle: Lsn,
    /// Do not wait for the interval: the run ends.
    hurry: bool,
    /// The stored position that a transaction was begun at which had to be given up for its age.
    expired_at: Option<Lsn>,
}

impl Transactions {
    /// Nothing is begun yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Transactions {
            settings,
            instance: Instance::this(),
            stage: Stage::Initializing { call: Asking::NotAsked },
            inside: false,
            sealed: None,
            taken: Vec::new(),
            committed: VecDeque::new(),
            stored: Lsn::INVALID,
            stored_at: None,
            records: Reached::NOTHING,
            known: Lsn::INVALID,
            vouching: Vouching::Never,
            has_announced: false,
            last_offset: -1,
            is_other_topic: false,
            idle: Lsn::INVALID,
            hurry: false,
            expired_at: None,
        }
    }

    /// Begins anew; says whether that takes a new producer.
    pub fn renew(&mut self) -> bool {
        self.instance.renewal += 1;
        let untouched = match self.stage {
            Stage::Closed { untouched } => untouched,
            _ => None,
        };
        self.stage = Stage::Initializing { call: untouched.unwrap_or(Asking::NotAsked) };
        self.inside = false;
        self.sealed = None;
        self.taken.clear();
        self.committed.clear();
        self.stored = Lsn::INVALID;
        self.idle = Lsn::INVALID;
        self.hurry = false;
        self.is_other_topic = false;
        untouched.is_none()
    }

    /// What a transaction is made of.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// This process.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The position that Kafka has committed.
    #[must_use]
    pub fn stored(&self) -> Lsn {
        self.stored
    }

    /// The last position that this process knew to be stored; 0/0 for none.
    #[must_use]
    pub fn known(&self) -> Lsn {
        self.known
    }

    /// Whether a start record of this process was ever committed.
    #[must_use]
    pub fn has_announced(&self) -> bool {
        self.has_announced
    }

    /// Whether the timeline has to be asked for before each checkpoint: the server is a standby, which may be promoted.
    pub fn ask_timeline(&mut self, may_change: bool) {
        self.vouching = if may_change { Vouching::Later } else { Vouching::Never };
    }

    /// Whether a checkpoint waits for the timeline of what was taken so far.
    #[must_use]
    pub fn wants_timeline(&self) -> bool {
        self.vouching == Vouching::Wanted
    }

    /// The timeline, asked for since it was wanted.
    pub fn timeline_is(&mut self, timeline: u32) {
        if self.vouching == Vouching::Wanted {
            self.settings.identity.timeline = timeline;
            self.vouching = Vouching::Answered;
        }
    }

    /// The server was promoted to this timeline, which stays.
    pub fn is_promoted(&mut self, timeline: u32) {
        self.settings.identity.timeline = timeline;
        self.vouching = Vouching::Never;
    }

    /// Whether a checkpoint can be written now.
    fn knows_timeline(&mut self) -> bool {
        match self.vouching {
            Vouching::Never => true,
            Vouching::Answered => {
                self.vouching = Vouching::Later;
                true
            }
            Vouching::Later | Vouching::Wanted => {
                self.vouching = Vouching::Wanted;
                false
            }
        }
    }

    /// Whether changes can be taken now.
    #[must_use]
    pub fn has_room(&self, now: Instant) -> bool {
        if matches!(self.vouching, Vouching::Wanted | Vouching::Answered) {
            return false;
        }
        match self.stage {
            Stage::Idle => true,
            // One that is due is not kept open by more of them; and what is under way must not fill the ring, or the end
            // of the PostgreSQL transaction that is half taken could not be read.
            Stage::Open { since, records } => {
                let is_due = records >= self.settings.records_max
                    || self.taken.len() >= UNITS_MAX
                    || now >= since + self.settings.interval;
                self.inside || !is_due
            }
            _ => false,
        }
    }

    /// What is stored, when it is known; changes are taken after [`Transactions::begin_at`].
    pub fn found(&self) -> Option<Found> {
        match &self.stage {
            Stage::Found(found) => Some(found.clone()),
            _ => None,
        }
    }

    /// The stream goes on at this position of this timeline.
    pub fn begin_at(&mut self, start: Start, timeline: u32) {
        if let Stage::Found(found) = &self.stage {
            // A first position, one that the operator has chosen, and one that was cut or reached on another timeline are
            // stored before anything is confirmed.
            let is_stored =
                found.stored.as_ref().is_some_and(|found| (found.end_lsn, found.timeline) == (start.lsn, timeline));
            self.stored = if is_stored { start.lsn } else { Lsn::INVALID };
            self.known = self.stored;
            self.records = start.records;
            self.idle = start.lsn;
            self.stored_at = None;
            self.settings.identity.timeline = timeline;
            self.stage = Stage::Idle;
        }
    }

    /// Opens a transaction unless one is open. Call it before a change is taken.
    pub fn open(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Idle) {
            self.stage = Stage::Open { since: now, records: 0 };
        }
    }

    /// Records of an entry have been taken into the open transaction.
    pub fn take(&mut self, ticket: Ticket, count: u32, is_transactional: bool) {
        self.inside |= is_transactional;
        match self.taken.last_mut() {
            Some((last, sum)) if *last == ticket => *sum += count,
            _ => self.taken.push((ticket, count)),
        }
        if let Stage::Open { records, .. } = &mut self.stage {
            *records += u64::from(count);
        }
    }

    /// A PostgreSQL transaction, or a message outside of any, is whole.
    pub fn seal(&mut self, sealed: Sealed) {
        self.inside = false;
        self.sealed = Some(sealed);
    }

    /// Do not wait for the interval any more.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// The next record that a committed transaction held.
    pub fn settled(&mut self) -> Option<Ticket> {
        let (ticket, left) = self.committed.front_mut()?;
        let ticket = *ticket;
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.committed.pop_front();
        }
        Some(ticket)
    }

    /// A record of ours lies at this offset of the checkpoint topic.
    pub fn delivered_own(&mut self, offset: i64) {
        self.is_other_topic |= self.known.is_valid() && offset <= self.last_offset;
        self.last_offset = offset;
    }

    /// Whether there is nothing to deliver, as far as is known.
    #[must_use]
    pub fn rests(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Found(_))
    }

    /// What a call's failure means here.
    #[must_use]
    pub fn explain(&self, error: CallError) -> Error {
        match error.code {
            Code::TransactionalIdAuthorizationFailed => {
                let id = self.settings.transactional_id();
                let reason = format!("the transactional id {id} may not be used: it takes the ACL Write on it");
                Error::Transactional { code: error.code, reason }
            }
            _ => failure(&error),
        }
    }

    /// What it means that a record for the checkpoint topic is refused; `is_denied` says that it may not be made.
    #[must_use]
    pub fn explain_checkpoint(&self, code: Code, is_denied: bool) -> Error {
        let topic = self.settings.topic();
        match code {
            Code::TopicAuthorizationFailed | Code::UnknownTopic | Code::UnknownTopicOrPartition if is_denied => {
                let reason = format!(
                    "the checkpoint topic {topic} may not be created: it takes the ACL Create, or the topic made by hand \
                     (one partition, cleanup.policy=compact) with the ACL Write"
                );
                Error::Transactional { code: Code::TopicAuthorizationFailed, reason }
            }
            Code::TopicAuthorizationFailed => {
                let reason = format!("the checkpoint topic {topic} may not be written: it takes the ACL Write");
                Error::Transactional { code, reason }
            }
            code => Error::Aborted { reason: format!("the checkpoint is refused: {code}") },
        }
    }

    /// Whether it is known, and judged, what was delivered before.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Initializing { .. } | Stage::Announcing { .. } | Stage::Reading(_) | Stage::Found(_)
        )
    }

    /// Whether nothing is left to be committed, but for a PostgreSQL transaction that is not whole.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let rests = match self.stage {
            Stage::Committing { .. } => false,
            Stage::Open { .. } => self.inside,
            _ => true,
        };
        rests && self.committed.is_empty()
    }

    /// A position that everything before is delivered of, with nothing under way: it is stored by a transaction of its
    /// own when it is far enough from the stored one, or at once.
    pub fn offer(&mut self, delivered: Lsn, at_once: bool) {
        if delivered > self.idle {
            self.idle = delivered;
        }
        if at_once {
            self.stored_at = None;
        }
    }

    /// Goes on as far as it can without waiting.
    ///
    /// # Errors
    /// [`Error::Aborted`] and [`Error::FencedBy`] end this producer's transactions, the others the run.
    pub fn advance(
        &mut self,
        link: &mut Link,
        waiting: &mut Waiting,
        flight: &mut Flight,
        is_outage: bool,
        now: Instant,
    ) -> Result<(), Error> {
        let is_idle_due = self.idle_due_at(now).is_some_and(|due_at| now >= due_at);
        match &mut self.stage {
            Stage::Initializing { call: Asking::NotAsked } => self.initialize(link, waiting, now),
            Stage::Initializing { call: Asking::Asked } => {
                if self.is_answered(link)? {
                    // A topic that is made anew after this process had stored a position is one that was lost.
                    let is_read = self.known.is_valid() || link.has_records(&self.settings.read_topics)?;
                    let unread_slot_at = (!is_read).then_some(self.settings.slot_at);
                    let start = checkpoint::Start { instance: self.instance.clone(), unread_slot_at };
                    let start = checkpoint::render_start(start);
                    let refused = |code| self.explain_checkpoint(code, waiting.is_denied(&self.settings.topic()));
                    flight.add(link.produce_own(checkpoint::START_KEY, &start).map_err(refused)?);
                    self.stage = Stage::Announcing { call: Asking::NotAsked };
                }
                Ok(())
            }
            Stage::Announcing { call } if flight.is_empty() => {
                if *call == Asking::NotAsked {
                    *call = Asking::Asked;
                    link.call(Call::Commit(self.settings.timeout));
                } else if self.is_answered(link)? {
                    let (brokers, properties) = link.addresses();
                    let reader = Reader::new(brokers, properties, &self.settings.topic(), &self.instance)?;
                    self.has_announced = true;
                    self.stage = Stage::Reading(Box::new(reader));
                }
                Ok(())
            }
            Stage::Reading(reader) => {
                reader.advance()?;
                if reader.has_seen_start {
                    let stored = reader.checkpoint.take().map(|checkpoint| checkpoint.stored);
                    let slot = self.settings.identity.slot.as_str();
                    if stored.is_none() {
                        for topic in reader.topics_of_other_systems() {
                            warn!(slot, topic = topic.as_str();
                                "another cluster has a checkpoint for this database and slot: is this the right server?");
                        }
                    }
                    let end_lsn = stored.as_ref().map_or(Lsn::INVALID, |stored| stored.end_lsn);
                    info!(slot, stored:% = end_lsn; "checkpoint read");
                    let unread_slot_at = reader.first_start.as_ref().and_then(|start| start.unread_slot_at);
                    self.stage = Stage::Found(Found { stored, unread_slot_at });
                }
                Ok(())
            }
            Stage::Idle if is_idle_due => {
                if !self.knows_timeline() {
                    return Ok(());
                }
                self.open(now);
                let sealed = Sealed { commit_lsn: self.idle, end_lsn: self.idle, xid: 0 };
                self.finish(sealed, self.records, link, flight)
            }
            Stage::Open { since, .. } => {
                let since = *since;
                if self.inside {
                    return self.check_length(since, is_outage, now);
                }
                let is_due = self.hurry || !self.has_room(now);
                let sealed = self.sealed;
                match sealed {
                    Some(sealed) if is_due && waiting.is_empty() && self.knows_timeline() => {
                        let timeline = self.settings.identity.timeline;
                        self.finish(sealed, Reached { timeline, lsn: sealed.end_lsn }, link, flight)
                    }
                    _ => Ok(()),
                }
            }
            Stage::Committing { call: Asking::NotAsked, .. } if flight.is_empty() && self.is_other_topic => {
                Err(Error::Aborted { reason: "the checkpoint topic is not the one it was".to_owned() })
            }
            Stage::Committing { checkpoint, call } if flight.is_empty() => {
                let checkpoint = *checkpoint;
                if *call == Asking::NotAsked {
                    *call = Asking::Asked;
                    link.call(Call::Commit(self.settings.timeout));
                } else if self.is_answered(link)? {
                    self.stored = checkpoint;
                    self.known = checkpoint;
                    self.stored_at = Some(now);
                    self.committed.extend(self.taken.drain(..));
                    self.stage = Stage::Idle;
                    debug!(slot = self.settings.identity.slot.as_str(), stored:% = checkpoint; "transaction committed");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// When [`Transactions::advance`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self, flight: &Flight, is_outage: bool, now: Instant) -> Option<Instant> {
        let look = now + if is_outage { OUTAGE_LOOK_INTERVAL } else { LOOK_INTERVAL };
        match &self.stage {
            // The answer wakes the loop.
            Stage::Idle | Stage::Open { .. } if self.vouching == Vouching::Wanted => None,
            Stage::Idle | Stage::Open { .. } if self.vouching == Vouching::Answered => Some(now),
            Stage::Initializing { call: Asking::NotAsked } | Stage::Reading(_) => Some(look),
            Stage::Open { since, .. } if self.inside => Some(*since + self.longest()),
            // What is still held back, a topic to be made, tells by itself.
            Stage::Open { since, .. } => Some((*since + self.settings.interval).max(now + LOOK_INTERVAL)),
            Stage::Idle => self.idle_due_at(now),
            // The last delivery report has been taken since the last look.
            Stage::Announcing { call: Asking::NotAsked } | Stage::Committing { call: Asking::NotAsked, .. }
                if flight.is_empty() =>
            {
                Some(now)
            }
            // Delivery reports and a call's result wake the loop.
            _ => None,
        }
    }

    /// Gives up what is open, so that readers need not wait for Kafka's own limit.
    ///
    /// # Errors
    /// [`Error::Fenced`]. Any other failure leaves it to whoever takes the id next, or to the time-out.
    pub fn close(&mut self, link: &mut Link) -> Result<(), Error> {
        match std::mem::replace(&mut self.stage, Stage::Closed { untouched: None }) {
            Stage::Open { .. }
            | Stage::Committing { call: Asking::NotAsked, .. }
            | Stage::Announcing { call: Asking::NotAsked } => {}
            Stage::Initializing { call } => {
                self.stage = Stage::Closed { untouched: Some(call) };
                return Ok(());
            }
            closed @ Stage::Closed { .. } => {
                self.stage = closed;
                return Ok(());
            }
            // What became of a commit that is under way shows in the checkpoint, once the id is taken anew.
            _ => return Ok(()),
        }
        if link.is_calling() {
            return Ok(());
        }
        link.call(Call::Abort(ABORT_LIMIT));
        match link.wait_for_call(Instant::now() + ABORT_LIMIT) {
            Some(Err(error)) if is_fenced(error.code) => Err(failure(&error)),
            _ => Ok(()),
        }
    }

    fn initialize(&mut self, link: &mut Link, waiting: &mut Waiting, now: Instant) -> Result<(), Error> {
        let topic = self.settings.topic();
        if !waiting.ensure_checkpoints(link.admin(), &topic, now)? {
            return Ok(());
        }
        // Not before: to open it asks the broker, which may make it in a way of its own.
        link.open_checkpoints(&topic)?;
        link.call(Call::Init);
        self.stage = Stage::Initializing { call: Asking::Asked };
        Ok(())
    }

    /// Whether the call that was made is over, well.
    fn is_answered(&mut self, link: &mut Link) -> Result<bool, Error> {
        match link.call_result() {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => {
                // The producer is of no more use.
                self.stage = Stage::Closed { untouched: None };
                Err(self.explain(error))
            }
        }
    }

    /// Puts the checkpoint into the open transaction, which takes nothing more.
    fn finish(&mut self, sealed: Sealed, records: Reached, link: &Link, flight: &mut Flight) -> Result<(), Error> {
        self.sealed = None;
        self.records = records;
        let identity = self.settings.identity.clone();
        let checkpoint = Checkpoint {
            stored: Stored { end_lsn: sealed.end_lsn, records: Some(records), ..identity },
            commit_lsn: sealed.commit_lsn,
            xid: sealed.xid,
            instance: self.instance.clone(),
        };
        let refused = |code| self.explain_checkpoint(code, false);
        let value = checkpoint::render_checkpoint(checkpoint);
        flight.add(link.produce_own(checkpoint::CHECKPOINT_KEY, &value).map_err(refused)?);
        self.stage = Stage::Committing { checkpoint: sealed.end_lsn, call: Asking::NotAsked };
        Ok(())
    }

    fn longest(&self) -> Duration {
        self.settings.timeout.mul_f64(0.9)
    }

    /// Kafka gives up a transaction that is open for too long, and one PostgreSQL transaction cannot be parted.
    fn check_length(&mut self, since: Instant, is_outage: bool, now: Instant) -> Result<(), Error> {
        if now < since + self.longest() {
            return Ok(());
        }
        let open_ms = now.saturating_duration_since(since).as_millis();
        // A pause of either side may be why: only one that is too long again is too long.
        if is_outage || self.expired_at.replace(self.stored) != Some(self.stored) {
            return Err(Error::Aborted { reason: format!("it is open for {open_ms} ms, and Kafka would soon end it") });
        }
        Err(Error::TransactionTooLong { open_ms, timeout_ms: self.settings.timeout.as_millis() })
    }

    fn idle_due_at(&self, now: Instant) -> Option<Instant> {
        if self.idle <= self.stored {
            return None;
        }
        match self.stored_at {
            Some(at) if self.idle.bytes_since(self.stored) < CHECKPOINT_BYTES => Some(at + CHECKPOINT_INTERVAL),
            _ => Some(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(end_lsn: u64, timeline: u32) -> Stored {
        let (system_identifier, slot) = ("7".to_owned(), "s".to_owned());
        Stored { system_identifier, timeline, slot, end_lsn: Lsn(end_lsn), records: None }
    }

    fn transactions(stored: Option<Stored>) -> Transactions {
        let settings = Settings {
            interval: Duration::from_millis(100),
            records_max: 100,
            timeout: Duration::from_secs(60),
            identity: found(0, 1),
            database: "d".to_owned(),
            slot_at: Lsn(1),
            read_topics: Vec::new(),
        };
        let stage = Stage::Found(Found { stored, unread_slot_at: None });
        Transactions { stage, ..Transactions::new(settings) }
    }

    #[test]
    fn a_position_that_is_not_stored_like_this_is_stored_though_nothing_follows() {
        let now = Instant::now();
        let start = |lsn| Start { lsn: Lsn(lsn), records: Reached::NOTHING, is_cut: false };
        for (what, stored, lsn, timeline, is_due) in [
            ("as it was stored", Some(found(100, 1)), 100, 1, false),
            ("a first one", None, 100, 1, true),
            ("accepted below what is stored", Some(found(200, 1)), 100, 1, true),
            ("accepted above it", Some(found(50, 1)), 100, 1, true),
            ("on another timeline", Some(found(100, 1)), 100, 2, true),
        ] {
            let mut transactions = transactions(stored);
            transactions.begin_at(start(lsn), timeline);
            assert_eq!(transactions.idle_due_at(now), is_due.then_some(now), "{what}");
            assert_eq!(transactions.stored(), if is_due { Lsn::INVALID } else { Lsn(lsn) }, "{what}");
        }
    }

    #[test]
    fn a_checkpoint_waits_for_the_timeline_of_a_standby_and_takes_nothing_more_meanwhile() {
        let now = Instant::now();
        let mut transactions = transactions(None);
        transactions.ask_timeline(true);
        transactions.begin_at(Start { lsn: Lsn(1), records: Reached::NOTHING, is_cut: false }, 1);
        assert!(transactions.has_room(now) && !transactions.wants_timeline());
        // What is answered before a checkpoint waits was asked before its records were taken.
        transactions.timeline_is(2);
        assert!(!transactions.knows_timeline() && transactions.wants_timeline());
        assert!(!transactions.has_room(now));
        transactions.timeline_is(2);
        assert!(!transactions.has_room(now) && !transactions.wants_timeline());
        assert!(transactions.knows_timeline() && transactions.has_room(now));
        assert!(!transactions.knows_timeline(), "the next one asks again");
        transactions.is_promoted(3);
        assert!(transactions.knows_timeline() && transactions.has_room(now));
    }

    #[test]
    fn a_record_that_lies_before_the_last_one_is_in_another_topic() {
        let mut transactions = transactions(Some(found(100, 1)));
        transactions.delivered_own(7);
        transactions.begin_at(Start { lsn: Lsn(100), records: Reached::NOTHING, is_cut: false }, 1);
        transactions.delivered_own(9);
        assert!(!transactions.is_other_topic);
        transactions.delivered_own(0);
        assert!(transactions.is_other_topic);
    }
}
