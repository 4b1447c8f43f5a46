//! `walcat snapshot estimate`: how many rows and bytes tables have, and how long their snapshot takes.
//!
//! Rows and bytes are those of the server's statistics. The time is measured: a sample of each table is read as a chunk is.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::incremental::{Keys, chosen, connect, parse, published};
use super::slot::{Commands, print};
use crate::config::StreamSettings;
use crate::error::Error;
use crate::pg::copy_out::{Copied, CopyOut};
use crate::pg::tables::{Part, Table};
use crate::pg::{self, Connection};
use crate::source::waiting::Waiter;

/// The rows of a sample.
const SAMPLE_ROWS: u64 = 10_000;

/// The time for all samples; later tables count with the rate of the earlier ones.
const SAMPLES_TIME: Duration = Duration::from_secs(5);

/// Shows how large the tables are, and how long their snapshot takes.
///
/// # Errors
/// 78 for a pattern that no published table fits.
pub fn run(settings: &StreamSettings, patterns: &[String]) -> Result<(), Error> {
    let parsed = parse(patterns)?;
    let mut commands = Commands::new()?;
    let connection = connect(settings, &mut commands)?;
    let tables = published(settings, &mut commands.waiter(), &connection)?;
    let mut keys = Keys::new(settings, &connection)?;
    let began = Instant::now();
    let mut text = format!("{:>14} {:>16} {:>10}  table\n", "rows", "bytes", "time");
    let (mut rows, mut bytes) = (0.0, 0);
    let mut samples = Samples::default();
    let mut is_whole = true;
    for table in chosen(&tables, &parsed, patterns)? {
        let (size, relation) = (table.size, &table.relation);
        let key = keys.of(table)?;
        let seconds = if key.is_empty() {
            None
        } else if began.elapsed() < SAMPLES_TIME {
            match sample(settings, &connection, table, &key, &mut commands.waiter()) {
                Ok(sample) => Some(samples.add(&sample, size.rows)),
                // Without SELECT nothing can be measured.
                Err(pg::Error::Command { .. }) => None,
                Err(error) => return Err(error.into()),
            }
        } else {
            samples.at_their_rate(size.rows)
        };
        is_whole &= seconds.is_some();
        let time = match (seconds, key.is_empty()) {
            (Some(seconds), _) => duration(seconds),
            (None, true) => "no key".to_owned(),
            (None, false) => "unknown".to_owned(),
        };
        let _ = writeln!(
            text,
            "{:>14.0} {:>16} {time:>10}  {}.{}",
            size.rows, size.bytes, relation.namespace, relation.name
        );
        (rows, bytes) = (rows + size.rows, bytes + size.bytes);
    }
    let all = format!("{}{}", if is_whole { "" } else { ">" }, duration(samples.seconds_in_all));
    let _ = writeln!(text, "{rows:>14.0} {bytes:>16} {all:>10}  in all");
    let _ = writeln!(
        text,
        "Rows and bytes are the estimates of the server. The time is that of reading alone: {} rows took {:.1} s. Kafka and \
         the stream add to it.",
        samples.rows, samples.seconds
    );
    print(&text)
}

/// What was read of a table.
struct Sample {
    rows: u64,
    seconds: f64,
}

/// What was read of all tables so far, and what follows from it.
#[derive(Default)]
struct Samples {
    rows: u64,
    seconds: f64,
    seconds_in_all: f64,
}

impl Samples {
    /// The time of a table with about this many rows, after its sample.
    fn add(&mut self, sample: &Sample, rows: f64) -> f64 {
        self.rows += sample.rows;
        self.seconds += sample.seconds;
        let times = (rows / (sample.rows.max(1) as f64)).max(1.0);
        let seconds = sample.seconds * times;
        self.seconds_in_all += seconds;
        seconds
    }

    /// The time of a table without a sample of its own.
    fn at_their_rate(&mut self, rows: f64) -> Option<f64> {
        let seconds = (self.rows > 0).then(|| rows * self.seconds / self.rows as f64)?;
        self.seconds_in_all += seconds;
        Some(seconds)
    }
}

/// Reads the first rows in the order of the key.
fn sample(
    settings: &StreamSettings,
    connection: &Connection,
    table: &Table,
    key: &[String],
    waiter: &mut Waiter<'_>,
) -> Result<Sample, pg::Error> {
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    let mut copy = CopyOut::connect("reading a sample", dsn, &connection.server())?;
    let wait = &mut |socket, way| waiter.wait(socket, way);
    // The time of the connection does not count.
    copy.rows("COPY (SELECT 1) TO STDOUT", wait)?;
    let began = Instant::now();
    copy.start(&table.copy(&Part { order_by: key, limit: Some(SAMPLE_ROWS), ..Part::default() }))?;
    let mut rows = 0;
    loop {
        match copy.receive()? {
            Copied::Row(_) => rows += 1,
            Copied::EndOfCopy => {}
            Copied::End => return Ok(Sample { rows, seconds: began.elapsed().as_secs_f64() }),
            Copied::Pending => {
                if let Some((socket, way)) = copy.socket() {
                    wait(socket, way)?;
                }
            }
        }
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 1.0 => "< 1s".to_owned(),
        _ => humantime::format_duration(Duration::from_secs(seconds as u64)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_as_long_as_its_sample_and_one_without_a_sample_as_long_as_the_others() {
        let mut samples = Samples::default();
        assert_eq!(samples.at_their_rate(10.0), None, "nothing was measured");
        let sample = Sample { rows: 10_000, seconds: 0.5 };
        assert!((samples.add(&sample, 1_000_000.0) - 50.0).abs() < 1e-6);
        assert!((samples.add(&sample, 0.0) - 0.5).abs() < 1e-6, "a table without statistics has at least its sample");
        assert!(samples.at_their_rate(2_000_000.0).is_some_and(|seconds| (seconds - 100.0).abs() < 1e-6));
        assert!((samples.seconds_in_all - 150.5).abs() < 1e-6);
        assert_eq!([0.2, 1.5, 3_700.0].map(duration), ["< 1s", "1s", "1h 1m 40s"]);
    }
}
