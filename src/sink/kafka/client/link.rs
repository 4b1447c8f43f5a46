//! One producer of librdkafka with everything that belongs to it: its queues, the topic handles, and the wake-up of the
//! loop. A sink that restarts creates a new link.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};

use crate::by_relation::ByRelation;
use crate::change::RelationIndex;
use crate::limits::RECORD_OVERHEAD_BYTES;
use crate::record::Destination;
use crate::sink::kafka::client::admin::Admin;
use crate::sink::kafka::client::context::{Context, Inbox};
use crate::sink::kafka::client::ffi::{Native, Queue, Topic, Wake};
use crate::sink::kafka::client::producer::{self, Transactional};
use crate::sink::kafka::client::transaction_calls::CallError;
use crate::sink::kafka::client::transaction_thread::{Call, Done, TransactionThread};
use crate::sink::kafka::error::Error;
use crate::sink::kafka::flight::{FLIGHT_MAX, OWN};
use crate::sink::kafka::topics::ADMIN_TIMEOUT;

/// The addresses of the brokers, and librdkafka's properties.
#[derive(Clone)]
pub struct Addresses {
    /// The bootstrap servers.
    pub brokers: String,
    /// Properties from the user, including secrets.
    pub properties: Vec<(String, String)>,
}

/// The producer. Fields are dropped in order: handles and queues before our share of their producer, the eventfd last.
/// The thread of a transactional producer has the other share. It destroys the producer after the call that is in
/// progress.
pub struct Link {
    topics: ByRelation<Topic>,
    message_topic: Option<Topic>,
    checkpoint_topic: Option<Topic>,
    dead_letter_topic: Option<Topic>,
    admin: Admin,
    main_queue: Queue,
    producer: Arc<BaseProducer<Context>>,
    transactions: Option<TransactionThread>,
    wake: Wake,
    inbox: Inbox,
    client: Native,
    addresses: Addresses,
}

impl Link {
    /// Starts the producer; sends nothing yet.
    ///
    /// # Errors
    /// [`Error::Producer`] if librdkafka rejects a property; [`Error::Os`].
    pub fn new(addresses: Addresses, transactional: Option<&Transactional>) -> Result<Self, Error> {
        let (context, inbox) = Context::new(FLIGHT_MAX);
        let producer = producer::create(&addresses.brokers, &addresses.properties, transactional, context)?;
        let gone = || Error::Producer { reason: "librdkafka returned no handle".to_owned() };
        let client = Native::new(producer.client().native_ptr()).ok_or_else(gone)?;
        let wake = Wake::new()?;
        let main_queue = Queue::main(client).ok_or_else(gone)?;
        main_queue.wake_by(&wake);
        let admin = Admin::new(client, &wake, ADMIN_TIMEOUT).ok_or_else(gone)?;
        let producer = Arc::new(producer);
        let transactions = match transactional {
            Some(_) => Some(TransactionThread::start(Arc::clone(&producer), wake.try_clone()?)?),
            None => None,
        };
        Ok(Link {
            topics: ByRelation::default(),
            message_topic: None,
            checkpoint_topic: None,
            dead_letter_topic: None,
            admin,
            main_queue,
            producer,
            transactions,
            wake,
            inbox,
            client,
            addresses,
        })
    }

    /// The native client, for calls that borrow it.
    pub(in crate::sink::kafka) fn client(&self) -> Native {
        self.client
    }

    /// Makes a transactional call; its end wakes the loop.
    pub(in crate::sink::kafka) fn call(&mut self, call: Call) {
        self.thread().call(call);
    }

    /// Whether a transactional call is in progress, or its result was not taken yet.
    pub(in crate::sink::kafka) fn is_calling(&self) -> bool {
        self.transactions.as_ref().is_some_and(TransactionThread::is_calling)
    }

    /// Takes the result of the transactional call, if there is one.
    pub(in crate::sink::kafka) fn call_result(&mut self) -> Option<Result<Done, CallError>> {
        self.thread().result()
    }

    /// Asks [`Call::Look`] or [`Call::List`]. The answer wakes the loop. A producer without transactions has the thread only
    /// for such a question.
    ///
    /// # Errors
    /// [`Error::Os`] if the thread cannot be created.
    pub(in crate::sink::kafka) fn ask(&mut self, question: Call) -> Result<(), Error> {
        if self.transactions.is_none() {
            self.transactions = Some(TransactionThread::start(Arc::clone(&self.producer), self.wake.try_clone()?)?);
        }
        self.call(question);
        Ok(())
    }

    /// Takes the answer to [`Link::ask`] of a producer without transactions, if it has arrived.
    pub(in crate::sink::kafka) fn answer(&mut self) -> Option<Result<Done, CallError>> {
        let answer = self.call_result();
        if answer.is_some() {
            self.transactions = None;
        }
        answer
    }

    fn thread(&mut self) -> &mut TransactionThread {
        self.transactions.as_mut().expect("transactional calls need a transactional producer")
    }

