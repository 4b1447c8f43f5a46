//! What was promised, checked after every step.

use std::collections::{BTreeMap, BTreeSet};

use walcat::testing::positions::Disagreement;

use crate::postgres::Postgres;
use crate::wal::Unit;

pub struct Promise {
    seed: u64,
    /// What consumers have.
    delivered: BTreeSet<u64>,
    /// What the operator was told of, and has accepted: not delivered, or delivered a second time.
    missing_accepted: BTreeSet<u64>,
    again_accepted: BTreeSet<u64>,
    /// What consumers have and no server any more, as the operator was told.
    ghosts_told: BTreeSet<u64>,
    /// The stored records that it was told of: the store that has the record, and its position. One whose acceptance was
    /// not stored may be refused again, and says nothing new.
    refused: BTreeSet<(String, u64)>,
    /// How far the slot was moved by hand.
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
            refused: BTreeSet::new(),
            slot_moved_to: 0,
        }
    }

    /// A consumer has it.
    pub fn deliver(&mut self, id: u64) {
        self.delivered.insert(id);
    }

    /// A `read_committed` consumer has got this Kafka transaction: nothing of it before, and nothing in part.
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
            assert_eq!(count, size, "seed {seed}: of unit {unit} only a part is visible");
        }
    }

    /// Everything that the server would no longer send after this confirmation is delivered.
    pub fn check_confirmed(&self, flushed: u64, postgres: &Postgres) {
        assert!(flushed <= postgres.end, "seed {}: confirmed {flushed}, WAL ends at {}", self.seed, postgres.end);
        self.check_before(flushed, "confirmed", postgres);
    }

    /// Everything before a stored position is delivered.
    pub fn check_before(&self, position: u64, what: &str, postgres: &Postgres) {
        for unit in &postgres.units {
            let is_before = match unit {
                Unit::Transaction { commit, .. } => *commit < position,
                Unit::Message { end, .. } => *end <= position,
                Unit::Other { .. } => false,
            };
            let lost = unit.ids().into_iter().find(|id| is_before && !self.has(*id));
            assert_eq!(lost, None, "seed {}: {what} {position}, and this was not delivered: {unit:?}", self.seed);
        }
    }

    /// Nothing at all is missing.
    pub fn check_end(&self, postgres: &Postgres) {
        for unit in &postgres.units {
            let lost = unit.ids().into_iter().find(|id| !self.has(*id));
            assert_eq!(lost, None, "seed {}: missing in the end: {unit:?}", self.seed);
        }
    }

    /// What a walcat that stops here says is true.
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

    /// The operator goes on from the slot's position all the same: what is before may be missing, and what is after may
    /// come again.
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

    /// What the operator has accepted is stored: nothing that was refused before may be refused again.
    pub fn store_accepted(&mut self) {
        self.refused.clear();
    }

    fn has(&self, id: u64) -> bool {
        self.delivered.contains(&id) || self.missing_accepted.contains(&id)
    }
}
