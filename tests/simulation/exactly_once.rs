//! A walcat with exactly-once delivery: the session and the ledger as the pump drives them, with models of librdkafka's
//! producer and of Kafka's transactions.

use std::collections::VecDeque;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use walcat::testing::change::Ticket;
use walcat::testing::feedback::Confirming;
use walcat::testing::lsn::Lsn;
use walcat::testing::position::{Facts, Known, Stored};
use walcat::testing::session::{Sealed, Session};
use walcat::testing::sink::kafka::Error;
use walcat::testing::sink::kafka::client::transaction_calls::{CallError, failure};
use walcat::testing::sink::kafka::exactly_once::checkpoint::{
    CHECKPOINT_KEY, Instance, START_KEY, Start, render_checkpoint, render_start,
};
use walcat::testing::sink::kafka::exactly_once::history::History;
use walcat::testing::sink::kafka::exactly_once::ledger::{Bounds, Ledger, Task, Traffic};

use crate::kafka::{Record, TRANSACTION_TIMEOUT};
use crate::postgres::{SLOT, SYSTEM, Walsender};
use crate::reading::{Target, options, read};
use crate::world::{End, Walcat, World, begin};

/// Room for everything that a run can put into one Kafka transaction.
const ENTRIES: usize = 1_024;

/// The call to librdkafka that is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    TakeId,
    Commit,
}

/// librdkafka's producer.
#[derive(Default)]
struct Producer {
    epoch: u32,
    /// Records that have not arrived, in order.
    flight: VecDeque<Record>,
    call: Option<Call>,
    /// The position of the consumer of the checkpoint topic.
    consumed: u64,
}

impl Producer {
    /// A record arrives at the broker, and its report arrives here.
    fn deliver(&mut self, world: &mut World) -> Result<(), Error> {
        let Some(record) = self.flight.pop_front() else { return Ok(()) };
        let refused = |_| Error::Fenced { reason: "a record was refused".to_owned() };
        world.kafka.produce(self.epoch, record, world.now).map_err(refused)
    }

    /// The call's result, if it has arrived. A completed call may never be answered.
    fn result(&mut self, world: &mut World) -> Option<Result<(), CallError>> {
        if world.random.chance(60) {
            return None;
        }
        let call = self.call.take().expect("a call to wait for");
        if world.fault(300) {
            // The request is lost.
            return Some(Err(error(Code::RequestTimedOut)));
        }
        let done = match call {
            Call::TakeId => {
                self.epoch = world.kafka.take_id();
                Ok(())
            }
            Call::Commit => world.kafka.commit(self.epoch),
        };
        if world.fault(300) {
            // The answer is lost.
            return Some(Err(error(Code::RequestTimedOut)));
        }
        Some(done.map_err(|_| error(Code::InvalidProducerEpoch)))
    }
}

fn error(code: Code) -> CallError {
    CallError { code, reason: "simulated".to_owned() }
}

/// The sink.
struct Sink {
    ledger: Ledger,
    producer: Producer,
}

impl Target for Sink {
    fn has_room(&self, world: &World) -> bool {
        self.ledger.has_room(world.now)
    }

    fn take(&mut self, id: u64, ticket: Ticket, is_transactional: bool, world: &World) {
        self.ledger.open(world.now);
        self.producer.flight.push_back(Record::Data { id });
        self.ledger.take(ticket, 1, is_transactional);
    }

    fn seal(&mut self, sealed: Sealed) {
        self.ledger.seal(sealed);
    }
}

pub struct ExactlyOnce {
    number: u32,
    session: Session,
    sender: Option<Walsender>,
    sink: Sink,
    history: History,
    facts: Facts,
    was_overtaken: bool,
    flushed: Lsn,
}

