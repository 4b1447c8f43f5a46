//! `walcat check` exits with 0 if and only if `walcat stream` starts and delivers: a table of mistakes, and of set-ups that
//! only look like mistakes.

use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::Walcat;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";
const INSERT: &str = "INSERT INTO t VALUES (1, 'x')";

/// A set-up, and the text of the line of `check` that reports it.
struct Case {
    what: &'static str,
    world: World,
    dsn: String,
    publication: String,
    brokers: String,
    config: String,
    flags: Vec<String>,
    works: bool,
    line: String,
}

impl Case {
    /// A correct set-up: a table with a row in the WAL, a publication, a slot.
    fn good(what: &'static str) -> Case {
        let world = World::new(TABLE);
        world.sql(INSERT);
        Case::of(what, world, true, "ok       start: ")
    }

    fn of(what: &'static str, world: World, works: bool, line: &str) -> Case {
        Case {
            what,
            dsn: world.dsn(),
            publication: world.publication.clone(),
            brokers: world.kafka.brokers.clone(),
            config: String::new(),
            flags: Vec::new(),
            works,
            line: line.to_owned(),
            world,
        }
    }

    /// A set-up that does not work.
    fn bad(what: &'static str, line: &str) -> Case {
        Case { works: false, line: line.to_owned(), ..Case::good(what) }
    }

    fn config(self, config: &str) -> Case {
        Case { config: config.to_owned(), ..self }
    }

