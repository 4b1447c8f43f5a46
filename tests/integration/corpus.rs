//! Runs PostgreSQL's regression tests in a published database while walcat streams it.
//!
//! Compares every change that arrives with a second slot, which is read with SQL and parsed here.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::servers::{Postgres, eventually};
use crate::walcat::Walcat;

const DATABASE: &str = "regression";

/// The settings of `pg_regress`, a publication of all tables, and a trigger that makes their rows updatable: a new table
/// without a primary key gets REPLICA IDENTITY FULL. The slots are created last.
const SETUP: &str = "
    ALTER DATABASE regression SET lc_messages TO 'C'; ALTER DATABASE regression SET lc_monetary TO 'C';
    ALTER DATABASE regression SET lc_numeric TO 'C'; ALTER DATABASE regression SET lc_time TO 'C';
    ALTER DATABASE regression SET bytea_output TO 'hex';
    ALTER DATABASE regression SET timezone_abbreviations TO 'Default';
    CREATE SCHEMA corpus;
    CREATE FUNCTION corpus.identity() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog AS $$
    DECLARE command record;
    BEGIN
        FOR command IN SELECT DISTINCT c.objid, c.object_identity FROM pg_event_trigger_ddl_commands() c
            WHERE c.object_type = 'table' AND c.schema_name <> 'pg_temp'
            AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.objid AND i.indisprimary)
        LOOP
            BEGIN
                EXECUTE 'ALTER TABLE ' || command.object_identity || ' REPLICA IDENTITY FULL';
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
    END $$;
    CREATE EVENT TRIGGER corpus ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
        EXECUTE FUNCTION corpus.identity();
    CREATE PUBLICATION corpus FOR ALL TABLES";

/// One change of one table, as `schema.table op`.
type Change = String;