impl ExactlyOnce {
    pub fn start(number: u32, world: &mut World) -> Result<Self, End> {
        let facts = world.postgres.facts();
        // The checkpoint is read once the slot is acquired.
        let start = facts.confirmed;
        let options = walcat::testing::session::Options {
            entries_max: ENTRIES,
            ..options(start, Confirming::Stored, &mut world.random)
        };
        let session = Session::new(options, world.now);
        let instance = Instance { host: "h".to_owned(), pid: number, started_unix_ms: 0, renewal: 0 };
        let bounds = Bounds {
            interval: Duration::from_millis(world.random.below(2_000)),
            records_max: 1 + world.random.below(20),
            timeout: TRANSACTION_TIMEOUT,
        };
        let identity = Stored {
            system_identifier: SYSTEM.to_owned(),
            timeline: facts.timeline,
            slot: SLOT.to_owned(),
            end_lsn: Lsn::INVALID,
            records: None,
            full_keys: std::collections::BTreeMap::new(),
            snapshot: None,
        };
        let history = History::new(&instance);
        let sink = Sink { ledger: Ledger::new(bounds, identity, instance), producer: Producer::default() };
        let sender = world.connect(number).map(|()| world.postgres.start_replication(start));
        let flushed = Lsn::INVALID;
        Ok(ExactlyOnce { number, session, sender, sink, history, facts, was_overtaken: false, flushed })
    }

    /// Gives up the open transaction and starts again at the checkpoint once the slot is free.
    fn reconnect(&mut self, world: &mut World) -> Result<(), End> {
        if world.connect(self.number).is_none() {
            // The process that holds it may have taken over while this one was presumed dead.
            return if self.is_succeeded(world) { Err(End::Fenced) } else { Ok(()) };
        }
        self.facts = world.postgres.facts();
        let start = self.facts.confirmed;
        if self.sink.ledger.renew() {
            self.sink.producer = Producer::default();
        }
        self.history = History::new(self.sink.ledger.instance());
        self.session.restarted(world.now);
        self.session.cut(start);
        self.flushed = Lsn::INVALID;
        self.sender = Some(world.postgres.start_replication(start));
        Ok(())
    }

    fn close(&mut self, world: &mut World) {
        self.sender = None;
        if world.postgres.holder == Some(self.number) {
            world.postgres.holder = None;
        }
        if self.sink.ledger.close() {
            let purged = self.sink.producer.flight.drain(..).count();
            // Purged records may have arrived; the abort may have been lost.
            if purged == 0 || world.random.chance(80) {
                let _ = world.kafka.abort(self.sink.producer.epoch);
            }
        }
    }

    /// Whether the checkpoint topic shows that another process has taken the transactional id after this one.
    fn is_succeeded(&self, world: &World) -> bool {
        let (mut history, mut from) = (History::new(self.sink.ledger.instance()), 0);
        while let Some((next, value)) = world.kafka.read_checkpoints(from) {
            history.take(value).expect("a record of walcat's");
            from = next;
        }
        history.successor(self.sink.ledger.has_announced()).is_some()
    }

    /// One turn of the sink.
    fn serve(&mut self, world: &mut World) -> Result<(), Error> {
        let Sink { ledger, producer } = &mut self.sink;
        for _ in 0..world.random.below(4) {
            producer.deliver(world)?;
        }
        let traffic = Traffic { is_flight_empty: producer.flight.is_empty(), is_none_held: true, is_outage: false };
        match ledger.next(traffic, world.now)? {
            Task::Nothing => {}
            Task::TakeId => {
                producer.call = Some(Call::TakeId);
                ledger.asked();
            }
            Task::Announce => {
                let start = Start { instance: ledger.instance().clone(), unread_slot_at: None };
                producer.flight.push_back(Record::Own { key: START_KEY, value: render_start(start) });
                ledger.announced();
            }
            Task::Commit => {
                producer.call = Some(Call::Commit);
                ledger.asked();
            }
            Task::Await => {
                if let Some(result) = producer.result(world) {
                    ledger.answered(result, world.now).map_err(|error| failure(&error))?;
                }
            }
            Task::Read => {
                if let Some((next, value)) = world.kafka.read_checkpoints(producer.consumed) {
                    self.history.take(value).expect("a record of walcat's");
                    producer.consumed = next;
                    ledger.handle_history(&self.history);
                }
            }
            Task::Seal(checkpoint) => {
                ledger.open(world.now);
                ledger.sealed_with(&checkpoint.stored);
                producer.flight.push_back(Record::Own { key: CHECKPOINT_KEY, value: render_checkpoint(*checkpoint) });
            }
        }
        while let Some((ticket, records)) = ledger.settled() {
            self.session.settle(ticket, records).expect("a session");
        }
        self.session.advance();
        Ok(())
    }

