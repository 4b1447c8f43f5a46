//! The state of one replication session: frames in, steps out. Knows neither libpq nor Kafka, reads no clock.
//!
//! It follows transactions, numbers the records, opens and seals the ring's entries, decides what may be confirmed, and
//! knows when the job is done. The pump does what the steps say: hands changes to the sink, asks the catalog, sends
//! status updates.

mod goal;
#[cfg(test)]
mod tests;

use std::time::Instant;

pub use self::goal::Goal;

use crate::change::{Change, OldRow, Operation, Position, RelationIndex, Row, Ticket, Transaction};
use crate::clock::PgTimestamp;
use crate::exit_code::ExitCode;
use crate::feedback::{Confirming, Feedback, Timing};
use crate::lsn::Lsn;
use crate::pgoutput::{self, Context, DecodeError, LogicalMessage, Message, Oids, OldTuple, RelationMessage};
use crate::relations::Relations;
use crate::replication::{self, Frame};
use crate::ring::{Ring, UnknownTicket};

/// The prefix of non-transactional messages that only move a slot on, and become no record.
pub const IDLE_PREFIX: &str = "walcat.idle";

/// Which clock goes into the envelope's `ts_ms`, `ts_us` and `ts_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeClock {
    /// The processing clock.
    Processing,
    /// The commit time, where the same WAL has to give the same bytes (dump, decode).
    Commit,
}

/// What becomes of a TRUNCATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncations {
    /// A record with op `t` for each table.
    Emit,
    /// Nothing.
    Skip,
}

