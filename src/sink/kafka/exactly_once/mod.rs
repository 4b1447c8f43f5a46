//! Exactly-once delivery: whole PostgreSQL transactions in Kafka transactions, each with a checkpoint.
//!
//! Stages: take the transactional id, which fences its previous owner; commit a start record; read the checkpoint topic
//! until exactly that record is seen, not until an end offset; then run one transaction after another. While a
//! transaction is being committed, no change is taken. Bytes are not kept, so every failure of a transaction ends in
//! [`Error::Aborted`]: the stream restarts from the checkpoint. The checkpoint also shows whether a commit of unknown
//! outcome succeeded. Nothing is guessed.
//!
//! The [`Ledger`] decides what is done when; this module makes the calls.
//!
//! Source: Apache Kafka's design documentation, "Using Transactions", and librdkafka's `INTRODUCTION.md`, "Transactional
//! Producer".

pub mod checkpoint;
pub(in crate::sink::kafka) mod fence;
pub mod history;
pub mod ledger;
pub mod look;
pub(in crate::sink::kafka) mod own_records;
mod vouching;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use log::{debug, info};
use rdkafka::error::RDKafkaErrorCode as Code;

use self::checkpoint::{Instance, Reader};
use crate::lsn::Lsn;
use crate::position::Stored;
use crate::sink::kafka::client::link::Link;
use crate::sink::kafka::client::transaction_calls::{CallError, failure, is_fenced};
use crate::sink::kafka::client::transaction_thread::{Call, Done};
use crate::sink::kafka::error::Error;
use crate::sink::kafka::exactly_once::history::Found;
use crate::sink::kafka::exactly_once::ledger::{Bounds, Ledger, Task, Traffic};
use crate::sink::kafka::flight::Flight;
use crate::sink::kafka::topics::Waiting;

/// The time between two checks of what must be polled: the reader of the checkpoint topic.
const LOOK_INTERVAL: Duration = Duration::from_millis(3);

/// The same while no broker answers.
const OUTAGE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The timeout for aborting a transaction.
pub const ABORT_LIMIT: Duration = Duration::from_secs(3);

/// The settings of transactions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a transaction stays open for more changes.
    pub interval: Duration,
    /// The number of records after which no further PostgreSQL transaction joins.
    pub records_max: u64,
    /// Kafka's limit, `transaction.timeout.ms`.
    pub timeout: Duration,
    /// The constant part of each stored position.
    pub identity: Stored,
    /// The database, for the names of the topic and the id.
    pub database: String,
    /// The slot's position at the start.
    pub slot_at: Lsn,
    /// The topics of the published tables.
    pub topics: Vec<String>,
    /// Whether PostgreSQL knows that the slot was read before.
    pub was_slot_read: bool,
}

impl Settings {
    /// The slot's checkpoint topic.
    #[must_use]
    pub fn topic(&self) -> String {
        checkpoint::topic(&self.identity.system_identifier, &self.database, &self.identity.slot)
    }

    /// The transactional id.
    #[must_use]
    pub fn transactional_id(&self) -> String {
        checkpoint::transactional_id(&self.identity.system_identifier, &self.database, &self.identity.slot)
    }
}

/// What is under way besides the calls that the ledger asks for.
enum Activity {
    /// Nothing.
    Rest,
    /// The checkpoint topic is being read.
    Reading(Box<Reader>),
    /// It has no checkpoint, and the topics of other clusters are being listed.
    Listing(Box<Reader>),
    /// The open transaction is being aborted, at the longest until then.
    Aborting { until: Instant },
}

/// The transactions of this process, across producers.
pub struct Transactions {
    settings: Settings,
    ledger: Ledger,
    activity: Activity,
    /// Whether the topics of the tables had records before the id was taken.
    is_any_written: bool,
}

