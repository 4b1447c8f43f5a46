//! What can go wrong between walcat and Kafka, sorted by who has to act.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::checks::compact_command;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;

/// A failure that ends the stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// librdkafka refuses a property, or could not start.
    #[error("cannot set up the Kafka producer: {reason}")]
    Producer { reason: String },
    /// The operating system refused a descriptor.
    #[error("cannot set up the Kafka producer: {0}")]
    Os(#[from] std::io::Error),
    /// A record is refused for good. Nothing after it is confirmed.
    #[error("Kafka refuses a record of {origin} for topic {topic} from the transaction at {lsn}: {code}")]
    Refused { code: Code, origin: String, topic: String, has_key: bool, lsn: Lsn },
    /// Brokers refuse us as a whole.
    #[error("Kafka refuses the connection: {reason}")]
    Authentication { reason: String },
    /// The idempotent producer cannot go on; a new one can.
    #[error("the Kafka producer failed and must be started anew: {reason} ({code})")]
    Fatal { code: Code, reason: String },
    /// A record was reported as delivered, and no broker said where.
    #[error("a record for topic {topic} from the transaction at {lsn} may be missing: no broker told its offset")]
    Unproven { topic: String, lsn: Lsn },
    /// The Kafka transaction is given up: the stream is to begin again from the checkpoint.
    #[error("the Kafka transaction failed: {reason}")]
    Aborted { reason: String },
    /// A topic that the producer has known is not there any more: what it took for it is to be read again.
    #[error("the topic {topic} is gone: {code}")]
    TopicGone { topic: String, code: Code },
    /// Records were refused for another one of their batch, which is known now: they are to be read again without it.
    #[error("records for topic {topic} were refused together with another one: {code}")]
    BatchRefused { topic: String, code: Code },
    /// More records of one Kafka transaction are refused than can be passed.
    #[error("too many records are refused in one Kafka transaction; the last: {reason}")]
    Passed { reason: String },
    /// The transactional id belongs to another producer, or Kafka has given up our transaction.
    #[error("the Kafka producer is fenced: {reason}")]
    Fenced { reason: String },
    /// Another instance has taken over.
    #[error("another instance of walcat has taken over: {by}")]
    FencedBy { by: String },
    /// Kafka refuses transactions as they are set up.
    #[error("Kafka refuses the transactional producer: {reason} ({code})")]
    Transactional { code: Code, reason: String },
    /// One PostgreSQL transaction is longer than a Kafka transaction may be.
    #[error("a PostgreSQL transaction took {open_ms} ms to send, and a Kafka transaction ends after {timeout_ms} ms")]
    TransactionTooLong { open_ms: u128, timeout_ms: u128 },
    /// The checkpoint topic holds something else.
    #[error("the checkpoint topic {topic} cannot be read: {reason}")]
    Checkpoint { topic: String, reason: String },
    /// The checkpoint topic was made by somebody else.
    #[error("the checkpoint topic {topic} has cleanup.policy={policy}: Kafka would delete the stored position in time")]
    CheckpointPolicy { topic: String, policy: String },
    /// No broker has ever answered.
    #[error("cannot reach Kafka ({brokers}): {reason}")]
    Unreached { brokers: String, reason: String },
    /// The user asked to stop during the first contact.
    #[error("stopped by a signal while waiting for Kafka")]
    Interrupted,
    /// No broker for longer than `[retry] broker_for`.
    #[error("Kafka ({brokers}) has taken no records for {seconds} s: {reason}")]
    Unreachable { brokers: String, seconds: u64, reason: String },
    /// A topic that walcat was to make could not be made.
    #[error("cannot create the topic {topic}: {reason} ({code})")]
    CreateTopic { topic: String, code: Code, reason: String },
    /// A topic's name that librdkafka refuses.
    #[error("cannot open the topic {topic}: {code}")]
    Topic { topic: String, code: Code },
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Producer { .. }
            | Error::Topic { .. }
            | Error::TransactionTooLong { .. }
            | Error::Checkpoint { .. }
            | Error::CheckpointPolicy { .. } => ExitCode::Setup,
            Error::FencedBy { .. } => ExitCode::Fenced,
            Error::Passed { .. } => ExitCode::Data,
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
            Error::CreateTopic { code, .. }
            | Error::Refused { code, .. }
            | Error::TopicGone { code, .. }
            | Error::BatchRefused { code, .. } => exit_code_of(*code),
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Producer { .. } => "see [kafka] and -X, and librdkafka's list of properties",
            Error::Refused { code: Code::MessageSizeTooLarge, .. } => {
                "raise max.message.bytes of the topic (or message.max.bytes of the broker, or your own in [kafka]; a record of \
                 100 MiB or more needs a larger socket.request.max.bytes of the brokers too); if the topic takes less than batch.size, lower that: -X batch.size=BYTES. Then start walcat again: the slot still \
                 holds the change. Or let on_error pass records that are too large, which are those of batch.size or more"
            }
            Error::Refused { code: Code::InvalidRecord, has_key: false, .. } => {
                "a topic with cleanup.policy=compact takes no record without a key: give the table a primary key or \
                 REPLICA IDENTITY USING INDEX, or set the topic's cleanup.policy to delete; then start walcat again"
            }
            Error::TopicGone { .. } => "start walcat again: nothing is lost but what was in the topic",
            Error::Refused { code, .. } if is_missing_topic(*code) => {
                "create the topic, or let walcat do it: [topics] create = true, or auto.create.topics.enable on the broker"
            }
            Error::Refused { code: Code::TopicAuthorizationFailed, .. } => {
                "grant the ACL Write on the topic, and Create where it is to be made; then start walcat again: the slot still \
                 holds the change"
            }
            Error::Refused { .. } => "mend the cause, then start walcat again: the slot still holds the change",
            Error::Authentication { .. } => "check security.protocol, sasl.* and ssl.* in [kafka] or -X",
            Error::Fatal { .. } | Error::Aborted { .. } | Error::Fenced { .. } | Error::BatchRefused { .. } => {
                "start walcat again: nothing is lost"
            }
            Error::Unproven { .. } => {
                "start walcat again: the slot still holds the change; leave max.in.flight.requests.per.connection at 1"
            }
            Error::FencedBy { .. } => {
                "run one instance per slot; started again, this one would fence the other in turn"
            }
            Error::Transactional { code: Code::InvalidTransactionTimeout, .. } => {
                "lower transaction.timeout.ms in [kafka], or raise transaction.max.timeout.ms of the brokers"
            }
            Error::Transactional { .. } => {
                "delivery = \"exactly-once\" takes the ACLs Write on the transactional id, Write and Read on the checkpoint \
                 topic (and Create, unless it is there), and Write on the topics of the changes (and Create, unless they \
                 are there); see walcat(1), exactly-once delivery"
            }
            Error::TransactionTooLong { .. } => {
                "raise transaction.timeout.ms in [kafka] (and transaction.max.timeout.ms of the brokers), then start walcat \
                 again: nothing is lost"
            }
            Error::Checkpoint { .. } => "nobody but walcat may write to it; see walcat(1), exactly-once delivery",
            Error::CheckpointPolicy { topic, .. } => return Some(compact_command(topic)),
            Error::Unreachable { .. } => {
                "check brokers, security.protocol and ssl.* in [kafka], and the network; [retry] broker_for says how long to wait; nothing is lost"
            }
            Error::Unreached { .. } => {
                "check brokers, security.protocol and ssl.* in [kafka], and the network (a port that speaks TLS closes a connection \
                 in plain text); --wait keeps trying at a start"
            }
            Error::CreateTopic { .. } => {
                "create it by hand, or see [topics]: partitions, replication_factor, properties"
            }
            Error::Passed { .. } => "raise max.message.bytes of the topic: the slot still holds the changes",
            Error::Interrupted => "start walcat again: nothing is lost",
            Error::Os(_) | Error::Topic { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// Whether a record was refused because there is no such topic, or no such partition of it.
#[must_use]
pub fn is_missing_topic(code: Code) -> bool {
    matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
}

/// The exit code of a refusal that will not go away by itself.
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
