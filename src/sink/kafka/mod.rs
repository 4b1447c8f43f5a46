//! The Kafka sink: encodes a change, hands its records to librdkafka's idempotent producer, and reports what was
//! delivered.
//!
//! What is in flight is bounded here, by `[memory] max` and [`RECORDS_IN_FLIGHT_MAX`]; librdkafka's own queue is left
//! larger, so that it never refuses a record for being full. A record whose topic has to be made or looked at first is
//! held, and nothing more is taken meanwhile.

pub mod admin;
pub mod availability;
pub mod context;
pub mod error;
pub mod ffi;
pub mod inquiry;
pub mod producer;
pub mod waiting;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _};

use self::admin::Admin;
use self::availability::Availability;
use self::context::{Context, Inbox};
pub use self::error::Error;
use self::ffi::{Header, Native, Queue, Topic, Wake};
use self::waiting::{ADMIN_TIMEOUT, Held, Release, Waiting};
use super::{Settled, Taken};
use crate::catalog_facts::CatalogAnswer;
use crate::change::{Change, Operation, RelationIndex, Ticket};
use crate::encode::{Destination, Encoder, Prepared};
use crate::limits::{RECORD_OVERHEAD_BYTES, RECORDS_IN_FLIGHT_MAX, RECORDS_PER_CHANGE_MAX};
use crate::lsn::Lsn;
use crate::relations::Relation;

/// What the sink is to do, as far as it is not librdkafka's own configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of queued records at most, each with its overhead.
    pub memory_bytes_max: usize,
    /// Make topics that are missing, in this way; none to leave that to the broker.
    pub create_topics: Option<TopicTemplate>,
    /// How long the brokers may be unreachable; none for ever.
    pub broker_for: Option<Duration>,
}

/// How a missing topic is made.
#[derive(Clone, Debug)]
pub struct TopicTemplate {
    /// How many partitions; -1 for the broker's default.
    pub partitions: i32,
    /// How many replicas; -1 for the broker's default.
    pub replication_factor: i32,
    /// Its configuration.
    pub properties: Vec<(String, String)>,
}

/// The sink. Fields are dropped in order: handles and queues before the producer they belong to, the eventfd last.
pub struct KafkaSink {
    topics: Vec<Option<(Topic, String)>>,
    message_topic: Option<(Topic, String)>,
    admin: Admin,
    main_queue: Queue,
    producer: BaseProducer<Context>,
    wake: Wake,
    inbox: Inbox,
    encoder: Encoder,
    settings: Settings,
    availability: Availability,
    waiting: Waiting,
    /// Tickets settled without a delivery: truncations that were skipped.
    skipped: VecDeque<Ticket>,
    records_in_flight: usize,
    bytes_in_flight: usize,
    client: Native,
}

impl KafkaSink {
    /// Starts the producer; nothing is sent yet. A first probe of the cluster is under way afterwards.
    ///
    /// # Errors
    /// [`Error::Producer`] for a property that librdkafka refuses, [`Error::Os`].
    pub fn new(
        properties: &[(String, String)],
        brokers: &str,
        settings: Settings,
        encoder: Encoder,
        now: Instant,
    ) -> Result<Self, Error> {
        let records_max = (RECORDS_IN_FLIGHT_MAX + RECORDS_PER_CHANGE_MAX) as usize;
        let (context, inbox) = Context::new(records_max);
        let producer = producer::create(brokers, properties, context)?;
        let gone = || Error::Producer { reason: "librdkafka gave no handle".to_owned() };
        let client = Native::new(producer.client().native_ptr()).ok_or_else(gone)?;
        let wake = Wake::new()?;
        let main_queue = Queue::main(client).ok_or_else(gone)?;
        main_queue.wake_by(&wake);
        let admin = Admin::new(client, &wake, ADMIN_TIMEOUT).ok_or_else(gone)?;
        admin.describe_cluster();
        Ok(KafkaSink {
            topics: Vec::new(),
            message_topic: None,
            admin,
            main_queue,
            producer,
            wake,
            inbox,
            encoder,
            waiting: Waiting::new(settings.create_topics.clone(), now),
            settings,
            availability: Availability::new(now),
            skipped: VecDeque::new(),
            records_in_flight: 0,
            bytes_in_flight: 0,
            client,
        })
    }

