//! Reads frames and peeked messages through the session to the output, and handles the catalog answers they wait for.

use std::time::Instant;

use log::debug;

use super::{Dump, Dumped, Error, Output, Pump, Received, Report};
use crate::change::RelationIndex;
use crate::clock::unix_now_ns;
use crate::limits::MESSAGES_PER_TURN_MAX;
use crate::pg::catalog::Question;
use crate::pg::peek::Peeked;
use crate::relations::{Relation, Relations};
use crate::session::{Item, Step};
use crate::sink::Sink;

/// Why reading paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// libpq and the socket hold no whole frame.
    Drained,
    /// Reading is paused; libpq may hold frames.
    Blocked,
    /// The share of one turn is used up.
    Unfinished,
}

impl Pump {
    /// Reads and handles frames while there is room, up to the share of one turn.
    pub(super) fn read(&mut self, now: Instant) -> Result<Read, Error> {
        for _ in 0..MESSAGES_PER_TURN_MAX {
            if !self.may_read(now) {
                self.session.feedback().not_reading(now);
                self.feed.not_reading(now);
                return Ok(Read::Blocked);
            }
            match self.feed.receive(now)? {
                None => {
                    if self.feed.take_sign_of_life() {
                        self.session.feedback().heard_bytes(now);
                    }
                    return Ok(Read::Drained);
                }
                Some(Received::Frame(frame)) => self.frame(&frame, now)?,
                Some(Received::Peeked(peeked)) => self.peeked(&peeked, now)?,
            }
            self.has_read();
        }
        Ok(Read::Unfinished)
    }

    pub(super) fn may_read(&self, now: Instant) -> bool {
        self.stage.is_reading()
            && !self.session.is_done()
            && !self.incremental.as_ref().is_some_and(super::Incremental::is_emitting)
            && !self.asking.is_open()
            && !self.hold.is_released()
            && self.session.has_room()
            && self.output.has_room(now)
    }

    fn frame(&mut self, frame: &[u8], now: Instant) -> Result<(), Error> {
        self.huge.handle(frame.len(), now);
        self.report.frame(frame);
        let handled = self.handle(frame, now);
        // A recording needs the frame that ends the run with a failure.
        if let (Some(recorder), Ok(true) | Err(_)) = (&mut self.recorder, &handled) {
            recorder.copy_data(frame)?;
        }
        handled.map(drop)
    }

    fn peeked(&mut self, peeked: &Peeked, now: Instant) -> Result<(), Error> {
        match peeked {
            Peeked::Row(row) => {
                self.huge.handle(row.message()?.len(), now);
                self.report.message(row.lsn()?, row.message()?);
                self.accept(&Item::of_message(row.lsn()?, row.message()?)?, now).map(drop)
            }
            Peeked::ReadUpTo(lsn) => self.accept(&Item::ReadUpTo(*lsn), now).map(drop),
        }
    }

    /// Handles one frame. Returns false if it lies past the end of the job.
    fn handle(&mut self, frame: &[u8], now: Instant) -> Result<bool, Error> {
        let item = Item::of_frame(frame, self.session.feedback().received())?;
        let Output::Dump(dump) = &mut self.output else { return self.accept(&item, now) };
        let Dump { dumping, lines } = &mut **dump;
        let dumped = dumping.item(&mut self.session, &item, now, lines.buffer())?;
        for (index, prepared) in dumping.take_prepared() {
            self.report.prepared(self.session.relations().relation(index), &prepared);
        }
        match dumped {
            Dumped::Nothing => {}
            Dumped::Relation(relation) => self.ask_catalog(relation, now)?,
            Dumped::Beyond => return Ok(false),
        }
        Ok(true)
    }

    fn accept(&mut self, item: &Item<'_>, now: Instant) -> Result<bool, Error> {
        let step = self.session.accept(item, now, unix_now_ns())?;
        if let Some(incremental) = &mut self.incremental {
            incremental.stream_is_at(self.session.emitting(), self.session.passed());
        }
        self.follow(step, now)
    }

