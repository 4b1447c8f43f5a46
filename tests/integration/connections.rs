//! Settings of the role, the database or the environment have no effect, and the connection to the catalog may be lost.

use std::time::{Duration, Instant};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

/// A table and a key column with names that are not ASCII: "größe" and "schlüssel".
const UMLAUTS: &str = r#"CREATE TABLE U&"gr\00f6\00dfe" (U&"schl\00fcssel" int, b int, PRIMARY KEY (b, U&"schl\00fcssel"));
     ALTER TABLE U&"gr\00f6\00dfe" REPLICA IDENTITY FULL"#;
const UMLAUT_ROW: &str = r#"INSERT INTO U&"gr\00f6\00dfe" VALUES (1, 2)"#;
const UMLAUT_KEY: &str = r#"{"b":2,"schlüssel":1}"#;

/// A role for one test that has REPLICATION and is not a superuser.
fn role(world: &World) -> String {
    let role = format!("role_{}", world.slot);
    world.sql(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN REPLICATION"));
    role
}

fn stream_as(world: &World, role: &str) -> Walcat {
    let dsn = world.dsn().replace("user=postgres", &format!("user={role}"));
    Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication]).with(&[
        "--topic-prefix",
        &world.prefix,
        "--brokers",
        &world.kafka.brokers,
    ])
}

fn to_stdout(walcat: Walcat) -> Walcat {
    walcat.with(&["--sink", "stdout", "--stdout", "record", "--once"])
}

/// The keys of all lines, unchanged.
fn keys(stdout: &str) -> Vec<String> {
    let key = |line: &str| {
        let from = line.find("\"key\":").expect(line) + "\"key\":".len();
        line[from..line.find(",\"headers\":").expect(line)].to_owned()
    };
    stdout.lines().map(key).collect()
}

/// The process ID of the session that queries the catalog of a database.
fn catalog_pid(world: &World) -> String {
    world.sql(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'walcat' AND backend_type = 'client backend' \
         AND datname = current_database()",
    )
}

