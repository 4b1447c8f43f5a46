use clap::Arg;
use clap::error::ErrorKind;

use super::*;
use crate::config::{Config, Key, Kind};

fn run(arguments: &[&str]) -> Result<Cli, clap::Error> {
    let arguments = std::iter::once("walcat").chain(arguments.iter().copied());
    parse(arguments.map(OsString::from), version_text("15.18", "2.12.1"))
}

fn given(arguments: &[&str]) -> Given {
    match run(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}")).command {
        Command::Stream(options) => options.given(),
        Command::Slot(command) => command.given(),
        Command::Snapshot(command) => command.given(),
        Command::Check(options) => options.given(),
        Command::Verify(options) => options.given(),
        Command::Decode(options) => options.given(),
    }
}

fn stream_command() -> clap::Command {
    let mut command = command();
    command.build();
    command.find_subcommand("stream").cloned().unwrap_or_else(|| panic!("no command stream"))
}

/// Flags that are not settings: the name of the file, and two actions.
const FLAG_ONLY: [&str; 3] = ["config", "print-config", "help"];

#[test]
fn clap_accepts_the_definition_of_the_command_line() {
    command().debug_assert();
}

#[test]
fn every_long_flag_of_stream_is_a_key_and_every_key_at_the_top_level_a_long_flag() {
    let command = stream_command();
    let flags: Vec<String> = command.get_arguments().filter_map(Arg::get_long).map(str::to_owned).collect();
    for flag in flags.iter().filter(|flag| !FLAG_ONLY.contains(&flag.as_str())) {
        assert!(Key::with_flag(flag).is_some(), "--{flag} is not a key");
    }
    for row in Key::ALL.iter().filter(|row| !row.key.flag().contains('.')) {
        assert!(flags.contains(&row.key.flag().replace('_', "-")), "{} has no flag", row.name);
    }
}

#[test]
fn every_flag_of_stream_reaches_the_settings() {
    for row in Key::ALL.iter().filter(|row| !row.key.flag().contains('.')) {
        let flag = format!("--{}", row.key.flag().replace('_', "-"));
        let value = match row.kind {
            Kind::Bool | Kind::Integer => None,
            _ => Some("5"),
        };
        let mut arguments = vec!["stream", &flag];
        arguments.extend(value);
        let wanted = match row.kind {
            Kind::Bool => "true",
            Kind::Integer => "1",
            _ => "5",
        };
        assert_eq!(given(&arguments).settings, [(row.key, vec![wanted.to_owned()])], "{flag}");
    }
}

#[test]
fn the_help_says_the_short_text_and_the_default_of_the_table_and_then_the_rest() {
    for row in Key::ALL.iter().filter(|row| !row.key.flag().contains('.')) {
        let command = stream_command();
        let flag = row.key.flag().replace('_', "-");
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&flag)).unwrap_or_else(|| panic!("{flag}"));
        let text = |help: Option<&clap::builder::StyledStr>| help.map(ToString::to_string).unwrap_or_default();
        let (short, long) = (text(arg.get_help()), text(arg.get_long_help()));
        assert!(short.starts_with(row.summary) && !short.ends_with('.') && !short.contains('\n'), "{short}");
        assert!(long == short || long.starts_with(&format!("{short}\n\n")) && long.ends_with('.'), "{long}");
        let said = short.split_once("[default: ").and_then(|(_, rest)| rest.split(']').next());
        let default = row.default.filter(|_| !matches!(row.kind, Kind::Bool | Kind::Integer));
        assert_eq!(said, default, "{}", row.name);
    }
}

