//! The relations of one connection, as the stream announced them.

use std::collections::HashMap;

use serde::Serialize;

use crate::by_relation::ByRelation;
use crate::catalog_facts::CatalogAnswer;
use crate::change::RelationIndex;
use crate::wire::pgoutput::{RelationMessage, ReplicaIdentity};

/// An owned relation: a Relation message outlives its receive buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub namespace: String,
    /// Table name.
    pub name: String,
    /// The content of an old row.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the table's order.
    pub columns: Vec<Column>,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Column name.
    pub name: String,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`.
    pub type_modifier: i32,
    /// Whether it belongs to the replica identity.
    pub part_of_key: bool,
}

/// A type named by a Type message, for the next Relation. A domain has its base type's name, so that its values can be
/// decoded after the domain was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnnouncedType {
    /// `pg_type.oid`, as in the column.
    pub oid: u32,
    /// The schema, empty for `pg_catalog`; a domain has the schema and the name of its base type.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl From<&RelationMessage<'_>> for Relation {
    fn from(message: &RelationMessage<'_>) -> Self {
        let columns = message.columns().map(|column| Column {
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            part_of_key: column.part_of_key,
        });
        Relation {
            oid: message.oid,
            namespace: message.namespace.to_owned(),
            name: message.name.to_owned(),
            replica_identity: message.replica_identity,
            columns: columns.collect(),
        }
    }
}

/// Counts the records of a relation in a transaction: the source of `data_collection_order`.
///
/// The transaction's sequence number is kept with the count, so that a new transaction resets every relation without
/// visiting it. The caller assigns these numbers: they are unique within the connection, whatever the xid does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectionCount {
    transaction: u64,
    records: u64,
}

impl CollectionCount {
    /// The number, from 1, of the next record in this transaction.
    #[must_use]
    pub fn next(self, transaction: u64) -> u64 {
        if self.transaction == transaction { self.records + 1 } else { 1 }
    }

    /// Counts taken records with a value.
    pub fn consume(&mut self, transaction: u64, records: u64) {
        let counted = self.next(transaction) - 1;
        *self = CollectionCount { transaction, records: counted + records };
    }
}

/// The relations that the connection has announced, with the catalog's answer for each.
///
/// A relation's index is dense, from 0, and stays the same until the relation is forgotten. A relation that is
/// announced again (after ALTER TABLE, after a flush of the server's own cache, or on a new connection) keeps its index
/// and gets its new content.
#[derive(Debug, Default)]
pub struct Relations {
    known: ByRelation<Known>,
    /// Indexes of forgotten relations.
    free: Vec<RelationIndex>,
    /// The number of the connection: the stream only uses relations announced on the present one.
    connection: u32,
    by_oid: HashMap<u32, RelationIndex>,
    /// Rows come in runs of one table: the last look-up answers most of them.
    last: Option<(u32, RelationIndex)>,
    /// The last announced relation.
    announced: Option<RelationIndex>,
}

#[derive(Debug)]
struct Known {
    relation: Relation,
    answer: CatalogAnswer,
    count: CollectionCount,
    connection: u32,
    /// Whether none of its changes has arrived since it was announced.
    is_unused: bool,
}

impl Relations {
    /// Starts a connection, which has announced nothing yet.
    pub fn begin_connection(&mut self) {
        self.connection += 1;
        self.announced = None;
        self.last = None;
    }

    /// Adds an announced relation with the catalog's answer.
    pub fn learn(&mut self, relation: Relation, answer: CatalogAnswer) -> RelationIndex {
        let index = self.insert(relation, answer);
        self.announced = Some(index);
        self.last = None;
        index
    }

    /// The relation on this connection that was last announced or last had a row.
    #[must_use]
    pub fn latest(&self) -> Option<&Relation> {
        let index = self.last.map(|(_, index)| index).or(self.announced)?;
        Some(&self.known.get(index)?.relation)
    }

    /// Adds a relation that the stream has not announced, such as a table as a snapshot reads it. The stream may announce
    /// another one with the same OID.
    pub fn add(&mut self, relation: Relation, answer: CatalogAnswer) -> RelationIndex {
        let (count, connection) = (CollectionCount::default(), self.connection);
        self.place(Known { relation, answer, count, connection, is_unused: true })
    }

    fn place(&mut self, new: Known) -> RelationIndex {
        let index = self.free.pop().unwrap_or_else(|| self.known.end());
        self.known.insert(index, new);
        index
    }

    fn insert(&mut self, relation: Relation, answer: CatalogAnswer) -> RelationIndex {
        let (oid, connection) = (relation.oid, self.connection);
        let known = |relation, answer, count| Known { relation, answer, count, connection, is_unused: true };
        if let Some(index) = self.by_oid.get(&oid).copied() {
            let count = self.known(index).count;
            self.known.insert(index, known(relation, answer, count));
            return index;
        }
        let new = known(relation, answer, CollectionCount::default());
        let index = self.place(new);
        self.by_oid.insert(oid, index);
        index
    }

    /// Returns whether this is the first change of a relation since it was announced, so that its records need
    /// preparation. A leaf that is published through its root is announced but has no changes.
    ///
    /// # Panics
    ///
    /// As [`Relations::relation`].
    pub fn begin_use(&mut self, index: RelationIndex) -> bool {
        std::mem::take(&mut self.known_mut(index).is_unused)
    }

    /// Requires new preparation of the relation's records before its next change.
    ///
    /// # Panics
    ///
    /// As [`Relations::relation`].
    pub fn end_use(&mut self, index: RelationIndex) {
        self.known_mut(index).is_unused = true;
    }

    /// Forgets a relation and frees its index for another one. The relation must have no changes left.
    ///
    /// # Panics
    ///
    /// As [`Relations::relation`].
    pub fn forget(&mut self, index: RelationIndex) {
        let oid = self.known(index).relation.oid;
        self.known.remove(index);
        self.free.push(index);
        self.by_oid.remove(&oid);
        self.last = None;
    }

    /// The indexes of all known relations.
    pub fn indexes(&self) -> impl Iterator<Item = RelationIndex> {
        self.by_oid.values().copied()
    }

    /// The index of an OID that this connection has announced.
    pub fn index_of(&mut self, oid: u32) -> Option<RelationIndex> {
        if let Some((last_oid, index)) = self.last
            && last_oid == oid
        {
            return Some(index);
        }
        let index = *self.by_oid.get(&oid)?;
        if self.known(index).connection != self.connection {
            return None;
        }
        self.last = Some((oid, index));
        Some(index)
    }

    /// The relation of an index that [`Relations::learn`] returned.
    ///
    /// # Panics
    ///
    /// If [`Relations::learn`] did not return the index, or the relation was forgotten, which is a defect.
    #[must_use]
    pub fn relation(&self, index: RelationIndex) -> &Relation {
        &self.known(index).relation
    }

    /// The catalog's answer about the relation.
    ///
    /// # Panics
    ///
    /// As [`Relations::relation`].
    #[must_use]
    pub fn answer(&self, index: RelationIndex) -> &CatalogAnswer {
        &self.known(index).answer
    }

    /// The `data_collection_order` of the relation's next record in a transaction.
    ///
    /// # Panics
    ///
    /// As [`Relations::relation`].
    #[must_use]
    pub fn next_order(&self, index: RelationIndex, transaction: u64) -> u64 {
        self.known(index).count.next(transaction)
    }

    /// Counts the relation's records with a value that were taken in a transaction.
    ///
    /// # Panics
    ///
    /// As [`Relations::relation`].
    pub fn consume_order(&mut self, index: RelationIndex, transaction: u64, records: u64) {
        self.known_mut(index).count.consume(transaction, records);
    }

    /// The number of known relations.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_oid.len()
    }

    fn known(&self, index: RelationIndex) -> &Known {
        self.known.get(index).expect("the index of a relation that is known")
    }

    fn known_mut(&mut self, index: RelationIndex) -> &mut Known {
        self.known.get_mut(index).expect("the index of a relation that is known")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(oid: u32, name: &str) -> Relation {
        Relation {
            oid,
            namespace: "public".to_owned(),
            name: name.to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        }
    }

    fn answer(relation: u32) -> CatalogAnswer {
        CatalogAnswer { relation, table: None, types: Vec::new() }
    }

    #[test]
    fn an_index_is_dense_and_survives_a_new_announcement() {
        let mut relations = Relations::default();
        assert_eq!(relations.index_of(20), None);
        assert_eq!(relations.learn(relation(20, "a"), answer(20)), RelationIndex(0));
        assert_eq!(relations.learn(relation(10, "b"), answer(10)), RelationIndex(1));
        assert_eq!(relations.learn(relation(20, "renamed"), answer(20)), RelationIndex(0));
        assert_eq!(relations.count(), 2);
        for _ in 0..2 {
            assert_eq!(relations.index_of(10), Some(RelationIndex(1)));
            assert_eq!(relations.index_of(20), Some(RelationIndex(0)));
        }
        assert_eq!(relations.relation(RelationIndex(0)).name, "renamed");
        assert_eq!(relations.answer(RelationIndex(1)).relation, 10);
    }

    #[test]
    fn a_new_connection_has_announced_nothing_and_each_relation_keeps_its_index() {
        let mut relations = Relations::default();
        relations.learn(relation(10, "a"), answer(10));
        relations.learn(relation(20, "b"), answer(20));
        assert_eq!(relations.index_of(20), Some(RelationIndex(1)));
        relations.begin_connection();
        assert_eq!((relations.index_of(10), relations.index_of(20)), (None, None));
        assert_eq!(relations.learn(relation(20, "renamed"), answer(20)), RelationIndex(1));
        assert_eq!((relations.index_of(10), relations.index_of(20)), (None, Some(RelationIndex(1))));
        assert_eq!(relations.relation(RelationIndex(1)).name, "renamed");
    }

    #[test]
    fn a_relation_that_was_forgotten_leaves_its_index_to_another() {
        let mut relations = Relations::default();
        let a = relations.learn(relation(1, "a"), answer(1));
        let b = relations.learn(relation(2, "b"), answer(2));
        relations.consume_order(a, 0, 2);
        assert_eq!(relations.index_of(1), Some(a));
        relations.forget(a);
        assert_eq!((relations.count(), relations.index_of(1), relations.index_of(2)), (1, None, Some(b)));
        assert_eq!(relations.learn(relation(3, "c"), answer(3)), a);
        assert_eq!((relations.index_of(3), relations.next_order(a, 0)), (Some(a), 1), "the new relation starts empty");
        assert_eq!(relations.indexes().count(), 2);
    }

    #[test]
    fn a_relation_that_a_snapshot_reads_leaves_that_of_the_stream_alone() {
        let mut relations = Relations::default();
        let a = relations.learn(relation(1, "a"), answer(1));
        let read = relations.add(relation(1, "as it was read"), answer(1));
        assert_ne!(read, a);
        assert_eq!((relations.index_of(1), relations.relation(a).name.as_str()), (Some(a), "a"));
        assert_eq!(relations.relation(read).name, "as it was read");
        assert!(relations.begin_use(read));
        relations.learn(relation(1, "renamed"), answer(1));
        assert_eq!(relations.relation(read).name, "as it was read");
    }

    #[test]
    fn a_relation_is_used_for_the_first_time_once_for_each_announcement() {
        let mut relations = Relations::default();
        let a = relations.learn(relation(1, "a"), answer(1));
        assert_eq!((relations.begin_use(a), relations.begin_use(a)), (true, false));
        relations.end_use(a);
        assert_eq!((relations.begin_use(a), relations.begin_use(a)), (true, false));
        relations.learn(relation(1, "a"), answer(1));
        assert!(relations.begin_use(a));
    }

    #[test]
    fn the_order_within_a_relation_starts_again_with_each_transaction() {
        let mut relations = Relations::default();
        let a = relations.learn(relation(1, "a"), answer(1));
        let b = relations.learn(relation(2, "b"), answer(2));
        assert_eq!(relations.next_order(a, 0), 1);
        relations.consume_order(a, 0, 2);
        assert_eq!((relations.next_order(a, 0), relations.next_order(b, 0)), (3, 1));
        assert_eq!(relations.next_order(a, 1), 1);
        relations.consume_order(b, 1, 1);
        relations.consume_order(b, 1, 1);
        assert_eq!((relations.next_order(a, 1), relations.next_order(b, 1)), (1, 3));
    }

    #[test]
    fn announcing_a_relation_again_keeps_its_count() {
        let mut relations = Relations::default();
        let a = relations.learn(relation(1, "a"), answer(1));
        relations.consume_order(a, 7, 4);
        relations.learn(relation(1, "a"), answer(1));
        assert_eq!(relations.next_order(a, 7), 5);
    }
}
