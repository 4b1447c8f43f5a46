//! Injects faults around the walcat program, a real PostgreSQL and a real Kafka of three nodes, and checks the result.
//!
//! Writers move money, `nemesis` injects faults from a seed, and `supervisor` restarts walcat. At the end everything is
//! repaired, an independent consumer reads all topics, and `checker` judges the records. `scripts/torture` starts it.

mod checker;
mod cluster;
mod consumer;
mod ends;
mod expected;
mod live;
mod nemesis;
mod options;
mod proxy;
mod record;
mod report;
mod seed;
mod snapshots;
mod starve;
mod supervisor;
mod troubles;
mod watch;
mod writers;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser as _;

use checker::{Findings, Promise};
use cluster::{Cluster, DATABASE, Result, SLOT};
use live::Live;
use nemesis::Nemesis;
use options::{Delivery, Options};
use report::Report;
use seed::Seed;
use snapshots::Snapshots;
use supervisor::{Recipe, Supervisor};
use troubles::Troubles;
use watch::Watch;
use writers::{ACCOUNTS, BALANCE, Writers};

/// How long the slot may stand still after everything is healed.
const STANDSTILL_MAX: Duration = Duration::from_secs(120);

/// How long walcat may take for its backlog after everything is healed.
const CATCH_UP_MAX: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(Seed::any);
    let directory = cluster::root().join("target/torture").join(seed.to_string());
    println!("seed {seed}: {}", options.replay(seed));
    match run(&options, seed, &directory) {
        Ok(findings) if findings.is_empty() => {
            println!("every promise was kept");
            if !options.keep {
                let _ = fs::remove_dir_all(&directory);
            }
            ExitCode::SUCCESS
        }
        Ok(_) => fail("promises were broken", &options, seed, &directory),
        Err(error) => fail(&error, &options, seed, &directory),
    }
}

fn fail(why: &str, options: &Options, seed: u64, directory: &Path) -> ExitCode {
    println!("torture: {why}\nlogs: {}\nagain: {}", directory.display(), options.replay(seed));
    ExitCode::FAILURE
}

fn run(options: &Options, seed: u64, directory: &Path) -> Result<Findings> {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    fs::write(directory.join("replay"), format!("{}\n", options.replay(seed))).map_err(|error| error.to_string())?;
    let mut report = Report::new(directory)?;
    report.step("starting the servers");
    let cluster = Arc::new(Cluster::start(&options.name, options.postgres)?);
    let outcome = torture(options, &cluster, &mut Seed::new(seed), directory, &mut report);
    cluster.keep_logs(directory);
    outcome
}

fn torture(
    options: &Options,
    cluster: &Arc<Cluster>,
    seed: &mut Seed,
    directory: &Path,
    report: &mut Report,
) -> Result<Findings> {
    prepare(cluster)?;
    let troubles = Troubles::new();
    let live = Live::start(cluster, directory, options.delivery, ACCOUNTS * BALANCE, &troubles);
    let recipe = Recipe::new(options, cluster, directory, &troubles)?;
    let walcat = Supervisor::start(recipe.clone());
    let writers = Writers::start(cluster, options, seed);
    let snapshots = options.has_snapshots().then(|| Snapshots::start(&recipe, options.duration, seed.fork()));
    let watch = Watch::start(cluster);
    report.step("walcat, the writers and a reader are running");

    let mut nemesis = Nemesis::new(cluster, &walcat, &writers, &troubles, report, seed.fork());
    nemesis.run(options)?;
    let fleeting_from = nemesis.fleeting_from;

    let mut findings = Findings::default();
    let mut requests = None;
    if let Some(snapshots) = snapshots {
        let (all, late) = snapshots.finish()?;
        requests = Some(all);
        late.into_iter().for_each(|late| findings.add(Promise::Behaviour, || late));
        report.step("the snapshots are over");
    }
    let steps = writers.stop();
    // One more transaction: the slot must reach the end of its commit, even if no keepalive moves it.
    let end = cluster.sql(
        "WITH last AS (INSERT INTO marker (records) VALUES (1) RETURNING 1) SELECT pg_current_wal_insert_lsn() FROM last",
    )?;
    report.step(&format!("everything is repaired; the writers have ended at {end}"));
    if let Some(late) = catch_up(cluster, &end)? {
        findings.add(Promise::Behaviour, || late);
    }
    report.step("walcat has confirmed the end");
    // In at-least-once, a process that was frozen or killed may send old records late.
    if options.delivery == Delivery::ExactlyOnce
        && let Some(different) = verify(&recipe)?
    {
        findings.add(Promise::Lost, || different);
    }
    let ends = walcat.stop();
    for seen in ends.unexplained.iter().chain(&watch.stop()) {
        findings.add(Promise::Behaviour, || seen.clone());
    }

    let reading = consumer::read(cluster, directory)?;
    report.step("the consumer has read the topics to their ends");
    let (broken, counts) =
        checker::check(options.delivery, &reading, &expected::read(cluster, fleeting_from, requests)?);
    findings.extend(broken);
    let (broken, seen) = live.stop(&reading.records);
    findings.extend(broken);
    report.counts(steps, &counts, &seen, &ends);
    if !findings.is_empty() {
        report.say(findings.to_string().trim_end());
    }
    Ok(findings)
}

/// Creates the slot first, so that the first accounts are part of the stream.
fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.sql_in("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    cluster.sql(include_str!("schema.sql"))?;
    if cluster.has_failover() {
        cluster.sql(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput', failover => true)"))?;
    } else {
        cluster.sql(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"))?;
    }
    cluster.sql(&format!("SELECT load({ACCOUNTS}, {BALANCE})")).map(drop)
}

/// Asks walcat itself whether the topics equal the tables; the error says what differs.
fn verify(recipe: &Recipe) -> Result<Option<String>> {
    let mut command = recipe.command(&["verify", "public.account", "public.bulk", "public.stock_*"]);
    let output = command.output().map_err(|error| format!("walcat verify: {error}"))?;
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok((!output.status.success()).then(|| format!("walcat verify: {}: {text}", output.status)))
}

/// Waits until the slot has passed a position; the error says why it has not. A backlog takes as long as it takes on a busy
/// machine, but the slot must move.
fn catch_up(cluster: &Cluster, end: &str) -> Result<Option<String>> {
    let began = Instant::now();
    let (mut last, mut moved_at) = (String::new(), began);
    let question = format!(
        "SELECT confirmed_flush_lsn > '{end}', confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    );
    loop {
        let answer = cluster.sql(&question)?;
        if answer.starts_with("t|") {
            return Ok(None);
        }
        if answer != last {
            (last, moved_at) = (answer, Instant::now());
        }
        if moved_at.elapsed() > STANDSTILL_MAX || began.elapsed() > CATCH_UP_MAX {
            let (seconds, still) = (began.elapsed().as_secs(), moved_at.elapsed().as_secs());
            return Ok(Some(format!(
                "{end} is not confirmed after {seconds} s, of which {still} s without progress: {last}"
            )));
        }
        sleep(Duration::from_millis(250));
    }
}