    /// The name of the checkpoint in messages. Its writer distinguishes it from a later one with the same position.
    fn checkpoint_name(&self) -> String {
        let writer = &self.history.checkpoint.as_ref().expect("a checkpoint").instance;
        format!("the checkpoint that process {} wrote in renewal {}", writer.pid, writer.renewal)
    }

    /// Judges the position that Kafka has, and returns whether the stream can continue.
    fn handle_checkpoint(&mut self, world: &mut World) -> Result<bool, End> {
        let Some(found) = self.sink.ledger.found() else { return Ok(true) };
        let known = found.stored.map(|stored| Known { stored, store: self.checkpoint_name() });
        let is_ahead =
            |known: &Known| known.stored.timeline >= self.facts.timeline && known.stored.end_lsn > self.facts.wal_end;
        if known.as_ref().is_some_and(is_ahead) && !std::mem::replace(&mut self.was_overtaken, true) {
            return Ok(false);
        }
        self.was_overtaken = false;
        let start = begin(known.as_ref(), &self.facts, &[], world)?;
        self.sink.ledger.begin_at(start, self.facts.timeline);
        self.check_begun(known.as_ref(), world);
        self.session.begin_at(start.lsn);
        Ok(true)
    }

    /// The start position counts as stored only if the checkpoint has it. Otherwise it is stored at once, so that only a
    /// fault can make an operator accept it again.
    fn check_begun(&self, known: Option<&Known>, world: &World) {
        let Sink { ledger, .. } = &self.sink;
        if !ledger.stored().is_valid() {
            let due_at = ledger.deadline(true, world.now, world.now);
            assert_eq!(due_at, Some(world.now), "seed {}: a position that is not stored waits", world.seed);
            return;
        }
        let in_checkpoint = known.map(|known| (known.stored.end_lsn, known.stored.timeline));
        let begun = (ledger.stored(), self.facts.timeline);
        assert_eq!(in_checkpoint, Some(begun), "seed {}: it counts as stored but is not", world.seed);
    }

    fn update(&mut self, world: &mut World) {
        let feedback = self.session.feedback();
        let at_once = world.random.chance(10) || world.has_healed;
        self.sink.ledger.offer(feedback.delivered(), at_once);
        feedback.confirm(self.sink.ledger.stored());
        let Some(update) = feedback.update_due(world.now) else { return };
        let seed = world.seed;
        assert!(update.flushed >= self.flushed, "seed {seed}: the flushed LSN went back");
        self.flushed = update.flushed;
        world.settle();
        if update.flushed.0 > world.postgres.slot {
            world.check_stored(update.flushed);
        }
        world.confirm(update.flushed);
    }
}

impl Walcat for ExactlyOnce {
    fn number(&self) -> u32 {
        self.number
    }

    fn step(&mut self, world: &mut World) -> Result<(), End> {
        if self.sender.is_some() && world.postgres.holder != Some(self.number) {
            self.close(world);
        }
        let Some(sender) = &mut self.sender else { return self.reconnect(world) };
        if world.random.chance(60) {
            read(&mut self.session, sender, &mut self.sink, world);
        }
        match self.serve(world) {
            Ok(()) => {}
            Err(Error::Fenced { .. }) if self.is_succeeded(world) => return Err(End::Fenced),
            Err(Error::Fenced { .. } | Error::Aborted { .. }) => {
                self.close(world);
                return Ok(());
            }
            // walcat stops if one PostgreSQL transaction takes too long twice; the model starts over.
            Err(Error::TransactionTooLong { .. }) => {
                self.close(world);
                return Ok(());
            }
            Err(error) => panic!("seed {}: {error}", world.seed),
        }
        if !self.handle_checkpoint(world)? {
            self.close(world);
            return Ok(());
        }
        self.update(world);
        Ok(())
    }

    fn is_quiet(&mut self, world: &World) -> bool {
        let has_read = self.sender.as_ref().is_some_and(|sender| sender.has_sent_all(&world.postgres));
        let is_drained = self.sink.ledger.has_begun() && self.sink.ledger.is_drained();
        has_read && is_drained && self.session.is_settled() && self.session.feedback().is_stored()
    }
}
