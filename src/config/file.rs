//! The configuration file: TOML in, settings with their lines out.
//!
//! This module checks keys and types, not values.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Place, Setting, ValueError};
use super::kafka::{Property, canonical, check_property, is_property};
use super::key::{self, Key, Kind, OPEN_TABLES, TABLES};

/// The TOML reader's message for a repeated key; it gives the position of the key, not its name.
const DUPLICATE_KEY: &str = "duplicate key";

/// The settings of a file.
#[derive(Default)]
pub struct FileSettings {
    pub settings: Vec<(Key, Setting<Vec<String>>)>,
    /// The table `[kafka]`.
    pub kafka: Vec<Property>,
    /// The table `[topics.properties]`.
    pub topic_properties: Vec<Property>,
}

/// Reads and parses the file at `path`.
pub fn read(path: &Path) -> Result<FileSettings, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Parses the text of the file at `path`.
pub fn parse(text: &str, path: &Path) -> Result<FileSettings, ConfigError> {
    let mut reader = Reader { text, path: Arc::from(path), found: FileSettings::default() };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        line: reader.line(error.span().map_or(0, |span| span.start)),
        // The error's own text would show the line, which may contain a password.
        why: match error.span().and_then(|span| text.get(span)) {
            // The span is the key alone, so it shows no value.
            Some(key) if error.message() == DUPLICATE_KEY => format!("{DUPLICATE_KEY}: {key}"),
            _ => error.message().replace('\n', ", "),
        },
    })?;
    reader.read_table(document.get_ref(), "")?;
    Ok(reader.found)
}

struct Reader<'a> {
    text: &'a str,
    path: Arc<Path>,
    found: FileSettings,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    }

    fn place(&self, key: &str, offset: usize) -> Place {
        let origin = Origin::File { path: Arc::clone(&self.path), line: self.line(offset) };
        Place { origin, key: key.to_owned() }
    }

    fn read_table(&mut self, table: &DeTable<'_>, prefix: &str) -> Result<(), ConfigError> {
        for (offset, name, value) in entries(table, prefix) {
            let place = self.place(&name, offset);
            match (Key::find(&name), value) {
                (Some(row), value) => {
                    let texts =
                        texts(row.kind, value).map_err(|why| ConfigError::Value { place: place.clone(), why })?;
                    self.found.settings.push((row.key, Setting { value: texts, origin: place.origin }));
                }
                (None, DeValue::Table(table)) if OPEN_TABLES.contains(&name.as_str()) => {
                    self.read_open_table(table, &name, "")?;
                }
                (None, DeValue::Table(table)) if TABLES.contains(&name.as_str()) => self.read_table(table, &name)?,
                (None, value) if TABLES.contains(&name.as_str()) || OPEN_TABLES.contains(&name.as_str()) => {
                    let why = ValueError::WrongType { expected: "a table", found: described(value) };
                    return Err(ConfigError::Value { place, why });
                }
                (None, value) => {
                    let own = if prefix.is_empty() { name.as_str() } else { &name[prefix.len() + 1..] };
                    if let Some((property, offset)) = property_of(own, offset, value) {
                        return Err(ConfigError::MisplacedProperty { place: self.place(&property, offset) });
                    }
                    let is_table = matches!(value, DeValue::Table(_));
                    let nearest = if is_table { key::nearest_table(&name) } else { key::nearest(&name) };
                    let nearest = nearest.map(str::to_owned);
                    return Err(ConfigError::UnknownKey { place, nearest });
                }
            }
        }
        Ok(())
    }

    /// `"linger.ms" = 5` and `linger.ms = 5` are the same property.
    fn read_open_table(&mut self, table: &DeTable<'_>, table_name: &str, prefix: &str) -> Result<(), ConfigError> {
        for (offset, property, value) in entries(table, prefix) {
            if let DeValue::Table(table) = value {
                self.read_open_table(table, table_name, &property)?;
                continue;
            }
            let place = self.place(&format!("{table_name}.{property}"), offset);
            let is_kafka = table_name == OPEN_TABLES[0];
            let checked = if is_kafka { check_property(&property) } else { Ok(()) };
            let text = checked.and_then(|()| scalar(value).ok_or_else(|| wrong_type(SCALAR, value)));
            let value = text.map_err(|why| ConfigError::Value { place: place.clone(), why })?;
            let name = if is_kafka { canonical(&property).to_owned() } else { property };
            let found = if is_kafka { &mut self.found.kafka } else { &mut self.found.topic_properties };
            if let Some(other) = found.iter().find(|other| other.name == name) {
                let other = Place { origin: other.text.origin.clone(), key: format!("{table_name}.{name}") };
                let why = "they are two names for one property";
                return Err(ConfigError::Contradiction { places: Box::new([other, place]), why });
            }
            found.push(Property { name, text: Setting { value, origin: place.origin } });
        }
        Ok(())
    }
}

