//! Requests a snapshot of each table of the stock, one after another, beside the faults. Sometimes a snapshot is paused.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::cluster::Result;
use crate::seed::Seed;
use crate::supervisor::Recipe;

/// The tables `stock_1` to `stock_6` of `schema.sql`.
pub const TABLES: u32 = 6;
/// The pause after a command that failed because a server was away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a command may be tried: longer than any fault.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
const PAUSE_MS: (u64, u64) = (200, 4_000);
/// How long the snapshots may take after everything is repaired.
const END_DEADLINE: Duration = Duration::from_secs(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub struct Snapshots {
    recipe: Recipe,
    stop: Arc<AtomicBool>,
    /// Returns how many times each table was requested.
    thread: JoinHandle<Result<BTreeMap<i64, u32>>>,
}

impl Snapshots {
    /// The requests are spread over `duration`.
    pub fn start(recipe: &Recipe, duration: Duration, mut seed: Seed) -> Snapshots {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, stopped) = (recipe.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut requests = BTreeMap::new();
            for table in 1..=TABLES {
                requests.insert(i64::from(table), insist(&own, &["start", &format!("public.stock_{table}")])?);
                if seed.percent(40) {
                    sleep(seed.duration(0, PAUSE_MS.0));
                    insist(&own, &["pause"])?;
                    sleep(seed.duration(PAUSE_MS.0, PAUSE_MS.1));
                    insist(&own, &["resume"])?;
                }
                let next = Instant::now() + duration.mul_f64(seed.below(200) as f64 / 100.0 / f64::from(TABLES));
                while Instant::now() < next && !stopped.load(Ordering::Relaxed) {
                    sleep(LOOK_INTERVAL);
                }
            }
            Ok(requests)
        });
        Snapshots { recipe: recipe.clone(), stop, thread }
    }

    /// Requests what is left, and waits until every snapshot is over. Returns how many times each table was requested, and
    /// why a snapshot is not over.
    pub fn finish(self) -> Result<(BTreeMap<i64, u32>, Option<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let requests = self.thread.join().map_err(|_| "the thread of the snapshots has ended unexpectedly")??;
        let deadline = Instant::now() + END_DEADLINE;
        loop {
            let output = command(&self.recipe, &["status"]).output().map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && text.starts_with("no snapshot is under way") {
                return Ok((requests, None));
            }
            if Instant::now() > deadline {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                return Ok((requests, Some(format!("a snapshot is not over after {END_DEADLINE:?}: {text}{errors}"))));
            }
            sleep(LOOK_INTERVAL);
        }
    }
}

fn command(recipe: &Recipe, arguments: &[&str]) -> Command {
    recipe.command(&[&["snapshot"], arguments].concat())
}

/// Repeats a command until it succeeds, and returns how many times it was tried.
fn insist(recipe: &Recipe, arguments: &[&str]) -> Result<u32> {
    let deadline = Instant::now() + COMMAND_DEADLINE;
    let mut tries = 0;
    loop {
        let output = command(recipe, arguments).output().map_err(|error| error.to_string())?;
        tries += 1;
        if output.status.success() {
            return Ok(tries);
        }
        if Instant::now() > deadline {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!(
                "walcat snapshot {}: not done after {COMMAND_DEADLINE:?}: {errors}",
                arguments.join(" ")
            ));
        }
        sleep(RETRY_PAUSE);
    }
}
