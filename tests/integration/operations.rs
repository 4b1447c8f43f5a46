//! Every operation, as records.

use serde_json::{Value, json};

use crate::kafka;
use crate::servers::World;

/// The fields of a line of `--stdout record` that the tests compare: without clocks and positions.
fn essence(record: &Value) -> Value {
    let value = &record["value"];
    if value.is_null() {
        return json!({"key": record["key"], "headers": record["headers"], "value": null});
    }
    json!({
        "key": record["key"],
        "headers": record["headers"],
        "op": value["op"],
        "before": value["before"],
        "after": value["after"],
        "order": [value["transaction"]["total_order"], value["transaction"]["data_collection_order"]],
    })
}

#[test]
fn insert_update_delete_and_a_key_change_become_records_in_order() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)");
    world.sql(
        "BEGIN; INSERT INTO t VALUES (1, 'a'), (2, NULL); UPDATE t SET v = 'b' WHERE id = 1; \
         UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t WHERE id = 1; COMMIT",
    );
    let records = world.drain_to_stdout();
    let expected = [
        json!({"key":{"id":1},"headers":{},"op":"c","before":null,"after":{"id":1,"v":"a"},"order":[1,1]}),
        json!({"key":{"id":2},"headers":{},"op":"c","before":null,"after":{"id":2,"v":null},"order":[2,2]}),
        json!({"key":{"id":1},"headers":{},"op":"u","before":null,"after":{"id":1,"v":"b"},"order":[3,3]}),
        json!({"key":{"id":2},"headers":{"__debezium.newkey":{"id":3}},"op":"d","before":{"id":2,"v":null},"after":null,
               "order":[4,4]}),
        json!({"key":{"id":2},"headers":{"__debezium.newkey":{"id":3}},"value":null}),
        json!({"key":{"id":3},"headers":{"__debezium.oldkey":{"id":2}},"op":"c","before":null,"after":{"id":3,"v":null},
               "order":[5,5]}),
        json!({"key":{"id":1},"headers":{},"op":"d","before":{"id":1,"v":null},"after":null,"order":[6,6]}),
        json!({"key":{"id":1},"headers":{},"value":null}),
    ];
    assert_eq!(records.iter().map(essence).collect::<Vec<_>>(), expected);
    let (xid, lsn) = (&records[0]["value"]["source"]["txId"], &records[0]["value"]["transaction"]["id"]);
    for record in records.iter().filter(|record| !record["value"].is_null()) {
        let source = &record["value"]["source"];
        assert_eq!((&source["txId"], &record["value"]["transaction"]["id"]), (xid, lsn), "one id for the transaction");
        assert_eq!(record["topic"], world.topic("t"));
        assert_eq!(source["name"], world.prefix);
        assert_eq!(source["db"], world.database);
        let commit_lsn = lsn.as_str().unwrap().split_once(':').unwrap().1;
        assert_eq!(source["sequence"], format!("[\"{commit_lsn}\",\"{}\"]", source["lsn"]));
    }
}

#[test]
fn the_same_records_arrive_in_kafka() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)");
    world.sql("INSERT INTO t VALUES (1, 'a'); UPDATE t SET id = 2; DELETE FROM t");
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    let ops: Vec<&str> = records.iter().map(kafka::Record::op).collect();
    assert_eq!(ops, ["c", "d", "tombstone", "c", "d", "tombstone"]);
    assert_eq!(records[1].headers, [("__debezium.newkey".to_owned(), json!({"id": 2}))]);
    assert_eq!(records[2].headers, [("__debezium.newkey".to_owned(), json!({"id": 2}))]);
    assert_eq!(records[3].headers, [("__debezium.oldkey".to_owned(), json!({"id": 1}))]);
    assert_eq!(records[5].key, Some(json!({"id": 2})));
}

