//! Records that wait for information about their topic, and that information: which topics exist, which are compacted,
//! and what sizes the brokers accept. At most one request to the cluster is in flight. It asks for everything that is
//! needed at that time. After a failure, the next request is sent no sooner than `PROBE_INTERVAL` later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::TopicTemplate;
use crate::change::Ticket;
use crate::lsn::Lsn;
use crate::record::Destination;
use crate::sink::kafka::availability::Availability;
use crate::sink::kafka::client::admin::{Admin, AdminError, Answer, Configuration, Content, Each, NewTopic, RequestId};
use crate::sink::kafka::client::request_size::{LARGE_RECORD_BYTES, Limits, REQUEST_BYTES_MAX_DEFAULT};
use crate::sink::kafka::error::Error;
use crate::sink::kafka::flight::Ordinal;

/// The timeout for one request to the cluster; then it is sent again.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two probes of a cluster that does not answer or does not accept records, and between two attempts
/// to create a topic.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum number of topics in one request: the brokers create them one after another.
const TOPICS_PER_REQUEST_MAX: usize = 200;

/// How long to wait for brokers that a new topic needs.
pub const BROKERS_START_LIMIT: Duration = Duration::from_secs(60);

/// Values of `cleanup.policy`.
const COMPACT: &str = "compact";
const DELETE: &str = "delete";

/// The active segment is never compacted, and walcat reads all of it at each start.
const CHECKPOINT_SEGMENT_BYTES: u64 = 10 * 1024 * 1024;

/// A waiting record with its own copy of the bytes.
#[derive(Debug)]
pub struct HeldRecord {
    /// The record's destination.
    pub destination: Destination,
    /// The name of its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its header.
    pub header: Option<(&'static str, Vec<u8>)>,
    /// The entry that the record belongs to.
    pub ticket: Ticket,
    /// The commit LSN of its transaction; its own LSN for a message outside a transaction.
    pub lsn: Lsn,
    /// The place of the record in that transaction.
    pub ordinal: Ordinal,
    /// The record of a TRUNCATE, which a compacted topic rejects.
    pub truncation: bool,
}

impl HeldRecord {
    /// Bytes of key, value and header.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let header = self.header.as_ref().map_or(0, |(name, value)| name.len() + value.len());
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + header
    }
}

/// What to do with the record that has waited longest.
#[derive(Debug)]
pub enum Release {
    /// Send it.
    Send(HeldRecord),
    /// Send it if its compressed size is within these limits.
    Judge(HeldRecord, Limits),
    /// Skip it and settle its ticket.
    Skip(Ticket),
}

/// A question to the cluster.
#[derive(Debug)]
enum Question {
    Probe,
    Create { topics: Vec<String> },
    Topics { topics: Vec<String> },
    Limit { topic: String },
    Broker,
}

/// The request to the cluster that is in flight.
#[derive(Debug)]
struct Request {
    id: RequestId,
    question: Question,
    sent_at: Instant,
}

impl Request {
    /// When an unanswered request is abandoned. librdkafka itself answers sooner, and walcat needs the failure of a
    /// probe.
    fn given_up_at(&self) -> Instant {
        self.sent_at + 2 * ADMIN_TIMEOUT
    }
}

/// The waiting records and the information that they wait for.
#[derive(Debug)]
pub struct Waiting {
    /// How to create missing topics; `None` to leave that to the broker.
    template: Option<TopicTemplate>,
    request: Option<Request>,
    /// No request is sent before this time.
    not_before: Option<Instant>,
    probed_at: Option<Instant>,
    /// Topics that were created or already existed.
    existing: HashSet<String>,
    /// Those of them that walcat may not create; they may not exist.
    denied: HashSet<String>,
    /// The configuration of the topics that were described; `None` if it is unknown.
    topics: HashMap<String, Option<Configuration>>,
    /// The same for `socket.request.max.bytes`, which is assumed to be equal on all brokers.
    request_bytes_max: Option<Option<u64>>,
    /// `max.message.bytes` of the topic of the record that has waited longest; `None` if it is unknown.
    message_bytes_max: Option<(String, Option<u64>)>,
    /// No broker is known yet that could be asked.
    wants_broker: bool,
    /// The cluster has answered a request of this producer.
    was_answered: bool,
    /// When the brokers were first too few for a new topic, and how long to wait for more.
    too_few_since: Option<Instant>,
    too_few_limit: Duration,
    held: VecDeque<HeldRecord>,
}

