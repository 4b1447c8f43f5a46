#![doc = include_str!("README.md")]

mod backoff;
mod by_relation;
mod catalog_facts;
mod change;
mod checks;
mod cli;
mod clock;
mod commands;
mod config;
mod defect;
mod dump;
mod error;
mod exit_code;
mod feedback;
mod limits;
mod logging;
mod lsn;
mod patterns;
mod pg;
mod poller;
mod position;
mod process_end;
mod program;
mod pump;
mod record;
mod recording;
mod relations;
mod ring;
mod session;
mod signal;
mod sink;
mod snapshot;
mod source;
mod state_file;
mod status;
mod terminal;
#[doc(hidden)]
pub mod testing;
mod verify;
mod wire;

pub use program::run_process;
