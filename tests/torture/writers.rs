//! The writers: each is a psql that receives one step after another and is restarted when it dies.

#![allow(unsafe_code, clippy::multiple_unsafe_ops_per_block, reason = "calls libc between fork and exec")]

use std::io::{BufRead, BufReader, Read as _, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, DATABASE, Result};
use crate::options::{Delivery, Options};
use crate::seed::Seed;

pub const ACCOUNTS: i64 = 40;
pub const BALANCE: i64 = 1_000;
const WRITERS: usize = 3;
const PAUSE_MS: u64 = 30;
/// The time between two big transactions: a ninth of the run, within these bounds.
const BIG_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
const BIG_ROWS: u64 = 20_000;
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The pause between two steps of the writer that does not move money.
const ASIDE_PAUSE_MS: (u64, u64) = (50, 400);
/// The time between two pauses of all writers, and the length of a pause.
const BETWEEN_SILENCES_MS: (u64, u64) = (4_000, 12_000);
const SILENCE_MS: (u64, u64) = (500, 4_000);
/// The unpublished WAL that is written in a pause.
const HUM_KB_MAX: u64 = 3_000;

pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub steps: Arc<AtomicU64>,
    gate: Gate,
}

/// The next step of a writer and the pause after it; `None` if the server was down.
type Act = Box<dyn FnMut(&mut Session, &mut Seed) -> Option<Duration> + Send>;

/// Locked for reading during a step, for writing while all writers must pause.
type Gate = Arc<RwLock<()>>;

impl Writers {
    /// Kafka rejects documents only in exactly-once: in at-least-once, a rejection makes librdkafka write a batch again that
    /// it was sending to a disconnected broker, which is not a repeat of whole transactions.
    pub fn start(cluster: &Arc<Cluster>, options: &Options, seed: &mut Seed) -> Writers {
        let big_interval = (options.duration / 9).clamp(BIG_INTERVAL.0, BIG_INTERVAL.1);
        let (stop, steps, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Gate::default());
        let mut spawn = |act: Act, gate: Option<&Gate>| {
            let (cluster, stop, steps) = (Arc::clone(cluster), Arc::clone(&stop), Arc::clone(&steps));
            let (seed, gate) = (seed.fork(), gate.map(Arc::clone));
            std::thread::spawn(move || repeat(&cluster, act, gate.as_deref(), seed, &stop, &steps))
        };
        let mut threads: Vec<_> = (0..WRITERS)
            .map(|number| spawn(Box::new(money((number == 0).then_some(big_interval))), Some(&gate)))
            .collect();
        let has_refusals = options.delivery == Delivery::ExactlyOnce;
        threads.push(spawn(Box::new(move |session, seed| aside(has_refusals, session, seed)), Some(&gate)));
        if options.has_snapshots() {
            threads.push(spawn(Box::new(stock), Some(&gate)));
        }
        let own = Arc::clone(&gate);
        threads.push(spawn(Box::new(move |session, seed| silence(&own, session, seed)), None));
        Writers { stop, threads, steps, gate }
    }

    /// No writer writes while this guard is held.
    pub fn silence(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        self.steps.load(Ordering::Relaxed)
    }
}

/// Runs steps, each followed by a pause; a step without a pause found the server down.
fn repeat(
    cluster: &Cluster,
    mut act: impl FnMut(&mut Session, &mut Seed) -> Option<Duration>,
    gate: Option<&RwLock<()>>,
    mut seed: Seed,
    stop: &AtomicBool,
    steps: &AtomicU64,
) {
    let mut session: Option<Session> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(current) = session.as_mut() else {
            session = Session::start(cluster).ok();
            continue;
        };
        let open = gate.map(|gate| gate.read().unwrap_or_else(PoisonError::into_inner));
        let pause = act(current, &mut seed);
        drop(open);
        if let Some(pause) = pause {
            steps.fetch_add(1, Ordering::Relaxed);
            sleep_unless(stop, pause);
        } else {
            // The open transaction may have been committed or not.
            session = None;
            std::thread::sleep(RESTART_PAUSE);
        }
    }
}

fn sleep_unless(stop: &AtomicBool, time: Duration) {
    let end = Instant::now() + time;
    while !stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(RESTART_PAUSE));
    }
}

/// Moves money between accounts, and sometimes runs a big transaction.
fn money(big_interval: Option<Duration>) -> impl FnMut(&mut Session, &mut Seed) -> Option<Duration> {
    let mut big = Instant::now();
    move |session, seed| {
        let step = if big_interval.is_some_and(|interval| big.elapsed() >= interval) {
            big = Instant::now();
            format!("SELECT big({BIG_ROWS})")
        } else {
            let dice = seed.below(1_000_000);
            format!("SELECT setseed({dice} / 1000000.0); SELECT step({ACCOUNTS})")
        };
        session.run(&step)?;
        Some(seed.duration(0, PAUSE_MS))
    }
}

/// Writes messages, pages and their TRUNCATE, documents, and rows for the topic that is deleted.
fn aside(has_refusals: bool, session: &mut Session, seed: &mut Seed) -> Option<Duration> {
    let step = match seed.below(100) {
        0..40 => "SELECT speak()",
        40..65 => "SELECT leaf(false)",
        65..70 => "SELECT leaf(true)",
        70..74 => "SELECT document(false)",
        74..78 if has_refusals => "SELECT document(true)",
        _ => "INSERT INTO fleeting DEFAULT VALUES",
    };
    session.run(step)?;
    Some(seed.duration(ASIDE_PAUSE_MS.0, ASIDE_PAUSE_MS.1))
}

/// Changes rows that a snapshot sends.
fn stock(session: &mut Session, seed: &mut Seed) -> Option<Duration> {
    session.run("SELECT stock()")?;
    Some(seed.duration(0, PAUSE_MS))
}

/// All writers pause while unpublished WAL is written, so that positions without a change are stored.
fn silence(gate: &Gate, session: &mut Session, seed: &mut Seed) -> Option<Duration> {
    let pause = seed.duration(BETWEEN_SILENCES_MS.0, BETWEEN_SILENCES_MS.1);
    let (times, time) = (seed.below(3), seed.duration(SILENCE_MS.0, SILENCE_MS.1));
    let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..times {
        session.run(&format!("SELECT hum({})", seed.below(HUM_KB_MAX)))?;
    }
    std::thread::sleep(time);
    drop(closed);
    Some(pause)
}

/// The child ends when the thread that started it ends, for any reason.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec, only prctl is called, which is a system call and takes no lock.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

/// A psql that reads from a pipe.
pub struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    pub fn start(cluster: &Cluster) -> Result<Session> {
        let mut command = cluster.psql(DATABASE);
        die_with_us(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("psql: {error}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("psql without its pipes".into());
        };
        Ok(Session { child, stdin, stdout: BufReader::new(stdout) })
    }

    /// The rows; `None` if psql has ended. A failed statement is not an error here.
    pub fn run(&mut self, sql: &str) -> Option<Vec<String>> {
        self.stdin.write_all(format!("{sql};\n\\echo done\n").as_bytes()).ok()?;
        let mut rows = Vec::new();
        for line in self.stdout.by_ref().lines() {
            match line.ok()? {
                line if line == "done" => return Some(rows),
                line => rows.push(line),
            }
        }
        None
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