/// What the pump has to do about a frame.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing.
    Nothing,
    /// Learn a relation before anything else is read.
    Relation(RelationMessage<'a>),
    /// Hand the change to the sink under the ticket, then call [`Session::emitted`].
    Change(Change<'a>, Ticket),
    /// The same for each of the relations, by [`Session::truncation`].
    Truncate(Lsn, Oids<'a>),
    /// A transaction that has records ends here.
    Sealed(Sealed),
    /// The frame lies beyond the end of the job: nothing of it is wanted, and nothing after it.
    Beyond,
}

/// The end of a unit of confirmation: where a sink that delivers whole transactions may draw its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The LSN of the commit record; of the message for a non-transactional one.
    pub commit_lsn: Lsn,
    /// What is confirmed once all of it is delivered.
    pub end_lsn: Lsn,
    /// The transaction; 0 for a non-transactional message.
    pub xid: u32,
}

/// What the server may not send, or what walcat did wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame that is none of the streaming protocol's.
    #[error("the server sent a frame that cannot be decoded, after {after}: {source}")]
    Frame { after: Lsn, source: replication::DecodeError },
    /// A message that is none of pgoutput's.
    #[error("the server sent a message that cannot be decoded, at {lsn}: {source}")]
    Message { lsn: Lsn, source: DecodeError },
    /// A message where it may not be.
    #[error("the server broke the protocol at {lsn}: {reason}")]
    Order { lsn: Lsn, reason: String },
    /// A record settled that was never in flight.
    #[error(transparent)]
    Ticket(#[from] UnknownTicket),
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Frame { .. } | Error::Message { .. } | Error::Order { .. } => ExitCode::Protocol,
            Error::Ticket(_) => ExitCode::Defect,
        }
    }
}

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
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Between,
    Transaction(Open),
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
    last_commit_time: PgTimestamp,
    /// Numbers the transactions as they begin.
    sequence: u64,
    /// What ends at or before it was delivered before.
    delivered_before: Lsn,
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
            last_commit_time: PgTimestamp::from_unix_us(0),
            sequence: 0,
            delivered_before: Lsn::INVALID,
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
        self.ring.greatest_confirm().unwrap_or(Lsn::INVALID).max(self.feedback.delivered())
    }

    /// A new connection goes on at [`Session::resume_lsn`]. What is in flight stays in flight; a transaction that was
    /// read in part comes again from its first record.
    ///
    /// # Errors
    /// [`Error::Ticket`], a defect.
    pub fn reconnected(&mut self, now: Instant) -> Result<(), Error> {
        if let Phase::Transaction(Open { ticket: Some(ticket), .. }) = self.phase {
            // Its records settle as any others, and confirm nothing.
            self.ring.seal(ticket, Lsn::INVALID)?;
        }
        self.begin_connection(now);
        self.advance();
        Ok(())
    }

    /// A new connection begins again at what is stored: nothing that is in flight will be delivered.
    pub fn restarted(&mut self, now: Instant) {
        self.ring.clear();
        self.phase = Phase::Between;
        self.begin_connection(now);
    }

    fn begin_connection(&mut self, now: Instant) {
        if !self.is_done() {
            self.phase = Phase::Between;
        }
        self.relations.begin_connection();
        self.feedback.reconnected(now);
    }

    /// Takes one frame. Call it only while [`Session::has_room`].
    ///
    /// # Errors
    /// [`Error::Frame`], [`Error::Message`], [`Error::Order`]: the stream cannot go on; nothing of it is confirmed.
    pub fn accept<'a>(&mut self, frame: &'a [u8], now: Instant, processed_unix_ns: i64) -> Result<Step<'a>, Error> {
        let after = self.feedback.received();
        match replication::decode(frame).map_err(|source| Error::Frame { after, source })? {
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.feedback.heard(wal_end, now);
                if reply_requested {
                    self.feedback.reply_requested();
                }
                if matches!(self.phase, Phase::Between) {
                    // The last sent position holds no change that is not in the ring (rule 9).
                    self.confirm_after_all(wal_end);
                    self.reach(wal_end);
                }
                Ok(Step::Nothing)
            }
            Frame::XLogData { start, message, .. } => self.accept_message(start, message, now, processed_unix_ns),
        }
    }

    /// Takes one message of the output plugin with its position. Call it only while [`Session::has_room`].
    ///
    /// # Errors
    /// [`Error::Message`], [`Error::Order`].
    pub fn accept_message<'a>(
        &mut self,
        lsn: Lsn,
        message: &'a [u8],
        now: Instant,
        processed_unix_ns: i64,
    ) -> Result<Step<'a>, Error> {
        self.feedback.heard(lsn, now);
        let message = pgoutput::decode(message, Context::default()).map_err(|source| Error::Message { lsn, source })?;
        self.message(lsn, message, processed_unix_ns)
    }

    /// All that was committed before `lsn` has been read; the position itself may lie inside a record, so it is not
    /// confirmed.
    pub fn read_up_to(&mut self, lsn: Lsn) {
        if matches!(self.phase, Phase::Between) {
            self.reach(lsn);
        }
    }

    fn message<'a>(&mut self, lsn: Lsn, message: Message<'a>, processed_unix_ns: i64) -> Result<Step<'a>, Error> {
        match message {
            Message::Begin(begin) => {
                let transaction =
                    Transaction { xid: begin.xid, commit_lsn: begin.final_lsn, commit_time: begin.commit_time };
                self.begin(lsn, transaction)
            }
            Message::Commit(commit) => self.commit(lsn, &commit),
            Message::Relation(relation) => Ok(Step::Relation(relation)),
            Message::Insert(insert) => {
                let operation = Operation::Insert { new: Row::Wire(insert.new) };
                self.row(lsn, insert.relation, operation, processed_unix_ns)
            }
            Message::Update(update) => {
                let operation = Operation::Update { old: update.old.map(old_row), new: Row::Wire(update.new) };
                self.row(lsn, update.relation, operation, processed_unix_ns)
            }
            Message::Delete(delete) => {
                let operation = Operation::Delete { old: old_row(delete.old) };
                self.row(lsn, delete.relation, operation, processed_unix_ns)
            }
            Message::Truncate(truncate) => {
                if self.is_passing() {
                    return Ok(Step::Nothing);
                }
                self.open(lsn, "Truncate")?;
                Ok(match self.truncations {
                    Truncations::Emit => Step::Truncate(lsn, truncate.relations),
                    Truncations::Skip => Step::Nothing,
                })
            }
            Message::Logical(message) => self.logical(lsn, &message, processed_unix_ns),
            Message::Origin(_) | Message::Type(_) => Ok(Step::Nothing),
            _ => Err(order(lsn, "a message of streamed or two-phase transactions, which were not asked for")),
        }
    }

    fn begin<'a>(&mut self, lsn: Lsn, transaction: Transaction) -> Result<Step<'a>, Error> {
        match self.phase {
            Phase::Transaction(_) | Phase::Passing { .. } => return Err(order(lsn, "Begin inside a transaction")),
            Phase::Done => return Ok(Step::Beyond),
            Phase::Between => {}
        }
        if self.goal.is_beyond(transaction.commit_lsn) {
            self.phase = Phase::Done;
            return Ok(Step::Beyond);
        }
        if transaction.commit_lsn < self.delivered_before {
            self.phase = Phase::Passing { commit_lsn: transaction.commit_lsn };
            return Ok(Step::Nothing);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.phase = Phase::Transaction(Open { transaction, ticket: None, total_order: 1, message_order: 1, sequence });
        Ok(Step::Nothing)
    }

    fn commit<'a>(&mut self, lsn: Lsn, commit: &pgoutput::Commit) -> Result<Step<'a>, Error> {
        let (begun, open) = match self.phase {
            Phase::Passing { commit_lsn } => (commit_lsn, None),
            _ => self.open(lsn, "Commit").map(|open| (open.transaction.commit_lsn, Some(*open)))?,
        };
        if begun != commit.commit_lsn {
            return Err(order(lsn, &format!("Commit at {} of the transaction begun for {begun}", commit.commit_lsn)));
        }
        self.feedback.heard_position(commit.end_lsn);
        self.phase = Phase::Between;
        self.last_commit_time = commit.commit_time;
        self.counters.transactions += u64::from(open.is_some());
        let step = match open.and_then(|open| open.ticket.map(|ticket| (ticket, open.transaction.xid))) {
            Some((ticket, xid)) => {
                self.ring.seal(ticket, commit.end_lsn)?;
                self.advance();
                Step::Sealed(Sealed { commit_lsn: commit.commit_lsn, end_lsn: commit.end_lsn, xid })
            }
            // A transaction without records moves the position, but not past one that is pending (rule 4).
            None => {
                self.confirm_after_all(commit.end_lsn);
                Step::Nothing
            }
        };
        self.reach(commit.end_lsn);
        Ok(step)
    }

    fn row<'a>(
        &mut self,
        lsn: Lsn,
        relation: u32,
        operation: Operation<'a>,
        processed_unix_ns: i64,
    ) -> Result<Step<'a>, Error> {
        if self.is_passing() {
            return Ok(Step::Nothing);
        }
        let index = self.known(lsn, relation)?;
        let (position, ticket) = self.position(lsn, index, processed_unix_ns)?;
        self.counters.changes += 1;
        Ok(Step::Change(Change { relation: Some(index), operation, position }, ticket))
    }

    /// The change that a Truncate is for one of its relations.
    ///
    /// # Errors
    /// [`Error::Order`] for a relation that was never announced.
    pub fn truncation(
        &mut self,
        lsn: Lsn,
        relation: u32,
        processed_unix_ns: i64,
    ) -> Result<(Change<'static>, Ticket), Error> {
        let index = self.known(lsn, relation)?;
        let (position, ticket) = self.position(lsn, index, processed_unix_ns)?;
        self.counters.changes += 1;
        Ok((Change { relation: Some(index), operation: Operation::Truncate, position }, ticket))
    }

    fn logical<'a>(
        &mut self,
        lsn: Lsn,
        message: &LogicalMessage<'a>,
        processed_unix_ns: i64,
    ) -> Result<Step<'a>, Error> {
        let operation = Operation::Message {
            transactional: message.transactional,
            prefix: message.prefix,
            content: message.content,
        };
        if matches!(self.phase, Phase::Done) {
            return Ok(Step::Beyond);
        }
        let passed = if message.transactional { self.is_passing() } else { lsn <= self.delivered_before };
        if passed {
            return Ok(Step::Nothing);
        }
        // One that a polling walcat wrote to have a position at a record's end.
        if !message.transactional && message.prefix == IDLE_PREFIX {
            self.confirm_after_all(lsn);
            self.reach(lsn);
            return Ok(Step::Nothing);
        }
        self.counters.changes += 1;
        if message.transactional {
            let open = *self.open(lsn, "a transactional message")?;
            let ticket = self.ticket(lsn)?;
            let position = Position {
                lsn: message.lsn,
                transaction: Some(open.transaction),
                commit_time: open.transaction.commit_time,
                total_order: open.total_order,
                data_collection_order: open.message_order,
                processed_unix_ns: self.envelope_clock(open.transaction.commit_time, processed_unix_ns),
            };
            return Ok(Step::Change(Change { relation: None, operation, position }, ticket));
        }
        if self.goal.is_beyond(lsn) {
            self.phase = Phase::Done;
            return Ok(Step::Beyond);
        }
        // A unit of confirmation of its own, confirmed by its start: it comes again unless something after it is.
        let ticket = self.ring.open(lsn).ok_or_else(|| order(lsn, "the ring is full"))?;
        self.ring.seal(ticket, lsn)?;
        let position = Position {
            lsn: message.lsn,
            transaction: None,
            commit_time: self.last_commit_time,
            total_order: 1,
            data_collection_order: 1,
            processed_unix_ns: self.envelope_clock(self.last_commit_time, processed_unix_ns),
        };
        Ok(Step::Change(Change { relation: None, operation, position }, ticket))
    }

    /// The sink has taken the change as this many records, of which `values` have a value.
    ///
    /// # Errors
    /// [`Error::Ticket`] when the ticket is not in flight.
    pub fn emitted(&mut self, change: &Change<'_>, ticket: Ticket, records: u32, values: u64) -> Result<(), Error> {
        self.ring.add(ticket, records)?;
        self.counters.records += u64::from(records);
        if let (Phase::Transaction(open), Some(_)) = (&mut self.phase, change.position.transaction) {
            open.total_order += values;
            match change.relation {
                Some(index) => self.relations.consume_order(index, open.sequence, values),
                None => open.message_order += values,
            }
        }
        Ok(())
    }

    /// A record is delivered. Call [`Session::advance`] after a batch of them.
    ///
    /// # Errors
    /// [`Error::Ticket`] when the ticket is not in flight.
    pub fn settle(&mut self, ticket: Ticket) -> Result<(), Error> {
        Ok(self.ring.settle(ticket)?)
    }

    /// Confirms what has become confirmable.
    pub fn advance(&mut self) {
        if let Some(lsn) = self.ring.advance() {
            self.feedback.deliver(lsn);
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
        matches!(self.phase, Phase::Transaction(_))
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

    fn known(&mut self, lsn: Lsn, relation: u32) -> Result<RelationIndex, Error> {
        let unknown = || order(lsn, &format!("a row of the relation with OID {relation}, which it has not announced"));
        self.relations.index_of(relation).ok_or_else(unknown)
    }

    fn position(
        &mut self,
        lsn: Lsn,
        index: RelationIndex,
        processed_unix_ns: i64,
    ) -> Result<(Position, Ticket), Error> {
        let open = *self.open(lsn, "a row")?;
        let ticket = self.ticket(lsn)?;
        let position = Position {
            lsn,
            transaction: Some(open.transaction),
            commit_time: open.transaction.commit_time,
            total_order: open.total_order,
            data_collection_order: self.relations.next_order(index, open.sequence),
            processed_unix_ns: self.envelope_clock(open.transaction.commit_time, processed_unix_ns),
        };
        Ok((position, ticket))
    }

    /// The open transaction's entry, made now when this is its first record.
    fn ticket(&mut self, lsn: Lsn) -> Result<Ticket, Error> {
        let Phase::Transaction(open) = &mut self.phase else {
            return Err(order(lsn, "a change outside a transaction"));
        };
        if let Some(ticket) = open.ticket {
            return Ok(ticket);
        }
        let ticket = self.ring.open(open.transaction.commit_lsn).ok_or_else(|| order(lsn, "the ring is full"))?;
        open.ticket = Some(ticket);
        Ok(ticket)
    }

    fn is_passing(&self) -> bool {
        matches!(self.phase, Phase::Passing { .. })
    }

    fn open(&mut self, lsn: Lsn, what: &str) -> Result<&mut Open, Error> {
        match &mut self.phase {
            Phase::Transaction(open) => Ok(open),
            Phase::Between | Phase::Passing { .. } | Phase::Done => {
                Err(order(lsn, &format!("{what} outside a transaction")))
            }
        }
    }

    /// Confirms a position that nothing new is before: now, or together with the newest entry in flight.
    fn confirm_after_all(&mut self, lsn: Lsn) {
        if self.ring.is_empty() {
            self.feedback.deliver(lsn);
        } else {
            self.ring.extend_newest(lsn);
        }
    }

    fn envelope_clock(&self, commit_time: PgTimestamp, processed_unix_ns: i64) -> i64 {
        match self.clock {
            EnvelopeClock::Processing => processed_unix_ns,
            EnvelopeClock::Commit => commit_time.unix_us().saturating_mul(1_000),
        }
    }

    /// Everything up to `lsn` has been read: is that the end of the job?
    fn reach(&mut self, lsn: Lsn) {
        if self.goal.is_reached(lsn) {
            self.phase = Phase::Done;
        }
    }
}

fn old_row(old: OldTuple<'_>) -> OldRow<'_> {
    match old {
        OldTuple::Key(tuple) => OldRow::Key(Row::Wire(tuple)),
        OldTuple::Full(tuple) => OldRow::Full(Row::Wire(tuple)),
    }
}

fn order(lsn: Lsn, reason: &str) -> Error {
    Error::Order { lsn, reason: reason.to_owned() }
}
