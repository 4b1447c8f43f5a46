//! What the catalog says of a table is that of today; the changes are those of their time.

use serde_json::{Value, json};

use crate::servers::{Kafka, Postgres, World};
use crate::walcat::Walcat;

/// Operation and key of each line; a tombstone is "-".
fn operations(records: &[Value]) -> Vec<(String, Value)> {
    let of = |record: &Value| (record["value"]["op"].as_str().unwrap_or("-").to_owned(), record["key"].clone());
    records.iter().map(of).collect()
}

fn expect(records: &[Value], expected: &[(&str, Value)]) {
    let expected: Vec<_> = expected.iter().map(|(op, key)| ((*op).to_owned(), key.clone())).collect();
    assert_eq!(operations(records), expected);
}

fn to_stdout(world: &World) -> Walcat {
    world.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"])
}

#[test]
fn a_key_of_which_a_generated_column_is_not_published_is_no_key() {
    for identity in ["DEFAULT", "FULL"] {
        let world = World::new(&format!(
            "CREATE TABLE g (id int, v int, g int GENERATED ALWAYS AS (id) STORED, PRIMARY KEY (v, g)); \
             ALTER TABLE g REPLICA IDENTITY {identity}"
        ));
        world.sql("INSERT INTO g VALUES (1, 7), (2, 7); DELETE FROM g WHERE id = 1");
        world.sql("ALTER TABLE g ADD COLUMN more int; INSERT INTO g VALUES (3, 7)");
        let run = to_stdout(&world).run().expect_code(0);
        expect(&run.json_lines(), &[("c", json!(null)), ("c", json!(null)), ("d", json!(null)), ("c", json!(null))]);
        let warning = "the key (v, g) is not unique without g, which is not published: its records have no key";
        assert_eq!(run.log.matches(warning).count(), 1, "{}", run.log);
    }
}

#[test]
fn a_key_of_which_a_column_list_leaves_out_a_part_is_no_key() {
    let world = World::without_slot(
        Postgres::shared(),
        Kafka::shared(),
        "CREATE TABLE c (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE whole (a int, b int, v int, PRIMARY KEY (b, a))",
    );
    world.sql(&format!(
        "DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR TABLE c (a), whole (a, b) WITH (publish = 'insert')",
        world.publication
    ));
    world.create_slot();
    world.sql("INSERT INTO c VALUES (7, 1), (7, 2); INSERT INTO whole VALUES (1, 2, 3)");
    let run = to_stdout(&world).run().expect_code(0);
    expect(&run.json_lines(), &[("c", json!(null)), ("c", json!(null)), ("c", json!({"b": 2, "a": 1}))]);
    run.expect_log(&["the key (a, b) is not unique without b, which is not published"]);
}

#[test]
fn a_key_that_has_grown_since_is_the_one_of_its_time() {
    let world = World::new("CREATE TABLE t (a int PRIMARY KEY, v int)");
    world.sql("INSERT INTO t VALUES (1, 1); DELETE FROM t");
    world.sql("ALTER TABLE t ADD COLUMN x int DEFAULT 1; ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (x, a)");
    world.sql("INSERT INTO t VALUES (2, 2)");
    let (one, two) = (json!({"a": 1}), json!({"x": 1, "a": 2}));
    expect(&world.drain_to_stdout(), &[("c", one.clone()), ("d", one.clone()), ("-", one), ("c", two)]);
}

#[test]
fn a_generated_column_that_is_published_is_a_part_of_the_key() {
    let pg = Postgres::start("generated", 18, &["--no-fsync"]);
    let world = World::without_slot(
        &pg,
        Kafka::shared(),
        "CREATE TABLE g (id int, v int, g int GENERATED ALWAYS AS (id) STORED, PRIMARY KEY (v, g))",
    );
    world.sql(&format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored)", world.publication));
    world.create_slot();
    world.sql("INSERT INTO g VALUES (1, 7), (2, 7); DELETE FROM g WHERE id = 1");
    let (one, two) = (json!({"v": 7, "g": 1}), json!({"v": 7, "g": 2}));
    expect(&world.drain_to_stdout(), &[("c", one.clone()), ("c", two), ("d", one.clone()), ("-", one)]);
    pg.stop("fast");
}

#[test]
fn a_value_of_a_domain_that_was_dropped_since_has_the_form_of_its_base_type() {
    let domains = "CREATE DOMAIN small AS int CHECK (VALUE < 100); CREATE DOMAIN smaller AS small; \
         CREATE DOMAIN list AS int[]; CREATE DOMAIN flag AS bool; CREATE TYPE mood AS ENUM ('sad'); \
         CREATE DOMAIN feeling AS mood";
    let table = "CREATE TABLE t (id smaller PRIMARY KEY, s small, l list, f flag, m feeling)";
    let row = "INSERT INTO t VALUES (4, 5, '{6,7}', true, 'sad')";
    for engine in ["streaming", "polling"] {
        let world = World::new(&format!("{domains}; {table}"));
        world.sql(row);
        world.sql("DROP TABLE t; DROP DOMAIN smaller, small, list, flag, feeling");
        let run = to_stdout(&world).with(&["--engine", engine]).run().expect_code(0);
        let records = run.json_lines();
        let after = json!({"id": 4, "s": 5, "l": [6, 7], "f": true, "m": "sad"});
        assert_eq!((&records[0]["key"], &records[0]["value"]["after"]), (&json!({"id": 4}), &after), "{engine}");
    }
}
