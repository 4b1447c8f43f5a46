//! The faults, and the order in which a seed brings them: every fault once, shuffled, and then as they come.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NODES, Result, signal};
use crate::options::{Delivery, Options};
use crate::proxy::Weather;
use crate::report::Report;
use crate::seed::Seed;
use crate::supervisor::Supervisor;

/// A process that is frozen for longer than this has lost its slot (`wal_sender_timeout` is 5 s).
const LONG_FREEZE_MS: (u64, u64) = (7_000, 10_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillWalcat,
    RestartWalcat,
    FreezeWalcat,
    FreezeWalcatLong,
    SecondWalcat,
    TakeOver,
    CrashPostgres,
    FreezeWalsender,
    CutPostgres,
    StallPostgres,
    SlowPostgres,
    KillBroker,
    KillCoordinator,
    FreezeBroker,
    CutBroker,
    StallBroker,
    SlowBroker,
    CutKafka,
}

impl Fault {
    const ALL: [(Fault, &'static str); 18] = [
        (Fault::KillWalcat, "kill-walcat"),
        (Fault::RestartWalcat, "restart-walcat"),
        (Fault::FreezeWalcat, "freeze-walcat"),
        (Fault::FreezeWalcatLong, "freeze-walcat-long"),
        (Fault::SecondWalcat, "second-walcat"),
        (Fault::TakeOver, "take-over"),
        (Fault::CrashPostgres, "crash-postgres"),
        (Fault::FreezeWalsender, "freeze-walsender"),
        (Fault::CutPostgres, "cut-postgres"),
        (Fault::StallPostgres, "stall-postgres"),
        (Fault::SlowPostgres, "slow-postgres"),
        (Fault::KillBroker, "kill-broker"),
        (Fault::KillCoordinator, "kill-coordinator"),
        (Fault::FreezeBroker, "freeze-broker"),
        (Fault::CutBroker, "cut-broker"),
        (Fault::StallBroker, "stall-broker"),
        (Fault::SlowBroker, "slow-broker"),
        (Fault::CutKafka, "cut-kafka"),
    ];

    /// Those that were asked for; without transactions there is no coordinator.
    fn chosen(options: &Options) -> Result<Vec<(Fault, &'static str)>> {
        let wanted = |name: &str| options.faults.is_empty() || options.faults.iter().any(|wanted| wanted == name);
        if let Some(unknown) = options.faults.iter().find(|name| !Fault::ALL.iter().any(|(_, known)| known == name)) {
            return Err(format!("no fault {unknown}; there are {:?}", Fault::ALL.map(|(_, name)| name)));
        }
        let has_coordinator = options.delivery == Delivery::ExactlyOnce;
        let all = Fault::ALL.into_iter().filter(|(fault, _)| has_coordinator || *fault != Fault::KillCoordinator);
        Ok(all.filter(|(_, name)| wanted(name)).collect())
    }
}

pub struct Nemesis<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub walcat: &'a Supervisor,
    pub report: &'a mut Report,
    pub seed: Seed,
    next_node: usize,
}

impl<'a> Nemesis<'a> {
    pub fn new(cluster: &'a Arc<Cluster>, walcat: &'a Supervisor, report: &'a mut Report, mut seed: Seed) -> Self {
        let next_node = 1 + usize::try_from(seed.below(NODES as u64)).unwrap_or(0);
        Nemesis { cluster, walcat, report, seed, next_node }
    }

    /// Injects faults for a while, and until each has had its turn.
    pub fn run(&mut self, options: &Options) -> Result<()> {
        let chosen = Fault::chosen(options)?;
        let end = Instant::now() + options.duration;
        for round in 0.. {
            let mut turns = chosen.clone();
            self.seed.shuffle(&mut turns);
            for (fault, name) in turns {
                if round > 0 && Instant::now() >= end {
                    return Ok(());
                }
                // A quiet moment, so that not every fault meets the one before.
                sleep(self.seed.duration(300, 2_500));
                self.inject(fault, name)?;
            }
        }
        Ok(())
    }

    fn node(&mut self) -> usize {
        let node = self.next_node;
        self.next_node = node % NODES + 1;
        node
    }

    /// Lets a fault last; now and then walcat is killed in the middle of it.
    fn last(&mut self, time: Duration) {
        if self.seed.percent(25) {
            let before = time.mul_f64(self.seed.below(100) as f64 / 100.0);
            sleep(before);
            self.report.fault("  and kill-walcat");
            self.walcat.signal(libc::SIGKILL);
            sleep(time - before);
        } else {
            sleep(time);
        }
    }

