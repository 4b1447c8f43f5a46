//! Which columns make the key of a relation's records, and in which order.
//!
//! The Relation message flags the columns of the replica identity but does not tell their order in the index: the
//! catalog does, as it is today. It is believed only while it names the very columns that the message flags.
//!
//! | replica identity | key |
//! |---|---|
//! | DEFAULT, INDEX | the flagged columns, in index order; none without any |
//! | FULL (every column is flagged) | the primary key, none without one; not known once the table is gone or has another |
//! | NOTHING | none |
//!
//! A Relation can lack columns of the key that the table has: generated ones before PostgreSQL 18, and those that a column
//! list leaves out. What is left of the key is not unique, so that it is none.

use std::fmt;

use crate::catalog_facts::{CatalogAnswer, TableFacts};
use crate::relations::Relation;
use crate::wire::pgoutput::ReplicaIdentity;

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
    /// The key is not known any more, and the operator has accepted records without one.
    KeyUnknown(KeyUnknown),
}

/// Why the key of a relation with REPLICA IDENTITY FULL is not known: its own columns are all flagged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUnknown {
    /// The catalog has the table no more.
    TableGone,
    /// The catalog has another primary key than the table had.
    OtherKey {
        /// That one.
        catalog: Vec<String>,
    },
}

impl fmt::Display for KeyUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyUnknown::TableGone => f.write_str("the table is gone"),
            KeyUnknown::OtherKey { catalog } => {
                write!(f, "its primary key is ({}) by now, which these changes do not have", catalog.join(", "))
            }
        }
    }
}

/// The key of a relation's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::record) struct Key {
    /// Its columns, as places in the relation, in the key's order; empty for no key.
    pub columns: Vec<usize>,
    /// What an operator ought to know of it.
    pub warning: Option<Warning>,
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
            Warning::KeyUnknown(why) => {
                write!(f, "the table has REPLICA IDENTITY FULL, and {why}: its older changes are sent without a key")
            }
            Warning::FullWithoutKey => {
                f.write_str("the table has REPLICA IDENTITY FULL and no primary key: its records have no key")
            }
        }
    }
}

/// The key of a relation's records.
///
/// # Errors
///
/// When only the catalog could tell it, and tells of another table than this.
pub(in crate::record) fn key_of(relation: &Relation, answer: &CatalogAnswer) -> Result<Key, KeyUnknown> {
    let (columns, warning) = match relation.replica_identity {
        ReplicaIdentity::Nothing => (Vec::new(), None),
        ReplicaIdentity::Full => {
            let table = answer.table.as_ref().ok_or(KeyUnknown::TableGone)?;
            match (places(relation, &table.primary_key), in_part(relation, table, &table.primary_key)) {
                (Some(key), _) if !key.is_empty() => (key, None),
                (Some(_), _) => (Vec::new(), Some(Warning::FullWithoutKey)),
                (None, Some(warning)) => (Vec::new(), Some(warning)),
                (None, None) => return Err(KeyUnknown::OtherKey { catalog: table.primary_key.clone() }),
            }
        }
        ReplicaIdentity::Default | ReplicaIdentity::Index => flagged_in_index_order(relation, answer),
    };
    Ok(Key { columns, warning })
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
    // A column is added behind all others; where one that the Relation has is there no more, it may have been renamed.
    let is_same_table = relation.columns.iter().all(|column| table.columns.contains(&column.name));
    let is_older = |name: &String| is_same_table && table.columns.iter().position(|column| column == name) < last;
    let is_left_out = |name: &String| !has(name) && (table.unpublished.contains(name) || is_older(name));
    let unpublished: Vec<String> = key.iter().filter(|name| is_left_out(name)).cloned().collect();
    (!unpublished.is_empty()).then(|| Warning::KeyInPart { key: key.to_vec(), unpublished })
}

/// The places of columns by name; none when one of them is missing.
pub(in crate::record) fn places(relation: &Relation, names: &[String]) -> Option<Vec<usize>> {
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
            (Nothing, "", Some(("", "a")), &[], None),
        ] {
            let found = key_of(&relation(identity, flagged), &answer(table));
            assert_eq!(found, Ok(Key { columns: key.to_vec(), warning }), "{identity:?} {flagged} {table:?}");
        }
    }

    #[test]
    fn the_key_of_a_full_table_is_not_known_without_the_table_or_with_another_key() {
        let relation = relation(ReplicaIdentity::Full, "abc");
        assert_eq!(key_of(&relation, &answer(None)), Err(KeyUnknown::TableGone));
        let other = KeyUnknown::OtherKey { catalog: names("ax") };
        assert_eq!(key_of(&relation, &answer(Some(("", "ax")))), Err(other));
        let mut renamed = answer(Some(("", "x")));
        renamed.table.as_mut().expect("a table").columns = names("xbc");
        assert_eq!(key_of(&relation, &renamed), Err(KeyUnknown::OtherKey { catalog: names("x") }));
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
            let found = key_of(&relation(identity, flagged), &answer).unwrap();
            let warning = found.warning.filter(|warning| matches!(warning, Warning::KeyInPart { .. }));
            assert_eq!((&found.columns[..], warning), expected, "{identity:?} {flagged} {key} {columns}");
        }
    }

    #[test]
    fn a_warning_names_both_orders() {
        let warning = Warning::KeyInTableOrder { relation: names("ab"), catalog: Some(names("ba")) };
        let text = warning.to_string();
        assert!(text.contains("(a, b)") && text.contains("(b, a)"), "{text}");
    }
}
