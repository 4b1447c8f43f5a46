//! Which columns make the key of a relation's records, and in which order.
//!
//! The Relation message flags the columns of the replica identity but does not tell their order in the index: the
//! catalog does, as it is today. It is believed only while it names the very columns that the message flags.
//!
//! | replica identity | key |
//! |---|---|
//! | DEFAULT, INDEX | the flagged columns, in index order; none without any |
//! | FULL (every column is flagged) | the primary key, when all its columns are there; else none |
//! | NOTHING | none |
//!
//! A Relation can lack columns of the key that the table has: generated ones before PostgreSQL 18, and those that a column
//! list leaves out. What is left of the key is not unique, so that it is none.

use std::fmt;

use crate::catalog_facts::{CatalogAnswer, TableFacts};
use crate::pgoutput::ReplicaIdentity;
use crate::relations::Relation;

/// What an operator ought to know of a relation's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The table is gone, or no longer has the replica identity that the Relation message tells of: the key's columns
    /// are in the table's order, not the index's.
    KeyInTableOrder {
        /// The order of the Relation message, which is used.
        relation: Vec<String>,
        /// The order of today's catalog; none when the table is gone.
        catalog: Option<Vec<String>>,
    },
    /// REPLICA IDENTITY FULL without a usable primary key: the records have no key.
    FullWithoutKey,
    /// A part of the key is not published: the records have no key.
    KeyInPart {
        /// The key, in index order.
        key: Vec<String>,
        /// What of it is not published.
        unpublished: Vec<String>,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::KeyInTableOrder { relation, catalog: Some(catalog) } => write!(
                f,
                "the table's replica identity has changed since: its key's columns are ({}) by the Relation message, \
                 which is used, and ({}) by the catalog",
                relation.join(", "),
                catalog.join(", ")
            ),
            Warning::KeyInTableOrder { relation, catalog: None } => write!(
                f,
                "the table is gone: its key's columns are in the table's order ({}), the index's order is not known",
                relation.join(", ")
            ),
            Warning::KeyInPart { key, unpublished } => write!(
                f,
                "the key ({}) is not unique without {}, which is not published: its records have no key",
                key.join(", "),
                unpublished.join(", ")
            ),
            Warning::FullWithoutKey => {
                f.write_str("the table has REPLICA IDENTITY FULL and no primary key: its records have no key")
            }
        }
    }
}

/// The key's columns, as places in the relation, in the key's order; empty for no key.
pub(super) fn key_columns(relation: &Relation, answer: &CatalogAnswer) -> (Vec<usize>, Option<Warning>) {
    match relation.replica_identity {
        ReplicaIdentity::Nothing => (Vec::new(), None),
        ReplicaIdentity::Full => {
            let primary_key = answer.table.as_ref().and_then(|table| places(relation, &table.primary_key));
            let in_part = answer.table.as_ref().and_then(|table| in_part(relation, table, &table.primary_key));
            match primary_key {
                Some(key) if !key.is_empty() => (key, None),
                _ => (Vec::new(), Some(in_part.unwrap_or(Warning::FullWithoutKey))),
            }
        }
        ReplicaIdentity::Default | ReplicaIdentity::Index => flagged_in_index_order(relation, answer),
    }
}

fn flagged_in_index_order(relation: &Relation, answer: &CatalogAnswer) -> (Vec<usize>, Option<Warning>) {
    let columns = relation.columns.iter().enumerate();
    let flagged: Vec<usize> = columns.filter(|(_, column)| column.part_of_key).map(|(place, _)| place).collect();
    let fits = |names: &[String]| {
        flagged.iter().filter_map(|place| relation.columns.get(*place)).all(|column| names.contains(&column.name))
    };
    let table = answer.table.as_ref().filter(|table| fits(&table.identity_columns));
    if let Some(warning) = table.and_then(|table| in_part(relation, table, &table.identity_columns)) {
        return (Vec::new(), Some(warning));
    }
    if flagged.is_empty() {
        return (flagged, None);
    }
    // The primary key too: it still tells the order after the table went from DEFAULT to FULL.
    let fitting =
        answer.table.iter().flat_map(|table| [&table.identity_columns, &table.primary_key]).find_map(|names| {
            let key = places(relation, names)?;
            let mut sorted = key.clone();
            sorted.sort_unstable();
            (sorted == flagged).then_some(key)
        });
    match fitting {
        Some(key) => (key, None),
        None => {
            let names = flagged.iter().filter_map(|place| relation.columns.get(*place));
            let warning = Warning::KeyInTableOrder {
                relation: names.map(|column| column.name.clone()).collect(),
                catalog: answer.table.as_ref().map(|table| table.identity_columns.clone()),
            };
            (flagged, Some(warning))
        }
    }
}

/// A key of which the Relation lacks columns that the table had, as far as is known: one that it lacks because it is younger
/// is none of these.
fn in_part(relation: &Relation, table: &TableFacts, key: &[String]) -> Option<Warning> {
    let has = |name: &String| relation.columns.iter().any(|column| column.name == *name);
    let last = table.columns.iter().rposition(has);
    // A column is added behind all others.
    let is_older = |name: &String| table.columns.iter().position(|column| column == name) < last;
    let is_left_out = |name: &String| !has(name) && (table.unpublished.contains(name) || is_older(name));
    let unpublished: Vec<String> = key.iter().filter(|name| is_left_out(name)).cloned().collect();
    (!unpublished.is_empty()).then(|| Warning::KeyInPart { key: key.to_vec(), unpublished })
}

