//! The log: one line for each record, to stderr, as text or as JSON.
//!
//! Text is `2026-11-20T22:30:00.123Z INFO  streaming started slot=orders lsn=0/16B3748`; JSON is one object per line with
//! `ts`, `level`, `target`, `message` and the record's pairs. Control characters in a message or a value are escaped, so a
//! record is always one line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use env_logger::{Builder, Logger, Target, WriteStyle};
use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{LevelFilter, Log, Metadata, Record, error};
use serde_json::Map;

use crate::config::{LogFormat, LogSettings};
use crate::exit_code::ExitCode;
use crate::terminal;

/// The targets that `-v` and `-q` apply to: walcat, and librdkafka under both names that rust-rdkafka uses.
const TARGETS: [&str; 3] = ["walcat", "librdkafka", "rdkafka"];

/// The format of the log, for the failure that is printed at the end; empty before the log starts.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts the log on stderr. `RUST_LOG`, if set, decides what is logged.
pub fn init(settings: LogSettings) {
    let mut builder = Builder::new();
    let filters = std::env::var_os("RUST_LOG").filter(|filters| !filters.is_empty());
    let filters = filters.map(|filters| filters.to_string_lossy().into_owned());
    let mistake = filters.as_deref().and_then(|filters| mistaken_filter(filters).map(str::to_owned));
    if let (Some(filters), None) = (&filters, &mistake) {
        builder.parse_filters(filters);
    } else {
        // Of other libraries, an operator can use only the warnings.
        builder.filter_level(settings.level.min(LevelFilter::Warn));
        for target in TARGETS {
            builder.filter_module(target, settings.level);
        }
    }
    builder.target(Target::Stderr).write_style(WriteStyle::Auto);
    match settings.format {
        LogFormat::Text => builder.format(|out, record| {
            let style = out.default_level_style(record.level());
            let level = format!("{style}{:<5}{style:#}", record.level());
            write_text(out, SystemTime::now(), &level, record)
        }),
        LogFormat::Json => builder.format(|out, record| write_json(out, SystemTime::now(), record)),
    };
    let _ = FORMAT.set(settings.format);
    let logger = builder.build();
    let level = logger.filter();
    // Only a test installs a second logger; the first one then stays.
    if log::set_boxed_logger(Box::new(AboveTheLine(logger))).is_ok() {
        log::set_max_level(level);
    }
    if let Some(filter) = mistake {
        // At error level, which -q shows too.
        error!(filter = filter.as_str(); "RUST_LOG is ignored: expected a list such as walcat=debug,librdkafka=warn");
    }
}

/// Writes above the line of the terminal that shows the progress.
struct AboveTheLine(Logger);

impl Log for AboveTheLine {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.0.matches(record) {
            terminal::above(|| self.0.log(record));
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// The first filter in `RUST_LOG` without a valid level. env_logger would ignore it and log almost nothing.
fn mistaken_filter(filters: &str) -> Option<&str> {
    let (filters, _) = filters.split_once('/').unwrap_or((filters, ""));
    filters.split(',').map(str::trim).find(|filter| match filter.split_once('=') {
        Some((_, level)) => level.trim().parse::<LevelFilter>().is_err(),
        None => false,
    })
}

/// Why the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// What failed.
    pub message: &'a str,
    /// The operator's next step.
    pub hint: Option<&'a str>,
    /// The slot of the stream that ends.
    pub slot: Option<&'a str>,
    /// The exit code.
    pub code: ExitCode,
}

/// The log has not started, because the settings are wrong, and would have this format.
pub fn expect(format: LogFormat) {
    if format == LogFormat::Json {
        let _ = FORMAT.set(format);
    }
}

/// Whether the log, or what is printed instead of it, is JSON.
#[must_use]
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Prints why the process ends, at any log level: the failure and its hint, in the format of the log. Before the log starts,
/// it prints plain text.
pub fn tell_failure(failure: &Failure<'_>) {
    let text = match FORMAT.get() {
        Some(LogFormat::Json) => failure_json(SystemTime::now(), failure),
        Some(LogFormat::Text) => failure_text(SystemTime::now(), failure),
        None => {
            let hint = failure.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            format!("walcat: {}{hint}", failure.message)
        }
    };
    eprintln!("{text}");
}

fn failure_text(at: SystemTime, failure: &Failure<'_>) -> String {
    let head = format!("{} ERROR", humantime::format_rfc3339_millis(at));
    let slot = failure.slot.map(|slot| format!(" slot={slot}")).unwrap_or_default();
    let hint = failure.hint.map(|hint| format!("\n{head} hint: {}", escaped(hint))).unwrap_or_default();
    format!("{head} {}{slot}{hint}", escaped(failure.message))
}

fn failure_json(at: SystemTime, failure: &Failure<'_>) -> String {
    let mut object = Map::new();
    object.insert("ts".to_owned(), humantime::format_rfc3339_millis(at).to_string().into());
    object.insert("level".to_owned(), "error".into());
    object.insert("target".to_owned(), TARGETS[0].into());
    object.insert("message".to_owned(), failure.message.into());
    for (name, value) in [("hint", failure.hint), ("slot", failure.slot)] {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.into());
        }
    }
    object.insert("exit_code".to_owned(), failure.code.code().into());
    serde_json::Value::Object(object).to_string()
}

fn write_text(out: &mut impl Write, at: SystemTime, level: &str, record: &Record<'_>) -> io::Result<()> {
    let mut line = format!("{} {level} ", humantime::format_rfc3339_millis(at));
    if !is_ours(record) {
        line.extend([record.target(), ": "]);
    }
    line.push_str(&escaped(&record.args().to_string()));
    record.key_values().visit(&mut TextPairs(&mut line)).map_err(io::Error::other)?;
    writeln!(out, "{line}")
}

