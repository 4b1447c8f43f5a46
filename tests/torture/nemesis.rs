//! The faults, and their order for a seed: every fault once, shuffled, and then random ones.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NODES, Result, signal};
use crate::options::{Delivery, Options};
use crate::proxy::Weather;
use crate::report::Report;
use crate::seed::Seed;
use crate::starve;
use crate::supervisor::Supervisor;
use crate::troubles::{Lasting, Trouble, Troubles};
use crate::writers::Writers;

/// A process that is frozen longer than this has lost its slot (`wal_sender_timeout` is 5 s).
const LONG_FREEZE_MS: (u64, u64) = (7_000, 10_000);

/// The topic that is deleted. Separate transactions write its table.
const FLEETING_TOPIC: &str = "torture.public.fleeting";
/// librdkafka's thread with this name does everything that a transaction requires.
const MAIN_THREAD: &str = "rdk:main";

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
    Failover,
    RestoreSlot,
    RollingRestart,
    LoseTopic,
    DenyAccess,
    DenyCommit,
    StarveMain,
}

impl Fault {
    const ALL: [(Fault, &'static str); 25] = [
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
        (Fault::Failover, "failover"),
        (Fault::RestoreSlot, "restore-slot"),
        (Fault::RollingRestart, "rolling-restart"),
        (Fault::LoseTopic, "lose-topic"),
        (Fault::DenyAccess, "deny-access"),
        (Fault::DenyCommit, "deny-commit"),
        (Fault::StarveMain, "starve-main"),
    ];

    /// The trouble of a server during the fault.
    fn trouble(self) -> Option<Trouble> {
        match self {
            Fault::CrashPostgres
            | Fault::FreezeWalsender
            | Fault::CutPostgres
            | Fault::StallPostgres
            | Fault::SlowPostgres
            | Fault::RestoreSlot => Some(Trouble::Postgres),
            Fault::KillBroker
            | Fault::KillCoordinator
            | Fault::FreezeBroker
            | Fault::CutBroker
            | Fault::StallBroker
            | Fault::SlowBroker
            | Fault::RollingRestart => Some(Trouble::Kafka),
            Fault::CutKafka => Some(Trouble::AllOfKafka),
            Fault::DenyAccess | Fault::DenyCommit => Some(Trouble::Permission),
            Fault::KillWalcat
            | Fault::RestartWalcat
            | Fault::FreezeWalcat
            | Fault::FreezeWalcatLong
            | Fault::SecondWalcat
            | Fault::TakeOver
            | Fault::Failover
            | Fault::LoseTopic
            | Fault::StarveMain => None,
        }
    }

    /// Whether it is one of the default faults.
    /// In at-least-once a refusal lets librdkafka write a batch again that was under way to a broker that is cut off.
    fn is_usual(self, delivery: Delivery) -> bool {
        match self {
            Fault::DenyAccess => delivery == Delivery::ExactlyOnce,
            _ => true,
        }
    }

    /// The requested faults; without transactions there is no coordinator, and without a standby no failover.
    fn chosen(options: &Options) -> Result<Vec<(Fault, &'static str)>> {
        let wanted = |fault: Fault, name: &str| match &options.faults[..] {
            [] => fault.is_usual(options.delivery),
            faults => faults.iter().any(|wanted| wanted == name),
        };
        if let Some(unknown) = options.faults.iter().find(|name| !Fault::ALL.iter().any(|(_, known)| known == name)) {
            return Err(format!("unknown fault {unknown}: use one of {:?}", Fault::ALL.map(|(_, name)| name)));
        }
        let has_coordinator = options.delivery == Delivery::ExactlyOnce;
        let can_be = |fault| match fault {
            Fault::KillCoordinator | Fault::DenyCommit => has_coordinator,
            Fault::Failover => options.postgres >= 17,
            _ => true,
        };
        let all = Fault::ALL.into_iter().filter(|(fault, _)| can_be(*fault));
        Ok(all.filter(|(fault, name)| wanted(*fault, name)).collect())
    }
}

pub struct Nemesis<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub walcat: &'a Supervisor,
    pub report: &'a mut Report,
    pub seed: Seed,
    writers: &'a Writers,
    troubles: &'a Troubles,
    next_node: usize,
    /// The first row of `fleeting` written after the last deletion of its topic.
    pub fleeting_from: i64,
}

impl<'a> Nemesis<'a> {
    pub fn new(
        cluster: &'a Arc<Cluster>,
        walcat: &'a Supervisor,
        writers: &'a Writers,
        troubles: &'a Troubles,
        report: &'a mut Report,
        mut seed: Seed,
    ) -> Self {
        let next_node = 1 + usize::try_from(seed.below(NODES as u64)).unwrap_or(0);
        Nemesis { cluster, walcat, report, seed, writers, troubles, next_node, fleeting_from: 0 }
    }