fn walsender_pid(world: &World) -> String {
    world.sql(&format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", world.slot))
}

#[test]
fn tables_with_names_beyond_ascii_are_found_in_databases_of_every_encoding() {
    for encoding in ["LATIN1", "UTF8"] {
        for engine in ["streaming", "polling"] {
            let world = World::with_encoding(encoding, UMLAUTS);
            world.sql(UMLAUT_ROW);
            let run = to_stdout(world.stream()).with(&["--engine", engine]).env("PGCLIENTENCODING", "LATIN1").run();
            assert_eq!(keys(&run.expect_code(0).stdout), [UMLAUT_KEY], "{encoding} {engine}");
        }
    }
}

#[test]
fn a_publication_with_a_name_beyond_ascii_is_found_by_both_engines() {
    let world = World::with_encoding("LATIN1", "CREATE TABLE t (id int PRIMARY KEY)");
    world.sql(r#"CREATE PUBLICATION U&"ver\00f6ffentlichung" FOR ALL TABLES"#);
    for engine in ["streaming", "polling"] {
        let slot = format!("{}_{engine}", world.slot);
        world.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
        world.sql("TRUNCATE t; INSERT INTO t VALUES (1)");
        let run = to_stdout(Walcat::new(&["stream", "--dsn", &world.dsn(), "--slot", &slot, "--engine", engine]))
            .with(&["--publication", "veröffentlichung"])
            .run();
        assert_eq!(keys(&run.expect_code(0).stdout), ["null", r#"{"id":1}"#], "{engine}");
    }
}

#[test]
fn what_the_role_sets_does_not_matter() {
    let world = World::new(UMLAUTS);
    let role = role(&world);
    for setting in [
        "client_encoding = 'LATIN1'",
        "statement_timeout = '10ms'",
        "lock_timeout = '1ms'",
        "idle_session_timeout = '100ms'",
        "search_path = 'nowhere'",
        "standard_conforming_strings = off",
        "default_transaction_isolation = 'serializable'",
    ] {
        world.sql(&format!("ALTER ROLE {role} RESET ALL; ALTER ROLE {role} SET {setting}"));
        world.sql(UMLAUT_ROW);
        let run = to_stdout(stream_as(&world, &role)).run();
        assert_eq!(keys(&run.expect_code(0).stdout), [UMLAUT_KEY], "{setting}");
        world.sql(r#"TRUNCATE U&"gr\00f6\00dfe""#);
        to_stdout(stream_as(&world, &role)).run().expect_code(0);
    }
}

#[test]
fn a_conninfo_that_asks_for_replication_is_taken() {
    let world = World::new(UMLAUTS);
    world.sql(UMLAUT_ROW);
    let dsn = format!("{} replication=database", world.dsn());
    let run = |words: &[&str]| Walcat::new(words).with(&["--dsn", &dsn, "--slot", &world.slot]).run();
    run(&["slot", "status"]).expect_code(0);
    let publication = world.publication.as_str();
    let streamed = run(&["stream", "--publication", publication, "--sink", "stdout", "--stdout", "record", "--once"]);
    assert_eq!(keys(&streamed.expect_code(0).stdout), [UMLAUT_KEY]);
    world.sql(UMLAUT_ROW.replace("(1, 2)", "(3, 2)").as_str());
    let arguments = ["--publication", publication, "--sink", "stdout", "--stdout", "record", "--once"];
    let polled = run(&[&["stream", "--engine", "polling"], &arguments[..]].concat());
    assert_eq!(keys(&polled.expect_code(0).stdout), [r#"{"b":2,"schlüssel":3}"#]);
}

#[test]
fn a_catalog_connection_that_ends_while_it_is_idle_is_made_again_beside_the_stream() {
    let world = World::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)");
    let mut running = world.stream_to_kafka().spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO a VALUES (1)", 30);
    let (catalog, walsender) = (catalog_pid(&world), walsender_pid(&world));
    assert_ne!(catalog, "");
    assert_eq!(world.sql(&format!("SELECT pg_terminate_backend({catalog})")), "t");
    eventually("it has ended", 30, || catalog_pid(&world).is_empty());
    world.confirm_change("INSERT INTO b VALUES (1)", 30);
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("b")).len(), 1);
    assert_eq!(walsender_pid(&world), walsender);
    let run = running.terminate().expect_code(0);
    assert!(!run.log.contains("interrupted"), "{}", run.log);
}

#[test]
fn a_server_without_a_connection_for_the_catalog_is_asked_again_while_the_stream_stays() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let role = role(&world);
    world.sql(&format!("ALTER ROLE {role} SET wal_sender_timeout = '2s'"));
    let mut running = stream_as(&world, &role).spawn();
    running.wait_for_log("streaming started");
    let walsender = walsender_pid(&world);
    world.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    world.sql("INSERT INTO t VALUES (1)");
    running.wait_for_log("cannot query the catalog of PostgreSQL");
    // Longer than the server's timeout for an idle session.
    let since = Instant::now();
    eventually("the server's patience has passed", 30, || since.elapsed() > Duration::from_secs(4));
    assert_eq!(walsender_pid(&world), walsender);
    world.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    world.wait_confirmed(30);
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("t")).len(), 1);
    assert_eq!(walsender_pid(&world), walsender);
    let run = running.terminate().expect_code(0);
    assert!(!run.log.contains("interrupted"), "{}", run.log);

    let config = file("budget.toml", "[retry]\nfor = \"2s\"\n");
    let mut running = stream_as(&world, &role).with(&["--config", &config]).spawn();
    running.wait_for_log("streaming started");
    world.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT 0; TRUNCATE t"));
    let run = running.wait().expect_code(69);
    run.expect_log(&["the catalog of PostgreSQL could not be asked for 2 s", "too many connections", "hint: "]);
    world.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    assert_eq!(to_stdout(stream_as(&world, &role)).run().expect_code(0).stdout.lines().count(), 1);
}

/// Of two hosts, the first is a standby that starts again after the stream has started on the second, and lags behind.
#[test]
fn the_catalog_is_asked_where_the_stream_comes_from() {
    let primary = Postgres::start("home", 15, &["--no-fsync"]);
    let (standby, _) = primary.standby("lagging");
    let world = World::on(&primary, Kafka::shared(), "CREATE TABLE first (id int PRIMARY KEY)");
    standby.sql("postgres", "ALTER SYSTEM SET recovery_min_apply_delay = '1h'");
    standby.stop("fast");
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname={}",
        standby.port, primary.port, world.database
    );
    let mut running = Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot])
        .with(&["--publication", &world.publication, "--topic-prefix", &world.prefix])
        .with(&["--brokers", &world.kafka.brokers])
        .spawn();
    running.wait_for_log("streaming started");
    standby.restart();
    // The columns are in the order of the key, not of the table.
    world.confirm_change("CREATE TABLE t (a int, b int, PRIMARY KEY (b, a)); INSERT INTO t VALUES (1, 2)", 30);
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    assert_eq!(records.len(), 1);
    let run = running.terminate().expect_code(0);
    assert!(!run.log.contains("the table is gone"), "{}", run.log);
    standby.stop("immediate");
    primary.stop("immediate");
}

#[test]
fn a_transaction_may_take_longer_than_transaction_timeout() {
    let pg = Postgres::start("transaction-timeout", 17, &["--no-fsync"]);
    for engine in ["streaming", "polling"] {
        let world = World::on(&pg, Kafka::shared(), "CREATE TABLE t (id int PRIMARY KEY, v text)");
        let role = role(&world);
        world.sql("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 100000) i");
        world.sql(&format!("ALTER ROLE {role} SET transaction_timeout = '20ms'"));
        let run = to_stdout(stream_as(&world, &role)).with(&["--engine", engine]).run().expect_code(0);
        assert_eq!(run.stdout.lines().count(), 100_000, "{engine}");
        assert!(!run.log.contains("interrupted"), "{}", run.log);
    }
    pg.stop("fast");
}

#[test]
fn polling_continues_if_its_interval_is_longer_than_idle_session_timeout() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let role = role(&world);
    world.sql(&format!("ALTER ROLE {role} SET idle_session_timeout = '500ms'"));
    let config = file("poll.toml", "[poll]\ninterval = \"2s\"\n[retry]\nfor = \"0s\"\n");
    let mut running = stream_as(&world, &role).with(&["--engine", "polling", "--config", &config]).spawn();
    running.wait_for_log("streaming started");
    for id in 1..=3 {
        world.confirm_change(&format!("INSERT INTO t VALUES ({id})"), 30);
    }
    assert_eq!(kafka::read(&world.kafka.brokers, &world.topic("t")).len(), 3);
    running.terminate().expect_code(0);
}
