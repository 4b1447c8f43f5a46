//! Secrets stay secret: no output contains a password, and no log contains a column value, at any log level.

use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::{Finished, Walcat};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";
const MARKER: &str = "hunter2-planted";

/// A secret whose text shows where it leaked from.
fn planted(place: &str) -> String {
    format!("{MARKER}-{place}")
}

fn hides(run: &Finished) {
    for (name, output) in [("stdout", &run.stdout), ("stderr", &run.log)] {
        assert!(!output.contains(MARKER), "on {name}:\n{output}");
    }
}

/// `walcat stream -vv` with a secret in each setting that accepts one; the dsn begins with `host`.
fn with_secrets(world: &World, dsn: &str) -> Walcat {
    let key = file("keystore-password", &planted("file"));
    Walcat::new(&["stream", "-vv", "--dsn", &format!("{dsn} password={}", planted("dsn"))])
        .with(&["--slot", &world.slot, "--publication", &world.publication, "--topic-prefix", &world.prefix])
        .with(&["-X", "sasl.username=somebody", "-X", "sasl.password=env:PLANTED"])
        .with(&["-X", &format!("ssl.keystore.password=file:{key}")])
        .env("PLANTED", &planted("env"))
        .env("PGPASSWORD", &planted("pgpassword"))
        .env("RUST_LOG", "trace")
}

#[test]
fn no_password_is_in_the_output_of_a_run_that_works() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'x')");
    let run = with_secrets(&world, &world.dsn()).with(&["--brokers", &world.kafka.brokers, "--once"]).run();
    hides(&run.expect_code(0));
    world.sql("INSERT INTO t VALUES (2, 'x')");
    let run = with_secrets(&world, &world.dsn()).with(&["--sink", "stdout", "--once", "--log-format", "json"]).run();
    hides(&run.expect_code(0));
    let dump = with_secrets(&world, &world.dsn()).with(&["--dump", "json", "--once"]).run();
    hides(&dump.expect_code(0));
}

#[test]
fn no_password_is_in_the_output_of_a_run_that_fails() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'x')");
    let refused = "host=127.0.0.1 port=1 dbname=postgres user=postgres";
    hides(&with_secrets(&world, refused).with(&["--sink", "stdout"]).run().expect_code(69));
    let unknown = "host=127.0.0.1 prot=1 dbname=postgres user=postgres";
    hides(&with_secrets(&world, unknown).with(&["--sink", "stdout"]).run().expect_code(78));
    let missing = world.pg.dsn("no_such_database");
    hides(&with_secrets(&world, &missing).with(&["--sink", "stdout"]).run().expect_code(78));
    let config = file("broker.toml", "[retry]\nbroker_for = \"1s\"\n");
    let away = with_secrets(&world, &world.dsn()).with(&["--brokers", "127.0.0.1:1", "--config", &config]).run();
    hides(&away.expect_code(69));
    // The broker speaks no SASL and no TLS.
    let protocol = ["-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=PLAIN", "--config", &config];
    let plain = with_secrets(&world, &world.dsn()).with(&["--brokers", &world.kafka.brokers]).with(&protocol).run();
    assert_ne!(plain.code, Some(0));
    hides(&plain);
    let unset = ["-X", "ssl.key.password=env:NOT_SET", "--brokers", "127.0.0.1:1"];
    let unset = with_secrets(&world, &world.dsn()).with(&unset).run();
    hides(&unset.expect_code(78).expect_log(&["NOT_SET is not set"]));
    let defect = with_secrets(&world, &world.dsn()).with(&["--sink", "stdout"]).env("WALCAT_TEST_PANIC", "1").run();
    hides(&defect.expect_code(70));
}

