//! A seeded simulation of the session state machine without any server: a model of a walsender sends transactions, empty
//! transactions, messages and keepalives; a model of a broker settles records in any order, late, or not at all; the
//! connection is lost and made again; the process crashes at any moment and starts again from what the server remembers.
//! Checks invariant 1: nothing is ever
//! confirmed that was not delivered, the flushed LSN never goes back, and in the end nothing is missing.
//!
//! WALCAT_SEED=N runs one seed, WALCAT_SEEDS=N that many.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use walcat::catalog_facts::CatalogAnswer;
use walcat::change::Ticket;
use walcat::feedback::{Confirming, Timing};
use walcat::lsn::Lsn;
use walcat::relations::Relation;
use walcat::session::{EnvelopeClock, Goal, Options, Session, Step, Truncations};

const SEEDS: u64 = 5_000;
const RELATION: u32 = 16_384;

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One unit of the server's log.
#[derive(Clone, Debug)]
enum Unit {
    /// Rows at these LSNs, committed at `commit`, ending at `end`; no rows for an empty transaction.
    Transaction { rows: Vec<u64>, commit: u64, end: u64 },
    /// A non-transactional message.
    Message { lsn: u64 },
    /// WAL of no interest, told by a keepalive.
    Other { end: u64 },
}

impl Unit {
    fn end(&self) -> u64 {
        match self {
            Unit::Transaction { end, .. } | Unit::Other { end } => *end,
            Unit::Message { lsn } => *lsn,
        }
    }
}

/// A log of random units with adjacent commits among them.
fn log(random: &mut Random) -> Vec<Unit> {
    let mut lsn = 1_000;
    let mut units = Vec::new();
    for _ in 0..10 + random.below(40) {
        let unit = match random.below(10) {
            0 | 1 => {
                lsn += 1 + random.below(500);
                Unit::Other { end: lsn }
            }
            2 => {
                lsn += 8 + random.below(50);
                Unit::Message { lsn }
            }
            kind => {
                let count = if kind == 3 { 0 } else { 1 + random.below(6) };
                let rows: Vec<u64> = (0..count).map(|row| lsn + row * 10).collect();
                let commit = lsn + count * 10;
                lsn = commit + 20;
                Unit::Transaction { rows, commit, end: lsn }
            }
        };
        units.push(unit);
    }
    units
}

fn xlogdata(start: u64, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'w'];
    frame.extend(start.to_be_bytes());
    frame.extend(start.to_be_bytes());
    frame.extend(0_u64.to_be_bytes());
    frame.extend(message);
    frame
}

fn keepalive(wal_end: u64, reply: bool) -> Vec<u8> {
    let mut frame = vec![b'k'];
    frame.extend(wal_end.to_be_bytes());
    frame.extend(0_u64.to_be_bytes());
    frame.push(u8::from(reply));
    frame
}

fn relation() -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend(RELATION.to_be_bytes());
    message.extend(b"public\0t\0d\0\x01\x01id\0");
    message.extend(23_u32.to_be_bytes());
    message.extend((-1_i32).to_be_bytes());
    message
}

fn begin(commit: u64) -> Vec<u8> {
    let mut message = vec![b'B'];
    message.extend(commit.to_be_bytes());
    message.extend(0_u64.to_be_bytes());
    message.extend(7_u32.to_be_bytes());
    message
}

fn insert() -> Vec<u8> {
    let mut message = vec![b'I'];
    message.extend(RELATION.to_be_bytes());
    message.extend(b"N\0\x01t\0\0\0\x011");
    message
}

fn commit(commit: u64, end: u64) -> Vec<u8> {
    let mut message = vec![b'C', 0];
    message.extend(commit.to_be_bytes());
    message.extend(end.to_be_bytes());
    message.extend(0_u64.to_be_bytes());
    message
}

fn logical(lsn: u64) -> Vec<u8> {
    let mut message = vec![b'M', 0];
    message.extend(lsn.to_be_bytes());
    message.extend(b"p\0");
    message.extend(0_u32.to_be_bytes());
    message
}

/// What a walsender sends to a client that starts at `confirmed` (it skips what is committed before).
fn stream(log: &[Unit], confirmed: u64, random: &mut Random) -> VecDeque<Vec<u8>> {
    let mut frames = VecDeque::from([keepalive(confirmed, false), xlogdata(0, &relation())]);
    for unit in log {
        match unit {
            Unit::Transaction { rows, commit: at, end } if *at >= confirmed => {
                frames.push_back(xlogdata(*rows.first().unwrap_or(at), &begin(*at)));
                frames.extend(rows.iter().map(|row| xlogdata(*row, &insert())));
                frames.push_back(xlogdata(*end, &commit(*at, *end)));
            }
            Unit::Message { lsn } if *lsn > confirmed => frames.push_back(xlogdata(*lsn, &logical(*lsn))),
            Unit::Other { end } if *end > confirmed => frames.push_back(keepalive(*end, random.chance(30))),
            _ => {}
        }
        if random.chance(10) && unit.end() >= confirmed {
            frames.push_back(keepalive(unit.end(), random.chance(30)));
        }
    }
    frames
}

/// One process from its start to its crash, or to the end of the log.
struct Run<'w> {
    log: &'w [Unit],
    /// LSNs of the rows and messages that the broker has.
    delivered: &'w mut BTreeSet<u64>,
    /// What the server remembers as confirmed.
    remembered: &'w mut u64,
    seed: u64,
}

