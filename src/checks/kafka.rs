//! The brokers and the topics.

use super::Verdict;

/// Whether a broker answers.
#[must_use]
pub fn brokers(list: &str, failure: Option<&str>) -> Verdict {
    match failure {
        None => Verdict::ok(format!("brokers {list}: reachable")),
        Some(reason) => {
            Verdict::error(format!("brokers {list}: not reachable: {reason}"), "check brokers, [kafka] and the network")
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

/// The topic of the positions of exactly-once delivery, of which nothing may be deleted.
#[must_use]
pub fn checkpoint_topic(name: &str, facts: &TopicFacts) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if cleanup_policy.contains("delete") => Verdict::error(
            format!(
                "checkpoint topic {name}: cleanup.policy={cleanup_policy}: Kafka deletes the stored position in time"
            ),
            compact_command(name),
        ),
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("checkpoint topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing => Verdict::ok(format!("checkpoint topic {name}: walcat will create it")),
        TopicFacts::Unknown { reason } => Verdict::warning(
            format!("checkpoint topic {name}: the cluster does not describe it: {reason}"),
            "check the ACLs",
        ),
    }
}

/// What makes a topic one that nothing is deleted from by age or size.
#[must_use]
pub fn compact_command(topic: &str) -> String {
    format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact")
}

/// What the cluster says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFacts {
    /// It is there, with this `cleanup.policy`.
    Exists { cleanup_policy: String },
    /// It is not there.
    Missing,
    /// The cluster does not say.
    Unknown { reason: String },
}

/// A table's topic: there, to be made, and fit for records without a key.
#[must_use]
pub fn topic(name: &str, facts: &TopicFacts, has_key: bool, walcat_creates: bool) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if !has_key && cleanup_policy.contains("compact") => Verdict::error(
            format!("topic {name}: compacted, and the table's records have no key: the broker refuses them"),
            "give the table a primary key or REPLICA IDENTITY USING INDEX, or set the topic's cleanup.policy to delete",
        ),
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing if walcat_creates => Verdict::ok(format!("topic {name}: walcat will create it")),
        TopicFacts::Missing => Verdict::warning(
            format!("topic {name}: does not exist"),
            "create it, or set [topics] create = true; with auto.create.topics.enable the broker makes it",
        ),
        TopicFacts::Unknown { reason } => {
            Verdict::warning(format!("topic {name}: the cluster does not describe it: {reason}"), "check the ACLs")
        }
    }
}