impl Transactions {
    /// The start: no transaction exists.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let Settings { interval, records_max, timeout, .. } = settings;
        let bounds = Bounds { interval, records_max, timeout };
        let ledger = Ledger::new(bounds, settings.identity.clone(), Instance::this());
        Transactions { settings, ledger, activity: Activity::Rest, is_any_written: false }
    }

    /// Restarts; returns whether a new producer is needed.
    pub fn renew(&mut self) -> bool {
        self.activity = Activity::Rest;
        self.ledger.renew()
    }

    /// The settings of transactions.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The error for a failed call.
    #[must_use]
    pub fn explain(&self, error: CallError) -> Error {
        match error.code {
            Code::TransactionalIdAuthorizationFailed => {
                let id = self.settings.transactional_id();
                let reason = format!("no permission for the transactional id {id}: grant the ACL Write");
                Error::Transactional { code: error.code, reason }
            }
            _ => failure(&error),
        }
    }

    /// The error for a rejected record of the checkpoint topic; `is_denied` means that the topic may not be created.
    #[must_use]
    pub fn explain_checkpoint(&self, code: Code, is_denied: bool) -> Error {
        match checkpoint::denied(&self.settings.topic(), code, is_denied) {
            Some(reason) => Error::Transactional { code: Code::TopicAuthorizationFailed, reason },
            None => Error::Aborted { reason: format!("Kafka rejected the checkpoint: {code}") },
        }
    }

    /// Does all work that is possible without waiting.
    ///
    /// # Errors
    /// [`Error::Aborted`] and [`Error::FencedBy`] end the transactions of this producer; other errors end the run.
    pub fn advance(
        &mut self,
        link: &mut Link,
        waiting: &mut Waiting,
        flight: &mut Flight,
        is_outage: bool,
        now: Instant,
    ) -> Result<(), Error> {
        let traffic = Traffic { is_flight_empty: flight.is_empty(), is_none_held: waiting.is_empty(), is_outage };
        match self.ledger.next(traffic, now)? {
            Task::Nothing => {}
            Task::TakeId => {
                let topic = self.settings.topic();
                if waiting.ensure_checkpoints(link.admin(), &topic, now)? {
                    // Only now: opening the handle requests metadata, and the broker might auto-create the topic with
                    // its own settings.
                    link.open_checkpoints(&topic)?;
                    // If the topic is created again after this process stored a position, the previous topic was lost.
                    let is_asked = !self.ledger.known().is_valid();
                    let topics = if is_asked { self.settings.topics.clone() } else { Vec::new() };
                    link.call(Call::Init { topics });
                    self.ledger.asked();
                }
            }
            Task::Announce => {
                let was_read = self.settings.was_slot_read && self.is_any_written;
                let is_read = self.ledger.known().is_valid() || was_read;
                let unread_slot_at = (!is_read).then_some(self.settings.slot_at);
                let start = checkpoint::Start { instance: self.ledger.instance().clone(), unread_slot_at };
                let start = checkpoint::render_start(start);
                let refused = |code| self.explain_checkpoint(code, waiting.is_denied(&self.settings.topic()));
                flight.add(link.produce_own(checkpoint::START_KEY, &start).map_err(refused)?);
                self.ledger.announced();
            }
            Task::Commit => {
                link.call(Call::Commit(self.settings.timeout));
                self.ledger.asked();
            }
            Task::Await => {
                let result = link.call_result();
                if let Some(Ok(Done::Begun { is_any_written })) = result {
                    self.is_any_written = is_any_written;
                }
                let answer = result.map(|result| self.ledger.answered(result.map(drop), now));
                if let Some(stored) = answer.transpose().map_err(|error| self.explain(error))?.flatten() {
                    let slot = self.settings.identity.slot.as_str();
                    debug!(slot, stored:% = stored; "transaction committed");
                }
            }
            Task::Read => self.read(link)?,
            Task::Seal(checkpoint) => {
                let stored = checkpoint.stored.clone();
                let checkpoint = checkpoint::render_checkpoint(*checkpoint);
                let refused = |code| self.explain_checkpoint(code, false);
                flight.add(link.produce_own(checkpoint::CHECKPOINT_KEY, &checkpoint).map_err(refused)?);
                self.ledger.sealed_with(&stored);
            }
        }
        Ok(())
    }

    /// Reads the checkpoint topic. If it has no checkpoint, another cluster may have one: walcat then lists the topics first.
    fn read(&mut self, link: &mut Link) -> Result<(), Error> {
        let (slot, topic) = (self.settings.identity.slot.as_str(), self.settings.topic());
        let mut reader = match std::mem::replace(&mut self.activity, Activity::Rest) {
            Activity::Reading(reader) => reader,
            Activity::Listing(reader) => {
                match link.call_result() {
                    None => {
                        self.activity = Activity::Listing(reader);
                        return Ok(());
                    }
                    Some(Ok(Done::Listed(topics))) => checkpoint::warn_of_other_systems(slot, &topics, &topic),
                    // A cluster that does not answer costs only the warning.
                    Some(_) => {}
                }
                self.has_read(&reader);
                return Ok(());
            }
            Activity::Rest | Activity::Aborting { .. } => {
                let (brokers, properties) = link.addresses();
                Box::new(Reader::new(brokers, properties, &topic, self.ledger.instance())?)
            }
        };
        reader.advance()?;
        match Found::of(reader.history()) {
            None => self.activity = Activity::Reading(reader),
            Some(found) if found.stored.is_some() => self.has_read(&reader),
            Some(_) => {
                link.ask(Call::List { prefix: checkpoint::TOPIC_PREFIX })?;
                self.activity = Activity::Listing(reader);
            }
        }
        Ok(())
    }

    fn has_read(&mut self, reader: &Reader) {
        assert!(
            self.ledger.handle_history(reader.history()),
            "the checkpoint topic was not read up to the start record"
        );
        let stored = self.ledger.found().and_then(|found| found.stored);
        if stored.is_none() && self.is_any_written && !self.settings.was_slot_read {
            checkpoint::warn_of_records(&self.settings.identity.slot);
        }
        let (slot, end_lsn) =
            (self.settings.identity.slot.as_str(), stored.map_or(Lsn::INVALID, |stored| stored.end_lsn));
        info!(slot, stored:% = end_lsn; "checkpoint read");
    }

    /// Whether topics are being listed, which says nothing about the transactions.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        matches!(self.activity, Activity::Listing(_))
    }

    /// The time by which [`Transactions::advance`] and [`Transactions::advance_abort`] must be called again.
    #[must_use]
    pub fn deadline(&self, flight: &Flight, is_outage: bool, now: Instant) -> Option<Instant> {
        if let Activity::Aborting { until } = self.activity {
            return Some(until);
        }
        let look = now + if is_outage { OUTAGE_LOOK_INTERVAL } else { LOOK_INTERVAL };
        self.ledger.deadline(flight.is_empty(), look, now)
    }

    /// Ends the transactions, and starts to abort an open one, so that readers need not wait for Kafka's timeout. walcat waits
    /// for it up to `limit`.
    pub fn close(&mut self, link: &mut Link, limit: Duration, now: Instant) {
        let is_open = self.ledger.close();
        if self.is_aborting() {
            return;
        }
        self.activity = Activity::Rest;
        if is_open && !link.is_calling() {
            link.call(Call::Abort(ABORT_LIMIT));
            self.activity = Activity::Aborting { until: now + limit };
        }
    }

    /// Kafka has ended the open transaction itself.
    pub fn close_fenced(&mut self) {
        self.ledger.close();
    }

    /// Whether the open transaction is being aborted.
    #[must_use]
    pub fn is_aborting(&self) -> bool {
        matches!(self.activity, Activity::Aborting { .. })
    }

    /// Checks whether the transaction is aborted.
    ///
    /// # Errors
    /// [`Error::Fenced`]. After any other failure, the next owner of the id or Kafka's timeout ends the transaction.
    pub fn advance_abort(&mut self, link: &mut Link, now: Instant) -> Result<(), Error> {
        let Activity::Aborting { until } = self.activity else { return Ok(()) };
        let result = link.call_result();
        if result.is_some() || now >= until {
            self.activity = Activity::Rest;
        }
        match result {
            Some(Err(error)) if is_fenced(error.code) => Err(failure(&error)),
            _ => Ok(()),
        }
    }
}

/// Methods that need no call to librdkafka are those of the ledger.
impl Deref for Transactions {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl DerefMut for Transactions {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}
