//! The topic of a relation: `[PREFIX.]SCHEMA.TABLE`. Logical messages go to `[PREFIX.]message`.
//!
//! Characters that are invalid in a topic name become `_`, one for each UTF-16 unit, as in Debezium, so that walcat can
//! continue the topics of a Debezium connector. No relation can have the message topic, because its name contains a dot
//! after the prefix.
//!
//! Two relations that would share a topic are refused because their keys would mix. Relations with the same schema and
//! name do share a topic (the table was dropped and created again). A renamed or dropped relation releases its topic.

use std::collections::HashMap;

use crate::by_relation::ByRelation;
use crate::change::RelationIndex;
use crate::wire::replication::command::quote_identifier_where_needed;

/// Kafka's limit for the length of a topic name (`org.apache.kafka.common.internals.Topic`).
pub const TOPIC_CHARACTERS_MAX: usize = 249;

/// Why a relation has no topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The name is longer than Kafka allows.
    #[error("topic name too long: {topic} has {} characters, Kafka allows {TOPIC_CHARACTERS_MAX}", topic.len())]
    TooLong { topic: String },
    /// The prefix is empty or contains a character that is invalid in a topic name.
    #[error("invalid topic_prefix {prefix:?}: use one or more of A-Z, a-z, 0-9, ., _ and -")]
    Prefix { prefix: String },
    /// Two tables would share a topic.
    #[error("two tables would share the topic {topic}: {first} and {second}")]
    Shared { topic: String, first: String, second: String },
}

impl RouteError {
    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            RouteError::TooLong { .. } => "shorten topic_prefix, or remove the table from the publication",
            RouteError::Prefix { .. } => "choose another topic_prefix",
            RouteError::Shared { .. } => "rename one of the tables, or remove one from the publication",
        }
    }
}

/// Assigns topics and remembers their relations.
#[derive(Clone, Debug)]
pub struct Route {
    prefix: Option<String>,
    message_topic: String,
    claims: ByRelation<Claim>,
    holders: HashMap<String, Vec<RelationIndex>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    namespace: String,
    name: String,
    topic: String,
}

impl Route {
    /// Creates a route for topics with this prefix, or without one.
    ///
    /// # Errors
    ///
    /// If the prefix is not valid at the beginning of a topic name.
    pub fn new(prefix: Option<&str>) -> Result<Self, RouteError> {
        if let Some(prefix) = prefix.filter(|prefix| prefix.is_empty() || !prefix.chars().all(is_topic_character)) {
            return Err(RouteError::Prefix { prefix: prefix.to_owned() });
        }
        let message_topic = fitting(start(prefix) + "message")?;
        Ok(Route {
            prefix: prefix.map(str::to_owned),
            message_topic,
            claims: ByRelation::default(),
            holders: HashMap::new(),
        })
    }

    /// The topic of logical messages.
    #[must_use]
    pub fn message_topic(&self) -> &str {
        &self.message_topic
    }

    /// Assigns a topic to a relation and releases the previous topic of the same index.
    ///
    /// # Errors
    ///
    /// If the name is too long, or another table has the topic.
    pub fn claim(&mut self, index: RelationIndex, namespace: &str, name: &str) -> Result<&str, RouteError> {
        self.release(index);
        let topic = fitting(topic_of(self.prefix.as_deref(), namespace, name))?;
        let holder = self.holders.get(&topic).and_then(|holders| holders.first());
        if let Some(holder) = holder
            && let Some(other) = self.claims.get(*holder)
            && (other.namespace != namespace || other.name != name)
        {
            let quoted = |schema: &str, table: &str| {
                let [schema, table] = [schema, table].map(quote_identifier_where_needed);
                format!("{schema}.{table}")
            };
            let (first, second) = (quoted(&other.namespace, &other.name), quoted(namespace, name));
            return Err(RouteError::Shared { topic, first, second });
        }
        self.holders.entry(topic.clone()).or_default().push(index);
        let claim = Claim { namespace: namespace.to_owned(), name: name.to_owned(), topic };
        Ok(&self.claims.insert(index, claim).topic)
    }

    /// The topic that a relation has.
    #[must_use]
    pub fn topic(&self, index: RelationIndex) -> Option<&str> {
        self.claims.get(index).map(|claim| claim.topic.as_str())
    }

    /// The relations with another name that have the topic this one would get.
    pub fn rivals(&self, namespace: &str, name: &str) -> impl Iterator<Item = RelationIndex> {
        let holders =
            self.holders.get(&topic_of(self.prefix.as_deref(), namespace, name)).map(Vec::as_slice).unwrap_or_default();
        holders.iter().copied().filter(move |holder| {
            let claim = self.claims.get(*holder);
            claim.is_some_and(|claim| claim.namespace != namespace || claim.name != name)
        })
    }

    /// Releases the topic of a relation; returns it if no other relation has it.
    pub fn release(&mut self, index: RelationIndex) -> Option<String> {
        let claim = self.claims.remove(index)?;
        let holders = self.holders.get_mut(&claim.topic)?;
        holders.retain(|holder| *holder != index);
        if !holders.is_empty() {
            return None;
        }
        self.holders.remove(&claim.topic);
        Some(claim.topic)
    }
}