    /// Carries out a step. Returns false if it lies past the end of the job.
    fn follow(&mut self, step: Step<'_>, now: Instant) -> Result<bool, Error> {
        let Output::Records(sink) = &mut self.output else { return Ok(true) };
        match step {
            Step::Nothing => {}
            Step::Relation(message) => self.ask_catalog(Relation::from(&message), now)?,
            Step::Change { change, ticket, sealed } => {
                if let Some(index) = change.relation {
                    prepare(sink, self.session.relations(), index, &self.report)?;
                    if let Some(incremental) = &mut self.incremental {
                        let xid = self.session.emitting();
                        incremental.touched(&change, xid, self.session.relations().relation(index));
                    }
                }
                let taken = sink.take(&change, ticket, now)?;
                self.session.emitted(&change, ticket, taken.records, taken.values)?;
                if let Some(sealed) = sealed {
                    sink.seal(sealed);
                }
            }
            Step::Sealed(sealed) => {
                debug!(slot = self.report.slot(), xid = sealed.xid, commit_lsn:% = sealed.commit_lsn,
                    end_lsn:% = sealed.end_lsn; "transaction read");
                sink.seal(sealed);
            }
            Step::Truncate(lsn, relations) => {
                for relation in relations.iter() {
                    let (change, ticket) = self.session.truncation(lsn, relation, unix_now_ns())?;
                    if let Some(index) = change.relation {
                        prepare(sink, self.session.relations(), index, &self.report)?;
                        if let Some(incremental) = &mut self.incremental {
                            incremental.touched(&change, None, self.session.relations().relation(index));
                        }
                    }
                    let taken = sink.take(&change, ticket, now)?;
                    self.session.emitted(&change, ticket, taken.records, taken.values)?;
                }
            }
            Step::Request { at, content } => self.handle_request(at, content),
            Step::Beyond => return Ok(false),
        }
        Ok(true)
    }

    /// Asks the catalog about an announced relation; reading pauses until the reply arrives.
    fn ask_catalog(&mut self, relation: Relation, now: Instant) -> Result<(), Error> {
        let (slot, schema, table) = (self.report.slot(), relation.namespace.as_str(), relation.name.as_str());
        debug!(slot, schema, table; "relation announced");
        let relations = self.session.relations();
        let others = self.gone.to_ask_about(&relation, relations, self.output.encoder());
        let question = Question {
            relation: relation.oid,
            types: relation.columns.iter().map(|column| column.type_oid).collect(),
            announced: self.session.take_types(),
            others,
            xid: self.session.xid().unwrap_or_default(),
        };
        self.asking.ask(relation, question, slot, now)
    }

    /// Adds the relation once the catalog's reply has arrived.
    pub(super) fn handle_catalog(&mut self, now: Instant) -> Result<(), Error> {
        let Some((relation, question, reply)) = self.asking.poll(self.report.slot(), now)? else { return Ok(()) };
        if let Some(recorder) = &mut self.recorder {
            recorder.catalog_answer(&reply.answer)?;
        }
        let relations = self.session.relations();
        self.gone.handle(&relation, &question, &reply, relations, self.output.encoder());
        let word = (reply.answer.table.is_some(), reply.is_visible, reply.wal_lsn);
        let index = relations.learn(relation, reply.answer);
        self.gone.learned(index, word);
        Ok(())
    }
}

/// Prepares the records of a relation before its first change. A relation without records, such as a leaf that is
/// published through its root, gets no topic.
pub(super) fn prepare(
    sink: &mut Sink,
    relations: &mut Relations,
    index: RelationIndex,
    report: &Report,
) -> Result<(), Error> {
    if relations.begin_use(index) {
        let relation = relations.relation(index);
        report.prepared(relation, &sink.prepare(index, relation, relations.answer(index))?);
    }
    Ok(())
}
