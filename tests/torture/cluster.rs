//! PostgreSQL and three Kafka nodes, started by the scripts, and the proxies between them and walcat.

#![allow(unsafe_code, reason = "sends signals")]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::proxy::Proxy;

pub type Result<T> = std::result::Result<T, String>;

pub const NODES: usize = 3;
pub const DATABASE: &str = "torture";
pub const SLOT: &str = "torture";
/// The slot that retains WAL while walcat's slot is moved back.
const KEEPER: &str = "keeper";
/// walcat's principal in Kafka. Other clients use another listener and may do everything.
const USER: &str = "walcat";
const PASSWORD: &str = "torture";
/// How long a standby may need to catch up.
const STANDBY_DEADLINE: Duration = Duration::from_secs(120);

/// How long the slot may take to pass the position at which the standby was made.
const SLOT_COPY_DEADLINE: Duration = Duration::from_secs(900);

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script and returns its output.
fn script(name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(root().join("scripts").join(name));
    let output = command.args(arguments).stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends a signal to a process that this program or its scripts started.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: two numbers; a pid above 1 names one process, and the call fails if that process has ended.
    if pid > 1 && unsafe { libc::kill(pid, signal) } != 0 {
        eprintln!("torture: signal {signal} to {pid}: {}", std::io::Error::last_os_error());
    }
}

/// A PostgreSQL server.
#[derive(Clone, Debug)]
struct Server {
    name: String,
    port: u16,
    data: PathBuf,
    log: PathBuf,
}

impl Server {
    fn start(name: &str, arguments: &[&str]) -> Result<Server> {
        let lines = script("pg-up", &[&["--name", name], arguments].concat())?;
        let values = values(&lines);
        let value = |key: &str| values.get(key).ok_or_else(|| format!("pg-up printed no {key}"));
        let port = value("PGPORT")?.parse().map_err(|_| "PGPORT is no port")?;
        Ok(Server { name: name.to_owned(), port, data: value("PGDATA")?.into(), log: value("PG_LOG")?.into() })
    }
}

/// The primary and its standby.
struct Pair {
    primary: Server,
    standby: Option<Server>,
    /// The number of standbys so far.
    standbys: u32,
}

pub struct Cluster {
    name: String,
    version: String,
    servers: Mutex<Pair>,
    postgres_port: AtomicU16,
    kafka_home: PathBuf,
    /// Kafka's addresses for the consumer and the scripts, without the proxies.
    pub brokers: String,
    pub postgres: Proxy,
    pub nodes: Vec<Proxy>,
}

impl Cluster {
    pub fn start(name: &str, version: u16) -> Result<Cluster> {
        let version = version.to_string();
        let primary = Server::start(
            name,
            &[
                &["--version", &version, "--no-fsync", "-c", "wal_sender_timeout=5s", "-c", "deadlock_timeout=100ms"],
                &["-c", "max_wal_size=512MB", "-c", "wal_keep_size=0", "-c", "log_min_error_statement=panic"][..],
            ]
            .concat(),
        )?;
        let settings = [
            "auto.create.topics.enable=false",
            "broker.session.timeout.ms=4000",
            "broker.heartbeat.interval.ms=1000",
            "replica.lag.time.max.ms=8000",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms=2000",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            "allow.everyone.if.no.acl.found=true",
        ];
        let mut arguments = vec!["--name", name, "--nodes", "3"];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        let kafka = script("kafka-up", &arguments)?;
        let kafka = values(&kafka);
        let log = kafka.get("KAFKA_LOG").ok_or("kafka-up printed no KAFKA_LOG")?;
        let kafka_home = Path::new(log).ancestors().nth(2).ok_or("KAFKA_LOG is not in a node")?.to_owned();
        let mut cluster = Cluster {
            name: name.to_owned(),
            version,
            postgres: Proxy::start(primary.port).map_err(|error| error.to_string())?,
            postgres_port: AtomicU16::new(primary.port),
            servers: Mutex::new(Pair { primary, standby: None, standbys: 0 }),
            kafka_home,
            brokers: kafka.get("BROKERS").ok_or("kafka-up printed no BROKERS")?.clone(),
            nodes: Vec::new(),
        };
        cluster.put_proxies_before_kafka()?;
        Ok(cluster)
    }

    /// Adds a listener on each node that advertises the proxy's address.
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
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT\n\
                 sasl.enabled.mechanisms=PLAIN\n\
                 listener.name.proxied.plain.sasl.jaas.config=\
                     org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n",
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

