//! Errors about settings: what is wrong, who can fix it, and how.
//!
//! A message repeats an invalid value only if the value is a plain word. Anything else may be a conninfo with a password in
//! the wrong place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::Key;
use crate::exit_code::ExitCode;
use crate::patterns::Mistake;

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// The environment variable of this name.
    Environment(String),
    /// The configuration file.
    File { path: Arc<Path>, line: usize },
    /// walcat's default.
    Default,
}

impl Origin {
    /// The exit code for an invalid value: usage for a flag or a variable, set-up for the file.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Origin::Flag | Origin::Environment(_) => ExitCode::Usage,
            Origin::File { .. } | Origin::Default => ExitCode::Setup,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

/// A setting as the user wrote it: `--slot`, `WALCAT_SLOT`, `walcat.toml:3: slot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub origin: Origin,
    /// The key in the configuration file, dotted if it is in a table.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.key.strip_prefix("kafka.")) {
            (Origin::Flag, Some(property)) => write!(f, "-X {property}"),
            (Origin::Flag, None) if self.key == "kafka" => f.write_str("-X"),
            (Origin::Flag, None) => {
                let flag = Key::find(&self.key).map_or(self.key.as_str(), |row| row.key.flag());
                write!(f, "--{}", flag.replace('_', "-"))
            }
            (Origin::Environment(name), _) => f.write_str(name),
            (Origin::File { .. }, _) => write!(f, "{}: {}", self.origin, self.key),
            (Origin::Default, _) => f.write_str(&self.key),
        }
    }
}

/// An invalid value as a message may show it: a space and the value in quotes, or nothing if it is not a plain word.
#[derive(Debug, PartialEq, Eq)]
pub struct Echo(String);

