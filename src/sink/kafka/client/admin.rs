//! Requests to the cluster that do not block the loop: check that it answers, create topics, and describe
//! configurations.
//!
//! Source: librdkafka's `rdkafka.h`, "Admin API". The answers arrive on a separate queue, each with the number of its
//! request, because the answer to an abandoned request can arrive after the next request was sent.

#![allow(unsafe_code, reason = "calls librdkafka")]

use std::cell::Cell;
use std::ffi::{CString, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use rd::rd_kafka_admin_op_t as Operation;
use rdkafka::bindings as rd;
use rdkafka::error::{IsError, RDKafkaErrorCode};

use crate::sink::kafka::client::ffi::{Native, Queue, Wake, text};

/// A rejected or failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminError {
    /// The broker's or librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// The message of the broker or librdkafka.
    pub message: String,
}

impl AdminError {
    /// Whether a broker answered, even with an error. librdkafka's own codes mean that no broker did, except the code
    /// for a request that the broker is known not to support.
    #[must_use]
    pub fn is_an_answer(&self) -> bool {
        self.code as i32 >= 0 || self.code == RDKafkaErrorCode::UnsupportedFeature
    }
}

/// Identifies a request, so that its answer is not mistaken for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub(in crate::sink::kafka) usize);

/// What the cluster answered.
#[derive(Debug)]
pub struct Answer {
    /// The answered request.
    pub to: RequestId,
    /// The content of the answer.
    pub content: Content,
}

/// The cluster's answer for each topic or broker, by name, or the error of the whole request.
pub type Each<T> = Result<Vec<(String, Result<T, AdminError>)>, AdminError>;

/// The content of an answer.
#[derive(Debug)]
pub enum Content {
    /// The result of creating these topics.
    TopicsCreated(Each<()>),
    /// The configuration of these topics, or of this broker.
    Configurations(Each<Configuration>),
}

impl Content {
    /// Whether a broker answered, even with an error.
    #[must_use]
    pub fn is_an_answer(&self) -> bool {
        fn check<T>(each: &Each<T>) -> bool {
            let is_heard = |error: &AdminError| error.is_an_answer();
            match each {
                Ok(each) => each.iter().any(|(_, result)| result.as_ref().err().is_none_or(is_heard)),
                Err(error) => is_heard(error),
            }
        }
        match self {
            Content::TopicsCreated(each) => check(each),
            Content::Configurations(each) => check(each),
        }
    }
}

/// The settings that walcat needs, as far as a topic or a broker has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// `cleanup.policy` of a topic, such as `delete`, `compact` or `compact,delete`.
    pub cleanup_policy: String,
    /// `max.message.bytes` of a topic: the limit for a batch as it is sent.
    pub message_bytes_max: Option<u64>,
    /// `auto.create.topics.enable` of a broker.
    pub creates_topics: Option<bool>,
    /// `socket.request.max.bytes` of a broker.
    pub request_bytes_max: Option<u64>,
    /// `transaction.max.timeout.ms` of a broker.
    pub transaction_timeout_ms_max: Option<u64>,
}

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// The number of partitions; -1 for the broker's default.
    pub partitions: i32,
    /// The number of replicas; -1 for the broker's default.
    pub replication_factor: i32,
    /// Its configuration.
    pub properties: Vec<(String, String)>,
}

/// Sends requests to the cluster and returns its answers.
#[derive(Debug)]
pub struct Admin {
    queue: Queue,
    client: Native,
    timeout: Duration,
    next: Cell<usize>,
}

impl Admin {
    /// `timeout` applies to each request.
    #[must_use]
    pub fn new(client: Native, wake: &Wake, timeout: Duration) -> Option<Self> {
        let queue = Queue::own(client)?;
        queue.wake_by(wake);
        Some(Admin { queue, client, timeout, next: Cell::new(0) })
    }

    /// Checks whether any broker answers, by describing a topic that need not exist. It does not use DescribeCluster:
    /// librdkafka 2.12 aborts the process if the answer names no broker, which happens with a broker that has just been
    /// frozen.
    pub fn probe(&self) -> RequestId {
        self.describe_topics(&["__walcat.probe"])
    }

