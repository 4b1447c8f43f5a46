//! The first contact with the cluster, and blocking requests to it: for a start, when there is nothing else to do yet,
//! and for `walcat check`.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _};

use crate::sink::kafka::client::admin::{Admin, AdminError, Configuration, Content, Each, NewTopic, RequestId};
use crate::sink::kafka::client::context::{Context, Inbox};
use crate::sink::kafka::client::ffi::{Native, Wake};
use crate::sink::kafka::client::producer;
use crate::sink::kafka::client::topic_ends::is_any_written;
use crate::sink::kafka::error::Error;

/// The name of a topic that need not exist.
const PROBE: &str = "__walcat.probe";

/// The timeout for one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for the cause after all brokers are reported down.
const CAUSE_PATIENCE: Duration = Duration::from_millis(300);

/// The time between two checks for the answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A client for requests. Fields are dropped in order: the queue before its producer, the eventfd last.
pub struct Inquiry {
    admin: Admin,
    producer: BaseProducer<Context>,
    inbox: Inbox,
    /// The last error of a single broker.
    cause: Option<String>,
    /// All brokers are down: since when, and librdkafka's message.
    down: Option<(Instant, AdminError)>,
    _wake: Wake,
}

impl Inquiry {
    /// Creates a client with the same properties as the sink's. If it `is_repeated`, librdkafka's lines are debug messages.
    ///
    /// # Errors
    /// [`Error::Producer`], [`Error::Os`].
    pub fn new(properties: &[(String, String)], brokers: &str, is_repeated: bool) -> Result<Self, Error> {
        let (context, inbox) = Context::new(1);
        let context = if is_repeated { context.quiet() } else { context };
        // A request must not create the topic that it asks about.
        let own = [("allow.auto.create.topics".to_owned(), "false".to_owned())];
        let producer = producer::create(brokers, &[properties, own.as_slice()].concat(), None, context)?;
        let gone = || Error::Producer { reason: "librdkafka returned no handle".to_owned() };
        let client = Native::new(producer.client().native_ptr()).ok_or_else(gone)?;
        let wake = Wake::new()?;
        let admin = Admin::new(client, &wake, PATIENCE).ok_or_else(gone)?;
        Ok(Inquiry { admin, producer, inbox, cause: None, down: None, _wake: wake })
    }

    /// Sends a request to check that the cluster answers; [`Inquiry::handle`] returns the result.
    pub fn ask(&self) {
        // Any first answer shows that the cluster is there.
        let _ = self.admin.probe();
    }

    /// The result of [`Inquiry::ask`], without waiting; `None` while there is none.
    pub fn handle(&mut self) -> Option<Result<(), AdminError>> {
        /// One call serves one event.
        const EVENTS_MAX: usize = 16;
        for _ in 0..EVENTS_MAX {
            self.producer.poll(Duration::ZERO);
        }
        while let Ok(error) = self.inbox.errors.try_recv() {
            match error.code {
                Code::AllBrokersDown => {
                    let error = AdminError { code: error.code, message: error.reason };
                    self.down.get_or_insert((Instant::now(), error));
                }
                Code::Authentication | Code::SaslAuthenticationFailed => {
                    return Some(Err(AdminError { code: error.code, message: error.reason }));
                }
                // The error of one broker arrives before the report that all brokers are down.
                _ => self.cause = Some(error.reason),
            }
        }
        // The cause may arrive a little later.
        if let Some((_, error)) =
            self.down.take_if(|(since, _)| self.cause.is_some() || since.elapsed() >= CAUSE_PATIENCE)
        {
            let message = self.cause.take().unwrap_or(error.message);
            return Some(Err(AdminError { code: error.code, message }));
        }
        match self.admin.poll()?.content {
            Content::Configurations(Err(error)) if !error.is_an_answer() => {
                let message = self.cause.take().unwrap_or(error.message);
                Some(Err(AdminError { code: error.code, message }))
            }
            Content::Configurations(_) => Some(Ok(())),
            Content::TopicsCreated(_) => None,
        }
    }

