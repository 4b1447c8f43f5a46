//! What the records say, compared with what the tables hold.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::history::State;
use super::{Expected, Findings, Once, Promise};
use crate::record::{Kind, Op, Row, Table};

pub fn compare(once: &Once<'_>, state: &State, expected: &Expected, findings: &mut Findings) {
    let (mut journal, mut markers) = (BTreeMap::new(), BTreeMap::new());
    let mut actions: BTreeMap<(Kind, i64, Option<i64>), u64> = BTreeMap::new();
    for record in once.values() {
        let Some(change) = &record.change else { continue };
        match (change.op, &change.row) {
            (_, Row::Journal { kind, account_id, version }) => {
                journal.insert(record.key, (*kind, *account_id, *version));
            }
            (_, Row::Marker { records }) => {
                markers.insert(record.key, *records);
            }
            (Op::Create, Row::Account { version, .. }) => {
                *actions.entry((Kind::Open, record.key, Some(*version))).or_default() += 1;
            }
            (_, Row::Account { version, .. }) => {
                *actions.entry((Kind::Update, record.key, Some(*version))).or_default() += 1;
            }
            (Op::Delete, Row::None) if record.table == Table::Account => {
                *actions.entry((Kind::Close, record.key, None)).or_default() += 1;
            }
            _ => {}
        }
    }
    // The journal of the database names every change of an account; a delete's record knows no version.
    let mut journaled: BTreeMap<(Kind, i64, Option<i64>), u64> = BTreeMap::new();
    for (kind, account_id, version) in expected.journal.values() {
        let version = (*kind != Kind::Close).then_some(*version);
        *journaled.entry((*kind, *account_id, version)).or_default() += 1;
    }
    same("journal", &journal, &expected.journal, findings);
    same("marker", &markers, &expected.markers, findings);
    same("change of an account", &actions, &journaled, findings);
    same("account", &state.accounts, &expected.accounts, findings);
    same("batch", &state.bulk, &expected.bulk, findings);
}

fn same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
    findings: &mut Findings,
) {
    for (key, value) in expected {
        let found = found.get(key);
        if found != Some(value) {
            findings.add(Promise::Lost, || format!("{what} {key:?}: {value:?} in PostgreSQL, {found:?} in Kafka"));
        }
    }
    for (key, value) in found.iter().filter(|(key, _)| !expected.contains_key(key)) {
        findings.add(Promise::Phantom, || format!("{what} {key:?}: {value:?} in Kafka, nothing in PostgreSQL"));
    }
}
