//! The formats: how the parts of a record are written as bytes.

pub(in crate::record) mod json;