impl Echo {
    #[must_use]
    pub fn new(text: &str) -> Self {
        /// A little more than the longest name in PostgreSQL.
        const CHARACTERS_MAX: usize = 80;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'+');
        let is_shown = (1..=CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        Echo(if is_shown { format!(" \"{text}\"") } else { String::new() })
    }
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a value of its setting.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueError {
    #[error("invalid LSN{given}: write two hexadecimal numbers of up to 8 digits, as in 0/16B3748")]
    NotAnLsn { given: Echo },
    #[error("0/0 is not a valid position: write an LSN such as 0/16B3748")]
    InvalidLsn,
    #[error("missing unit: write {example}")]
    UnitMissing { example: &'static str },
    #[error("invalid duration: write a number with a unit, as in \"200ms\", \"5m\" or \"1h 30m\"")]
    NotADuration,
    #[error("invalid size: write a whole number with B, KiB, MiB or GiB, as in \"64MiB\"")]
    NotASize,
    #[error("invalid number{given}: use a whole number")]
    NotAnInteger { given: Echo },
    #[error("invalid value{given}: use true or false")]
    NotABool { given: Echo },
    #[error("out of range: expected {low} to {high}")]
    OutOfBounds { low: String, high: String },
    #[error("out of range: \"forever\" is not allowed here, the maximum is {high}")]
    ForeverNotAllowed { high: String },
    #[error("invalid value{given}: use {choices}")]
    NotAChoice { given: Echo, choices: String },
    #[error("invalid pattern{given}: {why}")]
    NotAPattern { given: Echo, why: Mistake },
    #[error("invalid slot name{given}: use 1 to 63 of a-z, 0-9 and _")]
    NotASlotName { given: Echo },
    #[error("invalid publication name: use 1 to 63 bytes")]
    NotAPublicationName,
    #[error("invalid topic prefix{given}: use 1 to 200 of A-Z, a-z, 0-9, '.', '_' and '-'")]
    NotATopicPrefix { given: Echo },
    #[error("invalid broker: write HOST:PORT, without a scheme such as SASL_SSL://")]
    BrokerScheme,
    #[error("invalid broker{given}: write HOST:PORT, with a port from 1 to 65535")]
    NotABroker { given: Echo },
    #[error("empty value")]
    Empty,
    #[error("expected KEY=VALUE")]
    NotAProperty,
    #[error("not valid UTF-8")]
    NotUtf8,
    #[error("expected {expected}, found {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("no effect without {without}")]
    NoEffect { without: &'static str },
    #[error("{reason}")]
    Refused { reason: &'static str, instead: &'static str },
}

/// Why the target of a `file:` or `env:` value cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is longer than {bytes_max} bytes", path.display())]
    TooLong { path: PathBuf, bytes_max: u64 },
    #[error("{what} is not valid UTF-8")]
    NotUtf8 { what: String },
    #[error("the environment variable {name} is not set")]
    Unset { name: String },
}

/// Why the settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {why}", path.display())]
    Malformed { path: PathBuf, line: usize, why: String },
    #[error("{place}: unknown key")]
    UnknownKey { place: Place, nearest: Option<String> },
    #[error("{place}: a librdkafka property outside the table [kafka]")]
    MisplacedProperty { place: Place },
    #[error("{place}: {why}")]
    Value { place: Place, why: ValueError },
    #[error("missing required setting{}: {}", if missing.len() == 1 { "" } else { "s" }, names(missing))]
    Missing { missing: Vec<Required> },
    #[error("{} and {} contradict each other: {why}", places[0], places[1])]
    Contradiction { places: Box<[Place; 2]>, why: &'static str },
    #[error("{place}: {why}")]
    Secret { place: Place, why: SecretError },
}

/// A setting that a command requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Required {
    /// Its key.
    pub name: &'static str,
    /// How to set it.
    pub hint: &'static str,
}

fn names(missing: &[Required]) -> String {
    missing.iter().map(|required| required.name).collect::<Vec<_>>().join(", ")
}

impl ConfigError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            ConfigError::Missing { .. } => ExitCode::Usage,
            ConfigError::Value { place, .. } => place.origin.exit_code(),
            ConfigError::Contradiction { places, .. } => {
                let typed = places.iter().any(|place| place.origin.exit_code() == ExitCode::Usage);
                if typed { ExitCode::Usage } else { ExitCode::Setup }
            }
            ConfigError::Unreadable { .. }
            | ConfigError::Malformed { .. }
            | ConfigError::UnknownKey { .. }
            | ConfigError::MisplacedProperty { .. }
            | ConfigError::Secret { .. } => ExitCode::Setup,
        }
    }

    /// The next step, for the line `hint: ...` under the error.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ConfigError::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean {nearest}?")),
            ConfigError::UnknownKey { nearest: None, .. } => Some("see walcat.toml(5) for the keys".to_owned()),
            ConfigError::MisplacedProperty { place } => {
                Some(format!("move it below the line [kafka] and write it as \"{}\" = ...", place.key))
            }
            ConfigError::Missing { missing } => {
                Some(missing.iter().map(|required| required.hint).collect::<Vec<_>>().join("; "))
            }
            ConfigError::Value { why: ValueError::Refused { instead, .. }, .. } => Some((*instead).to_owned()),
            ConfigError::Value { why: ValueError::BrokerScheme, .. } => {
                Some("set the protocol with security.protocol in [kafka] or -X".to_owned())
            }
            ConfigError::Value { place, .. } if place.origin.exit_code() == ExitCode::Usage => {
                Some("see walcat stream --help for the values of each option".to_owned())
            }
            ConfigError::Value { .. } => Some("see walcat.toml(5) for the values of each key".to_owned()),
            ConfigError::Contradiction { .. } => Some("remove one of them".to_owned()),
            ConfigError::Unreadable { .. } => Some("set the path with -c, --config or WALCAT_CONFIG".to_owned()),
            ConfigError::Malformed { .. } => Some("write the file in TOML; walcat.toml(5) has an example".to_owned()),
            ConfigError::Secret { .. } => {
                Some("walcat reads a value file:PATH from that file and env:NAME from that variable".to_owned())
            }
        }
    }
}