    /// The client for admin requests.
    pub(in crate::sink::kafka) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The reports and errors from the callbacks.
    pub(in crate::sink::kafka) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The addresses of the brokers.
    pub(in crate::sink::kafka) fn addresses(&self) -> (&str, &[(String, String)]) {
        (&self.addresses.brokers, &self.addresses.properties)
    }

    /// A copy for a new link.
    pub(in crate::sink::kafka) fn copy_addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// The descriptor that becomes readable when there is something to serve.
    pub(in crate::sink::kafka) fn descriptor(&self) -> RawFd {
        self.wake.descriptor()
    }

    /// Runs all pending callbacks of librdkafka.
    pub(in crate::sink::kafka) fn serve(&mut self) {
        self.wake.reset();
        while self.main_queue.length() > 0 {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Discards records that are queued but not sent yet; they are reported as purged.
    pub(in crate::sink::kafka) fn purge(&self) {
        self.producer.purge(PurgeConfig::default().queue().non_blocking());
    }

    /// Opens the topic of a relation, unless it is open.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(in crate::sink::kafka) fn open_relation(&mut self, index: RelationIndex, name: &str) -> Result<(), Error> {
        if self.topics.get(index).is_none_or(|topic| topic.name() != name) {
            self.topics.insert(index, open(self.client, name)?);
        }
        Ok(())
    }

    /// Closes the topic of a relation that has nothing in flight.
    pub(in crate::sink::kafka) fn close_relation(&mut self, index: RelationIndex) {
        self.topics.remove(index);
    }

    /// Opens the topic of messages, unless it is open.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(in crate::sink::kafka) fn open_messages(&mut self, name: &str) -> Result<(), Error> {
        if self.message_topic.is_none() {
            self.message_topic = Some(open(self.client, name)?);
        }
        Ok(())
    }

    /// The topic of dead letters, which is opened on first use.
    ///
    /// # Errors
    /// [`Error::Topic`].
    pub(in crate::sink::kafka) fn open_dead_letters(&mut self, name: &str) -> Result<&Topic, Error> {
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
    pub(in crate::sink::kafka) fn open_checkpoints(&mut self, name: &str) -> Result<(), Error> {
        if self.checkpoint_topic.is_none() {
            self.checkpoint_topic = Some(open(self.client, name)?);
        }
        Ok(())
    }

    /// The topic of a destination; `None` until it is opened.
    pub(in crate::sink::kafka) fn topic(&self, destination: Destination) -> Option<&Topic> {
        match destination {
            Destination::Relation(index) => self.topics.get(index),
            Destination::Message => self.message_topic.as_ref(),
        }
    }

    /// Queues a record of walcat itself for the checkpoint topic; returns its size.
    ///
    /// # Errors
    /// librdkafka's code if it rejects the record.
    pub(in crate::sink::kafka) fn produce_own(&self, key: &[u8], value: &[u8]) -> Result<usize, Code> {
        let topic = self.checkpoint_topic.as_ref().ok_or(Code::UnknownTopic)?;
        topic.produce_first(key, value, OWN)?;
        Ok(record_size(Some(key), Some(value)))
    }
}

fn open(client: Native, name: &str) -> Result<Topic, Error> {
    Topic::new(client, name).map_err(|code| Error::Topic { topic: name.to_owned(), code })
}

/// The size of a record as counted in `[memory] max`.
#[must_use]
pub fn record_size(key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::BaseRecord;

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(500);
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn the_loop_does_not_wait_for_slow_brokers_that_are_asked_what_was_written_to_the_topics() {
        let cluster = MockCluster::new(1).unwrap();
        let addresses = Addresses { brokers: cluster.bootstrap_servers(), properties: Vec::new() };
        let topics = ["t", "u"].map(str::to_owned);
        topics.iter().for_each(|topic| cluster.create_topic(topic, 1, 1).unwrap());
        let transactional = Transactional { id: "i".to_owned(), timeout: LIMIT };
        let ask = || {
            let mut link = Link::new(addresses.clone(), Some(&transactional)).unwrap();
            let asked_at = Instant::now();
            link.call(Call::Init { topics: topics.to_vec() });
            assert!(asked_at.elapsed() < ROUND_TRIP, "the loop waited for {:?}", asked_at.elapsed());
            assert_eq!(link.call_result(), None);
            while asked_at.elapsed() < LIMIT {
                link.serve();
                if let Some(result) = link.call_result() {
                    return result.unwrap();
                }
            }
            panic!("no answer within {LIMIT:?}");
        };
        cluster.broker_round_trip_time(1, ROUND_TRIP).unwrap();
        assert_eq!(ask(), Done::Begun { is_any_written: false });

        let plain = Link::new(addresses.clone(), None).unwrap();
        let record = BaseRecord::<(), str, usize>::with_opaque_to("u", 7).payload("x");
        plain.producer.send(record).map_err(|(error, _)| error).unwrap();
        plain.producer.flush(LIMIT).unwrap();
        assert_eq!(ask(), Done::Begun { is_any_written: true });
    }
}
