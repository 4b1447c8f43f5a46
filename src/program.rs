//! The command `walcat`: parses the command line, runs one command, prints its failure once, and exits with its code.

use std::io::{ErrorKind, Write};

use crate::cli::{self, Cli, Command, SlotCommand, SnapshotCommand};
use crate::commands::{check, decode, estimate, incremental, slot, stream, verify};
use crate::config::{self, Config};
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::logging::Failure;
use crate::snapshot::request::Kind;
use crate::{defect, logging, pg, process_end, sink};
use log::warn;

/// Runs the command in the process's arguments, and ends the process.
pub fn run_process() -> ! {
    defect::install_handlers();
    let version = cli::version_text(&pg::library_version(), &sink::kafka::client::ffi::library_version());
    let code = match cli::parse(std::env::args_os(), version) {
        Ok(cli) => run(&cli).map_or_else(|failed| report(&failed), |()| ExitCode::Done),
        Err(message) if message.use_stderr() => report_usage(&message),
        Err(message) => {
            // Help or the version. A closed pipe is not an error.
            let _ = message.print();
            ExitCode::Done
        }
    };
    process_end::end(code)
}

/// A failure of a command, and the slot of a stream that ends by it.
struct Failed {
    error: Box<Error>,
    slot: Option<String>,
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed { error: Box::new(error.into()), slot: None }
    }
}

fn run(cli: &Cli) -> Result<(), Failed> {
    let environment = &config::process_environment;
    match &cli.command {
        Command::Stream(options) => {
            let config = Config::load(&options.given(), environment)?;
            if options.print_config {
                return Ok(print(&config.print())?);
            }
            start_log(&config);
            let settings = config.stream(environment)?;
            stream::run(&settings).map_err(|error| Failed {
                error: Box::new(error),
                // A snapshot alone needs no slot.
                slot: Some(settings.slot.clone()).filter(|slot| !slot.is_empty()),
            })
        }
        Command::Check(options) => {
            let config = Config::load(&options.given(), environment)?;
            start_log(&config);
            Ok(check::run(&config.stream(environment)?)?)
        }
        Command::Verify(options) => {
            let config = Config::load(&options.given(), environment)?;
            start_log(&config);
            Ok(verify::run(&config.verify(environment)?, &options.patterns, options.show_values)?)
        }
        Command::Slot(command) => {
            let config = Config::load(&command.given(), environment)?;
            start_log(&config);
            let settings = config.slot(environment)?;
            match command {
                SlotCommand::Create(_) => slot::create(&settings)?,
                SlotCommand::Drop(options) => slot::drop(&settings, options.force)?,
                SlotCommand::Status(options) => {
                    slot::status(&settings, config.stream(environment).ok().as_ref(), options.format)?
                }
            }
            Ok(())
        }
        Command::Snapshot(command) => {
            let config = Config::load(&command.given(), environment)?;
            start_log(&config);
            let settings = config.stream(environment)?;
            match command {
                SnapshotCommand::Start(options) => incremental::request(&settings, Kind::Start, &options.tables)?,
                SnapshotCommand::Pause(_) => incremental::request(&settings, Kind::Pause, &[])?,
                SnapshotCommand::Resume(_) => incremental::request(&settings, Kind::Resume, &[])?,
                SnapshotCommand::Stop(options) => incremental::request(&settings, Kind::Stop, &options.tables)?,
                SnapshotCommand::Status(options) => incremental::status(&settings, options.format)?,
                SnapshotCommand::Estimate(options) => estimate::run(&settings, &options.tables)?,
            }
            Ok(())
        }
        Command::Decode(options) => {
            let config = Config::without_file(&options.given(), environment)?;
            start_log(&config);
            Ok(decode::run(&options.file, options.dump_keepalives)?)
        }
    }
}

fn start_log(config: &Config) {
    logging::init(config.log());
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for warning in config.warnings().into_iter().chain(config::mistaken_variables(variables)) {
        warn!("{warning}");
    }
    defect::fail_if_tested();
}

/// Prints clap's error: its own text, or in a JSON log the first paragraph as the message and the others as the hint.
fn report_usage(message: &clap::Error) -> ExitCode {
    expect_log();
    let code = ExitCode::Usage;
    if !logging::is_json() {
        // A closed pipe is not an error.
        let _ = message.print();
        return code;
    }
    let text = message.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = paragraphs.next().unwrap_or_default();
    let hint = paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("; ");
    let message = first.strip_prefix("error: ").unwrap_or(&first);
    logging::tell_failure(&Failure { message, hint: (!hint.is_empty()).then_some(hint.as_str()), slot: None, code });
    code
}

/// An error in the settings has the format that the log would have.
fn expect_log() {
    logging::expect(config::expected_log_format(std::env::args_os(), &config::process_environment));
}

fn print(text: &str) -> Result<(), Error> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Output(error)),
        _ => Ok(()),
    }
}

/// Prints a failure, the only place that does so.
fn report(Failed { error, slot }: &Failed) -> ExitCode {
    let code = error.exit_code();
    // Without an effect if the log has started.
    expect_log();
    let (message, hint) = (error.to_string(), error.hint());
    logging::tell_failure(&Failure { message: &message, hint: hint.as_deref(), slot: slot.as_deref(), code });
    code
}
