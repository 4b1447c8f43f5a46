//! The layers together: which value is in effect, what is refused, and that no secret is shown.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::settings::{DumpFormat, Retry};
use super::*;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::session::Truncations;
use crate::sink::stdout::LineForm;

/// The file under a test's flags and variables.
const FILE: &str = "walcat.toml";

/// What a stream requires.
const REQUIRED: &str = "slot = 'file_slot'\npublication = 'file_pub'\nbrokers = 'file:1'\n";

struct Case<'a> {
    flags: &'a [(Key, &'a str)],
    properties: &'a [&'a str],
    variables: &'a [(&'a str, &'a str)],
    file: &'a str,
}

const NOTHING: Case<'_> = Case { flags: &[], properties: &[], variables: &[], file: "" };

impl Case<'_> {
    fn environment(&self, name: &str) -> Option<OsString> {
        self.variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let given = Given {
            config: None,
            settings: self.flags.iter().map(|(key, text)| (*key, vec![(*text).to_owned()])).collect(),
            properties: self.properties.iter().map(|text| (*text).to_owned()).collect(),
        };
        let file = file::parse(self.file, Path::new(FILE))?;
        Config::build(&given, &|name| self.environment(name), file)
    }

    fn stream(&self) -> Result<StreamSettings, ConfigError> {
        self.config()?.stream(&|name| self.environment(name))
    }

    fn print(&self) -> String {
        self.config().unwrap_or_else(|error| panic!("{error}")).print()
    }

    fn error(&self) -> ConfigError {
        self.stream().err().unwrap_or_else(|| panic!("accepted"))
    }
}

fn settings(case: &Case<'_>) -> StreamSettings {
    case.stream().unwrap_or_else(|error| panic!("{error}"))
}

/// Two different texts for each kind of value, as the file writes them.
fn samples(key: Key) -> [&'static str; 2] {
    match (key, key.row().kind) {
        (Key::Sink, _) => ["stdout", "kafka"],
        (Key::Stdout, _) => ["record", "value"],
        (Key::Dump, _) => ["json", "json"],
        (Key::Startpos | Key::Endpos, _) => ["0/10", "0/20"],
        (Key::Truncate, _) => ["skip", "emit"],
        (Key::Engine, _) => ["polling", "streaming"],
        (Key::OnError, _) => ["skip", "stop"],
        (Key::Delivery, _) => ["exactly-once", "at-least-once"],
        (Key::LogFormat, _) => ["json", "text"],
        (_, Kind::Text | Kind::List) => ["one", "two"],
        (_, Kind::Duration) => ["2s", "3s"],
        (_, Kind::Size) => ["2MiB", "3MiB"],
        (_, Kind::Integer) => ["2", "1"],
        (_, Kind::Bool) => ["true", "false"],
    }
}

fn in_file(key: Key, text: &str) -> String {
    let value = match key.row().kind {
        Kind::Integer | Kind::Bool => text.to_owned(),
        _ => format!("'{text}'"),
    };
    match key.name().split_once('.') {
        Some((table, name)) => format!("[{table}]\n{name} = {value}\n"),
        None => format!("\n{} = {value}\n", key.name()),
    }
}

