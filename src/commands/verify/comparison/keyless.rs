//! The comparison of a table whose records have no key: as multisets of rows.

use log::info;

use super::{Compared, Comparison, Keyless};
use crate::error::Error;
use crate::verify::bag::Bag;

impl Comparison<'_> {
    /// Runs all passes.
    pub(in crate::commands::verify) fn run_without_key(mut self) -> Result<Compared, Error> {
        self.wait_until_visible()?;
        let (settings, layouts, records) = self.terms(self.result.cut.is_none());
        // The statistics may be old: a table that is larger takes more passes.
        let rows = records.saturating_add(self.pair.table.size.rows as u64);
        let mut bag = Bag::new(settings, layouts, self.run.memory.entries_bytes, rows);
        let mut pass = 1_u64;
        loop {
            self.read_topic(|record| bag.take(record))?;
            while bag.must_read_again() {
                info!(topic = self.pair.topic.as_str(); "the topic has a TRUNCATE: reading it again");
                self.read_topic(|record| bag.take(record))?;
            }
            self.result.records = bag.records();
            let (repeats, reshaped) = bag.repeats_and_reshaped();
            self.result.keyless = Some(Keyless { repeats, reshaped });
            self.read_table(|_, _, after| bag.row(after))?;
            let passes = bag.range().passes();
            if passes > 1 {
                info!(topic = self.pair.topic.as_str(), pass, passes;
                    "the rows do not fit [memory] max: comparing a part of them in each pass");
            }
            let (missing, surplus) = bag.missing_and_surplus();
            self.result.missing += missing;
            self.result.surplus += surplus;
            if !bag.next_pass() {
                return Ok(self.result);
            }
            pass += 1;
        }
    }
}
