//! Each row of the table of exit codes, with its message and its hint, on real servers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::kafka;
use crate::servers::{Kafka, Postgres, World, eventually, file};
use crate::walcat::Walcat;

/// No process listens on this port.
const NOBODY: &str = "127.0.0.1:1";
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[test]
fn two_for_a_command_line_that_is_wrong() {
    let complete = ["stream", "--dsn", "host=/nowhere", "--slot", "s", "--publication", "p", "--brokers", NOBODY];
    for (arguments, texts) in [
        (&["--flubb"] as &[&str], &["unexpected argument '--flubb'"] as &[&str]),
        (&["--endpos", "0/xyz"], &["--endpos: invalid LSN \"0/xyz\"", "hint: see walcat stream --help"]),
        (&["--startpos", "16B3748"], &["--startpos: invalid LSN \"16B3748\"", "hint: "]),
        (&["--startpos", "0/5", "--endpos", "0/4"], &["--endpos and --startpos contradict", "before the start"]),
        (&["--wait", "5"], &["--wait: missing unit", "hint: "]),
        (&["--sink", "sock"], &["--sink: invalid value \"sock\": use kafka or stdout", "hint: "]),
        (&["-X", "acks=1"], &["-X acks", "hint: "]),
        (
            &["-X", "max.request.size=1"],
            &["-X max.request.size: a property of Kafka's Java client", "message.max.bytes"],
        ),
    ] {
        let run = Walcat::new(&complete).with(arguments).run().expect_code(2).expect_log(texts);
        assert!(!run.log.contains("/nowhere"), "it has not connected: {}", run.log);
    }
    let slot = ["stream", "--dsn", "host=/nowhere", "--slot", "A-b", "--publication", "p", "--brokers", NOBODY];
    Walcat::new(&slot).run().expect_code(2).expect_log(&["--slot: invalid slot name \"A-b\"", "a-z, 0-9 and _"]);
    let none = ["stream", "--dsn", "host=/nowhere", "--slot", "s", "--publication", "p"];
    Walcat::new(&none).run().expect_code(2).expect_log(&[
        "missing required setting: brokers",
        "hint: ",
        "WALCAT_BROKERS",
    ]);
    let scheme = Walcat::new(&none).with(&["--brokers", "SASL_SSL://b:9092"]).run().expect_code(2);
    scheme.expect_log(&["--brokers: invalid broker: write HOST:PORT", "hint: ", "security.protocol"]);
    let nothing = Walcat::new(&["stream"]).run().expect_code(2);
    nothing.expect_log(&["missing required settings: slot, publication, brokers", "WALCAT_SLOT", "WALCAT_BROKERS"]);
    Walcat::new(&["flubb"]).run().expect_code(2);
}

#[test]
fn an_error_in_the_settings_is_a_line_of_json_if_the_log_is() {
    let json = file("json.toml", "log_format = \"json\"\nflubb = 1\n");
    let broken = file("broken.toml", "log_format = \"json\"\nslot = \n");
    for (arguments, variable, code, message) in [
        (&["stream", "--log-format", "json", "--flubb"] as &[&str], "", 2, "unexpected argument '--flubb' found"),
        (&["flubb"], "json", 2, "unrecognized subcommand 'flubb'"),
        (&["stream", "--log-format=json", "--endpos", "0/xyz"], "", 2, "--endpos: invalid LSN"),
        (&["stream"], "json", 2, "missing required settings: slot, publication, brokers"),
        (&["check", "--config", &json], "", 78, "json.toml:2: flubb: unknown key"),
        (&["slot", "status", "-c", &broken], "", 78, "broken.toml:2: "),
        (&["stream", "-c", "/nowhere/walcat.toml"], "json", 78, "cannot read the configuration file"),
    ] {
        let run = Walcat::new(arguments).env("WALCAT_LOG_FORMAT", variable).run().expect_code(code);
        let lines: Vec<&str> = run.log.lines().collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {}", run.log);
        let line: serde_json::Value = serde_json::from_str(lines[0]).expect("an object");
        assert!(line["message"].as_str().expect("text").contains(message), "{arguments:?}: {line}");
        assert_eq!((&line["level"], &line["exit_code"]), (&"error".into(), &code.into()), "{line}");
        assert!(line["ts"].is_string() && line["target"] == "walcat" && line["hint"].is_string(), "{line}");
    }
    let text = Walcat::new(&["stream", "--flubb"]).run().expect_code(2);
    assert!(text.log.starts_with("error: unexpected argument '--flubb' found\n"), "{}", text.log);
}

