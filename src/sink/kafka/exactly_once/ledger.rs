//! The decisions of exactly-once delivery: what joins which Kafka transaction, when a transaction is committed and with
//! which checkpoint, what is stored, and what to do next. The ledger calls nobody.
//! [`Transactions`](crate::sink::kafka::exactly_once::Transactions) does what [`Ledger::next`] returns and reports the
//! result to the ledger. The simulation does the same with its own Kafka.
//!
//! Invariants: a Kafka transaction contains whole PostgreSQL transactions and the checkpoint after them. A position is
//! stored only when the commit of its transaction has succeeded. No record settles before that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::change::Ticket;
use crate::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, RING_ENTRIES_MAX};
use crate::lsn::Lsn;
use crate::position::{FullKeys, Reached, Start, Stored};
use crate::session::Sealed;
use crate::sink::kafka::client::transaction_calls::CallError;
use crate::sink::kafka::error::Error;
use crate::sink::kafka::exactly_once::checkpoint::{Checkpoint, Instance};
use crate::sink::kafka::exactly_once::history::History;
use crate::sink::kafka::exactly_once::own_records::OwnRecords;
use crate::snapshot::Progress;

/// The maximum number of units of confirmation in one Kafka transaction: half of the ring.
const UNITS_MAX: usize = RING_ENTRIES_MAX / 2;

/// The limits of a Kafka transaction.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long a transaction stays open for more changes.
    pub interval: Duration,
    /// The number of records after which no further PostgreSQL transaction joins.
    pub records_max: u64,
    /// Kafka's limit, `transaction.timeout.ms`.
    pub timeout: Duration,
}

/// The state of the producer's pending work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// No record waits for its delivery report.
    pub is_flight_empty: bool,
    /// No record waits for its topic.
    pub is_none_held: bool,
    /// No broker answers.
    pub is_outage: bool,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Do nothing now.
    Nothing,
    /// Take the transactional id, which fences its previous owner. Then call [`Ledger::asked`].
    TakeId,
    /// Put a start record into the transaction. Then call [`Ledger::announced`].
    Announce,
    /// Commit the transaction. Then call [`Ledger::asked`].
    Commit,
    /// Check whether the call has returned. Then call [`Ledger::answered`].
    Await,
    /// Read the checkpoint topic. Then call [`Ledger::handle_history`].
    Read,
    /// Put the checkpoint into the transaction. Then call [`Ledger::sealed_with`].
    Seal(Box<Checkpoint>),
}

/// Whether librdkafka was asked for the call that ends the stage. Once it was asked to commit, only librdkafka
/// determines the outcome, and the transaction can no longer be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    NotAsked,
    Asked,
}

/// Whether the timeline must be requested before a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vouching {
    /// The timeline does not change during the stream.
    Never,
    /// The timeline can change; no checkpoint waits for it now.
    Later,
    /// A checkpoint waits for the timeline, and no more changes are taken.
    Wanted,
    /// The timeline is known for the checkpoint that waited.
    Answered,
}

/// The contents of the checkpoint topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stored position.
    pub stored: Option<Stored>,
    /// The slot's position when the first instance started, if nothing had been read from the slot.
    pub unread_slot_at: Option<Lsn>,
}

impl Found {
    /// What was read, once it is complete: it is when the start record of the reading instance was read.
    #[must_use]
    pub fn of(history: &History) -> Option<Self> {
        history.has_seen_start.then(|| Found {
            stored: history.checkpoint.as_ref().map(|checkpoint| checkpoint.stored.clone()),
            unread_slot_at: history.first_start.as_ref().and_then(|start| start.unread_slot_at),
        })
    }
}