    /// A broker of the cluster, or `None` while none is known.
    #[must_use]
    pub fn broker_id(&self) -> Option<i32> {
        // SAFETY: the client lives as Native states; a time-out of 0 does not wait.
        let id = unsafe { rd::rd_kafka_controllerid(self.client.raw(), 0) };
        (id >= 0).then_some(id)
    }

    /// Requests the creation of at least one topic.
    ///
    /// # Errors
    /// If librdkafka rejects a name or a number.
    pub fn create_topics(&self, topics: &[NewTopic]) -> Result<RequestId, AdminError> {
        self.ask_for_topics(topics, false)
    }

    /// Requests a check of whether topics could be created; creates none.
    ///
    /// # Errors
    /// Those of [`Admin::create_topics`].
    pub fn validate_topics(&self, topics: &[NewTopic]) -> Result<RequestId, AdminError> {
        self.ask_for_topics(topics, true)
    }

    fn ask_for_topics(&self, topics: &[NewTopic], validate_only: bool) -> Result<RequestId, AdminError> {
        let new = topics.iter().map(Self::new_topic).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = new.iter().map(|topic| topic.0.as_ptr()).collect();
        let (options, id) = self.options(Operation::RD_KAFKA_ADMIN_OP_CREATETOPICS);
        // SAFETY: the options are live, and of an operation that has this one; a null error buffer of size 0 is allowed.
        let code = unsafe {
            let flag = c_int::from(validate_only);
            rd::rd_kafka_AdminOptions_set_validate_only(options.0.as_ptr(), flag, std::ptr::null_mut(), 0)
        };
        if code.is_error() {
            let message = "librdkafka rejected the option validate_only".to_owned();
            return Err(AdminError { code: code.into(), message });
        }
        // SAFETY: client, options, queue and the array of topics are live; the request copies the topics.
        unsafe {
            rd::rd_kafka_CreateTopics(
                self.client.raw(),
                pointers.as_mut_ptr(),
                pointers.len(),
                options.0.as_ptr(),
                self.queue.raw(),
            );
        }
        Ok(id)
    }

    fn new_topic(topic: &NewTopic) -> Result<NewTopicHandle, AdminError> {
        let refused = |message: &str| AdminError {
            code: RDKafkaErrorCode::InvalidArgument,
            message: format!("topic {}: {message}", topic.name),
        };
        let c_text = |text: &str| CString::new(text).map_err(|_| refused("the name or a property contains a NUL byte"));
        let name = c_text(&topic.name)?;
        // SAFETY: the name is copied; a null error buffer of size 0 is allowed ("errstr ... may be NULL").
        let new = unsafe {
            rd::rd_kafka_NewTopic_new(
                name.as_ptr(),
                topic.partitions,
                topic.replication_factor,
                std::ptr::null_mut(),
                0,
            )
        };
        let new = NewTopicHandle(NonNull::new(new).ok_or_else(|| refused("the name or a number is out of bounds"))?);
        for (key, value) in &topic.properties {
            let (key, value) = (c_text(key)?, c_text(value)?);
            // SAFETY: the handle is live and both texts are copied.
            let code = unsafe { rd::rd_kafka_NewTopic_set_config(new.0.as_ptr(), key.as_ptr(), value.as_ptr()) };
            if code.is_error() {
                return Err(refused("librdkafka rejected a property"));
            }
        }
        Ok(new)
    }

    /// Requests the configuration of at least one topic.
    pub fn describe_topics(&self, names: &[&str]) -> RequestId {
        self.describe(rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC, names)
    }

    /// Requests the configuration of a broker from that broker.
    pub fn describe_broker(&self, id: i32) -> RequestId {
        self.describe(rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_BROKER, &[&id.to_string()])
    }