fn write_json(out: &mut impl Write, at: SystemTime, record: &Record<'_>) -> io::Result<()> {
    let mut object = Map::new();
    object.insert("ts".to_owned(), humantime::format_rfc3339_millis(at).to_string().into());
    object.insert("level".to_owned(), record.level().as_str().to_ascii_lowercase().into());
    object.insert("target".to_owned(), record.target().into());
    object.insert("message".to_owned(), record.args().to_string().into());
    record.key_values().visit(&mut JsonPairs(&mut object)).map_err(io::Error::other)?;
    writeln!(out, "{}", serde_json::Value::Object(object))
}

fn is_ours(record: &Record<'_>) -> bool {
    record.target().split("::").next() == Some(TARGETS[0])
}

/// The text with control characters escaped, so that text from a server cannot look like a line of the log.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.trim_end().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Cow::Owned(line)
}

struct TextPairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for TextPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = value.to_string();
        let is_plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        if is_plain {
            write!(self.0, " {key}={value}")?;
        } else {
            write!(self.0, " {key}={}", serde_json::Value::from(value))?;
        }
        Ok(())
    }
}

struct JsonPairs<'a>(&'a mut Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for JsonPairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut json = JsonValue(serde_json::Value::Null);
        value.visit(&mut json)?;
        // A pair must not replace a field of every line.
        let is_taken = matches!(key.as_str(), "ts" | "level" | "target" | "message");
        let name = if is_taken { format!("{key}_") } else { key.to_string() };
        self.0.insert(name, json.0);
        Ok(())
    }
}

/// Numbers and booleans keep their type; every other value is text.
struct JsonValue(serde_json::Value);

impl<'v> VisitValue<'v> for JsonValue {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0 = serde_json::Value::Null;
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    use log::Level;

    fn lines(target: &str, message: &str, pairs: &[(&str, Value<'_>)]) -> [String; 2] {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_213_800_123);
        let (mut text, mut json) = (Vec::new(), Vec::new());
        let mut write = |record: &Record<'_>| {
            write_text(&mut text, at, &format!("{:<5}", record.level()), record)?;
            write_json(&mut json, at, record)
        };
        let mut builder = Record::builder();
        let record = builder.level(Level::Info).target(target).key_values(&pairs);
        write(&record.args(format_args!("{message}")).build()).expect("written");
        [text, json].map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    #[test]
    fn a_line_is_constant_text_and_then_pairs() {
        let lsn = crate::lsn::Lsn(0x16B_3748);
        let pairs = [
            ("slot", Value::from("orders")),
            ("lsn", Value::from_display(&lsn)),
            ("rows", Value::from(7)),
            ("lag", Value::from(0.5)),
            ("idle", Value::from(true)),
        ];
        let [text, json] = lines("walcat::pump", "streaming started", &pairs);
        assert_eq!(
            text,
            "2026-11-20T22:30:00.123Z INFO  streaming started slot=orders lsn=0/16B3748 rows=7 lag=0.5 idle=true\n"
        );
        assert_eq!(
            json,
            "{\"ts\":\"2026-11-20T22:30:00.123Z\",\"level\":\"info\",\"target\":\"walcat::pump\",\
             \"message\":\"streaming started\",\"slot\":\"orders\",\"lsn\":\"0/16B3748\",\"rows\":7,\"lag\":0.5,\
             \"idle\":true}\n"
        );
    }

    #[test]
    fn a_failure_is_a_line_of_the_log_and_so_is_its_hint() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_213_800_123);
        let head = "2026-11-20T22:30:00.123Z ERROR";
        let failure = Failure { message: "it\nfailed", hint: Some("try"), slot: None, code: ExitCode::Setup };
        assert_eq!(failure_text(at, &failure), format!("{head} it\\nfailed\n{head} hint: try"));
        let failure = Failure { message: "it failed", hint: None, slot: Some("orders"), ..failure };
        assert_eq!(failure_text(at, &failure), format!("{head} it failed slot=orders"));
    }

    #[test]
    fn a_filter_that_names_no_level_is_found() {
        for (filters, mistake) in [
            ("walcat=debug,librdkafka=warn", None),
            ("debug", None),
            ("walcat", None),
            ("walcat=TRACE/regex=x", None),
            ("walcat=chatty", Some("walcat=chatty")),
            ("info, walcat=chatty", Some("walcat=chatty")),
            ("walcat=", Some("walcat=")),
        ] {
            assert_eq!(mistaken_filter(filters), mistake, "{filters}");
        }
    }

    #[test]
    fn a_line_stays_a_line() {
        let pairs =
            [("reason", Value::from("a \"b\"\nc")), ("empty", Value::from("")), ("esc", Value::from("\x1B[2J"))];
        let [text, json] = lines("librdkafka", "first\nsecond\x1B[2J\n", &pairs);
        assert_eq!(
            text,
            "2026-11-20T22:30:00.123Z INFO  librdkafka: first\\nsecond\\u{1b}[2J reason=\"a \\\"b\\\"\\nc\" empty=\"\" \
             esc=\"\\u001b[2J\"\n"
        );
        assert_eq!(json.lines().count(), 1);
    }

    #[test]
    fn a_pair_does_not_hide_what_every_line_has() {
        let [_, json] = lines("walcat", "text", &[("message", Value::from("other")), ("ts", Value::from(1))]);
        assert!(json.contains("\"message\":\"text\",\"message_\":\"other\",\"ts_\":1"), "{json}");
    }
}
