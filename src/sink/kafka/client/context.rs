//! What librdkafka tells us while its main queue is served: delivery reports, errors, log lines.
//!
//! The callbacks run inside our own `poll`, on the loop's thread (or where a producer that was given up ends), so a full
//! channel would wait for ourselves for ever: the channels are as long as what can be in flight, and are only tried. A report of success allocates nothing.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::log;
use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::sink::kafka::flight::RecordNumber;

/// Errors kept until the loop looks at them; more are dropped, since they repeat.
const ERRORS_MAX: usize = 64;

/// What became of one record.
#[derive(Debug)]
pub struct Report {
    /// The number that it was queued with.
    pub number: RecordNumber,
    /// Bytes of key and value, as they were counted when it was queued.
    pub size: usize,
    /// Its place in its partition; negative where it is not known.
    pub offset: i64,
    /// Why it failed for good, if it did.
    pub failure: Option<Failure>,
}

/// A record that Kafka refused.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The broker's or librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// The topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The size of its value.
    pub value_bytes: usize,
}

impl Failure {
    /// Whether another attempt would be refused too: for what the record is, or for its topic.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(
            self.code,
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::PolicyViolation
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
        )
    }
}

/// The code of a record that librdkafka reports as delivered without an offset: it concludes so when a later request for the
/// partition has succeeded ("implicitly acked"). A broker that knows nothing of the producer yet takes any first
/// sequence, so after a change of the leader the record may not be there at all.
pub const UNPROVEN: RDKafkaErrorCode = RDKafkaErrorCode::Inconsistent;

/// An error that belongs to no record.
#[derive(Debug)]
pub struct ClientError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// Its words.
    pub reason: String,
}

/// The ends of the channels that the sink reads.
#[derive(Debug)]
pub struct Inbox {
    /// One report per record.
    pub reports: Receiver<Report>,
    /// Errors.
    pub errors: Receiver<ClientError>,
}

/// The callbacks.
#[derive(Debug)]
pub struct Context {
    reports: Sender<Report>,
    errors: Sender<ClientError>,
}

impl Context {
    /// Callbacks and the inbox they fill. `records_max` is what can be in flight.
    #[must_use]
    pub fn new(records_max: usize) -> (Self, Inbox) {
        let (report_sender, reports) = bounded(records_max);
        let (error_sender, errors) = bounded(ERRORS_MAX);
        (Context { reports: report_sender, errors: error_sender }, Inbox { reports, errors })
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // A full channel holds the same error many times already.
        let _ = self.errors.try_send(ClientError { code, reason: reason.to_owned() });
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
        // A connection that is closed while it is made is an error to nobody but the log: that is how a port that speaks TLS
        // answers plain text.
        if facility == "FAIL" {
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason).to_owned();
            let _ = self.errors.try_send(ClientError { code: RDKafkaErrorCode::BrokerTransportFailure, reason });
        }
    }
}

/// librdkafka's own errors are states that it goes on from: the sink says what they mean.
pub(in crate::sink::kafka) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    let level = match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => log::Level::Warn,
        // A coordinator that is still loading is asked again every few milliseconds.
        _ if facility == "GETPID" => log::Level::Debug,
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => log::Level::Info,
        RDKafkaLogLevel::Info => log::Level::Debug,
        RDKafkaLogLevel::Debug => log::Level::Trace,
    };
    log!(target: "librdkafka", level, "{facility}: {message}");
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (message, code) = match result {
            Ok(message) if message.offset() < 0 => (message, Some(UNPROVEN)),
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))),
        };
        let failure = code.map(|code| Failure {
            code,
            topic: message.topic().to_owned(),
            key: message.key().map(<[u8]>::to_vec),
            value_bytes: message.payload_len(),
        });
        let size = message.key_len() + message.payload_len();
        // The channel is as long as what can be in flight, so there is room; a producer that was given up has no readers.
        let sent =
            self.reports.try_send(Report { number: RecordNumber(opaque), size, offset: message.offset(), failure });
        let is_full = matches!(sent, Err(TrySendError::Full(_)));
        assert!(!is_full, "more delivery reports than records in flight");
    }
}
