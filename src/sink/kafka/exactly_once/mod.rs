//! Exactly-once delivery: whole PostgreSQL transactions in Kafka transactions, each with a checkpoint in it.
//!
//! Stages: take the transactional id, which fences whoever had it; commit a start record; read the checkpoint topic until
//! that very record is seen, not until an end offset; then transactions, one after another. While one is being committed
//! no change is taken. Bytes are not kept, so whatever makes a transaction fail ends in [`Error::Aborted`]: the stream is
//! begun again from the checkpoint, which also settles a commit of unknown outcome. Nothing here is guessed.
//!
//! What is done when is decided by the [`Ledger`]; here are the calls.
//!
//! Source: Apache Kafka's design documentation, "Using Transactions", and librdkafka's `INTRODUCTION.md`, "Transactional
//! Producer".

pub mod checkpoint;
pub(in crate::sink::kafka) mod fence;
pub mod history;
pub mod ledger;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rdkafka::error::RDKafkaErrorCode as Code;

use self::checkpoint::{Instance, Reader};
use crate::lsn::Lsn;
use crate::positions::Stored;
use crate::sink::kafka::client::link::Link;
use crate::sink::kafka::client::transaction_calls::{CallError, failure, is_fenced};
use crate::sink::kafka::client::transaction_thread::{Call, Done};
use crate::sink::kafka::error::Error;
use crate::sink::kafka::exactly_once::ledger::{Bounds, Ledger, Task, Traffic};
use crate::sink::kafka::flight::Flight;
use crate::sink::kafka::topics::Waiting;

/// The time between two looks at what librdkafka does not tell the end of: the checkpoint topic's reader.
const LOOK_INTERVAL: Duration = Duration::from_millis(3);

/// The same while no broker answers.
const OUTAGE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How long giving up a transaction may take when walcat ends.
const ABORT_LIMIT: Duration = Duration::from_secs(3);

/// What a transaction is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a transaction stays open for more.
    pub interval: Duration,
    /// Records after which no further PostgreSQL transaction joins.
    pub records_max: u64,
    /// Kafka's own limit, `transaction.timeout.ms`.
    pub timeout: Duration,
    /// Whose position it is, to be filled in with each position.
    pub identity: Stored,
    /// The database, for names.
    pub database: String,
    /// Where the slot stood at the start.
    pub slot_at: Lsn,
    /// The topics of the tables that are published, where the slot may have been read from before; empty where it was not.
    pub read_topics: Vec<String>,
}

impl Settings {
    /// The slot's own topic.
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

/// The transactions of one producer after another.
pub struct Transactions {
    settings: Settings,
    ledger: Ledger,
    /// Of the checkpoint topic, while it is read.
    reader: Option<Box<Reader>>,
    /// Whether something was written to the topics of the tables before the id was taken.
    is_any_written: bool,
}

impl Transactions {
    /// Nothing is begun yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let Settings { interval, records_max, timeout, .. } = settings;
        let bounds = Bounds { interval, records_max, timeout };
        let ledger = Ledger::new(bounds, settings.identity.clone(), Instance::this());
        Transactions { settings, ledger, reader: None, is_any_written: false }
    }

    /// Begins anew; says whether that takes a new producer.
    pub fn renew(&mut self) -> bool {
        self.reader = None;
        self.ledger.renew()
    }

    /// What a transaction is made of.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a call's failure means here.
    #[must_use]
    pub fn explain(&self, error: CallError) -> Error {
        match error.code {
            Code::TransactionalIdAuthorizationFailed => {
                let id = self.settings.transactional_id();
                let reason = format!("the transactional id {id} may not be used: it takes the ACL Write on it");
                Error::Transactional { code: error.code, reason }
            }
            _ => failure(&error),
        }
    }

