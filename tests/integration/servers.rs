//! The servers. One PostgreSQL 15 and one Kafka are shared; tests that stop servers start their own.

#![allow(unsafe_code, reason = "stops the servers at the exit")]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::walcat::{Walcat, signal_process};

/// Stops this process's servers when the process ends, whatever the result of the tests.
extern "C" fn stop_shared() {
    stop("pg-down", &format!("{}-*", prefix()));
    stop("kafka-down", &format!("{}-*", prefix()));
}

fn prefix() -> String {
    format!("test-{}", std::process::id())
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn stop(script: &str, name: &str) {
    let script = root().join("scripts").join(script);
    let _ =
        Command::new(script).args(["--name", name, "--delete"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Runs a script that prints KEY=VALUE lines.
fn up(script: &str, arguments: &[&str]) -> HashMap<String, String> {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // SAFETY: the function takes no argument and runs at the end of the process, on the thread that ends it.
        assert_eq!(unsafe { libc::atexit(stop_shared) }, 0);
    });
    let output = Command::new(root().join("scripts").join(script)).args(arguments).output().expect(script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {stderr}");
    let lines = String::from_utf8(output.stdout).expect(script);
    lines.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

/// A PostgreSQL server.
#[derive(Clone, Debug)]
pub struct Postgres {
    name: String,
    pub version: u32,
    pub port: String,
    pub variables: HashMap<String, String>,
}

impl Postgres {
    /// The shared server.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        let room = ["--no-fsync", "-c", "max_replication_slots=100", "-c", "max_wal_senders=100"];
        SHARED.get_or_init(|| Postgres::start("shared", 15, &room))
    }

    /// Another server, with further arguments for `scripts/pg-up`.
    pub fn start(name: &str, version: u32, arguments: &[&str]) -> Postgres {
        let name = format!("{}-{name}", prefix());
        let number = version.to_string();
        let mut all = vec!["--name", &name, "--version", &number];
        all.extend(arguments);
        let variables = up("pg-up", &all);
        let variable = |key: &str| variables.get(key).unwrap_or_else(|| panic!("pg-up printed no {key}")).clone();
        Postgres { port: variable("PGPORT"), name, version, variables }
    }

    /// Starts a standby of this server. Returns it with the name of its physical slot.
    pub fn standby(&self, name: &str) -> (Postgres, String) {
        let standby = Postgres::start(name, self.version, &["--standby-of", &self.name]);
        let slot = standby.name.replace('-', "_");
        (standby, slot)
    }

    /// Stops it with `mode`; [`Postgres::restart`] starts it again with its data.
    pub fn stop(&self, mode: &str) {
        let status = Command::new(root().join("scripts/pg-down")).args(["--name", &self.name, "--mode", mode]).status();
        assert!(status.expect("pg-down").success());
    }

    /// Starts it again, on the same port.
    pub fn restart(&self) {
        up("pg-up", &["--name", &self.name, "--version", &self.version.to_string()]);
    }

    /// The conninfo of a database.
    pub fn dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port)
    }

    /// Runs SQL and returns psql's output: one line per row, columns separated by `|`.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, for SQL that may fail.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"])
            .args(["--dbname", &self.dsn(database), "--command", sql])
            .env("PGOPTIONS", "-c client_min_messages=warning")
            .output()
            .expect("psql");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).expect("psql").trim_end().to_owned())
    }
}

/// An Apache Kafka cluster of one node.
#[derive(Clone, Debug)]
pub struct Kafka {
    name: String,
    pub brokers: String,
    pub pid: i32,
    pub variables: HashMap<String, String>,
}

impl Kafka {
    /// The shared cluster.
    pub fn shared() -> &'static Kafka {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Kafka::start("shared", &[]))
    }

    /// Another cluster, with further arguments for `scripts/kafka-up`.
    pub fn start(name: &str, arguments: &[&str]) -> Kafka {
        let name = format!("{}-{name}", prefix());
        let mut all = vec!["--name", &name];
        all.extend(arguments);
        let variables = up("kafka-up", &all);
        let brokers = variables["BROKERS"].clone();
        let pid = variables["KAFKA_PID"].parse().expect("one pid");
        Kafka { name, brokers, pid, variables }
    }

    /// Stops it; [`Kafka::restart`] starts it again with its data.
    pub fn stop(&self) {
        let status = Command::new(root().join("scripts/kafka-down")).args(["--name", &self.name]).status();
        assert!(status.expect("kafka-down").success());
    }

    /// Starts it again, on the same port.
    pub fn restart(&self) {
        up("kafka-up", &["--name", &self.name]);
    }

    /// Creates a topic.
    pub fn create_topic(&self, topic: &str, arguments: &[&str]) {
        self.topics(&[&["--create", "--topic", topic], arguments].concat());
    }

    /// Deletes a topic and waits until it no longer exists.
    pub fn delete_topic(&self, topic: &str) {
        self.topics(&["--delete", "--topic", topic]);
        eventually("the topic is gone", 30, || !self.topics(&["--list"]).lines().any(|name| name == topic));
    }

    /// The partitions and the configuration of a topic, as Kafka's tool prints them.
    pub fn describe_topic(&self, topic: &str) -> String {
        self.topics(&["--describe", "--topic", topic])
    }

    /// The topics that begin with this prefix and a dot.
    pub fn topics_of(&self, prefix: &str) -> Vec<String> {
        let all = self.topics(&["--list"]);
        all.lines().filter(|name| name.starts_with(&format!("{prefix}."))).map(str::to_owned).collect()
    }

    fn topics(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(root().join("scripts/kafka-topics"));
        let output = command.args(["--name", &self.name]).args(arguments).output().expect("kafka-topics");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Sends a signal to the broker.
    pub fn signal(&self, signal: i32) {
        signal_process(self.pid, signal);
    }
}

