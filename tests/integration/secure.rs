//! TLS and SCRAM with PostgreSQL and with Kafka.

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually};
use crate::walcat::Walcat;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL";

/// Rows that are larger than a TLS record, which holds 16 kB.
fn insert_large(world: &World, low: u32, high: u32) {
    world.sql(&format!("INSERT INTO t SELECT id, repeat('x', 100000) FROM generate_series({low}, {high}) AS id"));
}

/// A stream that uses TLS, verifies the server and authenticates with SCRAM.
fn stream_over_tls(world: &World) -> Walcat {
    let variable = |name: &str| &world.pg.variables[name];
    let dsn = format!(
        "host={} port={} user={} dbname={} sslmode=verify-full sslrootcert={}",
        variable("TLS_HOST"),
        world.pg.port,
        variable("TLS_USER"),
        world.database,
        variable("CA_FILE")
    );
    Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--topic-prefix", &world.prefix, "--sink", "stdout", "--stdout", "record"])
        .env("PGPASSWORD", variable("TLS_PASSWORD"))
}

#[test]
fn rows_larger_than_a_tls_record_arrive_whole_and_a_late_one_promptly() {
    let pg = Postgres::start("tls", 15, &["--no-fsync", "--tls-scram"]);
    let world = World::on(&pg, Kafka::shared(), TABLE);
    insert_large(&world, 1, 200);
    let records = stream_over_tls(&world).with(&["--once"]).run().expect_code(0).json_lines();
    assert_eq!(records.len(), 200);
    for (record, id) in records.iter().zip(1..) {
        assert_eq!(record["key"]["id"], id);
        assert_eq!(record["value"]["after"]["v"].as_str().map(str::len), Some(100_000));
    }

    // Bytes that OpenSSL has already decrypted do not make the socket readable: each of these must be read at once, although
    // the server sends nothing after it. The slot shows how far the stream is.
    let mut run = stream_over_tls(&world).with(&["--status-interval", "200ms"]).spawn();
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the stream has begun", 20, || world.sql(&active) == "t");
    let over_tls = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
    assert_eq!(world.sql(over_tls), "t");
    for round in 0..10 {
        let low = 1000 + round * 10;
        insert_large(&world, low, low + round);
        let end = world.wal_lsn();
        let confirmed = format!(
            "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{}'",
            world.slot
        );
        eventually("the late rows are confirmed", 5, || world.sql(&confirmed) == "t");
    }
    assert!(!run.has_ended());
    let run = run.terminate().expect_code(0);
    assert_eq!(run.json_lines().len(), 55);
}

#[test]
fn a_server_whose_certificate_is_not_to_be_trusted_is_not_talked_to() {
    let pg = Postgres::start("tls-untrusted", 15, &["--no-fsync", "--tls-scram"]);
    let other = crate::servers::file("not-the-ca.crt", "");
    let password = &pg.variables["TLS_PASSWORD"];
    for (host, certificate) in [("another.invalid", pg.variables["CA_FILE"].as_str()), ("localhost", &other)] {
        let dsn = format!(
            "host={host} hostaddr=127.0.0.1 port={} user=walcat_tls dbname=postgres sslmode=verify-full sslrootcert={certificate}",
            pg.port
        );
        let run = Walcat::new(&["slot", "status", "--slot", "s", "--dsn", &dsn]).env("PGPASSWORD", password).run();
        let run = run.expect_code(69).expect_log(&["cannot connect to PostgreSQL", "hint: "]);
        assert!(!run.log.contains(password), "{}", run.log);
    }
}

#[test]
fn kafka_takes_records_over_tls_from_a_scram_user_only() {
    let kafka = Kafka::start("sasl", &["--sasl-ssl"]);
    let world = World::on(Postgres::shared(), &kafka, TABLE);
    insert_large(&world, 1, 50);
    let before = world.confirmed();
    let variable = |name: &str| kafka.variables[name].as_str();
    let stream = |password: &str| {
        world
            .stream()
            .with(&["--brokers", variable("SASL_SSL_BROKERS"), "-X", "security.protocol=SASL_SSL"])
            .with(&["-X", "sasl.mechanism=SCRAM-SHA-256", "-X", "sasl.password=env:KAFKA_PASSWORD"])
            .with(&["-X", &format!("sasl.username={}", variable("SASL_USER"))])
            .with(&["-X", &format!("ssl.ca.location={}", variable("CA_FILE")), "--once"])
            .env("KAFKA_PASSWORD", password)
    };
    let wrong = stream("not-the-password").run().expect_code(77);
    let wrong = wrong.expect_log(&["Kafka rejected the connection", "hint: check security.protocol, sasl.* and ssl.*"]);
    assert!(!wrong.log.contains("not-the-password"), "{}", wrong.log);
    assert_eq!(world.confirmed(), before);
    let right = stream(variable("SASL_PASSWORD")).run().expect_code(0);
    assert!(!right.log.contains(variable("SASL_PASSWORD")), "{}", right.log);
    let ids: Vec<i64> = kafka::read(&kafka.brokers, &world.topic("t"))
        .iter()
        .map(|record| record.key.as_ref().expect("key")["id"].as_i64().expect("id"))
        .collect();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());

    // The reason why a broker does not answer is logged at every log level.
    for (brokers, properties, why) in [
        (variable("SASL_SSL_BROKERS"), vec!["-X", "security.protocol=PLAINTEXT"], "connection closed by peer"),
        (
            variable("SASL_SSL_BROKERS"),
            vec!["-X", "security.protocol=SASL_SSL", "-X", "sasl.mechanism=PLAIN", "-X", "sasl.username=a"],
            "certificate verify failed",
        ),
    ] {
        let run =
            world.stream().with(&["--brokers", brokers, "--once", "--quiet", "-X", "sasl.password=env:KAFKA_PASSWORD"]);
        let run = run.with(&properties).env("KAFKA_PASSWORD", "x").run().expect_code(69);
        run.expect_log(&["cannot reach Kafka", why, "hint: check brokers, security.protocol and ssl.*"]);
    }

    let check = Walcat::new(&["check", "--dsn", &world.dsn(), "--slot", &world.slot, "--publication"])
        .with(&[&world.publication, "--brokers", variable("SASL_SSL_BROKERS"), "-X", "security.protocol=SASL_SSL"])
        .with(&["-X", "sasl.mechanism=SCRAM-SHA-256", "-X", "sasl.password=env:KAFKA_PASSWORD"])
        .with(&["-X", &format!("sasl.username={}", variable("SASL_USER"))])
        .with(&["-X", &format!("ssl.ca.location={}", variable("CA_FILE"))])
        .env("KAFKA_PASSWORD", variable("SASL_PASSWORD"))
        .run()
        .expect_code(0);
    assert!(check.stdout.contains("reachable"), "{}", check.stdout);
}
