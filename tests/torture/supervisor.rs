//! Runs walcat, again and again however it ends, as a service manager does, and counts how it ended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Result, SLOT, root, signal};
use crate::options::{Delivery, Engine, Options};
use crate::writers::die_with_us;

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// walcat's own `shutdown_timeout` is 10 s.
const END_DEADLINE: Duration = Duration::from_secs(20);

const UNAVAILABLE: i32 = 69;
const INTERRUPTED: i32 = 75;
const SETUP: i32 = 78;
const FENCED: i32 = 79;

/// How to run walcat.
#[derive(Clone)]
pub struct Recipe {
    walcat: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    delivery: Delivery,
}

impl Recipe {
    /// Writes the configuration file.
    pub fn new(options: &Options, cluster: &Cluster, directory: &Path) -> Result<Recipe> {
        let mut text = format!(
            "dsn = {:?}\nslot = \"{SLOT}\"\npublication = \"torture\"\nbrokers = {:?}\ntopic_prefix = \"torture\"\n\
             stall_timeout = \"10s\"\nstats_interval = \"10s\"\n",
            cluster.walcat_dsn(),
            cluster.walcat_brokers()
        );
        if options.delivery == Delivery::ExactlyOnce {
            text.push_str("delivery = \"exactly-once\"\n");
        }
        if options.engine == Engine::Polling {
            text.push_str("engine = \"polling\"\n");
        }
        text.push_str("\n[topics]\ncreate = true\npartitions = 3\n\n[retry]\nfor = \"20s\"\n");
        if options.state_file {
            text.push_str(&format!("\n[state]\nfile = {:?}\n", directory.join("state").display().to_string()));
        }
        let file = directory.join("walcat.toml");
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut arguments = vec!["stream".to_owned(), "--config".to_owned(), file.display().to_string()];
        arguments.extend(options.arguments.iter().cloned());
        let log = directory.join("walcat.log");
        let walcat = fs::canonicalize(root().join(&options.walcat))
            .map_err(|error| format!("{}: {error}", options.walcat.display()))?;
        Ok(Recipe { walcat, arguments, log, delivery: options.delivery })
    }

    fn spawn(&self, name: &str) -> Result<Child> {
        let error = |error: std::io::Error| format!("{}: {error}", self.walcat.display());
        let mut log = File::options().create(true).append(true).open(&self.log).map_err(error)?;
        let _ = writeln!(log, "=== {name}");
        let mut command = Command::new(&self.walcat);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WALCAT_") || name.starts_with("PG")) {
            command.env_remove(name);
        }
        // A group of its own: the terminal's Ctrl-C is for us to deal with.
        command.args(&self.arguments).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        die_with_us(&mut command).spawn().map_err(error)
    }

    /// Whether an end is one that a fault explains.
    fn explains(&self, status: ExitStatus, asked: Asked) -> bool {
        match (status.code(), status.signal()) {
            (Some(UNAVAILABLE), _) => true,
            (Some(FENCED), _) => self.delivery == Delivery::ExactlyOnce,
            // One that finds the slot moved by another while it was away cannot know that this one delivered what is between.
            (Some(SETUP), _) => self.delivery == Delivery::AtLeastOnce && asked.had_company,
            (Some(0 | INTERRUPTED), _) => asked.to_end,
            (_, Some(libc::SIGKILL)) => asked.by_force,
            _ => false,
        }
    }
}

/// What was done to a process. It may have ended by the first signal when the second came.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    to_end: bool,
    by_force: bool,
    /// Another one was started beside it.
    had_company: bool,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    asked: Asked,
    has_company: bool,
    stopping: bool,
    ends: Ends,
}

/// How walcat ended, and how often.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    pub starts: u32,
    pub counts: BTreeMap<String, u32>,
    pub unexplained: Vec<String>,
    pub rss_max_kb: u64,
}

