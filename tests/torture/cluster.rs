//! PostgreSQL and three Kafka nodes, by the scripts, and the proxies that walcat reaches them through.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::proxy::Proxy;

pub type Result<T> = std::result::Result<T, String>;

pub const NODES: usize = 3;
pub const DATABASE: &str = "torture";
pub const SLOT: &str = "torture";

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script of ours to its end; what it printed.
fn script(name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(root().join("scripts").join(name));
    let output = command.args(arguments).stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends a signal to a process that we, or the scripts for us, started.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: two numbers; a pid above 1 names one process, and one that has gone makes the call fail.
    if pid > 1 && unsafe { libc::kill(pid, signal) } != 0 {
        eprintln!("torture: signal {signal} to {pid}: {}", std::io::Error::last_os_error());
    }
}

pub struct Cluster {
    name: String,
    postgres_port: u16,
    postgres_log: PathBuf,
    kafka_home: PathBuf,
    /// Where the consumer and the scripts find Kafka: not through the proxies.
    pub brokers: String,
    pub postgres: Proxy,
    pub nodes: Vec<Proxy>,
}

impl Cluster {
    pub fn start(name: &str) -> Result<Cluster> {
        let postgres = script(
            "pg-up",
            &[
                &["--name", name, "--no-fsync", "-c", "wal_sender_timeout=5s", "-c", "deadlock_timeout=100ms"],
                &["-c", "max_wal_size=4GB", "-c", "wal_keep_size=0", "-c", "log_min_error_statement=panic"][..],
            ]
            .concat(),
        )?;
        let postgres = values(&postgres);
        let postgres_port =
            postgres.get("PGPORT").and_then(|port| port.parse().ok()).ok_or("pg-up printed no PGPORT")?;
        let postgres_log = postgres.get("PG_LOG").ok_or("pg-up printed no PG_LOG")?.into();
        let settings = [
            "auto.create.topics.enable=false",
            "broker.session.timeout.ms=4000",
            "broker.heartbeat.interval.ms=1000",
            "replica.lag.time.max.ms=8000",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms=2000",
        ];
        let mut arguments = vec!["--name", name, "--nodes", "3"];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        let kafka = script("kafka-up", &arguments)?;
        let kafka = values(&kafka);
        let log = kafka.get("KAFKA_LOG").ok_or("kafka-up printed no KAFKA_LOG")?;
        let kafka_home = Path::new(log).ancestors().nth(2).ok_or("KAFKA_LOG is not in a node")?.to_owned();
        let mut cluster = Cluster {
            name: name.to_owned(),
            postgres_port,
            postgres_log,
            kafka_home,
            brokers: kafka.get("BROKERS").ok_or("kafka-up printed no BROKERS")?.clone(),
            postgres: Proxy::start(postgres_port).map_err(|error| error.to_string())?,
            nodes: Vec::new(),
        };
        cluster.put_proxies_before_kafka()?;
        Ok(cluster)
    }

    /// A second listener on each node, which advertises the proxy's address.
    fn put_proxies_before_kafka(&mut self) -> Result<()> {
        script("kafka-down", &["--name", &self.name])?;
        for node in 1..=NODES {
            let inner = free_port(node).ok_or("no free port")?;
            let proxy = Proxy::start(inner).map_err(|error| error.to_string())?;
            let home = self.kafka_home.join(format!("node-{node}"));
            let port = |kind: &str| {
                let file = home.join(format!("port-{kind}"));
                fs::read_to_string(file).map(|port| port.trim().to_owned()).map_err(|error| error.to_string())
            };
            let (plain, controller) = (port("plain")?, port("controller")?);
            let text = format!(
                "listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},\
                     PROXIED://127.0.0.1:{inner}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{plain},PROXIED://127.0.0.1:{}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT\n",
                proxy.port()
            );
            let mut file = fs::OpenOptions::new()
                .append(true)
                .open(home.join("node.properties"))
                .map_err(|error| error.to_string())?;
            file.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
            self.nodes.push(proxy);
        }
        script("kafka-up", &["--name", &self.name]).map(drop)
    }

    /// What walcat is told.
    pub fn walcat_dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={DATABASE}", self.postgres.port())
    }

    pub fn walcat_brokers(&self) -> String {
        let ports: Vec<_> = self.nodes.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
        ports.join(",")
    }

    /// A psql of the direct connection, to be fed.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new("psql");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
            command.env_remove(name);
        }
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--host", "127.0.0.1", "--port", &self.postgres_port.to_string(), "--username", "postgres"])
            .args(["--dbname", database])
            .env("PGOPTIONS", "-c client_min_messages=warning -c statement_timeout=30s")
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    /// One line a row, columns parted by `|`.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in(DATABASE, sql)
    }

    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = self.psql(database);
        command.args(["--set", "ON_ERROR_STOP=1", "--command", sql]).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("psql: {error}"))?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    pub fn crash_postgres(&self) -> Result<()> {
        script("pg-down", &["--name", &self.name, "--mode", "immediate"]).map(drop)
    }

    pub fn start_postgres(&self) -> Result<()> {
        script("pg-up", &["--name", &self.name]).map(drop)
    }

    pub fn kill_node(&self, node: usize) -> Result<()> {
        script("kafka-down", &["--name", &self.name, "--node", &node.to_string(), "--kill"]).map(drop)
    }

    /// Starts the nodes that do not run.
    pub fn start_nodes(&self) -> Result<()> {
        script("kafka-up", &["--name", &self.name]).map(drop)
    }

    pub fn node_pid(&self, node: usize) -> Option<i32> {
        let pid = fs::read_to_string(self.kafka_home.join(format!("node-{node}/pid"))).ok()?;
        pid.trim().parse().ok()
    }

    /// The node that coordinates transactions: the leader of the one partition of their topic.
    pub fn coordinator(&self) -> Option<usize> {
        let topic = ["--name", &self.name, "--describe", "--topic", "__transaction_state"];
        let description = script("kafka-topics", &topic).ok()?;
        let (_, rest) = description.split_once("Leader:")?;
        rest.split_whitespace().next()?.parse().ok()
    }

    /// The session that reads the slot.
    pub fn slot_holder(&self) -> Option<i32> {
        let holder = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        self.sql(&holder).ok()?.parse().ok()
    }

    /// The folder of the servers, where Kafka's jars are.
    pub fn servers(&self) -> &Path {
        self.kafka_home.ancestors().nth(2).unwrap_or(root())
    }

    pub fn keep_logs(&self, directory: &Path) {
        let _ = fs::copy(&self.postgres_log, directory.join("postgres.log"));
        for node in 1..=NODES {
            let log = self.kafka_home.join(format!("node-{node}/log"));
            let _ = fs::copy(log, directory.join(format!("kafka-{node}.log")));
        }
    }
}

fn values(lines: &str) -> HashMap<&str, String> {
    lines.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key, value.to_owned())).collect()
}

/// Below the kernel's ephemeral range, where an outgoing connection could take it while its node is down, and below the
/// scripts' own.
fn free_port(node: usize) -> Option<u16> {
    let own = u16::try_from(std::process::id() % 1_000 * 4).unwrap_or(0) + u16::try_from(node).unwrap_or(0);
    let ports = (0..100).map(|step| 10_000 + (own + step * 37) % 5_000);
    let mut free = ports.filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next()
}
