//! PostgreSQL through libpq: connections that never block the loop, the replication stream, the polling of a slot, and
//! catalog queries.

pub mod catalog;
pub mod conn;
mod connecting;
pub mod copy_out;
pub mod error;
pub mod ffi;
pub mod lookup;
pub mod peek;
pub mod publications;
pub mod server;
pub mod slots;
pub mod sqlstate;
pub mod stream;
pub mod tables;

pub use conn::{Connection, Wait};
pub use connecting::{Direction, Kind, Server};
pub use error::Error;

/// The version of the linked libpq, such as 15.18.
#[must_use]
pub fn library_version() -> String {
    let version = ffi::library_version();
    format!("{}.{}", version / 10_000, version % 10_000)
}
