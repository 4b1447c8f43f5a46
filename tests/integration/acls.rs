//! Kafka's ACLs with its own authorizer: the ACLs that the manual lists for exactly-once delivery and for the state topic are
//! sufficient, and walcat names a missing one.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "calls librdkafka"
)]

use std::ffi::{CString, c_char};
use std::ptr;

use rdkafka::bindings as rd;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaRespErr;

use crate::exactly_once::checkpoint_topic;
use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::{Finished, Walcat};

use rd::rd_kafka_AclOperation_t as Operation;
use rd::rd_kafka_ResourceType_t as Resource;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// An operation that the user may perform.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Acl {
    operation: Operation,
    resource: Resource,
    name: String,
}

fn acl(operation: Operation, resource: Resource, name: &str) -> Acl {
    Acl { operation, resource, name: name.to_owned() }
}

/// Allows the user these operations. They apply to the names of one world, so nothing has to be revoked.
fn allow(kafka: &Kafka, acls: &[Acl]) {
    let admin: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().expect("admin client");
    let text = |text: &str| CString::new(text).expect("no NUL");
    let principal = text(&format!("User:{}", kafka.variables["SASL_USER"]));
    let mut error: [c_char; 256] = [0; 256];
    let mut bindings: Vec<_> = acls
        .iter()
        .map(|acl| {
            // SAFETY: texts and the error buffer are live for the call, which copies them.
            unsafe {
                rd::rd_kafka_AclBinding_new(
                    acl.resource,
                    text(&acl.name).as_ptr(),
                    rd::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                    principal.as_ptr(),
                    c"*".as_ptr(),
                    acl.operation,
                    rd::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                    error.as_mut_ptr(),
                    error.len(),
                )
            }
        })
        .collect();
    assert!(bindings.iter().all(|binding| !binding.is_null()), "{acls:?}");
    let client = admin.client().native_ptr();
    // SAFETY: the client is live until the end of this function.
    let queue = unsafe { rd::rd_kafka_queue_new(client) };
    // SAFETY: client, queue and the array of bindings are live; the request copies the bindings.
    unsafe { rd::rd_kafka_CreateAcls(client, bindings.as_mut_ptr(), bindings.len(), ptr::null(), queue) };
    // SAFETY: the queue is live.
    let event = unsafe { rd::rd_kafka_queue_poll(queue, 30_000) };
    assert!(!event.is_null(), "no answer");
    // SAFETY: the event is live.
    assert_eq!(unsafe { rd::rd_kafka_event_error(event) }, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    let mut count = 0;
    // SAFETY: the event is of this kind, and the results belong to it.
    let results =
        unsafe { rd::rd_kafka_CreateAcls_result_acls(rd::rd_kafka_event_CreateAcls_result(event), &raw mut count) };
    assert_eq!(count, acls.len());
    for (index, acl) in acls.iter().enumerate() {
        // SAFETY: the array has so many elements; a null error is success.
        assert!(unsafe { rd::rd_kafka_acl_result_error(*results.add(index)) }.is_null(), "{acl:?}");
    }
    for binding in bindings {
        // SAFETY: destroyed once.
        unsafe { rd::rd_kafka_AclBinding_destroy(binding) };
    }
    // SAFETY: each is destroyed once, before the client.
    unsafe {
        rd::rd_kafka_event_destroy(event);
        rd::rd_kafka_queue_destroy(queue);
    }
}

/// The ACLs that walcat(1) lists.
fn listed(world: &World) -> Vec<Acl> {
    let id = format!("walcat{}", &checkpoint_topic(world)["__walcat".len()..]);
    let (checkpoints, topic) = (checkpoint_topic(world), world.topic("t"));
    vec![
        acl(Operation::RD_KAFKA_ACL_OPERATION_WRITE, Resource::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID, &id),
        acl(Operation::RD_KAFKA_ACL_OPERATION_CREATE, Resource::RD_KAFKA_RESOURCE_TOPIC, &checkpoints),
        acl(Operation::RD_KAFKA_ACL_OPERATION_WRITE, Resource::RD_KAFKA_RESOURCE_TOPIC, &checkpoints),
        acl(Operation::RD_KAFKA_ACL_OPERATION_READ, Resource::RD_KAFKA_RESOURCE_TOPIC, &checkpoints),
        acl(Operation::RD_KAFKA_ACL_OPERATION_CREATE, Resource::RD_KAFKA_RESOURCE_TOPIC, &topic),
        acl(Operation::RD_KAFKA_ACL_OPERATION_WRITE, Resource::RD_KAFKA_RESOURCE_TOPIC, &topic),
    ]
}

/// The ACLs that walcat.toml(5) lists for the state topic.
fn listed_for_state(world: &World) -> Vec<Acl> {
    listed(world).split_off(1)
}

fn run(world: &World) -> Finished {
    run_with(world, &["--delivery", "exactly-once"])
}

fn run_with(world: &World, arguments: &[&str]) -> Finished {
    let variable = |name: &str| world.kafka.variables[name].as_str();
    let stream: Walcat = world.stream().with(arguments).with(&["--once"]);
    stream
        .with(&["--brokers", variable("SASL_SSL_BROKERS"), "-X", "security.protocol=SASL_SSL"])
        .with(&["-X", "sasl.mechanism=SCRAM-SHA-256", "-X", "sasl.password=env:KAFKA_PASSWORD"])
        .with(&["-X", &format!("sasl.username={}", variable("SASL_USER"))])
        .with(&["-X", &format!("ssl.ca.location={}", variable("CA_FILE"))])
        .env("KAFKA_PASSWORD", variable("SASL_PASSWORD"))
        .run()
}

#[test]
fn kafkas_stores_work_with_the_acls_that_are_listed_and_name_each_that_is_missing() {
    let kafka = Kafka::start("acls", &["--sasl-ssl", "--acls"]);
    let changed = || {
        let world = World::on(Postgres::shared(), &kafka, TABLE);
        world.sql("INSERT INTO t VALUES (1)");
        world
    };
    let world = changed();
    allow(&kafka, &listed(&world));
    run(&world).expect_code(0);
    assert_eq!(crate::kafka::read_committed(&kafka.brokers, &world.topic("t")).len(), 1);
    // The topics exist, so the ACLs to create them are not required again.
    world.sql("INSERT INTO t VALUES (2)");
    run(&world).expect_code(0);

    // Each of the state topic, which is the one of the checkpoints.
    let state = file("acls.toml", "[state]\ntopic = true\n");
    let state = ["--config", state.as_str()];
    let world = changed();
    allow(&kafka, &listed_for_state(&world));
    run_with(&world, &state).expect_code(0);

    let exactly_once = ["--delivery", "exactly-once"];
    // The ACLs for the topic of the changes are the same for both.
    let cases = (0..6).map(|missing| (missing, &exactly_once)).chain((0..3).map(|missing| (missing, &state)));
    for (missing, arguments) in cases {
        let world = changed();
        let mut acls = if arguments == &state { listed_for_state(&world) } else { listed(&world) };
        let Acl { operation, name, .. } = acls.remove(missing);
        allow(&kafka, &acls);
        let before = world.confirmed();
        let operation = match operation {
            Operation::RD_KAFKA_ACL_OPERATION_WRITE => "Write",
            Operation::RD_KAFKA_ACL_OPERATION_READ => "Read",
            _ => "Create",
        };
        let ended = run_with(&world, arguments);
        println!("without {operation} on {name}:\n{}", ended.log);
        ended.expect_code(77).expect_log(&[&name, operation, "hint: "]);
        assert_eq!(world.confirmed(), before);
    }
}

/// A broker answers a request that is too large by closing the connection.
#[test]
fn without_the_acl_to_read_the_limits_a_record_that_no_request_carries_is_named() {
    let limit = ["--sasl-ssl", "--acls", "--set", "socket.request.max.bytes=4000000"];
    let kafka = Kafka::start("acls-limits", &limit);
    let config = file("limits.toml", "on_error = 'skip'\n[retry]\nbroker_for = '20s'\n");
    for (bytes, is_huge) in [(112_000_000, true), (5_000_000, false)] {
        let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY, v text)");
        allow(&kafka, &listed(&world));
        world.sql(&format!("INSERT INTO t VALUES (1, repeat('x', {bytes}))"));
        let before = world.confirmed();
        let run = run_with(&world, &["-X", "compression.type=none", "--config", &config]).expect_code(69);
        let topic = world.topic("t");
        let record = format!("waiting: a record of table public.t for topic {topic} from the transaction at 0/");
        let hint = "hint: the record may be too large for any request";
        let run = run.expect_log(&[&record, hint, "DescribeConfigs"]);
        let warning = "sending a record that a broker with the default socket.request.max.bytes never takes";
        assert_eq!(run.log.contains(warning), is_huge, "{bytes}: {}", run.log);
        assert_eq!(world.confirmed(), before);
    }
}