#[test]
fn flags_override_variables_which_override_the_file_which_overrides_the_defaults() {
    for row in &Key::ALL {
        let [first, second] = samples(row.key);
        let file = in_file(row.key, second);
        let variable = row.key.variable().unwrap_or_default();
        let flags = [(row.key, first)];
        let in_flag = Case { flags: &flags, variables: &[(&variable, second)], file: &file, ..NOTHING };
        let in_environment = Case { variables: &[(&variable, first)], file: &file, ..NOTHING };
        let empty = Case { variables: &[(&variable, "")], file: &file, ..NOTHING };
        let in_file = Case { file: &file, ..NOTHING };
        let shown = |case: &Case<'_>, wanted: &str| {
            let (table, name) = row.name.split_once('.').unwrap_or(("", row.name));
            // Another test is about flags that are refused because they have no effect alone.
            let Ok(config) = case.config() else { return };
            let print = config.print();
            let section = print.split("\n[").find(|section| {
                let head = section.split(']').next().unwrap_or_default();
                head == table || (table.is_empty() && head.contains(" = "))
            });
            let mut lines = section.unwrap_or_default().lines();
            let line = lines.find(|line| line.starts_with(&format!("{name} ="))).unwrap_or_default();
            assert!(line.ends_with(wanted), "{}: {line:?} does not end with {wanted:?}", row.name);
        };
        shown(&in_flag, "# flag");
        if row.key.variable().is_some() {
            shown(&in_environment, &format!("# environment {variable}"));
            shown(&empty, "# walcat.toml:2");
        }
        shown(&in_file, "# walcat.toml:2");
        if row.default.is_some() {
            shown(&NOTHING, "# default");
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_manual() {
    let settings = settings(&Case { file: REQUIRED, ..NOTHING });
    assert_eq!((settings.sink, settings.stdout, settings.truncate), (Sink::Kafka, LineForm::Value, Truncations::Emit));
    assert_eq!((settings.dump, settings.record, settings.startpos, settings.endpos), (None, None, None, None));
    assert!(!settings.once && !settings.create_slot && !settings.temporary_slot && !settings.dump_keepalives);
    assert_eq!(settings.wait, Budget::Within(Duration::ZERO));
    assert_eq!(settings.status_interval, Duration::from_secs(1));
    assert_eq!(settings.stall_timeout, Some(Duration::from_secs(60)));
    assert_eq!(settings.shutdown_timeout, Budget::Within(Duration::from_secs(10)));
    assert_eq!(settings.stats_interval, Some(Duration::from_secs(60)));
    let (initial, max) = (Duration::from_millis(200), Duration::from_secs(30));
    assert_eq!(settings.retry, Retry { initial, max, for_: None, broker_for: Budget::Forever });
    assert_eq!(settings.memory_bytes_max, 16 << 20);
    let topics = Topics { create: false, partitions: 1, replication_factor: -1, properties: Vec::new() };
    assert_eq!(settings.topics, topics);
    assert_eq!(settings.log, LogSettings { format: LogFormat::Text, level: log::LevelFilter::Info });
    assert!(settings.dsn.is_none() && settings.kafka.is_empty() && settings.topic_prefix.is_none());
}

#[test]
fn lists_come_from_the_file_as_arrays_and_from_the_environment_with_commas() {
    let file = "slot = 's'\npublication = ['a', 'b', 'a']\nbrokers = ['k1:9092', 'k2']\n";
    let found = settings(&Case { file, ..NOTHING });
    assert_eq!((found.publications, found.brokers), (vec!["a".into(), "b".into()], Some("k1:9092,k2".into())));
    let variables = [("WALCAT_PUBLICATION", "c, d"), ("WALCAT_BROKERS", "k3,k4")];
    let found = settings(&Case { file, variables: &variables, ..NOTHING });
    assert_eq!((found.publications, found.brokers), (vec!["c".into(), "d".into()], Some("k3,k4".into())));
}

#[test]
fn a_property_on_the_command_line_replaces_that_of_the_file() {
    let file = format!("{REQUIRED}[kafka]\n'linger.ms' = 5\n'client.id' = 'a'\n");
    let found = settings(&Case { file: &file, properties: &["linger.ms=7", "linger.ms=9"], ..NOTHING });
    let shown: Vec<_> = found.kafka.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(shown, [("client.id", "a"), ("linger.ms", "9")]);
}

#[test]
fn a_property_has_one_value_whichever_of_its_names_is_given() {
    let file = format!("{REQUIRED}[kafka]\n'compression.codec' = 'gzip'\n'max.in.flight' = 5\n");
    let shown = |case: &Case<'_>| -> Vec<(String, String)> {
        settings(case).kafka.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(
        shown(&Case { file: &file, ..NOTHING }),
        pairs(&[("compression.type", "gzip"), ("max.in.flight.requests.per.connection", "5")])
    );
    let properties = ["compression.type=zstd", "max.in.flight.requests.per.connection=2", "max.in.flight=3"];
    assert_eq!(
        shown(&Case { file: &file, properties: &properties, ..NOTHING }),
        pairs(&[("compression.type", "zstd"), ("max.in.flight.requests.per.connection", "3")])
    );
    let twice = format!("{REQUIRED}[kafka]\n'compression.codec' = 'gzip'\n'compression.type' = 'lz4'\n");
    let error = Case { file: &twice, ..NOTHING }.config().err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("two names for one property"), "{error}");
}

#[test]
fn a_missing_required_setting_is_a_usage_error() {
    for (file, error) in [
        ("", "missing required settings: slot, publication, brokers"),
        ("on_error = 'dead-letter'", "missing required settings: slot, publication, brokers, dead_letter_topic"),
        ("slot = 's'", "missing required settings: publication, brokers"),
        ("slot = 's'\npublication = []\nbrokers = 'k'", "missing required setting: publication"),
        ("slot = 's'\npublication = 'p'", "missing required setting: brokers"),
        ("publication = 'p'\nbrokers = 'k'", "missing required setting: slot"),
    ] {
        let found = Case { file, ..NOTHING }.error();
        assert_eq!((found.to_string().as_str(), found.exit_code()), (error, ExitCode::Usage), "{file:?}");
        assert!(found.hint().is_some_and(|hint| hint.contains("WALCAT_")), "{file:?}");
    }
    for file in ["slot = 's'\npublication = 'p'\nsink = 'stdout'", "slot = 's'\npublication = 'p'\ndump = 'json'"] {
        assert_eq!(settings(&Case { file, ..NOTHING }).brokers, None);
    }
}

#[test]
fn a_temporary_slot_needs_no_name() {
    let flags = [(Key::TemporarySlot, "true"), (Key::Publication, "p"), (Key::Sink, "stdout")];
    let name = settings(&Case { flags: &flags, ..NOTHING }).slot;
    assert_eq!(name, format!("walcat_tmp_{}", std::process::id()));
    assert_eq!(value::slot(&name), Ok(name));
}

#[test]
fn an_invalid_value_is_a_usage_error_unless_it_is_in_the_file() {
    for (key, text, why) in [
        (Key::Slot, "Orders", "invalid slot name \"Orders\": use 1 to 63 of a-z, 0-9 and _"),
        (Key::Publication, "", "invalid publication name: use 1 to 63 bytes"),
        (Key::TopicPrefix, "a b", "invalid topic prefix: use 1 to 200 of A-Z, a-z, 0-9, '.', '_' and '-'"),
        (Key::Brokers, "", "empty value"),
        (Key::Brokers, "SASL_SSL://k:9092", "invalid broker: write HOST:PORT, without a scheme such as SASL_SSL://"),
        (Key::Sink, "kafak", "invalid value \"kafak\": use kafka or stdout"),
        (
            Key::Startpos,
            "0/xyz",
            "invalid LSN \"0/xyz\": write two hexadecimal numbers of up to 8 digits, as in 0/16B3748",
        ),
        (Key::Endpos, "0/0", "0/0 is not a valid position: write an LSN such as 0/16B3748"),
        (Key::StatusInterval, "5", "missing unit: write \"200ms\", \"30s\" or \"5m\""),
        (Key::StatusInterval, "10ms", "out of range: expected 50ms to 1h"),
        (Key::StallTimeout, "forever", "out of range: \"forever\" is not allowed here, the maximum is 1day"),
    ] {
        let flags = [(key, text)];
        let error = Case { flags: &flags, file: REQUIRED, ..NOTHING }.error();
        let flag = format!("--{}", key.name().replace('_', "-"));
        assert_eq!(error.to_string(), format!("{flag}: {why}"));
        assert_eq!(error.exit_code(), ExitCode::Usage);

        let variable = key.variable().unwrap_or_default();
        if !text.is_empty() {
            let error = Case { variables: &[(&variable, text)], file: REQUIRED, ..NOTHING }.error();
            assert_eq!(error.to_string(), format!("{variable}: {why}"));
            assert_eq!(error.exit_code(), ExitCode::Usage);
        }

        let file = in_file(key, text);
        let error = Case { file: &file, ..NOTHING }.error();
        assert_eq!(error.to_string(), format!("walcat.toml:2: {}: {why}", key.name()));
        assert_eq!(error.exit_code(), ExitCode::Setup);
    }
    for (file, why) in [
        ("[memory]\nmax = '1KiB'", "walcat.toml:2: memory.max: out of range: expected 1MiB to 64GiB"),
        ("[topics]\npartitions = 0", "walcat.toml:2: topics.partitions: out of range: expected 1 to 100000"),
        (
            "[topics]\nreplication_factor = 0",
            "walcat.toml:2: topics.replication_factor: out of range: expected 1 to 10000",
        ),
        ("verbose = 3", "walcat.toml:1: verbose: out of range: expected 0 to 2"),
    ] {
        let error = Case { file, ..NOTHING }.error();
        assert_eq!((error.to_string().as_str(), error.exit_code()), (why, ExitCode::Setup));
    }
}

#[test]
fn a_refused_property_is_a_usage_error_unless_it_is_in_the_file() {
    let refused = "refused: only acks=all guarantees that what is confirmed to PostgreSQL is in Kafka";
    let error = Case { properties: &["acks=1"], ..NOTHING }.error();
    assert_eq!(error.to_string(), format!("-X acks: {refused}"));
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let error = Case { file: "[kafka]\nacks = 1", ..NOTHING }.error();
    assert_eq!(error.to_string(), format!("walcat.toml:2: kafka.acks: {refused}"));
    assert_eq!(error.exit_code(), ExitCode::Setup);
    let error = Case { properties: &["sasl.password hunter2"], ..NOTHING }.error();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("-X: expected KEY=VALUE", ExitCode::Usage));
}