    /// The error for a cluster that has not answered.
    #[must_use]
    pub fn silence(&mut self, waited: Duration) -> AdminError {
        let silence = format!("no answer within {} s", waited.as_secs());
        AdminError { code: Code::OperationTimedOut, message: self.cause.take().unwrap_or(silence) }
    }

    /// Whether the brokers automatically create topics.
    ///
    /// # Errors
    /// Why the cluster did not return its configuration.
    pub fn brokers_create_topics(&self) -> Result<bool, AdminError> {
        self.broker()?.creates_topics.ok_or_else(|| unnamed("auto.create.topics.enable"))
    }

    /// The brokers' limit for `transaction.timeout.ms`.
    ///
    /// # Errors
    /// Why the cluster did not return its configuration.
    pub fn transaction_timeout_ms_max(&self) -> Result<u64, AdminError> {
        self.broker()?.transaction_timeout_ms_max.ok_or_else(|| unnamed("transaction.max.timeout.ms"))
    }

    /// Whether any of the topics exists and ever contained a record.
    ///
    /// # Errors
    /// Why the cluster did not return the list of topics.
    pub fn is_any_written(&self, topics: &[String]) -> Result<bool, AdminError> {
        is_any_written(self.producer.client(), topics)
            .map_err(|error| AdminError { code: error.code, message: error.reason })
    }

    /// The configuration of one of the brokers.
    fn broker(&self) -> Result<Configuration, AdminError> {
        let metadata = self.producer.client().fetch_metadata(Some(PROBE), PATIENCE).map_err(|error| AdminError {
            code: error.rdkafka_error_code().unwrap_or(Code::Unknown),
            message: error.to_string(),
        })?;
        let broker = metadata.brokers().first().ok_or_else(timed_out)?;
        let each = self.configurations(self.admin.describe_broker(broker.id()))??;
        each.into_iter().next().map_or_else(|| Err(timed_out()), |(_, result)| result)
    }

    /// Whether the cluster would create this topic; it is not created.
    ///
    /// # Errors
    /// Why it would not, or why the cluster did not answer.
    pub fn would_create(&self, topic: NewTopic) -> Result<(), AdminError> {
        let request = self.admin.validate_topics(&[topic])?;
        match self.answer(request)? {
            Content::TopicsCreated(each) => each?.into_iter().next().map_or(Ok(()), |(_, result)| result),
            Content::Configurations(_) => Err(timed_out()),
        }
    }

    /// A topic's `cleanup.policy`.
    ///
    /// # Errors
    /// Why the cluster did not answer; `UnknownTopicOrPartition` if the topic does not exist.
    pub fn cleanup_policy(&self, topic: &str) -> Result<String, AdminError> {
        let each = self.configurations(self.admin.describe_topics(&[topic]))??;
        let found = each.into_iter().find(|(name, _)| name == topic).map(|(_, result)| result);
        found.unwrap_or_else(|| Err(timed_out())).map(|configuration| configuration.cleanup_policy)
    }

    fn configurations(&self, request: RequestId) -> Result<Each<Configuration>, AdminError> {
        match self.answer(request)? {
            Content::Configurations(each) => Ok(each),
            Content::TopicsCreated(_) => Err(timed_out()),
        }
    }

    fn answer(&self, request: RequestId) -> Result<Content, AdminError> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
            if let Some(answer) = self.admin.poll()
                && answer.to == request
            {
                return Ok(answer.content);
            }
            // "All brokers down" and a rejected password arrive as client errors, long before the timeout.
            while let Ok(error) = self.inbox.errors.try_recv() {
                if matches!(error.code, Code::AllBrokersDown | Code::Authentication | Code::SaslAuthenticationFailed) {
                    return Err(AdminError { code: error.code, message: error.reason });
                }
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Err(timed_out())
    }
}

fn unnamed(property: &str) -> AdminError {
    AdminError { code: Code::Unknown, message: format!("the broker did not return {property}") }
}

fn timed_out() -> AdminError {
    AdminError { code: Code::OperationTimedOut, message: format!("no answer within {} s", PATIENCE.as_secs()) }
}
