//! `walcat verify`: a topic that is its table is equal, whatever runs beside it, and each kind of difference is found with
//! its key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::{Finished, Walcat};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// `walcat verify` of this world's topics.
pub fn verify(world: &World) -> Walcat {
    Walcat::new(&["verify", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication", &world.publication]).with(&[
        "--topic-prefix",
        &world.prefix,
        "--brokers",
        &world.kafka.brokers,
    ])
}

/// Delivers what is in the WAL.
fn deliver(world: &World) {
    world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
}

/// Writes a record as anybody might.
fn produce(world: &World, topic: &str, partition: i32, key: &str, value: Option<&str>) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &world.kafka.brokers).create().expect("producer");
    let record = BaseRecord::<str, str>::to(topic).partition(partition).key(key);
    let record = match value {
        Some(value) => record.payload(value),
        None => record,
    };
    producer.send(record).map_err(|(error, _)| error).expect("send");
    producer.flush(std::time::Duration::from_secs(20)).expect("flush");
}

/// The partition of a key.
fn partition_of(world: &World, topic: &str, id: i32) -> i32 {
    let records = kafka::read_committed(&world.kafka.brokers, topic);
    let key = serde_json::json!({ "id": id });
    records.iter().find(|record| record.key.as_ref() == Some(&key)).expect("a record of the key").partition
}

fn expect_lines(finished: &Finished, lines: &[&str]) {
    for line in lines {
        assert!(finished.stdout.lines().any(|printed| printed.trim() == *line), "no {line:?} in:\n{}", finished.stdout);
    }
}

fn no_slot_is_left(world: &World) {
    let slots = world.sql(&format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> '{}' AND database = current_database()",
        world.slot
    ));
    assert_eq!(slots, "0");
}

