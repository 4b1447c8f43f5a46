//! Relations whose tables were dropped: another table may take over the topic, and walcat later forgets the relation.
//!
//! The catalog describes the present, but changes come from the past: a dropped table may still have changes in the stream.
//! All of them were committed before the drop. So once everything up to the end of the WAL at the time of the catalog's
//! answer is delivered, the relation has no more changes.

use std::collections::{HashMap, HashSet};

use log::debug;

use crate::change::RelationIndex;
use crate::lsn::Lsn;
use crate::pg::catalog::{Other, Question, Reply};
use crate::record::Encoder;
use crate::relations::{Relation, Relations};

/// walcat first asks which relations are gone when it knows this many, and again each time the number has doubled.
const RELATIONS_BEFORE_ASKING: usize = 64;

/// The relations whose tables were dropped.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// The relations, each with the last position that its changes can have.
    relations: HashMap<RelationIndex, Lsn>,
    /// How many relations were left after the last question about all of them.
    left: usize,
}

impl Gone {
    /// The OIDs to ask about together with an announced relation: those that use its topic, and from time to time all.
    pub fn to_ask_about(&self, relation: &Relation, relations: &Relations, encoder: &Encoder) -> Vec<u32> {
        let oid = |index| relations.relation(index).oid;
        if relations.count() - self.relations.len() >= RELATIONS_BEFORE_ASKING.max(2 * self.left) {
            let is_there = |index: &RelationIndex| !self.relations.contains_key(index);
            return relations.indexes().filter(is_there).map(oid).collect();
        }
        encoder.rivals(relation).into_iter().map(oid).collect()
    }

    /// Handles the catalog's answer about the other relations.
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
                // A later change of it fails: another table has its topic.
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

    /// Handles the catalog's answer about a relation that was announced again.
    pub fn learned(&mut self, index: RelationIndex, reply: (bool, bool, Lsn)) {
        let (is_there, is_visible, wal_lsn) = reply;
        if is_there {
            self.relations.remove(&index);
        } else if is_visible {
            self.relations.entry(index).or_insert(wal_lsn);
        }
    }

    /// Returns the relations to forget, because everything up to their last position is delivered.
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
            debug!(count = finished.len(); "relations forgotten: their tables were dropped");
        }
        finished
    }
}
