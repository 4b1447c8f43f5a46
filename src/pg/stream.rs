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
    /// Whether bytes have arrived since the last call of [`Stream::take_sign_of_life`].
    has_heard: bool,
}

impl Stream {
    /// Sends START_REPLICATION and waits until the copy starts.
    ///
    /// # Errors
    /// A refusal that leaves the connection usable, such as an active slot (55006), returns the connection.
    pub fn start(mut connection: Connection, command: &str, wait: &mut Wait<'_>) -> Result<Self, (Connection, Error)> {
        match connection.command(START_REPLICATION, command, wait) {
            Ok(result) if result.outcome() == Outcome::CopyBoth => {
                Ok(Stream { connection, unsent: false, has_heard: false })
            }
            Ok(_) => {
                let reason = "the copy did not start".to_owned();
                Err((connection, Error::Answer { command: START_REPLICATION, reason }))
            }
            Err(error) => Err((connection, error)),
        }
    }

    /// The socket to wait for, always for reading, and whether to wait for writing too.
    ///
    /// # Errors
    /// [`Error::Lost`] if there is no socket any more.
    pub fn socket(&self) -> Result<(RawFd, bool), Error> {
        Ok((self.connection.handle.socket().ok_or_else(|| self.connection.lost())?, self.unsent))
    }

    /// The pid of the session's server process, while the connection works.
    #[must_use]
    pub fn session_pid(&self) -> i32 {
        self.connection.handle.backend_pid()
    }

    /// The next CopyData message; none if libpq and the socket hold no complete one.
    ///
    /// # Errors
    /// [`Error::Lost`], or the error with which the server ended the stream.
    pub fn receive(&mut self) -> Result<Option<CopyData>, Error> {
        // Bytes inside OpenSSL raise no readiness event: try once more after the first empty round.
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

    /// Whether bytes have arrived since the last call. Bytes of an incomplete message count: a large message takes long on a
    /// slow link.
    pub fn take_sign_of_life(&mut self) -> bool {
        std::mem::take(&mut self.has_heard)
    }

    /// Queues a CopyData message and sends what the socket accepts.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn send(&mut self, data: &[u8]) -> Result<(), Error> {
        // libpq reports a buffer that cannot grow as "not queued": the next status update has the same positions or
        // later ones.
        self.connection.handle.put_copy_data(data).map_err(|_| self.connection.lost())?;
        self.flush()
    }

    /// Sends what is left, as far as the socket accepts it.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.unsent = !self.connection.handle.flush().map_err(|_| self.connection.lost())?;
        Ok(())
    }

    /// Ends the copy: sends CopyDone, then reads until the server has ended it too. So the server has processed the
    /// last status update, and no late error is lost.
    ///
    /// # Errors
    /// The server's error, [`Error::Lost`], and the errors of `wait`.
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

    /// The reason why the server ended the stream.
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
