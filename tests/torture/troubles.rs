//! What was wrong with the servers, and when: used to judge walcat's exits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// PostgreSQL is down or does not answer normally.
    Postgres,
    /// One Kafka node is, or one after another.
    Kafka,
    /// All Kafka nodes are.
    AllOfKafka,
    /// A privilege is denied.
    Permission,
}

#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub what: Trouble,
    pub from: Instant,
    /// `None` while it lasts.
    pub to: Option<Instant>,
}

impl Window {
    /// Whether it was present at some time between these two, or had ended less than `rest` before.
    pub fn meets(&self, from: Instant, to: Instant, rest: Duration) -> bool {
        self.from <= to && self.to.is_none_or(|end| end + rest >= from)
    }
}

#[derive(Clone)]
pub struct Troubles {
    started: Instant,
    windows: Arc<Mutex<Vec<Window>>>,
}

/// The trouble ends when this is dropped.
pub struct Lasting {
    troubles: Troubles,
    index: usize,
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.troubles.lock()[self.index].to = Some(Instant::now());
    }
}

impl Troubles {
    pub fn new() -> Troubles {
        Troubles { started: Instant::now(), windows: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, what: Trouble) -> Lasting {
        let mut windows = self.lock();
        windows.push(Window { what, from: Instant::now(), to: None });
        Lasting { troubles: self.clone(), index: windows.len() - 1 }
    }

    /// `None` during such a trouble.
    pub fn well_since(&self, what: Trouble) -> Option<Instant> {
        let windows = self.lock();
        windows
            .iter()
            .filter(|window| window.what == what)
            .try_fold(self.started, |last, window| Some(last.max(window.to?)))
    }

    pub fn windows(&self) -> Vec<Window> {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_lasts_until_it_is_dropped() {
        let troubles = Troubles::new();
        let before = troubles.well_since(Trouble::Kafka);
        let lasting = troubles.begin(Trouble::Kafka);
        assert_eq!(troubles.well_since(Trouble::Kafka), None);
        assert_eq!(troubles.well_since(Trouble::Postgres), before);
        drop(lasting);
        assert!(troubles.well_since(Trouble::Kafka) > before);
    }
}
