//! A record as the consumer printed it, reduced to what the checks require.

use std::borrow::Cow;

use serde::Deserialize;

/// The tables of `schema.sql` that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Account,
    Journal,
    Bulk,
    Marker,
    /// Sometimes emptied with TRUNCATE.
    Page,
    /// Some of its rows are larger than Kafka accepts.
    Document,
    /// Logical messages: no table, but a topic like those of the tables.
    Message,
    /// Its topic is sometimes deleted.
    Fleeting,
    /// Several tables, whose first rows only snapshots send.
    Stock,
}

/// Stands for the key of a TRUNCATE's record, which has none.
pub const NO_KEY: i64 = -1;

/// A line of the consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Record(Record),
    DeadLetter(DeadLetter),
}

/// A dead letter, which replaces a record that Kafka rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub commit: u64,
    pub document: i64,
}

/// What a consumer has read, in reading order.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub records: Vec<Record>,
    pub dead_letters: Vec<DeadLetter>,
    /// Records of the topic that is sometimes deleted.
    pub fleeting: Vec<Record>,
    /// Records of the tables whose first rows only snapshots send.
    pub stock: Vec<Record>,
}

impl Reading {
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Record(record) if record.table == Table::Fleeting => self.fleeting.push(record),
            Line::Record(record) if record.table == Table::Stock => self.stock.push(record),
            Line::Record(record) => self.records.push(record),
            Line::DeadLetter(letter) => self.dead_letters.push(letter),
        }
    }
}

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub table: Table,
    pub partition: u32,
    pub offset: u64,
    pub key: i64,
    /// `None` for a tombstone.
    pub change: Option<Change>,
}

/// The content of a record with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub place: Place,
    pub xid: u64,
    pub op: Op,
    pub row: Row,
}

/// The position of a record in the history, by which a consumer drops repeats. A non-transactional message has its own LSN and
/// the order 0.
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
    Truncate,
    Message,
    /// A row of a snapshot.
    Read,
}

/// The row after the change; `None` for a delete and a TRUNCATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    None,
    Account {
        account: i64,
        version: i64,
        balance: i64,
    },
    Journal {
        kind: Kind,
        account_id: i64,
        version: i64,
    },
    Bulk {
        batch: i64,
    },
    Marker {
        records: u32,
    },
    Stock {
        version: i64,
    },
    /// A page, a document, a message or a fleeting row: only its key matters.
    Key,
}

/// An account's change in a row of the journal.
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
struct Key<'a> {
    account_id: Option<i64>,
    journal_seq: Option<i64>,
    bulk_id: Option<i64>,
    marker_id: Option<i64>,
    page_id: Option<i64>,
    document_id: Option<i64>,
    fleeting_id: Option<i64>,
    stock_id: Option<i64>,
    #[serde(borrow)]
    prefix: Option<&'a str>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    op: &'a str,
    #[serde(borrow)]
    after: Option<After<'a>>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow)]
    transaction: Option<Transaction<'a>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    lsn: u64,
    #[serde(borrow)]
    table: Option<&'a str>,
}

#[derive(Deserialize)]
struct Letter<'a> {
    #[serde(borrow)]
    lsn: &'a str,
    #[serde(borrow)]
    table: Option<&'a str>,
    #[serde(borrow)]
    #[allow(dead_code, reason = "its presence tells a dead letter from a change")]
    reason: &'a str,
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
    page_id: Option<i64>,
    document_id: Option<i64>,
    fleeting_id: Option<i64>,
    stock_id: Option<i64>,
}

