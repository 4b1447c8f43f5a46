//! `--print-config`: the settings in effect and where each comes from, as a file that walcat can read.

use std::fmt::Write;

use super::error::Setting;
use super::kafka::Property;
use super::key::{Key, Kind, OPEN_TABLES, Row};
use super::mask::{mask_dsn, mask_property};
use super::resolve::Config;
use super::value;

impl Config {
    /// Every setting with its origin. A setting without a value is a comment, and a secret is masked.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut table = "";
        for row in &Key::ALL {
            let (row_table, name) = row.name.split_once('.').unwrap_or(("", row.name));
            if row_table != table {
                table = row_table;
                section(&mut out, table);
            }
            let line = match self.layers.texts(row.key) {
                Some(Setting { value: texts, origin }) => format!("{name} = {}  # {origin}", shown(row, texts)),
                None => format!("# {name} is not set"),
            };
            out.extend([&line, "\n"]);
        }
        let tables = [(&self.layers.topic_properties, OPEN_TABLES[1]), (&self.layers.kafka, OPEN_TABLES[0])];
        for (properties, table) in tables.into_iter().filter(|(properties, _)| !properties.is_empty()) {
            section(&mut out, table);
            for Property { name, text: Setting { value, origin } } in properties {
                let value = if table == OPEN_TABLES[0] { mask_property(name, value) } else { value };
                out.extend([&quoted(name), " = ", &quoted(value), "  # ", &origin.to_string(), "\n"]);
            }
        }
        out
    }
}

fn section(out: &mut String, table: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "\n[{table}]");
}

fn shown(row: &Row, texts: &[String]) -> String {
    let rendered = |text: &String| match row.kind {
        Kind::Integer => value::integer(text).map_or_else(|_| quoted(text), |number| number.to_string()),
        Kind::Bool => value::boolean(text).map_or_else(|_| quoted(text), |switch| switch.to_string()),
        _ if row.key == Key::Dsn => quoted(&mask_dsn(text)),
        _ => quoted(text),
    };
    let values: Vec<String> = texts.iter().map(rendered).collect();
    match row.kind {
        Kind::List if texts.len() != 1 => format!("[{}]", values.join(", ")),
        _ => values.last().cloned().unwrap_or_default(),
    }
}

/// A TOML basic string: as in JSON, but DEL is escaped too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\x7F', "\\u007F")
}
