//! Flags over environment over file over defaults: which text of a setting is in effect, and where it comes from.

use std::ffi::OsString;
use std::path::PathBuf;

use super::error::{ConfigError, Origin, Place, Setting, ValueError};
use super::file::FileSettings;
use super::kafka::{Property, canonical, check_property, split_property};
use super::key::{Key, Kind};
use super::secret::Environment;
use super::value;

/// The command line. It has no `Debug`, because a value may be secret.
#[derive(Clone, Default)]
pub struct Given {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The given flags, each with its values as texts.
    pub settings: Vec<(Key, Vec<String>)>,
    /// The values of `-X`.
    pub properties: Vec<String>,
}

/// The texts that are in effect.
pub struct Layers {
    /// By [`Key`]; `None` if the setting is not given and has no default.
    settings: [Option<Setting<Vec<String>>>; Key::ALL.len()],
    pub kafka: Vec<Property>,
    pub topic_properties: Vec<Property>,
}

impl Layers {
    /// Lays the flags over the environment, over the file, over the defaults.
    pub fn gather(given: &Given, environment: &Environment<'_>, file: FileSettings) -> Result<Layers, ConfigError> {
        let mut settings = Key::ALL.map(|row| row.default.map(default));
        for (key, setting) in file.settings {
            settings[key as usize] = Some(setting);
        }
        for row in &Key::ALL {
            if let Some(setting) = from_environment(row.key, row.kind, environment)? {
                settings[row.key as usize] = Some(setting);
            }
        }
        for (key, texts) in &given.settings {
            settings[*key as usize] = Some(Setting { value: texts.clone(), origin: Origin::Flag });
        }
        let mut kafka = file.kafka;
        for text in &given.properties {
            let property = parse_flag(text)?;
            kafka.retain(|other| other.name != property.name);
            kafka.push(property);
        }
        Ok(Layers { settings, kafka, topic_properties: file.topic_properties })
    }

    /// The texts of a setting, for showing.
    #[must_use]
    pub fn texts(&self, key: Key) -> Option<&Setting<Vec<String>>> {
        self.settings[key as usize].as_ref()
    }

    /// The setting, each of its texts parsed by `parse`.
    pub fn parse_list<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(Setting { value: texts, .. }) = self.texts(key) else {
            return Ok(None);
        };
        let values: Result<Vec<T>, ValueError> = texts.iter().map(|text| parse(text)).collect();
        values.map(Some).map_err(|why| ConfigError::Value { place: self.place(key), why })
    }

    /// The setting, its text parsed by `parse`; the last text if it was given more than once.
    pub fn optional<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self.parse_list(key, parse)?.and_then(|mut values| values.pop()))
    }

    /// As [`Layers::optional`], for a setting with a default.
    pub fn required<T>(&self, key: Key, parse: impl Fn(&str) -> Result<T, ValueError>) -> Result<T, ConfigError> {
        let value = self.optional(key, parse)?;
        value.ok_or_else(|| ConfigError::Value { place: self.place(key), why: ValueError::Empty })
    }

    /// Whether a switch is on.
    pub fn is_on(&self, key: Key) -> Result<bool, ConfigError> {
        self.required(key, value::boolean)
    }

    /// Whether the user asked for this: a switch that is on, or a value that was given.
    fn is_asked_for(&self, key: Key) -> Result<bool, ConfigError> {
        match self.origin(key) {
            Origin::Default => Ok(false),
            _ => match key.row().kind {
                Kind::Bool => self.is_on(key),
                Kind::Integer => Ok(self.required(key, value::integer)? != 0),
                _ => Ok(true),
            },
        }
    }

    /// Keeps only one of two settings: the one from the higher layer. Two settings in one layer are a contradiction.
    pub fn settle(&mut self, first: Key, second: Key, why: &'static str) -> Result<(), ConfigError> {
        if !self.is_asked_for(first)? || !self.is_asked_for(second)? {
            return Ok(());
        }
        let lower = match rank(&self.origin(first)).cmp(&rank(&self.origin(second))) {
            std::cmp::Ordering::Less => first,
            std::cmp::Ordering::Greater => second,
            std::cmp::Ordering::Equal => {
                return Err(ConfigError::Contradiction {
                    places: Box::new([self.place(first), self.place(second)]),
                    why,
                });
            }
        };
        self.settings[lower as usize] = lower.row().default.map(default);
        Ok(())
    }

    /// Replaces the default of a setting that was not given.
    pub fn change_default(&mut self, key: Key, text: &str) {
        if self.origin(key) == Origin::Default {
            self.settings[key as usize] = Some(default(text));
        }
    }

    /// Where the setting comes from.
    #[must_use]
    pub fn origin(&self, key: Key) -> Origin {
        self.texts(key).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// The setting as the user wrote it.
    #[must_use]
    pub fn place(&self, key: Key) -> Place {
        Place { origin: self.origin(key), key: key.name().to_owned() }
    }
}

fn default(text: &str) -> Setting<Vec<String>> {
    Setting { value: vec![text.to_owned()], origin: Origin::Default }
}

fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Environment(_) => 2,
        Origin::Flag => 3,
    }
}

/// The value of the setting's variable; an empty variable is ignored, as in libpq.
fn from_environment(
    key: Key,
    kind: Kind,
    environment: &Environment<'_>,
) -> Result<Option<Setting<Vec<String>>>, ConfigError> {
    let Some((name, text)) = key.variable().and_then(|name| environment(&name).map(|text| (name, text))) else {
        return Ok(None);
    };
    let origin = Origin::Environment(name);
    match text.into_string().map_err(|_: OsString| ValueError::NotUtf8) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) if kind == Kind::List => {
            Ok(Some(Setting { value: text.split(',').map(|item| item.trim().to_owned()).collect(), origin }))
        }
        Ok(text) => Ok(Some(Setting { value: vec![text], origin })),
        Err(why) => Err(ConfigError::Value { place: Place { origin, key: key.name().to_owned() }, why }),
    }
}

fn parse_flag(text: &str) -> Result<Property, ConfigError> {
    let refuse = |key: String| move |why| ConfigError::Value { place: Place { origin: Origin::Flag, key }, why };
    let (name, value) = split_property(text).map_err(refuse("kafka".to_owned()))?;
    check_property(name).map_err(refuse(format!("kafka.{name}")))?;
    Ok(Property { name: canonical(name).to_owned(), text: Setting { value: value.to_owned(), origin: Origin::Flag } })
}
