//! Failures between walcat and Kafka, sorted by who has to act.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::checks::compact_command;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;

/// The record that the others wait for during an outage.
#[derive(Debug)]
pub struct Stuck {
    /// Where it comes from.
    pub origin: String,
    /// Its topic.
    pub topic: String,
    /// The commit LSN of its transaction.
    pub lsn: Lsn,
    /// Bytes of key and value.
    pub bytes: usize,
    /// It may be larger than any request that the brokers take, and they do not tell their limit.
    pub may_be_too_large: bool,
}

/// The words for that record.
fn describe(stuck: Option<&Stuck>) -> String {
    let Some(Stuck { origin, topic, lsn, bytes, .. }) = stuck else { return String::new() };
    format!("; waiting: a record of {origin} for topic {topic} from the transaction at {lsn}, {bytes} bytes")
}

/// A failure that ends the stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// librdkafka rejects a property or cannot start.
    #[error("cannot set up the Kafka producer: {reason}")]
    Producer { reason: String },
    /// The operating system returned an error.
    #[error("cannot set up the Kafka producer: {0}")]
    Os(#[from] std::io::Error),
    /// A record was permanently rejected. Nothing after it is confirmed.
    #[error("Kafka rejected a record of {origin} for topic {topic} from the transaction at {lsn}: {code}")]
    Refused { code: Code, origin: String, topic: String, has_key: bool, lsn: Lsn },
    /// The brokers reject the client, not a single record.
    #[error("Kafka rejected the connection: {reason}")]
    Authentication { reason: String },
    /// The idempotent producer cannot continue; a new one can.
    #[error("the Kafka producer failed and must be restarted: {reason} ({code})")]
    Fatal { code: Code, reason: String },
    /// librdkafka reported a record as delivered without an offset from a broker.
    #[error("a record for topic {topic} from the transaction at {lsn} may be missing: no broker returned its offset")]
    Unproven { topic: String, lsn: Lsn },
    /// The Kafka transaction was aborted: the stream must restart from the checkpoint.
    #[error("the Kafka transaction failed: {reason}")]
    Aborted { reason: String },
    /// A topic that the producer used no longer exists: the records that the producer took for it must be read again.
    #[error("topic {topic} no longer exists: {code}")]
    TopicGone { topic: String, code: Code },
    /// Records were rejected because of another record of their batch. That record is now known; the others must be
    /// read again without it.
    #[error("records for topic {topic} were rejected together with another record of their batch: {code}")]
    BatchRefused { topic: String, code: Code },
    /// One Kafka transaction has more rejected records than can be left out.
    #[error("too many records were rejected in one Kafka transaction: {reason}")]
    TooManyRefused { reason: String },
    /// Another producer has the transactional id, or Kafka has aborted the transaction.
    #[error("the Kafka producer is fenced: {reason}")]
    Fenced { reason: String },
    /// Another instance has taken over.
    #[error("another instance of walcat has taken over: {by}")]
    FencedBy { by: String },
    /// Kafka rejects the configuration of the transactions.
    #[error("Kafka rejected the transactional producer: {reason} ({code})")]
    Transactional { code: Code, reason: String },
    /// One PostgreSQL transaction takes longer than a Kafka transaction may.
    #[error("a PostgreSQL transaction took {open_ms} ms to send, but Kafka ends a transaction after {timeout_ms} ms")]
    TransactionTooLong { open_ms: u128, timeout_ms: u128 },
    /// The checkpoint topic contains records that are not walcat's.
    #[error("cannot read the checkpoint topic {topic}: {reason}")]
    Checkpoint { topic: String, reason: String },
    /// The checkpoint topic was created with the wrong configuration.
    #[error("checkpoint topic {topic} has cleanup.policy={policy}: Kafka would eventually delete the stored position")]
    CheckpointPolicy { topic: String, policy: String },
    /// A permission for the checkpoint topic is missing.
    #[error("cannot use [state] topic: {reason} ({code})")]
    CheckpointDenied { code: Code, reason: String },
    /// Kafka rejected a record of the checkpoint topic.
    #[error("cannot store the position in the checkpoint topic {topic}: {code}")]
    CheckpointRefused { topic: String, code: Code },
    /// The checkpoint topic is gone while the stream runs.
    #[error("the checkpoint topic {topic} with the stored position no longer exists: {reason}")]
    CheckpointGone { topic: String, reason: String },
    /// No broker has ever answered.
    #[error("cannot reach Kafka ({brokers}): {reason}")]
    Unreached { brokers: String, reason: String },
    /// A signal stopped walcat during the first contact.
    #[error("stopped by a signal while waiting for Kafka")]
    Interrupted,
    /// No broker was available for longer than `[retry] broker_for`.
    #[error("Kafka ({brokers}) has accepted no records for {seconds} s: {reason}{}", describe(stuck.as_deref()))]
    Unreachable { brokers: String, seconds: u64, reason: String, stuck: Option<Box<Stuck>> },
    /// A topic could not be created.
    #[error("cannot create the topic {topic}: {reason} ({code})")]
    CreateTopic { topic: String, code: Code, reason: String },
    /// A topic cannot be read.
    #[error("cannot read the topic {topic}: {reason}")]
    Read { topic: String, code: Code, reason: String },
    /// librdkafka rejects a topic name.
    #[error("cannot open the topic {topic}: {code}")]
    Topic { topic: String, code: Code },
}

