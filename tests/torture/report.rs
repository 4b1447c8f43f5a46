//! The report of a run: the seed, each fault with its time, and the counts at the end. It is printed and saved in a file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use crate::checker::Counts;
use crate::cluster::Result;
use crate::ends::Ends;

pub struct Report {
    started: Instant,
    file: File,
    pub faults: u32,
}

impl Report {
    pub fn new(directory: &Path) -> Result<Report> {
        let file = File::create(directory.join("report")).map_err(|error| error.to_string())?;
        Ok(Report { started: Instant::now(), file, faults: 0 })
    }

    pub fn say(&mut self, text: &str) {
        println!("{text}");
        let _ = writeln!(self.file, "{text}");
    }

    /// Adds the time since the start, and the wall clock's time in the format of walcat's log.
    pub fn step(&mut self, text: &str) {
        let now = std::time::SystemTime::now();
        let clock = humantime::format_rfc3339_millis(now).to_string();
        let elapsed = self.started.elapsed().as_secs_f64();
        self.say(&format!("{elapsed:8.2} s  {}  {text}", &clock[11..23]));
    }

    pub fn fault(&mut self, text: &str) {
        self.faults += 1;
        self.step(text);
    }

    /// `live` is the counts of the consumer that reads while the writers write.
    pub fn counts(&mut self, steps: u64, counts: &Counts, live: &Counts, ends: &Ends) {
        let Counts {
            records,
            tombstones,
            repeats,
            restarts,
            late,
            transactions,
            largest,
            changes,
            dead_letters,
            snapshot_rows,
            ..
        } = counts;
        let ended: Vec<_> = ends.counts.iter().map(|(how, times)| format!("{how}: {times}")).collect();
        self.say(&format!("{} faults, {steps} steps of the writers", self.faults));
        self.say(&format!("walcat: {} starts; {}; at most {} kB", ends.starts, ended.join(", "), ends.rss_max_kb));
        self.say(&format!(
            "{records} records ({tombstones} tombstones, {repeats} repeats) of {changes} changes, {dead_letters} dead letters"
        ));
        if *snapshot_rows > 0 {
            self.say(&format!("{snapshot_rows} rows sent by snapshots"));
        }
        self.say(&format!("{transactions} transactions, the largest of {largest} changes"));
        self.say(&format!(
            "beside the writers: {} transactions seen whole, the money counted at {} visible states",
            live.transactions, live.states
        ));
        self.say(&format!(
            "{restarts} times a partition began again, {late} times a dead process's requests came late"
        ));
    }
}
