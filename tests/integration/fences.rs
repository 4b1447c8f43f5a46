//! Kafka fences the producer: walcat looks for the instance that has taken over, and serves its session meanwhile.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};

use crate::exactly_once::stream;
use crate::servers::{World, file};
use crate::walcat::Running;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Shorter than the look, which takes 3 s if nobody is found.
const AT_ONCE: Duration = Duration::from_millis(1_500);

/// Takes the transactional id, like an instance that has not written its start record yet, from under an open transaction.
fn fence(world: &World) {
    world.sql("INSERT INTO t VALUES (2)");
    let system = world.sql("SELECT system_identifier FROM pg_control_system()");
    let (database, slot) = (&world.database, &world.slot);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.kafka.brokers)
        .set("transactional.id", format!("walcat.{system}.{database}.{slot}"))
        .create()
        .expect("producer");
    producer.init_transactions(TIMEOUT).expect("init");
    // If the transaction was committed before.
    world.sql("INSERT INTO t VALUES (3)");
}

/// A stream that has delivered a row.
fn streaming(world: &World) -> Running {
    let config = file("fences.toml", "status_interval = \"100ms\"\n[transaction]\ninterval = \"5s\"\n");
    let mut running = stream(world).with(&["--config", &config]).deadline(120).spawn();
    running.wait_for_log("checkpoint read");
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    running
}

#[test]
fn a_signal_while_walcat_looks_for_the_instance_that_fenced_it_ends_it_at_once() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut running = streaming(&world);
    fence(&world);
    running.wait_for_log("fenced");
    let signalled_at = Instant::now();
    let finished = running.terminate().expect_code(75);
    let took = signalled_at.elapsed();
    assert!(took < AT_ONCE, "it took {took:?} to end:\n{}", finished.log);
    stream(&world).with(&["--once"]).run().expect_code(0);
}

#[test]
fn walcat_answers_the_server_while_it_looks_for_the_instance_that_fenced_it() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut running = streaming(&world);
    fence(&world);
    running.wait_for_log("fenced");
    world.sql(&format!(
        "DO $$
         DECLARE
           walsender int := (SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}');
           before timestamptz := (SELECT reply_time FROM pg_stat_replication WHERE pid = walsender);
         BEGIN
           FOR attempt IN 1..20 LOOP
             PERFORM pg_sleep(0.05);
             IF (SELECT reply_time FROM pg_stat_replication WHERE pid = walsender) > before THEN RETURN; END IF;
           END LOOP;
           RAISE EXCEPTION 'no status update of process % since %', walsender, before;
         END $$",
        world.slot
    ));
    let log = running.log();
    assert!(!log.contains("with a new producer"), "the look was over before the update:\n{log}");
    // Nobody has taken over.
    running.wait_for_log("no other instance has started since then");
    world.confirm_change("INSERT INTO t VALUES (4)", 30);
    running.terminate().expect_code(0);
}
