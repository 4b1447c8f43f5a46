//! A seeded harness that tortures walcat on real servers, and proves its promises with a consumer that is not
//! librdkafka's: writers make transfers between accounts, a nemesis kills, freezes and cuts by the seed, a checker looks
//! at all that a `read_committed` consumer sees in the end. `scripts/torture` builds and runs it.

mod checker;
mod cluster;
mod nemesis;
mod proxy;
mod random;
mod reader;
mod supervisor;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use crate::checker::Promise;
use crate::cluster::Cluster;
use crate::nemesis::Nemesis;
use crate::proxy::Proxy;
use crate::supervisor::{Settings, Supervisor};
use crate::workload::Workload;

/// What walcat promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

/// How walcat reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Streaming,
    Polling,
}

/// Tortures walcat on real servers.
#[derive(Debug, Parser)]
struct Options {
    /// The same seed injects the same faults in the same order
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults are injected
    #[arg(long, default_value = "3m", value_parser = humantime::parse_duration)]
    duration: Duration,
    #[arg(long, value_enum, default_value = "at-least-once")]
    delivery: Delivery,
    #[arg(long, value_enum, default_value = "streaming")]
    engine: Engine,
    /// The program to torture
    #[arg(long)]
    walcat: PathBuf,
    /// Where logs go: kept when something is wrong
    #[arg(long)]
    directory: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed =
        options.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ walcat::clock::unix_now_ns().unsigned_abs());
    let seed = seed % 1_000_000_000;
    let delivery = options.delivery.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let engine = options.engine.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let replay = format!(
        "scripts/torture --seed {seed} --duration {} --delivery {delivery} --engine {engine}",
        humantime::format_duration(options.duration).to_string().replace(' ', "")
    );
    println!("torture: seed {seed}; again: {replay}");
    let directory = options.directory.join(format!("{seed}-{delivery}-{engine}"));
    std::fs::create_dir_all(&directory).expect("a directory for the logs");
    match run(&options, seed, &directory) {
        Ok(()) => {
            println!("torture: nothing is wrong (seed {seed})");
            let _ = std::fs::remove_dir_all(&directory);
            ExitCode::SUCCESS
        }
        Err(violations) => {
            for violation in &violations {
                println!("torture: VIOLATION: {violation}");
            }
            std::fs::write(directory.join("violations.txt"), violations.join("\n")).expect("violations");
            println!("torture: {} violations; logs in {}; again: {replay}", violations.len(), directory.display());
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, seed: u64, directory: &std::path::Path) -> Result<(), Vec<String>> {
    let begun = Instant::now();
    let cluster = Cluster::start(seed);
    let proxy = Arc::new(Proxy::start(cluster.pg_port()));
    let workload = Workload::start(&cluster, seed);
    let supervisor = Supervisor::start(Settings {
        program: options.walcat.clone(),
        directory: directory.to_owned(),
        pg_port: proxy.port(),
        brokers: cluster.brokers(),
        delivery: options.delivery,
        engine: options.engine,
    });
    println!("torture: servers, writers and walcat run after {} s", begun.elapsed().as_secs());

    let mut nemesis = Nemesis::new(seed, &cluster, &proxy, &supervisor, options.engine);
    let faults = nemesis.torment(options.duration);
    nemesis.heal();
    println!("torture: faults: {}", nemesis::summary(&faults));

    let written = workload.stop();
    let mut violations = Vec::new();
    let end = cluster.wal_lsn();
    if let Err(why) = cluster.wait_until_confirmed(&end, Duration::from_secs(240)) {
        violations.push(why);
    }
    let ended = supervisor.stop();
    println!("torture: walcat ended {} times: {}", ended.count(), ended.summary());
    violations.extend(ended.violations());

    let tables = cluster.tables();
    let seen = reader::read(&cluster, &["account", "journal"], directory);
    let promise = match options.delivery {
        Delivery::AtLeastOnce => Promise::AtLeastOnce,
        Delivery::ExactlyOnce => Promise::ExactlyOnce,
    };
    let verdict = checker::check(promise, &seen, &tables);
    println!(
        "torture: {} transactions written by {} writers; {} records seen, {} of them again, in {} transactions; {} \
         journal rows; {} s in all",
        written.transactions,
        written.writers,
        verdict.records,
        verdict.repeats,
        verdict.transactions,
        tables.journal.len(),
        begun.elapsed().as_secs()
    );
    violations.extend(verdict.violations);
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}