#[test]
fn sixty_five_for_a_record_that_is_larger_than_its_topic_takes() {
    let world = World::new(TABLE);
    world.kafka.create_topic(&world.topic("t"), &["--config", "max.message.bytes=2000"]);
    world.sql("INSERT INTO t VALUES (1, 'small')");
    let before = world.wal_lsn();
    world.sql("INSERT INTO t SELECT 2, string_agg(md5(random()::text), '') FROM generate_series(1, 32768)");
    let run = world.stream_to_kafka().with(&["--once"]).run().expect_code(65);
    run.expect_log(&[&world.topic("t"), "hint: ", "max.message.bytes", "message.max.bytes", "start walcat again"]);
    let passed = world.sql(&format!("SELECT '{}'::pg_lsn > '{before}'", world.confirmed()));
    assert_eq!(passed, "f", "{} is past {before}", world.confirmed());
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    assert!(records.iter().all(|record| record.key == Some(serde_json::json!({"id": 1}))), "{records:?}");
}

#[test]
fn sixty_five_for_a_record_without_key_in_a_compacted_topic() {
    let world = World::new("CREATE TABLE t (v int)");
    world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
    let before = world.confirmed();
    world.sql("INSERT INTO t VALUES (1)");
    let run = world.stream_to_kafka().with(&["--once"]).run().expect_code(65);
    run.expect_log(&[&world.topic("t"), "hint: ", "primary key", "cleanup.policy to delete"]);
    assert_eq!(world.confirmed(), before);
}

#[test]
fn a_truncation_for_a_compacted_topic_is_skipped_with_one_warning() {
    let world = World::new(TABLE);
    world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
    for id in 1..=3 {
        world.sql(&format!("INSERT INTO t VALUES ({id}, 'x')"));
        world.sql("TRUNCATE t");
    }
    let run = world.stream_to_kafka().with(&["--once"]).run().expect_code(0);
    assert_eq!(run.log.matches("WARN").count(), 1, "{}", run.log);
    let run = run.expect_log(&[&world.topic("t"), "compacted"]);
    let records = kafka::read(&world.kafka.brokers, &world.topic("t"));
    assert_eq!(records.iter().map(kafka::Record::op).collect::<Vec<_>>(), ["c", "c", "c"], "{}", run.log);
}

#[test]
fn sixty_six_for_a_recording_that_is_not_there_and_sixty_five_for_a_file_that_is_none() {
    Walcat::new(&["decode", "/nowhere/at/all"]).run().expect_code(66).expect_log(&["cannot read /nowhere/at/all"]);
    Walcat::new(&["decode", &file("none.rec", "this is no recording")]).run().expect_code(65);
}

#[test]
fn sixty_nine_for_a_server_that_is_not_there() {
    let dsn = "host=127.0.0.1 port=1 dbname=postgres user=postgres";
    let run = Walcat::new(&["stream", "--dsn", dsn, "--slot", "s", "--publication", "p", "--sink", "stdout"]).run();
    run.expect_code(69).expect_log(&["cannot connect to PostgreSQL", "hint: check host and port"]);
    let arguments = ["stream", "--dsn", dsn, "--slot", "s", "--publication", "p", "--sink", "stdout"];
    let run = Walcat::new(&arguments).with(&["--log-format", "json"]).run().expect_code(69);
    let last: serde_json::Value = serde_json::from_str(run.log.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["level"], &last["exit_code"]), (&"error".into(), &69.into()));
    assert!(last["message"].to_string().contains("cannot connect to PostgreSQL"), "{last}");
    assert!(last["hint"].to_string().contains("check host and port"), "{last}");
    Walcat::new(&["slot", "status", "--dsn", dsn, "--slot", "s"]).run().expect_code(69);
}

#[test]
fn sixty_nine_for_a_slot_that_another_process_holds() {
    let world = World::new(TABLE);
    let holder = world.stream().with(&["--sink", "stdout"]).spawn();
    let active = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", world.slot);
    eventually("the slot is active", 20, || !world.sql(&active).is_empty());
    let pid = world.sql(&active);
    let config = file("held.toml", "[retry]\nfor = \"1s\"\n");
    let run = world.stream().with(&["--sink", "stdout", "--config", &config]).run().expect_code(69);
    run.expect_log(&[&world.slot, "another process", &format!("pid {pid}"), "hint: stop the other process"]);
    holder.terminate().expect_code(0);
}