#[test]
fn short_flags_are_those_of_the_tools_next_door() {
    let given = given(&[
        "stream", "-c", "f", "-d", "host=x", "-s", "s", "-p", "a", "-p", "b", "-b", "k", "-X", "a=b", "-X", "c=d",
        "-vvv",
    ]);
    assert_eq!(given.config, Some("f".into()));
    assert_eq!(given.properties, ["a=b", "c=d"]);
    let texts = |key| given.settings.iter().find(|(other, _)| *other == key).map(|(_, texts)| texts.join(" "));
    for (key, wanted) in
        [(Key::Dsn, "host=x"), (Key::Slot, "s"), (Key::Publication, "a b"), (Key::Brokers, "k"), (Key::Verbose, "2")]
    {
        assert_eq!(texts(key).as_deref(), Some(wanted));
    }
}

#[test]
fn a_switch_can_be_turned_off() {
    assert_eq!(given(&["stream", "--once=false"]).settings, [(Key::Once, vec!["false".to_owned()])]);
    assert_eq!(given(&["stream", "-q"]).settings, [(Key::Quiet, vec!["true".to_owned()])]);
}

#[test]
fn each_command_takes_its_options() {
    for arguments in [
        &["slot", "create", "-c", "f", "-d", "x", "-s", "s", "-p", "p"][..],
        &["slot", "drop", "-c", "f", "-d", "x", "-s", "s", "--force"],
        &["slot", "status", "-c", "f", "-d", "x", "-s", "s", "--format", "json"],
        &[
            "check",
            "-c",
            "f",
            "-d",
            "x",
            "-s",
            "s",
            "-p",
            "p",
            "-b",
            "k",
            "-X",
            "a=b",
            "--topic-prefix",
            "t",
            "--sink",
            "stdout",
        ],
        &["decode", "FILE", "--dump-keepalives", "-v", "--log-format", "json"],
        &["stream", "--print-config"],
    ] {
        let _ = given(arguments);
    }
    for arguments in [
        &["slot", "drop", "-s", "s", "-p", "p"][..],
        &["slot", "create", "--temporary-slot"],
        &["slot", "status", "--format", "xml"],
        &["slot"],
        &["decode"],
        &["check", "--once"],
        &["stream", "--unknown"],
        &["stream", "-d"],
        &["steam"],
        &[],
    ] {
        let error = run(arguments).err().unwrap_or_else(|| panic!("accepted: {arguments:?}"));
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn decode_has_its_own_switch_for_keepalives() {
    let Ok(Cli { command: Command::Decode(options) }) = run(&["decode", "FILE", "--dump-keepalives"]) else {
        panic!("not decode");
    };
    assert!(options.dump_keepalives);
    assert!(Config::without_file(&options.given(), &|_| None).is_ok());
}

#[test]
fn help_and_version_are_no_errors() {
    for (arguments, kind) in [
        (&["--help"][..], ErrorKind::DisplayHelp),
        (&["stream", "-h"], ErrorKind::DisplayHelp),
        (&["--version"], ErrorKind::DisplayVersion),
    ] {
        let error = run(arguments).err().unwrap_or_else(|| panic!("accepted"));
        assert_eq!((error.kind(), error.exit_code()), (kind, 0), "{arguments:?}");
    }
    let version = run(&["--version"]).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(version.starts_with(concat!("walcat ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(version.ends_with(")\nlibpq 15.18\nlibrdkafka 2.12.1\n"), "{version}");
}

#[test]
fn the_long_help_is_longer_and_grouped() {
    let help = |flag: &str| run(&["stream", flag]).err().map(|error| error.to_string()).unwrap_or_default();
    let (short, long) = (help("-h"), help("--help"));
    assert!(long.lines().count() > 2 * short.lines().count());
    for heading in
        ["PostgreSQL:", "Kafka:", "Slot and output:", "Start and end:", "Time:", "Logging:", "Configuration:"]
    {
        assert!(short.contains(heading) && long.contains(heading), "{heading}");
    }
}

#[test]
fn half_of_a_split_conninfo_is_not_repeated() {
    for arguments in [["stream", "-d", "host=db", "password=hunter2"], ["stream", "-d", "password='a", "hunter2'"]] {
        let error = run(&arguments).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("unexpected argument") && !error.contains("hunter2"), "{error}");
    }
}
