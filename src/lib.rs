#![doc = include_str!("README.md")]

pub mod catalog_facts;
pub mod change;
pub mod cli;
pub mod clock;
pub mod config;
pub mod encode;
pub mod exit_code;
pub mod feedback;
pub mod limits;
pub mod logging;
pub mod lsn;
pub mod pgoutput;
pub mod relations;
pub mod ring;
pub mod route;
