//! Threads of librdkafka that get no CPU time, as on an overcommitted machine or in a container without remaining quota.

#![allow(unsafe_code, reason = "traces threads")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::crashes::{TABLES, Writers, random, seed, transactions};
use crate::exactly_once::{check_exactly_once, stream};
use crate::servers::{Kafka, Postgres, World, file};
use crate::walcat::Running;

/// How long one test starves the thread; WALCAT_STARVATION_S makes it longer.
const STARVATION: Duration = Duration::from_secs(12);

fn starvation() -> Duration {
    let longer = std::env::var("WALCAT_STARVATION_S").ok().and_then(|text| text.parse().ok());
    longer.map_or(STARVATION, Duration::from_secs)
}

/// One thread of another process, stopped and continued separately: SIGSTOP would stop all of them.
struct Thread(libc::pid_t);

impl Thread {
    /// The threads with this name.
    fn named(pid: i32, name: &str) -> Vec<Thread> {
        let tasks =
            std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").map(|task| task.expect("task").path());
        let is_it = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let id = |task: PathBuf| task.file_name()?.to_str()?.parse().ok();
        let threads: Vec<_> = tasks.filter(is_it).filter_map(id).map(Thread::seize).collect();
        assert!(!threads.is_empty(), "no thread has the name {name}");
        threads
    }

    fn seize(id: libc::pid_t) -> Thread {
        request(libc::PTRACE_SEIZE, id);
        Thread(id)
    }

    /// Stops it, and waits until it has stopped.
    fn stop(&self) {
        request(libc::PTRACE_INTERRUPT, self.0);
        // SAFETY: this thread traces that one and has just stopped it; no status is read.
        let waited = unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL) };
        assert_eq!(waited, self.0, "{}", std::io::Error::last_os_error());
    }

    /// Reaps its end; until then, no process learns that its process has ended.
    fn reap(&self) {
        // SAFETY: as in stop; it does not wait.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
    }

    fn go_on(&self) {
        request(libc::PTRACE_CONT, self.0);
    }
}

fn request(request: libc::c_uint, thread: libc::pid_t) {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of either process.
    let result = unsafe { libc::ptrace(request, thread, nothing, nothing) };
    assert_eq!(result, 0, "{request:#x}: {}", std::io::Error::last_os_error());
}

/// Lets the threads with this name run only from time to time, for `length`. A tracer that ends detaches from its threads, so
/// the test starts its own tracing thread.
fn starve(
    running: &Running,
    name: &'static str,
    length: Duration,
    mut pauses: impl FnMut() -> (Duration, Duration) + Send,
) {
    let pid = running.pid();
    std::thread::scope(|scope| {
        let starving = scope.spawn(move || {
            let threads = Thread::named(pid, name);
            let until = Instant::now() + length;
            while Instant::now() < until {
                let (stopped, running) = pauses();
                threads.iter().for_each(Thread::stop);
                std::thread::sleep(stopped);
                threads.iter().for_each(Thread::go_on);
                std::thread::sleep(running);
            }
        });
        starving.join().expect("the thread that starves another one");
    });
}

/// A late answer must not be taken for the answer to the next call.
#[test]
fn a_thread_of_librdkafkas_that_hardly_runs_neither_ends_the_process_nor_loses_a_record() {
    let mut state = seed();
    let world = World::new(TABLES);
    let config = file("short.toml", "[transaction]\ninterval = \"5ms\"\n");
    let seconds = starvation().as_secs() + 120;
    let mut running = stream(&world).with(&["--config", &config]).deadline(seconds).spawn();
    running.wait_for_log("checkpoint read");
    let writers = Writers::start(&world);
    world.wait_confirmed(30);
    starve(&running, "rdk:main", starvation(), || {
        let stopped = Duration::from_millis(5 + random(&mut state) % 60);
        (stopped, Duration::from_micros(200 + random(&mut state) % 5_000))
    });
    writers.stop();
    assert!(!running.has_ended(), "{}", running.log());
    world.wait_confirmed(60);
    running.terminate().expect_code(0);
    check_exactly_once(&world);
}

/// walcat continues to answer PostgreSQL during every call to librdkafka.
#[test]
fn a_commit_that_takes_long_does_not_keep_keepalives_from_being_answered() {
    let pg = Postgres::start("starved", 15, &["--no-fsync", "-c", "wal_sender_timeout=2s"]);
    let world = World::on(&pg, Kafka::shared(), TABLES);
    let mut running = stream(&world).deadline(120).spawn();
    running.wait_for_log("checkpoint read");
    world.sql(&transactions(1));
    world.wait_confirmed(30);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            world.sql(&transactions(1));
        });
        starve(&running, "rdk:main", Duration::from_secs(1), || (Duration::from_secs(8), Duration::from_millis(1)));
        writing.join().expect("writer");
    });
    world.wait_confirmed(30);
    let ended = running.terminate().expect_code(0);
    for text in ["the stream is interrupted", "Kafka discarded records"] {
        assert!(!ended.log.contains(text), "{}", ended.log);
    }
}

/// walcat stops in time after a signal although the commit that it waits for does not return.
#[test]
fn a_stop_does_not_wait_longer_than_it_may_for_a_commit_that_hangs() {
    for (timeout, signals) in [("2s", 1), ("60s", 2)] {
        let world = World::new(TABLES);
        let config = file("stop.toml", &format!("shutdown_timeout = \"{timeout}\"\n"));
        let mut running = stream(&world).with(&["--config", &config]).deadline(60).spawn();
        running.wait_for_log("checkpoint read");
        world.sql(&transactions(1));
        world.wait_confirmed(30);
        let pid = running.pid();
        std::thread::scope(|scope| {
            let tracing = scope.spawn(|| {
                let threads = Thread::named(pid, "rdk:main");
                threads.iter().for_each(Thread::stop);
                world.sql(&transactions(1));
                std::thread::sleep(Duration::from_secs(1));
                let begun = Instant::now();
                for _ in 0..signals {
                    crate::walcat::signal_process(pid, libc::SIGTERM);
                    std::thread::sleep(Duration::from_millis(300));
                }
                while !running.has_ended() {
                    assert!(begun.elapsed() < Duration::from_secs(15), "it does not end: {}", running.log());
                    threads.iter().for_each(Thread::reap);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            tracing.join().expect("the thread that stops another one");
        });
        running.wait().expect_code(75);
        stream(&world).with(&["--once"]).run().expect_code(0);
    }
}
