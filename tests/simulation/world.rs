//! The servers, the clock and the faults around one or two walcats, and the steps of each seed.

use std::time::{Duration, Instant};

use walcat::testing::lsn::Lsn;
use walcat::testing::position::{Disagreement, Facts, Known, Start};
use walcat::testing::sink::kafka::exactly_once::checkpoint::Instance;
use walcat::testing::sink::kafka::exactly_once::history::History;
use walcat::testing::source;
use walcat::testing::source::open::check_stored;

use crate::kafka::Kafka;
use crate::postgres::{FIRST, Postgres};
use crate::promise::Promise;
use crate::random::Random;

/// Steps with faults, before everything is repaired.
const STEPS: u32 = 400;

/// Steps after that, within which everything must be delivered.
const HEALING_STEPS_MAX: u32 = 50_000;

pub struct World {
    pub seed: u64,
    pub random: Random,
    pub now: Instant,
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub promise: Promise,
    /// The operator has read why walcat stopped, and lets it continue.
    pub accept_gap: bool,
    pub has_healed: bool,
    /// The number of sessions that continued inside a transaction.
    pub resumed_inside: u32,
}

/// Why a process exits by itself.
#[derive(Debug)]
pub enum End {
    /// The slot, the store and the server disagree (78).
    Refused,
    /// Another instance has taken over (79).
    Fenced,
}

/// A process.
pub trait Walcat {
    fn number(&self) -> u32;
    fn step(&mut self, world: &mut World) -> Result<(), End>;
    /// Nothing is left to deliver.
    fn is_quiet(&mut self, world: &World) -> bool;
}

/// What may happen in a run.
#[derive(Clone, Copy)]
pub struct Faults {
    /// Without a store, walcat cannot know that the slot was moved.
    pub moves_slot: bool,
    /// Two processes at the same time: one was presumed dead and continues.
    pub zombies: bool,
    pub fails_over: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            seed,
            random: Random::new(seed),
            now: Instant::now(),
            postgres: Postgres::new(),
            kafka: Kafka::default(),
            promise: Promise::new(seed),
            accept_gap: false,
            has_healed: false,
            resumed_inside: 0,
        }
    }

    /// Takes the slot, unless another process has it.
    pub fn connect(&mut self, number: u32) -> Option<()> {
        let is_free = self.postgres.holder.is_none_or(|holder| holder == number);
        is_free.then(|| self.postgres.holder = Some(number))
    }

    /// A fault in this many of 10,000 steps, while there are faults.
    pub fn fault(&mut self, often: u64) -> bool {
        self.random.below(10_000) < often && !self.has_healed
    }

    /// A status update arrives.
    pub fn confirm(&mut self, flushed: Lsn) {
        // A position that the slot already has, perhaps because an operator moved it there, is not new.
        if flushed.0 > self.postgres.slot {
            self.promise.check_confirmed(flushed.0, &self.postgres);
            self.postgres.confirm(flushed.0);
        }
    }

    /// Checks that Kafka shows every reader what is about to be confirmed.
    pub fn check_stored(&mut self, flushed: Lsn) {
        self.settle();
        let mut history = History::new(&Instance { host: String::new(), pid: 0, started_unix_ms: 0, renewal: 0 });
        let newest = self.kafka.newest_checkpoint().expect("a checkpoint before anything is confirmed");
        history.take(newest).expect("a record of walcat's");
        let stored = history.checkpoint.expect("a checkpoint").stored.end_lsn;
        assert!(flushed <= stored, "seed {}: confirmed {flushed} and stored {stored}", self.seed);
    }

    /// What Kafka has prepared to commit counts as visible.
    pub fn settle(&mut self) {
        self.kafka.settle();
        self.look();
    }

    /// A `read_committed` reader reads everything that is visible.
    fn look(&mut self) {
        for ids in self.kafka.take_visible() {
            self.promise.deliver_transaction(&ids, &self.postgres);
        }
    }

    /// What happens outside walcat.
    fn step(&mut self, faults: Faults) {
        self.now += Duration::from_millis(self.random.below(400));
        self.kafka.tick(self.now, &mut self.random);
        self.look();
        if self.random.chance(15) && !self.has_healed {
            self.postgres.write(&mut self.random);
        }
        if self.random.chance(10) {
            self.postgres.replicate(&mut self.random);
        }
        if self.random.chance(3) {
            self.postgres.checkpoint();
        }
        if self.fault(100) {
            // A connection is lost.
            self.postgres.holder = None;
        }
        if self.fault(60) {
            self.postgres.crash();
        }
        if faults.fails_over && self.fault(40) {
            let (in_step, before) = (self.random.chance(50), self.postgres.slot);
            self.postgres.fail_over(in_step, &mut self.random);
            if self.postgres.slot > before {
                // The standby has copied a position that the primary lost in a crash. A walcat without a store that started
                // after that cannot know who moved the slot.
                self.promise.slot_moved_to = self.postgres.slot;
            }
        }
        // Before anything is stored, walcat cannot know about it.
        let is_known = self.postgres.slot > FIRST;
        if faults.moves_slot && is_known && self.postgres.holder.is_none() && self.fault(500) {
            self.postgres.move_slot(&mut self.random);
            self.promise.slot_moved_to = self.postgres.slot;
        }
    }
}

