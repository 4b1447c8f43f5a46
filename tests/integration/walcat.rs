//! Runs the walcat binary.

#![allow(unsafe_code, reason = "sends signals")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a run may take by default.
const DEADLINE: Duration = Duration::from_secs(60);

/// A run that is not started yet.
pub struct Walcat {
    command: Command,
    deadline: Duration,
}

impl Walcat {
    /// With an environment without walcat's, libpq's and Rust's variables.
    pub fn new(arguments: &[&str]) -> Walcat {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walcat"));
        command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WALCAT_") || name.starts_with("PG")) {
            command.env_remove(name);
        }
        Walcat { command, deadline: DEADLINE }
    }

    pub fn with(mut self, arguments: &[&str]) -> Walcat {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Walcat {
        self.command.env(name, value);
        self
    }

    pub fn deadline(mut self, seconds: u64) -> Walcat {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Runs it until it exits.
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("walcat");
        let mut stdout = child.stdout.take().expect("stdout");
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.read_to_end(&mut bytes);
            bytes
        });
        let lines = Arc::new(Mutex::new(String::new()));
        let (stderr, seen) = (child.stderr.take().expect("stderr"), Arc::clone(&lines));
        let log = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut seen = seen.lock().expect("log");
                seen.push_str(&line);
                seen.push('\n');
            }
        });
        Running { child, stdout: Some(stdout), log: Some(log), lines, deadline: Instant::now() + self.deadline }
    }
}

/// A run in progress; dropping it kills the process.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    log: Option<JoinHandle<()>>,
    lines: Arc<Mutex<String>>,
    deadline: Instant,
}

impl Running {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pid")
    }

    pub fn signal(&self, signal: i32) {
        signal_process(self.pid(), signal);
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.lines.lock().expect("log").clone()
    }

    /// Waits for a text in the log.
    pub fn wait_for_log(&mut self, text: &str) {
        self.wait_for_log_times(text, 1);
    }

    /// Waits until a text is in the log `times` times.
    pub fn wait_for_log_times(&mut self, text: &str, times: usize) {
        let is_there = |running: &Running| running.log().matches(text).count() >= times;
        while !is_there(self) {
            let ended = self.child.try_wait().expect("walcat");
            assert!(ended.is_none() || is_there(self), "ended by {ended:?} without {text:?}, {times} times");
            assert!(Instant::now() < self.deadline, "not logged {times} times: {text:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("walcat").is_some()
    }

    /// A number in kB from its `/proc/PID/status`, such as VmHWM.
    pub fn memory_kb(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect(field);
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect(field)
    }

    /// Waits until it exits, within the deadline.
    pub fn wait(mut self) -> Finished {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("walcat") {
                break status;
            }
            if Instant::now() >= self.deadline {
                let _ = self.child.kill();
                panic!("walcat did not end in time");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = self.stdout.take().expect("stdout").join().expect("stdout");
        self.log.take().expect("log").join().expect("log");
        Finished { code: status.code(), stdout: String::from_utf8(stdout).expect("UTF-8"), log: self.log() }
    }

    /// Sends SIGTERM and waits with a new deadline: on a slow machine the test may have used up the run's.
    pub fn terminate(mut self) -> Finished {
        self.deadline = self.deadline.max(Instant::now() + DEADLINE);
        self.signal(libc::SIGTERM);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the log of walcat, pid {}:\n{}", self.pid(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that these tests started and have not waited for.
pub fn signal_process(pid: i32, signal: i32) {
    // SAFETY: two numbers; the process was not waited for, so its pid still belongs to it.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// A run that has ended.
#[derive(Debug)]
pub struct Finished {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub log: String,
}

impl Finished {
    pub fn expect_code(self, code: i32) -> Finished {
        assert_eq!(self.code, Some(code), "{}", self.log);
        self
    }

    /// Expects that the log contains all of these texts.
    pub fn expect_log(self, texts: &[&str]) -> Finished {
        for text in texts {
            assert!(self.log.contains(text), "no {text:?} in:\n{}", self.log);
        }
        self
    }

    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// A number in the last log line that has it, such as `turns`.
    pub fn counter(&self, name: &str) -> u64 {
        let marker = format!(" {name}=");
        let (_, rest) = self.log.rsplit_once(&marker).unwrap_or_else(|| panic!("no {name} in:\n{}", self.log));
        rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect(name)
    }
}

/// Otherwise the longest tests could fail on a slow machine although everything was delivered.
#[test]
fn a_run_that_has_used_up_its_time_is_given_time_to_end() {
    let world = crate::servers::World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let running = world.stream_to_kafka().deadline(0).spawn();
    world.confirm_change("INSERT INTO t VALUES (1)", 60);
    running.terminate().expect_code(0);
}
