//! Questions to the cluster that do not block the loop: is it there, make this topic, how is that topic kept.
//!
//! Source: librdkafka's `rdkafka.h`, "Admin API". One request at a time; the answer comes to a queue of its own.

use std::ffi::{CString, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use rd::rd_kafka_admin_op_t as Operation;
use rdkafka::bindings as rd;
use rdkafka::error::{IsError, RDKafkaErrorCode};

use super::ffi::{Native, Queue, Wake, text};

/// A refusal or a failure of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminError {
    /// The broker's or librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// Their words.
    pub message: String,
}

impl AdminError {
    /// Whether a broker answered, though with an error: librdkafka's own codes say that none did, but for a request that
    /// the broker is known not to take.
    #[must_use]
    pub fn is_an_answer(&self) -> bool {
        self.code as i32 >= 0 || self.code == RDKafkaErrorCode::UnsupportedFeature
    }
}

/// What the cluster answered.
#[derive(Debug)]
pub enum Answer {
    /// The topic was made, or not.
    TopicCreated(Result<(), AdminError>),
    /// The topic's `cleanup.policy`, such as `delete`, `compact` or `compact,delete`.
    CleanupPolicy(Result<String, AdminError>),
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 for the broker's default.
    pub partitions: i32,
    /// How many replicas; -1 for the broker's default.
    pub replication_factor: i32,
    /// Its configuration.
    pub properties: Vec<(String, String)>,
}

/// Asks the cluster and gives its answers.
#[derive(Debug)]
pub struct Admin {
    queue: Queue,
    client: Native,
    timeout: Duration,
}

impl Admin {
    /// `timeout` bounds each request.
    #[must_use]
    pub fn new(client: Native, wake: &Wake, timeout: Duration) -> Option<Self> {
        let queue = Queue::own(client)?;
        queue.wake_by(wake);
        Some(Admin { queue, client, timeout })
    }

    /// Asks whether any broker answers, by the configuration of a topic that need not be there. Not by DescribeCluster:
    /// librdkafka 2.12 ends the process when its answer names no broker, as that of one that has just been frozen does.
    pub fn probe(&self) {
        self.describe_topic("__walcat.probe");
    }

