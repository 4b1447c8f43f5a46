//! The brokers and the topics.

use super::Verdict;
use crate::lsn::Lsn;

/// Whether a broker answers; `failure` is what a stream would report.
#[must_use]
pub fn brokers(list: &str, failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok(format!("brokers {list}: reachable")),
        Some((reason, hint)) => {
            let hint = hint.unwrap_or_else(|| "check brokers, [kafka] and the network".to_owned());
            Verdict::error(format!("brokers {list}: {reason}"), hint)
        }
    }
}

/// librdkafka's properties.
#[must_use]
pub fn kafka_properties(failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok("Kafka properties: accepted"),
        Some((reason, hint)) => Verdict::error(reason, hint.unwrap_or_else(|| "see [kafka] and -X".to_owned())),
    }
}

/// The topic that stores the positions of exactly-once delivery. Kafka must not delete from it.
#[must_use]
pub fn checkpoint_topic(name: &str, facts: &TopicFacts) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if cleanup_policy.contains("delete") => Verdict::error(
            format!("checkpoint topic {name}: cleanup.policy={cleanup_policy}: Kafka will delete the stored position"),
            compact_command(name),
        ),
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("checkpoint topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing { creation } => missing_topic(&format!("checkpoint topic {name}"), creation, true),
        TopicFacts::Unknown { reason } => Verdict::warning(
            format!("checkpoint topic {name}: the cluster did not describe it: {reason}"),
            describe_command(name),
        ),
    }
}

/// The limit of the brokers for `transaction.timeout.ms`; none if it is unknown. Then only a value that is above Kafka's
/// default of 15 minutes is worth a line.
#[must_use]
pub fn transaction_timeout(given_ms: u64, limit: Result<u64, String>) -> Option<Verdict> {
    const LIMIT_MS_DEFAULT: u64 = 900_000;
    let name = "transaction.timeout.ms";
    match limit {
        Ok(limit_ms) if given_ms > limit_ms => Some(Verdict::error(
            format!("{name} is {given_ms}, but the brokers allow at most {limit_ms}"),
            format!("lower {name} in [kafka], or raise transaction.max.timeout.ms of the brokers"),
        )),
        Ok(limit_ms) => Some(Verdict::ok(format!("{name} is {given_ms}; the brokers allow up to {limit_ms}"))),
        Err(reason) if given_ms > LIMIT_MS_DEFAULT => Some(Verdict::warning(
            format!("{name} is {given_ms}, and it is unknown whether the brokers allow it: {reason}"),
            format!("compare it with transaction.max.timeout.ms of the brokers; the default is {LIMIT_MS_DEFAULT}"),
        )),
        Err(_) => None,
    }
}

/// The position that Kafka stores, read but not judged to be wrong: where a stream would start.
#[must_use]
pub fn stored_position(topic: &str, stored: Option<Lsn>, start: Lsn) -> Verdict {
    Verdict::ok(match stored {
        Some(stored) => format!("stored position: {stored} in {topic}; the stream starts at {start}"),
        None => format!("stored position: none in {topic} yet; the stream starts at {start}"),
    })
}

/// The position that Kafka stores could not be read for a reason that may pass.
#[must_use]
pub fn unread_position(topic: &str, reason: &str) -> Verdict {
    Verdict::warning(
        format!("stored position: unknown, because the topic {topic} could not be read: {reason}"),
        "check the brokers, and run walcat check again",
    )
}

/// The command that stops Kafka from deleting a topic's records by age or size.
#[must_use]
pub fn compact_command(topic: &str) -> String {
    format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact")
}

/// The command that allows walcat's user to describe a topic.
fn describe_command(topic: &str) -> String {
    format!(
        "if an ACL is missing: kafka-acls.sh --add --allow-principal User:NAME --operation Describe --operation \
         DescribeConfigs --topic {topic}"
    )
}

/// What the cluster reports about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFacts {
    /// It exists.
    Exists { cleanup_policy: String },
    /// It does not exist.
    Missing { creation: Creation },
    /// The cluster did not answer the question.
    Unknown { reason: String },
}

/// Whether a missing topic would be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The cluster would create it.
    Works,
    /// Neither walcat nor the broker is configured to create topics.
    Off,
    /// The cluster would reject the request.
    Refused { reason: String },
    /// The cluster did not answer the question.
    Unknown { reason: String },
}

fn missing_topic(name: &str, creation: &Creation, walcat_creates: bool) -> Verdict {
    let create = "create it, or set [topics] create = true";
    match creation {
        Creation::Works if walcat_creates => Verdict::ok(format!("{name}: walcat will create it")),
        Creation::Works => Verdict::ok(format!("{name}: the broker will create it with its own settings")),
        Creation::Off => {
            Verdict::error(format!("{name}: does not exist, and neither walcat nor the broker creates it"), create)
        }
        Creation::Refused { reason } => Verdict::error(
            format!("{name}: does not exist, and Kafka rejects its creation: {reason}"),
            "create the topic yourself, or change [topics] or the ACLs",
        ),
        Creation::Unknown { reason } => Verdict::warning(
            format!("{name}: does not exist, and it is unknown whether Kafka would create it: {reason}"),
            create,
        ),
    }
}

/// A table's topic: whether it exists or can be created, and whether it accepts records without a key. `passes_refused` says
/// that `on_error` skips rejected records.
#[must_use]
pub fn topic(name: &str, facts: &TopicFacts, has_key: bool, walcat_creates: bool, passes_refused: bool) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if !has_key && cleanup_policy.contains("compact") => {
            let finding =
                format!("topic {name}: compacted, but the table's records have no key: the broker will reject them");
            let hint = "give the table a primary key or REPLICA IDENTITY USING INDEX, or set the topic's cleanup.policy to \
                        delete";
            if passes_refused { Verdict::warning(finding, hint) } else { Verdict::error(finding, hint) }
        }
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing { creation } => missing_topic(&format!("topic {name}"), creation, walcat_creates),
        TopicFacts::Unknown { reason } => {
            Verdict::warning(format!("topic {name}: the cluster did not describe it: {reason}"), describe_command(name))
        }
    }
}
