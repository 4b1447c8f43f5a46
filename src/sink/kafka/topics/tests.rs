//! What waits and what is asked, with answers that the tests give.

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::*;
use crate::change::{RelationIndex, Ticket};
use crate::lsn::Lsn;
use crate::record::Destination;
use crate::sink::kafka::availability::Availability;
use crate::sink::kafka::client::admin::{AdminError, Answer, Content};
use crate::sink::kafka::client::context::Context;
use crate::sink::kafka::client::ffi::{Native, Wake};
use crate::sink::kafka::client::producer;
use crate::sink::kafka::flight::Ordinal;

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
            let handled = waiting.handle(answer(attempts, Content::TopicsCreated(Ok(refused))), &mut availability, now);
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