    /// Learns how to encode a relation and where its records go.
    ///
    /// # Errors
    /// What the encoder returns, and [`Error::Topic`].
    pub fn prepare(
        &mut self,
        index: RelationIndex,
        relation: &Relation,
        answer: &CatalogAnswer,
    ) -> Result<Prepared, super::Error> {
        let prepared = self.encoder.prepare(index, relation, answer)?;
        let place = index.0 as usize;
        if self.topics.len() <= place {
            self.topics.resize_with(place + 1, || None);
        }
        if self.topics[place].as_ref().is_none_or(|(_, name)| *name != prepared.topic) {
            self.topics[place] = Some((self.open_topic(&prepared.topic)?, prepared.topic.clone()));
        }
        Ok(prepared)
    }

    /// Whether another change can be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty()
            && self.bytes_in_flight < self.settings.memory_bytes_max
            && self.records_in_flight < RECORDS_IN_FLIGHT_MAX as usize
    }

    /// Encodes a change and queues its records. Call it only while [`KafkaSink::has_room`].
    ///
    /// # Errors
    /// What the encoder returns, and records that librdkafka refuses at once.
    pub fn take(&mut self, change: &Change<'_>, ticket: Ticket) -> Result<Taken, super::Error> {
        let truncation = matches!(change.operation, Operation::Truncate);
        if change.relation.is_none() && self.message_topic.is_none() {
            let name = self.encoder.message_topic().to_owned();
            self.message_topic = Some((self.open_topic(&name)?, name));
        }
        let records = self.encoder.encode(change)?;
        let mut taken = Taken { records: 0, values: records.values() };
        for record in records.iter() {
            taken.records += 1;
            let topic = match record.destination {
                Destination::Relation(index) => self.topics.get(index.0 as usize).and_then(Option::as_ref),
                Destination::Message => self.message_topic.as_ref(),
            };
            let Some((topic, name)) = topic else { return Err(super::Error::Unprepared) };
            if self.waiting.must_wait(name, truncation) {
                self.waiting.hold(Held {
                    destination: record.destination,
                    topic: name.clone(),
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    header: record.header.map(|(name, value)| (name, value.to_vec())),
                    ticket,
                    lsn: change.position.lsn,
                    truncation,
                });
                continue;
            }
            let header = record.header.map(|(name, value)| Header { name, value });
            topic.produce(record.key, record.value, header, ticket).map_err(|code| Error::Refused {
                code,
                topic: name.clone(),
                has_key: record.key.is_some(),
                lsn: change.position.lsn,
            })?;
            self.records_in_flight += 1;
            self.bytes_in_flight += record_size(record.key, record.value);
        }
        Ok(taken)
    }

    /// The descriptor that becomes readable when [`KafkaSink::serve`] has something to do.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.wake.descriptor()
    }

    /// Takes in all that librdkafka has for us: delivery reports, errors, answers.
    ///
    /// # Errors
    /// [`Error::Authentication`], [`Error::Fatal`], [`Error::Unreachable`], [`Error::CreateTopic`].
    pub fn serve(&mut self, now: Instant) -> Result<(), super::Error> {
        self.wake.reset();
        while self.main_queue.length() > 0 {
            self.producer.poll(Duration::ZERO);
        }
        while let Ok(error) = self.inbox.errors.try_recv() {
            self.heed(&error, now)?;
        }
        while let Some(answer) = self.admin.poll() {
            self.waiting.heed(answer, &mut self.availability, now)?;
        }
        self.availability.tick(self.records_in_flight > 0, now);
        self.release(now)?;
        if self.availability.outage().is_some() {
            self.waiting.probe(&self.admin, now);
        }
        if let (Some((since, reason)), Some(limit)) = (self.availability.outage(), self.settings.broker_for) {
            let outage = now.saturating_duration_since(since);
            if outage >= limit {
                return Err(Error::Unreachable { seconds: outage.as_secs(), reason: reason.to_owned() }.into());
            }
        }
        Ok(())
    }

    /// The next record that is settled, if any.
    pub fn settled(&mut self, now: Instant) -> Option<Settled> {
        if let Some(ticket) = self.skipped.pop_front() {
            return Some(Settled::Delivered(ticket));
        }
        let report = self.inbox.reports.try_recv().ok()?;
        self.records_in_flight = self.records_in_flight.saturating_sub(1);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(report.size + RECORD_OVERHEAD_BYTES);
        let Some(failure) = report.failure else {
            self.availability.answered(now);
            return Some(Settled::Delivered(report.ticket));
        };
        Some(Settled::Refused(report.ticket, failure))
    }

    /// The error that a refusal ends with; `lsn` is that of its transaction's commit.
    #[must_use]
    pub fn refusal(&self, failure: context::Failure, lsn: Lsn) -> Error {
        match ffi::fatal_error(self.client) {
            Some((code, reason)) => Error::Fatal { code, reason },
            None => Error::Refused { code: failure.code, topic: failure.topic, has_key: failure.has_key, lsn },
        }
    }

    /// Since when no broker answers, if so, and why.
    #[must_use]
    pub fn outage(&self) -> Option<(Instant, &str)> {
        self.availability.outage()
    }

    /// Whether a broker ever answered.
    #[must_use]
    pub fn ever_reached(&self) -> bool {
        self.availability.ever_reached()
    }

    /// Whether nothing is queued, held or under way.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.records_in_flight == 0
            && self.waiting.is_empty()
            && self.skipped.is_empty()
            && self.inbox.reports.is_empty()
    }

    /// When [`KafkaSink::serve`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let broker_for = match (self.availability.outage(), self.settings.broker_for) {
            (Some((since, _)), Some(limit)) => Some(since + limit),
            _ => None,
        };
        let probe = self.waiting.deadline(self.availability.outage().is_some());
        let patience = self.availability.deadline(self.records_in_flight > 0);
        [broker_for, probe, patience].into_iter().flatten().min()
    }

    fn open_topic(&self, name: &str) -> Result<Topic, Error> {
        Topic::new(self.client, name).map_err(|code| Error::Topic { topic: name.to_owned(), code })
    }

    fn heed(&mut self, error: &context::ClientError, now: Instant) -> Result<(), Error> {
        match error.code {
            Code::Fatal => {
                let (code, reason) =
                    ffi::fatal_error(self.client).unwrap_or_else(|| (error.code, error.reason.clone()));
                Err(Error::Fatal { code, reason })
            }
            // A cluster that has taken us once may refuse us for a while when it restarts.
            Code::Authentication | Code::SaslAuthenticationFailed if !self.availability.ever_reached() => {
                Err(Error::Authentication { reason: error.reason.clone() })
            }
            Code::AllBrokersDown => {
                let under_way = self.records_in_flight > 0;
                if self.availability.all_down(&error.reason, under_way, now) {
                    self.waiting.probe(&self.admin, now);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sends what has waited, as far as enough is known of its topics and there is room: one TRUNCATE may name more
    /// tables than a change has records.
    fn release(&mut self, now: Instant) -> Result<(), Error> {
        while self.records_in_flight < RECORDS_IN_FLIGHT_MAX as usize
            && let Some(release) = self.waiting.release(&self.admin, now)?
        {
            let held = match release {
                Release::Send(held) => held,
                Release::Skip(ticket) => {
                    self.skipped.push_back(ticket);
                    continue;
                }
            };
            let topic = match held.destination {
                Destination::Relation(index) => self.topics.get(index.0 as usize).and_then(Option::as_ref),
                Destination::Message => self.message_topic.as_ref(),
            };
            let Some((topic, _)) = topic else { continue };
            let (key, value) = (held.key.as_deref(), held.value.as_deref());
            let header = held.header.as_ref().map(|(name, value)| Header { name, value });
            topic.produce(key, value, header, held.ticket).map_err(|code| Error::Refused {
                code,
                topic: held.topic.clone(),
                has_key: key.is_some(),
                lsn: held.lsn,
            })?;
            self.records_in_flight += 1;
            self.bytes_in_flight += record_size(key, value);
        }
        Ok(())
    }
}

/// What a record counts for in `[memory] max`.
fn record_size(key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES
}