/// The world of one test: its own names on a PostgreSQL and a Kafka.
pub struct World {
    pub pg: Postgres,
    pub kafka: Kafka,
    pub database: String,
    pub slot: String,
    pub publication: String,
    pub prefix: String,
}

impl World {
    /// On the shared servers, with the tables that `sql` creates, a publication of all tables, and a slot.
    pub fn new(sql: &str) -> World {
        World::on(Postgres::shared(), Kafka::shared(), sql)
    }

    /// On other servers.
    pub fn on(pg: &Postgres, kafka: &Kafka, sql: &str) -> World {
        let world = World::without_slot(pg, kafka, sql);
        world.create_slot();
        world
    }

    /// In a database with this encoding.
    pub fn with_encoding(encoding: &str, sql: &str) -> World {
        let options = format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        let world = World::create(Postgres::shared(), Kafka::shared(), &options, sql);
        world.create_slot();
        world
    }

    /// The same without the slot.
    pub fn without_slot(pg: &Postgres, kafka: &Kafka, sql: &str) -> World {
        World::create(pg, kafka, "", sql)
    }

    fn create(pg: &Postgres, kafka: &Kafka, database_options: &str, sql: &str) -> World {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // CREATE DATABASE fails while another session copies the template.
        static CREATING: Mutex<()> = Mutex::new(());
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let guard = CREATING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pg.sql("postgres", &format!("CREATE DATABASE {name} {database_options}"));
        drop(guard);
        let world = World {
            pg: pg.clone(),
            kafka: kafka.clone(),
            database: name.clone(),
            slot: format!("slot_{name}"),
            publication: format!("pub_{name}"),
            prefix: format!("{}.{name}", prefix()),
        };
        if !sql.is_empty() {
            world.sql(sql);
        }
        world.sql(&format!("CREATE PUBLICATION {} FOR ALL TABLES", world.publication));
        world
    }

    pub fn create_slot(&self) {
        self.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", self.slot));
    }

    pub fn sql(&self, sql: &str) -> String {
        self.pg.sql(&self.database, sql)
    }

    pub fn dsn(&self) -> String {
        self.pg.dsn(&self.database)
    }

    /// The slot's confirmed position.
    pub fn confirmed(&self) -> String {
        self.sql(&format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{}'", self.slot))
    }

    /// Waits until the slot has passed everything that is committed now.
    pub fn wait_confirmed(&self, seconds: u64) {
        let end = self.wal_lsn();
        eventually("all is confirmed", seconds, || {
            self.sql(&format!("SELECT '{}'::pg_lsn >= '{end}'", self.confirmed())) == "t"
        });
    }

    /// Makes a change and waits until its commit is confirmed. A polled slot moves only to the end of a commit, while other
    /// tests write WAL.
    pub fn confirm_change(&self, sql: &str, seconds: u64) {
        let before = self.wal_lsn();
        self.sql(sql);
        eventually("the change is confirmed", seconds, || {
            self.sql(&format!("SELECT '{}'::pg_lsn > '{before}'", self.confirmed())) == "t"
        });
    }

    /// The current end of the WAL.
    pub fn wal_lsn(&self) -> String {
        self.sql("SELECT pg_current_wal_lsn()")
    }

    /// `walcat stream` of this world's slot, without a sink.
    pub fn stream(&self) -> Walcat {
        Walcat::new(&["stream", "--dsn", &self.dsn(), "--slot", &self.slot, "--publication", &self.publication])
            .with(&["--topic-prefix", &self.prefix])
    }

    /// `walcat stream` into this world's Kafka.
    pub fn stream_to_kafka(&self) -> Walcat {
        self.stream().with(&["--brokers", &self.kafka.brokers])
    }

    /// Runs a stream of everything in the WAL to standard output. It confirms the records.
    pub fn drain_to_stdout(&self) -> Vec<serde_json::Value> {
        self.stream().with(&["--sink", "stdout", "--stdout", "record", "--once"]).run().expect_code(0).json_lines()
    }

    /// The topic of a table.
    pub fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.prefix)
    }
}

/// Slots are limited, and each retains WAL.
impl Drop for World {
    fn drop(&mut self) {
        let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE NOT active AND database = current_database()";
        // If the test stopped its server, or failed with walcat running, the slot lasts until the server ends.
        let _ = self.pg.try_sql(&self.database, slots);
    }
}

/// Waits until a condition holds; panics if it does not in time.
pub fn eventually(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Waits until a number has reached its goal, however slow the machine is, and returns it. Panics if the number does not
/// change for `still_seconds`.
pub fn grows_to(what: &str, goal: i64, still_seconds: u64, mut number: impl FnMut() -> i64) -> i64 {
    let (mut last, mut grew_at) = (i64::MIN, std::time::Instant::now());
    while last < goal {
        let now = number();
        if now > last {
            (last, grew_at) = (now, std::time::Instant::now());
        }
        let still_for = grew_at.elapsed();
        assert!(still_for.as_secs() < still_seconds, "{what}: no progress at {last} of {goal} for {still_for:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    last
}

/// A file for one test, in a directory that only tests write to.
pub fn file(name: &str, text: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(prefix());
    std::fs::create_dir_all(&directory).expect("directory");
    let path = directory.join(format!("{}-{name}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&path, text).expect("file");
    path.to_str().expect("UTF-8").to_owned()
}
