//! The Kafka sink: encodes a change, passes its records to librdkafka's idempotent producer, and reports which records
//! were delivered.
//!
//! This module bounds the records in flight, by `[memory] max` and [`RECORDS_IN_FLIGHT_MAX`]. librdkafka's own queue is
//! larger, so it is never full. If a record's topic must first be created or described, the sink holds the record and
//! takes no more changes. With exactly-once delivery, records settle when their Kafka transaction is committed;
//! otherwise each record settles with its delivery report.

pub mod availability;
pub mod client;
pub mod delivery;
pub mod error;
pub mod exactly_once;
pub mod flight;
pub mod refusals;
mod sending;
pub mod state_topic;
pub mod topics;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::info;
use rdkafka::error::RDKafkaErrorCode as Code;

use self::availability::Availability;
use self::client::link::{Addresses, Link};
use self::client::request_size::LARGE_RECORD_BYTES;
use self::client::transaction_calls::CallError;
use self::delivery::Delivery;
pub use self::error::{Class, Error, Stuck};
use self::exactly_once::fence::Look;
use self::exactly_once::{ABORT_LIMIT, Transactions};
use self::flight::{Flight, Numbering, Ordinal};
use self::refusals::Delivering;
use self::refusals::dead_letters::{DeadLetters, OnError};
use self::state_topic::StateTopic;
use self::topics::{BROKERS_START_LIMIT, Waiting};
use super::Settled;
use crate::catalog_facts::CatalogAnswer;
use crate::change::{RelationIndex, Ticket};
use crate::limits::{RECORD_OVERHEAD_BYTES, RECORDS_IN_FLIGHT_MAX};
use crate::lsn::Lsn;
use crate::record::{Encoder, Prepared};
use crate::relations::Relation;
use crate::session::Sealed;

/// Settings of the sink, other than librdkafka's own configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The maximum number of bytes of queued records, including the overhead of each record.
    pub memory_bytes_max: usize,
    /// How to create missing topics; `None` to leave that to the broker.
    pub create_topics: Option<TopicTemplate>,
    /// How long records may go unacknowledged before that counts as an outage; at most 10 s.
    pub stall_timeout: Option<Duration>,
    /// How long the brokers may be unreachable; `None` for no limit.
    pub broker_for: Option<Duration>,
    /// The maximum size of a batch in librdkafka; a larger record is sent alone.
    pub batch_bytes: usize,
    /// What to do with a record that Kafka permanently rejects.
    pub on_error: OnError,
    /// At-least-once or exactly-once.
    pub delivery: delivery::Settings,
}

/// How to create a missing topic.
#[derive(Clone, Debug)]
pub struct TopicTemplate {
    /// The number of partitions; -1 for the broker's default.
    pub partitions: i32,
    /// The number of replicas; -1 for the broker's default.
    pub replication_factor: i32,
    /// The topic's configuration.
    pub properties: Vec<(String, String)>,
}

/// The sink.
pub struct KafkaSink {
    link: Link,
    encoder: Encoder,
    settings: Settings,
    delivery: Delivery,
    availability: Availability,
    waiting: Waiting,
    /// Tickets that settle without a delivery: skipped truncations and rejected records.
    skipped: VecDeque<Ticket>,
    dead_letters: DeadLetters,
    delivering: Delivering,
    flight: Flight,
    numbering: Numbering,
}

impl KafkaSink {
    /// Starts the producer and a first probe of the cluster. Sends no record yet.
    ///
    /// # Errors
    /// [`Error::Producer`] if librdkafka rejects a property; [`Error::Os`].
    pub fn new(addresses: Addresses, settings: Settings, encoder: Encoder, now: Instant) -> Result<Self, Error> {
        let availability = Availability::new(settings.stall_timeout, now);
        let link = Link::new(addresses, settings.delivery.transactional().as_ref())?;
        let too_few_limit = settings.broker_for.map_or(BROKERS_START_LIMIT, |limit| limit.min(BROKERS_START_LIMIT));
        let mut waiting = Waiting::new(settings.create_topics.clone(), too_few_limit);
        waiting.probe(link.admin(), now);
        Ok(KafkaSink {
            link,
            encoder,
            delivery: Delivery::new(&settings.delivery),
            waiting,
            settings,
            availability,
            skipped: VecDeque::new(),
            dead_letters: DeadLetters::default(),
            delivering: Delivering::Yes,
            flight: Flight::default(),
            numbering: Numbering::default(),
        })
    }

