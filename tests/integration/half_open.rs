//! A network that swallows everything and tells nobody: connections on either side are given up within `stall_timeout`, and
//! made again.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::proxy::Proxy;
use crate::servers::{Kafka, Postgres, World};
use crate::walcat::Walcat;

const STALL_TIMEOUT: &str = "3s";
/// What is left for the attempts to connect again.
const LIMIT: Duration = Duration::from_secs(12);

fn stream(world: &World, dsn: &str, brokers: &str) -> Walcat {
    Walcat::new(&["stream", "--dsn", dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--topic-prefix", &world.prefix, "--brokers", brokers, "--stall-timeout", STALL_TIMEOUT])
        .deadline(120)
}

#[test]
fn a_connection_to_postgresql_that_is_lost_in_silence_is_made_again() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let proxy = Proxy::start(world.pg.port.parse().expect("a port")).expect("a proxy");
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={}", proxy.port(), world.database);
    // The server has not noticed yet, and its session holds the slot.
    let mut running = stream(&world, &dsn, &world.kafka.brokers).with(&["--takeover"]).spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO t VALUES (1)");
    world.wait_confirmed(30);
    proxy.lose();
    let begun = Instant::now();
    world.sql("INSERT INTO t VALUES (2)");
    running.wait_for_log("the server has sent nothing for 3 s");
    running.wait_for_log("the stream goes on");
    world.wait_confirmed(30);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    running.terminate().expect_code(0);
}

#[test]
fn a_connection_to_kafka_that_is_lost_in_silence_is_made_again() {
    let (kafka, proxy) = behind_a_proxy();
    let world = World::on(Postgres::shared(), &kafka, "CREATE TABLE t (id int PRIMARY KEY)");
    let brokers = format!("127.0.0.1:{}", proxy.port());
    let mut running = stream(&world, &world.pg.dsn(&world.database), &brokers).spawn();
    running.wait_for_log("streaming started");
    world.sql("INSERT INTO t VALUES (1)");
    world.wait_confirmed(30);
    proxy.lose();
    let begun = Instant::now();
    world.sql("INSERT INTO t VALUES (2)");
    world.wait_confirmed(30);
    // librdkafka's own limit is a minute.
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    running.terminate().expect_code(0);
}

/// A broker with a second listener, which tells its clients to come by way of the proxy.
fn behind_a_proxy() -> (Kafka, Proxy) {
    let kafka = Kafka::start("half-open", &[]);
    let inner = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let proxy = Proxy::start(inner).expect("a proxy");
    let node = Path::new(&kafka.variables["KAFKA_LOG"]).parent().expect("a folder");
    let port = |kind: &str| std::fs::read_to_string(node.join(format!("port-{kind}"))).expect(kind).trim().to_owned();
    let text = format!(
        "listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{},PROXIED://127.0.0.1:{inner}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{plain},PROXIED://127.0.0.1:{}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT\n",
        port("controller"),
        proxy.port(),
        plain = port("plain"),
    );
    kafka.stop();
    let mut file =
        std::fs::OpenOptions::new().append(true).open(node.join("node.properties")).expect("node.properties");
    file.write_all(text.as_bytes()).expect("node.properties");
    kafka.restart();
    (kafka, proxy)
}