    /// Injects faults for the duration of the run, and until each has occurred.
    pub fn run(&mut self, options: &Options) -> Result<()> {
        let chosen = Fault::chosen(options)?;
        if chosen.iter().any(|(fault, _)| *fault == Fault::Failover) {
            self.cluster.start_standby()?;
            self.report.step("a standby is running");
        }
        let end = Instant::now() + options.duration;
        for round in 0.. {
            let mut turns = chosen.clone();
            self.seed.shuffle(&mut turns);
            for (fault, name) in turns {
                if round > 0 && Instant::now() >= end {
                    return Ok(());
                }
                // A pause, so that not every fault overlaps the previous one.
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

    /// Waits during a fault; sometimes kills walcat in the middle.
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
        let _lasting: Option<Lasting> = fault.trouble().map(|what| self.troubles.begin(what));
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
                // A polling walcat holds it only briefly, and one that waits to reconnect does not hold it.
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
            Fault::Failover => self.failover(name)?,
            Fault::RestoreSlot => self.restore_slot(name)?,
            Fault::RollingRestart => {
                self.report.fault(name);
                for _ in 0..NODES {
                    let node = self.node();
                    self.cluster.restart_node(node)?;
                }
            }
            Fault::LoseTopic => self.lose_topic(name)?,
            Fault::DenyAccess => self.deny_access(name)?,
            Fault::DenyCommit => self.deny_commit(name)?,
            Fault::StarveMain => self.starve_main(name)?,
        }
        Ok(())
    }

    /// When the primary dies, the standby has everything that is published. It may not have unpublished WAL that walcat has
    /// confirmed and stored.
    fn failover(&mut self, name: &str) -> Result<()> {
        let noise_kb = if self.seed.percent(75) { self.seed.below(40_000) } else { 0 };
        let (alone, kills) = (self.seed.duration(0, 6_000), self.seed.percent(50));
        let has_copy = self.cluster.wait_for_slot_copy()?;
        let silence = self.writers.silence();
        if !has_copy || !self.cluster.wait_for_standby()? {
            return Err(format!("{name}: the standby has no copy of the slot, or not all WAL"));
        }
        self.report.fault(&format!("{name}: {noise_kb} kB of WAL and {alone:?} without the standby"));
        self.cluster.stop_standby()?;
        self.cluster.sql(&format!("SELECT hum({noise_kb})"))?;
        sleep(alone);
        {
            let _lasting = self.troubles.begin(Trouble::Postgres);
            self.cluster.crash_postgres()?;
            // Every client must see that the old server's connection ended.
            self.cluster.postgres.set(Weather::Cut);
            self.cluster.promote()?;
            self.cluster.postgres.set(Weather::Fair);
        }
        self.report.step("  the standby is the server");
        drop(silence);
        if kills {
            let time = self.seed.duration(0, 3_000);
            sleep(time);
            self.report.fault("  and kill-walcat");
            self.walcat.signal(libc::SIGKILL);
        }
        let time = self.seed.duration(500, 3_000);
        sleep(time);
        self.cluster.start_standby()
    }

    /// The slot is restored to an earlier position, as from a backup.
    fn restore_slot(&mut self, name: &str) -> Result<()> {
        let time = self.seed.duration(500, 4_000);
        self.report.fault(&format!("{name}: {time:?} back"));
        self.cluster.postgres.set(Weather::Cut);
        let state = self.cluster.back_up_slot()?;
        self.cluster.postgres.set(Weather::Fair);
        self.last(time);
        self.cluster.restore_slot(&state)
    }

    fn lose_topic(&mut self, name: &str) -> Result<()> {
        self.report.fault(name);
        self.cluster.delete_topic(FLEETING_TOPIC)?;
        let time = self.seed.duration(3_000, 5_000);
        self.last(time);
        let first = self.cluster.sql("SELECT coalesce(max(fleeting_id), 0) + 1 FROM fleeting")?;
        self.fleeting_from = first.parse().map_err(|_| format!("not a row of fleeting: {first}"))?;
        Ok(())
    }

    /// walcat is denied a required privilege for a while.
    fn deny_access(&mut self, name: &str) -> Result<()> {
        let topic = if self.seed.percent(50) { "torture.public.account" } else { "*" };
        let (operation, resource) = ("Write", ["--topic", topic]);
        let time = self.seed.duration(1_000, 5_000);
        self.report.fault(&format!("{name}: {operation} {} for {time:?}", resource.join(" ")));
        self.cluster.forbid(true, operation, &resource)?;
        self.last(time);
        self.cluster.forbid(false, operation, &resource)
    }

    /// walcat is denied its transactional id for a while: a commit at that time fails permanently.
    fn deny_commit(&mut self, name: &str) -> Result<()> {
        let time = self.seed.duration(1_000, 5_000);
        self.report.fault(&format!("{name} for {time:?}"));
        let resource = ["--transactional-id", "*"];
        self.cluster.forbid(true, "Write", &resource)?;
        self.last(time);
        self.cluster.forbid(false, "Write", &resource)
    }

    /// librdkafka's main thread runs only for short moments.
    fn starve_main(&mut self, name: &str) -> Result<()> {
        let end = Instant::now() + self.seed.duration(4_000, 10_000);
        self.report.fault(name);
        while Instant::now() < end {
            let (held, free) = (self.seed.duration(50, 1_200), self.seed.duration(0, 40));
            let thread = self.walcat.pid().and_then(|pid| starve::thread(pid, MAIN_THREAD));
            match thread.map(|thread| starve::hold(thread, held)) {
                Some(Err(error)) if error.raw_os_error() == Some(libc::EPERM) => {
                    return Err(format!("ptrace: {error}"));
                }
                Some(Ok(())) => sleep(free),
                _ => sleep(Duration::from_millis(20)),
            }
        }
        Ok(())
    }

    /// Up to four times, so that some occur while it starts.
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

    /// Another walcat takes the slot of a frozen one, which then continues with its records in flight.
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