    fn describe(&self, kind: rd::rd_kafka_ResourceType_t, names: &[&str]) -> RequestId {
        let resource = |name: &&str| {
            let name = CString::new(*name).ok()?;
            // SAFETY: the name is copied.
            NonNull::new(unsafe { rd::rd_kafka_ConfigResource_new(kind, name.as_ptr()) }).map(Resource)
        };
        let resources: Vec<_> = names.iter().filter_map(resource).collect();
        let mut pointers: Vec<_> = resources.iter().map(|resource| resource.0.as_ptr()).collect();
        let (options, id) = self.options(Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
        // SAFETY: client, options, queue and the array of resources are live; the request copies the resources.
        unsafe {
            rd::rd_kafka_DescribeConfigs(
                self.client.raw(),
                pointers.as_mut_ptr(),
                pointers.len(),
                options.0.as_ptr(),
                self.queue.raw(),
            );
        }
        id
    }

    /// The next answer, if any.
    pub fn poll(&self) -> Option<Answer> {
        // SAFETY: the queue is live; a time-out of 0 does not wait; the event is destroyed by its owner below.
        let event = Event(NonNull::new(unsafe { rd::rd_kafka_queue_poll(self.queue.raw(), 0) })?);
        // SAFETY: the event is live; the opaque is a number, never dereferenced.
        let to = RequestId(unsafe { rd::rd_kafka_event_opaque(event.0.as_ptr()) }.addr());
        // SAFETY: the event is live.
        let kind = unsafe { rd::rd_kafka_event_type(event.0.as_ptr()) };
        let content = match kind {
            rd::RD_KAFKA_EVENT_CREATETOPICS_RESULT => {
                Content::TopicsCreated(event.result().map(|()| event.topic_results()))
            }
            rd::RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT => {
                Content::Configurations(event.result().map(|()| event.configurations()))
            }
            _ => return None,
        };
        Some(Answer { to, content })
    }

    fn options(&self, operation: Operation) -> (Options, RequestId) {
        // SAFETY: the client is live. The call returns null only for an unknown operation, and both operations are
        // known.
        let options = unsafe { rd::rd_kafka_AdminOptions_new(self.client.raw(), operation) };
        let options = Options(NonNull::new(options).expect("librdkafka knows its own admin operations"));
        let timeout_ms = c_int::try_from(self.timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the options are live; if the call fails, the default timeout is acceptable.
        unsafe {
            rd::rd_kafka_AdminOptions_set_request_timeout(options.0.as_ptr(), timeout_ms, std::ptr::null_mut(), 0);
        }
        let id = self.next.get();
        self.next.set(id + 1);
        // SAFETY: the options are live; the opaque is a number, never dereferenced.
        unsafe { rd::rd_kafka_AdminOptions_set_opaque(options.0.as_ptr(), std::ptr::without_provenance_mut(id)) };
        (options, RequestId(id))
    }
}

struct Options(NonNull<rd::rd_kafka_AdminOptions_t>);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the one owner destroys it, once; a request under way has its own copy.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) };
    }
}

struct Resource(NonNull<rd::rd_kafka_ConfigResource_t>);

impl Drop for Resource {
    fn drop(&mut self) {
        // SAFETY: the one owner destroys it, once; a request has its own copy.
        unsafe { rd::rd_kafka_ConfigResource_destroy(self.0.as_ptr()) };
    }
}

struct NewTopicHandle(NonNull<rd::rd_kafka_NewTopic_t>);

impl Drop for NewTopicHandle {
    fn drop(&mut self) {
        // SAFETY: the one owner destroys it, once.
        unsafe { rd::rd_kafka_NewTopic_destroy(self.0.as_ptr()) };
    }
}

struct Event(NonNull<rd::rd_kafka_event_t>);

impl Event {
    fn result(&self) -> Result<(), AdminError> {
        // SAFETY: the event is live.
        let code = unsafe { rd::rd_kafka_event_error(self.0.as_ptr()) };
        // SAFETY: the same; the text is copied at once.
        let message = text(unsafe { rd::rd_kafka_event_error_string(self.0.as_ptr()) });
        if code.is_error() { Err(AdminError { code: code.into(), message }) } else { Ok(()) }
    }

