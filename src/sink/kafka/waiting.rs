//! Records that wait until something is known of their topic, and what is known: which topics are there, and which
//! are compacted. One request to the cluster is under way at a time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use log::{info, warn};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::TopicTemplate;
use super::admin::{Admin, AdminError, Answer, NewTopic};
use super::availability::Availability;
use super::error::Error;
use crate::change::Ticket;
use crate::encode::Destination;
use crate::lsn::Lsn;

/// How long one request to the cluster may take before it is sent again.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The time between two probes of a cluster that does not answer.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The words of `cleanup.policy`.
const COMPACT: &str = "compact";
const DELETE: &str = "delete";

/// The segment that is being written is never compacted, and all of it is read at each start.
const CHECKPOINT_SEGMENT_BYTES: u64 = 10 * 1024 * 1024;

/// A record that waits, with bytes of its own.
#[derive(Debug)]
pub struct Held {
    /// Where it goes.
    pub destination: Destination,
    /// That topic's name.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its header.
    pub header: Option<(&'static str, Vec<u8>)>,
    /// The entry it belongs to.
    pub ticket: Ticket,
    /// The LSN of its change.
    pub lsn: Lsn,
    /// A truncation's record, which a compacted topic refuses.
    pub truncation: bool,
}

/// What becomes of the record that has waited longest.
#[derive(Debug)]
pub enum Release {
    /// It can be sent.
    Send(Held),
    /// It is left out, and its ticket is settled.
    Skip(Ticket),
}

/// The request to the cluster that is under way.
#[derive(Debug)]
enum Request {
    None,
    Probe { sent_at: Instant },
    Create { topic: String, sent_at: Instant },
    Policy { topic: String, sent_at: Instant },
}

/// The records that wait, and the knowledge that they wait for.
#[derive(Debug)]
pub struct Waiting {
    /// How missing topics are made; none to leave that to the broker.
    template: Option<TopicTemplate>,
    request: Request,
    /// Topics that were made, or found when they were to be made.
    existing: HashSet<String>,
    /// Those of them that may not be made, and need not be there.
    denied: HashSet<String>,
    /// The topics' `cleanup.policy`, as far as it was asked; none where it is not known.
    policies: HashMap<String, Option<String>>,
    held: VecDeque<Held>,
}

impl Waiting {
    /// Nothing waits, and a first probe is under way: the caller has sent it.
    #[must_use]
    pub fn new(template: Option<TopicTemplate>, now: Instant) -> Self {
        Waiting {
            template,
            request: Request::Probe { sent_at: now },
            existing: HashSet::new(),
            denied: HashSet::new(),
            policies: HashMap::new(),
            held: VecDeque::new(),
        }
    }

    /// Whether no record waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether a record has to wait: for its topic, or behind another one.
    #[must_use]
    pub fn must_wait(&self, topic: &str, truncation: bool) -> bool {
        !self.held.is_empty() || truncation || (self.template.is_some() && !self.existing.contains(topic))
    }

    /// Nothing is sent to a topic any more.
    pub fn forget(&mut self, topic: &str) {
        self.existing.remove(topic);
        self.policies.remove(topic);
    }

    /// Keeps a record.
    pub fn hold(&mut self, record: Held) {
        self.held.push_back(record);
    }

    /// Takes out the record that has waited longest if enough is known now; else asks for what is missing.
    ///
    /// # Errors
    /// [`Error::CreateTopic`] when librdkafka refuses to ask.
    pub fn release(&mut self, admin: &Admin, now: Instant) -> Result<Option<Release>, Error> {
        let Some(Held { topic, truncation, .. }) = self.held.front() else { return Ok(None) };
        let (topic, truncation) = (topic.clone(), *truncation);
        if !self.existing.contains(&topic)
            && let Some(template) = self.template.clone()
        {
            self.ensure(admin, &topic, &template, now)?;
            return Ok(None);
        }
        if truncation {
            let Some(policy) = self.policy(admin, &topic, now) else { return Ok(None) };
            if has_word(policy.as_deref(), COMPACT) {
                return Ok(self.held.pop_front().map(|held| Release::Skip(held.ticket)));
            }
        }
        Ok(self.held.pop_front().map(Release::Send))
    }

    /// Whether a topic is there; asks for it to be made as long as it is not.
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
        if self.is_free(now) {
            create(admin, topic, template)?;
            self.request = Request::Create { topic: topic.to_owned(), sent_at: now };
        }
        Ok(false)
    }

