//! Runs walcat, restarts it after every exit as a service manager does, and counts the exits.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Result, SLOT, root, signal};
use crate::ends::{Asked, End, Ends, RETRY_FOR};
use crate::options::{Delivery, Engine, Options};
use crate::troubles::Troubles;
use crate::writers::die_with_us;

const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// walcat's own `shutdown_timeout` is 10 s.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// How to run walcat.
#[derive(Clone)]
pub struct Recipe {
    walcat: PathBuf,
    arguments: Vec<String>,
    config: PathBuf,
    log: PathBuf,
    delivery: Delivery,
    troubles: Troubles,
}

impl Recipe {
    /// Writes the configuration file.
    pub fn new(options: &Options, cluster: &Cluster, directory: &Path, troubles: &Troubles) -> Result<Recipe> {
        let mut text = format!(
            "dsn = {:?}\nslot = \"{SLOT}\"\npublication = \"torture\"\nbrokers = {:?}\ntopic_prefix = \"torture\"\n\
             stall_timeout = \"10s\"\nstats_interval = \"10s\"\n\
             on_error = \"dead-letter\"\ndead_letter_topic = \"torture.dead-letters\"\n",
            cluster.walcat_dsn(),
            cluster.walcat_brokers()
        );
        if options.delivery == Delivery::ExactlyOnce {
            text.push_str("delivery = \"exactly-once\"\n");
        }
        if options.engine == Engine::Polling {
            text.push_str("engine = \"polling\"\n");
        }
        text.push_str(&format!(
            "\n[topics]\ncreate = true\npartitions = 3\n\n[retry]\nfor = \"{}s\"\n",
            RETRY_FOR.as_secs()
        ));
        text.push_str("\n[kafka]\n");
        for (name, value) in cluster.walcat_security() {
            text.push_str(&format!("{name:?} = {value:?}\n"));
        }
        if options.state_topic {
            text.push_str("\n[state]\ntopic = true\n");
        }
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
        Ok(Recipe { walcat, arguments, config: file, log, delivery: options.delivery, troubles: troubles.clone() })
    }

    /// Another command of the program, with the same configuration file.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = clean(&self.walcat);
        command.args(arguments).arg("--config").arg(&self.config);
        die_with_us(&mut command).stdin(Stdio::null());
        command
    }

    fn spawn(&self, name: &str) -> Result<Child> {
        let error = |error: std::io::Error| format!("{}: {error}", self.walcat.display());
        let mut log = File::options().create(true).append(true).open(&self.log).map_err(error)?;
        let _ = writeln!(log, "=== {name}");
        let mut command = clean(&self.walcat);
        // Its own process group: only this program handles the terminal's Ctrl-C.
        command.args(&self.arguments).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        die_with_us(&mut command).spawn().map_err(error)
    }

    /// Judges an exit and writes the result to walcat's log.
    fn judge(&self, ends: &mut Ends, who: &str, end: &End) {
        let how = ends.add(self.delivery, who, end, &self.troubles.windows());
        if let Ok(mut log) = File::options().append(true).open(&self.log) {
            let _ = writeln!(log, "=== {who} ended with {how}");
        }
    }
}

/// The program without walcat's and libpq's variables of this environment.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WALCAT_") || name.starts_with("PG")) {
        command.env_remove(name);
    }
    command
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    started: Option<Instant>,
    asked: Asked,
    has_company: bool,
    stopping: bool,
    ends: Ends,
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

    /// Signals the current process; does nothing while it is being restarted.
    pub fn signal(&self, number: i32) {
        let mut state = lock(&self.state);
        // It was not waited for, so the pid still belongs to it.
        let Some(pid) = state.child.as_ref().map(Child::id) else { return };
        state.asked.to_end |= number == libc::SIGTERM;
        state.asked.by_force |= number == libc::SIGKILL;
        signal(i32::try_from(pid).unwrap_or(0), number);
    }

    /// The current process.
    pub fn pid(&self) -> Option<i32> {
        i32::try_from(lock(&self.state).child.as_ref()?.id()).ok()
    }

    /// Ends it permanently. It has delivered everything, so it must exit with 0.
    pub fn stop(self) -> Ends {
        lock(&self.state).stopping = true;
        self.signal(libc::SIGCONT);
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + END_DEADLINE;
        while !self.thread.is_finished() {
            if Instant::now() > deadline {
                lock(&self.state).ends.unexplained.push("walcat did not exit after SIGTERM".into());
                self.signal(libc::SIGKILL);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        let _ = self.thread.join();
        lock(&self.state).ends.clone()
    }

    /// Runs a second walcat on the same slot until it exits, or until `act` has returned and it is terminated.
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
        let started = Instant::now();
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
                let asked = Asked { to_end: true, by_force: false, had_company: true };
                let end = End { status, started, ended: Instant::now(), asked };
                self.recipe.judge(&mut lock(&self.state).ends, "the other walcat", &end);
                return Ok(());
            }
            if Instant::now() > deadline {
                lock(&self.state).ends.unexplained.push("the other walcat did not exit after SIGTERM".into());
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
            state.started = Some(Instant::now());
            match recipe.spawn(&format!("start {}", state.ends.starts)) {
                Ok(child) => state.child = Some(child),
                Err(error) => state.ends.unexplained.push(error),
            }
            continue;
        };
        let pid = child.id();
        if let Ok(Some(status)) = child.try_wait() {
            state.child = None;
            let ended = Instant::now();
            let end = End { status, started: state.started.unwrap_or(ended), ended, asked: state.asked };
            let who = format!("start {}", state.ends.starts);
            recipe.judge(&mut state.ends, &who, &end);
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
