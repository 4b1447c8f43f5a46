//! From message to record bytes, walcat allocates nothing per row once the buffers have grown (invariant 5).

#![allow(unsafe_code, reason = "counts what the allocator is asked for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell as StdCell;

use walcat::testing::catalog_facts::{CatalogAnswer, TableFacts};
use walcat::testing::change::{Change, OldRow, Operation, Position, RelationIndex, Row, Transaction};
use walcat::testing::clock::PgTimestamp;
use walcat::testing::lsn::Lsn;
use walcat::testing::record::{Encoder, Settings, UNAVAILABLE_VALUE};
use walcat::testing::relations::{Relation, Relations};
use walcat::testing::wire::pgoutput::{Context, Message, OldTuple, decode};

/// The system's allocator, which counts the allocations of this thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: StdCell<u64> = const { StdCell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a const-initialised thread-local without
// a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract; the block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `realloc`'s contract; the block came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OID: u32 = 16_400;

/// Name, type OID, value: a column of every form, including texts that must be escaped.
const COLUMNS: [(&str, u32, &str); 10] = [
    ("id", 20, "42"),
    ("note", 25, "a \"quoted\"\nline"),
    ("amount", 1700, "12345.6789"),
    ("paid", 16, "t"),
    ("created", 1184, "2024-03-01 10:34:56.789+00"),
    ("local", 1114, "2024-03-01 10:34:56.789"),
    ("daily", 1266, "10:34:56+00"),
    ("digest", 17, "\\x000102ff"),
    ("counts", 1007, "{1,NULL,3}"),
    ("tags", 1009, r#"{plain,"q\"\\ x",NULL}"#),
];

#[test]
fn nothing_is_allocated_per_row_once_the_buffers_have_grown() {
    let messages = [insert(), update(), update_full(), delete(), key_change()];
    let mut pipeline = Pipeline::new();
    for message in &messages {
        pipeline.carry(message);
    }
    let before = ALLOCATIONS.get();
    let mut records = 0;
    for _ in 0..1_000 {
        for message in &messages {
            records += pipeline.carry(message);
        }
    }
    assert!(before > 0, "the allocator has to count");
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(records, 1_000 * (1 + 1 + 1 + 2 + 3), "each message has to become its records");
}

/// The steps from libpq's buffer to the producer.
struct Pipeline {
    relations: Relations,
    encoder: Encoder,
}

impl Pipeline {
    fn new() -> Self {
        let mut encoder = Encoder::new(&Settings {
            database: "gold".to_owned(),
            source_name: "srv".to_owned(),
            topic_prefix: Some("srv".to_owned()),
            unavailable_value: UNAVAILABLE_VALUE.to_owned(),
            accept_keyless: false,
        })
        .unwrap();
        let mut relations = Relations::default();
        let message = relation();
        let Message::Relation(message) = decode(&message, Context::default()).unwrap() else {
            panic!("expected a Relation message");
        };
        let index = relations.learn(Relation::from(&message), answer());
        encoder.prepare(index, relations.relation(index), relations.answer(index)).unwrap();
        Pipeline { relations, encoder }
    }

    /// Encodes a message and returns the number of its records.
    fn carry(&mut self, message: &[u8]) -> usize {
        let (oid, operation) = match decode(message, Context::default()).unwrap() {
            Message::Insert(insert) => (insert.relation, Operation::Insert { new: Row::Wire(insert.new) }),
            Message::Update(update) => {
                (update.relation, Operation::Update { old: update.old.map(old_row), new: Row::Wire(update.new) })
            }
            Message::Delete(delete) => (delete.relation, Operation::Delete { old: old_row(delete.old) }),
            other => panic!("expected a row, found {other:?}"),
        };
        let index = self.relations.index_of(oid).unwrap();
        let change = Change { relation: Some(index), operation, position: self.position(index) };
        let records = self.encoder.encode(&change).unwrap();
        let (count, values) = (records.iter().filter(|record| record.key.is_some()).count(), records.values());
        self.relations.consume_order(index, 1, values);
        count
    }

    fn position(&self, index: RelationIndex) -> Position {
        let commit_time = PgTimestamp(800_000_000_000_000);
        let data_collection_order = self.relations.next_order(index, 1);
        Position {
            lsn: Lsn(0x16_B374_D848),
            transaction: Some(Transaction { xid: 751, commit_lsn: Lsn(0x16_B374_FFFF), commit_time }),
            commit_time,
            total_order: data_collection_order,
            data_collection_order,
            processed_unix_ns: 1_795_170_692_737_898_935,
        }
    }
}

fn old_row(tuple: OldTuple<'_>) -> OldRow<'_> {
    match tuple {
        OldTuple::Key(tuple) => OldRow::Key(Row::Wire(tuple)),
        OldTuple::Full(tuple) => OldRow::Full(Row::Wire(tuple)),
    }
}

fn answer() -> CatalogAnswer {
    let table = TableFacts {
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: 'd',
        identity_columns: vec!["id".to_owned()],
        primary_key: vec!["id".to_owned()],
        columns: Vec::new(),
        unpublished: Vec::new(),
        is_partition: false,
    };
    CatalogAnswer { relation: OID, table: Some(table), types: Vec::new() }
}

fn relation() -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend(OID.to_be_bytes());
    message.extend(b"public\0t\0d");
    message.extend(u16::try_from(COLUMNS.len()).unwrap().to_be_bytes());
    for (name, type_oid, _) in COLUMNS {
        message.push(u8::from(name == "id"));
        message.extend(name.as_bytes());
        message.push(0);
        message.extend(type_oid.to_be_bytes());
        message.extend((-1_i32).to_be_bytes());
    }
    message
}

/// A message with one or two tuples, each with its kind and its cells.
fn message(tag: u8, tuples: &[(u8, Vec<Option<&str>>)]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend(OID.to_be_bytes());
    for (kind, cells) in tuples {
        message.push(*kind);
        message.extend(u16::try_from(cells.len()).unwrap().to_be_bytes());
        for cell in cells {
            match cell {
                None => message.push(b'n'),
                Some("~") => message.push(b'u'),
                Some(text) => {
                    message.push(b't');
                    message.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
                    message.extend(text.as_bytes());
                }
            }
        }
    }
    message
}

fn row() -> Vec<Option<&'static str>> {
    COLUMNS.iter().map(|(_, _, value)| Some(*value)).collect()
}

fn key(id: &str) -> Vec<Option<&str>> {
    let mut cells = vec![None; COLUMNS.len()];
    cells[0] = Some(id);
    cells
}

fn insert() -> Vec<u8> {
    message(b'I', &[(b'N', row())])
}

fn update() -> Vec<u8> {
    let mut new = row();
    new[1] = Some("~");
    message(b'U', &[(b'N', new)])
}

fn update_full() -> Vec<u8> {
    let mut new = row();
    new[9] = Some("~");
    message(b'U', &[(b'O', row()), (b'N', new)])
}

fn delete() -> Vec<u8> {
    message(b'D', &[(b'K', key("42"))])
}

fn key_change() -> Vec<u8> {
    message(b'U', &[(b'K', key("41")), (b'N', row())])
}
