//! Tests of whole records against literal records of Debezium, with the values, `sequence` and `transaction` of
//! `lossless`.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::catalog_facts::{TableFacts, TypeFacts};
use crate::change::{Marker, OldRow, Row, Transaction};
use crate::clock::PgTimestamp;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::relations::Column;
use crate::wire::copy_text::Splitter;
use crate::wire::pgoutput::{Cell, ReplicaIdentity};

const TABLE: RelationIndex = RelationIndex(0);
const COMMIT_TIME_US: i64 = 1_795_170_692_241_394;
const PROCESSED_NS: i64 = 1_795_170_692_737_898_935;

fn settings() -> Settings {
    Settings {
        database: "gold".to_owned(),
        source_name: "srv".to_owned(),
        topic_prefix: Some("srv".to_owned()),
        unavailable_value: UNAVAILABLE_VALUE.to_owned(),
        accept_keyless: false,
    }
}

/// A table public.t with columns (name, type OID). `key` names the primary key in index order and, under DEFAULT, flags
/// its columns.
fn table(identity: ReplicaIdentity, columns: &[(&str, u32)], key: &[&str]) -> (Relation, CatalogAnswer) {
    let full = identity == ReplicaIdentity::Full;
    let column = |(name, type_oid): &(&str, u32)| Column {
        name: (*name).to_owned(),
        type_oid: *type_oid,
        type_modifier: -1,
        part_of_key: full || key.contains(name),
    };
    let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
    let facts = TableFacts {
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: if full { 'f' } else { 'd' },
        identity_columns: if full { Vec::new() } else { key.clone() },
        primary_key: key.clone(),
        columns: Vec::new(),
        unpublished: Vec::new(),
        is_partition: false,
    };
    let relation = Relation {
        oid: 16_400,
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: identity,
        columns: columns.iter().map(column).collect(),
    };
    (relation, CatalogAnswer { relation: 16_400, table: Some(facts), types: Vec::new() })
}

fn encoder(identity: ReplicaIdentity, columns: &[(&str, u32)], key: &[&str]) -> Encoder {
    let (relation, answer) = table(identity, columns, key);
    let mut encoder = Encoder::new(&settings()).unwrap();
    encoder.prepare(TABLE, &relation, &answer).unwrap();
    encoder
}

fn position() -> Position {
    let commit_time = PgTimestamp::from_unix_us(COMMIT_TIME_US);
    Position {
        lsn: Lsn(27_468_744),
        transaction: Some(Transaction { xid: 751, commit_lsn: Lsn(27_469_000), commit_time }),
        commit_time,
        total_order: 3,
        data_collection_order: 2,
        processed_unix_ns: PROCESSED_NS,
    }
}

fn change(operation: Operation<'_>) -> Change<'_> {
    Change { relation: Some(TABLE), operation, position: position() }
}

/// The records as lines of `key | header | value`.
fn encoded(encoder: &mut Encoder, operation: Operation<'_>) -> Vec<String> {
    let records = encoder.encode(&change(operation)).unwrap();
    let text = |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let line = |record: Record<'_>| {
        let header = record.header.map_or("-".to_owned(), |(name, value)| format!("{name}={}", text(Some(value))));
        format!("{} | {header} | {}", text(record.key), text(record.value))
    };
    records.iter().map(line).collect()
}

/// A cell: `~` is an unchanged TOASTed value, `None` is null.
fn cell(text: Option<&str>) -> Cell<'_> {
    match text {
        None => Cell::Null,
        Some("~") => Cell::UnchangedToast,
        Some(text) => Cell::Text(text.as_bytes()),
    }
}

fn cells<'a>(texts: &[Option<&'a str>]) -> Vec<Cell<'a>> {
    texts.iter().copied().map(cell).collect()
}

