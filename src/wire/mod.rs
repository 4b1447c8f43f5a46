//! The messages of a replication connection in both directions: bytes in, borrowed views out.
//!
//! No I/O, no allocation, no logging, and no panic on any input.

// With these lints the compiler checks that wire input is harmless.
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

pub mod copy_text;
pub mod error;
pub mod pgoutput;
pub(crate) mod reader;
pub mod replication;
