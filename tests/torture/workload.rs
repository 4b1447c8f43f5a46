//! Writers: transfers between accounts, closings, openings and key changes, and now and then a large transaction. The sum
//! of all balances is the same at the end of every transaction, and each change of an account raises its version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::Cluster;

const WRITERS: u64 = 2;

/// Between two batches, so that a long run stays one that can be read in the end.
const PAUSE: Duration = Duration::from_millis(100);

/// Rows of a large transaction.
const LARGE: u64 = 20_000;

/// Writers under way.
pub struct Workload {
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What was written.
pub struct Written {
    pub transactions: u64,
    pub writers: u64,
}

impl Workload {
    pub fn start(cluster: &Cluster, seed: u64) -> Workload {
        let (stop, transactions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: u64| {
            let (dsn, stop, transactions) = (cluster.dsn(), Arc::clone(&stop), Arc::clone(&transactions));
            std::thread::spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let sql = batch(seed.wrapping_add(number), round);
                    let psql = std::process::Command::new("psql")
                        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", &dsn])
                        .args(["--command", &sql])
                        .stdin(std::process::Stdio::null())
                        .stdout(std::process::Stdio::null())
                        .stderr(std::process::Stdio::null())
                        .status();
                    if psql.is_ok_and(|status| status.success()) {
                        transactions.fetch_add(20, Ordering::Relaxed);
                        std::thread::sleep(PAUSE);
                    } else {
                        // The server may be away: what was under way was not committed.
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
            })
        };
        Workload { threads: (0..WRITERS).map(writer).collect(), stop, transactions }
    }

    pub fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer");
        }
        Written { transactions: self.transactions.load(Ordering::Relaxed), writers: WRITERS }
    }
}

/// Twenty transactions, chosen by PostgreSQL's own random numbers.
fn batch(seed: u64, round: u64) -> String {
    let seed = f64::from(u32::try_from((seed.wrapping_mul(31).wrapping_add(round)) % 1_000_000).expect("a number"));
    let large = round % 200 == 20;
    let filler = if large {
        format!("INSERT INTO journal (note) SELECT repeat('x', 50) FROM generate_series(1, {LARGE}); COMMIT;")
    } else {
        String::new()
    };
    format!(
        "DO $$ DECLARE a int; b int; amount bigint; dice float; BEGIN PERFORM setseed({}); {filler} \
         FOR i IN 1..20 LOOP \
           dice := random(); \
           LOCK TABLE account IN SHARE ROW EXCLUSIVE MODE; \
           SELECT id INTO a FROM account ORDER BY random() LIMIT 1; \
           SELECT id INTO b FROM account WHERE id <> a ORDER BY random() LIMIT 1; \
           IF dice < 0.75 THEN \
             amount := floor(random() * 100); \
             UPDATE account SET balance = balance - amount, version = version + 1 WHERE id = a; \
             UPDATE account SET balance = balance + amount, version = version + 1 WHERE id = b; \
             INSERT INTO journal (note) VALUES ('transfer'); \
           ELSIF dice < 0.85 THEN \
             UPDATE account SET id = (SELECT max(id) + 1 FROM account), version = version + 1 WHERE id = a; \
             INSERT INTO journal (note) VALUES ('key change'); \
           ELSIF dice < 0.95 THEN \
             UPDATE account SET balance = balance + (SELECT balance FROM account WHERE id = a), version = version + 1 \
               WHERE id = b; \
             DELETE FROM account WHERE id = a; \
             INSERT INTO account SELECT max(id) + 1, 0, 0 FROM account; \
             INSERT INTO journal (note) VALUES ('closed and opened'); \
           ELSE \
             INSERT INTO journal (note) SELECT 'many' FROM generate_series(1, 50); \
           END IF; \
           COMMIT; \
         END LOOP; END $$",
        seed / 1_000_000.0
    )
}
