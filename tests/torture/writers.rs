//! Those who write to the database: each a psql that is fed one step after the other, and started again when it has died.

use std::io::{BufRead, BufReader, Read as _, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, DATABASE, Result};
use crate::seed::Seed;

pub const ACCOUNTS: i64 = 40;
pub const BALANCE: i64 = 1_000;
const WRITERS: usize = 3;
const PAUSE_MS: u64 = 30;
/// A ninth of the run lies between two big transactions, within these bounds.
const BIG_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
const BIG_ROWS: u64 = 20_000;
const RESTART_PAUSE: Duration = Duration::from_millis(200);

pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub steps: Arc<AtomicU64>,
}

impl Writers {
    pub fn start(cluster: &Arc<Cluster>, run: Duration, seed: &mut Seed) -> Writers {
        let big_interval = (run / 9).clamp(BIG_INTERVAL.0, BIG_INTERVAL.1);
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: usize| {
            let (cluster, stop, steps) = (Arc::clone(cluster), Arc::clone(&stop), Arc::clone(&steps));
            let mut seed = seed.fork();
            std::thread::spawn(move || {
                let big_interval = (number == 0).then_some(big_interval);
                write(&cluster, big_interval, &mut seed, &stop, &steps);
            })
        };
        let threads = (0..WRITERS).map(writer).collect();
        Writers { stop, threads, steps }
    }

    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        self.steps.load(Ordering::Relaxed)
    }
}

fn write(cluster: &Cluster, big_interval: Option<Duration>, seed: &mut Seed, stop: &AtomicBool, steps: &AtomicU64) {
    let mut session: Option<Session> = None;
    let mut big = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let Some(current) = session.as_mut() else {
            session = Session::start(cluster).ok();
            continue;
        };
        let step = if big_interval.is_some_and(|interval| big.elapsed() >= interval) {
            big = Instant::now();
            format!("SELECT big({BIG_ROWS})")
        } else {
            let dice = seed.below(1_000_000);
            format!("SELECT setseed({dice} / 1000000.0); SELECT step({ACCOUNTS})")
        };
        if current.run(&step).is_some() {
            steps.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(seed.duration(0, PAUSE_MS));
        } else {
            // The server is away; what was under way may have been committed or not.
            session = None;
            std::thread::sleep(RESTART_PAUSE);
        }
    }
}

/// The child ends when the thread that started it does, however that comes.
pub fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec prctl is called alone, which is a system call and takes no lock.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    }
}

/// A psql that is fed.
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

    /// The rows; none when psql has ended. A statement that fails is no failure here.
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
