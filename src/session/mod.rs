//! The state of one replication session: frames in, steps out. Knows neither libpq nor Kafka, reads no clock.
//!
//! It follows transactions, numbers the records, opens and seals the ring's entries, decides what may be confirmed, and
//! knows when the job is done. The pump does what the steps say: hands changes to the sink, asks the catalog, sends
//! status updates.

mod error;
mod goal;
mod item;
mod messages;
mod resumption;
mod step;
#[cfg(test)]
mod tests;

use std::time::Instant;

pub use self::error::Error;
pub use self::goal::Goal;
pub use self::item::Item;
use self::resumption::Extent;
pub use self::step::{EnvelopeClock, Sealed, Step, Truncations};

use crate::change::{Ticket, Transaction};
use crate::clock::PgTimestamp;
use crate::feedback::{Confirming, Feedback, Timing};
use crate::lsn::Lsn;
use crate::relations::{AnnouncedType, Relations};
use crate::ring::Ring;

/// The prefix of non-transactional messages that only move a slot on, and become no record.
pub const IDLE_PREFIX: &str = "walcat.idle";

/// A transaction between its Begin and its Commit.
#[derive(Clone, Copy, Debug)]
struct Open {
    transaction: Transaction,
    /// Its entry, once it has a record.
    ticket: Option<Ticket>,
    /// The number of the next record with a value.
    total_order: u64,
    /// The number of the next logical message.
    message_order: u64,
    /// Counts transactions, so that the relations' own numbers begin anew in each.
    sequence: u64,
    /// What was read of it.
    extent: Extent,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Between,
    Transaction(Open),
    /// A transaction that was read in part comes again: what was taken of it is not wanted.
    Again {
        open: Open,
        seen: Extent,
    },
    /// A transaction that was delivered before: none of it is wanted.
    Passing {
        commit_lsn: Lsn,
    },
    Done,
}

/// Counts since the start, for the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Transactions whose Commit was read.
    pub transactions: u64,
    /// Rows, truncations and messages.
    pub changes: u64,
    /// Records handed to the sink.
    pub records: u64,
}

/// How a session is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The slot's confirmed position, or the position that was asked for.
    pub start: Lsn,
    /// When it ends.
    pub goal: Goal,
    /// Whether positions are confirmed.
    pub confirming: Confirming,
    /// The envelope's clock.
    pub clock: EnvelopeClock,
    /// What becomes of a TRUNCATE.
    pub truncations: Truncations,
    /// When status updates are due.
    pub timing: Timing,
    /// The capacity of the ring.
    pub entries_max: usize,
}

/// The state of one replication session.
#[derive(Debug)]
pub struct Session {
    goal: Goal,
    clock: EnvelopeClock,
    truncations: Truncations,
    phase: Phase,
    ring: Ring,
    feedback: Feedback,
    relations: Relations,
    /// The types of the Relation that comes next, or came last.
    types: Vec<AnnouncedType>,
    types_are_old: bool,
    last_commit_time: PgTimestamp,
    /// Numbers the transactions as they begin.
    sequence: u64,
    /// What ends at or before it was delivered before.
    delivered_before: Lsn,
    /// The transaction that was read in part when the session was given up; it comes next.
    again: Option<Open>,
    counters: Counters,
}

impl Session {
    /// A session that starts now.
    #[must_use]
    pub fn new(options: Options, now: Instant) -> Self {
        let mut session = Session {
            goal: options.goal,
            clock: options.clock,
            truncations: options.truncations,
            phase: Phase::Between,
            ring: Ring::with_capacity(options.entries_max),
            feedback: Feedback::new(options.start, options.timing, options.confirming, now),
            relations: Relations::default(),
            types: Vec::new(),
            types_are_old: false,
            last_commit_time: PgTimestamp::from_unix_us(0),
            sequence: 0,
            delivered_before: Lsn::INVALID,
            again: None,
            counters: Counters::default(),
        };
        session.reach(options.start);
        session
    }

    /// What ends at or before `lsn` was delivered before, as a store says: it is passed over when it comes again.
    pub fn pass_before(&mut self, lsn: Lsn) {
        self.delivered_before = lsn;
    }

    /// Where a new connection goes on so that nothing is missing: after all that was read whole, which is delivered or
    /// still in flight.
    #[must_use]
    pub fn resume_lsn(&self) -> Lsn {
        self.ring.greatest_confirm().map_or(Lsn::INVALID, |confirm| confirm.lsn).max(self.feedback.delivered())
    }

    /// The last position that records were handed out for, delivered or not; 0/0 for none. A server that does not have it
    /// lacks what consumers may hold.
    #[must_use]
    pub fn records_end(&self) -> Lsn {
        let in_flight = self.ring.greatest_confirm().map_or(Lsn::INVALID, |confirm| confirm.records_end);
        let open = match self.partly_read() {
            // It ends after the beginning of its commit record.
            Some(Open { ticket: Some(_), transaction, .. }) => Lsn(transaction.commit_lsn.0 + 1),
            _ => Lsn::INVALID,
        };
        in_flight.max(open).max(self.feedback.records_end())
    }

