//! How far a consistent snapshot is.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount};
use log::info;

use crate::pg::tables::Table;
use crate::pump::display::Display;

/// How much of a table is read.
#[derive(Clone, Copy, Debug, Default)]
struct Read {
    rows: u64,
    bytes: u64,
    is_done: bool,
}

/// Counts, and shows the counts.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    display: Display,
    read: Vec<Read>,
}

/// Where a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    per_cent: u64,
    left: Option<Duration>,
}

impl Progress {
    /// Begins; nothing is read.
    #[must_use]
    pub fn new(tables: &[Table], interval: Option<Duration>, now: Instant) -> Self {
        Progress { began: now, display: Display::begin(interval, now), read: vec![Read::default(); tables.len()] }
    }

    /// A row of this size was read.
    pub fn row(&mut self, table: usize, bytes: usize) {
        let read = &mut self.read[table];
        read.rows += 1;
        read.bytes += bytes as u64;
    }

    /// A table has ended.
    pub fn table_ended(&mut self, table: usize, tables: &[Table]) {
        self.read[table].is_done = true;
        let Read { rows, bytes, .. } = self.read[table];
        let name = &tables[table].relation;
        info!(schema = name.namespace.as_str(), table = name.name.as_str(), rows, bytes; "snapshot: table read");
    }

    /// All rows that were read.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.read.iter().map(|read| read.rows).sum()
    }

    fn bytes(&self) -> u64 {
        self.read.iter().map(|read| read.bytes).sum()
    }

    /// The time of the next line.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.display.deadline()
    }

    /// Shows where the snapshot is, if that is due. `table` is the one being read.
    pub fn show(&mut self, tables: &[Table], table: Option<usize>, now: Instant) {
        if !self.display.is_due(now) {
            return;
        }
        let Estimate { per_cent, left } = self.estimate(tables, now);
        let rows_per_s = self.rate(now);
        let name = table.map_or("-".to_owned(), |table| {
            format!("{}.{}", tables[table].relation.namespace, tables[table].relation.name)
        });
        let left = left.map_or("unknown".to_owned(), |left| humantime::format_duration(left).to_string());
        let text = || {
            let (rows, bytes, rate) = (HumanCount(self.rows()), HumanBytes(self.bytes()), HumanCount(rows_per_s));
            format!("{name}: {rows} rows, {bytes}, {rate}/s, {left} left")
        };
        self.display.show(per_cent, text, || {
            info!(
                table = name.as_str(), rows = self.rows(), bytes = self.bytes(), rows_per_s, per_cent, left = left.as_str();
                "snapshot: reading; the server cannot remove dead rows until it ends"
            );
        });
    }

    /// Shows the end.
    pub fn ended(&self, tables: usize, now: Instant) {
        let seconds = now.saturating_duration_since(self.began).as_secs_f64();
        info!(
            tables, rows = self.rows(), bytes = self.bytes(), rows_per_s = self.rate(now), seconds:% = format!("{seconds:.1}");
            "snapshot ended"
        );
    }

    fn rate(&self, now: Instant) -> u64 {
        let ms = now.saturating_duration_since(self.began).as_millis().max(1);
        u64::try_from(u128::from(self.rows()) * 1_000 / ms).unwrap_or(u64::MAX)
    }

    /// Per cent of all bytes, where each table counts by its size in `pg_class`.
    fn estimate(&self, tables: &[Table], now: Instant) -> Estimate {
        let (mut done, mut all) = (0.0, 0.0);
        for (read, table) in self.read.iter().zip(tables) {
            // An empty table takes a moment too.
            let weight = table.size.bytes as f64 + 1.0;
            let share = match read.is_done {
                true => 1.0,
                // The statistics may be old.
                false if table.size.rows > 0.0 => (read.rows as f64 / table.size.rows).min(0.99),
                false => (read.bytes as f64 / weight).min(0.99),
            };
            done += share * weight;
            all += weight;
        }
        let share = if all > 0.0 { done / all } else { 1.0 };
        let elapsed = now.saturating_duration_since(self.began).as_secs_f64();
        let left = (share > 0.001).then(|| Duration::from_secs((elapsed * (1.0 - share) / share) as u64));
        Estimate { per_cent: (share * 100.0) as u64, left }
    }
}
