//! The command line: commands, options and their help.
//!
//! Options are texts. `config` parses them because the environment and the file contain the same settings.

mod options;

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::{Given, Key};
use crate::patterns::Pattern;
use options::{
    ConnectionOptions, EndOptions, FailoverOptions, KafkaOptions, LogOptions, OutputOptions, PublicationOptions,
    TimeOptions,
};

const AFTER_HELP: &str = "\
Each option is also a key in the configuration file and an environment variable: --topic-prefix is topic_prefix and \
WALCAT_TOPIC_PREFIX. Flags override variables, which override the file.

walcat(1) lists the exit codes, walcat.toml(5) describes the file, and walcat-records(7) describes the records.";

/// Streams committed PostgreSQL changes into Kafka.
///
/// walcat reads a logical replication slot through pgoutput. It confirms to PostgreSQL only what Kafka has acknowledged,
/// so a crash never loses a change.
#[derive(Parser)]
#[command(name = "walcat", bin_name = "walcat", max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Stream committed changes into Kafka, a pipe or a dump
    Stream(Box<StreamOptions>),
    /// Create, drop or show the replication slot
    #[command(subcommand)]
    Slot(SlotCommand),
    /// Send the rows of whole tables beside the stream, in chunks
    ///
    /// The stream that runs on the slot reads the tables, or the next one that runs. A request is a message in the WAL, so
    /// give these commands a connection to the primary and the settings of the stream.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Check whether stream would work with these settings
    ///
    /// This checks the server, the role, the publication and its tables, the slot, the broker and the topics. It prints
    /// one line for each, with a hint if something is wrong, and exits with 78 if one is an error. It changes nothing.
    Check(Box<CheckOptions>),
    /// Compare the topics with their tables
    ///
    /// This takes a snapshot of the tables of the publication, waits until the stream has delivered everything from before
    /// it, reads each topic, and compares the last record of each key with its row, byte for byte. It prints one line for
    /// each table, with up to 10 keys of each kind of difference, and exits with 65 if a topic differs. It changes nothing
    /// and may run beside the stream.
    Verify(Box<VerifyOptions>),
    /// Print a recording as `stream --dump json` prints a stream; needs no server
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
    /// Print the settings in effect and where each comes from, then exit
    ///
    /// The output is a configuration file with comments, in which secrets are masked. walcat connects to nothing.
    #[arg(long, help_heading = "Configuration")]
    pub print_config: bool,
}

#[derive(Subcommand)]
pub enum SlotCommand {
    /// Create the slot, after checking that the publications exist
    ///
    /// The publication has to be older than the slot: PostgreSQL decodes old WAL with the catalog as it was at that time.
    /// A slot that is older than its publication fails permanently at the first change between the two.
    Create(SlotCreateOptions),
    /// Drop the slot and its position in the WAL
    ///
    /// This prints how much unread WAL is discarded and asks for confirmation. Without a terminal, --force is required.
    Drop(SlotDropOptions),
    /// Show who reads the slot, its position and how much WAL it retains
    ///
    /// If something is wrong, a hint says what to do, and an error exits with 78.
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
    /// Drop the slot without asking
    #[arg(long, help_heading = "PostgreSQL")]
    pub force: bool,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(clap::Args)]
