//! A consumer that reads while the writers write: it checks each state when it becomes visible, not only at the end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::checker::{Counts, Findings, Fold, Promise};
use crate::cluster::{Cluster, Result};
use crate::consumer;
use crate::options::Delivery;
use crate::record::{self, Line, Reading, Record, Table};
use crate::troubles::{Trouble, Troubles};

const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long it may need at the end to read what is already in the topics.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(60);
/// For this long after a fault in Kafka, transaction markers and answers may be late.
const KAFKA_REST: Duration = Duration::from_secs(10);
/// All topics except the one that is sometimes deleted.
const TOPICS: &str = r"torture\.(public\.(account|journal|bulk|marker|page|document)|message|dead-letters)";

/// The last offset of each partition.
type Ends = HashMap<(Table, u32), u64>;

#[derive(Default)]
struct Seen {
    reading: Reading,
    ends: Ends,
    findings: Findings,
    counts: Counts,
    /// When the consumer last read records again because its partitions were reassigned.
    repeated: Option<Instant>,
}

pub struct Live {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

struct Judge {
    fold: Fold,
    troubles: Troubles,
    seen: Arc<Mutex<Seen>>,
}

impl Live {
    pub fn start(cluster: &Arc<Cluster>, directory: &Path, delivery: Delivery, sum: i64, troubles: &Troubles) -> Live {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let mut judge = Judge { fold: Fold::new(delivery, sum), troubles: troubles.clone(), seen: Arc::clone(&seen) };
        let (cluster, stopped, log) = (Arc::clone(cluster), Arc::clone(&stop), directory.join("live-consumer.log"));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = follow(&cluster, &log, &mut judge, &stopped) {
                    eprintln!("torture: the consumer beside the writers: {error}");
                }
                sleep(RESTART_PAUSE);
            }
        });
        Live { stop, seen, thread }
    }

    /// Waits until it has seen what another consumer read to the end; both must agree.
    pub fn stop(self, last: &[Record]) -> (Findings, Counts) {
        let mut ends = Ends::new();
        for record in last {
            ends.insert((record.table, record.partition), record.offset);
        }
        let deadline = Instant::now() + CATCH_UP_DEADLINE;
        let has_all = |seen: &Seen| ends.iter().all(|(home, end)| seen.ends.get(home).is_some_and(|seen| seen >= end));
        while Instant::now() < deadline && !has_all(&lock(&self.seen)) {
            sleep(LOOK_INTERVAL);
        }
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        let seen = std::mem::take(&mut *lock(&self.seen));
        let mut findings = seen.findings;
        crate::checker::compare_readings(&seen.reading.records, last, &mut findings);
        (findings, seen.counts)
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run of the consumer, until it or this program ends.
fn follow(cluster: &Cluster, log: &PathBuf, judge: &mut Judge, stop: &AtomicBool) -> Result<()> {
    let error = |error: std::io::Error| error.to_string();
    let log = File::options().create(true).append(true).open(log).map_err(error)?;
    let mut command = consumer::command(cluster, TOPICS);
    // It finds new topics quickly.
    command.args(["--consumer-property", "metadata.max.age.ms=2000"]);
    let mut child = command.stderr(log).spawn().map_err(error)?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let (sender, lines) = mpsc::sync_channel(10_000);
    let reader = std::thread::spawn(move || {
        for line in BufReader::with_capacity(1 << 20, stdout).lines().map_while(std::io::Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let outcome = judge.judge(&lines, &mut child, stop);
    let _ = (child.kill(), child.wait());
    drop(lines);
    let _ = reader.join();
    outcome
}

impl Judge {
    fn judge(&mut self, lines: &Receiver<(Instant, String)>, child: &mut Child, stop: &AtomicBool) -> Result<()> {
        // The time at which the line arrived, so that a slow check does not make it look late.
        let mut now = Instant::now();
        let mut looked = now;
        while !stop.load(Ordering::Relaxed) {
            match lines.recv_timeout(LOOK_INTERVAL) {
                Ok((arrived, line)) => {
                    now = arrived;
                    self.take(&line, now);
                }
                Err(RecvTimeoutError::Timeout) => now = Instant::now(),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it has ended: {:?}, see live-consumer.log", child.wait()));
                }
            }
            if now >= looked + LOOK_INTERVAL {
                looked = now;
                self.look(now);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str, now: Instant) {
        let mut seen = lock(&self.seen);
        let seen = &mut *seen;
        match record::parse(line) {
            Err(error) => seen.findings.add(Promise::Reading, || error),
            Ok(Line::DeadLetter(letter)) => self.fold.take_dead_letter(&letter, &mut seen.findings),
            Ok(Line::Record(record)) => {
                let home = (record.table, record.partition);
                if seen.ends.get(&home).is_some_and(|end| record.offset <= *end) {
                    seen.repeated = Some(now);
                    return;
                }
                seen.ends.insert(home, record.offset);
                self.fold.take(&record, now, &mut seen.findings);
                seen.counts = self.fold.counts();
                seen.reading.records.push(record);
            }
        }
    }

    fn look(&mut self, now: Instant) {
        let mut seen = lock(&self.seen);
        let of_a_node = self.troubles.well_since(Trouble::Kafka);
        let (Some(of_a_node), Some(of_all)) = (of_a_node, self.troubles.well_since(Trouble::AllOfKafka)) else {
            return;
        };
        let well_since = of_a_node.max(of_all);
        let well_since = seen.repeated.map_or(well_since, |repeated| repeated.max(well_since)) + KAFKA_REST;
        if well_since < now {
            self.fold.look_at_parts(now, well_since, &mut seen.findings);
        }
    }
}
