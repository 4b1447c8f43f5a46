//! Turns items into lines for `--dump json` and `decode`. The session runs as in a stream, so positions and numbers are the
//! same, but walcat confirms nothing and uses no sink.

use std::time::Instant;

use super::error::Error;
use crate::change::{Change, RelationIndex};
use crate::dump::Line;
use crate::lsn::Lsn;
use crate::record::{Encoder, Prepared};
use crate::relations::{Relation, Relations};
use crate::session::{Item, Session, Step};
use crate::sink;
use crate::wire::pgoutput::Message;

/// What the caller has to do after an item.
#[derive(Debug)]
pub enum Dumped {
    /// Nothing.
    Nothing,
    /// Give the session this relation with the catalog's answer before the next frame.
    Relation(Relation),
    /// Stop: the frame lies past the end of the job and has no line.
    Beyond,
}

/// Turns frames into lines.
pub struct Dumping {
    encoder: Encoder,
    /// Prepared relations that [`Dumping::take_prepared`] has not returned yet.
    prepared: Vec<(RelationIndex, Prepared)>,
    keepalives: bool,
    xid: Option<u32>,
}

impl Dumping {
    /// Writes the records of `encoder`; keepalives get lines only on request.
    #[must_use]
    pub fn new(encoder: Encoder, keepalives: bool) -> Self {
        Dumping { encoder, prepared: Vec::new(), keepalives, xid: None }
    }

    /// Handles one item and appends its line.
    ///
    /// # Errors
    /// [`Error::Session`], and a row that cannot become a record.
    pub fn item(
        &mut self,
        session: &mut Session,
        item: &Item<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Dumped, Error> {
        let step = session.accept(item, now, 0)?;
        if matches!(step, Step::Beyond) {
            return Ok(Dumped::Beyond);
        }
        match item {
            Item::Keepalive { wal_end, reply_requested } => {
                if self.keepalives {
                    Line::keepalive(out, *wal_end, *reply_requested);
                }
                Ok(Dumped::Nothing)
            }
            Item::Message { lsn, message } => {
                let dumped = self.line(session, *lsn, message, step, out)?;
                session.advance();
                Ok(dumped)
            }
            Item::ReadUpTo(_) => Ok(Dumped::Nothing),
        }
    }

    /// Returns the relations prepared since the last call.
    pub fn take_prepared(&mut self) -> Vec<(RelationIndex, Prepared)> {
        std::mem::take(&mut self.prepared)
    }

    /// The encoder, for work on relations.
    pub fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    /// Prepares the records of a relation before its first change.
    fn prepare(&mut self, relations: &mut Relations, index: RelationIndex) -> Result<(), sink::Error> {
        if !relations.begin_use(index) {
            return Ok(());
        }
        let prepared = self.encoder.prepare(index, relations.relation(index), relations.answer(index))?;
        self.prepared.push((index, prepared));
        Ok(())
    }

    fn line(
        &mut self,
        session: &mut Session,
        lsn: Lsn,
        message: &Message<'_>,
        step: Step<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Dumped, Error> {
        if let Message::Begin(begin) = message {
            self.xid = Some(begin.xid);
        }
        let (kind, tag) = (message.name(), message.letter());
        let is_outside = matches!(message, Message::Logical(logical) if !logical.transactional);
        let mut line = Line::begin(out, kind, tag, lsn, self.xid.filter(|_| !is_outside));
        let mut dumped = Dumped::Nothing;
        match step {
            Step::Change { change, ticket, .. } => {
                if let Some(index) = change.relation {
                    self.prepare(session.relations(), index)?;
                }
                let relation = change.relation.map(|index| session.relations().relation(index).clone());
                line.message(message, relation.as_ref());
                line.begin_records();
                let (_, values) = self.records(&change, 0, &mut line)?;
                session.emitted(&change, ticket, 0, values)?;
                line.end_records();
            }
            Step::Truncate(lsn, relations) => {
                line.message(message, None);
                let known = session.relations();
                let indexes: Vec<_> = relations.iter().map(|oid| (oid, known.index_of(oid))).collect();
                line.truncated(indexes.iter().map(|(oid, index)| (*oid, index.map(|index| known.relation(index)))));
                line.begin_records();
                let mut count = 0;
                for oid in relations.iter() {
                    let (change, ticket) = session.truncation(lsn, oid, 0)?;
                    if let Some(index) = change.relation {
                        self.prepare(session.relations(), index)?;
                    }
                    let (records, values) = self.records(&change, count, &mut line)?;
                    count += records;
                    session.emitted(&change, ticket, 0, values)?;
                }
                line.end_records();
            }
            Step::Relation(relation) => {
                line.message(message, None);
                dumped = Dumped::Relation(Relation::from(&relation));
            }
            Step::Nothing | Step::Request { .. } | Step::Sealed(_) | Step::Beyond => line.message(message, None),
        }
        line.end();
        if matches!(message, Message::Commit(_)) {
            self.xid = None;
        }
        Ok(dumped)
    }

    /// Appends the records of a change; returns how many there are, and how many have a value.
    fn records(
        &mut self,
        change: &Change<'_>,
        first_index: usize,
        line: &mut Line<'_>,
    ) -> Result<(usize, u64), sink::Error> {
        let records = self.encoder.encode(change)?;
        for (index, record) in records.iter().enumerate() {
            line.record(first_index + index, records.topic, record.key, record.header, record.value);
        }
        Ok((records.len(), records.values()))
    }
}
