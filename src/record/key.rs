//! The key columns of a relation's records, and their order.
//!
//! The Relation message flags the columns of the replica identity but does not contain their order in the index. The
//! current catalog contains it. The catalog is used only while it names exactly the columns that the message flags.
//!
//! | replica identity | key |
//! |---|---|
//! | DEFAULT, INDEX | the flagged columns, in index order; none without any |
//! | FULL (every column is flagged) | the primary key; none without one; unknown if the table is gone or has another one |
//! | NOTHING | none |
//!
//! A Relation message may omit key columns of the table: generated columns before PostgreSQL 18, and columns that a
//! column list excludes. The remaining columns are not unique, so the records have no key.

use std::fmt;

use crate::catalog_facts::{CatalogAnswer, TableFacts};
use crate::relations::Relation;
use crate::wire::pgoutput::ReplicaIdentity;

/// A warning for the operator about a relation's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The table is gone, or its replica identity differs from that of the Relation message: the key columns are in the
    /// order of the table, not of the index.
    KeyInTableOrder {
        /// The order in the Relation message, which is used.
        relation: Vec<String>,
        /// The order in the current catalog; `None` if the table is gone.
        catalog: Option<Vec<String>>,
    },
    /// REPLICA IDENTITY FULL without a usable primary key: the records have no key.
    FullWithoutKey,
    /// A column of the key is not published: the records have no key.
    KeyInPart {
        /// The key, in index order.
        key: Vec<String>,
        /// The columns of the key that are not published.
        unpublished: Vec<String>,
    },
    /// The key is no longer known, and the operator has accepted records without a key.
    KeyUnknown(KeyUnknown),
}

/// Why the key is unknown for a relation with REPLICA IDENTITY FULL, which flags all columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUnknown {
    /// The catalog no longer has the table.
    TableGone,
    /// The catalog has a primary key that the table did not have.
    OtherKey {
        /// The key in the catalog.
        catalog: Vec<String>,
    },
}

impl fmt::Display for KeyUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyUnknown::TableGone => f.write_str("the table is gone"),
            KeyUnknown::OtherKey { catalog } => {
                write!(f, "its primary key is now ({}), which these changes do not have", catalog.join(", "))
            }
        }
    }
}

/// The key of a relation's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::record) struct Key {
    /// The positions of its columns in the relation, in the key's order; empty without a key.
    pub columns: Vec<usize>,
    /// A warning for the operator.
    pub warning: Option<Warning>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::KeyInTableOrder { relation, catalog: Some(catalog) } => write!(
                f,
                "the table's replica identity has changed: using the key columns ({}) of the Relation message; \
                 the catalog now has ({})",
                relation.join(", "),
                catalog.join(", ")
            ),
            Warning::KeyInTableOrder { relation, catalog: None } => write!(
                f,
                "the table is gone: using the key columns in the order of the table ({}); that of the index is unknown",
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
/// If only the catalog contains the key, and the catalog's table no longer matches the relation.
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
    // The primary key is also tried: it still has the order after the table changed from DEFAULT to FULL.
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

/// A warning if the Relation omits key columns that the table had, as far as is known. A column that was added after
/// the Relation does not count.
fn in_part(relation: &Relation, table: &TableFacts, key: &[String]) -> Option<Warning> {
    let has = |name: &String| relation.columns.iter().any(|column| column.name == *name);
    let last = table.columns.iter().rposition(has);
    // New columns are always added at the end. If a column of the Relation no longer exists, it may have been renamed.
    let is_same_table = relation.columns.iter().all(|column| table.columns.contains(&column.name));
    let is_older = |name: &String| is_same_table && table.columns.iter().position(|column| column == name) < last;
    let is_left_out = |name: &String| !has(name) && (table.unpublished.contains(name) || is_older(name));
    let unpublished: Vec<String> = key.iter().filter(|name| is_left_out(name)).cloned().collect();
    (!unpublished.is_empty()).then(|| Warning::KeyInPart { key: key.to_vec(), unpublished })
}

/// The positions of columns by name; `None` if a column does not exist.
pub(in crate::record) fn places(relation: &Relation, names: &[String]) -> Option<Vec<usize>> {
    names.iter().map(|name| relation.columns.iter().position(|column| column.name == *name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relations::Column;

    /// A relation with columns a, b and c, some of them flagged.
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

    /// The catalog's answer with the columns of the identity and of the primary key, one letter each.
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

    /// The relation has columns a, b and c.
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
            // x precedes a column that the relation has, so it existed before.
            (Default, "a", "ax", "axbc", "", (&[], in_part("ax", "x"))),
            // x was added later, and the key with it.
            (Default, "a", "ax", "abcx", "", (&[0], None)),
            // x was renamed, or this is another key.
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
