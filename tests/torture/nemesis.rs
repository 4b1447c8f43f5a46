//! The nemesis: one fault after another, each of them as often as the others, in an order and for times that the seed
//! gives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Engine;
use crate::cluster::{Cluster, NODES};
use crate::proxy::{Mode, Proxy};
use crate::random::Random;
use crate::supervisor::Supervisor;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillWalcat,
    FreezeWalcat,
    CrashPostgres,
    FreezeWalsender,
    KillBroker,
    KillCoordinator,
    FreezeBroker,
    CutNetwork,
    HoldNetwork,
    SlowNetwork,
    SecondWalcat,
}

const ALL: [Fault; 11] = [
    Fault::KillWalcat,
    Fault::FreezeWalcat,
    Fault::CrashPostgres,
    Fault::FreezeWalsender,
    Fault::KillBroker,
    Fault::KillCoordinator,
    Fault::FreezeBroker,
    Fault::CutNetwork,
    Fault::HoldNetwork,
    Fault::SlowNetwork,
    Fault::SecondWalcat,
];

/// How often each fault was injected.
pub fn summary(faults: &[Fault]) -> String {
    let mut counts: BTreeMap<Fault, u64> = BTreeMap::new();
    for fault in faults {
        *counts.entry(*fault).or_default() += 1;
    }
    counts.iter().map(|(fault, count)| format!("{count} x {fault:?}")).collect::<Vec<_>>().join(", ")
}

/// Who injects them.
pub struct Nemesis<'t> {
    random: Random,
    cluster: &'t Cluster,
    proxy: &'t Proxy,
    supervisor: &'t Supervisor,
    engine: Engine,
    begun: Instant,
}

impl<'t> Nemesis<'t> {
    pub fn new(
        seed: u64,
        cluster: &'t Cluster,
        proxy: &'t Proxy,
        supervisor: &'t Supervisor,
        engine: Engine,
    ) -> Nemesis<'t> {
        Nemesis { random: Random::new(seed), cluster, proxy, supervisor, engine, begun: Instant::now() }
    }

    /// Injects faults until the time is over; every kind at least once.
    pub fn torment(&mut self, duration: Duration) -> Vec<Fault> {
        self.begun = Instant::now();
        let mut injected = Vec::new();
        while self.begun.elapsed() < duration || injected.len() < ALL.len() {
            let mut round = ALL;
            self.random.shuffle(&mut round);
            for fault in round {
                if self.begun.elapsed() >= duration && injected.len() >= ALL.len() {
                    break;
                }
                std::thread::sleep(self.time(500, 4_000));
                self.inject(fault);
                injected.push(fault);
            }
        }
        injected
    }

    /// Everything runs and passes again.
    pub fn heal(&self) {
        self.proxy.set(Mode::Pass);
        self.supervisor.signal(libc::SIGCONT);
        self.cluster.restart_postgres();
        for node in 1..=NODES {
            signal(self.cluster.broker_pid(node), libc::SIGCONT);
        }
        self.cluster.restart_brokers();
    }

    fn time(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(self.random.between(low_ms, high_ms))
    }

    fn inject(&mut self, fault: Fault) {
        let (time, node) = (self.time(1_000, 8_000), self.random.between(1, NODES));
        println!(
            "torture: {:7.1} s {fault:?} ({} ms, node {node})",
            self.begun.elapsed().as_secs_f64(),
            time.as_millis()
        );
        match fault {
            Fault::KillWalcat => self.supervisor.signal(libc::SIGKILL),
            Fault::FreezeWalcat => {
                self.supervisor.signal(libc::SIGSTOP);
                std::thread::sleep(time);
                self.supervisor.signal(libc::SIGCONT);
            }
            Fault::CrashPostgres => {
                self.cluster.crash_postgres();
                std::thread::sleep(time / 4);
                self.cluster.restart_postgres();
            }
            Fault::FreezeWalsender => {
                // A slot that is polled has no walsender, but for the moment of a peek.
                let pid = if self.engine == Engine::Streaming { self.cluster.walsender() } else { None };
                signal(pid, libc::SIGSTOP);
                std::thread::sleep(time);
                signal(pid, libc::SIGCONT);
            }
            Fault::KillBroker => self.kill(node, time),
            Fault::KillCoordinator => {
                let coordinator = self.cluster.coordinator().unwrap_or(node);
                self.kill(coordinator, time);
            }
            Fault::FreezeBroker => {
                let pid = self.cluster.broker_pid(node);
                signal(pid, libc::SIGSTOP);
                std::thread::sleep(time);
                signal(pid, libc::SIGCONT);
            }
            Fault::CutNetwork => self.network(Mode::Cut, time),
            Fault::HoldNetwork => self.network(Mode::Hold, time),
            Fault::SlowNetwork => self.network(Mode::Slow, time),
            Fault::SecondWalcat => {
                let code = self.supervisor.settings.rival(time);
                println!("torture:           the second walcat ended with {code:?}");
            }
        }
    }

    fn kill(&self, node: u64, time: Duration) {
        self.cluster.kill_broker(node);
        std::thread::sleep(time);
        self.cluster.restart_brokers();
    }

    fn network(&self, mode: Mode, time: Duration) {
        self.proxy.set(mode);
        std::thread::sleep(time);
        self.proxy.set(Mode::Pass);
    }
}

fn signal(pid: Option<i32>, signal: i32) {
    if let Some(pid) = pid.filter(|pid| *pid > 0) {
        // SAFETY: two numbers; the process is one of the servers that this program started.
        unsafe { libc::kill(pid, signal) };
    }
}
