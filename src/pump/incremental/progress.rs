//! How far the incremental snapshots are, for people.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::info;

use crate::pg::tables::Table;
use crate::pump::display::{Display, Pace, count};
use crate::snapshot::Progress;

/// What this run has sent of the snapshots under way.
#[derive(Debug, Default)]
pub(super) struct Sent {
    began: Option<Instant>,
    rows: u64,
    tables: u64,
    /// The rows of the published tables, as `pg_class` has them, by OID.
    estimates: HashMap<u32, f64>,
}

impl Sent {
    /// These tables are published.
    pub fn listed(&mut self, tables: &[Table]) {
        self.estimates = tables.iter().map(|table| (table.relation.oid, table.size.rows)).collect();
    }

    /// A read begins.
    pub fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// A chunk was sent.
    pub fn chunk(&mut self, rows: u64, is_last: bool) {
        self.rows += rows;
        self.tables += u64::from(is_last);
    }

    /// The snapshots are complete: logs the summary.
    pub fn end(&mut self, slot: &str) {
        let seconds = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let Pace { rate, .. } = Pace::new(0, self.rows, 0.0, seconds);
        info!(
            slot, tables = self.tables, rows = self.rows, rows_per_s = rate,
            seconds:% = format!("{:.1}", seconds.as_secs_f64()); "snapshot complete"
        );
        (self.began, self.rows, self.tables) = (None, 0, 0);
    }

    /// Shows the table that is read now.
    pub fn show(&self, slot: &str, progress: &Progress, display: &Display, now: Instant) {
        let (Some(table), Some(began)) = (progress.tables.first(), self.began) else { return };
        let estimate = |oid: u32| self.estimates.get(&oid).copied().unwrap_or(0.0);
        let left: f64 = progress.tables.iter().map(|table| (estimate(table.oid) - table.rows as f64).max(0.0)).sum();
        let pace = Pace::new(0, self.rows, self.rows as f64 + left, now.saturating_duration_since(began));
        let Pace { per_cent, .. } = Pace::new(0, table.rows, estimate(table.oid), Duration::ZERO);
        let (tables_left, left) = (progress.tables.len(), pace.left_text());
        let (rows, rows_per_s) = (table.rows, pace.rate);
        let text = || {
            let (name, after) = (format!("{}.{}", table.schema, table.table), tables_left - 1);
            let after = if after == 0 { String::new() } else { format!(", {after} more tables") };
            format!("{name}: {} rows, {}/s, {left} left{after}", count(rows), count(rows_per_s))
        };
        display.show(per_cent, text, || {
            info!(
                slot, schema = table.schema.as_str(), table = table.table.as_str(), rows, rows_per_s, per_cent,
                left = left.as_str(), tables_left; "snapshot: reading in chunks"
            );
        });
    }
}
