//! The shapes: which parts a record has.

pub(in crate::record) mod debezium;
