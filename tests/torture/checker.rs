//! What must hold of the records that a `read_committed` consumer saw, whatever was done to the servers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::cluster::{Account, TOTAL, Tables};
use crate::reader::Seen;

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing lost; what comes again begins at a transaction's first record in the partition.
    AtLeastOnce,
    /// Nothing lost and nothing twice.
    ExactlyOnce,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// Records with a value.
    pub records: usize,
    pub repeats: usize,
    pub transactions: usize,
}

/// (commit LSN, total_order): what a consumer drops repeats by.
type Place = (u64, u64);

/// More than these of one kind are only counted.
const SHOWN: usize = 5;

impl Verdict {
    fn violation(&mut self, text: String) {
        let kind = text.split(':').next().unwrap_or_default().to_owned();
        let same = self.violations.iter().filter(|other| other.starts_with(&kind)).count();
        if same < SHOWN {
            self.violations.push(text);
        }
    }
}

/// Checks all of it.
pub fn check(promise: Promise, seen: &[Seen], tables: &Tables) -> Verdict {
    let mut verdict = Verdict::default();
    let once = without_repeats(promise, seen, &mut verdict);
    check_wholeness(&once, &mut verdict);
    check_keys(seen, &mut verdict);
    check_journal(&once, tables, &mut verdict);
    check_accounts(&once, tables, &mut verdict);
    verdict
}

fn place(value: &Value) -> Option<Place> {
    let (_, commit_lsn) = value["transaction"]["id"].as_str()?.split_once(':')?;
    Some((commit_lsn.parse().ok()?, value["transaction"]["total_order"].as_u64()?))
}

/// Each record once, by its place; what comes again has to begin at a transaction's first record of its partition.
fn without_repeats<'s>(promise: Promise, seen: &'s [Seen], verdict: &mut Verdict) -> BTreeMap<Place, &'s Seen> {
    let mut firsts: HashMap<(&str, i32, u64), u64> = HashMap::new();
    for record in seen {
        let Some(value) = &record.value else { continue };
        let Some((commit, order)) = place(value) else {
            verdict.violation(format!("no place: a record of {} without transaction", record.table));
            continue;
        };
        let first = firsts.entry((&record.table, record.partition, commit)).or_insert(order);
        *first = order.min(*first);
    }
    let mut once: BTreeMap<Place, &Seen> = BTreeMap::new();
    let mut last: HashMap<(&str, i32), Place> = HashMap::new();
    for record in seen {
        let Some(found) = record.value.as_ref().and_then(place) else { continue };
        verdict.records += 1;
        let partition = (record.table.as_str(), record.partition);
        let before = last.insert(partition, found).unwrap_or_default();
        let goes_on = found.0 == before.0 && found.1 > before.1;
        if !goes_on && found.1 != firsts[&(record.table.as_str(), record.partition, found.0)] {
            verdict.violation(format!("inside: {partition:?} goes from {before:?} into the midst of {found:?}"));
        }
        if once.insert(found, record).is_some() {
            verdict.repeats += 1;
            if promise == Promise::ExactlyOnce {
                verdict.violation(format!("twice: {found:?} in {partition:?}"));
            }
        } else if promise == Promise::ExactlyOnce && found < before {
            verdict.violation(format!("order: {found:?} after {before:?} in {partition:?}"));
        }
    }
    once
}

/// A transaction's numbers go from 1 without a gap, over all topics.
fn check_wholeness(once: &BTreeMap<Place, &Seen>, verdict: &mut Verdict) {
    let mut before: Place = (0, 0);
    for place in once.keys() {
        let expected = if place.0 == before.0 { before.1 + 1 } else { 1 };
        if place.1 != expected {
            verdict.violation(format!("partial: transaction {} has {} where {expected} was due", place.0, place.1));
        }
        verdict.transactions += usize::from(place.0 != before.0);
        before = *place;
    }
}

/// The records of one key are in one partition, and its new ones in the order of commits.
fn check_keys(seen: &[Seen], verdict: &mut Verdict) {
    let mut keys: HashMap<(&str, String), (i32, Place)> = HashMap::new();
    for record in seen {
        let Some(found) = record.value.as_ref().and_then(place) else { continue };
        let key = (record.table.as_str(), record.key.to_string());
        let (partition, newest) = keys.entry(key).or_insert((record.partition, (0, 0)));
        if *partition != record.partition {
            verdict.violation(format!("partition: a key of {} is in two partitions", record.table));
        }
        *newest = found.max(*newest);
    }
}

fn check_journal(once: &BTreeMap<Place, &Seen>, tables: &Tables, verdict: &mut Verdict) {
    let journal = once.values().filter(|record| record.table == "journal");
    let arrived: BTreeSet<i64> = journal.filter_map(|record| record.value.as_ref()?["after"]["seq"].as_i64()).collect();
    for missing in tables.journal.difference(&arrived) {
        verdict.violation(format!("lost: journal row {missing}"));
    }
    for invented in arrived.difference(&tables.journal) {
        verdict.violation(format!("invented: journal row {invented}"));
    }
}

