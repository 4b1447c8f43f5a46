//! The manual pages agree with the binary: options, keys, short texts, defaults, exit codes. The markup is valid.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use clap::Arg;
use walcat::testing::cli;
use walcat::testing::config::{Key, Kind};
use walcat::testing::exit_code::ExitCode;

const PAGES: [&str; 3] = ["walcat.1", "walcat.toml.5", "walcat-records.7"];

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man").join(file)
}

fn page(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The list items of a page: the text after `.It`, and the lines up to the next macro that ends the item.
fn items(page: &str) -> Vec<(String, Vec<String>)> {
    let mut items: Vec<(String, Vec<String>)> = Vec::new();
    let mut is_open = false;
    for line in page.lines() {
        if let Some(head) = line.strip_prefix(".It ") {
            items.push((head.to_owned(), Vec::new()));
            is_open = true;
        } else if line.starts_with(".El") {
            is_open = false;
        } else if is_open && let Some((_, body)) = items.last_mut() {
            body.push(line.replace("\\-", "-"));
        }
    }
    items
}

/// `--long` and `-s` of every command.
fn flags_of_the_binary() -> BTreeSet<String> {
    fn collect(command: &clap::Command, flags: &mut BTreeSet<String>) {
        for argument in command.get_arguments() {
            flags.extend(argument.get_long().map(|flag| format!("--{flag}")));
            flags.extend(argument.get_short().map(|flag| format!("-{flag}")));
        }
        // clap's command `help` repeats the names of the others.
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            collect(command, flags);
        }
    }
    let mut command = cli::command().version("0");
    command.build();
    let mut flags = BTreeSet::new();
    collect(&command, &mut flags);
    flags
}

