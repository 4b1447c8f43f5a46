//! Handles each message of the output plugin.

use super::resumption::Extent;
use super::{EnvelopeClock, Error, IDLE_PREFIX, Open, Phase, REQUEST_PREFIX, Sealed, Session, Step, Truncations};
use crate::change::{Change, OldRow, Operation, Position, RelationIndex, Row, Ticket, Transaction};
use crate::clock::PgTimestamp;
use crate::limits::COLUMNS_MAX;
use crate::lsn::Lsn;
use crate::relations::AnnouncedType;
use crate::snapshot::progress::RequestAt;
use crate::wire::pgoutput::{self, LogicalMessage, Message, OldTuple, TypeMessage};

impl Session {
    pub(super) fn message<'a>(
        &mut self,
        lsn: Lsn,
        message: Message<'a>,
        processed_unix_ns: i64,
    ) -> Result<Step<'a>, Error> {
        match message {
            Message::Begin(begin) => {
                let transaction =
                    Transaction { xid: begin.xid, commit_lsn: begin.final_lsn, commit_time: begin.commit_time };
                self.begin(lsn, transaction)
            }
            Message::Commit(commit) => self.commit(lsn, &commit),
            Message::Relation(relation) => {
                self.types_are_old = true;
                Ok(Step::Relation(relation))
            }
            Message::Type(message) => {
                self.announce_type(&message);
                Ok(Step::Nothing)
            }
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
                if self.was_taken(lsn)? {
                    return Ok(Step::Nothing);
                }
                self.open(lsn, "Truncate")?;
                Ok(match self.truncations {
                    Truncations::Emit => Step::Truncate(lsn, truncate.relations),
                    Truncations::Skip => Step::Nothing,
                })
            }
            Message::Logical(message) => self.logical(lsn, &message, processed_unix_ns),
            Message::Origin(_) => Ok(Step::Nothing),
            _ => Err(order(lsn, "a message of streamed or two-phase transactions, which walcat did not request")),
        }
    }

    /// Keeps the types of a Relation, which come right before it.
    fn announce_type(&mut self, message: &TypeMessage<'_>) {
        if std::mem::take(&mut self.types_are_old) {
            self.types.clear();
        }
        if self.types.len() < COLUMNS_MAX {
            let (namespace, name) = (message.namespace.to_owned(), message.name.to_owned());
            self.types.push(AnnouncedType { oid: message.oid, namespace, name });
        }
    }

    fn begin<'a>(&mut self, lsn: Lsn, transaction: Transaction) -> Result<Step<'a>, Error> {
        match self.phase {
            Phase::Transaction(_) | Phase::Again { .. } | Phase::Passing { .. } => {
                return Err(order(lsn, "Begin inside a transaction"));
            }
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
        if self.begin_again(transaction)? {
            return Ok(Step::Nothing);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let extent = Extent::default();
        self.phase =
            Phase::Transaction(Open { transaction, ticket: None, total_order: 1, message_order: 1, sequence, extent });
        Ok(Step::Nothing)
    }

    fn commit<'a>(&mut self, lsn: Lsn, commit: &pgoutput::Commit) -> Result<Step<'a>, Error> {
        let (begun, open) = match self.phase {
            Phase::Passing { commit_lsn } => (commit_lsn, None),
            Phase::Again { open, .. } => return Err(Error::Differs { commit_lsn: open.transaction.commit_lsn }),
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
            // A transaction without records advances the position, but not past a pending one.
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
        if self.was_taken(lsn)? {
            return Ok(Step::Nothing);
        }
        let index = self.known(lsn, relation)?;
        let (position, ticket) = self.position(lsn, index, processed_unix_ns)?;
        self.counters.changes += 1;
        Ok(Step::Change { change: Change { relation: Some(index), operation, position }, ticket, sealed: None })
    }

    /// The change of a Truncate for one of its relations.
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
        let passed = if message.transactional { self.was_taken(lsn)? } else { lsn <= self.delivered_before };
        if passed {
            return Ok(Step::Nothing);
        }
        // A polling walcat wrote this message to get a position at the end of a record.
        if !message.transactional && message.prefix == IDLE_PREFIX {
            self.confirm_after_all(lsn);
            self.reach(lsn);
            return Ok(Step::Nothing);
        }
        if message.prefix == REQUEST_PREFIX {
            let unit = match message.transactional {
                true => self.open(lsn, "a transactional message")?.transaction.commit_lsn,
                false if self.goal.is_beyond(lsn) => {
                    self.phase = Phase::Done;
                    return Ok(Step::Beyond);
                }
                false => lsn,
            };
            return Ok(Step::Request { at: RequestAt { unit, message: message.lsn }, content: message.content });
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
            return Ok(Step::Change { change: Change { relation: None, operation, position }, ticket, sealed: None });
        }
        if self.goal.is_beyond(lsn) {
            self.phase = Phase::Done;
            return Ok(Step::Beyond);
        }
        // A unit of confirmation by itself, confirmed by its start: the server sends it again unless something after it
        // is confirmed.
        let ticket = self.ring.open(lsn).expect("the caller asks has_room before each item");
        self.ring.seal(ticket, lsn)?;
        let position = Position {
            lsn: message.lsn,
            transaction: None,
            commit_time: self.last_commit_time,
            total_order: 1,
            data_collection_order: 1,
            processed_unix_ns: self.envelope_clock(self.last_commit_time, processed_unix_ns),
        };
        let sealed = Some(Sealed { commit_lsn: lsn, end_lsn: lsn, xid: 0 });
        Ok(Step::Change { change: Change { relation: None, operation, position }, ticket, sealed })
    }

    /// Notes that the sink has taken the change as this many records, of which `values` have a value.
    ///
    /// # Errors
    /// [`Error::Ticket`] if the ticket is not in flight.
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

    fn known(&mut self, lsn: Lsn, relation: u32) -> Result<RelationIndex, Error> {
        let unknown = || order(lsn, &format!("a row of the relation with OID {relation}, which was not announced"));
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

    /// The entry of the open transaction; the first record opens it.
    fn ticket(&mut self, lsn: Lsn) -> Result<Ticket, Error> {
        let Phase::Transaction(open) = &mut self.phase else {
            return Err(order(lsn, "a change outside a transaction"));
        };
        if let Some(ticket) = open.ticket {
            return Ok(ticket);
        }
        let ticket = self.ring.open(open.transaction.commit_lsn).expect("the caller asks has_room before each item");
        open.ticket = Some(ticket);
        Ok(ticket)
    }

    fn open(&mut self, lsn: Lsn, what: &str) -> Result<&mut Open, Error> {
        match &mut self.phase {
            Phase::Transaction(open) => Ok(open),
            Phase::Between | Phase::Again { .. } | Phase::Passing { .. } | Phase::Done => {
                Err(order(lsn, &format!("{what} outside a transaction")))
            }
        }
    }

    fn envelope_clock(&self, commit_time: PgTimestamp, processed_unix_ns: i64) -> i64 {
        match self.clock {
            EnvelopeClock::Processing => processed_unix_ns,
            EnvelopeClock::Commit => commit_time.unix_us().saturating_mul(1_000),
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
