//! Runs the commands of README.md: every block marked `sh`, in order, in one folder.
//!
//! It does not run `scripts/demo`, which installs and builds, nor `scripts/test`, which runs this test.

use std::process::Command;

use crate::servers::{Kafka, Postgres, root};

#[test]
fn every_command_of_the_readme_runs_as_printed() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let blocks: Vec<&str> = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let commands: usize = blocks.iter().map(|block| block.lines().count()).sum();
    assert!(commands >= 10, "README.md has only {commands} commands in blocks marked sh");

    let pg = Postgres::shared();
    pg.sql("postgres", "CREATE DATABASE readme");
    let folder = tempfile::tempdir().expect("a folder");
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_walcat")).parent().expect("a folder");
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").expect("PATH"));
    let output = Command::new("sh")
        .args(["-eux", "-c", &blocks.concat()])
        .current_dir(folder.path())
        .env("PATH", path)
        .envs([("PGHOST", "127.0.0.1"), ("PGPORT", &pg.port), ("PGUSER", "postgres"), ("PGDATABASE", "readme")])
        .env("BROKERS", &Kafka::shared().brokers)
        .output()
        .expect("sh");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    pg.try_sql("readme", "SELECT pg_drop_replication_slot('walcat')").expect("the README leaves its slot behind");
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for text in ["confirmed_flush_lsn", "\"name\":\"Ada L.\"", "published tables: 1"] {
        assert!(stdout.contains(text), "no {text:?} in:\n{stdout}\n{stderr}");
    }
    assert!(stderr.contains("records=2"), "the two rows went to Kafka:\n{stderr}");
}