#[test]
fn a_truncate_of_several_tables_is_one_record_for_each() {
    let world = World::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)");
    world.sql("TRUNCATE a, b");
    let records = world.drain_to_stdout();
    let topics: Vec<&Value> = records.iter().map(|record| &record["topic"]).collect();
    assert_eq!(topics, [&json!(world.topic("a")), &json!(world.topic("b"))]);
    for (index, record) in records.iter().enumerate() {
        let expected = json!({"key":null,"headers":{},"op":"t","before":null,"after":null,"order":[index + 1, 1]});
        assert_eq!(essence(record), expected);
    }
    world.sql("TRUNCATE a, b; INSERT INTO a VALUES (1)");
    let skipped = ["--sink", "stdout", "--stdout", "record", "--once", "--truncate", "skip"];
    let records = world.stream().with(&skipped).run().expect_code(0).json_lines();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["value"]["transaction"]["total_order"], 1);
}

#[test]
fn logical_messages_of_both_kinds_become_records() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    world.sql(
        "BEGIN; SELECT pg_logical_emit_message(true, 'in', 'hello'); INSERT INTO t VALUES (1); \
         SELECT pg_logical_emit_message(false, 'out', 'now'); COMMIT",
    );
    let records = world.drain_to_stdout();
    assert_eq!(records.len(), 3);
    let (outside, inside) = (&records[0], &records[1]);
    assert_eq!(outside["topic"], format!("{}.message", world.prefix));
    assert_eq!(outside["key"], json!({"prefix": "out"}));
    assert_eq!(outside["value"]["transaction"], Value::Null);
    assert_eq!(outside["value"]["source"]["txId"], Value::Null);
    assert_eq!(outside["value"]["message"], json!({"prefix": "out", "content": "bm93"}));
    assert_eq!(inside["value"]["op"], "m");
    assert_eq!(inside["value"]["message"], json!({"prefix": "in", "content": "aGVsbG8="}));
    assert_eq!(inside["value"]["transaction"]["total_order"], 1);
    assert_eq!(records[2]["value"]["transaction"]["total_order"], 2);
}

#[test]
fn replica_identity_full_gives_the_old_row_and_fills_unchanged_toast() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, v int, big text); ALTER TABLE t REPLICA IDENTITY FULL; \
         ALTER TABLE t ALTER big SET STORAGE EXTERNAL; \
         CREATE TABLE d (id int PRIMARY KEY, v int, big text); ALTER TABLE d ALTER big SET STORAGE EXTERNAL",
    );
    world.sql("INSERT INTO t VALUES (1, 1, repeat('x', 10000)); INSERT INTO d VALUES (1, 1, repeat('x', 10000))");
    world.drain_to_stdout();
    world.sql("UPDATE t SET v = 2; UPDATE d SET v = 2; DELETE FROM t");
    let records = world.drain_to_stdout();
    let big = "x".repeat(10_000);
    let (full, default, deleted) = (&records[0]["value"], &records[1]["value"], &records[2]["value"]);
    assert_eq!(full["before"], json!({"id": 1, "v": 1, "big": big}));
    assert_eq!(full["after"], json!({"id": 1, "v": 2, "big": big}));
    assert_eq!(default["before"], Value::Null);
    assert_eq!(default["after"], json!({"id": 1, "v": 2, "big": "__debezium_unavailable_value"}));
    assert_eq!(deleted["before"], json!({"id": 1, "v": 2, "big": big}));
    assert_eq!(records[3]["value"], Value::Null);
}

#[test]
fn a_table_without_key_has_no_key_and_no_tombstones() {
    let world = World::new("CREATE TABLE t (v int); ALTER TABLE t REPLICA IDENTITY FULL");
    world.sql("INSERT INTO t VALUES (1); DELETE FROM t");
    let run = world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"]).run().expect_code(0);
    let records = run.json_lines();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["key"].is_null() && !record["value"].is_null()));
    run.expect_log(&["WARN", "REPLICA IDENTITY FULL and no primary key"]);
}