#[derive(Clone, Debug)]
enum Stage {
    /// The transactional id is being taken.
    Initializing { call: Asking },
    /// The process has the id; nothing else was done.
    Taken,
    /// The start record is in flight, or its transaction is being committed.
    Announcing { call: Asking },
    /// The checkpoint topic is being read up to the start record.
    Reading,
    /// The stored position is known, but not checked yet.
    Found(Found),
    /// The open transaction is empty: Kafka does not know it yet.
    Idle,
    /// A transaction is open; its first change opened it.
    Open { since: Instant, records: u64 },
    /// The checkpoint is in flight, or its transaction is being committed.
    Committing { checkpoint: Lsn, call: Asking },
    /// Aborted, to end or to restart. If the producer was only asked to take the transactional id, the same producer
    /// restarts: the late answer to that request would fence another one.
    Closed { untouched: Option<Asking> },
}

/// The transactions of this process, across producers.
#[derive(Debug)]
pub struct Ledger {
    bounds: Bounds,
    /// The constant part of each stored position.
    identity: Stored,
    instance: Instance,
    stage: Stage,
    /// Whether a PostgreSQL transaction was taken in part.
    inside: bool,
    /// The last whole PostgreSQL transaction in the open Kafka transaction.
    sealed: Option<Sealed>,
    /// The contents of the open transaction: the number of records per entry, in order.
    taken: Vec<(Ticket, u32)>,
    /// The contents of committed transactions that are not reported yet.
    committed: VecDeque<(Ticket, u32)>,
    stored: Lsn,
    stored_at: Option<Instant>,
    /// The end of the last stored records.
    records: Reached,
    /// The last position that this process stored or found stored, regardless of what has happened since.
    known: Lsn,
    vouching: Vouching,
    /// Whether a start record of this process was ever committed.
    has_announced: bool,
    own_records: OwnRecords,
    /// A position after the stored one that no transaction carries yet.
    idle: Lsn,
    /// Commit without waiting for the interval, because the run ends.
    hurry: bool,
    /// The stored position when a transaction was aborted because it was open for too long.
    expired_at: Option<Lsn>,
}

impl Ledger {
    /// The start: no transaction exists.
    #[must_use]
    pub fn new(bounds: Bounds, identity: Stored, instance: Instance) -> Self {
        Ledger {
            bounds,
            identity,
            instance,
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
            own_records: OwnRecords::new(),
            idle: Lsn::INVALID,
            hurry: false,
            expired_at: None,
        }
    }