#[test]
fn settings_that_contradict_each_other_in_one_layer_are_refused() {
    for (first, second) in [
        ((Key::Quiet, "true"), (Key::Verbose, "1")),
        ((Key::CreateSlot, "true"), (Key::TemporarySlot, "true")),
        ((Key::Once, "true"), (Key::Endpos, "0/10")),
        ((Key::Dump, "json"), (Key::Sink, "kafka")),
        ((Key::Dump, "json"), (Key::Stdout, "record")),
        ((Key::Endpos, "0/10"), (Key::Startpos, "0/20")),
    ] {
        let flags = [first, second];
        let error = Case { flags: &flags, file: REQUIRED, ..NOTHING }.error();
        assert!(matches!(error, ConfigError::Contradiction { .. }), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
        let file = in_file(first.0, first.1) + &in_file(second.0, second.1);
        let error = Case { file: &file, ..NOTHING }.error();
        assert!(matches!(error, ConfigError::Contradiction { .. }), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Setup);
        assert!(error.to_string().starts_with(&format!("walcat.toml:2: {} and walcat.toml:4:", first.0)), "{error}");
    }
}

#[test]
fn an_incremental_snapshot_needs_a_permanent_slot_and_a_stream() {
    for snapshot in ["mode = 'incremental'", "new_tables = true"] {
        let file = format!("publication = 'p'\nbrokers = 'k'\n[snapshot]\n{snapshot}\n");
        let error = Case { file: &file, flags: &[(Key::TemporarySlot, "true")], ..NOTHING }.error();
        assert!(matches!(error, ConfigError::Contradiction { .. }), "{error}");
        // A dump with the file of a stream is a look at it.
        let flags = [(Key::Slot, "s"), (Key::Dump, "json")];
        assert!(Case { file: &file, flags: &flags, ..NOTHING }.config().is_ok(), "{snapshot}");
    }
    for (other, text) in [(Key::Dump, "json"), (Key::Record, "r")] {
        let flags = [(Key::SnapshotMode, "incremental"), (other, text)];
        let error = Case { flags: &flags, file: REQUIRED, ..NOTHING }.error();
        assert!(matches!(error, ConfigError::Contradiction { .. }), "{error}");
    }
}

#[test]
fn a_state_topic_is_the_only_place_of_the_position_and_needs_kafka_and_a_permanent_slot() {
    for (key, text) in [
        (Key::StateFile, "/var/lib/walcat/s"),
        (Key::Delivery, "exactly-once"),
        (Key::Sink, "stdout"),
        (Key::TemporarySlot, "true"),
        (Key::Startpos, "0/10"),
    ] {
        let file = match key {
            Key::StateFile => format!("{REQUIRED}[state]\ntopic = true\nfile = '{text}'\n"),
            _ => format!("{REQUIRED}{}[state]\ntopic = true\n", in_file(key, text)),
        };
        let error = Case { file: &file, ..NOTHING }.error();
        assert!(error.to_string().contains("state.topic"), "{key}: {error}");
        assert!(matches!(error, ConfigError::Contradiction { .. }), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Setup, "{error}");
    }
}

#[test]
fn between_settings_that_contradict_each_other_the_higher_layer_wins() {
    let file = format!("{REQUIRED}once = true\ncreate_slot = true\nsink = 'stdout'\nstdout = 'record'\nquiet = true\n");
    let flags = [(Key::Endpos, "0/10"), (Key::TemporarySlot, "true"), (Key::Dump, "json"), (Key::Verbose, "1")];
    let found = settings(&Case { file: &file, flags: &flags, ..NOTHING });
    assert_eq!((found.once, found.endpos), (false, Some(Lsn(0x10))));
    assert_eq!((found.create_slot, found.temporary_slot), (false, true));
    assert_eq!((found.dump, found.sink, found.stdout), (Some(DumpFormat::Json), Sink::Kafka, LineForm::Value));
    assert_eq!(found.log.level, log::LevelFilter::Debug);
    let found = settings(&Case { file: &file, flags: &[(Key::CreateSlot, "false")], ..NOTHING });
    assert!(!found.create_slot);
}

#[test]
fn a_flag_without_effect_is_refused_and_a_key_without_effect_is_not() {
    for (key, text, error) in [
        (Key::Stdout, "record", "--stdout: no effect without --sink stdout"),
        (Key::DumpKeepalives, "true", "--dump-keepalives: no effect without --dump"),
    ] {
        let found = Case { flags: &[(key, text)], file: REQUIRED, ..NOTHING }.error();
        assert_eq!((found.to_string().as_str(), found.exit_code()), (error, ExitCode::Usage));
        let file = REQUIRED.to_owned() + &in_file(key, text);
        assert!(Case { file: &file, ..NOTHING }.stream().is_ok());
    }
}

#[test]
fn a_run_for_cron_does_not_wait_for_the_broker_forever() {
    let minute = Budget::Within(Duration::from_secs(60));
    let once = [(Key::Once, "true")];
    assert_eq!(settings(&Case { flags: &once, file: REQUIRED, ..NOTHING }).retry.broker_for, minute);
    let file = format!("{REQUIRED}[retry]\nbroker_for = 'forever'\n");
    assert_eq!(settings(&Case { flags: &once, file: &file, ..NOTHING }).retry.broker_for, Budget::Forever);
}

#[test]
fn zero_is_the_position_of_the_slot() {
    let found = settings(&Case { flags: &[(Key::Startpos, "0/0")], file: REQUIRED, ..NOTHING });
    assert_eq!(found.startpos, None);
}

#[test]
fn secrets_are_read_from_files_and_variables() {
    let file = format!("dsn = 'env:DB'\n{REQUIRED}[kafka]\n'sasl.password' = 'env:PW'\n");
    let variables = [("DB", "host=db password=hunter2"), ("PW", "hunter3\n")];
    let found = settings(&Case { file: &file, variables: &variables, ..NOTHING });
    assert_eq!(found.dsn.as_ref().map(Secret::expose), Some("host=db password=hunter2"));
    assert_eq!(found.kafka[0].1.expose(), "hunter3");

    let error = Case { file: &file, variables: &variables[..1], ..NOTHING }.error();
    assert_eq!(error.to_string(), "walcat.toml:6: kafka.sasl.password: the environment variable PW is not set");
    assert_eq!(error.exit_code(), ExitCode::Setup);
    let error = Case { flags: &[(Key::Dsn, "file:/nonexistent")], file: REQUIRED, ..NOTHING }.error();
    assert_eq!(error.to_string(), "--dsn: cannot read /nonexistent: No such file or directory (os error 2)");
    assert_eq!(error.exit_code(), ExitCode::Setup);
}

#[test]
fn a_slot_command_reads_no_secret_of_kafka() {
    let file = format!("{REQUIRED}[kafka]\n'sasl.password' = 'env:PW'\n");
    let found = Case { file: &file, ..NOTHING }.config().and_then(|config| config.slot(&|_| None));
    assert_eq!(found.map(|found| found.slot).map_err(|error| error.to_string()), Ok("file_slot".to_owned()));
}

#[test]
fn a_missing_file_is_a_set_up_error() {
    let given = Given { config: Some("/nonexistent/walcat.toml".into()), ..Given::default() };
    let error = Config::load(&given, &|_| None).err().unwrap_or_else(|| panic!("accepted"));
    let wanted = "cannot read the configuration file /nonexistent/walcat.toml: No such file or directory (os error 2)";
    assert_eq!((error.to_string().as_str(), error.exit_code()), (wanted, ExitCode::Setup));
    let environment = |name: &str| (name == "WALCAT_CONFIG").then(|| OsString::from("/nonexistent/other.toml"));
    let error = Config::load(&Given::default(), &environment).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("/nonexistent/other.toml")));
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let file = format!(
        "{REQUIRED}dsn = \"host=db dbname='a b'\"\nonce = true\n[retry]\nfor = '3s'\n[topics]\ncreate = true\n\
         [topics.properties]\n'cleanup.policy' = 'delete'\n[kafka]\n'linger.ms' = 5\n'client.id' = \"a\\tb\\u007F\\\"\"\n"
    );
    let variables = [("WALCAT_PUBLICATION", "a,b"), ("WALCAT_VERBOSE", " 1 "), ("WALCAT_CREATE_SLOT", "ON")];
    let case = Case { file: &file, variables: &variables, flags: &[(Key::Wait, "1h 2m")], ..NOTHING };
    let printed = case.print();
    let again = Case { file: &printed, ..NOTHING };
    assert_eq!(format!("{:?}", settings(&again)), format!("{:?}", settings(&case)));
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(lines(&again.print()), lines(&printed));
    insta::assert_snapshot!(printed);
}