#[test]
fn equal_topics_are_equal_and_each_kind_of_difference_is_found_by_its_key() {
    let world = World::new(TABLE);
    let topic = world.topic("t");
    world.kafka.create_topic(&topic, &["--partitions", "3"]);
    world.sql("INSERT INTO t SELECT i, 'hunter' || i FROM generate_series(1, 1000) i");
    world.sql("UPDATE t SET v = 'new' WHERE id % 10 = 0; DELETE FROM t WHERE id % 7 = 0; UPDATE t SET id = id + 5000 WHERE id < 100");
    deliver(&world);
    let rows = world.sql("SELECT count(*) FROM t");
    let run = verify(&world).run().expect_code(0);
    expect_lines(&run, &[&format!("equal    public.t: {rows} rows, topic {topic}")]);
    assert!(run.stdout.ends_with(&format!("1 equal, 0 different; {rows} rows\n")), "{}", run.stdout);
    no_slot_is_left(&world);

    // A row that consumers do not have, one that they should not have, and one that they have otherwise.
    produce(&world, &topic, partition_of(&world, &topic, 501), r#"{"id":501}"#, None);
    let records = kafka::read_committed(&world.kafka.brokers, &topic);
    let of = |id: i32| {
        let key = serde_json::json!({ "id": id });
        let mut found = records.iter().filter(|record| record.key.as_ref() == Some(&key));
        found.next().and_then(|record| record.value.clone()).expect("a value").to_string()
    };
    produce(&world, &topic, 1, r#"{"id":99999}"#, Some(&of(502).replace("502", "99999")));
    let other = of(502).replace("hunter502", "hunter503");
    produce(&world, &topic, partition_of(&world, &topic, 502), r#"{"id":502}"#, Some(&other));
    let run = verify(&world).run().expect_code(65).expect_log(&["1 of 1 topics differ from their tables"]);
    let line = format!("differs  public.t: {rows} rows, topic {topic}: 1 missing, 1 surplus, 1 different");
    expect_lines(&run, &[&line, r#"missing {"id":501}"#, r#"surplus {"id":99999}"#, r#"different {"id":502}"#]);
    assert!(!run.stdout.contains("hunter") && !run.log.contains("hunter"), "{}\n{}", run.stdout, run.log);
    assert!(!run.log.contains("99999"), "{}", run.log);

    let run = verify(&world).with(&["--show-values"]).env("RUST_LOG", "trace").run().expect_code(65);
    expect_lines(&run, &[r#"table {"id":502,"v":"hunter502"}"#, r#"topic {"id":502,"v":"hunter503"}"#]);
    assert!(!run.log.contains("hunter"), "{}", run.log);
    no_slot_is_left(&world);
}

#[test]
fn patterns_choose_tables_and_one_that_matches_none_is_an_error() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE log (v text); \
         CREATE SCHEMA s; CREATE TABLE s.\"a.b\" (id int PRIMARY KEY)",
    );
    world.sql("INSERT INTO t VALUES (1); INSERT INTO s.\"a.b\" VALUES (1); INSERT INTO log VALUES ('x')");
    deliver(&world);
    let run = verify(&world).run().expect_code(0);
    let (t, u) = (world.topic("t"), world.topic("u"));
    expect_lines(
        &run,
        &[
            &format!("equal    public.t: 1 rows, topic {t}"),
            &format!("equal    public.u: 0 rows, topic {u}"),
            &format!("equal    public.log: 1 rows, topic {}", world.topic("log")),
            &format!("equal    s.\"a.b\": 1 rows, topic {}.s.a.b", world.prefix),
        ],
    );
    let run = verify(&world).with(&["s.*", "*.u"]).run().expect_code(0);
    assert!(run.stdout.contains("as of ") && run.stdout.contains("2 equal, 0 different; 1 rows"), "{}", run.stdout);
    verify(&world).with(&["public.x*"]).run().expect_code(78).expect_log(&["no published table matches public.x*"]);
    verify(&world).with(&["t"]).run().expect_code(2).expect_log(&["write SCHEMA.TABLE"]);
}

#[test]
fn a_stream_that_is_behind_is_said_to_be_and_an_idle_slot_is_not_behind() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a')");
    deliver(&world);
    // The slot's position is before the snapshot, but there is nothing in between.
    verify(&world).run().expect_code(0).expect_log(&["the slot has no change left from before the snapshot"]);
    world.sql("INSERT INTO t VALUES (2, 'b')");
    let run = verify(&world).run().expect_code(69);
    run.expect_log(&["has confirmed only", "no process reads it", "start walcat stream"]);
    // Without a slot it compares with what is there.
    let without_slot = Walcat::new(&["verify", "--dsn", &world.dsn(), "--publication", &world.publication]).with(&[
        "--topic-prefix",
        &world.prefix,
        "--brokers",
        &world.kafka.brokers,
    ]);
    let run = without_slot.run().expect_code(65).expect_log(&["no slot is set"]);
    expect_lines(&run, &[r#"missing {"id":2}"#]);
    world.sql(&format!("SELECT pg_drop_replication_slot('{}')", world.slot));
    verify(&world).run().expect_code(78).expect_log(&["does not exist"]);
}

/// Writers of every kind of change, until they are stopped.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    fn start(world: &World) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let script = "DO $$ DECLARE i int; k int; BEGIN FOR i IN 1..200 LOOP k := (random() * 300)::int; \
             INSERT INTO t VALUES (k, md5(random()::text)) ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v; \
             IF i % 5 = 0 THEN DELETE FROM t WHERE id = (random() * 300)::int; END IF; \
             IF i % 11 = 0 THEN BEGIN UPDATE t SET id = (random() * 300)::int WHERE id = k; \
               EXCEPTION WHEN unique_violation THEN NULL; END; END IF; \
             COMMIT; END LOOP; END $$";
        let threads = (0..3).map(|number| {
            let (stop, pg, database) = (Arc::clone(&stop), world.pg.clone(), world.database.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // The writers may run into each other.
                    let _ = pg.try_sql(&database, script);
                    if number == 0 {
                        let _ = pg.try_sql(&database, "TRUNCATE t");
                    }
                }
            })
        });
        Writers { threads: threads.collect(), stop }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("writer"));
    }
}

fn equal_while_writers_run(world: &World, arguments: &[&str], times: usize) {
    let mut running = world.stream_to_kafka().with(arguments).deadline(240).spawn();
    running.wait_for_log("streaming started");
    let writers = Writers::start(world);
    for _ in 0..times {
        let run = verify(world).with(arguments).deadline(120).run();
        assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.log);
    }
    writers.stop();
    world.wait_confirmed(60);
    let run = verify(world).with(arguments).deadline(120).run().expect_code(0);
    assert!(!run.stdout.contains("cannot be judged"), "{}", run.stdout);
    running.terminate().expect_code(0);
}

