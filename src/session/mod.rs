//! The state of one replication session: frames in, steps out. It does not know libpq or Kafka and reads no clock.
//!
//! It follows transactions, numbers the records, opens and seals the entries of the ring, decides what may be confirmed, and
//! knows when the job is done. The pump carries out the steps: it passes changes to the sink, asks the catalog and sends
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

/// The prefix of messages that request a snapshot; they become no record.
pub const REQUEST_PREFIX: &str = "walcat.snapshot";

/// The prefix of non-transactional messages that only advance a slot and become no record.
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
    /// The number of the transaction, so that the relations' own numbers start again in each.
    sequence: u64,
    /// How much of it was read.
    extent: Extent,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Between,
    Transaction(Open),
    /// The server sends a partly read transaction again: walcat skips the part that it has taken.
    Again {
        open: Open,
        seen: Extent,
    },
    /// A transaction that was delivered before: walcat skips it.
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

/// The settings of a session.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The slot's confirmed position, or the requested position.
    pub start: Lsn,
    /// When it ends.
    pub goal: Goal,
    /// Whether positions are confirmed.
    pub confirming: Confirming,
    /// The envelope's clock.
    pub clock: EnvelopeClock,
    /// What to do with a TRUNCATE.
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
    /// The types of the next Relation, or of the last one.
    types: Vec<AnnouncedType>,
    types_are_old: bool,
    last_commit_time: PgTimestamp,
    /// The number of the newest transaction.
    sequence: u64,
    /// Everything that ends at or before this position was delivered before.
    delivered_before: Lsn,
    /// The transaction that was read in part when the session was closed; the server sends it first.
    again: Option<Open>,
    /// The end of records that earlier connections passed to the sink, from transactions that are read again.
    records_taken: Lsn,
    counters: Counters,
    /// Everything that was committed before this position has been read.
    passed: Lsn,
}