    /// The same for the checkpoint topic, of which nothing may be deleted by age or size.
    ///
    /// # Errors
    /// [`Error::CreateTopic`], and [`Error::CheckpointPolicy`] for a topic that was made otherwise.
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
        match self.policy(admin, topic, now) {
            Some(Some(policy)) if has_word(Some(policy), DELETE) => {
                Err(Error::CheckpointPolicy { topic: topic.to_owned(), policy: policy.clone() })
            }
            policy => Ok(policy.is_some()),
        }
    }

    /// Whether the cluster has refused to make a topic.
    #[must_use]
    pub fn is_denied(&self, topic: &str) -> bool {
        self.denied.contains(topic)
    }

    /// The producer is another one: what it was asked will not be answered, and what waited will come again. What was known
    /// of topics is asked again: one that was deleted may be why.
    pub fn renew(&mut self, now: Instant) {
        self.held.clear();
        self.existing.clear();
        self.denied.clear();
        self.policies.clear();
        self.request = Request::Probe { sent_at: now };
    }

    /// Asks whether the cluster is there, unless a request is under way.
    pub fn probe(&mut self, admin: &Admin, now: Instant) {
        if self.is_free(now) {
            admin.probe();
            self.request = Request::Probe { sent_at: now };
        }
    }

    /// Takes the cluster's answer.
    ///
    /// # Errors
    /// [`Error::CreateTopic`] when a topic cannot be made.
    pub fn heed(&mut self, answer: Answer, availability: &mut Availability, now: Instant) -> Result<(), Error> {
        let request = std::mem::replace(&mut self.request, Request::None);
        match (answer, request) {
            (Answer::CleanupPolicy(Err(error)), Request::Probe { .. }) if !error.is_an_answer() => {
                self.ask_later(&error, availability, now);
            }
            (Answer::CleanupPolicy(_), Request::Probe { .. }) => availability.answered(),
            (Answer::TopicCreated(result), Request::Create { topic, .. }) => {
                self.created(topic, result, availability, now)?;
            }
            (Answer::CleanupPolicy(result), Request::Policy { topic, .. }) => {
                self.described(topic, result, availability, now);
            }
            // The answer to a request that was given up.
            _ => {}
        }
        Ok(())
    }

    /// When [`Waiting::release`] or [`Waiting::probe`] has to be called again at the latest.
    #[must_use]
    pub fn deadline(&self, is_outage: bool) -> Option<Instant> {
        match self.request {
            Request::Probe { sent_at } if is_outage || !self.held.is_empty() => Some(sent_at + PROBE_INTERVAL),
            Request::Create { sent_at, .. } | Request::Policy { sent_at, .. } => Some(sent_at + 2 * ADMIN_TIMEOUT),
            Request::None | Request::Probe { .. } => None,
        }
    }

    fn created(
        &mut self,
        topic: String,
        result: Result<(), AdminError>,
        availability: &mut Availability,
        now: Instant,
    ) -> Result<(), Error> {
        match result {
            Ok(()) => info!(topic = topic.as_str(); "topic created"),
            Err(error) if error.code == Code::TopicAlreadyExists => {}
            // It may be there all the same: the broker has the last word on its records.
            Err(error) if matches!(error.code, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
                warn!(topic = topic.as_str(), error:% = error.code; "topics may not be created here: it has to be there");
                self.denied.insert(topic.clone());
            }
            Err(error) if is_transient(error.code) => {
                self.ask_later(&error, availability, now);
                return Ok(());
            }
            Err(error) => return Err(Error::CreateTopic { topic, code: error.code, reason: error.message }),
        }
        availability.answered();
        self.existing.insert(topic);
        Ok(())
    }

    /// A topic's `cleanup.policy`, `Some(None)` where it cannot be known; asks for it as long as it was not.
    fn policy(&mut self, admin: &Admin, topic: &str, now: Instant) -> Option<&Option<String>> {
        if !self.policies.contains_key(topic) && self.is_free(now) {
            admin.describe_topic(topic);
            self.request = Request::Policy { topic: topic.to_owned(), sent_at: now };
        }
        self.policies.get(topic)
    }

    fn described(
        &mut self,
        topic: String,
        result: Result<String, AdminError>,
        availability: &mut Availability,
        now: Instant,
    ) {
        let policy = match result {
            Ok(policy) => {
                availability.answered();
                Some(policy)
            }
            // During an outage the question is asked again; a cluster that takes records but does not answer it, such
            // as one that does not know the request, need not be asked twice.
            Err(error) if is_transient(error.code) && !availability.is_reachable() => {
                self.ask_later(&error, availability, now);
                return;
            }
            // Not there yet, or not ours to see: the broker has the last word on the record.
            Err(_) => None,
        };
        let is_for_truncation = self.held.front().is_some_and(|held| held.truncation && held.topic == topic);
        if is_for_truncation && has_word(policy.as_deref(), COMPACT) {
            warn!(topic = topic.as_str(); "truncations are skipped: a compacted topic takes no record without a key");
        }
        self.policies.insert(topic, policy);
    }

    fn ask_later(&mut self, error: &AdminError, availability: &mut Availability, now: Instant) {
        availability.probe_failed(&error.message);
        self.request = Request::Probe { sent_at: now };
    }

    /// Whether another request may be sent: none is under way, or it has taken too long.
    fn is_free(&self, now: Instant) -> bool {
        match &self.request {
            Request::None => true,
            Request::Probe { sent_at } => now.saturating_duration_since(*sent_at) >= PROBE_INTERVAL,
            Request::Create { sent_at, .. } | Request::Policy { sent_at, .. } => {
                now.saturating_duration_since(*sent_at) >= 2 * ADMIN_TIMEOUT
            }
        }
    }
}

/// Whether a `cleanup.policy`, such as `compact,delete`, has this word.
fn has_word(policy: Option<&str>, word: &str) -> bool {
    policy.is_some_and(|policy| policy.split(',').any(|found| found.trim() == word))
}

fn create(admin: &Admin, topic: &str, template: &TopicTemplate) -> Result<(), Error> {
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: template.partitions,
        replication_factor: template.replication_factor,
        properties: template.properties.clone(),
    };
    let refused =
        |error: AdminError| Error::CreateTopic { topic: topic.to_owned(), code: error.code, reason: error.message };
    admin.create_topic(&new).map_err(refused)
}

/// Whether the cluster may answer the same request otherwise a little later.
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