#[test]
fn a_topic_of_several_partitions_is_equal_while_writers_run() {
    let world = World::new(TABLE);
    world.kafka.create_topic(&world.topic("t"), &["--partitions", "4"]);
    equal_while_writers_run(&world, &[], 4);
}

#[test]
fn an_exactly_once_topic_is_equal_while_writers_run() {
    let world = World::new(TABLE);
    equal_while_writers_run(&world, &["--delivery", "exactly-once"], 4);
}

#[test]
fn a_compacted_topic_is_equal_while_writers_run() {
    let kafka = Kafka::start("compacted", &["--set", "log.cleaner.backoff.ms=200"]);
    let world = World::on(Postgres::shared(), &kafka, TABLE);
    let compact =
        ["cleanup.policy=compact", "segment.ms=1000", "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=0"];
    let compact = compact.iter().flat_map(|setting| ["--config", setting]);
    kafka.create_topic(&world.topic("t"), &["--partitions", "2"].into_iter().chain(compact).collect::<Vec<_>>());
    let mut running = world.stream_to_kafka().deadline(240).spawn();
    running.wait_for_log("streaming started");
    // A compacted topic has no record of a TRUNCATE.
    let writer = "INSERT INTO t SELECT i, md5(random()::text) FROM generate_series(1, 300) i \
         ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v; DELETE FROM t WHERE id % 3 = (random() * 2)::int";
    let (stop, pg, database) = (Arc::new(AtomicBool::new(false)), world.pg.clone(), world.database.clone());
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            pg.sql(&database, writer);
        }
    });
    for _ in 0..6 {
        let run = verify(&world).deadline(120).run();
        assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.log);
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("writer");
    world.wait_confirmed(60);
    let run = verify(&world).run().expect_code(0);
    assert!(!run.stdout.contains("cannot be judged"), "{}", run.stdout);
    let id = world.sql("SELECT min(id) FROM t");
    let key = format!("{{\"id\":{id}}}");
    let partition = partition_of(&world, &world.topic("t"), id.parse().expect("id"));
    produce(&world, &world.topic("t"), partition, &key, None);
    let run = verify(&world).run().expect_code(65);
    expect_lines(&run, &[&format!("missing {key}")]);
    running.terminate().expect_code(0);
}

