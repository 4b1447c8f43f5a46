//! Keeps walcat running: started again whenever it ends, as by a supervisor, with every exit code counted.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::{PREFIX, SLOT};
use crate::{Delivery, Engine};

/// How walcat is run.
#[derive(Clone)]
pub struct Settings {
    pub program: PathBuf,
    pub directory: PathBuf,
    pub pg_port: u16,
    pub brokers: String,
    pub delivery: Delivery,
    pub engine: Engine,
}

impl Settings {
    /// Writes the configuration file of the instance that keeps trying, or of one that gives up soon.
    fn config(&self, name: &str, retry_for: &str) -> PathBuf {
        let delivery = match self.delivery {
            Delivery::AtLeastOnce => "at-least-once",
            Delivery::ExactlyOnce => "exactly-once",
        };
        let engine = match self.engine {
            Engine::Streaming => "streaming",
            Engine::Polling => "polling",
        };
        let path = self.directory.join(name);
        let text = format!(
            "dsn = \"host=127.0.0.1 port={} user=postgres dbname=postgres\"\nslot = \"{SLOT}\"\npublication = \"torture\"\n\
             brokers = \"{}\"\ntopic_prefix = \"{PREFIX}\"\ndelivery = \"{delivery}\"\nengine = \"{engine}\"\n\
             stall_timeout = \"5s\"\nwait = \"1m\"\n[retry]\nfor = \"{retry_for}\"\nmax = \"1s\"\n[topics]\ncreate = true\n\
             partitions = 3\nreplication_factor = 3\n[poll]\ninterval = \"100ms\"\nmax_changes = 2000\n[kafka]\n\
             \"transaction.timeout.ms\" = 20000\n",
            self.pg_port, self.brokers
        );
        std::fs::write(&path, text).expect("a configuration file");
        path
    }

    fn log(&self, name: &str) -> File {
        OpenOptions::new().create(true).append(true).open(self.directory.join(name)).expect("a log")
    }

    fn spawn(&self, config: &PathBuf, log: &str) -> Child {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WALCAT_") || name.starts_with("PG")) {
            command.env_remove(name);
        }
        command
            .args(["stream", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log(log))
            .spawn()
            .expect("walcat")
    }

    /// A second instance on the same slot, for a while; returns its exit code, or none when it had to be killed.
    pub fn rival(&self, time: Duration) -> Option<i32> {
        let config = self.config("rival.toml", "2s");
        let mut child = self.spawn(&config, "rival.log");
        std::thread::sleep(time);
        if let Ok(Some(status)) = child.try_wait() {
            return status.code();
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }
}

/// How often walcat ended, and how.
#[derive(Clone, Debug, Default)]
pub struct Ended(BTreeMap<String, u64>);

impl Ended {
    fn count_one(&mut self, status: ExitStatus) {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown".to_owned(),
        };
        *self.0.entry(how).or_default() += 1;
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn summary(&self) -> String {
        self.0.iter().map(|(how, count)| format!("{count} x {how}")).collect::<Vec<_>>().join(", ")
    }

    /// Ends that no fault explains: only unavailable (69), stopped (0, 75), fenced (79) and killed (9) do.
    pub fn violations(&self) -> Vec<String> {
        let explained = ["exit 0", "exit 69", "exit 75", "exit 79", "signal 9"];
        let rest = self.0.iter().filter(|(how, _)| !explained.contains(&how.as_str()));
        rest.map(|(how, count)| format!("walcat ended {count} times with {how}")).collect()
    }
}

struct State {
    child: Option<Child>,
    stopping: bool,
    ended: Ended,
}

/// The loop that keeps walcat running.
pub struct Supervisor {
    pub settings: Settings,
    state: Arc<Mutex<State>>,
    thread: JoinHandle<()>,
}

impl Supervisor {
    pub fn start(settings: Settings) -> Supervisor {
        let config = settings.config("walcat.toml", "10s");
        let child = Some(settings.spawn(&config, "walcat.log"));
        let state = Arc::new(Mutex::new(State { child, stopping: false, ended: Ended::default() }));
        let (shared, own) = (Arc::clone(&state), settings.clone());
        let thread = std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                let mut state = shared.lock().expect("state");
                let status = state.child.as_mut().and_then(|child| child.try_wait().expect("walcat"));
                if let Some(status) = status {
                    state.ended.count_one(status);
                    state.child = None;
                }
                match (&state.child, state.stopping) {
                    (None, true) => break,
                    (None, false) => state.child = Some(own.spawn(&config, "walcat.log")),
                    (Some(_), _) => {}
                }
            }
        });
        Supervisor { settings, state, thread }
    }

    /// Sends a signal to the instance that runs now.
    pub fn signal(&self, signal: i32) {
        let state = self.state.lock().expect("state");
        if let Some(child) = &state.child {
            let pid = i32::try_from(child.id()).expect("a pid");
            // SAFETY: two numbers; the child has not been waited for while the lock is held, so its pid is its own.
            unsafe { libc::kill(pid, signal) };
        }
    }

    pub fn stop(self) -> Ended {
        self.state.lock().expect("state").stopping = true;
        self.signal(libc::SIGCONT);
        self.signal(libc::SIGTERM);
        self.thread.join().expect("the supervisor");
        self.state.lock().expect("state").ended.clone()
    }
}