    fn inject(&mut self, fault: Fault, name: &str) -> Result<()> {
        match fault {
            Fault::KillWalcat => self.kill_walcat(name),
            Fault::RestartWalcat => {
                self.report.fault(name);
                self.walcat.signal(libc::SIGTERM);
            }
            Fault::FreezeWalcat => {
                let time = self.seed.duration(500, 3_000);
                self.freeze_walcat(name, time);
            }
            Fault::FreezeWalcatLong => {
                let time = self.seed.duration(LONG_FREEZE_MS.0, LONG_FREEZE_MS.1);
                self.freeze_walcat(name, time);
            }
            Fault::SecondWalcat => {
                let time = self.seed.duration(2_000, 6_000);
                self.report.fault(&format!("{name} for {time:?}"));
                self.walcat.beside(|| sleep(time))?;
            }
            Fault::TakeOver => self.take_over(name)?,
            Fault::CrashPostgres => {
                self.report.fault(name);
                self.cluster.crash_postgres()?;
                let time = self.seed.duration(0, 2_000);
                self.last(time);
                self.cluster.start_postgres()?;
            }
            Fault::FreezeWalsender => {
                // A polling walcat holds it for moments only, and one that waits to reconnect not at all.
                let Some(pid) = (0..20).find_map(|_| self.cluster.slot_holder()) else {
                    self.report.step(&format!("{name}: nobody held the slot"));
                    return Ok(());
                };
                let time = self.seed.duration(1_000, 8_000);
                self.report.fault(&format!("{name} {pid} for {time:?}"));
                signal(pid, libc::SIGSTOP);
                self.last(time);
                signal(pid, libc::SIGCONT);
            }
            Fault::KillBroker => {
                let node = self.node();
                self.kill_node(name, node)?;
            }
            Fault::KillCoordinator => {
                let node = self.cluster.coordinator();
                let node = node.unwrap_or_else(|| self.node());
                self.kill_node(name, node)?;
            }
            Fault::FreezeBroker => {
                let node = self.node();
                let Some(pid) = self.cluster.node_pid(node) else { return Ok(()) };
                let time = self.seed.duration(1_000, 8_000);
                self.report.fault(&format!("{name} {node} for {time:?}"));
                signal(pid, libc::SIGSTOP);
                self.last(time);
                signal(pid, libc::SIGCONT);
            }
            Fault::CutPostgres | Fault::StallPostgres | Fault::SlowPostgres => self.postgres_weather(fault, name),
            Fault::CutBroker | Fault::StallBroker | Fault::SlowBroker | Fault::CutKafka => {
                self.kafka_weather(fault, name);
            }
        }
        Ok(())
    }

    /// Up to four times, so that some meet it while it starts.
    fn kill_walcat(&mut self, name: &str) {
        for _ in 0..=self.seed.below(4) {
            self.report.fault(name);
            self.walcat.signal(libc::SIGKILL);
            let part = self.seed.below(1_000);
            sleep(Duration::from_millis(300 + 3 * part * part / 1_000));
        }
    }

    fn freeze_walcat(&mut self, name: &str, time: Duration) {
        self.report.fault(&format!("{name} for {time:?}"));
        self.walcat.signal(libc::SIGSTOP);
        self.last(time);
        self.walcat.signal(libc::SIGCONT);
    }

    /// Another one takes the slot of one that is frozen; then it thaws, with what it had in flight.
    fn take_over(&mut self, name: &str) -> Result<()> {
        let (frozen, both) = (self.seed.duration(LONG_FREEZE_MS.0, LONG_FREEZE_MS.1), self.seed.duration(1_000, 5_000));
        self.report.fault(&format!("{name}: frozen for {frozen:?}, both for {both:?}"));
        self.walcat.signal(libc::SIGSTOP);
        self.walcat.beside(|| {
            sleep(frozen);
            self.walcat.signal(libc::SIGCONT);
            sleep(both);
        })
    }

    fn kill_node(&mut self, name: &str, node: usize) -> Result<()> {
        let time = self.seed.duration(500, 6_000);
        self.report.fault(&format!("{name} {node} for {time:?}"));
        self.cluster.kill_node(node)?;
        self.last(time);
        self.cluster.start_nodes()
    }

    fn postgres_weather(&mut self, fault: Fault, name: &str) {
        let (weather, time) = match fault {
            Fault::CutPostgres => (Weather::Cut, self.seed.duration(100, 3_000)),
            Fault::StallPostgres if self.seed.percent(50) => (Weather::Stalled, self.seed.duration(1_000, 9_000)),
            Fault::StallPostgres => (Weather::AnswersStalled, self.seed.duration(1_000, 9_000)),
            _ => (Weather::Slow(self.seed.duration(2, 40)), self.seed.duration(3_000, 6_000)),
        };
        self.report.fault(&format!("{name}: {weather:?} for {time:?}"));
        self.cluster.postgres.set(weather);
        self.last(time);
        self.cluster.postgres.set(Weather::Fair);
    }

    fn kafka_weather(&mut self, fault: Fault, name: &str) {
        let (weather, time) = match fault {
            Fault::CutBroker | Fault::CutKafka => (Weather::Cut, self.seed.duration(100, 5_000)),
            Fault::StallBroker if self.seed.percent(50) => (Weather::Stalled, self.seed.duration(1_000, 9_000)),
            Fault::StallBroker => (Weather::AnswersStalled, self.seed.duration(1_000, 9_000)),
            _ => (Weather::Slow(self.seed.duration(2, 40)), self.seed.duration(3_000, 6_000)),
        };
        let cluster = Arc::clone(self.cluster);
        let node = self.node();
        let (proxies, nodes) = if fault == Fault::CutKafka {
            (&cluster.nodes[..], "all".to_owned())
        } else {
            (&cluster.nodes[node - 1..node], node.to_string())
        };
        self.report.fault(&format!("{name} {nodes}: {weather:?} for {time:?}"));
        proxies.iter().for_each(|proxy| proxy.set(weather));
        self.last(time);
        proxies.iter().for_each(|proxy| proxy.set(Weather::Fair));
    }
}
