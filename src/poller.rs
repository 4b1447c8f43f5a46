//! The only place where the loop sleeps: mio's poll, tokens for the sources that can wake it, and a deadline for each sleep.
//!
//! mio is edge-triggered: a descriptor that was not drained would not wake the loop again, so [`Poller::arm`] registers it
//! again before every sleep.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::limits::SNAPSHOT_CONNECTIONS_MAX;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// The sources that can wake the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The replication stream's socket, or the startup connection's.
    Postgres,
    /// The catalog connection's socket.
    Catalog,
    /// The socket of the connection that reads the retained WAL during an outage of Kafka.
    Outage,
    /// The socket of the connection that asks a standby for its timeline.
    Timeline,
    /// librdkafka's queues.
    Kafka,
    /// Standard output accepts bytes again.
    Stdout,
    /// A signal.
    Signal,
    /// The socket of the connection with this number that reads a snapshot.
    Reader(u8),
}

impl Wakeup {
    const COUNT: usize = 7 + SNAPSHOT_CONNECTIONS_MAX as usize;

    fn index(self) -> usize {
        match self {
            Wakeup::Postgres => 0,
            Wakeup::Catalog => 1,
            Wakeup::Outage => 2,
            Wakeup::Timeline => 3,
            Wakeup::Kafka => 4,
            Wakeup::Stdout => 5,
            Wakeup::Signal => 6,
            Wakeup::Reader(number) => 7 + usize::from(number),
        }
    }
}

/// The poll, and the descriptor of each registered source.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
    armed: [Option<RawFd>; Wakeup::COUNT],
    turns: u64,
}

impl Poller {
    /// Creates an empty poll.
    ///
    /// # Errors
    /// If the operating system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Poller { poll: Poll::new()?, events: Events::with_capacity(8), armed: [None; Wakeup::COUNT], turns: 0 })
    }

    /// Registers a descriptor again for the next sleep; a changed descriptor replaces the earlier one.
    ///
    /// # Errors
    /// The error of epoll_ctl: EPERM for a descriptor that is always ready, such as a regular file.
    pub fn arm(&mut self, wakeup: Wakeup, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        let (registry, token) = (self.poll.registry(), Token(wakeup.index()));
        let armed = &mut self.armed[wakeup.index()];
        if *armed == Some(descriptor) {
            match registry.reregister(&mut SourceFd(&descriptor), token, interest) {
                // The descriptor was closed and opened again under the same number: the kernel has removed it from the set.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        } else if let Some(old) = armed.take() {
            // The descriptor may be closed already, which has removed it from the set.
            let _ = registry.deregister(&mut SourceFd(&old));
        }
        registry.register(&mut SourceFd(&descriptor), token, interest)?;
        *armed = Some(descriptor);
        Ok(())
    }

    /// Removes a source from the set.
    pub fn disarm(&mut self, wakeup: Wakeup) {
        if let Some(descriptor) = self.armed[wakeup.index()].take() {
            // The descriptor may be closed already, which has removed it from the set.
            let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
        }
    }

    /// Registers the source of the signals, once.
    ///
    /// # Errors
    /// The error of epoll_ctl.
    pub fn register_signals(&mut self, signals: &mut impl mio::event::Source) -> io::Result<()> {
        self.poll.registry().register(signals, Token(Wakeup::Signal.index()), Interest::READABLE)
    }

    /// Sleeps until something is ready or the deadline has passed.
    ///
    /// # Errors
    /// The error of epoll_wait, except EINTR.
    pub fn wait(&mut self, deadline: Instant) -> io::Result<()> {
        self.turns += 1;
        let timeout = deadline.saturating_duration_since(Instant::now());
        // epoll_wait counts in milliseconds: round up, otherwise the loop would spin during the last one.
        let timeout = if timeout.is_zero() { timeout } else { timeout + Duration::from_micros(999) };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// The number of sleeps.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }
}