    /// Whether the stream must restart at the delivered position, on any connection, because everything taken since
    /// then was discarded.
    #[must_use]
    pub fn begins_again(&self) -> bool {
        self.is_transactional() || matches!(self.delivering, Delivering::GivenUp)
    }

    /// Restarts after a failure. No record taken so far will be delivered. Creates a new producer unless the current
    /// one has not delivered anything.
    ///
    /// # Errors
    /// Those of [`KafkaSink::new`].
    pub fn renew(&mut self, now: Instant) -> Result<(), super::Error> {
        self.close(ABORT_LIMIT, now);
        self.availability.begin_again(now);
        self.skipped.clear();
        self.dead_letters.begin();
        self.delivering = Delivering::Yes;
        self.numbering = Numbering::default();
        if self.delivery.renew() {
            self.link = Link::new(self.link.copy_addresses(), self.settings.delivery.transactional().as_ref())?;
            self.waiting.renew();
            self.waiting.probe(self.link.admin(), now);
            self.flight = Flight::default();
        }
        Ok(())
    }

    /// The records taken so far are discarded and must be read again.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if nothing was delivered for longer than `broker_for`.
    pub fn has_failed(&mut self, reason: &str, now: Instant) -> Result<(), Error> {
        let since = self.availability.failed(now);
        self.check_outage(since, reason, now)
    }

    fn check_outage(&self, since: Instant, reason: &str, now: Instant) -> Result<(), Error> {
        let outage = now.saturating_duration_since(since);
        if self.settings.broker_for.is_none_or(|limit| outage < limit) {
            return Ok(());
        }
        let (brokers, _) = self.link.addresses();
        Err(Error::Unreachable {
            seconds: outage.as_secs(),
            reason: reason.to_owned(),
            brokers: brokers.to_owned(),
            stuck: self.stuck().map(Box::new),
        })
    }

    /// The record that the others probably wait for: in librdkafka, or waiting for information about its topic.
    fn stuck(&self) -> Option<Stuck> {
        let may_be_too_large = self.waiting.is_request_limit_unknown();
        if let Some(record) = self.flight.suspect() {
            let (origin, topic) = match record.destination.map(|destination| self.link.topic(destination)) {
                Some(found) => (self.dead_letters.origin(found?.name()), found?.name().to_owned()),
                None => ("a rejected record".to_owned(), self.settings.on_error.topic()?.to_owned()),
            };
            let is_large = record.bytes > LARGE_RECORD_BYTES && self.availability.is_answering();
            let may_be_too_large = may_be_too_large && (record.is_huge() || is_large);
            return Some(Stuck { origin, topic, lsn: record.lsn, bytes: record.bytes, may_be_too_large });
        }
        let held = self.waiting.front()?;
        let (topic, bytes) = (held.topic.clone(), held.bytes());
        Some(Stuck { origin: self.dead_letters.origin(&topic), topic, lsn: held.lsn, bytes, may_be_too_large: false })
    }

    /// Ends the Kafka transactions, and starts to abort an open one; [`KafkaSink::serve`] goes on with it up to `limit`.
    pub fn close(&mut self, limit: Duration, now: Instant) {
        if let Some(transactions) = self.delivery.transactions_mut() {
            transactions.close(&mut self.link, limit, now);
        }
    }

