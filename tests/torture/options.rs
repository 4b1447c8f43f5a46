//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

#[derive(Clone, Debug, Parser)]
#[command(name = "torture", about = "Injects faults around walcat and checks what consumers see")]
pub struct Options {
    /// Determines the faults, the writes and their order [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Inject faults this long; longer if not every fault has occurred
    #[arg(long, default_value = "3m", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// walcat's `delivery`, and the promise to check
    #[arg(long, value_enum, default_value = "at-least-once")]
    pub delivery: Delivery,
    /// walcat's `engine`
    #[arg(long, value_enum, default_value = "streaming")]
    pub engine: Engine,
    /// PostgreSQL's version; the failover fault requires 17 or later
    #[arg(long, default_value_t = 17, value_parser = clap::value_parser!(u16).range(14..=18))]
    pub postgres: u16,
    /// Give walcat a `[state] file`
    #[arg(long)]
    pub state_file: bool,
    /// Give walcat a `[state] topic`
    #[arg(long, conflicts_with = "state_file")]
    pub state_topic: bool,
    /// The walcat program
    #[arg(long, default_value = "target/debug/walcat")]
    pub walcat: PathBuf,
    /// The name of the servers
    #[arg(long, default_value = "torture")]
    pub name: String,
    /// Only these faults, by name, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<String>,
    /// Keep the logs and findings of a successful run too
    #[arg(long)]
    pub keep: bool,
    /// Further arguments for `walcat stream`
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Streaming,
    Polling,
}

impl Options {
    /// Snapshots need a place for their progress.
    pub fn has_snapshots(&self) -> bool {
        self.delivery == Delivery::ExactlyOnce || self.state_file || self.state_topic
    }

    /// The command that repeats this run.
    pub fn replay(&self, seed: u64) -> String {
        let mut command = format!("scripts/torture --seed {seed} --duration {}s", self.duration.as_secs());
        if self.delivery == Delivery::ExactlyOnce {
            command.push_str(" --delivery exactly-once");
        }
        if self.engine == Engine::Polling {
            command.push_str(" --engine polling");
        }
        if !self.walcat.ends_with("target/debug/walcat") {
            command.push_str(&format!(" --walcat {}", self.walcat.display()));
        }
        if self.postgres != 17 {
            command.push_str(&format!(" --postgres {}", self.postgres));
        }
        if self.state_file {
            command.push_str(" --state-file");
        }
        if self.state_topic {
            command.push_str(" --state-topic");
        }
        if !self.faults.is_empty() {
            command.push_str(" --faults ");
            command.push_str(&self.faults.join(","));
        }
        if !self.arguments.is_empty() {
            command.push_str(" -- ");
            command.push_str(&self.arguments.join(" "));
        }
        command
    }
}
