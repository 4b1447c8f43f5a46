//! Compares the records with the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::state::State;
use super::{Expected, Findings, Once, Promise};
use crate::options::Delivery;
use crate::record::{Kind, Op, Reading, Row, Table};

pub fn compare(once: &Once<'_>, state: &State, expected: &Expected, findings: &mut Findings) {
    let (mut journal, mut markers) = (BTreeMap::new(), BTreeMap::new());
    let (mut pages, mut pages_ever, mut messages, mut truncates) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), 0);
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
            (Op::Create, Row::Key) if record.table == Table::Page => {
                pages.insert(record.key, ());
                pages_ever.insert(record.key, ());
            }
            (Op::Truncate, _) => {
                pages.clear();
                truncates += 1;
            }
            (Op::Message, _) => {
                messages.insert(record.key, change.place.order > 0);
            }
            _ => {}
        }
    }
    // The journal in the database has every change of an account; the record of a delete has no version.
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
    same("page", &pages, &expected.pages, findings);
    same("page, ever", &pages_ever, &expected.pages_ever, findings);
    if truncates != expected.truncates {
        let promise = if truncates < expected.truncates { Promise::Lost } else { Promise::Phantom };
        findings.add(promise, || format!("TRUNCATE {} times in PostgreSQL, {truncates} in Kafka", expected.truncates));
    }
    // A non-transactional message exists even if the transaction that sent it was rolled back.
    messages.retain(|id, is_transactional| *is_transactional || expected.messages.contains_key(id));
    same("message", &messages, &expected.messages, findings);
}

/// Kafka accepts a document when it is created; some are changed to a size that Kafka rejects.
pub fn compare_refused(
    delivery: Delivery,
    once: &Once<'_>,
    reading: &Reading,
    expected: &Expected,
    findings: &mut Findings,
) {
    let (mut created, mut updated) = (BTreeMap::new(), BTreeSet::new());
    for record in once.values().filter(|record| record.table == Table::Document) {
        match record.change.as_ref().map(|change| change.op) {
            Some(Op::Create) => {
                created.insert(record.key, expected.documents.get(&record.key).copied().unwrap_or(false));
            }
            _ => {
                updated.insert(record.key);
            }
        }
    }
    same("document", &created, &expected.documents, findings);
    let mut letters: BTreeMap<i64, u32> = BTreeMap::new();
    for letter in &reading.dead_letters {
        *letters.entry(letter.document).or_default() += 1;
    }
    for (document, is_refused) in &expected.documents {
        let letters = letters.remove(document).unwrap_or(0);
        let is_there = updated.contains(document);
        let is_right = match (is_refused, delivery) {
            (false, _) => letters == 0 && !is_there,
            (true, Delivery::AtLeastOnce) => (letters > 0) != is_there,
            (true, Delivery::ExactlyOnce) => letters + u32::from(is_there) == 1,
        };
        if !is_right {
            findings.add(Promise::DeadLetters, || {
                format!("document {document}, refused: {is_refused}: {letters} dead letters, in its topic: {is_there}")
            });
        }
    }
    for document in letters.keys() {
        findings.add(Promise::DeadLetters, || format!("a dead letter of document {document}, which never was"));
    }
}

/// A deleted topic exists again, with everything that was committed since.
pub fn compare_fleeting(delivery: Delivery, reading: &Reading, expected: &Expected, findings: &mut Findings) {
    let mut found = BTreeSet::new();
    for record in &reading.fleeting {
        let is_new = found.insert(record.key);
        if !is_new && delivery == Delivery::ExactlyOnce {
            findings.add(Promise::Once, || format!("fleeting {} again", record.key));
        }
    }
    for key in expected.fleeting.difference(&found) {
        findings.add(Promise::Lost, || format!("fleeting {key}: written after its topic was deleted"));
    }
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