    /// Whether an open Kafka transaction is being aborted.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.delivery.transactions().is_some_and(Transactions::is_aborting)
    }

    /// Starts to look, for a few seconds at most, whether another instance has taken over the transactions. Call it after
    /// [`KafkaSink::close`]. [`KafkaSink::serve`] fails with [`Error::FencedBy`] if one has.
    pub fn check_successor(&mut self, now: Instant) {
        // Without a reader, nobody is found.
        let _ = self.look_for_successor(None, now);
    }

    /// Whether the transactions are over, and only the reason is being looked for.
    #[must_use]
    pub fn is_finding_cause(&self) -> bool {
        matches!(self.delivering, Delivering::Asking(_) | Delivering::Looking(_))
    }

    /// Looks for the instance that may have taken over, because Kafka has `fenced` the producer or for another reason.
    fn look_for_successor(&mut self, fenced: Option<String>, now: Instant) -> Result<(), Error> {
        let (Some(transactions), false) =
            (self.delivery.transactions_mut(), matches!(self.delivering, Delivering::Looking(_)))
        else {
            return Ok(());
        };
        if let Some(reason) = &fenced {
            let slot = transactions.settings().identity.slot.as_str();
            info!(slot, reason = reason.as_str(); "Kafka has fenced the producer; looking for an instance that has taken over");
            transactions.close_fenced();
        }
        let look = Look::begin(&self.link, transactions, fenced, now)?;
        self.delivering = Delivering::Looking(Box::new(look));
        Ok(())
    }

    /// Whether records are delivered in Kafka transactions.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.delivery.transactions().is_some()
    }

    /// What keeps the positions, if Kafka does.
    pub fn delivery(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    /// A PostgreSQL transaction, or a message outside a transaction, is complete.
    pub fn seal(&mut self, sealed: Sealed) {
        if let Some(transactions) = self.delivery.transactions_mut() {
            transactions.seal(sealed);
        }
    }

    /// Prepares the encoder for a relation and opens the topic of its records.
    ///
    /// # Errors
    /// The encoder's error, and [`Error::Topic`].
    pub fn prepare(
        &mut self,
        index: RelationIndex,
        relation: &Relation,
        answer: &CatalogAnswer,
    ) -> Result<Prepared, super::Error> {
        let prepared = self.encoder.prepare(index, relation, answer)?;
        self.link.open_relation(index, &prepared.topic)?;
        self.dead_letters.learn(&prepared.topic, &relation.namespace, &relation.name);
        Ok(prepared)
    }

    /// The encoder.
    pub fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    /// Forgets a relation that has nothing in flight and gets no more changes.
    pub fn forget(&mut self, index: RelationIndex, oid: u32) {
        let topic = self.encoder.forget(index, oid);
        self.link.close_relation(index);
        if let Some(topic) = topic {
            self.dead_letters.forget_topic(&topic);
            self.waiting.forget(&topic);
        }
    }

    /// Everything up to this position is delivered and is not read again.
    pub fn has_delivered(&mut self, lsn: Lsn) {
        // With transactions, the stored position takes this role.
        if !self.is_transactional() {
            self.dead_letters.forget_before(lsn);
        }
    }

    /// Whether another change can be taken.
    #[must_use]
    pub fn has_room(&self, now: Instant) -> bool {
        self.waiting.is_empty()
            && matches!(self.delivering, Delivering::Yes)
            && self.flight.bytes() < self.settings.memory_bytes_max
            && self.flight.records() < RECORDS_IN_FLIGHT_MAX as usize
            && self.delivery.has_room(now)
    }

    /// The descriptor that becomes readable when [`KafkaSink::serve`] has something to do.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.link.descriptor()
    }

    /// Processes everything that librdkafka has: delivery reports, errors and answers.
    ///
    /// # Errors
    /// [`Error::Authentication`], [`Error::Fatal`], [`Error::Unreachable`], [`Error::CreateTopic`].
    pub fn serve(&mut self, now: Instant) -> Result<(), super::Error> {
        self.link.serve();
        if let Some(transactions) = self.delivery.transactions_mut() {
            let aborted = transactions.advance_abort(&mut self.link, now);
            self.or_look(aborted, now)?;
        }
        if let Delivering::Looking(look) = &mut self.delivering {
            // What fails meanwhile is a consequence.
            while self.link.inbox().errors.try_recv().is_ok() {}
            let is_over = look.advance(now);
            if !matches!(is_over, Ok(false)) {
                self.delivering = Delivering::GivenUp;
            }
            return Ok(is_over.map(drop)?);
        }
        match self.work(now) {
            Err(super::Error::Kafka(error)) => Ok(self.or_look(Err(error), now)?),
            result => result,
        }
    }

    /// Turns the failure that Kafka has fenced the producer into a look for the instance that has taken over.
    fn or_look(&mut self, result: Result<(), Error>, now: Instant) -> Result<(), Error> {
        match result {
            Err(Error::Fenced { reason }) if self.is_transactional() => self.look_for_successor(Some(reason), now),
            result => result,
        }
    }

    fn work(&mut self, now: Instant) -> Result<(), super::Error> {
        while let Ok(error) = self.link.inbox().errors.try_recv() {
            self.handle(&error, now)?;
        }
        while let Some(answer) = self.link.admin().poll() {
            self.waiting.handle(answer, &mut self.availability, now)?;
        }
        self.waiting.tick(now);
        self.availability.tick(self.is_under_way(), now);
        if self.delivery.transactions().is_some_and(|transactions| transactions.rests()) {
            self.availability.rest(now);
        }
        if matches!(self.delivering, Delivering::Yes) {
            self.release(now)?;
        }
        if let (OnError::DeadLetter { topic }, Some(template)) = (&self.settings.on_error, &self.settings.create_topics)
        {
            self.waiting.ensure(self.link.admin(), topic, template, now)?;
        }
        // A report that is not processed yet can be the cause of a failure here.
        if self.link.inbox().reports.is_empty() {
            self.conclude_failing(now)?;
            self.conclude_asking(now)?;
            if matches!(self.delivering, Delivering::Yes) {
                self.advance_delivery(now)?;
            }
        }
        if self.availability.wants_probe() {
            self.waiting.probe(self.link.admin(), now);
        }
        if let Some((since, reason)) = self.availability.outage() {
            self.check_outage(since, reason, now)?;
        }
        Ok(())
    }

    /// The next settled records, if any.
    pub fn settled(&mut self, now: Instant) -> Option<Settled> {
        if let Some(ticket) = self.skipped.pop_front() {
            return Some(Settled::Delivered(ticket, 1));
        }
        if let Some((ticket, records)) =
            self.delivery.transactions_mut().and_then(|transactions| transactions.settled())
        {
            return Some(Settled::Delivered(ticket, records));
        }
        loop {
            let report = self.link.inbox().reports.try_recv().ok()?;
            let record = self.flight.remove(report.number, report.size + RECORD_OVERHEAD_BYTES);
            if let Some(failure) = report.failure {
                // Records of an aborted transaction are purged and sent again.
                if self.delivery.transactions().is_some_and(|transactions| transactions.is_closed()) {
                    continue;
                }
                if let (Some(state), None) = (self.delivery.state_mut(), record)
                    && StateTopic::is_discarded(&failure)
                {
                    state.lose();
                    continue;
                }
                let (ticket, ordinal) = record.unwrap_or(OWN_RECORD);
                return Some(Settled::Refused(ticket, ordinal, failure));
            }
            self.availability.delivered(now);
            match (&mut self.delivery, record) {
                (Delivery::AtLeastOnce(_), Some((ticket, _))) => {
                    self.availability.committed();
                    return Some(Settled::Delivered(ticket, 1));
                }
                (Delivery::AtLeastOnce(Some(state)), None) => state.delivered_own(report.offset),
                (Delivery::ExactlyOnce(transactions), None) => transactions.delivered_own(report.offset),
                (Delivery::AtLeastOnce(None), None) | (Delivery::ExactlyOnce(_), Some(_)) => {}
            }
        }
    }

    fn advance_delivery(&mut self, now: Instant) -> Result<(), Error> {
        let transactions = match &mut self.delivery {
            Delivery::AtLeastOnce(None) => return Ok(()),
            Delivery::AtLeastOnce(Some(state)) => {
                return state.advance(&mut self.link, &mut self.waiting, &mut self.flight, now);
            }
            Delivery::ExactlyOnce(transactions) => transactions,
        };
        let is_outage = self.availability.outage().is_some();
        let was_calling = self.link.is_calling() && !transactions.is_listing();
        let stored = transactions.stored();
        let result = transactions.advance(&mut self.link, &mut self.waiting, &mut self.flight, is_outage, now);
        self.dead_letters.forget_before(transactions.stored());
        if was_calling && !self.link.is_calling() && result.is_ok() {
            self.availability.delivered(now);
        }
        if transactions.stored() > stored {
            self.availability.committed();
        }
        result
    }

    /// Whether the sink is waiting for the cluster: for a delivery report, or for the end of a transactional call.
    fn is_under_way(&self) -> bool {
        !self.flight.is_empty() || self.link.is_calling()
    }

    /// Since when no broker answers, and why; `None` if there is no outage.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        self.availability.outage()
    }

    /// Whether a broker ever answered.
    #[must_use]
    pub fn ever_reached(&self) -> bool {
        self.availability.ever_reached()
    }

    /// Whether nothing is queued, held or in flight.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.flight.is_empty()
            && self.waiting.is_empty()
            && self.skipped.is_empty()
            && self.link.inbox().reports.is_empty()
            && self.delivery.is_drained()
            && !self.is_finding_cause()
    }

    /// The time by which [`KafkaSink::serve`] must be called again.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let is_outage = self.availability.outage().is_some();
        let transactions =
            self.delivery.transactions().and_then(|transactions| transactions.deadline(&self.flight, is_outage, now));
        let state = match self.delivering {
            Delivering::Yes => self.delivery.state().and_then(|state| state.deadline(is_outage, now)),
            Delivering::Failing(_) | Delivering::Asking(_) | Delivering::Looking(_) | Delivering::GivenUp => None,
        };
        let broker_for = match (self.availability.outage(), self.settings.broker_for) {
            (Some((since, _)), Some(limit)) => Some(since + limit),
            _ => None,
        };
        let probe = self.waiting.deadline(self.availability.wants_probe());
        let patience = self.availability.deadline(self.is_under_way());
        let failing = self.delivering.deadline(now);
        [broker_for, probe, patience, failing, transactions, state].into_iter().flatten().min()
    }

    fn handle(&mut self, error: &client::context::ClientError, now: Instant) -> Result<(), Error> {
        match error.code {
            Code::Fatal => {
                let (code, reason) =
                    client::ffi::fatal_error(self.link.client()).unwrap_or_else(|| (error.code, error.reason.clone()));
                match self.delivery.transactions() {
                    Some(transactions) => Err(transactions.explain(CallError { code, reason })),
                    None => Err(Error::Fatal { code, reason }),
                }
            }
            // A cluster that has accepted the credentials once may reject them for a while when it restarts.
            Code::Authentication | Code::SaslAuthenticationFailed if !self.availability.ever_reached() => {
                Err(Error::Authentication { reason: error.reason.clone() })
            }
            Code::AllBrokersDown => {
                self.availability.all_down(&error.reason, self.is_under_way(), now);
                Ok(())
            }
            Code::BrokerTransportFailure | Code::Resolve | Code::SSL | Code::BadMessage => {
                self.availability.broker_failed(&error.reason);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A record of walcat itself, which belongs to no entry.
const OWN_RECORD: (Ticket, Ordinal) = (Ticket(u64::MAX), Ordinal { change: 0, record: 0 });