/// Parses a line of the console consumer: `Partition:P Offset:O HEADERS KEY VALUE`, separated by tabs.
pub fn parse(line: &str) -> Result<Line, String> {
    let mut fields = line.splitn(5, '\t');
    let mut field = |what: &str| fields.next().ok_or_else(|| format!("no {what}: {}", start(line)));
    let partition = field("partition")?.strip_prefix("Partition:").and_then(|text| text.parse().ok());
    let offset = field("offset")?.strip_prefix("Offset:").and_then(|text| text.parse().ok());
    let _headers = field("headers")?;
    let (key, value) = (field("key")?, field("value")?);
    let bad = |what: &str| format!("{what}: {}", start(line));
    let (partition, offset) = partition.zip(offset).ok_or_else(|| bad("not a place in a topic"))?;
    if let Ok(letter) = serde_json::from_str::<Letter<'_>>(value) {
        let letter = dead_letter(key, &letter).ok_or_else(|| bad("not a dead letter of ours"))?;
        return Ok(Line::DeadLetter(letter));
    }
    if value == "null" {
        let (table, key) = parse_key(key).ok_or_else(|| bad("not a key of ours"))?;
        return Ok(Line::Record(Record { table, partition, offset, key, change: None }));
    }
    let envelope: Envelope<'_> = serde_json::from_str(value).map_err(|error| format!("{error}: {}", start(line)))?;
    let (table, key) = match (key, envelope.op, envelope.source.table) {
        ("null", "t", Some("page")) => (Table::Page, NO_KEY),
        _ => parse_key(key).ok_or_else(|| bad("not a key of ours"))?,
    };
    let change = change(table, key, &envelope).ok_or_else(|| bad("not a change of ours"))?;
    Ok(Line::Record(Record { table, partition, offset, key, change: Some(change) }))
}

/// The start of a line, for error messages.
fn start(line: &str) -> String {
    line.chars().take(600).collect()
}

fn dead_letter(key: &str, letter: &Letter<'_>) -> Option<DeadLetter> {
    let (table, document) = parse_key(key)?;
    let is_ours = table == Table::Document && letter.table == Some("document");
    is_ours.then_some(DeadLetter { commit: parse_lsn(letter.lsn)?, document })
}

pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text| u64::from_str_radix(text, 16).ok();
    Some(part(high)? << 32 | part(low)?)
}

fn parse_key(text: &str) -> Option<(Table, i64)> {
    let key: Key<'_> = serde_json::from_str(text).ok()?;
    // The prefix of a message is t. or n. (transactional or not) and its number.
    let message = key.prefix.and_then(|prefix| prefix.get(2..)?.parse().ok());
    let all = [
        (Table::Account, key.account_id),
        (Table::Journal, key.journal_seq),
        (Table::Bulk, key.bulk_id),
        (Table::Marker, key.marker_id),
        (Table::Page, key.page_id),
        (Table::Document, key.document_id),
        (Table::Fleeting, key.fleeting_id),
        (Table::Stock, key.stock_id),
        (Table::Message, message),
    ];
    let mut there = all.into_iter().filter_map(|(table, key)| Some((table, key?)));
    let first = there.next()?;
    there.next().is_none().then_some(first)
}

