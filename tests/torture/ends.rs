//! How walcat exited, how often, and whether a fault at that time explains it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::options::Delivery;
use crate::troubles::{Trouble, Window};

/// walcat's `[retry] for`.
pub const RETRY_FOR: Duration = Duration::from_secs(20);
/// A server that has started again may not answer immediately.
const REST: Duration = Duration::from_secs(5);
/// walcat tries the first connection once, within this time after its start.
const FIRST_CONTACT: Duration = Duration::from_secs(10);
/// walcat's budget begins when it notices the failure.
const SLACK: Duration = Duration::from_millis(500);

const UNAVAILABLE: i32 = 69;
const INTERRUPTED: i32 = 75;
const PERMISSION: i32 = 77;
const SETUP: i32 = 78;
const FENCED: i32 = 79;

/// What was done to a process. The first signal may have ended it before the second one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub to_end: bool,
    pub by_force: bool,
    /// Another walcat was started on the same slot.
    pub had_company: bool,
}

/// One exit of walcat.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub status: ExitStatus,
    pub started: Instant,
    pub ended: Instant,
    pub asked: Asked,
}

impl End {
    fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        }
    }

    /// Whether a fault explains it.
    fn is_explained(&self, delivery: Delivery, windows: &[Window]) -> bool {
        match (self.status.code(), self.status.signal()) {
            (Some(UNAVAILABLE), _) => self.had_spent_its_budget(windows),
            (Some(FENCED), _) => delivery == Delivery::ExactlyOnce && self.asked.had_company,
            // A walcat that finds its slot moved by another instance cannot know that this one delivered the changes between.
            (Some(SETUP), _) => delivery == Delivery::AtLeastOnce && self.asked.had_company,
            (Some(PERMISSION), _) => {
                let mut taken_away = windows.iter().filter(|window| window.what == Trouble::Permission);
                taken_away.any(|window| window.meets(self.ended, self.ended, REST))
            }
            (Some(0 | INTERRUPTED), _) => self.asked.to_end,
            (_, Some(libc::SIGKILL)) => self.asked.by_force,
            _ => false,
        }
    }

    /// PostgreSQL or all of Kafka was down at the first contact, which is tried once, or PostgreSQL was down for `[retry]
    /// for`. One Kafka node that answers is enough. Once one has answered, walcat waits for Kafka without limit.
    fn had_spent_its_budget(&self, windows: &[Window]) -> bool {
        let mut windows = windows.iter().filter(|window| window.meets(self.ended, self.ended, REST));
        windows.any(|window| {
            let was_first_contact =
                self.ended < self.started + FIRST_CONTACT && window.meets(self.started, self.ended, REST);
            let lasted = self.ended.saturating_duration_since(window.from.max(self.started));
            match window.what {
                Trouble::Postgres => was_first_contact || lasted + SLACK >= RETRY_FOR,
                Trouble::AllOfKafka => was_first_contact,
                Trouble::Kafka | Trouble::Permission => false,
            }
        })
    }
}

/// All exits.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    pub starts: u32,
    pub counts: BTreeMap<String, u32>,
    pub unexplained: Vec<String>,
    pub rss_max_kb: u64,
}

