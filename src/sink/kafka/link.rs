//! One producer of librdkafka's with all that belongs to it: its queues, the topics' handles, the way to wake the loop.
//! A sink that has to begin anew gets a new one.

use std::os::fd::RawFd;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, Producer as _};

use super::admin::Admin;
use super::context::{Context, Inbox};
use super::error::Error;
use super::ffi::{Native, Queue, Topic, Wake};
use super::producer::{self, Transactional};
use super::waiting::ADMIN_TIMEOUT;
use crate::change::{RelationIndex, Ticket};
use crate::encode::Destination;
use crate::limits::{RECORD_OVERHEAD_BYTES, RECORDS_IN_FLIGHT_MAX, RECORDS_PER_CHANGE_MAX};

/// The ticket of walcat's own records, which belong to no entry.
pub const OWN: Ticket = Ticket(u64::MAX);

/// Where the brokers are, and librdkafka's properties.
#[derive(Clone)]
pub struct Addresses {
    /// The bootstrap servers.
    pub brokers: String,
    /// Properties as the user gave them, secrets among them.
    pub properties: Vec<(String, String)>,
}

/// The producer. Fields are dropped in order: handles and queues before the producer they belong to, the eventfd last.
pub struct Link {
    topics: Vec<Option<(Topic, String)>>,
    message_topic: Option<(Topic, String)>,
    checkpoint_topic: Option<Topic>,
    dead_letter_topic: Option<Topic>,
    admin: Admin,
    main_queue: Queue,
    producer: BaseProducer<Context>,
    wake: Wake,
    inbox: Inbox,
    client: Native,
    addresses: Addresses,
}

impl Link {
    /// Starts the producer; nothing is sent yet but a first probe of the cluster.
    ///
    /// # Errors
    /// [`Error::Producer`] for a property that librdkafka refuses, [`Error::Os`].
    pub fn new(addresses: Addresses, transactional: Option<&Transactional>) -> Result<Self, Error> {
        let records_max = (RECORDS_IN_FLIGHT_MAX + RECORDS_PER_CHANGE_MAX) as usize;
        let (context, inbox) = Context::new(records_max);
        let producer = producer::create(&addresses.brokers, &addresses.properties, transactional, context)?;
        let gone = || Error::Producer { reason: "librdkafka gave no handle".to_owned() };
        let client = Native::new(producer.client().native_ptr()).ok_or_else(gone)?;
        let wake = Wake::new()?;
        let main_queue = Queue::main(client).ok_or_else(gone)?;
        main_queue.wake_by(&wake);
        let admin = Admin::new(client, &wake, ADMIN_TIMEOUT).ok_or_else(gone)?;
        admin.probe();
        Ok(Link {
            topics: Vec::new(),
            message_topic: None,
            checkpoint_topic: None,
            dead_letter_topic: None,
            admin,
            main_queue,
            producer,
            wake,
            inbox,
            client,
            addresses,
        })
    }

    /// The native client, for calls that borrow it.
    pub(super) fn client(&self) -> Native {
        self.client
    }

    /// Questions to the cluster.
    pub(super) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// What the callbacks have left.
    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Where the brokers are.
    pub(super) fn addresses(&self) -> (&str, &[(String, String)]) {
        (&self.addresses.brokers, &self.addresses.properties)
    }

    /// The same for a new link.
    pub(super) fn copy_addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// The descriptor that becomes readable when there is something to serve.
    pub(super) fn descriptor(&self) -> RawFd {
        self.wake.descriptor()
    }

    /// Lets librdkafka call back with all that it has.
    pub(super) fn serve(&mut self) {
        self.wake.reset();
        while self.main_queue.length() > 0 {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Opens the topic of a relation, unless it is open.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(super) fn open_relation(&mut self, index: RelationIndex, name: &str) -> Result<(), Error> {
        let place = index.0 as usize;
        if self.topics.len() <= place {
            self.topics.resize_with(place + 1, || None);
        }
        if self.topics[place].as_ref().is_none_or(|(_, known)| known != name) {
            self.topics[place] = Some((open(self.client, name)?, name.to_owned()));
        }
        Ok(())
    }

    /// Opens the topic of messages, unless it is open.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(super) fn open_messages(&mut self, name: &str) -> Result<(), Error> {
        if self.message_topic.is_none() {
            self.message_topic = Some((open(self.client, name)?, name.to_owned()));
        }
        Ok(())
    }

    /// The topic of dead letters, opened at the first one.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(super) fn open_dead_letters(&mut self, name: &str) -> Result<&Topic, Error> {
        let topic = match self.dead_letter_topic.take() {
            Some(topic) => topic,
            None => open(self.client, name)?,
        };
        Ok(self.dead_letter_topic.insert(topic))
    }

    /// Opens the checkpoint topic, unless it is open.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(super) fn open_checkpoints(&mut self, name: &str) -> Result<(), Error> {
        if self.checkpoint_topic.is_none() {
            self.checkpoint_topic = Some(open(self.client, name)?);
        }
        Ok(())
    }

    /// The topic of a destination and its name; none before it was opened.
    pub(super) fn topic(&self, destination: Destination) -> Option<&(Topic, String)> {
        match destination {
            Destination::Relation(index) => self.topics.get(index.0 as usize).and_then(Option::as_ref),
            Destination::Message => self.message_topic.as_ref(),
        }
    }

    /// Queues a record of walcat's own for the checkpoint topic; returns its size.
    ///
    /// # Errors
    /// [`Error::Aborted`] when librdkafka does not take it.
    pub(super) fn produce_own(&self, key: &[u8], value: &[u8]) -> Result<usize, Error> {
        let refused = |reason: String| Error::Aborted { reason: format!("the checkpoint is refused: {reason}") };
        let topic = self.checkpoint_topic.as_ref().ok_or_else(|| refused("there is no topic".to_owned()))?;
        topic.produce_first(key, value, OWN).map_err(|code| refused(code.to_string()))?;
        Ok(record_size(Some(key), Some(value)))
    }
}

fn open(client: Native, name: &str) -> Result<Topic, Error> {
    Topic::new(client, name).map_err(|code| Error::Topic { topic: name.to_owned(), code })
}

/// What a record counts for in `[memory] max`.
#[must_use]
pub fn record_size(key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES
}

/// The records that are queued or under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flight {
    /// How many.
    pub records: usize,
    /// What they count for in `[memory] max`.
    pub bytes: usize,
}

impl Flight {
    /// A record was queued.
    pub fn add(&mut self, size: usize) {
        self.records += 1;
        self.bytes += size;
    }

    /// A record's delivery report came.
    pub fn remove(&mut self, size: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}