#[test]
fn no_password_is_in_what_a_wrong_place_for_it_gives() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), "");
    let uri = format!("postgresql://somebody:{}@127.0.0.1:notaport/db", planted("uri"));
    let stream = ["stream", "-vv", "--sink", "stdout", "--slot", "s", "--publication", "p", "--dsn"];
    let run = Walcat::new(&stream).with(&[&uri]).run();
    assert_ne!(run.code, Some(0));
    hides(&run);
    let uri = format!("postgresql://somebody:{}%zz@127.0.0.1/db", planted("uri"));
    hides(&Walcat::new(&stream).with(&[&uri]).run().expect_code(78));
    // libpq interprets these as a database name, which the server repeats.
    for scheme in ["postgre://", "jdbc:postgresql://", ""] {
        let uri = format!("{scheme}somebody:{}@127.0.0.1/db", planted("scheme"));
        let run = Walcat::new(&stream).with(&[&uri]).env("PGHOST", "127.0.0.1").env("PGPORT", &world.pg.port);
        let run = run.env("PGUSER", "postgres").run().expect_code(78);
        hides(&run.expect_log(&["invalid conninfo", "hint: write it as for psql", "postgresql://"]));
    }
    let named = format!("host=127.0.0.1 port={} user=postgres dbname=a://b:{}@c", world.pg.port, planted("named"));
    hides(&Walcat::new(&stream).with(&[&named]).run().expect_code(78).expect_log(&["a://b:********@c"]));
    let quoted = format!("host=127.0.0.1 password='{}", planted("quote"));
    hides(&Walcat::new(&stream).with(&[&quoted]).run().expect_code(78));
    let config = file("wrong.toml", &format!("dsn = \"host=x\"\nslot = \"host=x password={}\"\n", planted("SLOT")));
    hides(&Walcat::new(&["stream", "--config", &config]).run().expect_code(78));
    let config = file("malformed.toml", &format!("dsn = \"host=x password={}\n", planted("malformed")));
    hides(&Walcat::new(&["stream", "--config", &config]).run().expect_code(78));
}

#[test]
fn print_config_masks_every_secret_and_says_where_it_is() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), "");
    let run = with_secrets(&world, &world.dsn()).with(&["--brokers", "127.0.0.1:1", "--print-config"]).run();
    let run = run.expect_code(0);
    hides(&run);
    for text in ["sasl.password", "ssl.keystore.password", "somebody", &world.slot, "topic_prefix"] {
        assert!(run.stdout.contains(text), "no {text} in:\n{}", run.stdout);
    }
    let uri = format!("postgresql://postgres:{}@127.0.0.1/db?password={}", planted("uri"), planted("query"));
    let dsn = Walcat::new(&["stream", "--print-config"]).env("WALCAT_DSN", &uri).run();
    hides(&dsn);
    let config = file(
        "secrets.toml",
        &format!("dsn = \"host=x password={0}\"\n[kafka]\n\"sasl.password\" = \"{0}\"\n", planted("config")),
    );
    hides(&Walcat::new(&["stream", "--print-config", "--config", &config]).run());
}

#[test]
fn no_value_of_a_cell_is_in_any_log() {
    let world = World::new(TABLE);
    world.sql(&format!("INSERT INTO t VALUES (1, '{MARKER}'); UPDATE t SET v = v || 'x', id = 2; DELETE FROM t"));
    world.sql(&format!("SELECT pg_logical_emit_message(true, 'p', '{MARKER}')"));
    let streamed = world.stream_to_kafka().with(&["-vv", "--once"]).env("RUST_LOG", "trace").run().expect_code(0);
    assert!(streamed.log.lines().count() > 5, "it logs a lot: {}", streamed.log);
    hides(&streamed);
    let records = crate::kafka::read(&world.kafka.brokers, &world.topic("t"));
    assert!(format!("{records:?}").contains(MARKER), "the value itself has arrived");
    world.sql(&format!("INSERT INTO t VALUES (3, '{MARKER}')"));
    let printed = world.stream().with(&["-vv", "--sink", "stdout", "--once"]).env("RUST_LOG", "trace").run();
    let printed = printed.expect_code(0);
    assert!(printed.stdout.contains(MARKER) && !printed.log.contains(MARKER), "{}", printed.log);
}

#[test]
fn no_value_of_a_cell_is_in_the_message_of_a_refusal() {
    let world = World::new("CREATE TABLE t (v text)");
    world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
    world.sql(&format!("INSERT INTO t VALUES ('{MARKER}')"));
    let run = world.stream_to_kafka().with(&["-vv", "--once"]).env("RUST_LOG", "trace").run().expect_code(65);
    hides(&run);
}
