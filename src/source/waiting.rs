//! Waits for one PostgreSQL socket outside the loop: for connecting, start-up commands and the end of the copy.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::pg::{self, Direction};
use crate::poller::{Poller, Wakeup};
use crate::signal::StopSignals;

/// The longest sleep, so that the caller can check its own deadlines.
const SLICE: Duration = Duration::from_millis(500);

/// Work to do while walcat waits for PostgreSQL; returns whether to continue waiting.
pub type Meanwhile<'p> = dyn FnMut(Instant) -> bool + 'p;

/// The poll and the signals, borrowed by a start-up step.
pub struct Waiter<'p> {
    poller: &'p mut Poller,
    signals: &'p mut StopSignals,
    /// The number of signals that ends the wait.
    signals_max: u32,
    deadline: Option<Instant>,
    meanwhile: Option<&'p mut Meanwhile<'p>>,
}

impl<'p> Waiter<'p> {
    /// The wait ends at the first signal.
    pub fn new(poller: &'p mut Poller, signals: &'p mut StopSignals) -> Self {
        Waiter { poller, signals, signals_max: 1, deadline: None, meanwhile: None }
    }

    /// The same, with work at every wake-up, at least twice a second.
    pub fn with_work(poller: &'p mut Poller, signals: &'p mut StopSignals, meanwhile: &'p mut Meanwhile<'p>) -> Self {
        Waiter { meanwhile: Some(meanwhile), ..Waiter::new(poller, signals) }
    }

    /// For the end of a run that a signal may have requested: the wait ends at the next signal, or at the deadline.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        let signals_max = self.signals.received() + 1;
        Waiter { signals_max, deadline: Some(deadline), ..self }
    }

    /// The wait ends when this many signals have arrived.
    #[must_use]
    pub fn up_to(self, signals_max: u32) -> Self {
        Waiter { signals_max, ..self }
    }

    /// Waits until the socket is ready, or for a slice of time.
    ///
    /// # Errors
    /// [`pg::Error::Interrupted`] after a signal or past the deadline, [`pg::Error::Wait`].
    pub fn wait(&mut self, socket: RawFd, direction: Direction) -> Result<(), pg::Error> {
        self.poller.arm(Wakeup::Postgres, socket, direction.interest())?;
        self.pause(SLICE)
    }

    /// Sleeps for a while.
    ///
    /// # Errors
    /// Those of [`Waiter::wait`].
    pub fn sleep(&mut self, time: Duration) -> Result<(), pg::Error> {
        let until = Instant::now() + time;
        // PostgreSQL's socket must not cut the sleep short.
        self.poller.disarm(Wakeup::Postgres);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.pause(left.min(SLICE))?;
        }
    }

    /// Sleeps until that time, or until something else wakes the loop.
    ///
    /// # Errors
    /// Those of [`Waiter::wait`].
    pub fn doze(&mut self, until: Instant) -> Result<(), pg::Error> {
        self.pause(until.saturating_duration_since(Instant::now()).min(SLICE))
    }

    fn pause(&mut self, time: Duration) -> Result<(), pg::Error> {
        let now = Instant::now();
        self.poller.wait(self.deadline.map_or(now + time, |deadline| deadline.min(now + time)))?;
        let now = Instant::now();
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        let goes_on = self.meanwhile.as_mut().is_none_or(|meanwhile| meanwhile(now));
        if late || !goes_on || self.signals.received() >= self.signals_max {
            return Err(pg::Error::Interrupted);
        }
        Ok(())
    }
}