#[test]
fn keys_that_do_not_fit_the_memory_are_compared_in_passes_with_the_same_verdict() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 150000) i");
    deliver(&world);
    let topic = world.topic("t");
    produce(&world, &topic, partition_of(&world, &topic, 77), r#"{"id":77}"#, None);
    world.sql("DELETE FROM t WHERE id = 78");
    deliver(&world);
    let config = file("small-memory.toml", "[memory]\nmax = \"4MiB\"\n");
    let small = verify(&world).with(&["--config", &config]).deadline(120).run().expect_code(65);
    let large = verify(&world).deadline(120).run().expect_code(65);
    small.expect_log(&["the keys do not fit [memory] max", "passes=4"]);
    assert!(!large.log.contains("do not fit"), "{}", large.log);
    let line = format!("differs  public.t: 149999 rows, topic {topic}: 1 missing, 0 surplus, 0 different");
    expect_lines(&large, &[&line, r#"missing {"id":77}"#]);
}

#[test]
fn an_aborted_transaction_does_not_count() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a')");
    world.stream_to_kafka().with(&["--once", "--delivery", "exactly-once"]).run().expect_code(0);
    let topic = world.topic("t");
    let value = kafka::read_committed(&world.kafka.brokers, &topic)[0].value.clone().expect("a value").to_string();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.kafka.brokers)
        .set("transactional.id", format!("{}-test", world.prefix))
        .create()
        .expect("producer");
    let patience = std::time::Duration::from_secs(20);
    producer.init_transactions(patience).expect("init");
    producer.begin_transaction().expect("begin");
    let other = value.replace("\"v\":\"a\"", "\"v\":\"b\"");
    let record = BaseRecord::<str, str>::to(&topic).key(r#"{"id":1}"#).payload(&other);
    producer.send(record).map_err(|(error, _)| error).expect("send");
    producer.flush(patience).expect("flush");
    producer.abort_transaction(patience).expect("abort");
    verify(&world).with(&["--delivery", "exactly-once"]).run().expect_code(0);
    // Who reads everything sees the aborted record.
    let run = verify(&world).run().expect_code(65);
    expect_lines(&run, &[r#"different {"id":1}"#]);
}

#[test]
fn values_that_were_not_sent_and_columns_that_changed_are_compared_as_far_as_possible() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, big text, v int); ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
    );
    world.sql("INSERT INTO t SELECT i, repeat('x', 10000), 0 FROM generate_series(1, 3) i");
    world.sql("UPDATE t SET v = 1 WHERE id = 2");
    deliver(&world);
    let run = verify(&world).run().expect_code(0);
    let unsent = "note: 1 rows were compared without the values that PostgreSQL did not send (unchanged TOAST)";
    expect_lines(&run, &[unsent]);
    world.sql("ALTER TABLE t ADD w int DEFAULT 7; UPDATE t SET v = 5 WHERE id = 3");
    deliver(&world);
    let run = verify(&world).run().expect_code(0);
    expect_lines(&run, &["note: 2 rows were compared by the columns that their records share with the table"]);
}

#[test]
fn every_type_and_every_identity_is_equal() {
    let world = World::new(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN posint AS int CHECK (VALUE > 0); \
         CREATE TABLE types (a smallint, b bigint, c numeric, d float8, e bool, f text, g bytea, h date, i timestamp, \
           j timestamptz, k timetz, l jsonb, m json, n uuid, o int[], p text[], q mood, r posint, s interval, u money, \
           x xml, y inet, z int4range, k1 int, k2 text, PRIMARY KEY (k2, k1)); \
         CREATE TABLE full_ (id int PRIMARY KEY, v text); ALTER TABLE full_ REPLICA IDENTITY FULL; \
         CREATE TABLE indexed (a int NOT NULL, b text NOT NULL, c text); CREATE UNIQUE INDEX i ON indexed (b, a); \
         ALTER TABLE indexed REPLICA IDENTITY USING INDEX i; \
         CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100); \
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200)",
    );
    world.sql(
        "INSERT INTO types VALUES (1, 9007199254740993, 10.100, 'NaN', true, E'tab\\t nl\\n back\\\\ \"q\" ü \\x01', '\\xdeadbeef', \
           '2026-01-02', 'infinity', '2026-01-02 03:04:05.6+07', '03:04:05+02', '{\"a\": 1}', '{ \"b\":2}', \
           '00000000-0000-0000-0000-000000000001', '{1,NULL,3}', '{a,\"b c\",NULL}', 'ok', 5, '1 day 2 hours', 12.34, \
           '<a/>', '10.0.0.1/8', '[1,5)', 1, E'k\\t\\\\'), \
           (NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL, 2, ''); \
         INSERT INTO full_ SELECT i, repeat('v', i) FROM generate_series(1, 50) i; UPDATE full_ SET v = 'w' WHERE id < 10; DELETE FROM full_ WHERE id = 20; \
         INSERT INTO indexed SELECT i, 'b' || i, 'c' FROM generate_series(1, 50) i; UPDATE indexed SET b = 'z' || a WHERE a < 10; \
         INSERT INTO parted SELECT i, 'p' FROM generate_series(1, 150) i; UPDATE parted SET id = id + 99 WHERE id = 99",
    );
    deliver(&world);
    let run = verify(&world).run();
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.log);
    assert!(run.stdout.contains("5 equal, 0 different; 251 rows"), "{}", run.stdout);
    world.sql(&format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true)", world.publication));
    world.sql("UPDATE parted SET v = 'q'");
    deliver(&world);
    let run = verify(&world).with(&["public.parted"]).run();
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.log);
    assert!(run.stdout.contains("1 equal, 0 different; 150 rows"), "{}", run.stdout);
}

