//! The relations of one connection, as the stream announced them.

use crate::pgoutput::ReplicaIdentity;

/// A relation, owned: a Relation message outlives the buffer it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema name.
    pub namespace: String,
    /// Table name.
    pub name: String,
    /// What an old row holds.
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
