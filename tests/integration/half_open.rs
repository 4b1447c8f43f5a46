//! A network that drops everything without an error: walcat gives up the connections on both sides within `stall_timeout`, and
//! reconnects.

#![allow(unsafe_code, reason = "calls libc")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::proxy::{Proxy, Weather};
use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::{Walcat, signal_process};

const STALL_TIMEOUT: &str = "3s";
/// The time that remains for the attempts to reconnect.
const LIMIT: Duration = Duration::from_secs(12);

fn stream(world: &World, dsn: &str, brokers: &str) -> Walcat {
    Walcat::new(&["stream", "--dsn", dsn, "--slot", &world.slot, "--publication", &world.publication])
        .with(&["--topic-prefix", &world.prefix, "--brokers", brokers, "--stall-timeout", STALL_TIMEOUT])
        .deadline(120)
}

/// The world's server through a proxy.
fn postgres_behind_a_proxy(world: &World) -> (Proxy, String) {
    let proxy = Proxy::start(world.pg.port.parse().expect("a port")).expect("a proxy");
    let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={}", proxy.port(), world.database);
    (proxy, dsn)
}

#[test]
fn a_connection_to_postgresql_that_is_lost_in_silence_is_made_again() {
    for engine in ["streaming", "polling"] {
        lose_connection(engine);
    }
}

fn lose_connection(engine: &str) {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let (proxy, dsn) = postgres_behind_a_proxy(&world);
    // The server has not noticed the failure, and its session still holds the slot.
    let arguments = ["--takeover", "--engine", engine];
    let mut running = stream(&world, &dsn, &world.kafka.brokers).with(&arguments).spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    proxy.lose();
    let begun = Instant::now();
    running.wait_for_log("the server sent nothing for 3 s");
    running.wait_for_log("streaming resumed");
    world.confirm_change("INSERT INTO t VALUES (2)", 30);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    running.terminate().expect_code(0);
}

/// 4 MB at about 800 kB per second: a message that takes longer than `stall_timeout`.
#[test]
fn a_message_that_takes_longer_than_the_stall_timeout_to_arrive_arrives() {
    for engine in ["streaming", "polling"] {
        let world = World::new("CREATE TABLE t (id int PRIMARY KEY, v text)");
        let (proxy, dsn) = postgres_behind_a_proxy(&world);
        world.sql("INSERT INTO t VALUES (1, repeat('x', 4000000))");
        proxy.set(Weather::Slow(Duration::from_millis(10)));
        let arguments = ["--sink", "stdout", "--once", "--stall-timeout", "1s", "--engine", engine];
        let finished =
            Walcat::new(&["stream", "--dsn", &dsn, "--slot", &world.slot, "--publication", &world.publication])
                .with(&arguments)
                .run()
                .expect_code(0);
        assert!(finished.stdout.len() > 4_000_000, "{}", finished.stdout.len());
        assert!(!finished.log.contains("is interrupted"), "{engine}: {}", finished.log);
    }
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
    // librdkafka's default limit is a minute.
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    running.terminate().expect_code(0);
}

/// walcat terminates only its own previous session; otherwise two instances would terminate each other forever.
#[test]
fn a_connection_that_is_made_again_takes_the_slot_over_from_nobody_else() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let (proxy, dsn) = postgres_behind_a_proxy(&world);
    let mut first = stream(&world, &dsn, &world.kafka.brokers).with(&["--takeover"]).spawn();
    first.wait_for_log("streaming started");
    proxy.set(Weather::Cut);
    first.wait_for_log("the stream is interrupted");
    let mut second = world.stream_to_kafka().deadline(60).spawn();
    second.wait_for_log("streaming started");
    world.sql("INSERT INTO t VALUES (1)");
    world.wait_confirmed(30);
    proxy.set(Weather::Fair);
    // For the first instance, the changes that the second one delivered are a gap.
    let first = first.wait().expect_code(78).expect_log(&["another process moved the slot"]);
    assert!(!first.log.contains("takeover: "), "{}", first.log);
    second.terminate().expect_code(0);
}