    /// Asks for a topic to be made.
    ///
    /// # Errors
    /// When librdkafka refuses the name or a number.
    pub fn create_topic(&self, topic: &NewTopic) -> Result<(), AdminError> {
        let refused = |message: &str| AdminError {
            code: RDKafkaErrorCode::InvalidArgument,
            message: format!("topic {}: {message}", topic.name),
        };
        let c_text = |text: &str| CString::new(text).map_err(|_| refused("a NUL byte in its name or properties"));
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
                return Err(refused("a property is refused"));
            }
        }
        let options = self.options(Operation::RD_KAFKA_ADMIN_OP_CREATETOPICS);
        let mut topics = [new.0.as_ptr()];
        // SAFETY: client, options, queue and the array of one topic are live; the request copies the topic.
        unsafe {
            rd::rd_kafka_CreateTopics(
                self.client.raw(),
                topics.as_mut_ptr(),
                topics.len(),
                options.0.as_ptr(),
                self.queue.raw(),
            );
        }
        Ok(())
    }

    /// Asks for a topic's `cleanup.policy`.
    pub fn describe_topic(&self, name: &str) {
        let Ok(name) = CString::new(name) else { return };
        let kind = rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        // SAFETY: the name is copied.
        let Some(resource) = NonNull::new(unsafe { rd::rd_kafka_ConfigResource_new(kind, name.as_ptr()) }) else {
            return;
        };
        let options = self.options(Operation::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
        let mut resources = [resource.as_ptr()];
        // SAFETY: client, options, queue and the array of one resource are live; the request copies the resource.
        unsafe {
            rd::rd_kafka_DescribeConfigs(
                self.client.raw(),
                resources.as_mut_ptr(),
                resources.len(),
                options.0.as_ptr(),
                self.queue.raw(),
            );
        }
        // SAFETY: the one owner destroys it, once.
        unsafe { rd::rd_kafka_ConfigResource_destroy(resource.as_ptr()) };
    }

    /// The next answer, if one is there.
    pub fn poll(&self) -> Option<Answer> {
        // SAFETY: the queue is live; a time-out of 0 does not wait; the event is destroyed by its owner below.
        let event = Event(NonNull::new(unsafe { rd::rd_kafka_queue_poll(self.queue.raw(), 0) })?);
        // SAFETY: the event is live.
        let kind = unsafe { rd::rd_kafka_event_type(event.0.as_ptr()) };
        match kind {
            rd::RD_KAFKA_EVENT_CREATETOPICS_RESULT => {
                Some(Answer::TopicCreated(event.result().and_then(|()| event.topic_result())))
            }
            rd::RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT => {
                Some(Answer::CleanupPolicy(event.result().and_then(|()| event.cleanup_policy())))
            }
            _ => None,
        }
    }

    fn options(&self, operation: Operation) -> Options {
        // SAFETY: the client is live. The call returns null only for an operation it does not know, which these are not.
        let options = unsafe { rd::rd_kafka_AdminOptions_new(self.client.raw(), operation) };
        let options = Options(NonNull::new(options).expect("librdkafka knows its own admin operations"));
        let timeout_ms = c_int::try_from(self.timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the options are live; a refusal leaves the default, which is good too.
        unsafe {
            rd::rd_kafka_AdminOptions_set_request_timeout(options.0.as_ptr(), timeout_ms, std::ptr::null_mut(), 0);
        }
        options
    }
}

struct Options(NonNull<rd::rd_kafka_AdminOptions_t>);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the one owner destroys it, once; a request under way has its own copy.
        unsafe { rd::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) };
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

    fn topic_result(&self) -> Result<(), AdminError> {
        let mut count = 0;
        // SAFETY: the event is live and of this kind, as its type said.
        let result = unsafe { rd::rd_kafka_event_CreateTopics_result(self.0.as_ptr()) };
        // SAFETY: the result belongs to the event, and `count` is valid for the call.
        let topics = unsafe { rd::rd_kafka_CreateTopics_result_topics(result, &raw mut count) };
        if topics.is_null() || count == 0 {
            return Ok(());
        }
        // SAFETY: the array has `count` elements, at least one.
        let topic = unsafe { *topics };
        // SAFETY: the element belongs to the event.
        let code = unsafe { rd::rd_kafka_topic_result_error(topic) };
        // SAFETY: the same; the text is copied at once.
        let message = text(unsafe { rd::rd_kafka_topic_result_error_string(topic) });
        if code.is_error() { Err(AdminError { code: code.into(), message }) } else { Ok(()) }
    }

    fn cleanup_policy(&self) -> Result<String, AdminError> {
        let mut count = 0;
        // SAFETY: the event is live and of this kind, as its type said.
        let result = unsafe { rd::rd_kafka_event_DescribeConfigs_result(self.0.as_ptr()) };
        // SAFETY: the result belongs to the event, and `count` is valid for the call.
        let resources = unsafe { rd::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count) };
        if resources.is_null() || count == 0 {
            return Ok(String::new());
        }
        // SAFETY: the array has `count` elements, at least one.
        let resource = unsafe { *resources };
        // SAFETY: the element belongs to the event.
        let code = unsafe { rd::rd_kafka_ConfigResource_error(resource) };
        if code.is_error() {
            // SAFETY: the same; the text is copied at once.
            let message = text(unsafe { rd::rd_kafka_ConfigResource_error_string(resource) });
            return Err(AdminError { code: code.into(), message });
        }
        let mut entry_count = 0;
        // SAFETY: the element belongs to the event, and `entry_count` is valid for the call.
        let entries = unsafe { rd::rd_kafka_ConfigResource_configs(resource, &raw mut entry_count) };
        for index in 0..entry_count {
            // SAFETY: the array has `entry_count` elements.
            let entry = unsafe { *entries.add(index) };
            // SAFETY: the element belongs to the event; the text is copied at once.
            let name = text(unsafe { rd::rd_kafka_ConfigEntry_name(entry) });
            if name == "cleanup.policy" {
                // SAFETY: the same.
                return Ok(text(unsafe { rd::rd_kafka_ConfigEntry_value(entry) }));
            }
        }
        Ok(String::new())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the one owner destroys it, once, and nothing borrowed from it is left.
        unsafe { rd::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}