/// The places of columns by name; none when one of them is missing.
fn places(relation: &Relation, names: &[String]) -> Option<Vec<usize>> {
    names.iter().map(|name| relation.columns.iter().position(|column| column.name == *name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relations::Column;

    /// A relation of columns a, b, c, of which some are flagged.
    fn relation(replica_identity: ReplicaIdentity, flagged: &str) -> Relation {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_oid: 23,
            type_modifier: -1,
            part_of_key: flagged.contains(name),
        };
        Relation {
            oid: 1,
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity,
            columns: ["a", "b", "c"].map(column).to_vec(),
        }
    }

    fn names(letters: &str) -> Vec<String> {
        letters.chars().map(String::from).collect()
    }

    /// The catalog's answer with the identity's columns and the primary key's, a letter each.
    fn answer(table: Option<(&str, &str)>) -> CatalogAnswer {
        let table = table.map(|(identity_columns, primary_key)| TableFacts {
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: 'd',
            identity_columns: names(identity_columns),
            primary_key: names(primary_key),
            columns: Vec::new(),
            unpublished: Vec::new(),
            is_partition: false,
        });
        CatalogAnswer { relation: 1, table, types: Vec::new() }
    }

    #[test]
    fn the_key_follows_the_table_of_the_module() {
        use ReplicaIdentity::{Default, Full, Index, Nothing};
        let table_order = |relation: &str, catalog: Option<&str>| {
            Some(Warning::KeyInTableOrder { relation: names(relation), catalog: catalog.map(names) })
        };
        for (identity, flagged, table, key, warning) in [
            (Default, "ab", Some(("ba", "ba")), &[1, 0][..], None),
            (Index, "ac", Some(("ca", "b")), &[2, 0], None),
            (Default, "ab", Some(("", "ba")), &[1, 0], None),
            (Default, "ab", Some(("a", "a")), &[0, 1], table_order("ab", Some("a"))),
            (Default, "ab", Some(("abx", "")), &[0, 1], table_order("ab", Some("abx"))),
            (Default, "a", Some(("abc", "abc")), &[0], table_order("a", Some("abc"))),
            (Default, "ab", None, &[0, 1], table_order("ab", None)),
            (Default, "", Some(("", "")), &[], None),
            (Default, "", Some(("a", "a")), &[], None),
            (Default, "", None, &[], None),
            (Full, "abc", Some(("", "cb")), &[2, 1], None),
            (Full, "abc", Some(("", "")), &[], Some(Warning::FullWithoutKey)),
            (Full, "abc", Some(("", "x")), &[], Some(Warning::FullWithoutKey)),
            (Full, "abc", None, &[], Some(Warning::FullWithoutKey)),
            (Nothing, "", Some(("", "a")), &[], None),
        ] {
            let found = key_columns(&relation(identity, flagged), &answer(table));
            assert_eq!(found, (key.to_vec(), warning), "{identity:?} {flagged} {table:?}");
        }
    }

    /// The relation has a, b and c.
    #[test]
    fn a_key_of_which_a_column_is_not_published_is_none() {
        use ReplicaIdentity::{Default, Full};
        let in_part = |key: &str, unpublished: &str| {
            Some(Warning::KeyInPart { key: names(key), unpublished: names(unpublished) })
        };
        for (identity, flagged, key, columns, unpublished, expected) in [
            (Default, "a", "ax", "abcx", "x", (&[][..], in_part("ax", "x"))),
            (Default, "", "x", "xabc", "x", (&[], in_part("x", "x"))),
            (Full, "abc", "xa", "abcx", "x", (&[], in_part("xa", "x"))),
            // It stands before a column that the relation has, so it was there.
            (Default, "a", "ax", "axbc", "", (&[], in_part("ax", "x"))),
            // It was added later, and the key with it.
            (Default, "a", "ax", "abcx", "", (&[0], None)),
            // It was renamed, or is another key altogether.
            (Default, "ab", "ax", "axbc", "", (&[0, 1], None)),
            (Default, "ab", "ba", "abcx", "x", (&[1, 0], None)),
        ] {
            let mut answer = answer(Some((key, key)));
            let table = answer.table.as_mut().expect("a table");
            (table.columns, table.unpublished) = (names(columns), names(unpublished));
            let (found, warning) = key_columns(&relation(identity, flagged), &answer);
            let warning = warning.filter(|warning| matches!(warning, Warning::KeyInPart { .. }));
            assert_eq!((&found[..], warning), expected, "{identity:?} {flagged} {key} {columns}");
        }
    }

    #[test]
    fn a_warning_names_both_orders() {
        let warning = Warning::KeyInTableOrder { relation: names("ab"), catalog: Some(names("ba")) };
        let text = warning.to_string();
        assert!(text.contains("(a, b)") && text.contains("(b, a)"), "{text}");
    }
}