#[test]
fn row_filters_and_column_lists_hold_here_too() {
    let world = World::without_slot(
        Postgres::shared(),
        Kafka::shared(),
        "CREATE TABLE t (id int PRIMARY KEY, v int, secret text); CREATE TABLE u (a int, b int, c text, PRIMARY KEY (a, b)); \
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
    );
    world.sql(&format!(
        "DROP PUBLICATION {0}; \
         CREATE PUBLICATION {0} FOR TABLE t (id, v) WHERE (id > 10), u (b, a, c), ONLY parent, child",
        world.publication
    ));
    world.create_slot();
    world.sql(
        "INSERT INTO t SELECT i, i, 'hidden' FROM generate_series(1, 30) i; UPDATE t SET v = 0 WHERE id % 2 = 0; \
         DELETE FROM t WHERE id = 15; UPDATE t SET id = id + 100 WHERE id IN (5, 25); UPDATE t SET id = 3 + 200 WHERE id = 30; \
         UPDATE t SET id = 5 WHERE id = 29; INSERT INTO u VALUES (1, 2, 'x'); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1), (2)",
    );
    deliver(&world);
    let run = verify(&world).run();
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.log);
    let t = world.sql("SELECT count(*) FROM t WHERE id > 10");
    let [topic_t, topic_parent] = ["t", "parent"].map(|table| world.topic(table));
    expect_lines(
        &run,
        &[
            &format!("equal    public.t: {t} rows, topic {topic_t}"),
            &format!("equal    public.parent: 1 rows, topic {topic_parent}"),
        ],
    );
}

/// With an older snapshot the table would look empty.
#[test]
fn a_table_that_is_truncated_while_the_snapshot_is_taken_is_compared_by_another_snapshot() {
    let world = World::new(TABLE);
    let mut running = world.stream_to_kafka().deadline(120).spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 500) i");
    // A transaction with an xid holds the slot's creation up, and the truncation happens meanwhile.
    let (pg, database) = (world.pg.clone(), world.database.clone());
    let holder =
        std::thread::spawn(move || pg.sql(&database, "BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(8); COMMIT"));
    crate::servers::eventually("the transaction is open", 10, || {
        world.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND query LIKE '%pg_sleep(8)%' AND pid <> pg_backend_pid()") == "1"
    });
    let mut verifying = verify(&world).deadline(120).spawn();
    verifying.wait_for_log("taking the snapshot waits for older transactions to end");
    world.sql("TRUNCATE t; INSERT INTO t VALUES (7, 'y')");
    holder.join().expect("holder");
    let run = verifying.wait();
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.log);
    run.expect_log(&["truncated, rewritten or created while the snapshot was taken"]);
    running.terminate().expect_code(0);
}