#[test]
fn sixty_nine_for_a_broker_that_does_not_come_within_its_time() {
    let world = World::new(TABLE);
    world.sql("INSERT INTO t VALUES (1, 'x')");
    let before = world.confirmed();
    let config = file("broker.toml", "[retry]\nbroker_for = \"1s\"\n");
    let kafka = Kafka::start("lost-for-good", &[]);
    let run = world.stream().with(&["--brokers", &kafka.brokers, "--config", &config, "--quiet"]).spawn();
    world.wait_confirmed(20);
    kafka.stop();
    world.sql("INSERT INTO t VALUES (2, 'x')");
    let confirmed = world.confirmed();
    let run = run.wait().expect_code(69);
    run.expect_log(&[
        "has accepted no records for",
        &kafka.brokers,
        "hint: check brokers",
        "broker_for",
        "nothing is lost",
    ]);
    assert_eq!(world.sql(&format!("SELECT '{confirmed}'::pg_lsn > '{before}'")), "t");
}

#[test]
fn sixty_nine_for_a_broker_that_is_mistyped_at_once_and_before_a_slot_is_made() {
    let world = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    for (brokers, why) in [(NOBODY, "Connection refused"), ("no-such-host.invalid:9092", "Failed to resolve")] {
        let began = Instant::now();
        let run = world.stream().with(&["--brokers", brokers, "--create-slot", "--quiet"]).run().expect_code(69);
        run.expect_log(&[&format!("cannot reach Kafka ({brokers})"), why, "hint: check brokers", "--wait"]);
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
        assert_eq!(world.confirmed(), "", "no slot was made");
    }
    let began = Instant::now();
    let waited = world.stream().with(&["--brokers", NOBODY, "--wait", "3s"]).run().expect_code(69);
    let waited = waited.expect_log(&["Kafka does not answer yet: waiting", "cannot reach Kafka"]);
    assert!(began.elapsed() >= Duration::from_secs(3), "it took {:?}", began.elapsed());
    for once in ["Kafka does not answer yet: waiting", "FAIL: "] {
        assert_eq!(waited.log.matches(once).count(), 1, "{once}: {}", waited.log);
    }
}

#[test]
fn seventy_five_for_a_stop_before_a_broker_has_answered() {
    let world = World::new(TABLE);
    let mut run = world.stream().with(&["--brokers", NOBODY, "--wait", "forever"]).spawn();
    run.wait_for_log("Kafka does not answer yet");
    run.terminate().expect_code(75).expect_log(&["stopped by a signal while waiting for Kafka", "nothing is lost"]);
}

#[test]
fn a_failure_has_its_time_and_a_log_level_that_does_not_exist_silences_nothing() {
    let dsn = "host=127.0.0.1 port=1 dbname=postgres user=postgres";
    let run = Walcat::new(&["stream", "--dsn", dsn, "--slot", "s", "--publication", "p", "--sink", "stdout"]);
    let run = run.with(&["--wait", "1s"]).env("RUST_LOG", "walcat=chatty").run().expect_code(69);
    let run = run.expect_log(&["RUST_LOG is ignored", "filter=walcat=chatty", "PostgreSQL does not answer yet"]);
    for line in run.log.lines() {
        let (time, level) = (line.get(..24).unwrap_or_default(), line.get(25..30).unwrap_or_default());
        assert!(time.ends_with('Z') && ["ERROR", "WARN "].contains(&level), "{line}");
    }
    let last: Vec<&str> = run.log.lines().rev().take(2).collect();
    assert!(last[1].contains("ERROR cannot connect") && last[0].contains("ERROR hint: check host"), "{}", run.log);
}

#[test]
fn seventy_for_a_defect() {
    let run = Walcat::new(&["stream", "--dsn", "host=/nowhere", "--slot", "s", "--publication", "p"])
        .with(&["--sink", "stdout"])
        .env("WALCAT_TEST_PANIC", "1")
        .run();
    run.expect_code(70).expect_log(&["a defect in walcat, at src/", "hint: report these lines", "walcat --version"]);
}

