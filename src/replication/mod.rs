//! What is inside CopyData on a replication connection, and the text of the commands.
//!
//! Source: PostgreSQL documentation, "55.4 Streaming Replication Protocol".

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

pub mod command;
pub mod frame;
pub mod status;

pub use frame::{DecodeError, Frame, decode};
pub use status::StatusUpdate;