impl Waiting {
    /// The start: no records and no information.
    #[must_use]
    pub fn new(template: Option<TopicTemplate>, too_few_limit: Duration) -> Self {
        Waiting {
            template,
            request: None,
            not_before: None,
            probed_at: None,
            existing: HashSet::new(),
            denied: HashSet::new(),
            topics: HashMap::new(),
            request_bytes_max: None,
            message_bytes_max: None,
            wants_broker: false,
            was_answered: false,
            too_few_since: None,
            too_few_limit,
            held: VecDeque::new(),
        }
    }

    /// Whether no record waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The record that has waited longest.
    #[must_use]
    pub fn front(&self) -> Option<&HeldRecord> {
        self.held.front()
    }

    /// Whether the brokers were asked for `socket.request.max.bytes` and did not tell it.
    #[must_use]
    pub fn is_request_limit_unknown(&self) -> bool {
        self.request_bytes_max == Some(None)
    }

    /// Whether a record of this size must wait: for information about its topic or the brokers, or behind another
    /// record.
    #[must_use]
    pub fn must_wait(&self, topic: &str, truncation: bool, bytes: usize) -> bool {
        !self.held.is_empty()
            || truncation
            || (self.template.is_some() && !self.existing.contains(topic))
            || self.is_questionable(bytes)
    }

    /// Forgets a topic that gets no more records.
    pub fn forget(&mut self, topic: &str) {
        self.existing.remove(topic);
        self.topics.remove(topic);
    }

    /// Holds a record.
    pub fn hold(&mut self, record: HeldRecord) {
        self.held.push_back(record);
    }

    /// Removes the record that has waited longest, if enough is known about its topic. Otherwise requests the missing
    /// information for all waiting records.
    ///
    /// # Errors
    /// [`Error::CreateTopic`] if librdkafka rejects the request.
    pub fn release(&mut self, admin: &Admin, now: Instant) -> Result<Option<Release>, Error> {
        self.wants_broker = false;
        let Some(front) = self.held.front() else {
            return Ok(None);
        };
        if let Some(template) = &self.template
            && !self.existing.contains(&front.topic)
        {
            if self.is_free() {
                let missing = distinct(self.held.iter().filter(|held| !self.existing.contains(&held.topic)));
                let template = template.clone();
                self.create(admin, missing, &template, now)?;
            }
            return Ok(None);
        }
        if front.truncation {
            let Some(known) = self.topics.get(&front.topic) else {
                if self.is_free() {
                    let is_asked = |held: &&HeldRecord| held.truncation && !self.topics.contains_key(&held.topic);
                    let unknown = distinct(self.held.iter().filter(is_asked));
                    self.ask_topics(admin, unknown, now);
                }
                return Ok(None);
            };
            if has_word(policy_of(known.as_ref()), COMPACT) {
                return Ok(self.held.pop_front().map(|held| Release::Skip(held.ticket)));
            }
        }
        let (topic, bytes) = (front.topic.clone(), front.bytes());
        if self.is_questionable(bytes) && self.request_bytes_max.is_none() {
            self.ask_broker(admin, now);
        }
        if self.is_questionable(bytes) {
            let Some(request_bytes_max) = self.request_bytes_max else { return Ok(None) };
            // Requested for each record: the limit may have been raised since, as the hint advises.
            let Some((_, message_bytes_max)) = self.message_bytes_max.take_if(|(asked, _)| *asked == topic) else {
                if self.is_free() {
                    self.sent(admin.describe_topics(&[&topic]), Question::Limit { topic }, now);
                }
                return Ok(None);
            };
            let limits = Limits { request_bytes_max, message_bytes_max };
            return Ok(self.held.pop_front().map(|held| Release::Judge(held, limits)));
        }
        Ok(self.held.pop_front().map(Release::Send))
    }

    /// Whether a record may be too large for any request to a broker.
    fn is_questionable(&self, bytes: usize) -> bool {
        match self.request_bytes_max {
            None => bytes > LARGE_RECORD_BYTES,
            Some(limit) => bytes as u64 > limit.unwrap_or(REQUEST_BYTES_MAX_DEFAULT),
        }
    }

    /// Whether a topic exists; requests its creation until it does.
    ///
    /// # Errors
    /// [`Error::CreateTopic`].
    pub fn ensure(
        &mut self,
        admin: &Admin,
        topic: &str,
        template: &TopicTemplate,
        now: Instant,
    ) -> Result<bool, Error> {
        if self.existing.contains(topic) {
            return Ok(true);
        }
        if self.is_free() {
            self.create(admin, vec![topic.to_owned()], template, now)?;
        }
        Ok(false)
    }

