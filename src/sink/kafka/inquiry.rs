//! Questions to the cluster that wait for their answers: for `walcat check`, which has nothing else to do.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::admin::{Admin, AdminError, Configuration, Content, Each, RequestId};
use super::context::{Context, Inbox};
use super::error::Error;
use super::ffi::{Native, Wake};
use super::producer;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time between two looks for the answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A client that asks. Fields are dropped in order: the queue before the producer it belongs to, the eventfd last.
pub struct Inquiry {
    admin: Admin,
    producer: BaseProducer<Context>,
    inbox: Inbox,
    _wake: Wake,
}

impl Inquiry {
    /// A client with the same properties as the sink's.
    ///
    /// # Errors
    /// [`Error::Producer`], [`Error::Os`].
    pub fn new(properties: &[(String, String)], brokers: &str) -> Result<Self, Error> {
        let (context, inbox) = Context::new(1);
        let producer = producer::create(brokers, properties, None, context)?;
        let gone = || Error::Producer { reason: "librdkafka gave no handle".to_owned() };
        let client = Native::new(producer.client().native_ptr()).ok_or_else(gone)?;
        let wake = Wake::new()?;
        let admin = Admin::new(client, &wake, PATIENCE).ok_or_else(gone)?;
        Ok(Inquiry { admin, producer, inbox, _wake: wake })
    }

    /// Whether the cluster answers.
    ///
    /// # Errors
    /// Why not.
    pub fn cluster(&self) -> Result<(), AdminError> {
        match self.answer(self.admin.probe())? {
            Err(error) if !error.is_an_answer() => Err(error),
            _ => Ok(()),
        }
    }

    /// A topic's `cleanup.policy`.
    ///
    /// # Errors
    /// Why the cluster does not tell; `UnknownTopicOrPartition` for a topic that does not exist.
    pub fn cleanup_policy(&self, topic: &str) -> Result<String, AdminError> {
        let each = self.answer(self.admin.describe_topics(&[topic]))??;
        let found = each.into_iter().find(|(name, _)| name == topic).map(|(_, result)| result);
        found.unwrap_or_else(|| Err(timed_out())).map(|configuration| configuration.cleanup_policy)
    }

    fn answer(&self, request: RequestId) -> Result<Each<Configuration>, AdminError> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
            if let Some(answer) = self.admin.poll()
                && answer.to == request
                && let Content::Configurations(each) = answer.content
            {
                return Ok(each);
            }
            // "All brokers down" and a refused password come as errors of the client, long before the time is over.
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

fn timed_out() -> AdminError {
    AdminError { code: Code::OperationTimedOut, message: format!("no answer within {} s", PATIENCE.as_secs()) }
}
