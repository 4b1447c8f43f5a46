//! What the cluster answered: which topics exist now, what is known about them, and what must be requested again.

use std::time::Instant;

use log::{debug, info, warn};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{COMPACT, PROBE_INTERVAL, Question, Waiting, has_word, policy_of};
use crate::sink::kafka::availability::Availability;
use crate::sink::kafka::client::admin::{AdminError, Answer, Configuration, Content, Each};
use crate::sink::kafka::error::Error;

impl Waiting {
    /// Processes an answer of the cluster.
    ///
    /// # Errors
    /// [`Error::CreateTopic`] if a topic cannot be created.
    pub fn handle(&mut self, answer: Answer, availability: &mut Availability, now: Instant) -> Result<(), Error> {
        let is_an_answer = answer.content.is_an_answer();
        self.was_answered |= is_an_answer;
        let Some(request) = self.request.take_if(|request| request.id == answer.to) else {
            // The answer to an abandoned request.
            if is_an_answer {
                availability.answered();
            }
            return Ok(());
        };
        match (answer.content, request.question) {
            (Content::Configurations(Err(error)), Question::Probe) if !is_an_answer => {
                self.ask_later(&error, availability, now);
            }
            (Content::Configurations(_), Question::Probe) => availability.answered(),
            (Content::TopicsCreated(each), Question::Create { topics }) => {
                self.created(topics, each, availability, now)?;
            }
            (Content::Configurations(each), Question::Topics { topics }) => {
                self.described(topics, each, availability, now);
            }
            (Content::Configurations(each), Question::Limit { topic }) => {
                if let Some(known) = self.known(only(each), availability, now) {
                    self.message_bytes_max = Some((topic, known.and_then(|known| known.message_bytes_max)));
                }
            }
            (Content::Configurations(each), Question::Broker) => {
                if let Some(known) = self.known(only(each), availability, now) {
                    self.request_bytes_max = Some(known.and_then(|known| known.request_bytes_max));
                }
            }
            (Content::Configurations(_), Question::Create { .. }) | (Content::TopicsCreated(_), _) => {}
        }
        Ok(())
    }

    fn created(
        &mut self,
        topics: Vec<String>,
        each: Each<()>,
        availability: &mut Availability,
        now: Instant,
    ) -> Result<(), Error> {
        for (topic, result) in for_each(topics, each) {
            match result {
                Ok(()) => info!(topic = topic.as_str(); "topic created"),
                Err(error) if error.code == Code::TopicAlreadyExists => {}
                // The topic may still exist: the broker decides when it gets the records.
                Err(error)
                    if matches!(error.code, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) =>
                {
                    warn!(topic = topic.as_str(), error:% = error.code; "not authorized to create a topic; it must already exist");
                    self.denied.insert(topic.clone());
                }
                Err(error) if error.code == Code::InvalidReplicationFactor && self.may_come_up(now) => {
                    if self.too_few_since.is_none() {
                        self.too_few_since = Some(now);
                        warn!(topic = topic.as_str(), error = error.message.as_str(); "cannot create a topic yet; retrying");
                    }
                    self.not_before = Some(now + PROBE_INTERVAL);
                    availability.answered();
                    continue;
                }
                Err(error) if is_transient(error.code) => {
                    self.ask_later(&error, availability, now);
                    continue;
                }
                Err(error) => {
                    return Err(Error::CreateTopic { topic, code: error.code, reason: error.message });
                }
            }
            availability.answered();
            self.too_few_since = None;
            self.existing.insert(topic);
        }
        Ok(())
    }

    /// Whether the brokers that a new topic needs may still be starting.
    fn may_come_up(&self, now: Instant) -> bool {
        self.too_few_since.is_none_or(|since| now.saturating_duration_since(since) < self.too_few_limit)
    }

    fn described(
        &mut self,
        topics: Vec<String>,
        each: Each<Configuration>,
        availability: &mut Availability,
        now: Instant,
    ) {
        for (topic, result) in for_each(topics, each) {
            let Some(known) = self.known(result, availability, now) else {
                continue;
            };
            let is_for_truncation = self.held.iter().any(|held| held.truncation && held.topic == topic);
            if is_for_truncation && has_word(policy_of(known.as_ref()), COMPACT) {
                warn!(topic = topic.as_str(); "skipping truncations: a compacted topic rejects records without a key");
            }
            self.topics.insert(topic, known);
        }
    }

    /// The information in an answer: `Some(None)` if it is not available, `None` if it must be requested again.
    fn known(
        &mut self,
        result: Result<Configuration, AdminError>,
        availability: &mut Availability,
        now: Instant,
    ) -> Option<Option<Configuration>> {
        match result {
            Ok(known) => {
                availability.answered();
                Some(Some(known))
            }
            // During an outage the request is repeated. A cluster that accepts records but does not answer this
            // request, for example because it does not support it, is not asked twice.
            Err(error) if is_transient(error.code) && !availability.is_reachable() => {
                self.ask_later(&error, availability, now);
                None
            }
            // The topic does not exist yet or may not be described: the broker decides when it gets the record.
            Err(error) => {
                debug!(error:% = error.code; "the cluster did not return its configuration");
                Some(None)
            }
        }
    }

    fn ask_later(&mut self, error: &AdminError, availability: &mut Availability, now: Instant) {
        availability.probe_failed(&error.message);
        self.not_before = Some(now + PROBE_INTERVAL);
    }
}

/// The answer for the only name in the request.
fn only<T>(each: Each<T>) -> Result<T, AdminError> {
    let silence = AdminError { code: Code::OperationTimedOut, message: "no answer".to_owned() };
    each?.into_iter().next().map_or(Err(silence), |(_, result)| result)
}

/// The result for each name in the request; an answer to the whole request applies to each name.
fn for_each<T>(names: Vec<String>, each: Each<T>) -> Vec<(String, Result<T, AdminError>)> {
    match each {
        Ok(mut each) => {
            let silence = AdminError { code: Code::OperationTimedOut, message: "no answer".to_owned() };
            let missing: Vec<_> =
                names.into_iter().filter(|name| !each.iter().any(|(found, _)| found == name)).collect();
            each.extend(missing.into_iter().map(|name| (name, Err(silence.clone()))));
            each
        }
        Err(error) => names.into_iter().map(|name| (name, Err(error.clone()))).collect(),
    }
}

/// Whether the cluster may answer the same request differently a little later.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::NotController
            | Code::CoordinatorLoadInProgress
            | Code::BrokerNotAvailable
            | Code::DestroyBroker
            | Code::NetworkException
            | Code::ThrottlingQuotaExceeded
    )
}
