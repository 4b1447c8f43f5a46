//! A model of PostgreSQL: its WAL, one slot, a standby that can be promoted, and walsenders.

use std::collections::{BTreeMap, VecDeque};

use walcat::testing::lsn::Lsn;
use walcat::testing::position::{Facts, Switch};

use crate::random::Random;
use crate::wal::{self, Row, Unit};

pub const SYSTEM: &str = "7";
pub const SLOT: &str = "s";

/// Where the WAL and the slot begin.
pub const FIRST: u64 = 1_000;

/// The state of the standby.
#[derive(Clone, Copy)]
struct Standby {
    /// The number of completely replayed units.
    units: usize,
    /// The end of its WAL.
    end: u64,
    /// The copied position of the slot.
    slot: u64,
}

pub struct Postgres {
    /// The WAL of the current timeline and its history.
    pub units: Vec<Unit>,
    pub end: u64,
    timeline: u32,
    switches: Vec<Switch>,
    /// The slot's `confirmed_flush_lsn`, and the one that survives a crash.
    pub slot: u64,
    slot_on_disk: u64,
    standby: Standby,
    next_id: u64,
    /// The number of ids in the unit of each id, including units that a failover lost.
    pub unit_sizes: BTreeMap<u64, (u64, usize)>,
    next_unit: u64,
    /// The process that holds the slot.
    pub holder: Option<u32>,
}

impl Postgres {
    pub fn new() -> Self {
        Postgres {
            units: Vec::new(),
            end: FIRST,
            timeline: 1,
            switches: Vec::new(),
            slot: FIRST,
            slot_on_disk: FIRST,
            standby: Standby { units: 0, end: FIRST, slot: FIRST },
            next_id: 1,
            unit_sizes: BTreeMap::new(),
            next_unit: 1,
            holder: None,
        }
    }

    /// Commits something, sometimes with adjacent commit records.
    pub fn write(&mut self, random: &mut Random) {
        let from = self.end;
        let unit = match random.below(10) {
            0 | 1 => Unit::Other { end: from + random.between(1, 500) },
            2 => Unit::Message { start: from, end: from + random.between(8, 60), id: self.id() },
            kind => {
                let count = if kind == 3 { 0 } else { random.between(1, 6) };
                // A transaction that began before the last committed one.
                let first = from.saturating_sub(if random.chance(30) { 50 } else { 0 }).max(FIRST);
                // The rows of one COPY share an LSN.
                let distance = if self.next_unit.is_multiple_of(5) { 0 } else { 10 };
                let rows = (0..count).map(|row| Row { lsn: first + row * distance, id: self.id() }).collect();
                let commit = (first + count * 10).max(from);
                Unit::Transaction { rows, commit, end: commit + 20 }
            }
        };
        let ids = unit.ids();
        self.unit_sizes.extend(ids.iter().map(|id| (*id, (self.next_unit, ids.len()))));
        self.next_unit += 1;
        self.end = unit.end();
        self.units.push(unit);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// A checkpoint of the server writes the slot's position to disk.
    pub fn checkpoint(&mut self) {
        self.slot_on_disk = self.slot;
    }

    /// The server crashes and loses what was confirmed since the last checkpoint.
    pub fn crash(&mut self) {
        self.slot = self.slot_on_disk;
        self.holder = None;
    }

    /// The standby replays more WAL, perhaps a part of a unit, and copies the slot.
    pub fn replicate(&mut self, random: &mut Random) {
        let standby = &mut self.standby;
        let more = self.units.len() - standby.units;
        standby.units += random.index(more + 1);
        let whole = standby.units.checked_sub(1).map_or(FIRST, |last| self.units[last].end());
        let end = match self.units.get(standby.units) {
            Some(Unit::Other { end }) => random.between(whole, *end - 1),
            _ => whole,
        };
        standby.end = standby.end.max(end);
        if random.chance(50) {
            standby.slot = self.slot.min(standby.end).max(standby.slot);
        }
    }

    /// The server dies and its standby is promoted. With `in_step`, the standby has everything that was confirmed.
    pub fn fail_over(&mut self, in_step: bool, random: &mut Random) {
        while in_step && self.standby.end < self.slot {
            self.replicate(random);
        }
        let Standby { units, end, slot } = self.standby;
        self.switches.push(Switch { timeline: self.timeline, lsn: Lsn(end) });
        self.timeline += 1;
        self.units.truncate(units);
        // The record that begins the new timeline.
        self.end = end + 10;
        self.units.push(Unit::Other { end: self.end });
        self.slot = slot;
        self.slot_on_disk = slot;
        self.standby = Standby { units: self.units.len(), end: self.end, slot };
        self.holder = None;
    }

    /// An operator moves the slot, which no session holds.
    pub fn move_slot(&mut self, random: &mut Random) {
        self.slot = random.between(self.slot, self.end);
        self.slot_on_disk = self.slot;
    }

    /// A status update.
    pub fn confirm(&mut self, flushed: u64) {
        self.slot = self.slot.max(flushed);
    }

    /// What a client learns before it starts.
    pub fn facts(&self) -> Facts {
        Facts {
            system_identifier: SYSTEM.to_owned(),
            timeline: self.timeline,
            wal_end: Lsn(self.end),
            slot: SLOT.to_owned(),
            confirmed: Lsn(self.slot),
            switches: self.switches.clone(),
        }
    }

    /// START_REPLICATION: silently moves a position below the slot's position to it.
    pub fn start_replication(&self, from: Lsn) -> Walsender {
        let from = from.0.max(self.slot);
        Walsender {
            from,
            next: 0,
            sent: FIRST,
            frames: VecDeque::from([wal::keepalive(FIRST, false), wal::relation()]),
        }
    }
}

/// One connection.
pub struct Walsender {
    from: u64,
    /// The next unit to decode, starting with the first one: a slot's `restart_lsn` may be far back.
    next: usize,
    sent: u64,
    frames: VecDeque<Vec<u8>>,
}

impl Walsender {
    /// The next frame, if there is any.
    pub fn send(&mut self, postgres: &Postgres, random: &mut Random) -> Option<Vec<u8>> {
        while self.frames.is_empty() {
            let unit = postgres.units.get(self.next)?;
            self.next += 1;
            if unit.is_sent_from(self.from) {
                self.frames.extend(unit.frames(self.sent));
            }
            self.sent = unit.end();
            if matches!(unit, Unit::Other { .. }) || random.chance(20) {
                self.frames.push_back(wal::keepalive(self.sent, random.chance(30)));
            }
        }
        self.frames.pop_front()
    }

    pub fn has_sent_all(&self, postgres: &Postgres) -> bool {
        self.frames.is_empty() && self.next == postgres.units.len()
    }
}