#[test]
fn a_planted_password_is_shown_nowhere() {
    let file = "dsn = 'postgresql://app:hunter2@db/app'\nslot = 's'\npublication = 'p'\nbrokers = 'k'\n\
                [kafka]\n'sasl.password' = 'hunter2'\n'ssl.key.pem' = \"\"\"hunter2\nhunter2\"\"\"\n";
    let properties = ["ssl.key.password=hunter2", "sasl.oauthbearer.client.secret=hunter2"];
    for case in [
        Case { file, properties: &properties, ..NOTHING },
        Case { file, flags: &[(Key::Dsn, "host=db password='hunter2'")], ..NOTHING },
        Case { file, variables: &[("WALCAT_DSN", "hunter2")], ..NOTHING },
        Case { file, variables: &[("WALCAT_DSN", "env:DB"), ("DB", "password=hunter2")], ..NOTHING },
    ] {
        let found = settings(&case);
        assert!(found.dsn.as_ref().is_some_and(|dsn| dsn.expose().contains("hunter2")));
        let shown = format!("{found:?} {}", case.print());
        assert!(!shown.contains("hunter2"), "{shown}");
        let config = case.config().unwrap_or_else(|error| panic!("{error}"));
        assert!(!config.warnings().join("\n").contains("hunter2"));
    }
    // A password where another value belongs is not repeated either.
    for row in &Key::ALL {
        let file = in_file(row.key, "'hunter2 .'").replace("''", "'");
        let flags = [(row.key, "hunter2 .")];
        for case in [Case { file: &file, ..NOTHING }, Case { flags: &flags, ..NOTHING }] {
            if let Err(error) = case.config() {
                let shown = format!("{error} {error:?} {:?}", error.hint());
                assert!(!shown.contains("hunter2"), "{}: {shown}", row.name);
            }
        }
    }
}