/// What the same process can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Kafka discarded records: a new producer delivers them again.
    Discarded,
    /// Nothing: only the operator or a new process can.
    Final,
}

impl Error {
    /// Whether the run goes on after this failure. Each variant is named, so that a new one is a decision.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Error::Aborted { .. } | Error::TopicGone { .. } | Error::BatchRefused { .. } => Class::Discarded,
            // The sink looks for the successor first, and then fails with `FencedBy` or `Aborted`.
            Error::Fenced { .. } | Error::FencedBy { .. } => Class::Final,
            // `broker_for` is over, or the first contact has failed.
            Error::Unreachable { .. } | Error::Unreached { .. } | Error::Interrupted => Class::Final,
            Error::Fatal { .. } | Error::Unproven { .. } => Class::Final,
            // The same records would fail again.
            Error::Refused { .. } | Error::TooManyRefused { .. } | Error::TransactionTooLong { .. } => Class::Final,
            // The operator has to change the configuration.
            Error::Producer { .. }
            | Error::Os(_)
            | Error::Authentication { .. }
            | Error::Transactional { .. }
            | Error::Checkpoint { .. }
            | Error::CheckpointPolicy { .. }
            | Error::CheckpointDenied { .. }
            | Error::CheckpointRefused { .. }
            | Error::CheckpointGone { .. }
            | Error::CreateTopic { .. }
            | Error::Read { .. }
            | Error::Topic { .. } => Class::Final,
        }
    }

    /// The exit code for this failure.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Producer { .. }
            | Error::Topic { .. }
            | Error::TransactionTooLong { .. }
            | Error::Checkpoint { .. }
            | Error::CheckpointGone { .. }
            | Error::CheckpointPolicy { .. } => ExitCode::Setup,
            Error::CheckpointDenied { .. } => ExitCode::Permission,
            Error::FencedBy { .. } => ExitCode::Fenced,
            Error::TooManyRefused { .. } => ExitCode::Data,
            Error::Transactional { code: Code::InvalidTransactionTimeout, .. } => ExitCode::Setup,
            Error::Transactional { .. } => ExitCode::Permission,
            Error::Os(_) => ExitCode::Os,
            Error::Authentication { .. } => ExitCode::Permission,
            Error::Interrupted => ExitCode::TryAgain,
            Error::Fatal { .. }
            | Error::Unproven { .. }
            | Error::Unreachable { .. }
            | Error::Unreached { .. }
            | Error::Aborted { .. }
            | Error::Fenced { .. } => ExitCode::Unavailable,
            Error::Read { code: Code::TopicAuthorizationFailed, .. } => ExitCode::Permission,
            Error::Read { .. } => ExitCode::Unavailable,
            Error::CreateTopic { code, .. }
            | Error::Refused { code, .. }
            | Error::CheckpointRefused { code, .. }
            | Error::TopicGone { code, .. }
            | Error::BatchRefused { code, .. } => exit_code_of(*code),
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Producer { .. } => "correct the property in [kafka] or -X; see librdkafka's CONFIGURATION.md",
            Error::Refused { code: Code::MessageSizeTooLarge, .. } => {
                "raise max.message.bytes of the topic, message.max.bytes of the broker or message.max.bytes in \
                 [kafka]; a record of 100 MiB or more also needs a larger socket.request.max.bytes of the brokers; \
                 if the limit of the topic is below batch.size, lower that with -X batch.size=BYTES. Then start \
                 walcat again: the slot still holds the change. Or set on_error to leave out records that are too \
                 large: those of batch.size or more"
            }
            Error::Refused { code: Code::InvalidRecord, has_key: false, .. } => {
                "a topic with cleanup.policy=compact rejects records without a key: give the table a primary key or \
                 REPLICA IDENTITY USING INDEX, or set the topic's cleanup.policy to delete; then start walcat again"
            }
            Error::TopicGone { .. } => "start walcat again: only the records that were in the topic are lost",
            Error::Refused { code, .. } if is_missing_topic(*code) => {
                "create the topic, or set [topics] create = true, or set auto.create.topics.enable on the broker"
            }
            Error::Refused { code: Code::TopicAuthorizationFailed, .. } => {
                "grant the ACL Write on the topic, and Create if walcat must create it; then start walcat again: the \
                 slot still holds the change"
            }
            Error::Refused { .. } => "fix the cause, then start walcat again: the slot still holds the change",
            Error::Authentication { .. } => "check security.protocol, sasl.* and ssl.* in [kafka] or -X",
            Error::Fatal { .. } | Error::Aborted { .. } | Error::Fenced { .. } | Error::BatchRefused { .. } => {
                "start walcat again: nothing is lost"
            }
            Error::Unproven { .. } => {
                "start walcat again: the slot still holds the change; leave max.in.flight.requests.per.connection at 1"
            }
            Error::FencedBy { .. } => {
                "run one instance per slot; if you start this one again, it fences the other instance"
            }
            Error::Transactional { code: Code::InvalidTransactionTimeout, .. } => {
                "lower transaction.timeout.ms in [kafka], or raise transaction.max.timeout.ms of the brokers"
            }
            Error::Transactional { .. } => {
                "grant the ACLs for exactly-once delivery: Write on the transactional id, Write and Read on the \
                 checkpoint topic (and Create, unless it exists), and Write on the topics of the changes (and \
                 Create, unless they exist); see walcat(1), exactly-once delivery"
            }
            Error::CheckpointDenied { .. } => {
                "grant the ACLs Write and Read on the checkpoint topic (and Create, unless it exists); see [state] topic \
                 in walcat.toml(5)"
            }
            Error::CheckpointRefused { .. } => {
                "fix the cause, then start walcat again: the slot still holds the changes"
            }
            Error::CheckpointGone { .. } => {
                "find out what happened to the topic; then start walcat with --accept-gap: it starts at the slot's \
                 position and delivers everything after it, possibly a second time"
            }
            Error::TransactionTooLong { .. } => {
                "raise transaction.timeout.ms in [kafka] (and transaction.max.timeout.ms of the brokers), then start \
                 walcat again: nothing is lost"
            }
            Error::Checkpoint { .. } => "let only walcat write to this topic; see walcat(1), exactly-once delivery",
            Error::CheckpointPolicy { topic, .. } => return Some(compact_command(topic)),
            Error::Unreachable { stuck: Some(stuck), .. } if stuck.may_be_too_large => {
                "the record may be too large for any request: a broker drops the connection when it gets it. Raise \
                 socket.request.max.bytes of the brokers, or compress with -X compression.type=zstd; to let walcat \
                 recognize such a record and apply on_error, grant the ACL DescribeConfigs on the cluster"
            }
            Error::Unreachable { .. } => {
                "check brokers, security.protocol and ssl.* in [kafka], and the network; to wait longer, raise \
                 [retry] broker_for; nothing is lost"
            }
            Error::Unreached { .. } => {
                "check brokers, security.protocol and ssl.* in [kafka], and the network (a TLS port closes plaintext \
                 connections); to keep trying at the start, use --wait"
            }
            Error::CreateTopic { .. } => {
                "create the topic yourself, or correct partitions, replication_factor or properties in [topics]"
            }
            Error::Read { code: Code::TopicAuthorizationFailed, .. } => "grant the ACL Read on the topic",
            Error::Read { .. } => "check the brokers and the topic, then run walcat verify again",
            Error::TooManyRefused { .. } => "raise max.message.bytes of the topic: the slot still holds the changes",
            Error::Interrupted => "start walcat again: nothing is lost",
            Error::Os(_) | Error::Topic { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// Whether a record was rejected because its topic, or its partition of the topic, does not exist.
#[must_use]
pub fn is_missing_topic(code: Code) -> bool {
    matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
}

/// The exit code for a permanent rejection.
fn exit_code_of(code: Code) -> ExitCode {
    match code {
        code if is_missing_topic(code) => ExitCode::Setup,
        Code::InvalidTopic | Code::InvalidReplicationFactor | Code::InvalidPartitions | Code::InvalidConfig => {
            ExitCode::Setup
        }
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::Authentication => {
            ExitCode::Permission
        }
        Code::Fatal | Code::MessageTimedOut | Code::AllBrokersDown | Code::OperationTimedOut => ExitCode::Unavailable,
        _ => ExitCode::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_exit_code() {
        for (code, expected) in [
            (Code::MessageSizeTooLarge, ExitCode::Data),
            (Code::InvalidRecord, ExitCode::Data),
            (Code::UnknownTopicOrPartition, ExitCode::Setup),
            (Code::UnknownTopic, ExitCode::Setup),
            (Code::UnknownPartition, ExitCode::Setup),
            (Code::TopicAuthorizationFailed, ExitCode::Permission),
            (Code::Fatal, ExitCode::Unavailable),
        ] {
            let error = Error::Refused {
                code,
                origin: "table s.t".to_owned(),
                topic: "t".to_owned(),
                has_key: false,
                lsn: Lsn(1),
            };
            assert_eq!(error.exit_code(), expected, "{code:?}");
            assert!(error.hint().is_some());
        }
    }
}