    fn topic_results(&self) -> Vec<(String, Result<(), AdminError>)> {
        let mut count = 0;
        // SAFETY: the event is live and of this kind, as its type said.
        let result = unsafe { rd::rd_kafka_event_CreateTopics_result(self.0.as_ptr()) };
        // SAFETY: the result belongs to the event, and `count` is valid for the call.
        let topics = unsafe { rd::rd_kafka_CreateTopics_result_topics(result, &raw mut count) };
        let one = |index| {
            // SAFETY: the array has `count` elements.
            let place = unsafe { topics.add(index) };
            // SAFETY: the element is initialized, and a pointer.
            let topic = unsafe { *place };
            // SAFETY: the element belongs to the event; the text is copied at once.
            let name = text(unsafe { rd::rd_kafka_topic_result_name(topic) });
            // SAFETY: the same.
            let code = unsafe { rd::rd_kafka_topic_result_error(topic) };
            // SAFETY: the same.
            let message = text(unsafe { rd::rd_kafka_topic_result_error_string(topic) });
            (name, if code.is_error() { Err(AdminError { code: code.into(), message }) } else { Ok(()) })
        };
        if topics.is_null() { Vec::new() } else { (0..count).map(one).collect() }
    }

    fn configurations(&self) -> Vec<(String, Result<Configuration, AdminError>)> {
        let mut count = 0;
        // SAFETY: the event is live and of this kind, as its type said.
        let result = unsafe { rd::rd_kafka_event_DescribeConfigs_result(self.0.as_ptr()) };
        // SAFETY: the result belongs to the event, and `count` is valid for the call.
        let resources = unsafe { rd::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count) };
        let one = |index| {
            // SAFETY: the array has `count` elements.
            let place = unsafe { resources.add(index) };
            // SAFETY: the element is initialized, and a pointer.
            let resource = unsafe { *place };
            // SAFETY: the element belongs to the event; the text is copied at once.
            let name = text(unsafe { rd::rd_kafka_ConfigResource_name(resource) });
            // SAFETY: the element belongs to the event.
            let code = unsafe { rd::rd_kafka_ConfigResource_error(resource) };
            if code.is_error() {
                // SAFETY: the same; the text is copied at once.
                let message = text(unsafe { rd::rd_kafka_ConfigResource_error_string(resource) });
                return (name, Err(AdminError { code: code.into(), message }));
            }
            (name, Ok(configuration(resource)))
        };
        if resources.is_null() { Vec::new() } else { (0..count).map(one).collect() }
    }
}

/// Reads a resource of a live event.
fn configuration(resource: *const rd::rd_kafka_ConfigResource_t) -> Configuration {
    let mut found = Configuration::default();
    let mut count = 0;
    // SAFETY: the resource belongs to a live event, and `count` is valid for the call.
    let entries = unsafe { rd::rd_kafka_ConfigResource_configs(resource, &raw mut count) };
    for index in 0..count {
        // SAFETY: the array has `count` elements.
        let place = unsafe { entries.add(index) };
        // SAFETY: the element is initialized, and a pointer.
        let entry = unsafe { *place };
        // SAFETY: the element belongs to the event; the text is copied at once.
        let name = text(unsafe { rd::rd_kafka_ConfigEntry_name(entry) });
        // SAFETY: the same.
        let value = || text(unsafe { rd::rd_kafka_ConfigEntry_value(entry) });
        match name.as_str() {
            "cleanup.policy" => found.cleanup_policy = value(),
            "auto.create.topics.enable" => found.creates_topics = value().parse().ok(),
            "max.message.bytes" => found.message_bytes_max = value().parse().ok(),
            "socket.request.max.bytes" => found.request_bytes_max = value().parse().ok(),
            "transaction.max.timeout.ms" => found.transaction_timeout_ms_max = value().parse().ok(),
            _ => {}
        }
    }
    found
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the one owner destroys it, once, and nothing borrowed from it is left.
        unsafe { rd::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}