    /// Restarts; returns whether a new producer is needed.
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
        self.own_records.renew();
        untouched.is_none()
    }

    /// This process.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The position that is committed in Kafka.
    #[must_use]
    pub fn stored(&self) -> Lsn {
        self.stored
    }

    /// The last position that this process knew to be stored; 0/0 if there is none.
    #[must_use]
    pub fn known(&self) -> Lsn {
        self.known
    }

    /// Whether a start record of this process was ever committed.
    #[must_use]
    pub fn has_announced(&self) -> bool {
        self.has_announced
    }

    /// Whether to request the timeline before each checkpoint: the server is a standby, which can be promoted.
    pub fn ask_timeline(&mut self, may_change: bool) {
        self.vouching = if may_change { Vouching::Later } else { Vouching::Never };
    }

    /// Whether a checkpoint waits for the timeline of the changes taken so far.
    #[must_use]
    pub fn wants_timeline(&self) -> bool {
        self.vouching == Vouching::Wanted
    }

    /// The timeline, as requested after a checkpoint began to wait for it.
    pub fn timeline_is(&mut self, timeline: u32) {
        if self.vouching == Vouching::Wanted {
            self.identity.timeline = timeline;
            self.vouching = Vouching::Answered;
        }
    }

    /// The server was promoted to this timeline, which does not change any more.
    pub fn is_promoted(&mut self, timeline: u32) {
        self.identity.timeline = timeline;
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
            // A transaction that is due takes no more PostgreSQL transactions. The records in flight must not fill the
            // ring: otherwise the end of a partly taken PostgreSQL transaction could not be read.
            Stage::Open { since, records } => {
                let is_due = records >= self.bounds.records_max
                    || self.taken.len() >= UNITS_MAX
                    || now >= since + self.bounds.interval;
                self.inside || !is_due
            }
            _ => false,
        }
    }

    /// The stored position, once it is known and until [`Ledger::begin_at`] has checked it; only then are changes
    /// taken.
    #[must_use]
    pub fn found(&self) -> Option<Found> {
        match &self.stage {
            Stage::Found(found) => Some(found.clone()),
            _ => None,
        }
    }

    /// Stores these keys with each position from now on.
    pub fn keep_full_keys(&mut self, full_keys: FullKeys) {
        self.identity.full_keys = full_keys;
    }

    /// Stores this progress of the snapshots with each position from now on. Call it between the last record that it includes
    /// and the next one.
    pub fn keep_snapshot(&mut self, snapshot: Option<Progress>) {
        self.identity.snapshot = snapshot;
    }

    /// The stream continues at this position of this timeline.
    pub fn begin_at(&mut self, start: Start, timeline: u32) {
        let Stage::Found(found) = &self.stage else { panic!("the stream started before the checkpoint was read") };
        // A first position, one that the operator has chosen, and one that was cut or reached on another timeline must
        // be stored before anything is confirmed.
        let is_stored =
            found.stored.as_ref().is_some_and(|found| (found.end_lsn, found.timeline) == (start.lsn, timeline));
        self.stored = if is_stored { start.lsn } else { Lsn::INVALID };
        self.known = self.stored;
        self.records = start.records;
        self.idle = start.lsn;
        self.stored_at = None;
        self.identity.timeline = timeline;
        self.stage = Stage::Idle;
    }

    /// Opens a transaction unless one is open. Call it before taking a change.
    pub fn open(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Idle) {
            self.stage = Stage::Open { since: now, records: 0 };
        }
    }

    /// Records of an entry were taken into the open transaction.
    pub fn take(&mut self, ticket: Ticket, count: u32, is_transactional: bool) {
        assert!(count > 0, "a change has no records");
        let Stage::Open { records, .. } = &mut self.stage else {
            // One of its records was rejected at once, because the transaction has failed.
            assert!(self.is_closed(), "a change was taken outside a Kafka transaction");
            return;
        };
        *records += u64::from(count);
        self.inside |= is_transactional;
        match self.taken.last_mut() {
            // If the sum exceeds 32 bits, the entry gets another element.
            Some((last, sum)) if *last == ticket && sum.checked_add(count).is_some() => *sum += count,
            _ => self.taken.push((ticket, count)),
        }
    }

    /// A PostgreSQL transaction, or a message outside a transaction, is complete.
    pub fn seal(&mut self, sealed: Sealed) {
        self.inside = false;
        self.sealed = Some(sealed);
    }

    /// Commits without waiting for the interval.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// The next entry of a committed transaction, with the number of its records.
    pub fn settled(&mut self) -> Option<(Ticket, u32)> {
        self.committed.pop_front()
    }

    /// A record of ours has this offset in the checkpoint topic.
    pub fn delivered_own(&mut self, offset: i64) {
        self.own_records.delivered(offset, self.known.is_valid());
    }

    /// Whether there is nothing to deliver as far as known.
    #[must_use]
    pub fn rests(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Found(_))
    }

    /// Whether everything taken so far was discarded.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed { .. })
    }

    /// Whether the previously delivered position is known and checked.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Initializing { .. } | Stage::Taken | Stage::Announcing { .. } | Stage::Reading | Stage::Found(_)
        )
    }

    /// Whether nothing is left to commit, except a PostgreSQL transaction that is not complete.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let rests = match self.stage {
            Stage::Committing { .. } => false,
            Stage::Open { .. } => self.inside,
            _ => true,
        };
        rests && self.committed.is_empty()
    }

    /// Everything before this position is delivered, and nothing is in flight. The position is stored in a transaction
    /// of its own: now if `at_once` is set, otherwise when it is far enough after the stored one.
    pub fn offer(&mut self, delivered: Lsn, at_once: bool) {
        self.idle = self.idle.max(delivered);
        if at_once {
            self.stored_at = None;
        }
    }

    /// The next thing to do.
    ///
    /// # Errors
    /// [`Error::Aborted`] and [`Error::TransactionTooLong`] for a transaction that Kafka would soon abort.
    pub fn next(&mut self, traffic: Traffic, now: Instant) -> Result<Task, Error> {
        Ok(match self.stage {
            Stage::Initializing { call: Asking::NotAsked } => Task::TakeId,
            Stage::Taken => Task::Announce,
            Stage::Committing { call: Asking::NotAsked, .. }
                if traffic.is_flight_empty && self.own_records.are_elsewhere() =>
            {
                return Err(Error::Aborted { reason: "the checkpoint topic was replaced by another one".to_owned() });
            }
            Stage::Announcing { call: Asking::NotAsked } | Stage::Committing { call: Asking::NotAsked, .. } => {
                if traffic.is_flight_empty {
                    Task::Commit
                } else {
                    Task::Nothing
                }
            }
            Stage::Initializing { .. } | Stage::Announcing { .. } | Stage::Committing { .. } => Task::Await,
            Stage::Reading => Task::Read,
            Stage::Idle if self.idle_due_at(now).is_some_and(|due_at| now >= due_at) => {
                if !self.knows_timeline() {
                    return Ok(Task::Nothing);
                }
                let sealed = Sealed { commit_lsn: self.idle, end_lsn: self.idle, xid: 0 };
                Task::Seal(self.checkpoint(sealed, self.records))
            }
            Stage::Open { since, .. } if self.inside => {
                self.check_length(since, traffic.is_outage, now)?;
                Task::Nothing
            }
            Stage::Open { .. } => {
                let is_due = self.hurry || !self.has_room(now);
                let sealed = self.sealed;
                match sealed {
                    Some(sealed) if is_due && traffic.is_none_held && self.knows_timeline() => {
                        let records = Reached { timeline: self.identity.timeline, lsn: sealed.end_lsn };
                        Task::Seal(self.checkpoint(sealed, records))
                    }
                    _ => Task::Nothing,
                }
            }
            Stage::Found(_) | Stage::Idle | Stage::Closed { .. } => Task::Nothing,
        })
    }

    /// The call for [`Task::TakeId`] or [`Task::Commit`] was made.
    pub fn asked(&mut self) {
        let (Stage::Initializing { call } | Stage::Announcing { call } | Stage::Committing { call, .. }) =
            &mut self.stage
        else {
            panic!("the ledger did not ask for this call");
        };
        *call = Asking::Asked;
    }

    /// The start record is in a transaction.
    pub fn announced(&mut self) {
        assert!(matches!(self.stage, Stage::Taken), "a start record was written without a transactional id");
        self.stage = Stage::Announcing { call: Asking::NotAsked };
    }

    /// The checkpoint is in the transaction, which takes no more records.
    pub fn sealed_with(&mut self, checkpoint: &Stored) {
        assert!(
            matches!(self.stage, Stage::Idle | Stage::Open { .. }),
            "a checkpoint was written outside a transaction"
        );
        assert!(!self.inside, "a checkpoint was written inside a PostgreSQL transaction");
        self.sealed = None;
        self.records = checkpoint.records_end();
        self.stage = Stage::Committing { checkpoint: checkpoint.end_lsn, call: Asking::NotAsked };
    }

    /// The call has returned. Returns the stored position if it is new.
    ///
    /// # Errors
    /// The error of the call: its outcome is unknown, and the producer cannot be used any more.
    pub fn answered(&mut self, result: Result<(), CallError>, now: Instant) -> Result<Option<Lsn>, CallError> {
        if let Err(error) = result {
            self.stage = Stage::Closed { untouched: None };
            return Err(error);
        }
        match self.stage {
            Stage::Initializing { .. } => self.stage = Stage::Taken,
            Stage::Announcing { .. } => {
                self.has_announced = true;
                self.stage = Stage::Reading;
            }
            Stage::Committing { checkpoint, .. } => {
                self.stored = checkpoint;
                self.known = checkpoint;
                self.stored_at = Some(now);
                self.committed.extend(self.taken.drain(..));
                self.stage = Stage::Idle;
                return Ok(Some(checkpoint));
            }
            _ => panic!("the ledger did not ask for the call that was answered"),
        }
        Ok(None)
    }

    /// Processes what was read of the checkpoint topic. Returns whether it is complete: it is once our own start record
    /// was read.
    pub fn handle_history(&mut self, history: &History) -> bool {
        let found = Found::of(history).filter(|_| matches!(self.stage, Stage::Reading));
        found.map(|found| self.stage = Stage::Found(found)).is_some()
    }

    /// The time by which [`Ledger::next`] must be called again. `look` is the time for what must be polled.
    #[must_use]
    pub fn deadline(&self, is_flight_empty: bool, look: Instant, now: Instant) -> Option<Instant> {
        match &self.stage {
            // The answer wakes the loop.
            Stage::Idle | Stage::Open { .. } if self.vouching == Vouching::Wanted => None,
            Stage::Idle | Stage::Open { .. } if self.vouching == Vouching::Answered => Some(now),
            Stage::Initializing { call: Asking::NotAsked } | Stage::Reading => Some(look),
            Stage::Open { since, .. } if self.inside => Some(*since + self.longest()),
            // A held record, whose topic is being created, wakes the loop.
            Stage::Open { since, .. } => Some((*since + self.bounds.interval).max(look)),
            Stage::Idle => self.idle_due_at(now),
            Stage::Taken => Some(now),
            // The last delivery report was processed after the last check.
            Stage::Announcing { call: Asking::NotAsked } | Stage::Committing { call: Asking::NotAsked, .. }
                if is_flight_empty =>
            {
                Some(now)
            }
            // Delivery reports and a call's result wake the loop.
            _ => None,
        }
    }

    /// Ends the transactions. Returns whether an open transaction can be aborted. A transaction that is being committed
    /// cannot: the checkpoint shows its outcome once the id is taken again.
    pub fn close(&mut self) -> bool {
        let untouched = match self.stage {
            Stage::Initializing { call } => Some(call),
            Stage::Closed { untouched } => untouched,
            _ => None,
        };
        matches!(
            std::mem::replace(&mut self.stage, Stage::Closed { untouched }),
            Stage::Open { .. }
                | Stage::Committing { call: Asking::NotAsked, .. }
                | Stage::Announcing { call: Asking::NotAsked }
        )
    }

    fn checkpoint(&self, sealed: Sealed, records: Reached) -> Box<Checkpoint> {
        Box::new(Checkpoint {
            stored: Stored { end_lsn: sealed.end_lsn, records: Some(records), ..self.identity.clone() },
            commit_lsn: sealed.commit_lsn,
            xid: sealed.xid,
            instance: self.instance.clone(),
        })
    }

    fn longest(&self) -> Duration {
        self.bounds.timeout.mul_f64(0.9)
    }

    /// Kafka aborts a transaction that is open for too long, and a PostgreSQL transaction cannot be split.
    fn check_length(&mut self, since: Instant, is_outage: bool, now: Instant) -> Result<(), Error> {
        if now < since + self.longest() {
            return Ok(());
        }
        let open_ms = now.saturating_duration_since(since).as_millis();
        // A pause on either side may be the reason: only a second timeout at the same position counts.
        if is_outage || self.expired_at.replace(self.stored) != Some(self.stored) {
            return Err(Error::Aborted {
                reason: format!("it has been open for {open_ms} ms, and Kafka would soon abort it"),
            });
        }
        Err(Error::TransactionTooLong { open_ms, timeout_ms: self.bounds.timeout.as_millis() })
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
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;
    use crate::sink::kafka::exactly_once::checkpoint::{self, render_checkpoint, render_start};

    const SECOND: Duration = Duration::from_secs(1);
    const QUIET: Traffic = Traffic { is_flight_empty: true, is_none_held: true, is_outage: false };

    fn stored(end_lsn: u64) -> Stored {
        let records = Some(Reached { timeline: 1, lsn: Lsn(end_lsn) });
        let (system_identifier, slot) = ("7".to_owned(), "s".to_owned());
        Stored {
            system_identifier,
            timeline: 1,
            slot,
            end_lsn: Lsn(end_lsn),
            records,
            full_keys: FullKeys::new(),
            snapshot: None,
        }
    }

    fn instance() -> Instance {
        Instance { host: "h".to_owned(), pid: 7, started_unix_ms: 1, renewal: 0 }
    }

    fn ledger() -> Ledger {
        let bounds = Bounds { interval: SECOND, records_max: 100, timeout: 60 * SECOND };
        Ledger::new(bounds, stored(0), instance())
    }

    /// A ledger that has read this checkpoint and begins at `start`.
    fn begun(found: Option<u64>, start: u64, now: Instant) -> Ledger {
        let mut ledger = ledger();
        assert_eq!(ledger.next(QUIET, now).unwrap(), Task::TakeId);
        ledger.asked();
        ledger.answered(Ok(()), now).unwrap();
        assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Announce);
        ledger.announced();
        commit(&mut ledger, now);
        let mut history = History::new(ledger.instance());
        if let Some(found) = found {
            let (stored, instance) = (stored(found), instance());
            history.take(&render_checkpoint(Checkpoint { stored, commit_lsn: Lsn(1), xid: 1, instance })).unwrap();
        }
        assert!(!ledger.handle_history(&history), "our start record has not been read");
        history.take(&render_start(checkpoint::Start { instance: instance(), unread_slot_at: Some(Lsn(1)) })).unwrap();
        assert!(ledger.handle_history(&history));
        let read = ledger.found().unwrap();
        assert_eq!((read.stored.map(|stored| stored.end_lsn.0), read.unread_slot_at), (found, Some(Lsn(1))));
        assert!(!ledger.has_room(now) && !ledger.has_begun(), "the position is not checked");
        let records = Reached { timeline: 1, lsn: Lsn(start) };
        ledger.begin_at(Start { lsn: Lsn(start), records, is_cut: false }, 1);
        ledger
    }

    fn commit(ledger: &mut Ledger, now: Instant) -> Option<Lsn> {
        let busy = Traffic { is_flight_empty: false, ..QUIET };
        assert_eq!(ledger.next(busy, now).unwrap(), Task::Nothing, "records are in flight");
        assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Commit);
        ledger.asked();
        assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Await);
        ledger.answered(Ok(()), now).unwrap()
    }

    fn take(ledger: &mut Ledger, ticket: u64, now: Instant) {
        ledger.open(now);
        ledger.take(Ticket(ticket), 1, true);
    }

    fn seal(ledger: &mut Ledger, end_lsn: u64) {
        ledger.seal(Sealed { commit_lsn: Lsn(end_lsn - 1), end_lsn: Lsn(end_lsn), xid: 1 });
    }

    #[test]
    fn a_kafka_transaction_holds_whole_postgresql_transactions_and_settles_with_its_commit() {
        let now = Instant::now();
        let mut ledger = begun(Some(100), 100, now);
        take(&mut ledger, 0, now);
        seal(&mut ledger, 200);
        take(&mut ledger, 1, now);
        let later = now + 2 * SECOND;
        assert!(ledger.has_room(later), "the partly taken one must be read to its end");
        ledger.hurry();
        assert_eq!(ledger.next(QUIET, later).unwrap(), Task::Nothing);
        seal(&mut ledger, 300);
        assert!(!ledger.has_room(later), "the interval is over");
        let held = Traffic { is_none_held: false, ..QUIET };
        assert_eq!(ledger.next(held, later).unwrap(), Task::Nothing, "a record waits for its topic");
        let Task::Seal(checkpoint) = ledger.next(QUIET, later).unwrap() else { panic!("no checkpoint") };
        assert_eq!(checkpoint.stored, stored(300));
        ledger.sealed_with(&checkpoint.stored);
        assert_eq!((ledger.settled(), ledger.stored()), (None, Lsn(100)));
        assert_eq!(commit(&mut ledger, later), Some(Lsn(300)));
        assert_eq!(ledger.stored(), Lsn(300));
        assert_eq!(
            (ledger.settled(), ledger.settled(), ledger.settled()),
            (Some((Ticket(0), 1)), Some((Ticket(1), 1)), None)
        );
    }

    #[test]
    fn a_commit_that_failed_stores_and_settles_nothing() {
        let now = Instant::now();
        for code in [Code::RequestTimedOut, Code::InvalidProducerEpoch, Code::TopicAuthorizationFailed] {
            let mut ledger = begun(Some(100), 100, now);
            take(&mut ledger, 0, now);
            seal(&mut ledger, 200);
            ledger.hurry();
            let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
            ledger.sealed_with(&checkpoint.stored);
            ledger.next(QUIET, now).unwrap();
            ledger.asked();
            let error = CallError { code, reason: "none".to_owned() };
            assert!(ledger.answered(Err(error), now).is_err());
            assert_eq!((ledger.stored(), ledger.settled()), (Lsn(100), None));
            assert!(!ledger.has_room(now) && !ledger.close(), "its outcome is not known");
            assert!(ledger.renew(), "the producer cannot be used any more");
        }
    }

    #[test]
    fn a_position_that_no_checkpoint_has_is_stored_before_it_counts() {
        let now = Instant::now();
        for (found, start) in [(None, 100), (Some(100), 200), (Some(300), 200)] {
            let mut ledger = begun(found, start, now);
            assert_eq!(ledger.stored(), Lsn::INVALID, "{found:?}");
            let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
            assert_eq!(checkpoint.stored.end_lsn, Lsn(start));
            ledger.sealed_with(&checkpoint.stored);
            assert_eq!(commit(&mut ledger, now), Some(Lsn(start)));
        }
        let mut ledger = begun(Some(100), 100, now);
        assert_eq!((ledger.stored(), ledger.next(QUIET, now).unwrap()), (Lsn(100), Task::Nothing));
    }

    #[test]
    fn an_idle_position_waits_for_the_clock_and_not_for_who_ends_or_asks() {
        let now = Instant::now();
        let mut ledger = begun(None, 100, now);
        let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
        ledger.sealed_with(&checkpoint.stored);
        commit(&mut ledger, now);
        ledger.offer(Lsn(200), false);
        assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Nothing);
        assert_eq!(ledger.deadline(true, now, now), Some(now + CHECKPOINT_INTERVAL));
        assert!(matches!(ledger.next(QUIET, now + CHECKPOINT_INTERVAL).unwrap(), Task::Seal(_)));
        ledger.offer(Lsn(150), true);
        let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
        assert_eq!(checkpoint.stored.end_lsn, Lsn(200), "a lower position changes nothing");
        assert_eq!(checkpoint.stored.records_end().lsn, Lsn(100), "it had no records");
    }

    #[test]
    fn only_what_is_not_being_committed_is_given_up() {
        let now = Instant::now();
        assert!(!begun(Some(100), 100, now).close(), "nothing is open");
        let mut open = begun(Some(100), 100, now);
        take(&mut open, 0, now);
        assert!(open.close());
        assert!(open.renew(), "it needs another producer");
        assert_eq!((open.settled(), open.stored(), open.instance().renewal), (None, Lsn::INVALID, 1));
        let mut asked = ledger();
        asked.asked();
        assert!(!asked.close());
        assert!(!asked.renew(), "a late answer would fence another producer");
        assert_eq!(asked.next(QUIET, now).unwrap(), Task::Await);
    }

    #[test]
    fn a_postgresql_transaction_that_is_too_long_twice_is_too_long() {
        let now = Instant::now();
        for (is_outage, is_too_long) in [(false, true), (true, false)] {
            let mut ledger = begun(Some(100), 100, now);
            let traffic = Traffic { is_outage, ..QUIET };
            for round in 0..2 {
                take(&mut ledger, 0, now);
                assert_eq!(ledger.deadline(true, now, now), Some(now + 54 * SECOND));
                assert_eq!(ledger.next(traffic, now + 53 * SECOND).unwrap(), Task::Nothing);
                let error = ledger.next(traffic, now + 54 * SECOND).unwrap_err();
                let expected = is_too_long && round == 1;
                assert_eq!(matches!(error, Error::TransactionTooLong { .. }), expected, "{error}");
            }
        }
    }

    #[test]
    fn a_checkpoint_waits_for_the_timeline_of_a_standby_and_takes_nothing_more_meanwhile() {
        let now = Instant::now();
        let mut ledger = ledger();
        ledger.ask_timeline(true);
        ledger.stage = Stage::Idle;
        assert!(ledger.has_room(now) && !ledger.wants_timeline());
        // An answer that arrives before a checkpoint waits was requested before its records were taken.
        ledger.timeline_is(2);
        assert!(!ledger.knows_timeline() && ledger.wants_timeline());
        assert!(!ledger.has_room(now));
        ledger.timeline_is(2);
        assert!(!ledger.has_room(now) && !ledger.wants_timeline());
        assert!(ledger.knows_timeline() && ledger.has_room(now));
        assert!(!ledger.knows_timeline(), "the next one asks again");
        ledger.is_promoted(3);
        assert!(ledger.knows_timeline() && ledger.has_room(now));
    }

    #[test]
    fn a_position_that_differs_from_the_stored_one_is_stored_even_if_nothing_follows() {
        let now = Instant::now();
        let start = |lsn| Start { lsn: Lsn(lsn), records: Reached::NOTHING, is_cut: false };
        for (what, stored, lsn, timeline, is_due) in [
            ("as it was stored", Some(stored(100)), 100, 1, false),
            ("a first one", None, 100, 1, true),
            ("accepted below what is stored", Some(stored(200)), 100, 1, true),
            ("accepted above it", Some(stored(50)), 100, 1, true),
            ("on another timeline", Some(stored(100)), 100, 2, true),
        ] {
            let mut ledger = ledger();
            ledger.stage = Stage::Found(Found { stored, unread_slot_at: None });
            ledger.begin_at(start(lsn), timeline);
            assert_eq!(ledger.idle_due_at(now), is_due.then_some(now), "{what}");
            assert_eq!(ledger.stored(), if is_due { Lsn::INVALID } else { Lsn(lsn) }, "{what}");
        }
    }

    #[test]
    fn a_record_that_lies_before_the_last_one_is_in_another_topic() {
        let now = Instant::now();
        let mut ledger = begun(Some(100), 100, now);
        ledger.delivered_own(7);
        ledger.delivered_own(9);
        assert!(!ledger.own_records.are_elsewhere());
        take(&mut ledger, 0, now);
        seal(&mut ledger, 200);
        ledger.sealed_with(&stored(200));
        ledger.delivered_own(0);
        assert!(ledger.next(QUIET, now).is_err(), "its commit would store nothing");
    }
}