#[test]
fn the_key_has_the_order_of_its_index() {
    let world = World::new("CREATE TABLE t (a int, b text, v int, PRIMARY KEY (b, a))");
    world.sql("INSERT INTO t VALUES (1, 'bb', 2)");
    let run = world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"]).run().expect_code(0);
    assert!(run.stdout.contains(r#""key":{"b":"bb","a":1}"#), "{}", run.stdout);
    assert!(run.stdout.contains(r#""after":{"a":1,"b":"bb","v":2}"#), "{}", run.stdout);
}

#[test]
fn a_table_that_is_gone_when_it_is_read_keeps_its_records_with_a_warning() {
    let world = World::new("CREATE TABLE t (a int, b text, PRIMARY KEY (b, a))");
    world.sql("INSERT INTO t VALUES (1, 'x')");
    world.sql("DROP TABLE t");
    let run = world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"]).run().expect_code(0);
    assert_eq!(run.json_lines()[0]["key"], json!({"a": 1, "b": "x"}));
    run.expect_log(&["WARN", "the table is gone", "(a, b)"]);
}

#[test]
fn names_of_every_kind_go_to_topics_and_fields() {
    let world = World::new(
        "CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.t (id int PRIMARY KEY); \
         CREATE TABLE two.t (id text PRIMARY KEY); \
         CREATE TABLE \"We.ird Näme\" (\"it's \"\"q\"\"\" int PRIMARY KEY, \"größe\" text)",
    );
    world.sql(
        "INSERT INTO one.t VALUES (1); INSERT INTO two.t VALUES ('x'); INSERT INTO \"We.ird Näme\" VALUES (1, 'é😀')",
    );
    let records = world.drain_to_stdout();
    let topics: Vec<&str> = records.iter().map(|record| record["topic"].as_str().unwrap()).collect();
    let expected = ["one.t", "two.t", "public.We.ird_N_me"].map(|table| format!("{}.{table}", world.prefix));
    assert_eq!(topics, expected);
    assert_eq!(records[2]["value"]["after"], json!({"it's \"q\"": 1, "größe": "é😀"}));
    assert_eq!(records[2]["value"]["source"]["table"], "We.ird Näme");
}

#[test]
fn a_table_that_is_altered_between_changes_is_seen_as_it_was_at_each() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)");
    world.sql("INSERT INTO t VALUES (1, 'a')");
    world.sql("ALTER TABLE t ADD COLUMN n numeric DEFAULT 1.50, DROP COLUMN v");
    world.sql("INSERT INTO t VALUES (2, 2.5)");
    let records = world.drain_to_stdout();
    assert_eq!(records[0]["value"]["after"], json!({"id": 1, "v": "a"}));
    assert_eq!(records[1]["value"]["after"], json!({"id": 2, "n": "2.5"}));
}

#[test]
fn types_that_only_the_catalog_knows_have_their_forms() {
    let world = World::new(
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE mood AS ENUM ('sad', 'happy'); \
         CREATE TABLE t (id positive PRIMARY KEY, m mood, ms mood[], ps positive[], r int4range, m2 int[][], \
         p point, b bytea, j jsonb, h timestamptz, f float8)",
    );
    world.sql(
        "INSERT INTO t VALUES (7, 'happy', '{sad,NULL}', '{1,2}', '[1,5)', '{{1,2},{3,4}}', '(1,2)', '\\x0001ff', \
         '{\"a\": 1}', '2024-03-01 12:00:00.5+02', 'NaN')",
    );
    let records = world.drain_to_stdout();
    let expected = json!({"id": 7, "m": "happy", "ms": ["sad", null], "ps": [1, 2], "r": "[1,5)", "m2": "{{1,2},{3,4}}",
        "p": "(1,2)", "b": "AAH/", "j": "{\"a\": 1}", "h": "2024-03-01T10:00:00.5Z", "f": "NaN"});
    assert_eq!(records[0]["value"]["after"], expected);
}

#[test]
fn an_empty_transaction_has_no_record_and_moves_the_slot() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    world.sql("CREATE TABLE later (id int)");
    let end = world.wal_lsn();
    assert_eq!(world.drain_to_stdout().len(), 0);
    assert_eq!(world.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", world.confirmed())), "t");
}