#[test]
#[ignore = "scripts/test --corpus"]
fn postgresql_s_own_regression_sql_arrives_change_by_change() {
    let corpus = PathBuf::from(std::env::var_os("WALCAT_CORPUS").expect("WALCAT_CORPUS: .../src/test/regress"));
    assert!(corpus.join("sql/test_setup.sql").is_file(), "WALCAT_CORPUS has no sql/test_setup.sql: {corpus:?}");
    let pg = Postgres::start("corpus", 15, &["--no-fsync"]);
    pg.sql("postgres", "CREATE DATABASE regression TEMPLATE template0");
    pg.sql(DATABASE, SETUP);
    for slot in ["walcat", "reference"] {
        pg.sql(DATABASE, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    }

    let stream = || {
        Walcat::new(&["stream", "--dsn", &pg.dsn(DATABASE), "--slot", "walcat", "--publication", "corpus"])
            .with(&["--sink", "stdout", "--stdout", "record"])
            .deadline(1800)
    };
    let mut walcat = stream().spawn();
    let (files, errors) = run_schedule(&pg, &corpus);

    let end = pg.sql(DATABASE, "SELECT pg_current_wal_insert_lsn()");
    // A change after the end, so that the end is reached.
    pg.sql(DATABASE, "CREATE TABLE corpus.last (id int PRIMARY KEY); INSERT INTO corpus.last VALUES (1)");
    let reached = format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'walcat'");
    eventually("the slot confirmed to the end", 600, || walcat.has_ended() || pg.sql(DATABASE, &reached) == "t");
    let streamed = walcat.terminate().expect_code(0);
    let end = pg.sql(DATABASE, "SELECT pg_current_wal_insert_lsn()");
    let rest = stream().with(&["--endpos", &end]).run().expect_code(0);

    let arrived: Vec<Change> = streamed.json_lines().iter().chain(&rest.json_lines()).filter_map(change_of).collect();
    let (transactions, expected) = reference(&pg);
    println!(
        "{files} files ({errors} errors in their SQL), {transactions} transactions, {} changes, {} arrived",
        expected.len(),
        arrived.len()
    );
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for change in &expected {
        *counts.entry(change.rsplit_once(' ').expect("op").1).or_default() += 1;
    }
    println!("{counts:?}, {} warnings", streamed.log.matches(" WARN ").count());
    if let Some(index) = (0..expected.len().max(arrived.len())).find(|&i| expected.get(i) != arrived.get(i)) {
        let from = index.saturating_sub(3);
        let part = |changes: &[Change]| changes.iter().skip(from).take(8).cloned().collect::<Vec<_>>();
        panic!("change {index} of {}: {:?} arrived as {:?}", expected.len(), part(&expected), part(&arrived));
    }
    assert!(files > 100 && expected.len() > 10_000, "the corpus made too few changes");
}

/// Runs the files of `parallel_schedule`, each group in parallel, as `pg_regress` does. Errors are expected. Statements that
/// need regress.so fail, because no package contains it.
fn run_schedule(pg: &Postgres, corpus: &Path) -> (usize, usize) {
    // The server reads data/ and writes results/ as another user.
    let build = std::env::temp_dir().join(format!("walcat-corpus-{}", std::process::id()));
    let shell =
        "mkdir -p \"$1/results\" && cp -r \"$2/data\" \"$1/\" && chmod -R a+rX \"$1\" && chmod a+rwx \"$1/results\"";
    let status = Command::new("sh").args(["-c", shell, "sh"]).arg(&build).arg(corpus).status().expect("sh");
    assert!(status.success());
    let schedule = fs::read_to_string(corpus.join("parallel_schedule")).expect("parallel_schedule");
    let (mut files, mut errors) = (0, 0);
    for group in schedule.lines().filter_map(|line| line.strip_prefix("test: ")) {
        let runs: Vec<_> = group
            .split_whitespace()
            .map(|name| (name, corpus.join("sql").join(format!("{name}.sql"))))
            .filter(|(_, file)| file.is_file())
            .map(|(name, file)| {
                let log = build.join(format!("{name}.log"));
                let child = Command::new("psql")
                    .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=0", "--dbname", &pg.dsn(DATABASE)])
                    .env("PG_ABS_SRCDIR", &build)
                    .env("PG_ABS_BUILDDIR", &build)
                    .env("PG_LIBDIR", &build)
                    .env("PG_DLSUFFIX", ".so")
                    .env("PGTZ", "America/Los_Angeles")
                    .env("PGDATESTYLE", "Postgres, MDY")
                    .env("PGOPTIONS", "-c intervalstyle=postgres_verbose -c lock_timeout=60s -c statement_timeout=120s")
                    .stdin(fs::File::open(&file).expect(name))
                    .stdout(Stdio::null())
                    .stderr(fs::File::create(&log).expect("log"))
                    .spawn()
                    .expect("psql");
                (name, log, child)
            })
            .collect();
        for (name, log, mut child) in runs {
            let status = child.wait().expect("psql");
            let log = String::from_utf8_lossy(&fs::read(log).expect("log")).into_owned();
            // 3 is ON_ERROR_STOP; 2 is a lost connection
            assert_ne!(status.code(), Some(2), "{name}: {log}");
            files += 1;
            errors += log.lines().filter(|line| line.contains("ERROR:")).count();
        }
    }
    let _ = fs::remove_dir_all(&build);
    (files, errors)
}

/// The change that a record of `--stdout record` represents: a key change is two records and a tombstone.
fn change_of(record: &Value) -> Option<Change> {
    let value = &record["value"];
    let op = match value["op"].as_str()? {
        "d" if record["headers"].get("__debezium.newkey").is_some() => return None,
        "c" if record["headers"].get("__debezium.oldkey").is_some() => "u",
        "m" => return None,
        op => op,
    };
    let name = |key: &str| value["source"][key].as_str().expect("name").to_owned();
    Some(format!("{}.{} {op}", name("schema"), name("table")))
}

/// The transactions and changes of the other slot, from the first bytes of its messages.
fn reference(pg: &Postgres) -> (usize, Vec<Change>) {
    let hex = pg.sql(
        DATABASE,
        "SELECT encode(substr(data, 1, 2000), 'hex') FROM pg_logical_slot_get_binary_changes('reference', NULL, NULL, \
         'proto_version', '1', 'publication_names', 'corpus')",
    );
    let (mut names, mut transactions, mut changes) = (HashMap::new(), 0, Vec::new());
    for line in hex.lines() {
        let bytes: Vec<u8> =
            (0..line.len() / 2).map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).expect("hex")).collect();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        match bytes[0] {
            b'B' => transactions += 1,
            b'R' => {
                let mut parts = bytes[5..].split(|&byte| byte == 0).map(text);
                // pg_catalog is sent as an empty string
                let schema = parts.next().filter(|schema| !schema.is_empty()).unwrap_or("pg_catalog".into());
                let name = format!("{schema}.{}", parts.next().expect("table"));
                names.insert(number(1), name);
            }
            b'I' => changes.push(format!("{} c", names[&number(1)])),
            b'U' => changes.push(format!("{} u", names[&number(1)])),
            b'D' => changes.push(format!("{} d", names[&number(1)])),
            b'T' => {
                changes.extend((0..number(1) as usize).map(|i| format!("{} t", names[&number(6 + 4 * i)])));
            }
            _ => {}
        }
    }
    (transactions, changes)
}