/// `source` and the fields after it, with the given total order and order in the relation.
fn rest(op: char, total_order: u64, data_collection_order: u64) -> String {
    format!(
        r#","source":{{"version":"{}","connector":"postgresql","name":"srv","ts_ms":1795170692241,"snapshot":"false","db":"gold","sequence":"[\"27469000\",\"27468744\"]","ts_us":1795170692241394,"ts_ns":1795170692241394000,"schema":"public","table":"t","txId":751,"lsn":27468744,"xmin":null,"origin":null,"origin_lsn":null}},"transaction":{{"id":"751:27469000","total_order":{total_order},"data_collection_order":{data_collection_order}}},"op":"{op}","ts_ms":1795170692737,"ts_us":1795170692737898,"ts_ns":1795170692737898935}}"#,
        env!("CARGO_PKG_VERSION")
    )
}

#[rustfmt::skip]
const GOLD: [(&str, u32); 13] = [
    ("id", 23), ("txt", 25), ("num", 1700), ("tstz", 1184), ("ts", 1114), ("d", 1082), ("ti", 1083), ("jb", 3802),
    ("u", 2950), ("ba", 17), ("ia", 1007), ("b", 16), ("f8", 701),
];

#[test]
fn an_insert_is_debeziums_record_with_lossless_values() {
    let mut encoder = encoder(ReplicaIdentity::Default, &GOLD, &["id"]);
    let new = cells(&[
        Some("10"),
        Some("hello"),
        Some("123.45"),
        Some("2024-03-01 10:34:56+00"),
        Some("2024-03-01 12:34:56.789012"),
        Some("2024-03-01"),
        Some("12:34:56.789012"),
        Some(r#"{"a": 1, "b": [true, null]}"#),
        Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        Some("\\x00010203ff"),
        Some("{1,NULL,3}"),
        Some("t"),
        Some("3.14"),
    ]);
    let after = r#"{"id":10,"txt":"hello","num":"123.45","tstz":"2024-03-01T10:34:56Z","ts":"2024-03-01T12:34:56.789012","d":"2024-03-01","ti":"12:34:56.789012","jb":"{\"a\": 1, \"b\": [true, null]}","u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","ba":"AAECA/8=","ia":[1,null,3],"b":true,"f8":3.14}"#;
    assert_eq!(
        encoded(&mut encoder, Operation::Insert { new: Row::Cells(&new) }),
        [format!(r#"{{"id":10}} | - | {{"before":null,"after":{after}{}"#, rest('c', 3, 2))]
    );
}

#[test]
fn a_delete_under_default_has_the_key_and_nulls_and_a_tombstone_after_it() {
    let mut encoder = encoder(ReplicaIdentity::Default, &GOLD, &["id"]);
    let mut old = vec![Cell::Null; GOLD.len()];
    old[0] = Cell::Text(b"12");
    let before = r#"{"id":12,"txt":null,"num":null,"tstz":null,"ts":null,"d":null,"ti":null,"jb":null,"u":null,"ba":null,"ia":null,"b":null,"f8":null}"#;
    let operation = Operation::Delete { old: OldRow::Key(Row::Cells(&old)) };
    assert_eq!(
        encoded(&mut encoder, operation),
        [
            format!(r#"{{"id":12}} | - | {{"before":{before},"after":null{}"#, rest('d', 3, 2)),
            r#"{"id":12} | - | -"#.to_owned()
        ]
    );
    assert_eq!(encoder.encode(&change(operation)).unwrap().values(), 1);
}

const PAIR: [(&str, u32); 3] = [("id", 23), ("txt", 25), ("big", 25)];

#[test]
fn an_update_has_the_old_row_under_full_only() {
    let new = cells(&[Some("1"), Some("x2"), Some("yy")]);
    let old = cells(&[Some("1"), Some("x"), Some("yy")]);
    let old_key = cells(&[Some("1"), None, None]);
    let (before, after) = (r#"{"id":1,"txt":"x","big":"yy"}"#, r#"{"id":1,"txt":"x2","big":"yy"}"#);
    for (identity, old, before) in [
        (ReplicaIdentity::Default, None, "null"),
        (ReplicaIdentity::Default, Some(OldRow::Key(Row::Cells(&old_key))), "null"),
        (ReplicaIdentity::Full, Some(OldRow::Full(Row::Cells(&old))), before),
    ] {
        let operation = Operation::Update { old, new: Row::Cells(&new) };
        assert_eq!(
            encoded(&mut encoder(identity, &PAIR, &["id"]), operation),
            [format!(r#"{{"id":1}} | - | {{"before":{before},"after":{after}{}"#, rest('u', 3, 2))]
        );
    }
}

#[test]
fn a_key_change_is_delete_tombstone_create_each_naming_the_other_key() {
    let new = cells(&[Some("2"), Some("x2"), Some("yy")]);
    let old = cells(&[Some("1"), Some("x"), Some("yy")]);
    let old_key = cells(&[Some("1"), None, None]);
    for (identity, old, before) in [
        (ReplicaIdentity::Default, OldRow::Key(Row::Cells(&old_key)), r#"{"id":1,"txt":null,"big":null}"#),
        (ReplicaIdentity::Full, OldRow::Full(Row::Cells(&old)), r#"{"id":1,"txt":"x","big":"yy"}"#),
    ] {
        let mut encoder = encoder(identity, &PAIR, &["id"]);
        let operation = Operation::Update { old: Some(old), new: Row::Cells(&new) };
        let new_key = r#"__debezium.newkey={"id":2}"#;
        let after = r#"{"id":2,"txt":"x2","big":"yy"}"#;
        assert_eq!(
            encoded(&mut encoder, operation),
            [
                format!(r#"{{"id":1}} | {new_key} | {{"before":{before},"after":null{}"#, rest('d', 3, 2)),
                format!(r#"{{"id":1}} | {new_key} | -"#),
                format!(
                    r#"{{"id":2}} | __debezium.oldkey={{"id":1}} | {{"before":null,"after":{after}{}"#,
                    rest('c', 4, 3)
                ),
            ]
        );
        let change = change(operation);
        let records = encoder.encode(&change).unwrap();
        assert_eq!((records.len(), records.values()), (3, 2));
        assert_eq!((records.destination, records.topic), (Destination::Relation(TABLE), "srv.public.t"));
    }
}

#[test]
fn a_key_of_several_columns_is_in_index_order_while_the_row_keeps_the_tables() {
    let mut encoder = encoder(ReplicaIdentity::Default, &[("a", 23), ("v", 25), ("b", 25)], &["b", "a"]);
    let row = cells(&[Some("1"), Some("v"), Some("bb")]);
    let records = encoded(&mut encoder, Operation::Insert { new: Row::Cells(&row) });
    assert!(records[0].starts_with(r#"{"b":"bb","a":1} | - | {"before":null,"after":{"a":1,"v":"v","b":"bb"}"#));
}

#[test]
fn a_table_without_key_has_null_keys_and_no_tombstones() {
    let row = cells(&[Some("1"), Some("x"), None]);
    let other = cells(&[Some("2"), Some("x"), None]);
    let mut encoder = encoder(ReplicaIdentity::Full, &PAIR, &[]);
    let row_json = r#"{"id":1,"txt":"x","big":null}"#;
    assert_eq!(
        encoded(&mut encoder, Operation::Delete { old: OldRow::Full(Row::Cells(&row)) }),
        [format!(r#"- | - | {{"before":{row_json},"after":null{}"#, rest('d', 3, 2))]
    );
    let update = Operation::Update { old: Some(OldRow::Full(Row::Cells(&other))), new: Row::Cells(&row) };
    let records = encoded(&mut encoder, update);
    assert_eq!(records.len(), 1);
    assert!(records[0].starts_with(r#"- | - | {"before":{"id":2,"#), "{records:?}");
}

#[test]
fn a_truncate_has_neither_rows_nor_key() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    assert_eq!(
        encoded(&mut encoder, Operation::Truncate),
        [format!(r#"- | - | {{"before":null,"after":null{}"#, rest('t', 3, 2))]
    );
}

#[test]
fn a_message_has_debeziums_own_layout() {
    let mut encoder = Encoder::new(&settings()).unwrap();
    assert_eq!(encoder.message_topic(), "srv.message");
    let source = |lsns: &str, xid: &str, lsn: u64| {
        format!(
            r#""source":{{"version":"{}","connector":"postgresql","name":"srv","ts_ms":1795170692241,"snapshot":"false","db":"gold","sequence":"{lsns}","ts_us":1795170692241394,"ts_ns":1795170692241394000,"schema":"","table":"","txId":{xid},"lsn":{lsn},"xmin":null,"origin":null,"origin_lsn":null}}"#,
            env!("CARGO_PKG_VERSION")
        )
    };
    let message = r#""message":{"prefix":"p\"x","content":"aGVsbG8gbXNn"}}"#;
    let transaction = r#"{"id":"751:27469000","total_order":3,"data_collection_order":2}"#;
    for (transactional, source, transaction) in [
        (true, source(r#"[\"27469000\",\"27468744\"]"#, "751", 27_468_744), transaction),
        (false, source(r#"[\"27468744\",\"27468744\"]"#, "null", 27_468_744), "null"),
    ] {
        let operation = Operation::Message { transactional, prefix: "p\"x", content: b"hello msg" };
        let mut change = Change { relation: None, operation, position: position() };
        if !transactional {
            change.position.transaction = None;
        }
        let records = encoder.encode(&change).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((records.destination, records.topic), (Destination::Message, "srv.message"));
        assert_eq!(record.key, Some(&br#"{"prefix":"p\"x"}"#[..]));
        assert_eq!(
            std::str::from_utf8(record.value.unwrap()).unwrap(),
            format!(r#"{{"op":"m","ts_ms":1795170692737,{source},"transaction":{transaction},{message}"#)
        );
        assert_eq!(record.size(), record.key.unwrap().len() + record.value.unwrap().len());
    }
}

#[test]
fn an_unchanged_toast_value_is_the_old_one_where_that_was_sent_and_else_a_placeholder() {
    let columns = [("id", 23), ("t", 25), ("b", 17), ("a", 1007), ("n", 1700), ("ts", 1009), ("bs", 1001)];
    let unchanged = cells(&[Some("1"), Some("~"), Some("~"), Some("~"), Some("~"), Some("~"), Some("~")]);
    let old =
        cells(&[Some("1"), Some("old"), Some("\\x00"), Some("{1}"), Some("5"), Some("{a}"), Some(r#"{"\\x00"}"#)]);
    let old_key = cells(&[Some("1"), None, None, None, None, None, None]);
    let placeholder = r#"{"id":1,"t":"__debezium_unavailable_value","b":"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==","a":[95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101],"n":"__debezium_unavailable_value","ts":["__debezium_unavailable_value"],"bs":["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]}"#;
    for (identity, old, after) in [
        (ReplicaIdentity::Default, None, placeholder),
        (ReplicaIdentity::Default, Some(OldRow::Key(Row::Cells(&old_key))), placeholder),
        (
            ReplicaIdentity::Full,
            Some(OldRow::Full(Row::Cells(&old))),
            r#"{"id":1,"t":"old","b":"AA==","a":[1],"n":"5","ts":["a"],"bs":["AA=="]}"#,
        ),
        // Under FULL on a partitioned table whose partition has DEFAULT: the server sends nulls that are not values.
        (ReplicaIdentity::Full, Some(OldRow::Full(Row::Cells(&old_key))), placeholder),
    ] {
        let records =
            encoded(&mut encoder(identity, &columns, &["id"]), Operation::Update { old, new: Row::Cells(&unchanged) });
        assert!(records[0].contains(&format!(r#""after":{after},"source""#)), "{records:?}");
    }
}

#[test]
fn an_unchanged_key_column_comes_from_the_old_key() {
    let mut encoder = encoder(ReplicaIdentity::Default, &[("a", 25), ("b", 23)], &["a", "b"]);
    let new = cells(&[Some("~"), Some("2")]);
    let old = cells(&[Some("long"), Some("1")]);
    let operation = Operation::Update { old: Some(OldRow::Key(Row::Cells(&old))), new: Row::Cells(&new) };
    let records = encoded(&mut encoder, operation);
    assert!(records[2].starts_with(r#"{"a":"long","b":2} | __debezium.oldkey={"a":"long","b":1}"#), "{records:?}");

    let error = encoder.encode(&change(Operation::Update { old: None, new: Row::Cells(&new) })).unwrap_err();
    assert!(error.to_string().starts_with("cannot encode column a of public.t at 0/1A323C8: a key column"), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Data);
}

#[test]
fn a_key_column_may_be_null_only_where_the_primary_key_is_younger_than_the_row() {
    let row = cells(&[None, Some("x"), None]);
    let delete = |old| change(Operation::Delete { old });
    let mut by_default = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    let error = by_default.encode(&delete(OldRow::Key(Row::Cells(&row)))).unwrap_err();
    assert!(matches!(error, EncodeError::KeyWithoutValue(_)), "{error}");
    let mut by_full = encoder(ReplicaIdentity::Full, &PAIR, &["id"]);
    let change = delete(OldRow::Full(Row::Cells(&row)));
    let records = by_full.encode(&change).unwrap();
    assert_eq!(records.iter().next().unwrap().key, Some(&br#"{"id":null}"#[..]));
}

#[test]
fn names_are_escaped_as_json_wants() {
    let (mut relation, answer) = table(ReplicaIdentity::Default, &[("a\"b", 23), ("Größe\n", 25)], &["a\"b"]);
    relation.name = "Ta\"bé".to_owned();
    let mut encoder = Encoder::new(&settings()).unwrap();
    assert_eq!(encoder.prepare(TABLE, &relation, &answer).unwrap().topic, "srv.public.Ta_b_");
    let row = cells(&[Some("1"), Some("x")]);
    let records = encoded(&mut encoder, Operation::Insert { new: Row::Cells(&row) });
    assert!(
        records[0].starts_with(r#"{"a\"b":1} | - | {"before":null,"after":{"a\"b":1,"Größe\n":"x"}"#),
        "{records:?}"
    );
    assert!(records[0].contains(r#""table":"Ta\"bé""#), "{records:?}");
}

#[test]
fn what_cannot_be_encoded_names_the_place_and_never_the_value() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    for (row, text, code) in [
        (
            vec![Cell::Text(b"1"), Cell::Text(b"secret\xff"), Cell::Null],
            "cannot encode column txt of public.t at 0/1A323C8: the value is not valid UTF-8",
            ExitCode::Data,
        ),
        (
            vec![Cell::Text(b"1"), Cell::Binary(b"secret"), Cell::Null],
            "cannot encode column txt of public.t at 0/1A323C8: expected a text value, found a binary value",
            ExitCode::Protocol,
        ),
        (
            vec![Cell::Text(b"1"), Cell::Text(b"secret")],
            "cannot encode public.t at 0/1A323C8: expected the 3 columns of the Relation message, found 2 columns",
            ExitCode::Protocol,
        ),
        (
            vec![Cell::Null; 4],
            "cannot encode public.t at 0/1A323C8: expected the 3 columns of the Relation message, found 4",
            ExitCode::Protocol,
        ),
    ] {
        let error = encoder.encode(&change(Operation::Insert { new: Row::Cells(&row) })).unwrap_err();
        assert!(error.to_string().starts_with(text), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        assert_eq!(error.exit_code(), code);
    }
    let good = cells(&[Some("1"), None, None]);
    assert_eq!(encoded(&mut encoder, Operation::Insert { new: Row::Cells(&good) }).len(), 1, "an error leaves nothing");
}

#[test]
fn bytea_may_come_as_binary() {
    let mut encoder = encoder(ReplicaIdentity::Default, &[("id", 23), ("b", 17)], &["id"]);
    let row = [Cell::Text(b"1"), Cell::Binary(&[0, 1, 255])];
    let records = encoded(&mut encoder, Operation::Insert { new: Row::Cells(&row) });
    assert!(records[0].contains(r#""b":"AAH/"}"#), "{records:?}");
}

#[test]
fn a_change_of_a_relation_that_was_not_prepared_is_a_defect() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    let mut stray = change(Operation::Truncate);
    for relation in [None, Some(RelationIndex(7))] {
        stray.relation = relation;
        assert_eq!(encoder.encode(&stray).unwrap_err().exit_code(), ExitCode::Defect);
    }
}

#[test]
fn a_relation_announced_again_has_its_new_columns() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    let (relation, answer) = table(ReplicaIdentity::Default, &[("id", 20), ("added", 16)], &["id"]);
    let prepared = encoder.prepare(TABLE, &relation, &answer).unwrap();
    assert_eq!(prepared, Prepared { topic: "srv.public.t".to_owned(), has_key: true, warning: None });
    let row = cells(&[Some("1"), Some("f")]);
    let records = encoded(&mut encoder, Operation::Insert { new: Row::Cells(&row) });
    assert!(records[0].contains(r#""after":{"id":1,"added":false},"#), "{records:?}");
}

#[test]
fn a_warning_is_given_once_for_a_table_that_is_announced_again() {
    let (relation, answer) = table(ReplicaIdentity::Full, &PAIR, &[]);
    let mut encoder = Encoder::new(&settings()).unwrap();
    let first = encoder.prepare(TABLE, &relation, &answer).unwrap();
    assert_eq!((first.warning, first.has_key), (Some(Warning::FullWithoutKey), false));
    assert_eq!(encoder.prepare(TABLE, &relation, &answer).unwrap().warning, None);
}

#[test]
fn two_tables_with_one_topic_are_a_set_up_error() {
    let (mut relation, answer) = table(ReplicaIdentity::Default, &PAIR, &["id"]);
    let mut encoder = Encoder::new(&settings()).unwrap();
    for (index, name, fits) in [(0, "a b", true), (1, "a_b", false), (1, "c", true)] {
        name.clone_into(&mut relation.name);
        match encoder.prepare(RelationIndex(index), &relation, &answer) {
            Ok(prepared) => assert!(fits, "{prepared:?}"),
            Err(error) => assert!(!fits && matches!(error, PrepareError::Route(_)), "{error}"),
        }
    }
}

#[test]
fn a_table_without_columns_has_an_empty_row() {
    let mut encoder = encoder(ReplicaIdentity::Default, &[], &[]);
    let records = encoded(&mut encoder, Operation::Insert { new: Row::Cells(&[]) });
    assert!(records[0].starts_with(r#"- | - | {"before":null,"after":{},"source""#), "{records:?}");
}

#[test]
fn a_huge_row_does_not_keep_its_buffer() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    let huge = "x".repeat(4 * ENCODE_BUFFER_KEPT_BYTES);
    let row = cells(&[Some("1"), Some(&huge), None]);
    encoded(&mut encoder, Operation::Insert { new: Row::Cells(&row) });
    // The next change may be hours away.
    encoder.release();
    assert!(encoder.workspace.bytes.capacity() <= ENCODE_BUFFER_KEPT_BYTES);
}

#[test]
fn a_time_before_1970_is_floored() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    let mut change = change(Operation::Truncate);
    change.position.commit_time = PgTimestamp::from_unix_us(-1);
    change.position.processed_unix_ns = -1;
    let records = encoder.encode(&change).unwrap();
    let value: Value = serde_json::from_slice(records.iter().next().unwrap().value.unwrap()).unwrap();
    let outer = ["ts_ms", "ts_us", "ts_ns"].map(|field| value[field].as_i64().unwrap());
    assert_eq!(outer, [-1, -1, -1]);
    let source = ["ts_ms", "ts_us", "ts_ns"].map(|field| value["source"][field].as_i64().unwrap());
    assert_eq!(source, [-1, -1, -1000]);
}

/// A type of each form, with a domain and an array of it that the catalog describes.
const TYPES: [u32; 14] = [16, 17, 23, 25, 701, 1082, 1114, 1184, 1266, 1700, 1001, 1009, 20_001, 20_002];

fn any_cell() -> impl Strategy<Value = Option<Vec<u8>>> {
    let text = prop_oneof![
        "(?s).{0,20}".prop_map(String::into_bytes),
        r#"\{[{}",;\\0-9NUL]{0,12}\}"#.prop_map(String::into_bytes),
        r"-?[0-9]{1,9}(\.[0-9]{1,3})?".prop_map(String::into_bytes),
        r"\\x([0-9a-f]{2}){0,9}".prop_map(String::into_bytes),
    ];
    proptest::option::of(text)
}

/// `after`, byte for byte.
fn after(record: &Record<'_>) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        after: Box<serde_json::value::RawValue>,
    }
    let envelope: Envelope = serde_json::from_slice(record.value.unwrap()).unwrap();
    envelope.after.get().to_owned()
}

/// The row as COPY writes it.
fn copied(values: &[Option<&[u8]>]) -> Vec<u8> {
    let cell = |value: &Option<&[u8]>| match value {
        None => b"\\N".to_vec(),
        Some(value) => value.iter().fold(Vec::new(), |mut out, byte| {
            match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                byte => out.push(*byte),
            }
            out
        }),
    };
    let mut row = values.iter().map(cell).collect::<Vec<_>>().join(&b'\t');
    row.push(b'\n');
    row
}

#[test]
fn what_follows_the_row_of_a_snapshot_is_that_of_its_own_position_and_marker() {
    let columns = [("id", 23)];
    let mut encoder = encoder(ReplicaIdentity::Default, &columns, &["id"]);
    let other = RelationIndex(1);
    let (mut relation, answer) = table(ReplicaIdentity::Default, &columns, &["id"]);
    relation.name = "other".to_owned();
    let rows = [
        (TABLE, Marker::First, 8),
        (TABLE, Marker::True, 8),
        (TABLE, Marker::True, 8),
        (TABLE, Marker::True, 16),
        (other, Marker::True, 16),
        (TABLE, Marker::True, 16),
        (TABLE, Marker::Last, 16),
    ];
    encoder.prepare(other, &relation, &answer).unwrap();
    let mut found = Vec::new();
    for (relation, marker, lsn) in rows {
        let row = copied(&[Some(b"1")]);
        let mut splitter = Splitter::default();
        let new = Row::Copy(splitter.split(&row, 1).unwrap());
        let mut change = change(Operation::Read { new, marker });
        change.relation = Some(relation);
        change.position.lsn = Lsn(lsn);
        let records = encoder.encode(&change).unwrap();
        let record = records.iter().next().unwrap();
        let value: Value = serde_json::from_slice(record.value.unwrap()).unwrap();
        let source = &value["source"];
        found.push((relation, source["table"].clone(), source["snapshot"].clone(), source["lsn"].clone()));
    }
    let expected = rows.map(|(relation, marker, lsn)| {
        let name = if relation == TABLE { "t" } else { "other" };
        (relation, Value::from(name), Value::from(marker.text()), Value::from(lsn))
    });
    assert_eq!(found, expected);
}

#[test]
fn a_read_is_an_insert_with_the_marker_of_its_snapshot() {
    let mut encoder = encoder(ReplicaIdentity::Default, &PAIR, &["id"]);
    let mut splitter = Splitter::default();
    for (marker, text) in [
        (Marker::First, "first"),
        (Marker::FirstInDataCollection, "first_in_data_collection"),
        (Marker::True, "true"),
        (Marker::LastInDataCollection, "last_in_data_collection"),
        (Marker::Last, "last"),
        (Marker::Incremental, "incremental"),
    ] {
        let new = Row::Copy(splitter.split(b"7\t\\N\tx\n", 3).unwrap());
        let mut change = change(Operation::Read { new, marker });
        change.position.transaction = None;
        let records = encoder.encode(&change).unwrap();
        let record = records.iter().next().unwrap();
        assert_eq!((records.len(), record.key), (1, Some(&br#"{"id":7}"#[..])));
        let value: Value = serde_json::from_slice(record.value.unwrap()).unwrap();
        assert_eq!((&value["op"], &value["source"]["snapshot"]), (&Value::from("r"), &Value::from(text)));
        assert_eq!((&value["before"], &value["transaction"]), (&Value::Null, &Value::Null));
        let source = [&value["source"]["lsn"], &value["source"]["txId"], &value["source"]["sequence"]];
        assert_eq!(source, [&Value::from(27_468_744), &Value::Null, &Value::from("[\"27468744\",\"27468744\"]")]);
    }
}

proptest! {
    #[test]
    fn a_row_of_a_snapshot_has_the_key_and_the_values_of_an_insert(
        row in proptest::collection::vec((proptest::sample::select(&TYPES[..]), any_cell()), 1..12),
    ) {
        let names: Vec<String> = (0..row.len()).map(|place| format!("c{place}")).collect();
        let mut columns = vec![("id", 25)];
        columns.extend(names.iter().map(String::as_str).zip(row.iter().map(|(type_oid, _)| *type_oid)));
        let (relation, mut answer) = table(ReplicaIdentity::Full, &columns, &["c0", "id"]);
        let facts = |oid, kind, base_type, element_type| {
            TypeFacts { oid, name: String::new(), kind, base_type, element_type, delimiter: ',' }
        };
        answer.types = vec![facts(20_001, 'd', 23, 0), facts(20_002, 'b', 0, 20_001)];
        let mut encoder = Encoder::new(&settings()).unwrap();
        encoder.prepare(TABLE, &relation, &answer).unwrap();
        let values: Vec<_> =
            std::iter::once(Some(&b"\ti\\d\n"[..])).chain(row.iter().map(|(_, value)| value.as_deref())).collect();

        let cells: Vec<Cell<'_>> = values.iter().map(|value| value.map_or(Cell::Null, Cell::Text)).collect();
        let insert = encoder.encode(&change(Operation::Insert { new: Row::Cells(&cells) })).map(|records| {
            let record = records.iter().next().unwrap();
            (record.key.unwrap().to_vec(), after(&record))
        });
        let (mut splitter, copied) = (Splitter::default(), copied(&values));
        let new = Row::Copy(splitter.split(&copied, values.len()).unwrap());
        let read = encoder.encode(&change(Operation::Read { new, marker: Marker::True })).map(|records| {
            let record = records.iter().next().unwrap();
            (record.key.unwrap().to_vec(), after(&record))
        });
        prop_assert_eq!(format!("{read:?}"), format!("{insert:?}"));
    }
}

proptest! {
    #[test]
    fn any_row_of_any_types_becomes_json_with_every_column(
        row in proptest::collection::vec((proptest::sample::select(&TYPES[..]), any_cell()), 1..12),
        old_id in 0..3_u8,
    ) {
        let names: Vec<String> = (0..row.len()).map(|place| format!("c{place}\"")).collect();
        let mut columns = vec![("id", 23)];
        columns.extend(names.iter().map(String::as_str).zip(row.iter().map(|(type_oid, _)| *type_oid)));
        let (relation, mut answer) = table(ReplicaIdentity::Full, &columns, &["id"]);
        let facts = |oid, kind, base_type, element_type| {
            TypeFacts { oid, name: String::new(), kind, base_type, element_type, delimiter: ',' }
        };
        answer.types = vec![facts(20_001, 'd', 23, 0), facts(20_002, 'b', 0, 20_001)];
        let mut encoder = Encoder::new(&settings()).unwrap();
        encoder.prepare(TABLE, &relation, &answer).unwrap();

        let values = row.iter().map(|(_, value)| value.as_deref().map_or(Cell::Null, Cell::Text));
        let new: Vec<Cell<'_>> = std::iter::once(Cell::Text(b"1")).chain(values).collect();
        let old_id = old_id.to_string();
        let mut old = new.clone();
        old[0] = Cell::Text(old_id.as_bytes());
        let operation = Operation::Update { old: Some(OldRow::Full(Row::Cells(&old))), new: Row::Cells(&new) };
        match encoder.encode(&change(operation)) {
            Ok(records) => {
                prop_assert_eq!(records.len(), if old_id == "1" { 1 } else { 3 });
                for record in records.iter() {
                    let parts = [record.key, record.header.map(|(_, value)| value), record.value];
                    for part in parts.into_iter().flatten() {
                        let value: Value = serde_json::from_slice(part).unwrap();
                        for row in [&value["before"], &value["after"]] {
                            let fields = row.as_object().map(serde_json::Map::len);
                            prop_assert!(fields.is_none_or(|fields| fields == columns.len()));
                        }
                    }
                }
            }
            Err(error) => prop_assert!(matches!(error, EncodeError::NotHex(_)), "{}", error),
        }
    }
}
