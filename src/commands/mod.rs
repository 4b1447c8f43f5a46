//! The commands. Each turns settings into the parts of what it runs.

pub mod check;
pub mod decode;
pub mod estimate;
pub mod incremental;
mod kafka;
pub mod slot;
mod snapshot;
pub mod stream;
pub mod verify;
