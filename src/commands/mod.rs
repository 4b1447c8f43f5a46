//! The commands. Each turns settings into the parts of what it runs.

pub mod check;
pub mod decode;
mod kafka;
pub mod slot;
pub mod stream;
pub mod verify;
