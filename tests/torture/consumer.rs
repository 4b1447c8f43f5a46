//! The independent consumer: Apache Kafka's Java console consumer, which reads all of walcat's topics from the beginning.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Result, root};
use crate::record::{self, Reading};
use crate::writers::die_with_us;

/// After this time without a record, the topics have been read to the end.
const END_SILENCE_MS: &str = "15000";

/// Prints everything that a `read_committed` consumer sees in the topics that match a pattern.
pub fn command(cluster: &Cluster, topics: &str) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx512m", "-XX:+UseSerialGC", "-cp"])
        .arg(cluster.servers().join("kafka-libs/*"))
        .arg(format!("-Dlog4j2.configurationFile={}", root().join("tests/servers/log4j2-tools.yaml").display()))
        .args(["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", &cluster.brokers])
        .args(["--include", topics, "--from-beginning", "--isolation-level", "read_committed"]);
    for part in ["print.partition", "print.offset", "print.headers", "print.key", "print.value"] {
        command.args(["--property", &format!("{part}=true")]);
    }
    die_with_us(&mut command).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Reads the topics to their ends and saves the lines in a file.
pub fn read(cluster: &Cluster, directory: &Path) -> Result<Reading> {
    let error = |error: std::io::Error| format!("the console consumer: {error}");
    let log = File::create(directory.join("consumer.log")).map_err(error)?;
    let mut command = command(cluster, r"torture\..*");
    let mut child = command.args(["--timeout-ms", END_SILENCE_MS]).stderr(log).spawn().map_err(error)?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let mut kept = BufWriter::new(File::create(directory.join("records.tsv")).map_err(error)?);
    let mut reading = Reading::default();
    for line in BufReader::with_capacity(1 << 20, stdout).lines() {
        let line = line.map_err(error)?;
        writeln!(kept, "{line}").map_err(error)?;
        reading.add(record::parse(&line)?);
    }
    kept.flush().map_err(error)?;
    let status = child.wait().map_err(error)?;
    // It exits with 0 after --timeout-ms; its log explains every other exit.
    if !status.success() {
        return Err(format!("the console consumer: {status}, see consumer.log"));
    }
    Ok(reading)
}
