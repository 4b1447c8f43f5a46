//! The servers: PostgreSQL 15 and three nodes of Apache Kafka, by the scripts of this repository.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// How many brokers there are.
pub const NODES: u64 = 3;

/// The slot that is read.
pub const SLOT: &str = "torture";

/// The topics' prefix.
pub const PREFIX: &str = "torture";

/// The sum of all balances, always.
pub const TOTAL: i64 = 100_000;

const TABLES: &str = "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL); \
     CREATE TABLE journal (seq bigserial PRIMARY KEY, note text); CREATE PUBLICATION torture FOR ALL TABLES";

const ACCOUNTS: &str = "INSERT INTO account SELECT i, 1000, 0 FROM generate_series(1, 100) i";

/// An account's balance and version.
pub type Account = (i64, i64);

/// What the tables hold in the end.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub accounts: BTreeMap<i64, Account>,
    pub journal: BTreeSet<i64>,
}

/// The servers; stopped and removed when dropped.
pub struct Cluster {
    name: String,
    pg: HashMap<String, String>,
    kafka: HashMap<String, String>,
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

fn run(script: &str, arguments: &[&str]) -> HashMap<String, String> {
    let output = Command::new(scripts().join(script)).args(arguments).stdin(Stdio::null()).output().expect(script);
    assert!(output.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

impl Cluster {
    pub fn start(seed: u64) -> Cluster {
        let name = format!("torture-{seed}-{}", std::process::id());
        let pg = run("pg-up", &["--name", &name, "-c", "wal_sender_timeout=20s"]);
        let kafka = run("kafka-up", &["--name", &name, "--nodes", "3"]);
        let cluster = Cluster { name, pg, kafka };
        cluster.sql(TABLES);
        cluster.sql(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"));
        cluster.sql(ACCOUNTS);
        cluster
    }

    pub fn pg_port(&self) -> u16 {
        self.pg["PGPORT"].parse().expect("a port")
    }

    pub fn brokers(&self) -> String {
        self.kafka["BROKERS"].clone()
    }

    /// The jars of Apache Kafka.
    pub fn libraries(&self) -> String {
        let servers = std::env::var("WALCAT_SERVERS_DIR")
            .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers"), PathBuf::from);
        format!("{}/*", servers.join("kafka-libs").display())
    }

    pub fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.pg_port())
    }

    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"])
            .args(["--dbname", &self.dsn(), "--command", sql])
            .stdin(Stdio::null())
            .output()
            .expect("psql");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn crash_postgres(&self) {
        run("pg-down", &["--name", &self.name, "--mode", "immediate"]);
    }

    pub fn restart_postgres(&self) {
        run("pg-up", &["--name", &self.name]);
    }

    pub fn kill_broker(&self, node: u64) {
        run("kafka-down", &["--name", &self.name, "--node", &node.to_string(), "--kill"]);
    }

    /// Starts every broker that does not run.
    pub fn restart_brokers(&self) {
        run("kafka-up", &["--name", &self.name]);
    }

    pub fn broker_pid(&self, node: u64) -> Option<i32> {
        // The pids change with each restart: the script keeps them.
        let log = Path::new(&self.kafka["KAFKA_LOG"]);
        let home = log.parent()?.parent()?;
        std::fs::read_to_string(home.join(format!("node-{node}/pid"))).ok()?.trim().parse().ok()
    }

    /// The node that is the transaction coordinator: the leader of the one partition of its topic.
    pub fn coordinator(&self) -> Option<u64> {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", self.brokers()).create().ok()?;
        let metadata = consumer.fetch_metadata(Some("__transaction_state"), Duration::from_secs(5)).ok()?;
        let leader = metadata.topics().first()?.partitions().first()?.leader();
        u64::try_from(leader).ok().filter(|node| (1..=NODES).contains(node))
    }

    /// The walsender of the slot, if there is one.
    pub fn walsender(&self) -> Option<i32> {
        let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        self.try_sql(&sql).ok()?.parse().ok()
    }

    pub fn wal_lsn(&self) -> String {
        self.sql("SELECT pg_current_wal_lsn()")
    }

    /// Waits until the slot has passed a position. A transaction behind it lets a polled slot pass it too.
    pub fn wait_until_confirmed(&self, lsn: &str, limit: Duration) -> Result<(), String> {
        self.sql("INSERT INTO journal (note) VALUES ('the end')");
        let sql = format!(
            "SELECT confirmed_flush_lsn >= '{lsn}', confirmed_flush_lsn FROM pg_replication_slots \
             WHERE slot_name = '{SLOT}'"
        );
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.sql(&sql);
            if answer.starts_with('t') {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("the slot has not passed {lsn} within {} s: {answer}", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn tables(&self) -> Tables {
        let numbers =
            |line: &str| -> Vec<i64> { line.split('|').map(|text| text.parse().expect("a number")).collect() };
        let accounts = self.sql("SELECT id, balance, version FROM account");
        let journal = self.sql("SELECT seq FROM journal");
        Tables {
            accounts: accounts.lines().map(numbers).map(|row| (row[0], (row[1], row[2]))).collect(),
            journal: journal.lines().map(|line| numbers(line)[0]).collect(),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        run("pg-down", &["--name", &self.name, "--mode", "immediate", "--delete"]);
        run("kafka-down", &["--name", &self.name, "--delete"]);
    }
}