/// The topic of a table under a valid prefix, whether or not another table has it.
#[must_use]
pub fn topic_of(prefix: Option<&str>, namespace: &str, name: &str) -> String {
    let mut topic = start(prefix);
    [namespace, ".", name].into_iter().for_each(|part| topic.push_str(&sanitize(part)));
    topic
}

/// The prefix with its dot, or nothing.
fn start(prefix: Option<&str>) -> String {
    prefix.map_or(String::new(), |prefix| format!("{prefix}."))
}

/// Replaces each character that is invalid in a topic name with `_`.
#[must_use]
pub fn sanitize(text: &str) -> String {
    let mut fitting = String::with_capacity(text.len());
    for character in text.chars() {
        if is_topic_character(character) {
            fitting.push(character);
        } else {
            (0..character.len_utf16()).for_each(|_| fitting.push('_'));
        }
    }
    fitting
}

fn is_topic_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

/// The invalid names `.` and `..` cannot occur: a name always contains a schema and a table, or `message`.
fn fitting(topic: String) -> Result<String, RouteError> {
    if topic.len() > TOPIC_CHARACTERS_MAX { Err(RouteError::TooLong { topic }) } else { Ok(topic) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_prefix_schema_table_with_underscores_for_what_kafka_refuses() {
        for (prefix, namespace, name, topic) in [
            (None, "public", "t", "public.t"),
            (Some("srv"), "public", "t", "srv.public.t"),
            (Some("srv"), "public", "We.ird Näme", "srv.public.We.ird_N_me"),
            (Some("a.b-c_d"), "Sales", "\"q\"", "a.b-c_d.Sales._q_"),
            (None, "s", "日本", "s.__"),
            (None, "s", "x😀", "s.x__"),
            (None, ".", ".", "..."),
        ] {
            let mut route = Route::new(prefix).unwrap();
            assert_eq!(route.claim(RelationIndex(0), namespace, name), Ok(topic));
        }
    }

    #[test]
    fn messages_have_a_topic_of_their_own() {
        assert_eq!(Route::new(None).unwrap().message_topic(), "message");
        assert_eq!(Route::new(Some("srv")).unwrap().message_topic(), "srv.message");
    }

    #[test]
    fn a_prefix_that_kafka_refuses_is_refused() {
        for prefix in ["", "a b", "ä", "a/b"] {
            assert!(matches!(Route::new(Some(prefix)), Err(RouteError::Prefix { .. })), "{prefix:?}");
        }
    }

    #[test]
    fn a_topic_longer_than_kafka_allows_is_refused() {
        let mut route = Route::new(Some("p")).unwrap();
        let name = "n".repeat(TOPIC_CHARACTERS_MAX - "p.s.".len());
        assert!(route.claim(RelationIndex(0), "s", &name).is_ok());
        let error = route.claim(RelationIndex(1), "s", &format!("{name}n")).unwrap_err();
        assert!(error.to_string().contains("250 characters, Kafka allows 249"), "{error}");
        assert!(matches!(Route::new(Some(&"p".repeat(242))), Err(RouteError::TooLong { .. })));
    }

    #[test]
    fn two_tables_that_would_share_a_topic_are_refused_by_name_and_told_apart_by_their_quotes() {
        for (first, second, names) in [
            (("public", "a b"), ("public", "a_b"), "srv.public.a_b: public.\"a b\" and public.a_b"),
            (("a.b", "c"), ("a", "b.c"), "srv.a.b.c: \"a.b\".c and a.\"b.c\""),
        ] {
            let mut route = Route::new(Some("srv")).unwrap();
            route.claim(RelationIndex(0), first.0, first.1).unwrap();
            let text = route.claim(RelationIndex(1), second.0, second.1).unwrap_err().to_string();
            assert_eq!(text, format!("two tables would share the topic {names}"));
        }
    }

    #[test]
    fn a_table_created_again_shares_its_topic_and_a_renamed_one_releases_it() {
        let mut route = Route::new(None).unwrap();
        assert!(route.claim(RelationIndex(0), "s", "a b").is_ok());
        assert!(route.claim(RelationIndex(1), "s", "a b").is_ok(), "dropped and created again");
        assert!(route.claim(RelationIndex(2), "s", "a_b").is_err());
        assert!(route.claim(RelationIndex(0), "s", "c").is_ok());
        assert!(route.claim(RelationIndex(1), "s", "d").is_ok());
        assert!(route.claim(RelationIndex(2), "s", "a_b").is_ok());
    }

    #[test]
    fn a_table_that_is_gone_gives_its_topic_to_another() {
        let mut route = Route::new(None).unwrap();
        route.claim(RelationIndex(0), "s", "a b").unwrap();
        route.claim(RelationIndex(1), "s", "a b").unwrap();
        assert_eq!(route.rivals("s", "a_b").collect::<Vec<_>>(), [RelationIndex(0), RelationIndex(1)]);
        assert_eq!(route.rivals("s", "a b").count() + route.rivals("s", "other").count(), 0);
        assert_eq!(route.release(RelationIndex(0)), None, "the other relation still has it");
        assert_eq!(route.release(RelationIndex(1)), Some("s.a_b".to_owned()));
        assert_eq!(route.release(RelationIndex(1)), None);
        assert!(route.claim(RelationIndex(2), "s", "a_b").is_ok());
        assert!(route.claim(RelationIndex(0), "s", "a b").is_err(), "its rows come too late");
    }
}