/// A dead machine does not refuse a connection: it must not hide the standby that follows it in the conninfo.
#[test]
fn a_host_that_swallows_everything_is_left_for_the_next_one() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let dead = listener.local_addr().expect("a port");
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname={} connect_timeout=2",
        dead.port(),
        world.pg.port,
        world.database
    );
    let status = || {
        let status = Walcat::new(&["slot", "status", "--dsn", &dsn, "--slot", &world.slot]).run();
        status.expect_code(0).expect_log(&["PostgreSQL does not answer; trying the next host", "timeout_s=2"])
    };
    // The connection succeeds, but no process reads from it.
    status();
    let _queue = fill_queue(&listener, dead);
    // The connection does not succeed.
    let begun = Instant::now();
    status();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

/// The same for several addresses of one host name, with a hosts file in a separate mount namespace.
#[test]
fn an_address_that_swallows_everything_is_left_for_the_next_one_of_its_name() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    // The system returns the machine's own address first.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = silent.local_addr().expect("a port").port();
    let forwarder = TcpListener::bind(("127.0.0.2", port)).expect("a listener");
    let target = format!("127.0.0.1:{}", world.pg.port);
    std::thread::spawn(move || {
        for client in forwarder.incoming().flatten() {
            let server = TcpStream::connect(&target).expect("the server");
            let (mut from, mut to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
            let (mut back_from, mut back_to) = (server, client);
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
        }
    });
    let hosts = file("hosts", "127.0.0.1 localhost two-addresses\n127.0.0.2 two-addresses\n");
    let dsn = format!("host=two-addresses port={port} user=postgres dbname={} connect_timeout=2", world.database);
    // SAFETY: takes nothing and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let user: &[&str] = if is_root { &[] } else { &["--user", "--map-root-user"] };
    let output = Command::new("unshare")
        .args(user)
        .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", &hosts])
        .args([env!("CARGO_BIN_EXE_walcat"), "slot", "status", "--dsn", &dsn, "--slot", &world.slot])
        .output()
        .expect("unshare");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("PostgreSQL does not answer; trying the next host"), "{log}");
    assert!(log.contains("address=127.0.0.1"), "{log}");
}

/// Fills a listener's queue, so that the system accepts no other connection.
fn fill_queue(listener: &TcpListener, address: SocketAddr) -> Vec<TcpStream> {
    // SAFETY: a socket that listens already; to call it again changes the length of its queue.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300));
    let queue = std::iter::from_fn(|| connect().ok()).take(10).collect::<Vec<_>>();
    assert!(queue.len() < 10, "the queue does not fill");
    queue
}

/// A peek has no keepalives: walcat gives up its server if the answer takes too long.
#[test]
fn a_server_process_that_freezes_under_a_peek_is_found_within_the_stall_timeout() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut running = stream(&world, &world.dsn(), &world.kafka.brokers).with(&["--engine", "polling"]).spawn();
    running.wait_for_log("streaming started");
    world.confirm_change("INSERT INTO t VALUES (1)", 30);
    let find = format!(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'walcat' AND datname = '{}' \
         AND query LIKE '%pg_replication_slot_advance%'",
        world.database
    );
    let pid: i32 = world.sql(&find).parse().expect("the session that polls");
    signal_process(pid, libc::SIGSTOP);
    let begun = Instant::now();
    running.wait_for_log("the server sent nothing for 3 s");
    running.wait_for_log("; reconnecting");
    // The session may hold the slot, and handles the request only when it runs.
    signal_process(pid, libc::SIGCONT);
    world.confirm_change("INSERT INTO t VALUES (2)", 30);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    running.terminate().expect_code(0);
}

/// A broker with a second listener that advertises the proxy's address.
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