impl Session {
    /// Creates a session that starts now.
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
            records_taken: Lsn::INVALID,
            counters: Counters::default(),
            passed: Lsn::INVALID,
        };
        session.reach(options.start);
        session
    }

    /// Skips everything that ends at or before `lsn`: it was delivered before, according to a store.
    pub fn pass_before(&mut self, lsn: Lsn) {
        self.delivered_before = lsn;
    }

    /// The position from which a new connection continues without a gap: after everything that was read whole, delivered or
    /// in flight.
    #[must_use]
    pub fn resume_lsn(&self) -> Lsn {
        self.ring.greatest_confirm().map_or(Lsn::INVALID, |confirm| confirm.lsn).max(self.feedback.delivered())
    }

    /// The last position for which records were passed to the sink, delivered or not; 0/0 for none. A server that does
    /// not have it misses changes that consumers may hold.
    #[must_use]
    pub fn records_end(&self) -> Lsn {
        let in_flight = self.ring.greatest_confirm().map_or(Lsn::INVALID, |confirm| confirm.records_end);
        let open = match self.partly_read() {
            // It ends after the start of its commit record.
            Some(Open { ticket: Some(_), transaction, .. }) => Lsn(transaction.commit_lsn.0 + 1),
            _ => Lsn::INVALID,
        };
        in_flight.max(open).max(self.feedback.records_end()).max(self.records_taken)
    }

    /// Gives up every position past `limit`, because the WAL of the new server differs after it. Records end before it; an
    /// idle position may have been past it.
    pub fn cut(&mut self, limit: Lsn) {
        self.ring.cut(limit);
        self.feedback.cut(limit);
        self.records_taken = self.records_taken.min(limit);
    }

    /// Moves a target that lies past `limit`, because the WAL of the new server differs after it.
    pub fn cut_goal(&mut self, limit: Lsn) {
        if let Goal::Once { target } = &mut self.goal {
            *target = limit.min(*target);
        }
    }

    /// Starts at `lsn`: according to a store, everything before it was delivered, so the session skips it.
    pub fn begin_at(&mut self, lsn: Lsn) {
        self.pass_before(lsn);
        self.feedback.heard_position(lsn);
        self.feedback.deliver(lsn);
    }

    /// Prepares for a new connection that continues at [`Session::resume_lsn`]. Records in flight stay in flight; the server
    /// sends a partly read transaction again from its first record.
    ///
    /// # Errors
    /// [`Error::Ticket`], which is a defect.
    pub fn reconnected(&mut self, now: Instant) -> Result<(), Error> {
        self.records_taken = self.records_end();
        if let Some(Open { ticket: Some(ticket), .. }) = self.partly_read() {
            // Its records settle like any others, and confirm nothing.
            self.ring.seal(ticket, Lsn::INVALID)?;
        }
        self.again = None;
        self.begin_connection(now);
        self.advance();
        Ok(())
    }

    /// Prepares for a new connection that starts again at the stored position: nothing in flight will be delivered.
    pub fn restarted(&mut self, now: Instant) {
        // Some of them may have been delivered.
        self.records_taken = self.records_end();
        self.ring.clear();
        self.phase = Phase::Between;
        self.again = None;
        self.begin_connection(now);
    }

    /// Opens an entry for the rows of a snapshot. Returns `None` if the ring is full.
    pub fn open_chunk(&mut self) -> Option<Ticket> {
        self.ring.open(self.resume_lsn())
    }

    /// Counts the records of a row of a snapshot.
    ///
    /// # Errors
    /// [`Error::Ticket`] if the ticket is not in flight.
    pub fn emitted_row(&mut self, ticket: Ticket, records: u32) -> Result<(), Error> {
        self.ring.add(ticket, records)?;
        self.counters.changes += 1;
        self.counters.records += u64::from(records);
        Ok(())
    }

    /// All rows of a snapshot's entry were taken. It confirms nothing itself: its rows are not in the WAL.
    ///
    /// # Errors
    /// [`Error::Ticket`] if the ticket is not in flight.
    pub fn seal_chunk(&mut self, ticket: Ticket) -> Result<(), Error> {
        self.ring.seal(ticket, Lsn::INVALID)?;
        self.advance();
        Ok(())
    }

    /// The transaction of which a part was emitted, on this connection or on the last one.
    #[must_use]
    pub fn emitting(&self) -> Option<u32> {
        match self.phase {
            Phase::Transaction(open) | Phase::Again { open, .. } => Some(open.transaction.xid),
            Phase::Between | Phase::Passing { .. } | Phase::Done => self.again.map(|open| open.transaction.xid),
        }
    }

    /// Everything that was committed before this position has been read.
    #[must_use]
    pub fn passed(&self) -> Lsn {
        self.passed
    }

    fn begin_connection(&mut self, now: Instant) {
        self.passed = Lsn::INVALID;
        if !self.is_done() {
            self.phase = Phase::Between;
        }
        self.relations.begin_connection();
        self.feedback.reconnected(now);
    }

    /// Handles one item. Only call this while [`Session::has_room`].
    ///
    /// # Errors
    /// [`Error::Order`]: the stream cannot continue, and nothing of the item is confirmed.
    pub fn accept<'a>(&mut self, item: &Item<'a>, now: Instant, processed_unix_ns: i64) -> Result<Step<'a>, Error> {
        match *item {
            Item::Keepalive { wal_end, reply_requested } => {
                self.feedback.heard(wal_end, now);
                if reply_requested {
                    self.feedback.reply_requested();
                }
                if matches!(self.phase, Phase::Between) {
                    // Every change before the last sent position is in the ring.
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

    /// Notes that `records` of an entry are delivered. Call [`Session::advance`] after a batch of reports.
    ///
    /// # Errors
    /// [`Error::Ticket`] if the ticket is not in flight, or has fewer records in flight.
    pub fn settle(&mut self, ticket: Ticket, records: u32) -> Result<(), Error> {
        Ok(self.ring.settle(ticket, records)?)
    }

    /// Confirms everything that can be confirmed now.
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

    /// Whether everything that was read is delivered. A partly read transaction does not count as delivered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether a transaction has been read in part.
    #[must_use]
    pub fn is_inside_transaction(&self) -> bool {
        matches!(self.phase, Phase::Transaction(_)) || self.partly_read().is_some()
    }

    /// The position where the job ends, as far as it is known.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        self.goal.end()
    }

    /// Whether the job is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// The relations that the stream has announced.
    pub fn relations(&mut self) -> &mut Relations {
        &mut self.relations
    }

    /// The transaction being read.
    #[must_use]
    pub fn xid(&self) -> Option<u32> {
        match self.phase {
            Phase::Transaction(open) | Phase::Again { open, .. } => Some(open.transaction.xid),
            Phase::Between | Phase::Passing { .. } | Phase::Done => None,
        }
    }

    /// The types announced for the last Relation.
    pub fn take_types(&mut self) -> Vec<AnnouncedType> {
        std::mem::take(&mut self.types)
    }

    /// The positions, and when status updates are due.
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

    /// Confirms a position before which nothing is missing: now, or together with the newest entry in flight.
    fn confirm_after_all(&mut self, lsn: Lsn) {
        if self.ring.is_empty() {
            self.feedback.deliver(lsn);
        } else {
            self.ring.extend_newest(lsn);
        }
    }

    /// Ends the job if everything up to `lsn` was all of it.
    fn reach(&mut self, lsn: Lsn) {
        self.passed = self.passed.max(lsn);
        if self.goal.is_reached(lsn) {
            self.phase = Phase::Done;
        }
    }
}
