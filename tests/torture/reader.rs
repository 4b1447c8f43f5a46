//! Reads the topics with Apache Kafka's own console consumer, `read_committed`: a client that shares nothing with walcat's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::{Cluster, PREFIX};

/// A record as the consumer saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The table.
    pub table: String,
    pub partition: i32,
    pub key: Value,
    /// None for a tombstone.
    pub value: Option<Value>,
}

/// All that is in the tables' topics, each partition in the order of its offsets.
pub fn read(cluster: &Cluster, tables: &[&str], directory: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    for table in tables {
        let mut partitions: BTreeMap<i32, Vec<(i64, Seen)>> = BTreeMap::new();
        let log = std::fs::File::create(directory.join(format!("consumer-{table}.log"))).expect("a log");
        let mut consumer = Command::new("java")
            // It logs to stdout; that it ends by its time-out is an error in its eyes.
            .args([
                "-Xmx512m",
                "-Dorg.apache.logging.log4j.level=OFF",
                "-cp",
                &cluster.libraries(),
                "org.apache.kafka.tools.consumer.ConsoleConsumer",
            ])
            .args(["--bootstrap-server", &cluster.brokers(), "--topic", &format!("{PREFIX}.public.{table}")])
            .args(["--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "15000"])
            .args(["--property", "print.partition=true", "--property", "print.offset=true"])
            .args(["--property", "print.key=true"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the console consumer");
        let lines = BufReader::new(consumer.stdout.take().expect("stdout")).lines();
        for line in lines.map_while(Result::ok) {
            let (partition, offset, record) = parse(table, &line);
            partitions.entry(partition).or_default().push((offset, record));
        }
        let _ = consumer.wait();
        for records in partitions.into_values() {
            let is_in_order = records.windows(2).all(|pair| pair[0].0 < pair[1].0);
            assert!(is_in_order, "the consumer gave the offsets of a partition out of order");
            seen.extend(records.into_iter().map(|(_, record)| record));
        }
    }
    seen
}

/// `Partition:0<TAB>Offset:7<TAB>KEY<TAB>VALUE`, in either order of the first two; JSON holds no tabs.
fn parse(table: &str, line: &str) -> (i32, i64, Seen) {
    let (mut partition, mut offset, mut rest) = (None, None, Vec::new());
    for field in line.split('\t') {
        match (field.strip_prefix("Partition:"), field.strip_prefix("Offset:")) {
            (Some(number), _) if partition.is_none() => partition = number.parse().ok(),
            (_, Some(number)) if offset.is_none() => offset = number.parse().ok(),
            _ => rest.push(field),
        }
    }
    let json = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}: {error}")) };
    let [key, value] = rest[..] else { panic!("not a record: {line}") };
    let value = (value != "null").then(|| json(value));
    let record = Seen { table: table.to_owned(), partition: partition.expect(line), key: json(key), value };
    (record.partition, offset.expect(line), record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_console_consumer_is_read() {
        let (partition, offset, seen) = parse("t", "Partition:2\tOffset:7\t{\"id\":1}\t{\"op\":\"c\"}");
        assert_eq!((partition, offset, seen.key["id"].as_i64()), (2, 7, Some(1)));
        assert_eq!(seen.value.map(|value| value["op"].clone()), Some("c".into()));
        assert!(parse("t", "Offset:8\tPartition:2\t{\"id\":1}\tnull").2.value.is_none());
    }
}
