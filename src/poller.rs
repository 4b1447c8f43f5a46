//! The one place where the loop sleeps: mio's poll, tokens for what can wake it, and a deadline each time.
//!
//! mio is edge-triggered: a descriptor whose readiness was not used up would not wake the loop again, so
//! [`Poller::arm`] registers it anew before every sleep.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// What can wake the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Wakeup {
    /// The replication stream's socket, or the startup connection's.
    Postgres,
    /// The catalog connection's socket.
    Catalog,
    /// The socket of the connection that asks for the WAL held while Kafka is away.
    Outage,
    /// The socket of the connection that asks a standby for its timeline.
    Timeline,
    /// librdkafka's queues.
    Kafka,
    /// Standard output takes bytes again.
    Stdout,
    /// A signal.
    Signal,
}

/// The sources that are registered, each with its descriptor.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
    armed: [Option<RawFd>; 7],
    turns: u64,
}

impl Poller {
    /// An empty poll.
    ///
    /// # Errors
    /// When the operating system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Poller { poll: Poll::new()?, events: Events::with_capacity(8), armed: [None; 7], turns: 0 })
    }

    /// Registers a descriptor anew for the next sleep; one that changed replaces the earlier one.
    ///
    /// # Errors
    /// What epoll_ctl returns: EPERM for a descriptor that is always ready, such as a regular file.
    pub fn arm(&mut self, wakeup: Wakeup, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        let (registry, token) = (self.poll.registry(), Token(wakeup as usize));
        let armed = &mut self.armed[wakeup as usize];
        if *armed == Some(descriptor) {
            match registry.reregister(&mut SourceFd(&descriptor), token, interest) {
                // Closed and opened again under the same number: the kernel has forgotten it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        } else if let Some(old) = armed.take() {
            // It may be closed already, which took it out of the set.
            let _ = registry.deregister(&mut SourceFd(&old));
        }
        registry.register(&mut SourceFd(&descriptor), token, interest)?;
        *armed = Some(descriptor);
        Ok(())
    }

    /// Takes a source out of the set.
    pub fn disarm(&mut self, wakeup: Wakeup) {
        if let Some(descriptor) = self.armed[wakeup as usize].take() {
            // It may be closed already, which took it out of the set.
            let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
        }
    }

    /// Registers the signals' own source, once.
    ///
    /// # Errors
    /// What epoll_ctl returns.
    pub fn register_signals(&mut self, signals: &mut impl mio::event::Source) -> io::Result<()> {
        self.poll.registry().register(signals, Token(Wakeup::Signal as usize), Interest::READABLE)
    }

    /// Sleeps until something is ready or the deadline has passed.
    ///
    /// # Errors
    /// What epoll_wait returns, but for EINTR.
    pub fn wait(&mut self, deadline: Instant) -> io::Result<()> {
        self.turns += 1;
        let timeout = deadline.saturating_duration_since(Instant::now());
        // epoll_wait counts in milliseconds: round up, or the last one is spent spinning.
        let timeout = if timeout.is_zero() { timeout } else { timeout + Duration::from_micros(999) };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// How often it has slept.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }
}
