//! From a frame to the sink, as the pump does it.

use std::time::Duration;

use walcat::testing::catalog_facts::CatalogAnswer;
use walcat::testing::change::{Change, Operation, Ticket};
use walcat::testing::feedback::{Confirming, Timing};
use walcat::testing::lsn::Lsn;
use walcat::testing::relations::Relation;
use walcat::testing::session::{EnvelopeClock, Goal, Item, Options, Sealed, Session, Step, Truncations};
use walcat::testing::wire::pgoutput::Cell;

use crate::postgres::Walsender;
use crate::random::Random;
use crate::wal::RELATION;
use crate::world::World;

/// Where changes go.
pub trait Target {
    fn has_room(&self, world: &World) -> bool;
    fn take(&mut self, id: u64, ticket: Ticket, is_transactional: bool, world: &World);
    fn seal(&mut self, sealed: Sealed);
}

pub fn options(start: Lsn, confirming: Confirming, random: &mut Random) -> Options {
    Options {
        start,
        goal: Goal::Forever,
        confirming,
        clock: EnvelopeClock::Commit,
        truncations: Truncations::Emit,
        timing: Timing { status_interval: Duration::from_secs(1), stall_timeout: None, ask_interval: None },
        // Room for one transaction in addition to the one that must be delivered.
        entries_max: 2 + random.index(8),
    }
}

/// Reads one frame, if there is room for it.
pub fn read(session: &mut Session, sender: &mut Walsender, target: &mut impl Target, world: &mut World) {
    if !session.has_room() || !target.has_room(world) {
        return;
    }
    let Some(frame) = sender.send(&world.postgres, &mut world.random) else { return };
    let item = Item::of_frame(&frame, session.feedback().received());
    let step = item.and_then(|item| session.accept(&item, world.now, 0));
    match step.unwrap_or_else(|error| panic!("seed {}: {error}", world.seed)) {
        Step::Change { change, ticket, sealed } => {
            let is_transactional = change.position.transaction.is_some();
            target.take(id(&change), ticket, is_transactional, world);
            session.emitted(&change, ticket, 1, 1).expect("a session");
            if let Some(sealed) = sealed {
                target.seal(sealed);
            }
        }
        Step::Relation(message) => {
            let answer = CatalogAnswer { relation: RELATION, table: None, types: Vec::new() };
            let relation = Relation::from(&message);
            session.relations().learn(relation, answer);
        }
        Step::Sealed(sealed) => target.seal(sealed),
        Step::Nothing => {}
        step => panic!("seed {}: {step:?}", world.seed),
    }
}

fn id(change: &Change<'_>) -> u64 {
    let text = match change.operation {
        Operation::Insert { new } => match new.cells().next() {
            Some(Cell::Text(text)) => text,
            cell => panic!("{cell:?}"),
        },
        Operation::Message { content, .. } => content,
        operation => panic!("{operation:?}"),
    };
    std::str::from_utf8(text).expect("digits").parse().expect("an id")
}