impl Ends {
    /// How it ended.
    pub fn add(&mut self, delivery: Delivery, who: &str, end: &End, windows: &[Window]) -> String {
        let how = end.how();
        *self.counts.entry(how.clone()).or_default() += 1;
        if !end.is_explained(delivery, windows) {
            let at = humantime::format_rfc3339_millis(std::time::SystemTime::now());
            let age = end.ended.saturating_duration_since(end.started);
            self.unexplained
                .push(format!("{at}: walcat, {who}, {age:.1?} old, ended with {how}: no fault explains it"));
        }
        how
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Delivery::{AtLeastOnce, ExactlyOnce};

    const EXIT: fn(i32) -> ExitStatus = |code| ExitStatus::from_raw(code << 8);
    const SIGNAL: fn(i32) -> ExitStatus = ExitStatus::from_raw;

    struct Scene {
        start: Instant,
        windows: Vec<Window>,
    }

    impl Scene {
        /// Troubles in whole seconds since a start.
        fn with(windows: &[(Trouble, u64, Option<u64>)]) -> Scene {
            let start = Instant::now();
            let at = |seconds| start + Duration::from_secs(seconds);
            let window = |(what, from, to): &(Trouble, u64, Option<u64>)| Window {
                what: *what,
                from: at(*from),
                to: to.map(at),
            };
            Scene { start, windows: windows.iter().map(window).collect() }
        }

        fn explains(&self, delivery: Delivery, status: ExitStatus, from: u64, to: u64, asked: Asked) -> bool {
            let at = |seconds| self.start + Duration::from_secs(seconds);
            End { status, started: at(from), ended: at(to), asked }.is_explained(delivery, &self.windows)
        }
    }

    #[test]
    fn an_exit_for_want_of_a_server_needs_an_outage_that_spent_the_budget() {
        let asked = Asked::default();
        let explains = |windows: &[_], from, to| Scene::with(windows).explains(AtLeastOnce, EXIT(69), from, to, asked);
        let outage = |from, to| [(Trouble::Postgres, from, to)];
        assert!(!explains(&[], 0, 60), "nothing was wrong");
        assert!(!explains(&outage(50, None), 0, 55), "it was streaming, and gave up after 5 s");
        assert!(explains(&outage(30, None), 0, 50), "20 s of outage");
        assert!(explains(&outage(30, Some(50)), 0, 51));
        assert!(!explains(&outage(10, Some(40)), 0, 60), "the trouble ended long ago");
        assert!(explains(&outage(50, Some(56)), 55, 56), "the first contact is tried once");
        assert!(!explains(&[(Trouble::AllOfKafka, 0, None)], 0, 60), "Kafka is waited for as long as it takes");
        assert!(explains(&[(Trouble::AllOfKafka, 0, None)], 58, 60), "the first contact with it is tried once");
        assert!(!explains(&[(Trouble::Kafka, 0, None)], 58, 60), "the other nodes answer");
        assert!(!explains(&[(Trouble::Permission, 0, None)], 58, 60));
    }

    #[test]
    fn an_exit_for_another_instance_needs_one() {
        let scene = Scene::with(&[]);
        let company = Asked { had_company: true, ..Asked::default() };
        let explains = |delivery, code, asked| scene.explains(delivery, EXIT(code), 0, 9, asked);
        assert!(explains(ExactlyOnce, 79, company));
        assert!(!explains(ExactlyOnce, 79, Asked::default()));
        assert!(!explains(AtLeastOnce, 79, company));
        assert!(explains(AtLeastOnce, 78, company));
        assert!(!explains(ExactlyOnce, 78, company));
        assert!(!explains(AtLeastOnce, 78, Asked::default()));
    }

    #[test]
    fn an_exit_for_want_of_a_permission_needs_one_taken_away() {
        let scene = Scene::with(&[(Trouble::Permission, 10, Some(20))]);
        let explains = |from, to| scene.explains(ExactlyOnce, EXIT(77), from, to, Asked::default());
        assert!(explains(0, 12));
        assert!(explains(22, 23));
        assert!(!explains(0, 9));
        assert!(!explains(30, 40));
    }

    #[test]
    fn a_signal_that_nobody_sent_and_any_other_exit_are_never_explained() {
        let all = [(Trouble::Postgres, 0, None), (Trouble::AllOfKafka, 0, None), (Trouble::Permission, 0, None)];
        let scene = Scene::with(&all);
        let asked = Asked { to_end: true, by_force: true, had_company: true };
        for delivery in [AtLeastOnce, ExactlyOnce] {
            for status in
                [SIGNAL(libc::SIGABRT), SIGNAL(libc::SIGSEGV), EXIT(1), EXIT(65), EXIT(70), EXIT(71), EXIT(76)]
            {
                assert!(!scene.explains(delivery, status, 0, 60, asked), "{status:?}");
            }
            assert!(scene.explains(delivery, SIGNAL(libc::SIGKILL), 0, 60, asked));
            assert!(!scene.explains(delivery, SIGNAL(libc::SIGKILL), 0, 60, Asked::default()));
            assert!(!scene.explains(delivery, EXIT(0), 0, 60, Asked::default()));
            assert!(!scene.explains(delivery, EXIT(75), 0, 60, Asked::default()));
        }
    }
}