    /// The same for the checkpoint topic, whose records must not be deleted by age or size.
    ///
    /// # Errors
    /// [`Error::CreateTopic`], and [`Error::CheckpointPolicy`] for a topic with another policy.
    pub fn ensure_checkpoints(&mut self, admin: &Admin, topic: &str, now: Instant) -> Result<bool, Error> {
        let template = TopicTemplate {
            partitions: 1,
            replication_factor: -1,
            properties: vec![
                ("cleanup.policy".to_owned(), COMPACT.to_owned()),
                ("segment.bytes".to_owned(), CHECKPOINT_SEGMENT_BYTES.to_string()),
            ],
        };
        if !self.ensure(admin, topic, &template, now)? {
            return Ok(false);
        }
        let Some(known) = self.topics.get(topic) else {
            if self.is_free() {
                self.ask_topics(admin, vec![topic.to_owned()], now);
            }
            return Ok(false);
        };
        match policy_of(known.as_ref()) {
            policy @ Some(found) if has_word(policy, DELETE) => {
                Err(Error::CheckpointPolicy { topic: topic.to_owned(), policy: found.to_owned() })
            }
            _ => Ok(true),
        }
    }

    /// Whether the cluster has refused to create a topic.
    #[must_use]
    pub fn is_denied(&self, topic: &str) -> bool {
        self.denied.contains(topic)
    }

    /// The producer was replaced: its requests stay unanswered, and waiting records are read again. Information about
    /// topics is requested again because a deleted topic may be the reason.
    pub fn renew(&mut self) {
        self.held.clear();
        self.existing.clear();
        self.denied.clear();
        self.topics.clear();
        self.request = None;
        self.not_before = None;
        self.probed_at = None;
        self.message_bytes_max = None;
        self.wants_broker = false;
        self.was_answered = false;
    }

    /// Checks that the cluster answers, unless a request is in flight or the last probe is recent: otherwise a cluster
    /// that answers but accepts no records would be probed continuously.
    pub fn probe(&mut self, admin: &Admin, now: Instant) {
        if self.is_free() && self.probed_at.is_none_or(|at| now >= at + PROBE_INTERVAL) {
            self.probed_at = Some(now);
            self.sent(admin.probe(), Question::Probe, now);
        }
    }

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

    /// Time has passed: abandons a request that takes too long, and ends a pause.
    pub fn tick(&mut self, now: Instant) {
        self.request.take_if(|request| now >= request.given_up_at());
        self.not_before.take_if(|at| now >= *at);
    }

