//! Watches the slot: its confirmed position never goes back, except after a crash of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, SystemTime};

use crate::cluster::{Cluster, SLOT};
use crate::writers::Session;

const LOOK_INTERVAL: Duration = Duration::from_millis(25);
const RESTART_PAUSE: Duration = Duration::from_millis(200);

pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

/// One observation of the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    confirmed: u64,
    server_started: String,
    holder: String,
}

impl Watch {
    pub fn start(cluster: &Arc<Cluster>) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (cluster, stopped) = (Arc::clone(cluster), Arc::clone(&stop));
        Watch { stop, thread: std::thread::spawn(move || watch(&cluster, &stopped)) }
    }

    /// Stops the watch and returns what was wrong.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| vec!["the watch has ended unexpectedly".into()])
    }
}

fn watch(cluster: &Cluster, stop: &AtomicBool) -> Vec<String> {
    let question = format!(
        "SELECT confirmed_flush_lsn, pg_postmaster_start_time(), coalesce(active_pid, 0) FROM pg_replication_slots \
         WHERE slot_name = '{SLOT}'"
    );
    let (mut session, mut last, mut found) = (None, None, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let rows = match session.as_mut() {
            None => {
                session = Session::start(cluster).ok();
                continue;
            }
            Some(session) => Session::run(session, &question),
        };
        let Some(rows) = rows else {
            session = None;
            sleep(RESTART_PAUSE);
            continue;
        };
        if let Some(look) = rows.first().and_then(|row| parse(row)) {
            found.extend(last.as_ref().and_then(|last| went_back(last, &look)));
            last = Some(look);
        }
        sleep(LOOK_INTERVAL);
    }
    found
}

fn parse(row: &str) -> Option<Look> {
    let mut columns = row.split('|');
    let (high, low) = columns.next()?.split_once('/')?;
    let part = |text| u64::from_str_radix(text, 16).ok();
    let confirmed = part(high)? << 32 | part(low)?;
    Some(Look { confirmed, server_started: columns.next()?.to_owned(), holder: columns.next()?.to_owned() })
}

fn went_back(last: &Look, look: &Look) -> Option<String> {
    let same_server = last.server_started == look.server_started;
    (same_server && look.confirmed < last.confirmed).then(|| {
        format!(
            "{}: the slot went back from {:X} to {:X}, by {} bytes; its walsender was {}, is {}",
            humantime::format_rfc3339_millis(SystemTime::now()),
            last.confirmed,
            look.confirmed,
            last.confirmed - look.confirmed,
            last.holder,
            look.holder
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_goes_back_is_found_unless_the_server_crashed() {
        let look = |row| parse(row).expect("a look");
        let (first, later) = (look("1/20|2026-01-01 00:00:00+00|7"), look("1/30|2026-01-01 00:00:00+00|7"));
        let crashed = look("1/20|2026-01-01 00:01:00+00|8");
        assert_eq!(first.confirmed, (1 << 32) + 0x20);
        assert_eq!(went_back(&first, &later), None);
        assert!(went_back(&later, &first).is_some());
        assert_eq!(went_back(&later, &crashed), None);
    }
}
