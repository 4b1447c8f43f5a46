//! How the parts of a record become bytes.

pub(in crate::record) mod json;