#[test]
fn seventy_for_a_library_that_aborts() {
    let run = Walcat::new(&["stream", "--dsn", "host=/nowhere", "--slot", "s", "--publication", "p"])
        .with(&["--sink", "stdout"])
        .env("WALCAT_TEST_ABORT", "1")
        .run();
    run.expect_code(70).expect_log(&["aborted (SIGABRT)", "hint: report these lines", "walcat --version"]);
}

#[test]
fn seventy_eight_for_a_root_certificate_that_is_not_there() {
    let dsn = "host=127.0.0.1 port=1 dbname=postgres user=postgres sslmode=verify-full sslrootcert=/nowhere.crt";
    let run = Walcat::new(&["stream", "--dsn", dsn, "--slot", "s", "--publication", "p", "--sink", "stdout"]).run();
    run.expect_code(78)
        .expect_log(&["sslrootcert: cannot read /nowhere.crt: No such file", "hint: write it as for psql"]);
}

#[test]
fn seventy_one_for_a_recording_that_cannot_be_written() {
    let world = World::new(TABLE);
    let before = world.confirmed();
    world.sql("INSERT INTO t VALUES (1, 'x')");
    let full = world.stream().with(&["--sink", "stdout", "--record", "/dev/full", "--once"]).run().expect_code(71);
    full.expect_log(&["cannot write the recording /dev/full", "No space left"]);
    let nowhere = world.stream().with(&["--sink", "stdout", "--record", "/nowhere/file", "--once"]).run();
    nowhere.expect_code(71).expect_log(&["/nowhere/file"]);
    assert_eq!(world.confirmed(), before);
}

#[test]
fn seventy_five_for_a_stop_with_something_read_and_not_acknowledged() {
    let kafka = Kafka::start("away-at-the-end", &[]);
    let world = World::new(TABLE);
    let mut run = world.stream().with(&["--brokers", &kafka.brokers, "--shutdown-timeout", "1s"]).spawn();
    run.wait_for_log("streaming started");
    kafka.stop();
    world.sql("INSERT INTO t VALUES (1, 'x')");
    run.wait_for_log("WARN");
    let sent =
        format!("SELECT sent_lsn >= '{}' FROM pg_stat_replication WHERE application_name <> ''", world.wal_lsn());
    let active =
        format!("{sent} AND pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}')", world.slot);
    eventually("the change is sent", 20, || world.sql(&active) == "t");
    let run = run.terminate().expect_code(75);
    let run = run.expect_log(&["Kafka is not accepting records; waiting for it before the end"]);
    run.expect_log(&["stopped by a signal before", "confirmed up to", "hint: start walcat again: nothing is lost"]);
    let held = format!(
        "SELECT count(*) > 0 FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL, 'proto_version', '1', \
         'publication_names', '{}')",
        world.slot, world.publication
    );
    assert_eq!(world.sql(&held), "t", "the change is confirmed");
}

#[test]
fn the_first_signal_says_what_it_waits_for_before_an_outage_is_known() {
    for delivery in ["at-least-once", "exactly-once"] {
        let kafka = Kafka::start("slow-at-the-end", &[]);
        let world = World::new(TABLE);
        let arguments = ["--brokers", &kafka.brokers, "--shutdown-timeout", "2s", "--delivery", delivery, "-v"];
        let mut run = world.stream().with(&arguments).spawn();
        run.wait_for_log("streaming started");
        world.confirm_change("INSERT INTO t VALUES (1, 'x')", 30);
        kafka.signal(libc::SIGSTOP);
        let read = run.log().matches("transaction read").count();
        world.sql("INSERT INTO t VALUES (2, 'x')");
        run.wait_for_log_times("transaction read", read + 1);
        let asked = Instant::now();
        let run = run.terminate();
        let took = asked.elapsed();
        kafka.signal(libc::SIGCONT);
        let run = run.expect_code(75).expect_log(&[
            "INFO  signal: waiting until the records in flight are delivered (a second signal ends at once)",
            "wait_s=2",
        ]);
        assert!(took < Duration::from_secs(4), "{delivery}: it took {took:?} to stop:\n{}", run.log);
    }
}

/// Copies what the server sends. In a stream, it changes the type of the first pgoutput message to `?`.
fn damage(mut server: TcpStream, mut client: TcpStream) -> std::io::Result<()> {
    let mut streams = false;
    loop {
        let mut head = [0; 5];
        server.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        server.read_exact(&mut body)?;
        streams |= head[0] == b'W';
        if streams && head[0] == b'd' && body[0] == b'w' {
            body[25] = b'?';
        }
        client.write_all(&head)?;
        client.write_all(&body)?;
    }
}