impl Run<'_> {
    /// Says whether it came to the end of the log with everything settled.
    fn go(&mut self, random: &mut Random, crash_percent: u64) -> bool {
        let mut now = Instant::now();
        let options = Options {
            start: Lsn(*self.remembered),
            goal: Goal::Forever,
            confirming: Confirming::Yes,
            clock: EnvelopeClock::Commit,
            truncations: Truncations::Emit,
            timing: Timing { status_interval: Duration::from_secs(1), stall_timeout: None, ask_interval: None },
            entries_max: 1 + usize::try_from(random.below(8)).unwrap(),
        };
        let mut session = Session::new(options, now);
        let mut frames = stream(self.log, *self.remembered, random);
        let mut in_flight: Vec<(Ticket, u64)> = Vec::new();
        let mut sent_last = 0;
        loop {
            now += Duration::from_millis(random.below(400));
            if random.chance(crash_percent) && random.chance(20) {
                return false;
            }
            // The connection is lost, and a new one goes on after what was read whole.
            if random.chance(crash_percent) && random.chance(20) {
                let resume = session.resume_lsn().0;
                assert!(resume >= sent_last, "seed {}: a new connection begins before what is confirmed", self.seed);
                session.reconnected(now).unwrap();
                frames = stream(self.log, resume, random);
            }
            if session.has_room()
                && random.chance(60)
                && let Some(frame) = frames.pop_front()
            {
                self.take(&mut session, &frame, now, &mut in_flight);
            }
            if !in_flight.is_empty() && random.chance(50) {
                // Any record may be settled next; a failed one ends the process.
                let place = usize::try_from(random.below(in_flight.len() as u64)).unwrap();
                let (ticket, lsn) = in_flight.swap_remove(place);
                if random.chance(crash_percent) && random.chance(10) {
                    return false;
                }
                self.delivered.insert(lsn);
                session.settle(ticket).unwrap();
                session.advance();
            }
            if let Some(update) = session.feedback().update_due(now) {
                assert!(update.flushed.0 >= sent_last, "seed {}: the flushed LSN went back", self.seed);
                assert!(update.flushed <= update.written, "seed {}: flushed beyond received", self.seed);
                sent_last = update.flushed.0;
                self.check(update.flushed.0);
                *self.remembered = (*self.remembered).max(update.flushed.0);
            }
            if frames.is_empty() && in_flight.is_empty() && session.is_settled() {
                return true;
            }
        }
    }

    fn take(&mut self, session: &mut Session, frame: &[u8], now: Instant, in_flight: &mut Vec<(Ticket, u64)>) {
        match session.accept(frame, now, 0).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)) {
            Step::Change(change, ticket) => {
                session.emitted(&change, ticket, 1, 1).unwrap();
                in_flight.push((ticket, change.position.lsn.0));
            }
            Step::Relation(message) => {
                let answer = CatalogAnswer { relation: RELATION, table: None, types: Vec::new() };
                let relation = Relation::from(&message);
                session.relations().learn(relation, answer);
            }
            Step::Nothing | Step::Sealed(_) => {}
            step => panic!("seed {}: {step:?}", self.seed),
        }
    }

    /// Everything that a server would no longer send after this confirmation is delivered.
    fn check(&self, flushed: u64) {
        for unit in self.log {
            let lost = match unit {
                Unit::Transaction { rows, commit, .. } if *commit < flushed => {
                    rows.iter().find(|row| !self.delivered.contains(row))
                }
                Unit::Message { lsn } if *lsn <= flushed => Some(lsn).filter(|lsn| !self.delivered.contains(lsn)),
                _ => None,
            };
            assert_eq!(lost, None, "seed {}: confirmed {flushed}, but this was not delivered", self.seed);
        }
    }
}

fn simulate(seed: u64) -> u32 {
    let mut random = Random::new(seed);
    let log = log(&mut random);
    let (mut delivered, mut remembered, mut crashes) = (BTreeSet::new(), 500, 0);
    loop {
        // Crashes grow rarer, so that every seed comes to an end.
        let crash_percent = 30_u64.saturating_sub(u64::from(crashes));
        let mut run = Run { log: &log, delivered: &mut delivered, remembered: &mut remembered, seed };
        if run.go(&mut random, crash_percent) {
            break;
        }
        crashes += 1;
    }
    for unit in &log {
        match unit {
            Unit::Transaction { rows, .. } => {
                assert!(rows.iter().all(|row| delivered.contains(row)), "seed {seed}: a row is missing: {unit:?}");
            }
            Unit::Message { lsn } => assert!(delivered.contains(lsn), "seed {seed}: a message is missing: {unit:?}"),
            Unit::Other { .. } => {}
        }
    }
    crashes
}

#[test]
fn nothing_is_confirmed_that_was_not_delivered_through_any_number_of_crashes() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("WALCAT_SEED") {
        println!("seed {seed}: {} crashes", simulate(seed));
        return;
    }
    let seeds = number("WALCAT_SEEDS").unwrap_or(SEEDS);
    let crashes: u64 = (1..=seeds).map(|seed| u64::from(simulate(seed))).sum();
    println!("seeds 1 to {seeds}: {crashes} crashes");
    assert!(crashes > seeds, "a simulation without crashes shows nothing");
}
