//! The callbacks of librdkafka while its main queue is served: delivery reports, errors and log lines.
//!
//! The callbacks run inside our own `poll`, on the loop's thread (or on the thread where a discarded producer ends). A
//! full channel would therefore deadlock: the channels have room for everything in flight, and the callbacks never
//! block on them. A report of success allocates nothing.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::log;
use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::sink::kafka::flight::RecordNumber;

/// The maximum number of errors kept until the loop reads them; more are dropped because they repeat.
const ERRORS_MAX: usize = 64;

/// The result for one record.
#[derive(Debug)]
pub struct Report {
    /// The number under which the record was queued.
    pub number: RecordNumber,
    /// The size of key and value, as counted when the record was queued.
    pub size: usize,
    /// The record's offset in its partition; negative if it is unknown.
    pub offset: i64,
    /// The reason, if the delivery permanently failed.
    pub failure: Option<Failure>,
}

/// A record that Kafka rejected.
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
    /// Whether another attempt would be rejected too, because of the record itself or its topic.
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

/// The code for a record that librdkafka reports as delivered without an offset. librdkafka assumes delivery when a
/// later request for the partition has succeeded ("implicitly acked"). A broker without state of the producer accepts
/// any first sequence number, so after a change of the leader the record may be missing.
pub const UNPROVEN: RDKafkaErrorCode = RDKafkaErrorCode::Inconsistent;

/// An error that belongs to no record.
#[derive(Debug)]
pub struct ClientError {
    /// librdkafka's code.
    pub code: RDKafkaErrorCode,
    /// librdkafka's message.
    pub reason: String,
}

/// The receiving ends of the channels.
#[derive(Debug)]
pub struct Inbox {
    /// One report per record.
    pub reports: Receiver<Report>,
    /// Errors.
    pub errors: Receiver<ClientError>,
}

/// The sending ends of the channels, filled by the callbacks.
#[derive(Debug)]
pub struct Context {
    reports: Sender<Report>,
    errors: Sender<ClientError>,
    /// Whether librdkafka's lines are logged at debug level only.
    is_quiet: bool,
}

impl Context {
    /// Creates the callbacks and the inbox that they fill. `records_max` is the maximum number of records in flight.
    #[must_use]
    pub fn new(records_max: usize) -> (Self, Inbox) {
        let (report_sender, reports) = bounded(records_max);
        let (error_sender, errors) = bounded(ERRORS_MAX);
        (Context { reports: report_sender, errors: error_sender, is_quiet: false }, Inbox { reports, errors })
    }

    /// For a client that repeats what another one has just tried: its lines are the same again.
    #[must_use]
    pub fn quiet(self) -> Self {
        Context { is_quiet: true, ..self }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // A full channel already holds the same error many times.
        let _ = self.errors.try_send(ClientError { code, reason: reason.to_owned() });
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let shown = if self.is_quiet { RDKafkaLogLevel::Info } else { level };
        log_line(shown, facility, message);
        // A connection that is closed while it is being established is reported only in the log: a TLS port answers
        // plaintext in this way.
        if facility == "FAIL" {
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason).to_owned();
            let _ = self.errors.try_send(ClientError { code: RDKafkaErrorCode::BrokerTransportFailure, reason });
        }
    }
}

/// librdkafka recovers from its own errors; the sink decides what they mean.
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
        // The channel has room for everything in flight. A discarded producer has no receiver.
        let sent =
            self.reports.try_send(Report { number: RecordNumber(opaque), size, offset: message.offset(), failure });
        let is_full = matches!(sent, Err(TrySendError::Full(_)));
        assert!(!is_full, "librdkafka sent more delivery reports than there are records in flight");
    }
}