    /// librdkafka's properties.
    pub fn walcat_security(&self) -> [(&'static str, &'static str); 4] {
        [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", USER),
            ("sasl.password", PASSWORD),
        ]
    }

    /// A psql with a direct connection, which reads from a pipe.
    pub fn psql(&self, database: &str) -> Command {
        psql(self.postgres_port.load(Ordering::Relaxed), database)
    }

    /// One line per row, columns separated by `|`.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in(DATABASE, sql)
    }

    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        self.sql_at(self.postgres_port.load(Ordering::Relaxed), database, sql)
    }

    fn sql_at(&self, port: u16, database: &str, sql: &str) -> Result<String> {
        let mut command = psql(port, database);
        command.args(["--set", "ON_ERROR_STOP=1", "--command", sql]).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("psql: {error}"))?;
        if !output.status.success() {
            return Err(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn pair(&self) -> std::sync::MutexGuard<'_, Pair> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn crash_postgres(&self) -> Result<()> {
        script("pg-down", &["--name", &self.pair().primary.name, "--mode", "immediate"]).map(drop)
    }

    pub fn start_postgres(&self) -> Result<()> {
        script("pg-up", &["--version", &self.version, "--name", &self.pair().primary.name]).map(drop)
    }

    /// Whether standbys can have a copy of the slot.
    pub fn has_failover(&self) -> bool {
        self.version.parse().is_ok_and(|version: u16| version >= 17)
    }

    /// Starts a standby of the primary.
    pub fn start_standby(&self) -> Result<()> {
        let mut pair = self.pair();
        pair.standbys += 1;
        let name = format!("{}-{}", self.name, pair.standbys);
        let of = pair.primary.name.clone();
        pair.standby = Some(Server::start(&name, &["--version", &self.version, "--standby-of", &of])?);
        Ok(())
    }

    fn standby_sql(&self, sql: &str) -> Result<String> {
        let port = self.pair().standby.as_ref().map(|standby| standby.port).ok_or("there is no standby")?;
        self.sql_at(port, "postgres", sql)
    }

    /// Whether the standby has a copy of the slot that survives a promotion. This requires writes on the primary. The copy is
    /// kept once the slot has passed the position at which the standby was made: a backlog may take its time, but the slot
    /// must move.
    pub fn wait_for_slot_copy(&self) -> Result<bool> {
        let question = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND synced AND NOT temporary"
        );
        let position = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        let deadline = Instant::now() + SLOT_COPY_DEADLINE;
        let mut last = String::new();
        while Instant::now() < deadline {
            let is_copied = self.wait(|| {
                self.sql("SELECT pg_log_standby_snapshot()")?;
                // The slot sync worker sleeps longer and longer while nothing changes; this wakes it.
                self.standby_sql("SELECT pg_reload_conf()")?;
                Ok(self.standby_sql(&question)? == "1")
            })?;
            let now = self.sql(&position)?;
            if is_copied || now == last {
                return Ok(is_copied);
            }
            last = now;
        }
        Ok(false)
    }

    /// Whether the standby has everything that was written. There must be no writes meanwhile.
    pub fn wait_for_standby(&self) -> Result<bool> {
        let end = self.sql("SELECT pg_current_wal_insert_lsn()")?;
        // An asynchronous commit reaches the disk, and therefore the standby, with the next commit at the latest.
        self.sql("SELECT hum(1)")?;
        self.wait(|| Ok(self.standby_sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"))? == "t"))
    }

    fn wait(&self, is_so: impl Fn() -> Result<bool>) -> Result<bool> {
        let deadline = Instant::now() + STANDBY_DEADLINE;
        while Instant::now() < deadline {
            if is_so()? {
                return Ok(true);
            }
            sleep(Duration::from_millis(500));
        }
        Ok(false)
    }

    pub fn stop_standby(&self) -> Result<()> {
        let name = self.pair().standby.as_ref().map(|standby| standby.name.clone()).ok_or("there is no standby")?;
        script("pg-down", &["--name", &name, "--mode", "immediate"]).map(drop)
    }

    /// The stopped standby becomes the server; the old server is permanently removed.
    pub fn promote(&self) -> Result<()> {
        let standby = self.pair().standby.take().ok_or("there is no standby")?;
        script("pg-up", &["--version", &self.version, "--name", &standby.name])?;
        self.sql_at(standby.port, "postgres", "SELECT pg_promote()")?;
        self.postgres.lead_to(standby.port);
        self.postgres_port.store(standby.port, Ordering::Relaxed);
        let old = std::mem::replace(&mut self.pair().primary, standby);
        script("pg-down", &["--name", &old.name, "--mode", "immediate", "--delete"]).map(drop)
    }

    fn slot_state(&self) -> PathBuf {
        self.pair().primary.data.join("pg_replslot").join(SLOT).join("state")
    }

    /// Crashes PostgreSQL and saves the slot as it is on disk. Another slot retains the WAL that it requires.
    pub fn back_up_slot(&self) -> Result<Vec<u8>> {
        self.crash_postgres()?;
        let state = fs::read(self.slot_state()).map_err(|error| error.to_string())?;
        self.start_postgres()?;
        self.sql(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', '{KEEPER}')"))?;
        Ok(state)
    }

    /// Crashes PostgreSQL and restores the saved slot.
    pub fn restore_slot(&self, state: &[u8]) -> Result<()> {
        self.crash_postgres()?;
        fs::write(self.slot_state(), state).map_err(|error| error.to_string())?;
        self.start_postgres()?;
        self.sql(&format!("SELECT pg_drop_replication_slot('{KEEPER}')")).map(drop)
    }

    /// Shuts down a node and starts it again.
    pub fn restart_node(&self, node: usize) -> Result<()> {
        script("kafka-down", &["--name", &self.name, "--node", &node.to_string()])?;
        self.start_nodes()
    }

    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        script("kafka-topics", &["--name", &self.name, "--delete", "--if-exists", "--topic", topic]).map(drop)
    }

    /// Denies walcat an operation on a resource, or allows it again; `resource` is the arguments that name it.
    pub fn forbid(&self, is_forbidden: bool, operation: &str, resource: &[&str]) -> Result<()> {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        command.arg(self.servers().join("kafka-libs/*"));
        command.arg(format!("-Dlog4j2.configurationFile={}", root().join("tests/servers/log4j2-tools.yaml").display()));
        command.args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &self.brokers]);
        command.args([if is_forbidden { "--add" } else { "--remove" }, "--force"]);
        command.args(["--deny-principal", &format!("User:{USER}"), "--operation", operation]).args(resource);
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("java: {error}"))?;
        if !output.status.success() {
            return Err(format!("AclCommand {operation} {resource:?}: {}", String::from_utf8_lossy(&output.stdout)));
        }
        Ok(())
    }

    pub fn kill_node(&self, node: usize) -> Result<()> {
        script("kafka-down", &["--name", &self.name, "--node", &node.to_string(), "--kill"]).map(drop)
    }

    /// Starts the nodes that are not running.
    pub fn start_nodes(&self) -> Result<()> {
        script("kafka-up", &["--name", &self.name]).map(drop)
    }

    pub fn node_pid(&self, node: usize) -> Option<i32> {
        let pid = fs::read_to_string(self.kafka_home.join(format!("node-{node}/pid"))).ok()?;
        pid.trim().parse().ok()
    }

    /// The transaction coordinator: the leader of the only partition of the transaction topic.
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

    /// The directory of the servers, which contains Kafka's jars.
    pub fn servers(&self) -> &Path {
        self.kafka_home.ancestors().nth(2).unwrap_or(root())
    }

    pub fn keep_logs(&self, directory: &Path) {
        let pair = self.pair();
        for server in [Some(&pair.primary), pair.standby.as_ref()].into_iter().flatten() {
            let _ = fs::copy(&server.log, directory.join(format!("{}.log", server.name)));
        }
        for node in 1..=NODES {
            let log = self.kafka_home.join(format!("node-{node}/log"));
            let _ = fs::copy(log, directory.join(format!("kafka-{node}.log")));
        }
    }
}

fn values(lines: &str) -> HashMap<&str, String> {
    lines.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key, value.to_owned())).collect()
}

/// A port below the kernel's ephemeral range, where an outgoing connection could take it while its node is down, and below the
/// ports of the scripts.
fn free_port(node: usize) -> Option<u16> {
    let own = u16::try_from(std::process::id() % 1_000 * 4).unwrap_or(0) + u16::try_from(node).unwrap_or(0);
    let ports = (0..100).map(|step| 10_000 + (own + step * 37) % 5_000);
    let mut free = ports.filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next()
}

fn psql(port: u16, database: &str) -> Command {
    let mut command = Command::new("psql");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
        command.env_remove(name);
    }
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--username", "postgres"])
        .args(["--dbname", database])
        .env("PGOPTIONS", "-c client_min_messages=warning -c statement_timeout=30s")
        .env("PGCONNECT_TIMEOUT", "10");
    command
}