    fn flag(mut self, flags: &[&str]) -> Case {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn walcat(&self, command: &str) -> Walcat {
        let config = file("check.toml", &self.config);
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Walcat::new(&[command, "--dsn", &self.dsn, "--publication", &self.publication, "--brokers", &self.brokers])
            .with(&["--slot", &self.world.slot, "--topic-prefix", &self.world.prefix, "--config", &config])
            .with(&["-X", "topic.metadata.propagation.max.ms=1000"])
            .with(&flags)
    }

    /// Runs `check`, then `stream` up to the end of the WAL, and expects that both agree.
    fn try_both(&self) {
        let stores = || -> Vec<String> {
            let all = crate::kafka::topics(&self.world.kafka.brokers);
            all.into_iter().filter(|topic| topic.ends_with(&format!(".{}", self.world.slot))).collect()
        };
        let (confirmed, before) = (self.world.confirmed(), stores());
        let check = self.walcat("check").run();
        let what = self.what;
        assert_eq!(self.world.confirmed(), confirmed, "{what}: check has moved the slot");
        assert_eq!(stores(), before, "{what}: check has created a topic");
        let stream = self.walcat("stream").with(&["--once"]).run();
        let said = format!(
            "{what}\ncheck: {:?}\n{}{}\nstream: {:?}\n{}",
            check.code, check.stdout, check.log, stream.code, stream.log
        );
        assert_eq!(stream.code == Some(0), self.works, "{said}");
        assert_eq!(check.code == Some(0), self.works, "{said}");
        assert!(check.stdout.contains(&self.line) || check.log.contains(&self.line), "no {:?}: {said}", self.line);
        let errors = check.stdout.lines().filter(|line| line.starts_with("error")).count();
        assert!(errors <= 1, "one mistake is one error: {said}");
    }
}

fn try_all(cases: Vec<Case>) {
    for case in cases {
        case.try_both();
    }
}

#[test]
fn check_and_stream_agree_on_the_publication() {
    let younger = |what, between: &str, works, line: &str| {
        let world = World::new(TABLE);
        world.sql(between);
        world.sql("CREATE PUBLICATION young FOR ALL TABLES");
        world.sql("INSERT INTO t VALUES (2, 'x')");
        let mut case = Case::of(what, world, works, line);
        case.publication = "young".to_owned();
        case
    };
    let mut missing = Case::bad("no publication", "publication nobody: does not exist");
    missing.publication = "nobody".to_owned();
    let altered = Case::good("a publication that was altered after the slot");
    altered.world.sql(&format!("ALTER PUBLICATION {} SET (publish = 'insert, update')", altered.world.publication));
    altered.world.sql("INSERT INTO t VALUES (2, 'x')");
    // A change is decoded with the catalog of its time: for changes before the drop, this is the earlier publication.
    let remade = |case: Case, between: &str| {
        let name = case.world.publication.clone();
        case.world.sql(&format!("DROP PUBLICATION {name}"));
        case.world.sql(between);
        case.world.sql(&format!("CREATE PUBLICATION {name} FOR ALL TABLES"));
        case
    };
    try_all(vec![
        Case::good("nothing is wrong"),
        younger("a change before the publication", INSERT, false, "error    publication young: younger than changes"),
        younger("no change before the publication", "SELECT 1", true, "ok       publication young: older than the"),
        missing,
        altered,
        remade(Case::good("a publication made again"), "SELECT 1"),
        remade(
            Case::bad("a change while it was away", "younger than changes that the slot"),
            "INSERT INTO t VALUES (2, 'x')",
        ),
    ]);
}

#[test]
fn check_and_stream_agree_on_the_slot_and_the_role() {
    let drop = |case: &Case| case.world.sql(&format!("SELECT pg_drop_replication_slot('{}')", case.world.slot));
    let gone = Case::bad("no slot", ": does not exist");
    drop(&gone);
    let made = Case { line: "walcat will create it".to_owned(), ..Case::good("a slot that is made") };
    drop(&made);
    let temporary = Case::good("a temporary slot").config("temporary_slot = true\n");
    drop(&temporary);
    let taken =
        Case::bad("a temporary slot of a name that is taken", "already exists").config("temporary_slot = true\n");
    let plugin = Case::bad("another plugin", "its plugin is test_decoding");
    drop(&plugin);
    plugin.world.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", plugin.world.slot));
    let mut elsewhere = Case::bad("a slot of another database", "belongs to the database");
    let other = World::without_slot(Postgres::shared(), Kafka::shared(), TABLE);
    (elsewhere.dsn, elsewhere.publication) = (other.dsn(), other.publication.clone());
    let mut role = Case::bad("a role that may not replicate", "role: does not have REPLICATION");
    role.world.sql(&format!("CREATE ROLE nobody_{} LOGIN", role.world.database));
    role.dsn = format!("host=127.0.0.1 port={} user=nobody_{1} dbname={1}", role.world.pg.port, role.world.database);
    let mut database = Case::bad("no database", "does not exist");
    database.dsn = database.world.pg.dsn("no_such_database");
    let past = Case::bad("a start past the end of the WAL", "past the end of the server's WAL");
    let cases = vec![gone, made.config("create_slot = true\n"), temporary, taken, plugin, elsewhere, database];
    try_all(cases);
    try_all(vec![past.config("startpos = \"FFFF/0\"\n")]);
    // The role has none of several privileges; each has its line.
    let check = role.walcat("check").run().expect_code(78);
    assert!(check.stdout.contains("error    role: does not have REPLICATION"), "{}", check.stdout);
    role.walcat("stream").with(&["--once"]).run().expect_code(77);
}

#[test]
fn check_and_stream_agree_on_the_state_file() {
    let state = |path: &str| format!("[state]\nfile = \"{path}\"\n");
    let directory = std::env::temp_dir();
    let long = directory.join("x".repeat(253));
    let cases = vec![
        Case::bad("no directory", "error    cannot write the state file").config(&state("/nowhere/walcat.state")),
        Case::bad("a directory", "error    cannot read the state file")
            .config(&state(directory.to_str().expect("UTF-8"))),
        Case::bad("a name that leaves no room", "error    cannot write the state file")
            .config(&state(long.to_str().expect("UTF-8"))),
        Case::bad("another file", "is not a walcat state file").config(&state(&file("other.state", "hello"))),
        Case::good("a state file to be").config(&state(&format!("{}.new", file("good.state", "")))),
    ];
    try_all(cases);
    let path = format!("{}.moved", file("moved.state", ""));
    let moved = Case::bad("a slot that was moved", "error    start: ").config(&state(&path));
    moved.walcat("stream").with(&["--once"]).run().expect_code(0);
    moved.world.sql("INSERT INTO t VALUES (2, 'x')");
    moved.world.sql(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", moved.world.slot));
    moved.try_both();
}

/// A position that walcat keeps outside the slot: in a file, in a topic, and in the transactions of exactly-once delivery.
#[test]
fn check_and_stream_agree_on_a_stored_position() {
    let path = file("position.state", "");
    for config in [
        format!("[state]\nfile = \"{path}\"\n"),
        "[state]\ntopic = true\n".to_owned(),
        "delivery = \"exactly-once\"\n".to_owned(),
    ] {
        // Creates the store and delivers one row.
        let used = |case: Case, more: &str| {
            let _ = std::fs::remove_file(&path);
            let case = case.config(&config);
            case.walcat("stream").with(&["--once"]).run().expect_code(0);
            case.world.sql("INSERT INTO t VALUES (2, 'x')");
            case.config(&format!("{more}{config}"))
        };
        let in_step = used(Case::good("a position in step with the slot"), "");
        in_step.try_both();
        let moved = used(Case::bad("a slot that was moved past the position", "error    start: gap: "), "");
        let slot = &moved.world.slot;
        moved.world.sql(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"));
        moved.try_both();
        let dropped =
            used(Case::bad("a position of a slot that was dropped", "the slot was dropped"), "create_slot = true\n");
        dropped.world.sql(&format!("SELECT pg_drop_replication_slot('{}')", dropped.world.slot));
        dropped.try_both();
        if config.contains("file") {
            continue;
        }
        let deleted = used(Case::bad("a checkpoint topic that was deleted", "does not exist, but the slot"), "");
        let system = deleted.world.sql("SELECT system_identifier FROM pg_control_system()");
        let topic = format!("__walcat.{system}.{}.{}", deleted.world.database, deleted.world.slot);
        deleted.world.kafka.delete_topic(&topic);
        deleted.try_both();
        // The first attempt has written its start record.
        deleted.try_both();
        let foreign = Case::bad("a checkpoint topic of something else", "cannot read the checkpoint topic");
        let topic = format!("__walcat.{system}.{}.{}", foreign.world.database, foreign.world.slot);
        foreign.world.kafka.create_topic(&topic, &["--config", "cleanup.policy=compact"]);
        crate::kafka::produce(&foreign.world.kafka.brokers, &topic, "k", "hello");
        foreign.config(&config).try_both();
    }
}

#[test]
fn check_and_stream_agree_on_the_time_of_a_transaction() {
    let timeout = |ms: &str| format!("delivery = \"exactly-once\"\n[kafka]\n\"transaction.timeout.ms\" = \"{ms}\"\n");
    // The broker's default is 15 minutes.
    try_all(vec![
        Case::bad("longer than the broker allows", "error    transaction.timeout.ms").config(&timeout("900001")),
        Case { line: "ok       transaction.timeout.ms".to_owned(), ..Case::good("as long as the broker allows") }
            .config(&timeout("900000")),
    ]);
}

#[test]
fn check_and_stream_agree_on_the_tables() {
    let keyless = World::new("CREATE TABLE t (id int, v text)");
    keyless.sql(INSERT);
    let compacted = |what, works, line: &str| {
        let world = World::new("CREATE TABLE t (id int, v text)");
        world.sql(INSERT);
        world.kafka.create_topic(&world.topic("t"), &["--config", "cleanup.policy=compact"]);
        Case::of(what, world, works, line)
    };
    let shared = World::new("CREATE TABLE \"a b\" (id int PRIMARY KEY); CREATE TABLE a_b (id int PRIMARY KEY)");
    shared.sql("INSERT INTO \"a b\" VALUES (1); INSERT INTO a_b VALUES (1)");
    try_all(vec![
        Case::of("a table without a key", keyless, true, "warning  table public.t: no replica identity"),
        compacted("a compacted topic for records without key", false, "error    topic "),
        compacted("the same, skipped", true, "warning  topic ").config("on_error = \"skip\"\n"),
        Case::of("two tables for one topic", shared, false, "would share the topic"),
    ]);
}

#[test]
fn check_and_stream_agree_on_kafka() {
    let topics = "[topics]\ncreate = true\n";
    let mut away = Case::bad("no broker", "error    brokers 127.0.0.1:1: cannot reach Kafka");
    away.brokers = "127.0.0.1:1".to_owned();
    try_all(vec![
        away,
        Case::bad("an unknown property", "no such property of librdkafka").flag(&["-X", "lingr.ms=5"]),
        Case::bad("no mechanism", "needs sasl.mechanism").flag(&["-X", "security.protocol=SASL_SSL"]),
        Case { line: "walcat will create it".to_owned(), ..Case::good("topics to be made") }.config(topics),
        Case { line: "checkpoint topic __walcat.".to_owned(), ..Case::good("a topic for the position") }
            .config("[state]\ntopic = true\n"),
        Case::bad("topics that Kafka refuses", "Kafka rejects its creation")
            .config(&format!("{topics}properties = {{ \"cleanup.policy\" = \"nonsense\" }}\n")),
        Case::good("exactly once").flag(&["--delivery", "exactly-once"]),
    ]);
}

#[test]
fn check_and_stream_agree_on_topics_that_nobody_makes() {
    let kafka = Kafka::start("check-no-auto-create", &["--set", "auto.create.topics.enable=false"]);
    let case = |what, works, line: &str| {
        let world = World::on(Postgres::shared(), &kafka, TABLE);
        world.sql(INSERT);
        Case::of(what, world, works, line)
    };
    let there = case("a topic that is there", true, "exists (cleanup.policy=delete)");
    kafka.create_topic(&there.world.topic("t"), &[]);
    try_all(vec![
        case("no topic", false, "does not exist, and neither walcat nor the broker creates it"),
        case("no topic, and walcat makes it", true, "walcat will create it").config("[topics]\ncreate = true\n"),
        there,
    ]);
}
