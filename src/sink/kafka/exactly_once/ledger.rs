//! The decisions of exactly-once delivery: what joins which Kafka transaction, when a transaction is committed and with
//! which checkpoint, what is stored, and what to do next. The ledger calls nobody.
//! [`Transactions`](crate::sink::kafka::exactly_once::Transactions) does what [`Ledger::next`] returns and reports the
//! result to the ledger. The simulation does the same with its own Kafka.
//!
//! Invariants: a Kafka transaction contains whole PostgreSQL transactions and the checkpoint after them. A position is
//! stored only when the commit of its transaction has succeeded. No record settles before that.

#[cfg(test)]
mod tests;

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
use crate::sink::kafka::exactly_once::history::{Found, History};
use crate::sink::kafka::exactly_once::own_records::OwnRecords;
use crate::sink::kafka::exactly_once::vouching::Vouching;
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
    Found(Box<Found>),
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
    /// Whether the position is to be stored although it has not moved.
    owed: bool,
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
            owed: false,
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
        self.owed = false;
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
        self.vouching = Vouching::of(may_change);
    }

    /// Whether a checkpoint waits for the timeline of the changes taken so far.
    #[must_use]
    pub fn wants_timeline(&self) -> bool {
        self.vouching == Vouching::Wanted
    }

    /// The timeline, as requested after a checkpoint began to wait for it.
    pub fn timeline_is(&mut self, timeline: u32) {
        if self.vouching.answer() {
            self.identity.timeline = timeline;
        }
    }

    /// The server was promoted to this timeline, which does not change any more.
    pub fn is_promoted(&mut self, timeline: u32) {
        self.identity.timeline = timeline;
        self.vouching = Vouching::Never;
    }

    /// Whether changes can be taken now.
    #[must_use]
    pub fn has_room(&self, now: Instant) -> bool {
        if self.vouching.holds_changes() {
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
            Stage::Found(found) => Some(Found::clone(found)),
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

    /// Stores this position in a transaction of its own, or with the records of the open one: the position, or what is kept
    /// with it, is set from outside the stream.
    ///
    /// # Panics
    /// Before the checkpoint was read and judged.
    pub fn store(&mut self, position: Stored) {
        assert!(self.has_begun(), "a position was stored before the checkpoint was read");
        self.idle = position.end_lsn;
        self.records = position.records_end();
        self.identity.timeline = position.timeline;
        self.identity.snapshot = position.snapshot;
        self.owed = true;
    }

    /// Whether [`Ledger::store`] was called and its position is not committed.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.owed || matches!(self.stage, Stage::Committing { .. })
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
                if !self.vouching.knows_timeline() {
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
                    Some(sealed) if is_due && traffic.is_none_held && self.vouching.knows_timeline() => {
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
        self.owed = false;
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
        found.map(|found| self.stage = Stage::Found(Box::new(found))).is_some()
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
        if self.owed {
            return Some(now);
        }
        if self.idle <= self.stored {
            return None;
        }
        match self.stored_at {
            Some(at) if self.idle.bytes_since(self.stored) < CHECKPOINT_BYTES => Some(at + CHECKPOINT_INTERVAL),
            _ => Some(now),
        }
    }
}