/// The entries of a table in the order of the file, with the offset of each and its dotted name.
fn entries<'t, 'i>(table: &'t DeTable<'i>, prefix: &str) -> Vec<(usize, String, &'t DeValue<'i>)> {
    let dotted = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    let entry = |(key, value): (&Spanned<_>, &'t Spanned<DeValue<'i>>)| -> (usize, String, &'t DeValue<'i>) {
        let name: &toml::de::DeString<'_> = key.get_ref();
        (key.span().start, dotted(name), value.get_ref())
    };
    let mut entries: Vec<_> = table.iter().map(entry).collect();
    entries.sort_by_key(|(offset, ..)| *offset);
    entries
}

/// The librdkafka property with this name, dotted or in quotes, and its offset.
fn property_of(name: &str, offset: usize, value: &DeValue<'_>) -> Option<(String, usize)> {
    if let DeValue::Table(table) = value {
        return entries(table, name).into_iter().find_map(|(offset, name, value)| property_of(&name, offset, value));
    }
    is_property(name).then(|| (name.to_owned(), offset))
}

/// The value of a setting as the texts that the command line would give.
fn texts(kind: Kind, value: &DeValue<'_>) -> Result<Vec<String>, ValueError> {
    match (kind, value) {
        (Kind::Text | Kind::List | Kind::Duration | Kind::Size, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Bool, DeValue::Boolean(_)) | (Kind::Integer, DeValue::Integer(_)) => {
            Ok(scalar(value).into_iter().collect())
        }
        (Kind::List, DeValue::Array(array)) => {
            let text = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(wrong_type("a list of strings", other)),
            };
            array.iter().map(text).collect()
        }
        (Kind::Duration, DeValue::Integer(_) | DeValue::Float(_)) => {
            Err(ValueError::UnitMissing { example: "\"200ms\", \"30s\" or \"5m\"" })
        }
        (Kind::Size, DeValue::Integer(_) | DeValue::Float(_)) => {
            Err(ValueError::UnitMissing { example: "\"512KiB\" or \"64MiB\"" })
        }
        (Kind::Text, other) => Err(wrong_type("a string", other)),
        (Kind::List, other) => Err(wrong_type("a string or a list of strings", other)),
        (Kind::Duration, other) => Err(wrong_type("a string with a unit of time", other)),
        (Kind::Size, other) => Err(wrong_type("a string with a unit of size", other)),
        (Kind::Integer, other) => Err(wrong_type("a whole number", other)),
        (Kind::Bool, other) => Err(wrong_type("true or false", other)),
    }
}

/// What [`scalar`] accepts.
const SCALAR: &str = "a string, a number, true or false";

/// A string, a number or a boolean as text.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

