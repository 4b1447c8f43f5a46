//! The replication stream: CopyBoth on a replication connection.
//!
//! Source: PostgreSQL documentation, "55.4 Streaming Replication Protocol" and "34.10 Functions Associated with the
//! COPY Command".

use std::os::fd::RawFd;

use super::conn::{Connection, Wait, command_error};
use super::connecting::Direction;
use super::error::Error;
use super::ffi::{CopyData, CopyPoll, Outcome};

const START_REPLICATION: &str = "START_REPLICATION";

/// A connection in CopyBoth mode.
#[derive(Debug)]
pub struct Stream {
    connection: Connection,
    unsent: bool,
    /// Bytes have arrived that [`Stream::take_sign_of_life`] has not told yet.
    has_heard: bool,
}

impl Stream {
    /// Sends START_REPLICATION and waits until the copy has begun.
    ///
    /// # Errors
    /// The connection comes back with a refusal that leaves it usable, such as an active slot (55006).
    pub fn start(mut connection: Connection, command: &str, wait: &mut Wait<'_>) -> Result<Self, (Connection, Error)> {
        match connection.command(START_REPLICATION, command, wait) {
            Ok(result) if result.outcome() == Outcome::CopyBoth => {
                Ok(Stream { connection, unsent: false, has_heard: false })
            }
            Ok(_) => {
                let reason = "it did not begin to copy".to_owned();
                Err((connection, Error::Answer { command: START_REPLICATION, reason }))
            }
            Err(error) => Err((connection, error)),
        }
    }

    /// The socket to wait for, and for what: reading, and writing too while something is left to send.
    ///
    /// # Errors
    /// [`Error::Lost`] when there is no socket any more.
    pub fn socket(&self) -> Result<(RawFd, bool), Error> {
        Ok((self.connection.handle.socket().ok_or_else(|| self.connection.lost())?, self.unsent))
    }

    /// The server's process of the session, while the connection works.
    #[must_use]
    pub fn session_pid(&self) -> i32 {
        self.connection.handle.backend_pid()
    }

    /// The next CopyData message; none when libpq and the socket hold no whole one.
    ///
    /// # Errors
    /// [`Error::Lost`], or the server's error when it ended the stream with one.
    pub fn receive(&mut self) -> Result<Option<CopyData>, Error> {
        // Bytes inside OpenSSL raise no readiness: one more round after the first that yields nothing.
        for _ in 0..3 {
            match self.connection.handle.copy_data() {
                CopyPoll::Data(data) => return Ok(Some(data)),
                CopyPoll::End | CopyPoll::Failed => return Err(self.end()),
                CopyPoll::Pending => {}
            }
            self.has_heard |= self.connection.handle.is_readable();
            if !self.connection.handle.consume_input() {
                return Err(self.end());
            }
        }
        match self.connection.handle.copy_data() {
            CopyPoll::Data(data) => Ok(Some(data)),
            CopyPoll::End | CopyPoll::Failed => Err(self.end()),
            CopyPoll::Pending => Ok(None),
        }
    }

    /// Whether bytes have arrived since this was asked last, of a message that is not whole yet too: a large one takes long
    /// on a slow link.
    pub fn take_sign_of_life(&mut self) -> bool {
        std::mem::take(&mut self.has_heard)
    }

    /// Queues a CopyData message and sends what the socket takes.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn send(&mut self, data: &[u8]) -> Result<(), Error> {
        // A buffer that cannot grow is reported as "not queued": the next status update says the same and more.
        self.connection.handle.put_copy_data(data).map_err(|_| self.connection.lost())?;
        self.flush()
    }

    /// Sends what is left, as far as the socket takes it.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.unsent = !self.connection.handle.flush().map_err(|_| self.connection.lost())?;
        Ok(())
    }

    /// Ends the copy: CopyDone, then reads until the server has ended it too, so that the last status update is known
    /// to be processed and a late error is not lost.
    ///
    /// # Errors
    /// The server's error, [`Error::Lost`], and what `wait` returns.
    pub fn finish(&mut self, wait: &mut Wait<'_>) -> Result<(), Error> {
        while !self.connection.handle.put_copy_end().map_err(|_| self.connection.lost())? {
            // libpq's buffer is full.
            self.flush()?;
            wait(self.socket()?.0, Direction::Write)?;
        }
        loop {
            self.flush()?;
            let socket = self.socket()?.0;
            if self.unsent {
                wait(socket, Direction::Write)?;
                continue;
            }
            match self.connection.handle.copy_data() {
                CopyPoll::Data(_) => continue,
                CopyPoll::End => break,
                CopyPoll::Failed => return Err(self.end()),
                CopyPoll::Pending => {}
            }
            if !self.connection.handle.consume_input() {
                return Err(self.connection.lost());
            }
            match self.connection.handle.copy_data() {
                CopyPoll::Data(_) => {}
                CopyPoll::End => break,
                CopyPoll::Failed => return Err(self.end()),
                CopyPoll::Pending => wait(socket, Direction::Read)?,
            }
        }
        loop {
            self.connection.wait_for_result(wait)?;
            match self.connection.handle.result() {
                Some(result) if result.outcome() == Outcome::Failed => {
                    return Err(command_error(START_REPLICATION, &result));
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// Why the server ended the stream.
    fn end(&mut self) -> Error {
        if self.connection.handle.is_bad() && self.connection.handle.is_busy() {
            return self.connection.lost();
        }
        match self.connection.handle.result() {
            Some(result) if result.outcome() == Outcome::Failed => command_error(START_REPLICATION, &result),
            Some(_) => Error::Lost { message: "the server ended the stream: it is shutting down".to_owned() },
            None => self.connection.lost(),
        }
    }
}
