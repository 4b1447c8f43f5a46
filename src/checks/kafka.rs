//! The brokers and the topics.

use super::Verdict;

/// Whether a broker answers, and if not what a stream would say.
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
        TopicFacts::Missing { creation } => missing_topic(&format!("checkpoint topic {name}"), creation, true),
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
    Missing { creation: Creation },
    /// The cluster does not say.
    Unknown { reason: String },
}

/// Whether a topic that is missing comes about by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The cluster would create it.
    Works,
    /// Neither walcat nor the brokers are set to create topics.
    Off,
    /// The cluster refuses to.
    Refused { reason: String },
    /// It is not known.
    Unknown { reason: String },
}

fn missing_topic(name: &str, creation: &Creation, walcat_creates: bool) -> Verdict {
    let create = "create it, or set [topics] create = true";
    match creation {
        Creation::Works if walcat_creates => Verdict::ok(format!("{name}: walcat will create it")),
        Creation::Works => Verdict::ok(format!("{name}: the broker will create it, with its own defaults")),
        Creation::Off => {
            Verdict::error(format!("{name}: does not exist, and neither walcat nor the broker creates it"), create)
        }
        Creation::Refused { reason } => Verdict::error(
            format!("{name}: does not exist, and Kafka refuses to create it: {reason}"),
            "create it by hand, or change [topics] or the ACLs",
        ),
        Creation::Unknown { reason } => Verdict::warning(
            format!("{name}: does not exist, and the cluster does not say whether it would be created: {reason}"),
            create,
        ),
    }
}

/// A table's topic: there, to be made, and fit for records without a key, unless `on_error` passes what is refused.
#[must_use]
pub fn topic(name: &str, facts: &TopicFacts, has_key: bool, walcat_creates: bool, passes_refused: bool) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if !has_key && cleanup_policy.contains("compact") => {
            let finding =
                format!("topic {name}: compacted, and the table's records have no key: the broker refuses them");
            let hint = "give the table a primary key or REPLICA IDENTITY USING INDEX, or set the topic's cleanup.policy to \
                        delete";
            if passes_refused { Verdict::warning(finding, hint) } else { Verdict::error(finding, hint) }
        }
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing { creation } => missing_topic(&format!("topic {name}"), creation, walcat_creates),
        TopicFacts::Unknown { reason } => {
            Verdict::warning(format!("topic {name}: the cluster does not describe it: {reason}"), "check the ACLs")
        }
    }
}
