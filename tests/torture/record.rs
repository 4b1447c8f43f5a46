//! A record as the consumer printed it, and the little of it that the checks need.

use std::borrow::Cow;

use serde::Deserialize;

/// The tables of `schema.sql` that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Account,
    Journal,
    Bulk,
    Marker,
}

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub table: Table,
    pub partition: u32,
    pub offset: u64,
    pub key: i64,
    /// None for a tombstone.
    pub change: Option<Change>,
}

/// What a record with a value says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub place: Place,
    pub xid: u64,
    pub op: Op,
    pub row: Row,
}

/// Where a record stands in the history: what a consumer drops repeats by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub commit: u64,
    pub order: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}#{}", self.commit >> 32, self.commit & 0xFFFF_FFFF, self.order)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Update,
    Delete,
}

/// The row after the change; `None` of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    None,
    Account { account: i64, version: i64, balance: i64 },
    Journal { kind: Kind, account_id: i64, version: i64 },
    Bulk { batch: i64 },
    Marker { records: u32 },
}

/// What a row of the journal says about an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Open,
    Update,
    Close,
}

impl Kind {
    pub fn parse(text: &str) -> Option<Kind> {
        match text {
            "open" => Some(Kind::Open),
            "update" => Some(Kind::Update),
            "close" => Some(Kind::Close),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Key {
    account_id: Option<i64>,
    journal_seq: Option<i64>,
    bulk_id: Option<i64>,
    marker_id: Option<i64>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    op: &'a str,
    #[serde(borrow)]
    after: Option<After<'a>>,
    #[serde(borrow)]
    transaction: Transaction<'a>,
}

#[derive(Deserialize)]
struct Transaction<'a> {
    id: &'a str,
    total_order: u32,
}

#[derive(Deserialize)]
struct After<'a> {
    account_id: Option<i64>,
    account: Option<i64>,
    version: Option<i64>,
    balance: Option<i64>,
    journal_seq: Option<i64>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    bulk_id: Option<i64>,
    batch: Option<i64>,
    marker_id: Option<i64>,
    records: Option<u32>,
}

/// Parses a line of the console consumer: `Partition:P Offset:O HEADERS KEY VALUE`, a tab between.
pub fn parse(line: &str) -> Result<Record, String> {
    let mut fields = line.splitn(5, '\t');
    let mut field = |what: &str| fields.next().ok_or_else(|| format!("no {what}: {line}"));
    let partition = field("partition")?.strip_prefix("Partition:").and_then(|text| text.parse().ok());
    let offset = field("offset")?.strip_prefix("Offset:").and_then(|text| text.parse().ok());
    let _headers = field("headers")?;
    let (key, value) = (field("key")?, field("value")?);
    let bad = |what: &str| format!("{what}: {line}");
    let (table, key) = parse_key(key).ok_or_else(|| bad("not a key of ours"))?;
    let change = if value == "null" {
        None
    } else {
        let envelope = serde_json::from_str(value).map_err(|error| format!("{error}: {line}"))?;
        Some(change(table, key, &envelope).ok_or_else(|| bad("not a change of ours"))?)
    };
    let (partition, offset) = partition.zip(offset).ok_or_else(|| bad("not a place in a topic"))?;
    Ok(Record { table, partition, offset, key, change })
}

fn parse_key(text: &str) -> Option<(Table, i64)> {
    let key: Key = serde_json::from_str(text).ok()?;
    match (key.account_id, key.journal_seq, key.bulk_id, key.marker_id) {
        (Some(key), None, None, None) => Some((Table::Account, key)),
        (None, Some(key), None, None) => Some((Table::Journal, key)),
        (None, None, Some(key), None) => Some((Table::Bulk, key)),
        (None, None, None, Some(key)) => Some((Table::Marker, key)),
        _ => None,
    }
}

/// The envelope's part; its row must have the record's key.
fn change(table: Table, key: i64, envelope: &Envelope<'_>) -> Option<Change> {
    let (xid, commit) = envelope.transaction.id.split_once(':')?;
    let place = Place { commit: commit.parse().ok()?, order: envelope.transaction.total_order };
    let op = match envelope.op {
        "c" => Op::Create,
        "u" => Op::Update,
        "d" => Op::Delete,
        _ => return None,
    };
    let row = match (&envelope.after, op) {
        (None, Op::Delete) => Row::None,
        (Some(after), Op::Create | Op::Update) => row(table, key, after)?,
        _ => return None,
    };
    Some(Change { place, xid: xid.parse().ok()?, op, row })
}

fn row(table: Table, key: i64, after: &After<'_>) -> Option<Row> {
    let (own_key, row) = match table {
        Table::Account => {
            let (account, version, balance) = (after.account?, after.version?, after.balance?);
            (after.account_id, Row::Account { account, version, balance })
        }
        Table::Journal => {
            let (kind, account_id) = (Kind::parse(after.kind.as_deref()?)?, after.account_id?);
            (after.journal_seq, Row::Journal { kind, account_id, version: after.version? })
        }
        Table::Bulk => (after.bulk_id, Row::Bulk { batch: after.batch? }),
        Table::Marker => (after.marker_id, Row::Marker { records: after.records? }),
    };
    (own_key == Some(key)).then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = r#"{"before":null,"after":{"account_id":2000000,"account":2,"version":7,"balance":93},"source":{"lsn":5},"transaction":{"id":"735:4294967312","total_order":3,"data_collection_order":1},"op":"u","ts_ms":1}"#;

    #[test]
    fn a_line_of_the_console_consumer_becomes_a_record() {
        let line = format!("Partition:1\tOffset:42\tNO_HEADERS\t{{\"account_id\":2000000}}\t{VALUE}");
        let record = parse(&line).expect("a record");
        assert_eq!((record.table, record.partition, record.offset, record.key), (Table::Account, 1, 42, 2_000_000));
        let change = record.change.expect("a change");
        assert_eq!(change.place, Place { commit: (1 << 32) + 16, order: 3 });
        assert_eq!(change.place.to_string(), "1/10#3");
        assert_eq!((change.xid, change.op), (735, Op::Update));
        assert_eq!(change.row, Row::Account { account: 2, version: 7, balance: 93 });
        let tombstone = parse("Partition:0\tOffset:1\tNO_HEADERS\t{\"bulk_id\":5}\tnull").expect("a record");
        assert_eq!((tombstone.table, tombstone.change), (Table::Bulk, None));
    }

    #[test]
    fn a_line_that_is_none_of_ours_is_an_error() {
        let other_key = format!("Partition:1\tOffset:42\tNO_HEADERS\t{{\"account_id\":3000000}}\t{VALUE}");
        for line in ["", "Partition:x\tOffset:1\tNO_HEADERS\t{\"bulk_id\":5}\tnull", "a\tb\tc\td\te", &other_key] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