#[test]
fn seventy_six_for_a_message_that_the_protocol_does_not_know() {
    let world = World::new(TABLE);
    let before = world.confirmed();
    world.sql("INSERT INTO t VALUES (1, 'x')");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    let server = format!("127.0.0.1:{}", world.pg.port);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.expect("client"), TcpStream::connect(&server).expect("server"));
            let (back, from) = (client.try_clone().expect("client"), server.try_clone().expect("server"));
            std::thread::spawn(move || damage(from, back));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut client, &mut server);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    let dsn = format!(
        "host=127.0.0.1 port={port} user=postgres dbname={} sslmode=disable gssencmode=disable",
        world.database
    );
    let run = Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--sink", "stdout", "--once"])
        .run()
        .expect_code(76);
    let run = run.expect_log(&["cannot be decoded, at ", "0x3f", "hint: nothing after the last confirmed LSN is lost"]);
    let (_, rest) = run.log.rsplit_once("decoded, at ").expect("place");
    let lsn = rest.split(':').next().expect("LSN");
    assert_eq!(world.sql(&format!("SELECT '{lsn}'::pg_lsn >= '{before}'")), "t", "{}", run.log);
    assert_eq!(world.confirmed(), before);
}

#[test]
fn seventy_seven_for_a_role_that_may_not_replicate() {
    let world = World::new(TABLE);
    world.sql(&format!("CREATE ROLE role_{} LOGIN", world.database));
    let dsn = format!("host=127.0.0.1 port={} user=role_{1} dbname={1}", world.pg.port, world.database);
    let run = Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--sink", "stdout", "--once"])
        .run();
    run.expect_code(77).expect_log(&["hint: ", "REPLICATION"]);
}

#[test]
fn seventy_seven_for_a_wrong_password_and_for_none() {
    let pg = Postgres::start("wrong-password", 15, &["--no-fsync", "--tls-scram"]);
    let variable = |name: &str| pg.variables[name].clone();
    let dsn = format!(
        "host={} port={} user={} dbname=postgres sslmode=verify-full sslrootcert={}",
        variable("TLS_HOST"),
        pg.port,
        variable("TLS_USER"),
        variable("CA_FILE")
    );
    let status = ["slot", "status", "--slot", "s", "--dsn", &dsn];
    let wrong = Walcat::new(&status).env("PGPASSWORD", "not-the-password").run().expect_code(77);
    wrong.expect_log(&["password authentication failed", "hint: check user, password and pg_hba.conf"]);
    let none = Walcat::new(&status).env("PGPASSFILE", "/nowhere").run().expect_code(77);
    none.expect_log(&["hint: put the password into ~/.pgpass"]);
    Walcat::new(&status).env("PGPASSWORD", &variable("TLS_PASSWORD")).run().expect_code(78);
}

/// A bytea is twice as long as text, and the maximum is 1 GB: the server fails each time.
#[test]
fn sixty_five_for_a_value_that_the_server_cannot_print() {
    // A peek does not show the table of the change, and the table that was read last is another one.
    for (engine, table) in [("streaming", ", last of the table public.t"), ("polling", "pg_get_wal_record_info('0/")] {
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY, v bytea); CREATE TABLE u (id int PRIMARY KEY)");
        world.sql("INSERT INTO u VALUES (1)");
        world.sql("INSERT INTO t VALUES (2, convert_to(repeat('x', 600000000), 'UTF8'))");
        // A failed peek returns nothing that precedes the change.
        let config = file("unprintable.toml", "[poll]\nmax_changes = 1\n");
        let arguments = ["--sink", "stdout", "--once", "--engine", engine, "--config", &config];
        let run = world.stream().with(&arguments).deadline(180).run();
        let run = run.expect_code(65).expect_log(&[
            "the server cannot print the change at 0/",
            "invalid memory alloc request size",
            table,
            "hint: ",
            "pg_replication_slot_advance",
        ]);
        assert!(!run.log.contains("public.u"), "{}", run.log);
        assert!(!run.log.contains("; reconnecting"), "{}", run.log);
        assert_eq!(run.stdout.lines().count(), 1, "what is before it is delivered");
    }
}
