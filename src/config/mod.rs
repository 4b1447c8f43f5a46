//! The settings: from the command line, the environment and one TOML file to a typed result.
//!
//! Every setting has one name and one parser for all layers. The result has plain types; neither TOML nor clap is seen
//! outside `config` and `cli`.

mod error;
mod file;
mod kafka;
mod key;
mod layers;
mod log_format;
mod mask;
mod print;
mod resolve;
mod secret;
mod settings;
#[cfg(test)]
mod tests;
mod units;
mod value;

pub use error::ConfigError;
pub use key::mistaken_variables;
pub use key::{Key, Kind};
pub use layers::Given;
pub use log_format::expected_log_format;
pub use resolve::Config;
pub use secret::Secret;
pub use settings::{
    Delivery, Engine, LogFormat, LogSettings, OnError, Sink, SlotSettings, SnapshotMode, StreamSettings, Topics,
};
pub use units::Budget;

/// The environment of this process.
#[must_use]
pub fn process_environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}