impl Ends {
    fn add(&mut self, who: &str, status: ExitStatus, is_explained: bool) {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        *self.counts.entry(how.clone()).or_default() += 1;
        if !is_explained {
            self.unexplained.push(format!("{who} ended with {how}"));
        }
    }
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Supervisor {
    recipe: Recipe,
    state: Shared,
    thread: JoinHandle<()>,
}

impl Supervisor {
    pub fn start(recipe: Recipe) -> Supervisor {
        let state = Shared::default();
        let (shared, own) = (Arc::clone(&state), recipe.clone());
        let thread = std::thread::spawn(move || supervise(&own, &shared));
        Supervisor { recipe, state, thread }
    }

    /// To the process that runs now; nothing while it is being started again.
    pub fn signal(&self, number: i32) {
        let mut state = lock(&self.state);
        // It has not been waited for, so the pid is its own.
        let Some(pid) = state.child.as_ref().map(Child::id) else { return };
        state.asked.to_end |= number == libc::SIGTERM;
        state.asked.by_force |= number == libc::SIGKILL;
        signal(i32::try_from(pid).unwrap_or(0), number);
    }

    /// Ends it for good; it has delivered everything, so it must say so.
    pub fn stop(self) -> Ends {
        lock(&self.state).stopping = true;
        self.signal(libc::SIGCONT);
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + END_DEADLINE;
        while !self.thread.is_finished() {
            if Instant::now() > deadline {
                lock(&self.state).ends.unexplained.push("walcat did not end by SIGTERM".into());
                self.signal(libc::SIGKILL);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        let _ = self.thread.join();
        lock(&self.state).ends.clone()
    }

    /// A second one on the same slot, until it ends or `act` has returned and it is told to.
    pub fn beside(&self, act: impl FnOnce()) -> Result<()> {
        self.company(true);
        let outcome = self.run_other(act);
        self.company(false);
        outcome
    }

    fn company(&self, has_company: bool) {
        let mut state = lock(&self.state);
        state.has_company = has_company;
        state.asked.had_company |= has_company;
    }

    fn run_other(&self, act: impl FnOnce()) -> Result<()> {
        let mut other = self.recipe.spawn("the other one")?;
        act();
        let pid = i32::try_from(other.id()).unwrap_or(0);
        let ended = other.try_wait().map_err(|error| error.to_string())?;
        if ended.is_none() {
            signal(pid, libc::SIGTERM);
        }
        let deadline = Instant::now() + END_DEADLINE;
        loop {
            if let Some(status) = other.try_wait().map_err(|error| error.to_string())? {
                let is_explained =
                    self.recipe.explains(status, Asked { to_end: true, by_force: false, had_company: true });
                lock(&self.state).ends.add("the other walcat", status, is_explained);
                return Ok(());
            }
            if Instant::now() > deadline {
                lock(&self.state).ends.unexplained.push("the other walcat did not end by SIGTERM".into());
                let _ = other.kill();
                let _ = other.wait();
                return Ok(());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

fn supervise(recipe: &Recipe, shared: &Shared) {
    loop {
        let mut state = lock(shared);
        let Some(child) = state.child.as_mut() else {
            if state.stopping {
                return;
            }
            state.ends.starts += 1;
            state.asked = Asked { had_company: state.has_company, ..Asked::default() };
            match recipe.spawn(&format!("start {}", state.ends.starts)) {
                Ok(child) => state.child = Some(child),
                Err(error) => state.ends.unexplained.push(error),
            }
            continue;
        };
        let pid = child.id();
        if let Ok(Some(status)) = child.try_wait() {
            state.child = None;
            let is_explained = recipe.explains(status, state.asked);
            let who = format!("walcat, start {},", state.ends.starts);
            state.ends.add(&who, status, is_explained);
            drop(state);
            std::thread::sleep(RESTART_PAUSE);
            continue;
        }
        state.ends.rss_max_kb = state.ends.rss_max_kb.max(rss_kb(pid));
        drop(state);
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn rss_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
