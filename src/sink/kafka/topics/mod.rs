//! Records that wait for information about their topic, and that information: which topics exist, which are compacted,
//! and what sizes the brokers accept. At most one request to the cluster is in flight. It asks for everything that is
//! needed at that time. After a failure, the next request is sent no sooner than `PROBE_INTERVAL` later.

mod answers;
mod held;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::TopicTemplate;
use crate::sink::kafka::client::admin::{Admin, Configuration, NewTopic, RequestId};
use crate::sink::kafka::client::request_size::{LARGE_RECORD_BYTES, Limits, REQUEST_BYTES_MAX_DEFAULT};
use crate::sink::kafka::error::Error;
pub use held::{HeldRecord, Release};

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

fn policy_of(known: Option<&Configuration>) -> Option<&str> {
    known.map(|known| known.cleanup_policy.as_str())
}

/// Whether a `cleanup.policy`, such as `compact,delete`, contains this word.
fn has_word(policy: Option<&str>, word: &str) -> bool {
    policy.is_some_and(|policy| policy.split(',').any(|found| found.trim() == word))
}
