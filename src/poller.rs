//! The only place where the loop sleeps: mio's poll, the sources that can wake it, and a deadline for each sleep.
//!
//! mio is edge-triggered: a descriptor that was not drained would not wake the loop again, so [`Poller::arm`] registers it
//! again before every sleep.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

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
    /// The socket of the connection with this number that reads a snapshot.
    Reader(u8),
}

/// No event is looked at: after each sleep the loop serves everything.
const TOKEN: Token = Token(0);

/// The poll, and the descriptor of each registered source.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
    armed: Vec<(Wakeup, RawFd)>,
    turns: u64,
}

impl Poller {
    /// Creates an empty poll.
    ///
    /// # Errors
    /// If the operating system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Poller { poll: Poll::new()?, events: Events::with_capacity(8), armed: Vec::new(), turns: 0 })
    }

    /// Registers a descriptor again for the next sleep; a changed descriptor replaces the earlier one. A descriptor belongs to
    /// the source that has armed it last: a start waits for a socket under another name than the loop does.
    ///
    /// # Errors
    /// The error of epoll_ctl: EPERM for a descriptor that is always ready, such as a regular file.
    pub fn arm(&mut self, wakeup: Wakeup, descriptor: RawFd, interest: Interest) -> io::Result<()> {
        let registry = self.poll.registry();
        if self.armed.contains(&(wakeup, descriptor)) {
            match registry.reregister(&mut SourceFd(&descriptor), TOKEN, interest) {
                // The descriptor was closed and opened again under the same number: the kernel has removed it from the set.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
        }
        self.forget(|owner, armed| owner == wakeup || armed == descriptor);
        self.poll.registry().register(&mut SourceFd(&descriptor), TOKEN, interest)?;
        self.armed.push((wakeup, descriptor));
        Ok(())
    }

    /// Removes a source from the set.
    pub fn disarm(&mut self, wakeup: Wakeup) {
        self.forget(|owner, _| owner == wakeup);
    }

    fn forget(&mut self, is_forgotten: impl Fn(Wakeup, RawFd) -> bool) {
        let registry = self.poll.registry();
        self.armed.retain(|&(owner, descriptor)| {
            let is_forgotten = is_forgotten(owner, descriptor);
            if is_forgotten {
                // The descriptor may be closed already, which has removed it from the set.
                let _ = registry.deregister(&mut SourceFd(&descriptor));
            }
            !is_forgotten
        });
    }

    /// Registers the source of the signals, once.
    ///
    /// # Errors
    /// The error of epoll_ctl.
    pub fn register_signals(&mut self, signals: &mut impl mio::event::Source) -> io::Result<()> {
        self.poll.registry().register(signals, TOKEN, Interest::READABLE)
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn wakes(poller: &mut Poller) -> bool {
        let began = Instant::now();
        poller.wait(began + LONG).unwrap();
        began.elapsed() < LONG
    }

    #[test]
    fn a_descriptor_that_another_source_had_wakes_the_loop_after_that_source_is_disarmed() {
        let mut poller = Poller::new().unwrap();
        let (socket, mut peer) = UnixStream::pair().unwrap();
        poller.arm(Wakeup::Postgres, socket.as_raw_fd(), Interest::READABLE).unwrap();
        poller.arm(Wakeup::Reader(7), socket.as_raw_fd(), Interest::READABLE).unwrap();
        poller.disarm(Wakeup::Postgres);
        peer.write_all(b"x").unwrap();
        assert!(wakes(&mut poller));
    }

    #[test]
    fn a_number_that_was_closed_and_is_used_again_wakes_the_loop_for_its_new_source() {
        let mut poller = Poller::new().unwrap();
        let (socket, peer) = UnixStream::pair().unwrap();
        let number = socket.as_raw_fd();
        poller.arm(Wakeup::Catalog, number, Interest::READABLE).unwrap();
        drop((socket, peer));
        let (socket, mut peer) = UnixStream::pair().unwrap();
        poller.arm(Wakeup::Outage, socket.as_raw_fd(), Interest::READABLE).unwrap();
        poller.disarm(Wakeup::Catalog);
        peer.write_all(b"x").unwrap();
        assert!(wakes(&mut poller));
        // Arming it again reports what is still to be read.
        poller.arm(Wakeup::Outage, socket.as_raw_fd(), Interest::READABLE).unwrap();
        assert!(wakes(&mut poller));
    }
}