/// The start of a stream, as the pump judges it. The operator accepts what walcat refuses.
pub fn begin(known: Option<&Known>, facts: &Facts, under_way: &[u64], world: &mut World) -> Result<Start, End> {
    match check_stored(known, facts, world.accept_gap) {
        Ok(start) => {
            if std::mem::take(&mut world.accept_gap) {
                world.promise.accept(start.lsn.0, &world.postgres);
            }
            Ok(start)
        }
        Err(source::Error::Positions(disagreement)) => Err(refuse(&disagreement, under_way, world)),
        Err(error) => panic!("seed {}: {error}", world.seed),
    }
}

fn refuse(disagreement: &Disagreement, under_way: &[u64], world: &mut World) -> End {
    world.promise.check_refusal(disagreement, under_way, &world.postgres);
    world.accept_gap = true;
    End::Refused
}

/// The outcome of a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub crashes: u32,
    pub refused: u32,
    pub fenced: u32,
    pub resumed_inside: u32,
}

/// Runs a seed: `start` creates the process with a number.
pub fn simulate<W: Walcat>(
    seed: u64,
    faults: Faults,
    mut start: impl FnMut(u32, &mut World) -> Result<W, End>,
) -> Tally {
    let mut world = World::new(seed);
    let mut tally = Tally::default();
    let mut processes: Vec<W> = Vec::new();
    let mut started = 0;
    for step in 0.. {
        world.has_healed = step >= STEPS;
        assert!(step < STEPS + HEALING_STEPS_MAX, "seed {seed}: it does not end");
        world.step(faults);
        // Everything is repaired: one process is left, the one that holds the slot.
        while world.has_healed && processes.len() > 1 {
            let removed = processes.remove(0);
            if world.postgres.holder == Some(removed.number()) {
                world.postgres.holder = None;
            }
        }
        let wants_another = faults.zombies && processes.len() == 1 && world.fault(50);
        if processes.is_empty() || wants_another {
            // The session of a process that was presumed dead is terminated for the new one.
            world.postgres.holder = None;
            started += 1;
            match start(started, &mut world) {
                Ok(process) => processes.push(process),
                Err(_) => tally.refused += 1,
            }
            continue;
        }
        let place = world.random.index(processes.len());
        let process = &mut processes[place];
        if world.fault(70) {
            tally.crashes += 1;
            release(process, &mut world);
            processes.remove(place);
            continue;
        }
        if let Err(end) = process.step(&mut world) {
            match end {
                End::Refused => tally.refused += 1,
                End::Fenced => tally.fenced += 1,
            }
            release(process, &mut world);
            processes.remove(place);
        } else if world.has_healed && process.is_quiet(&world) {
            break;
        }
    }
    world.settle();
    world.promise.check_end(&world.postgres);
    tally.resumed_inside = world.resumed_inside;
    tally
}

/// Its session ends with a process.
fn release(process: &impl Walcat, world: &mut World) {
    if world.postgres.holder == Some(process.number()) {
        world.postgres.holder = None;
    }
}
