//! A walcat with at-least-once delivery: the session and the store as the pump drives them, with a broker that settles records
//! in any order, late, or never.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use walcat::testing::change::Ticket;
use walcat::testing::feedback::Confirming;
use walcat::testing::lsn::Lsn;
use walcat::testing::position::{Facts, Identity, Known, Start, Vouched};
use walcat::testing::pump::store::{Store, Urgency};
use walcat::testing::session::{Sealed, Session};
use walcat::testing::state_file::StateFile;

use crate::postgres::Walsender;
use crate::reading::{Target, options, read};
use crate::world::{End, Walcat, World, begin};

/// The state file is written at most this often.
const INTERVAL: Duration = Duration::from_secs(2);

/// Kafka without transactions.
#[derive(Default)]
struct Broker {
    /// Not delivered yet, or delivered but not reported.
    records: Vec<(Ticket, u64)>,
    /// What was taken since the last point where a partly read transaction could be sent again completely.
    taken: BTreeSet<u64>,
}

impl Target for Broker {
    fn has_room(&self, _: &World) -> bool {
        true
    }

    fn take(&mut self, id: u64, ticket: Ticket, _: bool, world: &World) {
        assert!(self.taken.insert(id), "seed {}: {id} is taken twice", world.seed);
        self.records.push((ticket, id));
    }

    fn seal(&mut self, _: Sealed) {}
}

pub struct AtLeastOnce {
    number: u32,
    session: Session,
    sender: Option<Walsender>,
    state_file: Option<StateFile>,
    /// The path of the store, for the checks.
    path: Option<PathBuf>,
    identity: Identity,
    broker: Broker,
    flushed: Lsn,
    /// There is no session because walcat gave it up on purpose.
    is_released: bool,
}

impl AtLeastOnce {
    /// With a state file at `path`, or without one.
    pub fn start(number: u32, path: Option<&Path>, world: &mut World) -> Result<Self, End> {
        let mut state_file = path.map(|path| StateFile::open(path, INTERVAL).expect("a state file"));
        let mut store = Store::on_disk(&mut state_file);
        let facts = world.postgres.facts();
        let known = store.read().expect("a state file");
        let start = begin(known.as_ref(), &facts, &[], world)?;
        let (start, identity) = (start.lsn, identity(&facts, start));
        store.begin(identity.at(start, Lsn::INVALID), world.now).expect("a state file");
        world.promise.store_accepted();
        world.promise.forget_delivered();
        let confirming = if path.is_some() { Confirming::Stored } else { Confirming::Yes };
        let mut session = Session::new(options(start, confirming, &mut world.random), world.now);
        session.pass_before(start);
        let sender = world.connect(number).map(|()| world.postgres.start_replication(start));
        let path = path.map(Path::to_owned);
        let (broker, flushed, is_released) = (Broker::default(), Lsn(0), false);
        Ok(AtLeastOnce { number, session, sender, state_file, path, identity, broker, flushed, is_released })
    }

    /// Gives up the session on purpose, inside a transaction or not.
    fn release(&mut self, world: &mut World) {
        self.update(world);
        (self.sender, self.is_released, world.postgres.holder) = (None, true, None);
    }