/// Applied in the order of commits the accounts come out as in the table, each version follows the one before it, and
/// the sum is the same after every transaction.
fn check_accounts(once: &BTreeMap<Place, &Seen>, tables: &Tables, verdict: &mut Verdict) {
    let mut accounts: BTreeMap<i64, Account> = BTreeMap::new();
    let (mut sum, mut commit) = (0, 0);
    for (place, record) in once.iter().filter(|(_, record)| record.table == "account") {
        if place.0 != commit && commit != 0 && sum != TOTAL {
            verdict.violation(format!("sum: {sum} after the transaction {commit}"));
        }
        commit = place.0;
        let (Some(value), Some(id)) = (&record.value, record.key["id"].as_i64()) else { continue };
        let after = &value["after"];
        let row = after["balance"].as_i64().zip(after["version"].as_i64());
        let before = accounts.get(&id).copied();
        let fits = match (value["op"].as_str(), row, before) {
            (Some("c"), Some(_), None) => true,
            (Some("u"), Some((_, version)), Some((_, before))) => version == before + 1,
            (Some("d"), None, Some(_)) => true,
            _ => false,
        };
        if !fits {
            verdict.violation(format!("version: {} of account {id} at {place:?} after {before:?}", value["op"]));
        }
        sum -= before.map_or(0, |(balance, _)| balance);
        match row {
            Some((balance, version)) => {
                sum += balance;
                accounts.insert(id, (balance, version));
            }
            None => drop(accounts.remove(&id)),
        }
    }
    if sum != TOTAL {
        verdict.violation(format!("sum: {sum} in the end"));
    }
    if accounts != tables.accounts {
        let different = accounts.iter().filter(|(id, account)| tables.accounts.get(id) != Some(account)).count();
        verdict.violation(format!(
            "accounts: {} applied, {} in the table, {different} of them different",
            accounts.len(),
            tables.accounts.len()
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(table: &str, partition: i32, commit: u64, order: u64, op: &str, key: i64, after: Value) -> Seen {
        let name = if table == "journal" { "seq" } else { "id" };
        let value = json!({
            "op": op, "after": after, "transaction": {"id": format!("7:{commit}"), "total_order": order},
        });
        Seen { table: table.to_owned(), partition, key: json!({name: key}), value: Some(value) }
    }

    fn account(commit: u64, order: u64, op: &str, id: i64, balance: i64, version: i64) -> Seen {
        let partition = i32::try_from(id % 2).unwrap();
        record("account", partition, commit, order, op, id, json!({"id": id, "balance": balance, "version": version}))
    }

    /// Two accounts are opened, and one transfer is made and noted.
    fn history() -> (Vec<Seen>, Tables) {
        let seen = vec![
            account(10, 1, "c", 1, 60_000, 0),
            account(20, 1, "u", 1, 50_000, 1),
            account(10, 2, "c", 2, 40_000, 0),
            account(20, 2, "u", 2, 50_000, 1),
            record("journal", 0, 20, 3, "c", 5, json!({"seq": 5})),
        ];
        let tables =
            Tables { accounts: BTreeMap::from([(1, (50_000, 1)), (2, (50_000, 1))]), journal: BTreeSet::from([5]) };
        (seen, tables)
    }

    fn verdict(promise: Promise, change: impl FnOnce(&mut Vec<Seen>)) -> Verdict {
        let (mut seen, tables) = history();
        change(&mut seen);
        check(promise, &seen, &tables)
    }

    fn violates(promise: Promise, kind: &str, change: impl FnOnce(&mut Vec<Seen>)) {
        let found = verdict(promise, change).violations;
        assert!(found.iter().any(|text| text.starts_with(&format!("{kind}: "))), "no {kind} in {found:?}");
    }

    #[test]
    fn a_history_in_order_has_no_fault() {
        let found = verdict(Promise::ExactlyOnce, |_| {});
        assert_eq!(found.violations, Vec::<String>::new());
        assert_eq!((found.records, found.repeats, found.transactions), (5, 0, 2));
    }

    #[test]
    fn a_transaction_that_comes_again_whole_is_allowed_at_least_once_alone() {
        let again = |seen: &mut Vec<Seen>| seen.insert(2, seen[1].clone());
        assert_eq!(verdict(Promise::AtLeastOnce, again).violations, Vec::<String>::new());
        assert_eq!(verdict(Promise::AtLeastOnce, again).repeats, 1);
        violates(Promise::ExactlyOnce, "twice", again);
    }

    #[test]
    fn what_is_wrong_is_found() {
        violates(Promise::AtLeastOnce, "lost", |seen| drop(seen.pop()));
        violates(Promise::AtLeastOnce, "invented", |seen| {
            seen.push(record("journal", 0, 30, 1, "c", 6, json!({"seq": 6})));
        });
        violates(Promise::AtLeastOnce, "partial", |seen| drop(seen.remove(3)));
        violates(Promise::AtLeastOnce, "sum", |seen| seen[3] = account(20, 2, "u", 2, 50_001, 1));
        violates(Promise::AtLeastOnce, "version", |seen| seen[3] = account(20, 2, "u", 2, 50_000, 2));
        violates(Promise::AtLeastOnce, "accounts", |seen| seen[3] = account(20, 2, "u", 2, 50_000, 2));
        violates(Promise::AtLeastOnce, "partition", |seen| {
            let mut other = account(30, 1, "u", 1, 50_000, 2);
            other.partition = 0;
            seen.push(other);
        });
        violates(Promise::ExactlyOnce, "order", |seen| seen.swap(0, 1));
        // A run that begins inside a transaction: 1 and 2 of it are in this partition, and 2 comes alone.
        violates(Promise::AtLeastOnce, "inside", |seen| {
            seen.extend((1..=2).map(|order| record("journal", 3, 40, order, "c", 7, json!({"seq": 7}))));
            seen.push(record("journal", 3, 50, 1, "c", 8, json!({"seq": 8})));
            seen.push(record("journal", 3, 40, 2, "c", 7, json!({"seq": 7})));
        });
        violates(Promise::AtLeastOnce, "no place", |seen| seen[0].value = Some(json!({"op": "c"})));
    }
}