fn wrong_type(expected: &'static str, value: &DeValue<'_>) -> ValueError {
    ValueError::WrongType { expected, found: described(value) }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fractional number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<FileSettings, ConfigError> {
        parse(text, Path::new("walcat.toml"))
    }

    #[test]
    fn settings_are_found_with_their_lines() {
        let text = "# first\nslot = 'orders'\npublication = ['a', 'b']\n\n[topics]\ncreate = true\npartitions = 0x10\n";
        let found = parse_text(text).unwrap_or_else(|error| panic!("{error}")).settings;
        let shown: Vec<String> =
            found.iter().map(|(key, setting)| format!("{} {key} {:?}", setting.origin, setting.value)).collect();
        assert_eq!(
            shown,
            [
                "walcat.toml:2 slot [\"orders\"]",
                "walcat.toml:3 publication [\"a\", \"b\"]",
                "walcat.toml:6 topics.create [\"true\"]",
                "walcat.toml:7 topics.partitions [\"16\"]",
            ]
        );
    }

    #[test]
    fn properties_may_be_quoted_or_not_and_of_any_scalar_type() {
        let text = "[kafka]\n\"linger.ms\" = 5\nretry.backoff.ms = 1_000\nssl.ca.location = 'x'\n\
                    \"socket.nagle.disable\" = true\n\"x.y\" = 0.5\n[topics.properties]\n\"retention.ms\" = -1\n";
        let found = parse_text(text).unwrap_or_else(|error| panic!("{error}"));
        let shown = |properties: &[Property]| -> Vec<String> {
            properties
                .iter()
                .map(|found| format!("{}={} {}", found.name, found.text.value, found.text.origin))
                .collect()
        };
        assert_eq!(
            shown(&found.kafka),
            [
                "linger.ms=5 walcat.toml:2",
                "retry.backoff.ms=1000 walcat.toml:3",
                "ssl.ca.location=x walcat.toml:4",
                "socket.nagle.disable=true walcat.toml:5",
                "x.y=0.5 walcat.toml:6",
            ]
        );
        assert_eq!(shown(&found.topic_properties), ["retention.ms=-1 walcat.toml:8"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_key() {
        for (text, error, hint) in [
            ("\nslto = 'x'", "walcat.toml:2: slto: unknown key", "did you mean slot?"),
            ("[retry]\nfro = '1s'", "walcat.toml:2: retry.fro: unknown key", "did you mean retry.for?"),
            ("[filter]\nshape = 'flat'", "walcat.toml:1: filter: unknown key", "see walcat.toml(5) for the keys"),
            (
                "[kafka]\n'linger.ms' = 1\n'linger.ms' = 2",
                "walcat.toml:3: duplicate key: 'linger.ms'",
                "write the file in TOML; walcat.toml(5) has an example",
            ),
            (
                "linger.ms = 5",
                "walcat.toml:1: linger.ms: a librdkafka property outside the table [kafka]",
                "move it below the line [kafka] and write it as \"linger.ms\" = ...",
            ),
            (
                "slot = 's'\n'sasl.password' = 'hunter2'",
                "walcat.toml:2: sasl.password: a librdkafka property outside the table [kafka]",
                "move it below the line [kafka] and write it as \"sasl.password\" = ...",
            ),
            (
                "[retry]\n'compression.codec' = 'lz4'",
                "walcat.toml:2: compression.codec: a librdkafka property outside the table [kafka]",
                "move it below the line [kafka] and write it as \"compression.codec\" = ...",
            ),
            ("colour = 1", "walcat.toml:1: colour: unknown key", "see walcat.toml(5) for the keys"),
            (
                "slot = 5",
                "walcat.toml:1: slot: expected a string, found a whole number",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "once = 'yes'",
                "walcat.toml:1: once: expected true or false, found a string",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "publication = ['a', 1]",
                "walcat.toml:1: publication: expected a list of strings, found a whole number",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "status_interval = 5",
                "walcat.toml:1: status_interval: missing unit: write \"200ms\", \"30s\" or \"5m\"",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "[memory]\nmax = 64.5",
                "walcat.toml:2: memory.max: missing unit: write \"512KiB\" or \"64MiB\"",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "kafka = 1",
                "walcat.toml:1: kafka: expected a table, found a whole number",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "[[retry]]",
                "walcat.toml:1: retry: expected a table, found a list",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "[kafka]\n\"linger.ms\" = []",
                "walcat.toml:2: kafka.linger.ms: expected a string, a number, true or false, found a list",
                "see walcat.toml(5) for the values of each key",
            ),
            (
                "[kafka]\nmessage.timeout.ms = 1",
                "walcat.toml:2: kafka.message.timeout.ms: refused: a record that times out would stop the stream",
                "set broker_for in [retry] to limit the wait for Kafka",
            ),
            (
                "slot = 'a'\nslot = 'b'",
                "walcat.toml:2: duplicate key: slot",
                "write the file in TOML; walcat.toml(5) has an example",
            ),
        ] {
            let found = parse_text(text).err().unwrap_or_else(|| panic!("accepted: {text:?}"));
            assert_eq!(found.to_string(), error);
            assert_eq!(found.hint().as_deref(), Some(hint), "{text:?}");
            assert_eq!(found.exit_code(), crate::exit_code::ExitCode::Setup);
        }
    }

    #[test]
    fn the_first_of_several_errors_is_reported() {
        let error = parse_text("zzz = 1\nabc = 2\n").err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("walcat.toml:1: zzz: unknown key"));
    }

    #[test]
    fn no_error_repeats_a_value() {
        for text in [
            "dsn = hunter2",
            "dsn = 'hunter2",
            "dsn = \"hunter2\\q\"",
            "'sasl.password' hunter2",
            "dsn = ['hunter2']",
            "[kafka]\n'sasl.password' = ['hunter2']",
            "[kafka]\n'sasl.password' = 'a' hunter2",
            "[kafka]\n'sasl.password' = '''hunter2\n",
        ] {
            let error = parse_text(text).err().unwrap_or_else(|| panic!("accepted: {text:?}"));
            let shown = format!("{error} {error:?} {:?}", error.hint());
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
