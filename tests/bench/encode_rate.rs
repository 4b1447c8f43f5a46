//! Measures the cost of encoding a row: `cargo run --release --example encode-rate`.
//!
//! Encodes one row with 8 columns and about 300 bytes of text repeatedly. Prints the nanoseconds per change of the best round.

use std::hint::black_box;
use std::time::Instant;

use walcat::testing::catalog_facts::{CatalogAnswer, TableFacts};
use walcat::testing::change::{Change, OldRow, Operation, Position, RelationIndex, Row, Transaction};
use walcat::testing::clock::PgTimestamp;
use walcat::testing::lsn::Lsn;
use walcat::testing::record::{Encoder, Settings, UNAVAILABLE_VALUE};
use walcat::testing::relations::{Column, Relation};
use walcat::testing::wire::pgoutput::{Cell, ReplicaIdentity};

const ROUNDS: u32 = 10;
const CHANGES_PER_ROUND: u32 = 200_000;

/// Name, type OID, value.
const COLUMNS: [(&str, u32, &str); 8] = [
    ("id", 20, "1234567890"),
    ("customer", 2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("amount", 1700, "12345.67"),
    ("paid", 16, "t"),
    ("created_at", 1184, "2024-03-01 10:34:56.789012+00"),
    ("tags", 1009, "{urgent,\"two words\",NULL}"),
    ("document", 3802, "{\"a\": 1, \"b\": [true, null], \"c\": \"some text that is a bit longer\"}"),
    (
        "note",
        25,
        "a line of text as people write them, with an é in it, and\na second line that makes the row 300 B long",
    ),
];

fn main() {
    let mut encoder = Encoder::new(&Settings {
        database: "shop".to_owned(),
        source_name: "srv".to_owned(),
        topic_prefix: Some("srv".to_owned()),
        unavailable_value: UNAVAILABLE_VALUE.to_owned(),
        accept_keyless: false,
    })
    .expect("the prefix is fine");
    let (relation, answer) = orders();
    encoder.prepare(RelationIndex(0), &relation, &answer).expect("the topic is fine");

    let new: Vec<Cell<'_>> = COLUMNS.iter().map(|(_, _, value)| Cell::Text(value.as_bytes())).collect();
    let mut old_key = vec![Cell::Null; COLUMNS.len()];
    old_key[0] = Cell::Text(b"1234567889");
    let row = Row::Cells(&new);
    let operations = [
        ("insert", Operation::Insert { new: row }),
        ("update", Operation::Update { old: None, new: row }),
        ("update, FULL", Operation::Update { old: Some(OldRow::Full(row)), new: row }),
        ("delete", Operation::Delete { old: OldRow::Key(Row::Cells(&old_key)) }),
        ("key change", Operation::Update { old: Some(OldRow::Key(Row::Cells(&old_key))), new: row }),
    ];
    println!("{} bytes of text in a row", COLUMNS.iter().map(|(_, _, value)| value.len()).sum::<usize>());
    for (name, operation) in operations {
        let best = (0..ROUNDS).map(|_| round(&mut encoder, operation)).min().unwrap_or_default();
        println!("{name}: {best} ns");
    }
}

fn orders() -> (Relation, CatalogAnswer) {
    let column = |(name, type_oid, _): (&str, u32, &str)| Column {
        name: name.to_owned(),
        type_oid,
        type_modifier: -1,
        part_of_key: name == "id",
    };
    let relation = Relation {
        oid: 16_400,
        namespace: "public".to_owned(),
        name: "orders".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: COLUMNS.map(column).to_vec(),
    };
    let table = TableFacts {
        namespace: "public".to_owned(),
        name: "orders".to_owned(),
        replica_identity: 'd',
        identity_columns: vec!["id".to_owned()],
        primary_key: vec!["id".to_owned()],
        columns: Vec::new(),
        unpublished: Vec::new(),
        is_partition: false,
    };
    (relation, CatalogAnswer { relation: 16_400, table: Some(table), types: Vec::new() })
}

/// The nanoseconds per change of one round.
fn round(encoder: &mut Encoder, operation: Operation<'_>) -> u128 {
    let started = Instant::now();
    for number in 0..CHANGES_PER_ROUND {
        let commit_time = PgTimestamp(800_000_000_000_000);
        let change = Change {
            relation: Some(RelationIndex(0)),
            operation,
            position: Position {
                lsn: Lsn(0x16_B374_D848 + u64::from(number)),
                transaction: Some(Transaction { xid: 751, commit_lsn: Lsn(0x16_B474_D848), commit_time }),
                commit_time,
                total_order: u64::from(number),
                data_collection_order: u64::from(number),
                processed_unix_ns: 1_795_170_692_737_898_935,
            },
        };
        let records = encoder.encode(black_box(&change)).expect("the row is fine");
        black_box(records.iter().map(|record| record.size()).sum::<usize>());
    }
    started.elapsed().as_nanos() / u128::from(CHANGES_PER_ROUND)
}