/// Parses the envelope. Its row must have the record's key.
fn change(table: Table, key: i64, envelope: &Envelope<'_>) -> Option<Change> {
    let (xid, place) = match &envelope.transaction {
        Some(transaction) => {
            let (xid, commit) = transaction.id.split_once(':')?;
            (xid.parse().ok()?, Place { commit: commit.parse().ok()?, order: transaction.total_order })
        }
        None if table == Table::Message || envelope.op == "r" => (0, Place { commit: envelope.source.lsn, order: 0 }),
        None => return None,
    };
    let op = match envelope.op {
        "c" => Op::Create,
        "u" => Op::Update,
        "d" => Op::Delete,
        "t" => Op::Truncate,
        "m" => Op::Message,
        "r" if table == Table::Stock => Op::Read,
        _ => return None,
    };
    let row = match (&envelope.after, op) {
        (None, Op::Delete) => Row::None,
        (None, Op::Truncate) if key == NO_KEY => Row::None,
        (None, Op::Message) if table == Table::Message => Row::Key,
        (Some(after), Op::Create | Op::Update | Op::Read) => row(table, key, after)?,
        _ => return None,
    };
    Some(Change { place, xid, op, row })
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
        Table::Page => (after.page_id, Row::Key),
        Table::Document => (after.document_id, Row::Key),
        Table::Fleeting => (after.fleeting_id, Row::Key),
        Table::Stock => (after.stock_id, Row::Stock { version: after.version? }),
        Table::Message => return None,
    };
    (own_key == Some(key)).then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = r#"{"before":null,"after":{"account_id":2000000,"account":2,"version":7,"balance":93},"source":{"lsn":5,"table":"account"},"transaction":{"id":"735:4294967312","total_order":3,"data_collection_order":1},"op":"u","ts_ms":1}"#;

    fn record(line: &str) -> Record {
        match parse(line) {
            Ok(Line::Record(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_of_the_console_consumer_becomes_a_record() {
        let line = format!("Partition:1\tOffset:42\tNO_HEADERS\t{{\"account_id\":2000000}}\t{VALUE}");
        let found = record(&line);
        assert_eq!((found.table, found.partition, found.offset, found.key), (Table::Account, 1, 42, 2_000_000));
        let change = found.change.expect("a change");
        assert_eq!(change.place, Place { commit: (1 << 32) + 16, order: 3 });
        assert_eq!(change.place.to_string(), "1/10#3");
        assert_eq!((change.xid, change.op), (735, Op::Update));
        assert_eq!(change.row, Row::Account { account: 2, version: 7, balance: 93 });
        let tombstone = record("Partition:0\tOffset:1\tNO_HEADERS\t{\"bulk_id\":5}\tnull");
        assert_eq!((tombstone.table, tombstone.change), (Table::Bulk, None));
    }

    #[test]
    fn a_message_and_a_truncate_are_records_too() {
        let message = r#"{"op":"m","ts_ms":1,"source":{"lsn":77,"schema":"","table":""},"transaction":null,"message":{"prefix":"n.8","content":"eA=="}}"#;
        let found = record(&format!("Partition:1\tOffset:2\tNO_HEADERS\t{{\"prefix\":\"n.8\"}}\t{message}"));
        assert_eq!((found.table, found.key), (Table::Message, 8));
        let place = found.change.expect("a change").place;
        assert_eq!(place, Place { commit: 77, order: 0 });
        let truncate = r#"{"before":null,"after":null,"source":{"lsn":5,"table":"page"},"transaction":{"id":"735:100","total_order":1,"data_collection_order":1},"op":"t","ts_ms":1}"#;
        let found = record(&format!("Partition:1\tOffset:2\tNO_HEADERS\tnull\t{truncate}"));
        assert_eq!((found.table, found.key, found.change.expect("a change").op), (Table::Page, NO_KEY, Op::Truncate));
    }

    #[test]
    fn a_row_of_a_snapshot_is_a_record_outside_of_transactions() {
        let row = r#"{"before":null,"after":{"stock_id":2000000001,"version":3,"note":"x"},"source":{"lsn":77,"table":"stock_2"},"transaction":null,"op":"r","ts_ms":1}"#;
        let found = record(&format!("Partition:1\tOffset:2\tNO_HEADERS\t{{\"stock_id\":2000000001}}\t{row}"));
        assert_eq!((found.table, found.key), (Table::Stock, 2_000_000_001));
        let change = found.change.expect("a change");
        assert_eq!((change.op, change.row), (Op::Read, Row::Stock { version: 3 }));
    }

    #[test]
    fn a_dead_letter_is_none_of_the_records() {
        let letter = r#"{"lsn":"1/10","topic":"torture.public.document","schema":"public","table":"document","key":{"document_id":4},"key_bytes":8,"value_bytes":2097152,"code":10,"reason":"MessageSizeTooLarge (...)"}"#;
        let line = format!("Partition:1\tOffset:2\tNO_HEADERS\t{{\"document_id\":4}}\t{letter}");
        assert_eq!(parse(&line), Ok(Line::DeadLetter(DeadLetter { commit: (1 << 32) + 16, document: 4 })));
    }

    #[test]
    fn a_line_that_is_none_of_ours_is_an_error() {
        let other_key = format!("Partition:1\tOffset:42\tNO_HEADERS\t{{\"account_id\":3000000}}\t{VALUE}");
        for line in ["", "Partition:x\tOffset:1\tNO_HEADERS\t{\"bulk_id\":5}\tnull", "a\tb\tc\td\te", &other_key] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