#[test]
fn a_secret_on_the_command_line_is_warned_of() {
    let properties = ["sasl.password=hunter2", "ssl.key.password=env:PW", "linger.ms=5"];
    let config = Case { properties: &properties, ..NOTHING }.config().unwrap_or_else(|error| panic!("{error}"));
    let warnings = config.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("-X sasl.password: "));
}

const EXAMPLE: &str = include_str!("../../man/walcat.example.toml");

#[test]
fn the_example_can_be_used_as_it_is() {
    let found = settings(&Case { file: EXAMPLE, ..NOTHING });
    assert_eq!((found.slot.as_str(), found.publications), ("walcat_shop", vec!["walcat_shop".to_owned()]));
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with([' ', '#']) && !key.is_empty() => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let found = file::parse(&uncommented, Path::new("walcat.example.toml")).unwrap_or_else(|error| panic!("{error}"));
    for row in &Key::ALL {
        let setting = found.settings.iter().find(|(key, _)| *key == row.key).map(|(_, setting)| &setting.value);
        let texts = setting.unwrap_or_else(|| panic!("{} is missing", row.name));
        if let Some(default) = row.default {
            assert_eq!(texts, &[default], "{}", row.name);
        }
    }
    assert!(!found.kafka.is_empty() && !found.topic_properties.is_empty());
}

#[test]
fn the_short_text_of_a_choice_names_every_choice() {
    fn names<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
        choices.iter().map(|(name, _)| *name).collect()
    }
    for (key, choices) in [
        (Key::Sink, names(&Sink::CHOICES)),
        (Key::Delivery, names(&Delivery::CHOICES)),
        (Key::Engine, names(&Engine::CHOICES)),
        (Key::Stdout, names(&LineForm::CHOICES)),
        (Key::Dump, names(&DumpFormat::CHOICES)),
        (Key::Truncate, names(&Truncations::CHOICES)),
        (Key::OnError, names(&OnError::CHOICES)),
        (Key::LogFormat, names(&LogFormat::CHOICES)),
    ] {
        for choice in choices {
            assert!(key.row().summary.contains(choice), "{key}: {choice}");
        }
    }
}