pub struct SlotStatusOptions {
    #[command(flatten)]
    connection: ConnectionOptions,
    /// Print a table or one JSON object
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

#[derive(Subcommand)]
pub enum SnapshotCommand {
    /// Send the rows of these tables, or of all
    ///
    /// Each row is a record with the op r. At no time does an older state of a key follow a newer one. The progress is stored
    /// with the position, so a restart goes on after the last chunk. Each table needs a key.
    Start(SnapshotTablesOptions),
    /// Read no more chunks until resume
    Pause(SnapshotOptions),
    /// Read on after a pause
    Resume(SnapshotOptions),
    /// Forget what is left of these tables, or of all
    Stop(SnapshotTablesOptions),
    /// Show the tables that are left
    Status(SnapshotStatusOptions),
    /// Show how many rows and bytes these tables have, or all
    Estimate(SnapshotTablesOptions),
}

#[derive(clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct SnapshotOptions {
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
pub struct SnapshotTablesOptions {
    /// The tables: SCHEMA.TABLE with the globs * and ?, or a regular expression between slashes
    #[arg(value_name = "PATTERN")]
    pub tables: Vec<String>,
    #[command(flatten)]
    options: SnapshotOptions,
}

#[derive(clap::Args)]
pub struct SnapshotStatusOptions {
    /// Print a table or one JSON object
    #[arg(long, value_enum, default_value = "table", help_heading = "Output", value_name = "FORMAT")]
    pub format: StatusFormat,
    #[command(flatten)]
    options: SnapshotOptions,
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
#[command(after_long_help = AFTER_HELP)]
pub struct VerifyOptions {
    /// Compare only the tables SCHEMA.TABLE that a pattern matches; * and ? match parts of a name
    #[arg(value_name = "PATTERN", value_parser = Pattern::parse)]
    pub patterns: Vec<Pattern>,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    publication: PublicationOptions,
    #[command(flatten)]
    kafka: KafkaOptions,
    /// Print the rows that differ, not only their keys
    #[arg(long, help_heading = "Output")]
    pub show_values: bool,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(clap::Args)]
pub struct DecodeOptions {
    /// A recording that `stream --record` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[arg(long, help_heading = "Output")]
    pub dump_keepalives: bool,
    #[command(flatten)]
    log: LogOptions,
}

impl StreamOptions {
    /// The options for [`crate::config::Config::load`].
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
    /// The options for [`crate::config::Config::load`].
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

impl SnapshotCommand {
    /// The options for [`crate::config::Config::load`].
    #[must_use]
    pub fn given(&self) -> Given {
        let SnapshotOptions { connection, publication, kafka, log } = match self {
            SnapshotCommand::Start(one) | SnapshotCommand::Stop(one) | SnapshotCommand::Estimate(one) => &one.options,
            SnapshotCommand::Pause(options) | SnapshotCommand::Resume(options) => options,
            SnapshotCommand::Status(one) => &one.options,
        };
        let mut given = Given::default();
        connection.add_to(&mut given);
        publication.add_to(&mut given);
        kafka.add_to(&mut given);
        log.add_to(&mut given);
        given
    }
}

impl CheckOptions {
    /// The options for [`crate::config::Config::load`].
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

impl VerifyOptions {
    /// The options for [`crate::config::Config::load`].
    #[must_use]
    pub fn given(&self) -> Given {
        let VerifyOptions { patterns: _, connection, publication, kafka, show_values: _, log } = self;
        let mut given = Given::default();
        connection.add_to(&mut given);
        publication.add_to(&mut given);
        kafka.add_to(&mut given);
        log.add_to(&mut given);
        given
    }
}

impl DecodeOptions {
    /// The options for [`crate::config::Config::without_file`].
    #[must_use]
    pub fn given(&self) -> Given {
        let DecodeOptions { file: _, dump_keepalives: _, log } = self;
        let mut given = Given::default();
        log.add_to(&mut given);
        given
    }
}

/// The text of `--version` after the name: walcat's version and revision, and the versions of its libraries.
#[must_use]
pub fn version_text(libpq: &str, librdkafka: &str) -> String {
    format!("{}\nlibpq {libpq}\nlibrdkafka {librdkafka}", short_version())
}

fn short_version() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("WALCAT_GIT_REVISION"), ")")
}

/// The command line with the short text and the default of every setting, from the table of keys.
#[must_use]
pub fn command() -> clap::Command {
    described(Cli::command())
}

fn described(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.iter().fold(command.mut_args(described_option), |command, name| command.mut_subcommand(name, described))
}

/// An option with its short text from the table of keys; the long help adds the comment on its field.
fn described_option(option: clap::Arg) -> clap::Arg {
    let row = option.get_long().and_then(Key::with_flag);
    let Some(row) = row else { return option };
    let short = row.help();
    let rest = match (option.get_long_help(), option.get_help()) {
        (Some(text), _) => format!("\n\n{text}"),
        // clap removes the final dot of a comment of one paragraph.
        (None, Some(text)) => format!("\n\n{text}."),
        (None, None) => String::new(),
    };
    option.long_help(styled(&format!("{short}{rest}"))).help(styled(&short))
}

fn styled(text: &str) -> StyledStr {
    let mut styled = StyledStr::new();
    // Writing to a StyledStr does not fail.
    let _ = styled.write_str(text);
    styled
}

/// Parses the command line. `--help` and `--version` are errors too: clap's `print` and `exit_code` handle them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>, version_text: String) -> Result<Cli, clap::Error> {
    // clap keeps a &'static str; this runs once in a process.
    let version_text: &'static str = version_text.leak();
    let command = command().version(short_version()).long_version(version_text);
    let parsed = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(without_secret)
}

/// Hides the value of an unknown argument, which may be half of a conninfo that the shell has split.
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
