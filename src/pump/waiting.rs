//! Waiting for one PostgreSQL socket before the loop has begun: connecting, start-up commands, the end of the copy.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use mio::Interest;

use crate::pg::{self, Direction};
use crate::poller::{Poller, Wakeup};
use crate::signal::StopSignals;

/// The longest sleep, so that the caller can look at its own deadlines.
const SLICE: Duration = Duration::from_millis(500);

/// The poll and the signals, lent to a start-up step.
pub struct Waiter<'p> {
    poller: &'p mut Poller,
    signals: &'p mut StopSignals,
    /// How many signals end the wait.
    signals_max: u32,
    deadline: Option<Instant>,
}

impl<'p> Waiter<'p> {
    /// Ends at the first signal.
    pub fn new(poller: &'p mut Poller, signals: &'p mut StopSignals) -> Self {
        Waiter { poller, signals, signals_max: 1, deadline: None }
    }

    /// For the end of a run that a signal may have asked for: ends at the next signal, or at the deadline.
    pub fn until(poller: &'p mut Poller, signals: &'p mut StopSignals, deadline: Instant) -> Self {
        let signals_max = signals.received() + 1;
        Waiter { poller, signals, signals_max, deadline: Some(deadline) }
    }

    /// Waits until the socket is ready, or for a slice of time.
    ///
    /// # Errors
    /// [`pg::Error::Interrupted`] after a signal or past the deadline, [`pg::Error::Wait`].
    pub fn wait(&mut self, socket: RawFd, direction: Direction) -> Result<(), pg::Error> {
        let interest = match direction {
            Direction::Read => Interest::READABLE,
            Direction::Write => Interest::WRITABLE,
        };
        self.poller.arm(Wakeup::Postgres, socket, interest)?;
        self.pause(SLICE)
    }

    /// Waits for a while.
    ///
    /// # Errors
    /// Those of [`Waiter::wait`].
    pub fn pause(&mut self, time: Duration) -> Result<(), pg::Error> {
        let now = Instant::now();
        self.poller.wait(self.deadline.map_or(now + time, |deadline| deadline.min(now + time)))?;
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late || self.signals.received() >= self.signals_max { Err(pg::Error::Interrupted) } else { Ok(()) }
    }
}
