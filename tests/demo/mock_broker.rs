//! The broker of `scripts/demo`: librdkafka's mock cluster in a separate process. It prints its bootstrap address and runs
//! until stdin is closed, so it cannot outlive the script that started it.
//!
//! It keeps the last 5 MiB of a partition, does not support CreateTopics, and creates a topic at the first write.

use std::io::{self, Write};

use rdkafka::mocking::MockCluster;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = MockCluster::new(1)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", cluster.bootstrap_servers())?;
    stdout.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
