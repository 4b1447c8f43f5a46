//! What becomes of relations whose tables are gone: another table may have their topic, and in time they are forgotten.
//!
//! The catalog is that of today, and the changes are those of their time: a table that is gone today may have changes to
//! come. They were all committed before the table was dropped, so none is left once everything is delivered up to where the
//! WAL ended when the catalog said that it is gone.

use std::collections::{HashMap, HashSet};

use log::debug;

use crate::change::RelationIndex;
use crate::lsn::Lsn;
use crate::pg::catalog::{Other, Question, Reply};
use crate::record::Encoder;
use crate::relations::{Relation, Relations};

/// How many relations are known before it is asked which of them are gone; after that, each time they have doubled.
const RELATIONS_BEFORE_ASKING: usize = 64;

/// The relations that are known to be gone.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Each with the position up to which it may have changes.
    relations: HashMap<RelationIndex, Lsn>,
    /// How many were left when all of them were asked about last.
    left: usize,
}

impl Gone {
    /// The OIDs that the catalog is asked about beside a relation that was announced: those that have its topic, and now and
    /// then all.
    pub fn to_ask_about(&self, relation: &Relation, relations: &Relations, encoder: &Encoder) -> Vec<u32> {
        let oid = |index| relations.relation(index).oid;
        if relations.count() - self.relations.len() >= RELATIONS_BEFORE_ASKING.max(2 * self.left) {
            let is_there = |index: &RelationIndex| !self.relations.contains_key(index);
            return relations.indexes().filter(is_there).map(oid).collect();
        }
        encoder.rivals(relation).into_iter().map(oid).collect()
    }

    /// Takes the catalog's word on the others that were asked about.
    pub fn handle(
        &mut self,
        relation: &Relation,
        question: &Question,
        reply: &Reply,
        relations: &mut Relations,
        encoder: &mut Encoder,
    ) {
        if question.others.is_empty() {
            return;
        }
        let today: HashMap<u32, &Other> = reply.others.iter().map(|other| (other.oid, other)).collect();
        for rival in encoder.rivals(relation) {
            let known = relations.relation(rival);
            let is_same = |other: &&Other| other.namespace == known.namespace && other.name == known.name;
            if !today.get(&known.oid).is_some_and(is_same) {
                encoder.yield_topic(rival);
                // A change of it that is still to come finds its topic taken.
                relations.end_use(rival);
            }
        }
        let asked: HashSet<u32> = question.others.iter().copied().collect();
        for index in relations.indexes() {
            let oid = relations.relation(index).oid;
            if asked.contains(&oid) && !today.contains_key(&oid) {
                self.relations.entry(index).or_insert(reply.wal_lsn);
            }
        }
        if asked.len() >= RELATIONS_BEFORE_ASKING {
            self.left = relations.count() - self.relations.len();
        }
    }

    /// Takes the catalog's word on a relation itself, which was announced anew.
    pub fn learned(&mut self, index: RelationIndex, reply: (bool, bool, Lsn)) {
        let (is_there, is_visible, wal_lsn) = reply;
        if is_there {
            self.relations.remove(&index);
        } else if is_visible {
            self.relations.entry(index).or_insert(wal_lsn);
        }
    }

    /// The relations that can be forgotten, now that everything is delivered up to a position.
    pub fn take_finished(&mut self, delivered: Lsn) -> Vec<RelationIndex> {
        if self.relations.is_empty() {
            return Vec::new();
        }
        let mut finished = Vec::new();
        self.relations.retain(|index, until| {
            let is_finished = *until <= delivered;
            if is_finished {
                finished.push(*index);
            }
            !is_finished
        });
        if !finished.is_empty() {
            debug!(count = finished.len(); "relations forgotten: their tables are gone");
        }
        finished
    }
}
