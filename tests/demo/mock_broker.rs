//! The broker of `scripts/demo`: librdkafka's mock cluster in a process of its own. Prints the address to bootstrap from,
//! and stays until stdin is closed, so that it cannot outlive the script that started it.
//!
//! It keeps the last 5 MiB of a partition, knows no CreateTopics, and creates topics when they are written to.

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
