//! The command line: commands, options and their help.
//!
//! Options are taken as texts; `config` parses them, since the environment and the file say the same things.

mod options;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::Given;
use options::{
    ConnectionOptions, EndOptions, FailoverOptions, KafkaOptions, LogOptions, OutputOptions, PublicationOptions,
    TimeOptions,
};

const AFTER_HELP: &str = "\
An option is also a key of the configuration file and, with WALCAT_ before its name, a variable: \
--topic-prefix is topic_prefix and WALCAT_TOPIC_PREFIX. A flag goes before a variable, and that before the file.

The exit codes are in walcat(1), the file in walcat.toml(5), the records in walcat-records(7).";

/// Tails a PostgreSQL write-ahead log and puts every committed change into Kafka.
///
/// walcat reads a logical replication slot through pgoutput and confirms to PostgreSQL only what Kafka has confirmed
/// to it: nothing is lost, whatever stops.
#[derive(Parser)]
#[command(name = "walcat", bin_name = "walcat", max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Streams committed changes into Kafka, into a pipe or into a dump
    Stream(Box<StreamOptions>),
    /// Creates, drops or shows the replication slot
    #[command(subcommand)]
    Slot(SlotCommand),
    /// Says whether a stream with these settings would work, and what to do if not
    ///
    /// Looks at the server, the role, the publication and its tables, the slot, the broker and the topics; one line
    /// for each, and exit code 78 where one is an error. Changes nothing.
    Check(Box<CheckOptions>),
    /// Prints a recording as `stream --dump json` prints a stream; needs no server
    Decode(DecodeOptions),
}

#[derive(clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct StreamOptions {
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    publication: PublicationOptions,
    #[command(flatten)]
    kafka: KafkaOptions,
    #[command(flatten)]
    failover: FailoverOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    end: EndOptions,
    #[command(flatten)]
    time: TimeOptions,
    #[command(flatten)]
    log: LogOptions,
    /// Print the settings in force and where each comes from, and exit
    ///
    /// As a configuration file with comments; secrets are masked. Connects to nothing.
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,
}

#[derive(Subcommand)]
pub enum SlotCommand {
    /// Creates the slot; the publications that are given have to be there
    ///
    /// The publication has to be there before the slot: PostgreSQL decodes old WAL with the catalog of its time, and
    /// a slot that is older than the publication fails at the first change in between, for good.
    Create(SlotCreateOptions),
    /// Drops the slot, and with it its place in the WAL
    ///
    /// Says how much WAL nobody has read, and asks first. Without a terminal to ask on, --force is required.
    Drop(SlotDropOptions),
    /// Shows who reads the slot, how far it is and how much WAL it holds
    ///
    /// And what to do when something is wrong.
    Status(SlotStatusOptions),
}

#[derive(clap::Args)]
pub struct SlotCreateOptions {
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    publication: PublicationOptions,
    #[command(flatten)]
    failover: FailoverOptions,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(clap::Args)]
pub struct SlotDropOptions {
    #[command(flatten)]
    connection: ConnectionOptions,
    /// Drop the slot without a question
    #[arg(long, help_heading = "PostgreSQL")]
    pub force: bool,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(clap::Args)]
pub struct SlotStatusOptions {
    #[command(flatten)]
    connection: ConnectionOptions,
    /// A table to read or one JSON object
    #[arg(long, value_enum, default_value = "table", help_heading = "Output", value_name = "FORMAT")]
    pub format: StatusFormat,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    Table,
    Json,
}

#[derive(clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct CheckOptions {
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    publication: PublicationOptions,
    #[command(flatten)]
    kafka: KafkaOptions,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(clap::Args)]
pub struct DecodeOptions {
    /// The recording, as `stream --record` writes it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print keepalives too
    #[arg(long, help_heading = "Output")]
    pub dump_keepalives: bool,
    #[command(flatten)]
    log: LogOptions,
}

impl StreamOptions {
    /// What was given, for [`crate::config::Config::load`].
    #[must_use]
    pub fn given(&self) -> Given {
        let StreamOptions { connection, publication, kafka, failover, output, end, time, log, print_config: _ } = self;
        let mut given = Given::default();
        connection.add_to(&mut given);
        publication.add_to(&mut given);
        kafka.add_to(&mut given);
        failover.add_to(&mut given);
        output.add_to(&mut given);
        end.add_to(&mut given);
        time.add_to(&mut given);
        log.add_to(&mut given);
        given
    }
}

impl SlotCommand {
    /// What was given, for [`crate::config::Config::load`].
    #[must_use]
    pub fn given(&self) -> Given {
        let mut given = Given::default();
        let (connection, log) = match self {
            SlotCommand::Create(SlotCreateOptions { connection, publication, failover, log }) => {
                publication.add_to(&mut given);
                failover.add_to(&mut given);
                (connection, log)
            }
            SlotCommand::Drop(SlotDropOptions { connection, log, force: _ })
            | SlotCommand::Status(SlotStatusOptions { connection, log, format: _ }) => (connection, log),
        };
        connection.add_to(&mut given);
        log.add_to(&mut given);
        given
    }
}

impl CheckOptions {
    /// What was given, for [`crate::config::Config::load`].
    #[must_use]
    pub fn given(&self) -> Given {
        let CheckOptions { connection, publication, kafka, log } = self;
        let mut given = Given::default();
        connection.add_to(&mut given);
        publication.add_to(&mut given);
        kafka.add_to(&mut given);
        log.add_to(&mut given);
        given
    }
}

impl DecodeOptions {
    /// What was given, for [`crate::config::Config::without_file`].
    #[must_use]
    pub fn given(&self) -> Given {
        let DecodeOptions { file: _, dump_keepalives: _, log } = self;
        let mut given = Given::default();
        log.add_to(&mut given);
        given
    }
}

/// What `--version` says after the name: walcat's version and revision, and the libraries in use.
#[must_use]
pub fn version_text(libpq: &str, librdkafka: &str) -> String {
    format!("{}\nlibpq {libpq}\nlibrdkafka {librdkafka}", short_version())
}

fn short_version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("WALCAT_GIT_REVISION"), ")")
}

/// Parses the command line. The error is also how `--help` and `--version` end: clap's own `print` and `exit_code`
/// do the right thing for each.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, version_text: String) -> Result<Cli, clap::Error> {
    // clap keeps a &'static str; this runs once in the life of a process.
    let version_text: &'static str = version_text.leak();
    let command = Cli::command().version(short_version()).long_version(version_text);
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(without_secret)
}

/// An argument that clap does not know may be half of a conninfo that the shell has split.
fn without_secret(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && !argument.starts_with('-')
    {
        let shown = match argument.split_once('=') {
            Some((keyword, _)) => format!("{keyword}=..."),
            None => "...".to_owned(),
        };
        error.insert(ContextKind::InvalidArg, ContextValue::String(shown));
    }
    error
}

#[cfg(test)]
mod tests;
