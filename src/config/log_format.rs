//! The format of the log before the settings are known, for an error in the settings themselves. It reads what is there and
//! finds no mistake: whatever it does not understand is text.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::key::Key;
use super::secret::Environment;
use super::settings::LogFormat;
use super::value;

const NAME: &str = "log_format";

/// The format that the arguments, the environment or the file ask for, in this order.
#[must_use]
pub fn expected_log_format(arguments: impl Iterator<Item = OsString>, environment: &Environment<'_>) -> LogFormat {
    let arguments: Vec<String> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
    let variable = |name: &str| environment(name)?.into_string().ok().filter(|text| !text.is_empty());
    let flag = last_value(&arguments, &["--log-format"]);
    let text = flag.or_else(|| Key::LogFormat.variable().and_then(|name| variable(&name))).or_else(|| {
        let path = last_value(&arguments, &["--config", "-c"]).or_else(|| variable("WALCAT_CONFIG"))?;
        in_file(&PathBuf::from(path))
    });
    text.and_then(|text| value::choice(&LogFormat::CHOICES)(&text).ok()).unwrap_or(LogFormat::Text)
}

/// The last value of an option, written as the next argument or after `=`.
fn last_value(arguments: &[String], names: &[&str]) -> Option<String> {
    let value = |(index, argument): (usize, &String)| match argument.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value.to_owned()),
        None if names.contains(&argument.as_str()) => arguments.get(index + 1).cloned(),
        _ => None,
    };
    arguments.iter().enumerate().rev().find_map(value)
}

/// The line of the key, which is above all tables. The file may be anything but TOML.
fn in_file(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let mut values = lines.filter_map(|line| {
        let (name, rest) = line.split_once('=')?;
        let rest = rest.trim_start();
        let quote = rest.chars().next().filter(|first| matches!(first, '"' | '\''))?;
        let (value, _) = rest[1..].split_once(quote)?;
        (name.trim() == NAME).then(|| value.to_owned())
    });
    values.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_known_even_if_everything_else_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("walcat.toml");
        let config = path.to_str().unwrap();
        for (arguments, variable, file, expected) in [
            ("walcat stream", "", "", LogFormat::Text),
            ("walcat stream --log-format json --flubb", "", "", LogFormat::Json),
            ("walcat stream --log-format=json", "text", "", LogFormat::Json),
            ("walcat stream --log-format text", "json", "log_format = \"json\"", LogFormat::Text),
            ("walcat stream --log-format", "json", "", LogFormat::Json),
            ("walcat stream --log-format jsan", "", "", LogFormat::Text),
            ("walcat stream", "json", "", LogFormat::Json),
            ("walcat stream --config CONFIG", "", "a = [\nlog_format = 'json' # for the collector\n=", LogFormat::Json),
            ("walcat stream -c CONFIG", "", "log_format = \"json\"\n[kafka]\n", LogFormat::Json),
            ("walcat stream --config=CONFIG", "", "[kafka]\nlog_format = \"json\"\n", LogFormat::Text),
            ("walcat stream -c CONFIG", "", "log_format = json", LogFormat::Text),
            ("walcat stream", "", "log_format = \"json\"", LogFormat::Text),
        ] {
            std::fs::write(&path, file).unwrap();
            let words = arguments.split(' ').map(|word| OsString::from(word.replace("CONFIG", config)));
            let environment = |name: &str| (name == "WALCAT_LOG_FORMAT").then(|| OsString::from(variable));
            assert_eq!(expected_log_format(words, &environment), expected, "{arguments} {variable} {file}");
        }
    }
}