#[test]
fn a_topic_whose_oldest_records_were_deleted_is_said_to_be_so() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    deliver(&world);
    let topic = world.topic("t");
    kafka::delete_records(&world.kafka.brokers, &topic, 1);
    let run = verify(&world).run().expect_code(65);
    let note = "note: the topic no longer has the records before offset 1 of partition 0";
    assert!(run.stdout.contains(note) && run.stdout.contains(r#"missing {"id":1}"#), "{}", run.stdout);
    // Without a topic everything is missing.
    world.kafka.delete_topic(&topic);
    let run = verify(&world).run().expect_code(65);
    expect_lines(&run, &["note: the topic does not exist"]);
}

#[test]
fn a_sigkill_leaves_nothing_behind() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100000) i");
    deliver(&world);
    let mut running = verify(&world).spawn();
    running.wait_for_log("snapshot taken");
    // It may be reading a temporary copy of the stream's slot.
    let lasting = "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary AND database = current_database()";
    assert_eq!(world.sql(lasting), "1", "only the stream's own slot would outlive the session");
    running.signal(libc::SIGKILL);
    running.wait();
    crate::servers::eventually("its sessions are gone", 20, || {
        world.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcat' AND datname = current_database()",
        ) == "0"
    });
    no_slot_is_left(&world);
}

#[test]
fn a_table_without_a_key_has_to_have_each_row_as_often_as_its_topic() {
    let world = World::new("CREATE TABLE log (v text, w text); ALTER TABLE log REPLICA IDENTITY FULL");
    let topic = world.topic("log");
    world.kafka.create_topic(&topic, &["--partitions", "3"]);
    // One value is TOASTed, and the update leaves it unchanged.
    let long = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i";
    world.sql(&format!("INSERT INTO log SELECT i % 50, ({long}) FROM generate_series(1, 200) i"));
    world.sql(
        "UPDATE log SET v = 'new' WHERE v = '7'; DELETE FROM log WHERE v = '8'; INSERT INTO log VALUES (NULL, NULL)",
    );
    deliver(&world);
    let run = verify(&world).run().expect_code(0);
    expect_lines(&run, &[&format!("equal    public.log: 197 rows, topic {topic}")]);
    assert!(run.stdout.contains("note: the records have no key"), "{}", run.stdout);

    // A repeat.
    let record = kafka::read_committed(&world.kafka.brokers, &topic).remove(0).value.expect("a value").to_string();
    produce(&world, &topic, 1, "", Some(&record));
    let run = verify(&world).run().expect_code(65);
    expect_lines(&run, &[&format!("differs  public.log: 197 rows, topic {topic}: 0 missing, 1 surplus, 0 different")]);
    assert!(run.stdout.contains("a surplus row may be a repeat"), "{}", run.stdout);

    world.sql("TRUNCATE log; INSERT INTO log VALUES ('a', 'b'), ('a', 'b')");
    deliver(&world);
    expect_lines(&verify(&world).run().expect_code(0), &[&format!("equal    public.log: 2 rows, topic {topic}")]);
}

#[test]
fn the_topics_of_a_snapshot_alone_equal_the_tables_without_a_slot() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    world.sql("CREATE TABLE log (v text); INSERT INTO log SELECT i % 9 FROM generate_series(1, 3000) i");
    world.sql(
        "INSERT INTO t SELECT i, repeat('x', i % 100) FROM generate_series(1, 20000) i; DELETE FROM t WHERE id % 7 = 0",
    );
    let run = |command: &str, more: &[&str]| {
        Walcat::new(&[command, "--dsn", &world.dsn(), "--publication", &world.publication])
            .with(&["--topic-prefix", &world.prefix, "--brokers", &world.kafka.brokers])
            .with(more)
            .run()
            .expect_code(0)
    };
    run("stream", &["--snapshot", "only"]);
    let verified = run("verify", &[]);
    let (t, log) = (world.topic("t"), world.topic("log"));
    let lines =
        [format!("equal    public.log: 3000 rows, topic {log}"), format!("equal    public.t: 17143 rows, topic {t}")];
    expect_lines(&verified, &[&lines[0], &lines[1]]);
}