#[test]
fn every_option_is_in_the_manual_and_every_option_of_the_manual_exists() {
    let described: BTreeSet<String> = items(&page("walcat.1"))
        .iter()
        .flat_map(|(head, _)| {
            let words: Vec<&str> = head.split_whitespace().collect();
            words.windows(2).filter(|pair| pair[0] == "Fl").map(|pair| format!("-{}", pair[1])).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(described, flags_of_the_binary());
}

/// Every option of every command: its flag and its short text in `--help`.
fn short_texts_of_the_binary() -> BTreeSet<(String, String)> {
    fn collect(command: &clap::Command, texts: &mut BTreeSet<(String, String)>) {
        for argument in command.get_arguments() {
            let short = || argument.get_short().map(|flag| flag.to_string());
            let flag = argument.get_long().map(|flag| format!("-{flag}")).or_else(short);
            let text = argument.get_help().map(ToString::to_string).unwrap_or_default();
            texts.extend(flag.map(|flag| (flag, text)));
        }
        for command in command.get_subcommands() {
            collect(command, texts);
        }
    }
    let mut texts = BTreeSet::new();
    collect(&cli::command(), &mut texts);
    texts
}

#[test]
fn an_option_has_the_same_short_text_in_the_help_and_in_the_manual() {
    let items = items(&page("walcat.1"));
    let texts = short_texts_of_the_binary();
    assert!(texts.len() > 30, "{texts:?}");
    for (flag, text) in texts {
        let item = items.iter().find(|(head, _)| head.split_whitespace().any(|word| word == flag));
        let line = item.and_then(|(_, body)| body.first());
        assert_eq!(line, Some(&format!("{text}.")), "{flag}");
    }
}

#[test]
fn every_value_name_of_the_help_is_a_value_of_the_manual() {
    let mut command = cli::command();
    command.build();
    let stream = command.find_subcommand("stream").unwrap_or_else(|| panic!("no command stream"));
    let heads: Vec<String> = items(&page("walcat.1")).into_iter().map(|(head, _)| head).collect();
    for argument in stream.get_arguments().filter(|argument| argument.get_num_args().is_some_and(|n| n.takes_values()))
    {
        let Some(flag) = argument.get_long() else { continue };
        let head = heads.iter().find(|head| head.split_whitespace().any(|word| word == format!("-{flag}")));
        let head = head.unwrap_or_else(|| panic!("--{flag} is missing"));
        let names: Vec<&str> =
            Arg::get_value_names(argument).iter().flat_map(|names| names.iter()).map(|n| n.as_str()).collect();
        let is_described = names.iter().all(|name| head.contains(&format!("Ar {name}")));
        assert!(is_described, "--{flag} takes {names:?}, the manual says {head:?}");
    }
}

#[test]
fn the_table_of_exit_codes_is_printed_row_by_row() {
    let page = page("walcat.1");
    let section = page.split(".Sh EXIT STATUS").nth(1).unwrap_or_default();
    let section = section.split(".Sh ").next().unwrap_or_default();
    let printed: Vec<(String, String)> =
        items(section).into_iter().map(|(code, body)| (code, body.join(" "))).collect();
    let table: Vec<(String, String)> =
        ExitCode::TABLE.iter().map(|(code, when)| (code.code().to_string(), (*when).to_owned())).collect();
    assert_eq!(printed, table);
}

#[test]
fn every_key_is_in_the_manual_with_its_kind_its_default_and_its_short_text() {
    let described: Vec<(String, String)> = items(&page("walcat.toml.5"))
        .into_iter()
        .filter_map(|(head, body)| Some((head.strip_prefix("Va ")?.to_owned(), body.get(..2)?.join("\n"))))
        .filter(|(name, _)| name != "topics.properties")
        .collect();
    let names: BTreeSet<&str> = described.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, Key::ALL.iter().map(|row| row.name).collect());
    for row in &Key::ALL {
        let kind = match row.kind {
            Kind::Text => "String",
            Kind::List => "String or list",
            Kind::Duration => "Duration",
            Kind::Size => "Size",
            Kind::Integer => "Number",
            Kind::Bool => "Switch",
        };
        let default = match (row.kind, row.default) {
            (_, None) => "no default".to_owned(),
            (Kind::Integer | Kind::Bool, Some(default)) => format!("default {default}"),
            (_, Some(default)) => format!("default \"{default}\""),
        };
        let line = described.iter().find(|(name, _)| name == row.name).map(|(_, line)| line.as_str());
        assert_eq!(line, Some(format!("{kind}; {default}.\n{}.", row.summary).as_str()), "{}", row.name);
    }
}

#[test]
fn the_example_file_says_the_short_text_above_every_key() {
    let example = page("walcat.example.toml");
    let (mut table, mut comment, mut seen) = (String::new(), None, 0);
    for line in example.lines() {
        let key = line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key);
        let key = key.filter(|_| !line.starts_with("# ")).and_then(|key| Key::find(&format!("{table}{key}")));
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some(row) = key {
            assert_eq!(comment, Some(format!("# {}.", row.summary).as_str()), "{}", row.name);
            seen += 1;
        }
        comment = if line.starts_with("# ") { comment.or(Some(line)) } else { None };
    }
    assert_eq!(seen, Key::ALL.len());
}

#[test]
fn the_unit_restarts_only_if_a_restart_helps() {
    let unit = page("walcat.service");
    let codes = |setting: &str| -> Vec<u8> {
        let line = unit.lines().find_map(|line| line.strip_prefix(setting)).unwrap_or_default();
        line.split_whitespace().map(|code| code.parse().unwrap_or_else(|_| panic!("{setting}{line}"))).collect()
    };
    let never = [ExitCode::Usage, ExitCode::Data, ExitCode::Permission, ExitCode::Setup, ExitCode::Fenced];
    assert_eq!(codes("RestartPreventExitStatus="), never.map(ExitCode::code));
    assert_eq!(codes("SuccessExitStatus="), [ExitCode::TryAgain.code()]);
}

/// Runs a formatter on every page and expects no output.
fn lint(program: &str, arguments: &[&str]) {
    for page in PAGES {
        let output = Command::new(program).args(arguments).arg(path(page)).env("MANWIDTH", "100").output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup --manual installs it"));
        let complaints = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{program} {page}: {}", String::from_utf8_lossy(&complaints));
        assert!(complaints.is_empty(), "{program} {page}: {}", String::from_utf8_lossy(&complaints));
    }
}

#[test]
fn the_markup_has_no_fault() {
    lint("mandoc", &["-T", "lint", "-W", "warning"]);
    lint("groff", &["-mandoc", "-T", "utf8", "-K", "utf8", "-ww", "-z"]);
}