    /// What it means that a record for the checkpoint topic is refused; `is_denied` says that it may not be made.
    #[must_use]
    pub fn explain_checkpoint(&self, code: Code, is_denied: bool) -> Error {
        let topic = self.settings.topic();
        match code {
            Code::TopicAuthorizationFailed | Code::UnknownTopic | Code::UnknownTopicOrPartition if is_denied => {
                let reason = format!(
                    "the checkpoint topic {topic} may not be created: it takes the ACL Create, or the topic made by hand \
                     (one partition, cleanup.policy=compact) with the ACL Write"
                );
                Error::Transactional { code: Code::TopicAuthorizationFailed, reason }
            }
            Code::TopicAuthorizationFailed => {
                let reason = format!("the checkpoint topic {topic} may not be written: it takes the ACL Write");
                Error::Transactional { code, reason }
            }
            code => Error::Aborted { reason: format!("the checkpoint is refused: {code}") },
        }
    }

    /// Goes on as far as it can without waiting.
    ///
    /// # Errors
    /// [`Error::Aborted`] and [`Error::FencedBy`] end this producer's transactions, the others the run.
    pub fn advance(
        &mut self,
        link: &mut Link,
        waiting: &mut Waiting,
        flight: &mut Flight,
        is_outage: bool,
        now: Instant,
    ) -> Result<(), Error> {
        let slot = self.settings.identity.slot.as_str();
        let traffic = Traffic { is_flight_empty: flight.is_empty(), is_none_held: waiting.is_empty(), is_outage };
        match self.ledger.next(traffic, now)? {
            Task::Nothing => {}
            Task::TakeId => {
                let topic = self.settings.topic();
                if waiting.ensure_checkpoints(link.admin(), &topic, now)? {
                    // Not before: to open it asks the broker, which may make it in a way of its own.
                    link.open_checkpoints(&topic)?;
                    // A topic that is made anew after this process had stored a position is one that was lost.
                    let is_asked = !self.ledger.known().is_valid();
                    let topics = if is_asked { self.settings.read_topics.clone() } else { Vec::new() };
                    link.call(Call::Init { topics });
                    self.ledger.asked();
                }
            }
            Task::Announce => {
                let is_read = self.ledger.known().is_valid() || self.is_any_written;
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
            Task::Read => {
                let mut reader = match self.reader.take() {
                    Some(reader) => reader,
                    None => {
                        let (brokers, properties) = link.addresses();
                        let topic = self.settings.topic();
                        Box::new(Reader::new(brokers, properties, &topic, self.ledger.instance())?)
                    }
                };
                reader.advance()?;
                if self.ledger.handle_history(reader.history()) {
                    let stored = self.ledger.found().and_then(|found| found.stored);
                    if stored.is_none() {
                        for topic in reader.topics_of_other_systems() {
                            warn!(slot, topic = topic.as_str();
                                "another cluster has a checkpoint for this database and slot: is this the right server?");
                        }
                    }
                    let end_lsn = stored.map_or(Lsn::INVALID, |stored| stored.end_lsn);
                    info!(slot, stored:% = end_lsn; "checkpoint read");
                } else {
                    self.reader = Some(reader);
                }
            }
            Task::Seal(checkpoint) => {
                let stored = checkpoint.stored.clone();
                let checkpoint = checkpoint::render_checkpoint(checkpoint);
                let refused = |code| self.explain_checkpoint(code, false);
                flight.add(link.produce_own(checkpoint::CHECKPOINT_KEY, &checkpoint).map_err(refused)?);
                self.ledger.sealed_with(&stored);
            }
        }
        Ok(())
    }

    /// When [`Transactions::advance`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self, flight: &Flight, is_outage: bool, now: Instant) -> Option<Instant> {
        let look = now + if is_outage { OUTAGE_LOOK_INTERVAL } else { LOOK_INTERVAL };
        self.ledger.deadline(flight.is_empty(), look, now)
    }

    /// Gives up what is open, so that readers need not wait for Kafka's own limit.
    ///
    /// # Errors
    /// [`Error::Fenced`]. Any other failure leaves it to whoever takes the id next, or to the time-out.
    pub fn close(&mut self, link: &mut Link) -> Result<(), Error> {
        self.reader = None;
        if !self.ledger.close() || link.is_calling() {
            return Ok(());
        }
        link.call(Call::Abort(ABORT_LIMIT));
        match link.wait_for_call(Instant::now() + ABORT_LIMIT) {
            Some(Err(error)) if is_fenced(error.code) => Err(failure(&error)),
            _ => Ok(()),
        }
    }
}

/// What is told and asked without a call is the ledger's.
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