    /// The WAL of the server that is connected now is another one after `limit`: nothing beyond it is claimed. What has
    /// records ends before it; an idle position may have lain beyond.
    pub fn cut(&mut self, limit: Lsn) {
        self.ring.cut(limit);
        self.feedback.cut(limit);
    }

    /// What has to be read up to `target` on a server whose WAL is another one after `limit`.
    pub fn cut_goal(&mut self, limit: Lsn) {
        if let Goal::Once { target } = &mut self.goal {
            *target = limit.min(*target);
        }
    }

    /// A store says that all up to `lsn` is delivered: it is passed over when it comes again.
    pub fn begin_at(&mut self, lsn: Lsn) {
        self.pass_before(lsn);
        self.feedback.heard_position(lsn);
        self.feedback.deliver(lsn);
    }

    /// A new connection goes on at [`Session::resume_lsn`]. What is in flight stays in flight; a transaction that was
    /// read in part comes again from its first record.
    ///
    /// # Errors
    /// [`Error::Ticket`], a defect.
    pub fn reconnected(&mut self, now: Instant) -> Result<(), Error> {
        if let Some(Open { ticket: Some(ticket), .. }) = self.partly_read() {
            // Its records settle as any others, and confirm nothing.
            self.ring.seal(ticket, Lsn::INVALID)?;
        }
        self.again = None;
        self.begin_connection(now);
        self.advance();
        Ok(())
    }

    /// A new connection begins again at what is stored: nothing that is in flight will be delivered.
    pub fn restarted(&mut self, now: Instant) {
        self.ring.clear();
        self.phase = Phase::Between;
        self.again = None;
        self.begin_connection(now);
    }

    fn begin_connection(&mut self, now: Instant) {
        if !self.is_done() {
            self.phase = Phase::Between;
        }
        self.relations.begin_connection();
        self.feedback.reconnected(now);
    }

    /// Takes one item. Call it only while [`Session::has_room`].
    ///
    /// # Errors
    /// [`Error::Order`]: the stream cannot go on; nothing of the item is confirmed.
    pub fn accept<'a>(&mut self, item: &Item<'a>, now: Instant, processed_unix_ns: i64) -> Result<Step<'a>, Error> {
        match *item {
            Item::Keepalive { wal_end, reply_requested } => {
                self.feedback.heard(wal_end, now);
                if reply_requested {
                    self.feedback.reply_requested();
                }
                if matches!(self.phase, Phase::Between) {
                    // The last sent position holds no change that is not in the ring.
                    self.confirm_after_all(wal_end);
                    self.reach(wal_end);
                }
                Ok(Step::Nothing)
            }
            Item::Message { lsn, message } => {
                self.feedback.heard(lsn, now);
                self.message(lsn, message, processed_unix_ns)
            }
            // The position may lie inside a record, so it is not confirmed.
            Item::ReadUpTo(lsn) => {
                if matches!(self.phase, Phase::Between) {
                    self.reach(lsn);
                }
                Ok(Step::Nothing)
            }
        }
    }

    /// `records` of an entry are delivered. Call [`Session::advance`] after a batch of reports.
    ///
    /// # Errors
    /// [`Error::Ticket`] when the ticket is not in flight, or has fewer records under way.
    pub fn settle(&mut self, ticket: Ticket, records: u32) -> Result<(), Error> {
        Ok(self.ring.settle(ticket, records)?)
    }

    /// Confirms what has become confirmable.
    pub fn advance(&mut self) {
        if let Some(confirm) = self.ring.advance() {
            self.feedback.deliver(confirm.lsn);
            self.feedback.deliver_records(confirm.records_end);
        }
    }

    /// Whether the next frame can be accepted.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ring.has_room()
    }

    /// Whether everything that was read is delivered. A transaction of which only a part was read is not.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether a transaction has been read in part.
    #[must_use]
    pub fn is_inside_transaction(&self) -> bool {
        matches!(self.phase, Phase::Transaction(_)) || self.partly_read().is_some()
    }

    /// Whether the job's end is reached.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// The relations that the stream has announced.
    pub fn relations(&mut self) -> &mut Relations {
        &mut self.relations
    }

    /// The transaction that is being read.
    #[must_use]
    pub fn xid(&self) -> Option<u32> {
        match self.phase {
            Phase::Transaction(open) | Phase::Again { open, .. } => Some(open.transaction.xid),
            Phase::Between | Phase::Passing { .. } | Phase::Done => None,
        }
    }

    /// The types that were announced for the Relation that came last.
    pub fn take_types(&mut self) -> Vec<AnnouncedType> {
        std::mem::take(&mut self.types)
    }

    /// Positions and when status updates are due.
    pub fn feedback(&mut self) -> &mut Feedback {
        &mut self.feedback
    }

    /// What is in flight.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Confirms a position that nothing new is before: now, or together with the newest entry in flight.
    fn confirm_after_all(&mut self, lsn: Lsn) {
        if self.ring.is_empty() {
            self.feedback.deliver(lsn);
        } else {
            self.ring.extend_newest(lsn);
        }
    }

    /// Everything up to `lsn` has been read: is that the end of the job?
    fn reach(&mut self, lsn: Lsn) {
        if self.goal.is_reached(lsn) {
            self.phase = Phase::Done;
        }
    }
}
