//! librdkafka: its calls, its callbacks, and one producer with everything that belongs to it.

pub mod admin;
pub(in crate::sink::kafka) mod consumer;
pub mod context;
pub mod ffi;
pub mod inquiry;
pub mod link;
pub mod producer;
pub(in crate::sink::kafka) mod request_size;
mod topic_ends;
pub mod topic_reader;
pub mod transaction_calls;
pub mod transaction_thread;