    /// The time by which [`Waiting::tick`], then the method that sends requests, must be called again. `wants_probe`
    /// says whether [`Waiting::probe`] is needed.
    #[must_use]
    pub fn deadline(&self, wants_probe: bool) -> Option<Instant> {
        let is_probing = wants_probe || self.wants_broker;
        match &self.request {
            Some(Request { question: Question::Probe, .. }) if !is_probing && self.held.is_empty() => None,
            Some(request) => Some(request.given_up_at()),
            None => self.not_before.max(self.probed_at.map(|at| at + PROBE_INTERVAL).filter(|_| is_probing)),
        }
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

    fn ask_broker(&mut self, admin: &Admin, now: Instant) {
        match admin.broker_id() {
            Some(id) if self.is_free() => self.sent(admin.describe_broker(id), Question::Broker, now),
            Some(_) => {}
            // The answers name no broker, so the cluster is very old.
            None if self.was_answered => self.request_bytes_max = Some(None),
            None => {
                self.wants_broker = true;
                self.probe(admin, now);
            }
        }
    }

    fn ask_topics(&mut self, admin: &Admin, topics: Vec<String>, now: Instant) {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let id = admin.describe_topics(&names);
        self.sent(id, Question::Topics { topics }, now);
    }

    fn create(
        &mut self,
        admin: &Admin,
        topics: Vec<String>,
        template: &TopicTemplate,
        now: Instant,
    ) -> Result<(), Error> {
        let new = |name: &String| NewTopic {
            name: name.clone(),
            partitions: template.partitions,
            replication_factor: template.replication_factor,
            properties: template.properties.clone(),
        };
        let new: Vec<_> = topics.iter().map(new).collect();
        let id = admin.create_topics(&new).map_err(|error| {
            let topic = topics.join(", ");
            Error::CreateTopic { topic, code: error.code, reason: error.message }
        })?;
        self.sent(id, Question::Create { topics }, now);
        Ok(())
    }

    fn sent(&mut self, id: RequestId, question: Question, now: Instant) {
        self.request = Some(Request { id, question, sent_at: now });
        self.not_before = None;
    }

    fn ask_later(&mut self, error: &AdminError, availability: &mut Availability, now: Instant) {
        availability.probe_failed(&error.message);
        self.not_before = Some(now + PROBE_INTERVAL);
    }

    /// Whether a request can be sent: none is in flight, and the pause after a failure is over.
    fn is_free(&self) -> bool {
        self.not_before.is_none() && self.request.is_none()
    }
}

/// The distinct topics of these records, up to the limit of one request.
fn distinct<'a>(records: impl Iterator<Item = &'a HeldRecord>) -> Vec<String> {
    let mut seen = HashSet::new();
    let first = records.filter(|held| seen.insert(held.topic.as_str()));
    first.map(|held| held.topic.clone()).take(TOPICS_PER_REQUEST_MAX).collect()
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

fn policy_of(known: Option<&Configuration>) -> Option<&str> {
    known.map(|known| known.cleanup_policy.as_str())
}

/// Whether a `cleanup.policy`, such as `compact,delete`, contains this word.
fn has_word(policy: Option<&str>, word: &str) -> bool {
    policy.is_some_and(|policy| policy.split(',').any(|found| found.trim() == word))
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

#[cfg(test)]
mod tests {
    use rdkafka::producer::{BaseProducer, Producer as _};

    use super::*;
    use crate::change::RelationIndex;
    use crate::sink::kafka::client::context::Context;
    use crate::sink::kafka::client::ffi::{Native, Wake};
    use crate::sink::kafka::client::producer;

    const SECOND: Duration = Duration::from_secs(1);

    /// A client that reaches no broker. Fields are dropped in order.
    struct Alone {
        admin: Admin,
        _producer: BaseProducer<Context>,
        _wake: Wake,
    }

    fn alone() -> Alone {
        let (context, _) = Context::new(1);
        let producer = producer::create("127.0.0.1:1", &[], None, context).unwrap();
        let client = Native::new(producer.client().native_ptr()).unwrap();
        let wake = Wake::new().unwrap();
        Alone { admin: Admin::new(client, &wake, SECOND).unwrap(), _producer: producer, _wake: wake }
    }

    fn held(topic: &str, truncation: bool, value_bytes: usize) -> HeldRecord {
        HeldRecord {
            destination: Destination::Relation(RelationIndex(0)),
            topic: topic.to_owned(),
            key: None,
            value: Some(vec![b'x'; value_bytes]),
            header: None,
            ticket: Ticket(7),
            lsn: Lsn(1),
            ordinal: Ordinal { change: 0, record: 0 },
            truncation,
        }
    }

    fn answer(to: usize, content: Content) -> Answer {
        Answer { to: RequestId(to), content }
    }

    fn error(code: Code) -> AdminError {
        AdminError { code, message: "words".to_owned() }
    }

    fn configured(topic: &str, policy: &str) -> (String, Result<Configuration, AdminError>) {
        (topic.to_owned(), Ok(Configuration { cleanup_policy: policy.to_owned(), ..Configuration::default() }))
    }

    fn template() -> TopicTemplate {
        TopicTemplate { partitions: 1, replication_factor: 3, properties: Vec::new() }
    }

    #[test]
    fn an_answer_to_a_request_that_was_given_up_is_not_taken_for_that_of_the_next() {
        let (alone, now) = (alone(), Instant::now());
        let mut availability = Availability::new(None, now);
        availability.answered();
        let mut waiting = Waiting::new(None, SECOND);
        waiting.probe(&alone.admin, now);
        waiting.hold(held("t", true, 1));
        assert!(waiting.release(&alone.admin, now).unwrap().is_none());
        let later = now + 2 * ADMIN_TIMEOUT;
        waiting.tick(later);
        assert!(waiting.release(&alone.admin, later).unwrap().is_none(), "its policy is asked for");
        // The answer to the probe; it says nothing about the topic.
        let late = Content::Configurations(Err(error(Code::OperationTimedOut)));
        waiting.handle(answer(0, late), &mut availability, later).unwrap();
        assert!(waiting.release(&alone.admin, later).unwrap().is_none(), "a truncation for a compacted topic was sent");
        let known = Content::Configurations(Ok(vec![configured("t", "compact")]));
        waiting.handle(answer(1, known), &mut availability, later).unwrap();
        assert!(matches!(waiting.release(&alone.admin, later).unwrap(), Some(Release::Skip(Ticket(7)))));
    }

    #[test]
    fn a_cluster_that_answers_and_takes_no_records_is_probed_once_a_second() {
        let (alone, now) = (alone(), Instant::now());
        let mut availability = Availability::new(None, now);
        let mut waiting = Waiting::new(None, SECOND);
        let mut probes = 0;
        for ms in 0..10_000 {
            let now = now + Duration::from_millis(ms);
            waiting.tick(now);
            waiting.probe(&alone.admin, now);
            if waiting.request.is_some() {
                let content = Content::Configurations(Ok(vec![configured("__walcat.probe", "delete")]));
                waiting.handle(answer(probes, content), &mut availability, now).unwrap();
                probes += 1;
            }
            assert!(waiting.deadline(true).is_some_and(|at| at > now), "it would be asked without end");
        }
        assert_eq!(probes, 10);
    }

    #[test]
    fn a_probe_that_fails_reports_an_outage_however_late() {
        let (alone, now) = (alone(), Instant::now());
        let mut availability = Availability::new(None, now);
        let mut waiting = Waiting::new(None, SECOND);
        availability.answered();
        availability.all_down("closed", false, now);
        for ms in (0..5_000).step_by(50) {
            let now = now + Duration::from_millis(ms);
            waiting.tick(now);
            waiting.probe(&alone.admin, now);
        }
        assert_eq!(availability.outage(), None);
        let silence = Content::Configurations(Err(error(Code::OperationTimedOut)));
        waiting.handle(answer(0, silence), &mut availability, now + ADMIN_TIMEOUT).unwrap();
        assert_eq!(availability.outage(), Some((now, "closed")));
    }

    #[test]
    fn one_request_asks_about_all_that_wait() {
        let (alone, now) = (alone(), Instant::now());
        let mut availability = Availability::new(None, now);
        let mut waiting = Waiting::new(Some(template()), SECOND);
        let names = ["t", "u", "v"];
        for name in names {
            waiting.hold(held(name, true, 1));
        }
        assert!(waiting.release(&alone.admin, now).unwrap().is_none());
        let made = names.map(|name| (name.to_owned(), Ok(()))).to_vec();
        waiting.handle(answer(0, Content::TopicsCreated(Ok(made))), &mut availability, now).unwrap();
        assert!(waiting.release(&alone.admin, now).unwrap().is_none());
        let known = names.map(|name| configured(name, if name == "u" { "compact" } else { "delete" })).to_vec();
        waiting.handle(answer(1, Content::Configurations(Ok(known))), &mut availability, now).unwrap();
        let mut sent = Vec::new();
        while let Some(release) = waiting.release(&alone.admin, now).unwrap() {
            sent.push(matches!(release, Release::Send(_)));
        }
        assert_eq!(sent, [true, false, true]);
    }

    #[test]
    fn too_few_brokers_for_a_topic_are_waited_for_up_to_a_limit() {
        let (alone, mut now) = (alone(), Instant::now());
        let mut availability = Availability::new(None, now);
        let mut waiting = Waiting::new(Some(template()), 3 * SECOND);
        waiting.hold(held("t", false, 1));
        let mut attempts = 0;
        let failure = loop {
            waiting.tick(now);
            assert!(waiting.release(&alone.admin, now).unwrap().is_none());
            if waiting.request.is_some() {
                let refused = vec![("t".to_owned(), Err(error(Code::InvalidReplicationFactor)))];
                let handled =
                    waiting.handle(answer(attempts, Content::TopicsCreated(Ok(refused))), &mut availability, now);
                attempts += 1;
                if let Err(failure) = handled {
                    break failure;
                }
            }
            now += SECOND / 4;
        };
        assert_eq!(attempts, 4, "one a second");
        assert!(matches!(failure, Error::CreateTopic { code: Code::InvalidReplicationFactor, .. }), "{failure}");
    }

    #[test]
    fn a_record_that_may_be_too_large_for_any_request_waits_for_the_limits() {
        let (alone, now) = (alone(), Instant::now());
        let mut availability = Availability::new(None, now);
        let mut waiting = Waiting::new(None, SECOND);
        let large = LARGE_RECORD_BYTES + 1;
        assert!(waiting.must_wait("t", false, large) && !waiting.must_wait("t", false, large - 1));
        waiting.hold(held("t", false, large));
        assert!(waiting.release(&alone.admin, now).unwrap().is_none(), "no broker is known yet");
        assert!(waiting.deadline(false).is_some(), "nothing would ask again");
        // An answer, but still no broker has a name: there is no broker to ask.
        let known = Content::Configurations(Ok(vec![configured("__walcat.probe", "delete")]));
        waiting.handle(answer(0, known), &mut availability, now).unwrap();
        assert!(matches!(waiting.release(&alone.admin, now).unwrap(), Some(Release::Send(_))));
    }
}