    /// What is in flight stays in flight, and the stream continues after what was read completely.
    fn reconnect(&mut self, world: &mut World) -> Result<(), End> {
        if world.connect(self.number).is_none() {
            return Ok(());
        }
        let facts = world.postgres.facts();
        let stored = self.identity.at(self.session.resume_lsn(), self.session.records_end());
        let known = Known { stored, store: "what was read".to_owned() };
        let under_way: Vec<u64> = self.broker.records.iter().map(|(_, id)| *id).collect();
        let Start { lsn: start, is_cut, .. } = begin(Some(&known), &facts, &under_way, world)?;
        let last_timeline = self.identity.timeline;
        self.identity.go_on(facts.timeline, self.session.feedback().records_end());
        let was_released = std::mem::take(&mut self.is_released);
        // If the first attempt failed, this is a lost connection.
        if was_released && !is_cut && facts.timeline == last_timeline && world.random.chance(80) {
            world.resumed_inside += u32::from(self.session.is_inside_transaction());
            let taken = self.session.resume_lsn();
            self.session.resumed(world.now);
            self.session.pass_before(taken);
        } else {
            self.broker.taken.clear();
            self.session.reconnected(world.now).expect("a session");
            self.session.pass_before(start);
        }
        if is_cut {
            self.session.cut(start);
            self.flushed = Lsn::INVALID;
        }
        if is_cut || facts.timeline != last_timeline {
            let feedback = self.session.feedback();
            let position = self.identity.at(feedback.delivered(), feedback.records_end());
            Store::on_disk(&mut self.state_file).begin(position, world.now).expect("a state file");
        }
        assert!(start >= self.flushed, "seed {}: begins before what is confirmed", world.seed);
        self.sender = Some(world.postgres.start_replication(start));
        Ok(())
    }

    /// Any record may be the next one that Kafka stores, and its report may come at once or later.
    fn deliver(&mut self, world: &mut World) {
        if self.broker.records.is_empty() {
            return;
        }
        let place = world.random.index(self.broker.records.len());
        let (ticket, id) = self.broker.records[place];
        world.promise.deliver(id);
        if world.random.chance(80) {
            self.broker.records.swap_remove(place);
            self.session.settle(ticket, 1).expect("a session");
            self.session.advance();
        }
    }

    fn update(&mut self, world: &mut World) {
        let feedback = self.session.feedback();
        let urgency = if world.random.chance(10) { Urgency::AtOnce } else { Urgency::WhenDue };
        let latest = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
        let mut store = Store::on_disk(&mut self.state_file);
        store.keep(&self.identity, latest, feedback, urgency, world.now).expect("a state file");
        let Some(update) = feedback.update_due(world.now) else { return };
        let seed = world.seed;
        assert!(update.flushed >= self.flushed, "seed {seed}: the flushed LSN went back");
        assert!(update.flushed <= update.written, "seed {seed}: flushed beyond received");
        self.flushed = update.flushed;
        world.confirm(update.flushed);
        if let Some(path) = &self.path {
            let stored = StateFile::open(path, INTERVAL).expect("a state file").end_lsn();
            assert!(update.flushed <= stored, "seed {seed}: confirmed {} and stored {stored}", update.flushed);
            world.promise.check_before(stored.0, "stored", &world.postgres);
        }
    }
}

impl Walcat for AtLeastOnce {
    fn number(&self) -> u32 {
        self.number
    }

    fn step(&mut self, world: &mut World) -> Result<(), End> {
        if self.sender.is_some() && world.postgres.holder != Some(self.number) {
            self.sender = None;
        }
        if self.sender.is_some() && world.fault(200) {
            self.release(world);
        }
        let Some(sender) = &mut self.sender else {
            if self.is_released && world.random.chance(50) {
                self.deliver(world);
                return Ok(());
            }
            return self.reconnect(world);
        };
        if world.random.chance(60) {
            read(&mut self.session, sender, &mut self.broker, world);
        }
        if world.random.chance(50) {
            self.deliver(world);
        }
        self.update(world);
        Ok(())
    }

    fn is_quiet(&mut self, world: &World) -> bool {
        let has_read = self.sender.as_ref().is_some_and(|sender| sender.has_sent_all(&world.postgres));
        has_read && self.broker.records.is_empty() && self.session.is_settled()
    }
}

fn identity(facts: &Facts, start: Start) -> Identity {
    Identity {
        system_identifier: facts.system_identifier.clone(),
        timeline: facts.timeline,
        slot: facts.slot.clone(),
        records: start.records,
        full_keys: std::collections::BTreeMap::new(),
        snapshot: None,
    }
}
