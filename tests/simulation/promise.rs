//! walcat's guarantees, checked after every step.

use std::collections::{BTreeMap, BTreeSet};

use walcat::testing::position::Disagreement;

use crate::postgres::Postgres;
use crate::wal::Unit;

pub struct Promise {
    seed: u64,
    /// What consumers have received.
    delivered: BTreeSet<u64>,
    /// What was reported to the operator, who accepted that it is missing or repeated.
    missing_accepted: BTreeSet<u64>,
    again_accepted: BTreeSet<u64>,
    /// What consumers have and no server has, as reported to the operator.
    ghosts_told: BTreeSet<u64>,
    /// What earlier processes delivered. With at-least-once delivery a new process does not know all of it.
    delivered_before: BTreeSet<u64>,
    /// The stored records that were reported: the store that has the record, and its position. If the acceptance was not
    /// stored, walcat may refuse the record again.
    refused: BTreeSet<(String, u64)>,
    /// The position to which an operator moved the slot.
    pub slot_moved_to: u64,
}

impl Promise {
    pub fn new(seed: u64) -> Self {
        Promise {
            seed,
            delivered: BTreeSet::new(),
            missing_accepted: BTreeSet::new(),
            again_accepted: BTreeSet::new(),
            ghosts_told: BTreeSet::new(),
            delivered_before: BTreeSet::new(),
            refused: BTreeSet::new(),
            slot_moved_to: 0,
        }
    }

    /// A process starts that knows only what is stored.
    pub fn forget_delivered(&mut self) {
        self.delivered_before = self.delivered.clone();
    }

    /// A consumer receives a record.
    pub fn deliver(&mut self, id: u64) {
        self.delivered.insert(id);
    }

    /// A `read_committed` consumer receives this Kafka transaction: nothing of it is repeated, and every unit is complete.
    pub fn deliver_transaction(&mut self, ids: &[u64], postgres: &Postgres) {
        let seed = self.seed;
        let mut counts: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for id in ids {
            let again = !self.delivered.insert(*id) && !self.again_accepted.remove(id);
            assert!(!again, "seed {seed}: {id} is delivered twice");
            let (unit, size) = postgres.unit_sizes[id];
            counts.entry(unit).or_insert((0, size)).0 += 1;
        }
        for (unit, (count, size)) in counts {
            assert_eq!(count, size, "seed {seed}: only a part of unit {unit} is visible");
        }
    }

    /// Checks that everything is delivered that the server would no longer send after this confirmation.
    pub fn check_confirmed(&self, flushed: u64, postgres: &Postgres) {
        assert!(flushed <= postgres.end, "seed {}: confirmed {flushed}, WAL ends at {}", self.seed, postgres.end);
        self.check_before(flushed, "confirmed", postgres);
    }

    /// Checks that everything before a stored position is delivered.
    pub fn check_before(&self, position: u64, what: &str, postgres: &Postgres) {
        for unit in &postgres.units {
            let is_before = match unit {
                Unit::Transaction { commit, .. } => *commit < position,
                Unit::Message { end, .. } => *end <= position,
                Unit::Other { .. } => false,
            };
            let lost = unit.ids().into_iter().find(|id| is_before && !self.has(*id));
            assert_eq!(lost, None, "seed {}: {what} {position} before this was delivered: {unit:?}", self.seed);
        }
    }

    /// Checks that nothing is missing.
    pub fn check_end(&self, postgres: &Postgres) {
        for unit in &postgres.units {
            let lost = unit.ids().into_iter().find(|id| !self.has(*id));
            assert_eq!(lost, None, "seed {}: missing at the end: {unit:?}", self.seed);
        }
        let present: BTreeSet<u64> = postgres.units.iter().flat_map(Unit::ids).collect();
        let is_known = |id: &u64| self.ghosts_told.contains(id) || self.delivered_before.contains(id);
        let untold = self.delivered.iter().find(|id| !present.contains(id) && !is_known(id));
        assert_eq!(untold, None, "seed {}: the server lost a delivered record, and nobody was told", self.seed);
    }

    /// Checks that the message of a walcat that stops is true.
    pub fn check_refusal(&mut self, disagreement: &Disagreement, under_way: &[u64], postgres: &Postgres) {
        let seed = self.seed;
        match disagreement {
            Disagreement::Gap { confirmed, .. } => {
                assert!(confirmed.0 <= self.slot_moved_to, "seed {seed}: nobody moved the slot: {disagreement}");
            }
            Disagreement::StoreAhead { store, stored, .. } => {
                let present: BTreeSet<u64> = postgres.units.iter().flat_map(Unit::ids).collect();
                let consumers = self.delivered.iter().chain(under_way);
                let ghosts: BTreeSet<u64> = consumers.filter(|id| !present.contains(id)).copied().collect();
                let is_again = !self.refused.insert((store.clone(), stored.0));
                let is_true = is_again || !ghosts.is_subset(&self.ghosts_told);
                assert!(is_true, "seed {seed}: nothing was lost: {disagreement}");
                self.ghosts_told.extend(ghosts);
            }
            other => panic!("seed {seed}: {other}"),
        }
    }

    /// The operator continues from the slot's position: what is before it may be missing, and what is after it may be
    /// repeated.
    pub fn accept(&mut self, start: u64, postgres: &Postgres) {
        for unit in &postgres.units {
            let ids = unit.ids().into_iter();
            if unit.is_sent_from(start) {
                self.again_accepted.extend(ids.filter(|id| self.delivered.contains(id)));
            } else {
                self.missing_accepted.extend(ids.filter(|id| !self.delivered.contains(id)));
            }
        }
    }

    /// The operator's acceptance is stored: walcat must not refuse the same records again.
    pub fn store_accepted(&mut self) {
        self.refused.clear();
    }

    fn has(&self, id: u64) -> bool {
        self.delivered.contains(&id) || self.missing_accepted.contains(&id)
    }
}
