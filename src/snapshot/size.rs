//! How many rows a chunk has: as many as can be read in the time that the user gives a chunk.

use std::time::Duration;

/// The rows of a table's first chunk.
const FIRST: u32 = 1_000;

/// The most rows of a chunk.
const MAX: u32 = 100_000;

/// The number of rows for the next chunk.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    rows: u32,
    time: Duration,
}

impl Size {
    /// Chunks that take this long.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Size { rows: FIRST, time }
    }

    /// The rows of the next chunk.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Another table begins.
    pub fn begin(&mut self) {
        self.rows = FIRST;
    }

    /// A chunk of `rows` took this long; it at most doubles and at least halves the next one.
    pub fn took(&mut self, rows: usize, took: Duration) {
        let took = took.max(Duration::from_micros(100)).as_secs_f64();
        let fitting = f64::from(u32::try_from(rows).unwrap_or(MAX)) * self.time.as_secs_f64() / took;
        let bounded = fitting.clamp(f64::from(self.rows) / 2.0, f64::from(self.rows) * 2.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 1 to MAX")]
        let rows = bounded.clamp(1.0, f64::from(MAX)) as u32;
        self.rows = rows;
    }

    /// Only `rows` fit into a chunk.
    pub fn fits(&mut self, rows: usize) {
        self.rows = u32::try_from(rows).unwrap_or(MAX).clamp(1, self.rows);
    }

    /// A chunk was useless because of concurrent changes: a smaller one meets fewer.
    pub fn was_useless(&mut self) {
        self.rows = (self.rows / 4).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_follows_the_time_in_steps() {
        let mut size = Size::new(Duration::from_millis(200));
        size.took(1_000, Duration::from_millis(10));
        assert_eq!(size.rows(), 2_000);
        size.took(2_000, Duration::from_millis(250));
        assert_eq!(size.rows(), 1_600);
        size.took(1_600, Duration::from_secs(60));
        assert_eq!(size.rows(), 800);
        (0..40).for_each(|_| size.took(1_000_000, Duration::ZERO));
        assert_eq!(size.rows(), MAX);
        (0..40).for_each(|_| size.was_useless());
        assert_eq!(size.rows(), 1);
        size.took(1, Duration::from_secs(60));
        assert_eq!(size.rows(), 1);
    }
}
