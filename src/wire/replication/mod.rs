//! The content of CopyData on a replication connection, and the text of the commands.
//!
//! Source: PostgreSQL documentation, "55.4 Streaming Replication Protocol".

pub mod command;
pub mod frame;
pub mod status;

pub use frame::{DecodeError, Frame, decode};
pub use status::StatusUpdate;
