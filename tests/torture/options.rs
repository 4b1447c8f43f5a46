//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

#[derive(Clone, Debug, Parser)]
#[command(name = "torture", about = "Tortures walcat with faults, and checks what a consumer sees in the end")]
pub struct Options {
    /// What decides which faults and writes come in which order [default: any]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the faults go on; longer where not every fault has had its turn
    #[arg(long, default_value = "3m", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// The promise to check, and walcat's `delivery` where it is not the default
    #[arg(long, value_enum, default_value = "at-least-once")]
    pub delivery: Delivery,
    /// walcat's `engine` where it is not the default
    #[arg(long, value_enum, default_value = "streaming")]
    pub engine: Engine,
    /// PostgreSQL's version; a failover is among the faults from 17 on
    #[arg(long, default_value_t = 17, value_parser = clap::value_parser!(u16).range(14..=18))]
    pub postgres: u16,
    /// Give walcat a `[state] file`
    #[arg(long)]
    pub state_file: bool,
    /// The program
    #[arg(long, default_value = "target/debug/walcat")]
    pub walcat: PathBuf,
    /// The name of the servers
    #[arg(long, default_value = "torture")]
    pub name: String,
    /// These faults only, by name, a comma between
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<String>,
    /// Keep logs and findings of a good run too
    #[arg(long)]
    pub keep: bool,
    /// More arguments of `walcat stream`
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
