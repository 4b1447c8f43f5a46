//! What `walcat verify` prints: one line for each table, with examples and notes, and a summary.

use std::fmt::Write as _;

use super::comparison::{Compared, Keyless, Kind};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::relations::Relation;
use crate::wire::replication::command::quote_identifier_where_needed;

/// The results of all tables.
#[derive(Debug)]
pub(super) struct Summary {
    snapshot: Lsn,
    rows: u64,
    equal: u64,
    differing: u64,
}

impl Summary {
    pub(super) fn new(snapshot: Lsn) -> Self {
        Summary { snapshot, rows: 0, equal: 0, differing: 0 }
    }

    /// Adds a table.
    pub(super) fn add(&mut self, result: &Compared) {
        self.rows += result.rows;
        *(if result.is_equal() { &mut self.equal } else { &mut self.differing }) += 1;
    }

    /// The last line.
    pub(super) fn line(&self) -> String {
        let Summary { snapshot, rows, equal, differing } = self;
        format!("as of {snapshot}: {equal} equal, {differing} different; {rows} rows\n")
    }

    /// Success if every table is equal.
    pub(super) fn verdict(&self) -> Result<(), Error> {
        let Summary { snapshot, equal, differing, .. } = *self;
        if differing > 0 {
            return Err(Error::Differs { differing, compared: equal + differing, snapshot });
        }
        Ok(())
    }
}

/// The lines of a table.
pub(super) fn lines(relation: &Relation, topic: &str, result: &Compared) -> String {
    let [schema, table] = [&relation.namespace, &relation.name].map(|name| quote_identifier_where_needed(name));
    let mut text = String::new();
    let note = |text: &mut String, words: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "         {words}");
    };
    let rows = result.rows;
    if result.is_equal() {
        let _ = writeln!(text, "equal    {schema}.{table}: {rows} rows, topic {topic}");
    } else {
        let (missing, surplus, different) = (result.missing, result.surplus, result.different);
        let _ = writeln!(
            text,
            "differs  {schema}.{table}: {rows} rows, topic {topic}: {missing} missing, {surplus} surplus, \
             {different} different"
        );
    }
    for example in &result.examples {
        let kind = match example.kind {
            Kind::Missing => "missing",
            Kind::Surplus => "surplus",
            Kind::Different => "different",
        };
        note(&mut text, format!("{kind} {}", printable(example.key.as_deref().unwrap_or("(no longer in the topic)"))));
        for (side, row) in [("table", &example.table), ("topic", &example.topic)] {
            if let Some(row) = row {
                note(&mut text, format!("  {side} {}", printable(row)));
            }
        }
    }
    if !result.topic_exists {
        note(&mut text, "note: the topic does not exist".to_owned());
    }
    if let Some(cut) = result.cut.filter(|_| result.missing > 0) {
        note(
            &mut text,
            format!(
                "note: the topic no longer has the records before offset {} of partition {}: its retention or somebody \
                 deleted them, and rows that were not written since are missing",
                cut.low, cut.id
            ),
        );
    }
    if let Some(Keyless { repeats, reshaped }) = result.keyless {
        note(&mut text, "note: the records have no key: equal rows were counted".to_owned());
        if repeats > 0 {
            note(&mut text, format!("note: {repeats} records are repeats and were not counted"));
        }
        if result.surplus > 0 {
            let words = "note: a surplus row may be a repeat: at-least-once delivery repeats records after a crash, and a \
                         snapshot that was interrupted reads a table without a key again";
            note(&mut text, words.to_owned());
        }
        if reshaped > 0 {
            let words = "records have other columns than the table: their rows count as surplus, and those of the table as \
                         missing";
            note(&mut text, format!("note: {reshaped} {words}"));
        }
    }
    let records = &result.records;
    for (count, words) in [
        (records.foreign, "records are not walcat's"),
        (records.keyless, "records have no key and were not compared"),
        (result.changed_since, "rows were changed after the snapshot and cannot be judged"),
        (result.unsent, "rows were compared without the values that PostgreSQL did not send (unchanged TOAST)"),
        (result.older, "rows were compared by the columns that their records share with the table"),
    ] {
        if count > 0 {
            note(&mut text, format!("note: {count} {words}"));
        }
    }
    text
}

/// Keys and values are JSON unless somebody else has written them: a terminal gets no control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}
