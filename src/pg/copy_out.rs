//! Rows by `COPY (SELECT ...) TO STDOUT`, on a connection of its own that never blocks the loop.
//!
//! A command may hold several statements: the rows of its COPYs arrive in order, each COPY with its end. The session has
//! walcat's settings, and `row_security = off`: a policy that would hide rows is an error instead, because the stream
//! does not know policies either.
//!
//! libpq holds one row and what the socket had; while nobody calls [`CopyOut::receive`], the server waits.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::conn::{Wait, command_error, pin_session};
use super::connecting::{Connecting, Direction, Kind, Server};
use super::error::{Error, one_line, split_connect_message};
use super::ffi::{CopyData, CopyPoll, Handle, Outcome};
use crate::wire::replication::command::quote_literal;

/// The longest interval between checks of a connection in progress, because it has its own time limits.
const CONNECTING_SLICE: Duration = Duration::from_secs(1);

/// What [`CopyOut::receive`] found.
#[derive(Debug)]
pub enum Copied {
    /// One row, in COPY's text format.
    Row(CopyData),
    /// A COPY has ended; another statement may follow.
    EndOfCopy,
    /// The command has ended.
    End,
    /// Nothing has arrived: wait for the socket.
    Pending,
}

#[derive(Debug)]
enum State {
    /// Failed, or not yet open.
    Closed,
    Connecting(Box<Connecting>),
    /// The settings of the session are on their way.
    Pinning(Handle),
    Idle(Handle),
    /// Waiting for the result of a statement.
    Running(Handle),
    /// Rows follow.
    Copying(Handle),
}

/// A connection that copies rows out.
#[derive(Debug)]
pub struct CopyOut {
    /// The name of the command in messages.
    name: &'static str,
    state: State,
    /// The command to send once the session is open.
    queued: Option<CString>,
    is_sent: bool,
}

impl CopyOut {
    /// Starts to connect to the server of the conninfo that another connection has reached.
    ///
    /// # Errors
    /// [`Error::Conninfo`] and [`Error::Connect`].
    pub fn connect(name: &'static str, dsn: Option<&str>, server: &Server) -> Result<Self, Error> {
        let connecting = Connecting::start(dsn, Some(server), Kind::Ordinary)?;
        Ok(CopyOut { name, state: State::Connecting(Box::new(connecting)), queued: None, is_sent: false })
    }

    /// Sends a command, at once or when the connection is open. Call it again only after [`Copied::End`].
    ///
    /// # Errors
    /// [`Error::Answer`] for a name with a NUL byte, and [`Error::Lost`].
    pub fn start(&mut self, command: &str) -> Result<(), Error> {
        let command = CString::new(command).map_err(|_| Error::Answer {
            command: self.name,
            reason: "a name in the command contains a NUL byte".to_owned(),
        })?;
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Idle(handle) => self.send(handle, &command),
            state @ (State::Connecting(_) | State::Pinning(_)) => {
                (self.state, self.queued) = (state, Some(command));
                Ok(())
            }
            State::Closed | State::Running(_) | State::Copying(_) => {
                Err(Error::Lost { message: format!("{}: the connection is in use or closed", self.name) })
            }
        }
    }

    /// The next row, or the end of a COPY or of the command. After an error the connection is closed.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Command`], [`Error::Lost`].
    pub fn receive(&mut self) -> Result<Copied, Error> {
        'rows: loop {
            // A row is the common case.
            if let State::Copying(handle) = &mut self.state {
                match handle.copy_data() {
                    CopyPoll::Data(row) => return Ok(Copied::Row(row)),
                    CopyPoll::Pending => {}
                    CopyPoll::End | CopyPoll::Failed => {
                        self.end_of_rows();
                        continue;
                    }
                }
                // Bytes inside OpenSSL raise no readiness event: try again after the first empty round.
                for _ in 0..3 {
                    if !handle.consume_input() {
                        return Err(self.close());
                    }
                    match handle.copy_data() {
                        CopyPoll::Data(row) => return Ok(Copied::Row(row)),
                        CopyPoll::Pending => {}
                        CopyPoll::End | CopyPoll::Failed => {
                            self.end_of_rows();
                            continue 'rows;
                        }
                    }
                }
                return Ok(Copied::Pending);
            }
            if let Some(copied) = self.advance()? {
                return Ok(copied);
            }
        }
    }

    /// The result of the COPY follows.
    fn end_of_rows(&mut self) {
        if let State::Copying(handle) = std::mem::replace(&mut self.state, State::Closed) {
            self.state = State::Running(handle);
        }
    }

    /// Moves on between rows; none if there is more to do at once.
    fn advance(&mut self) -> Result<Option<Copied>, Error> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Connecting(mut connecting) => {
                if !connecting.poll(Instant::now())? {
                    self.state = State::Connecting(connecting);
                    return Ok(Some(Copied::Pending));
                }
                let handle = connecting.into_handle()?;
                let settings = format!("{} SET row_security = off", pin_session(handle.server_version()));
                let settings = CString::new(settings).expect("our commands contain no NUL byte");
                self.send(handle, &settings)?;
                if let State::Running(handle) = std::mem::replace(&mut self.state, State::Closed) {
                    self.state = State::Pinning(handle);
                }
                Ok(None)
            }
            State::Pinning(handle) => match self.result(handle, State::Pinning)? {
                Some(Copied::End) => match (std::mem::replace(&mut self.state, State::Closed), self.queued.take()) {
                    (State::Idle(handle), Some(command)) => self.send(handle, &command).map(|()| None),
                    (state, _) => {
                        self.state = state;
                        Ok(Some(Copied::End))
                    }
                },
                other => Ok(other),
            },
            State::Running(handle) => self.result(handle, State::Running),
            State::Idle(handle) => {
                self.state = State::Idle(handle);
                Ok(Some(Copied::End))
            }
            State::Copying(handle) => {
                self.state = State::Copying(handle);
                Ok(None)
            }
            State::Closed => Err(Error::Lost { message: format!("{}: the connection is closed", self.name) }),
        }
    }

    /// Takes the next result of the command; `waiting` is the state while there is none.
    fn result(&mut self, mut handle: Handle, waiting: fn(Handle) -> State) -> Result<Option<Copied>, Error> {
        self.is_sent = handle.flush().map_err(|_| lost(&handle))?;
        if handle.is_busy() && !handle.consume_input() {
            return Err(lost(&handle));
        }
        if !self.is_sent || handle.is_busy() {
            self.state = waiting(handle);
            return Ok(Some(Copied::Pending));
        }
        let Some(result) = handle.result() else {
            self.state = State::Idle(handle);
            return Ok(Some(Copied::End));
        };
        match result.outcome() {
            Outcome::Failed => Err(command_error(self.name, &result)),
            Outcome::CopyOut => {
                self.state = State::Copying(handle);
                Ok(None)
            }
            Outcome::CopyBoth => Err(Error::Answer { command: self.name, reason: "replication started".to_owned() }),
            Outcome::Rows => {
                self.state = waiting(handle);
                Ok(None)
            }
            Outcome::Command => {
                self.state = waiting(handle);
                // The result of a COPY comes after its last row.
                Ok(result.is_copy().then_some(Copied::EndOfCopy))
            }
        }
    }

    /// Runs a command to its end and returns its rows; for the start, where nothing else is to be done.
    ///
    /// # Errors
    /// Those of [`CopyOut::start`], [`CopyOut::receive`] and `wait`.
    pub fn rows(&mut self, command: &str, wait: &mut Wait<'_>) -> Result<Vec<CopyData>, Error> {
        self.start(command)?;
        let mut rows = Vec::new();
        loop {
            match self.receive()? {
                Copied::Row(row) => rows.push(row),
                Copied::EndOfCopy => {}
                Copied::End => return Ok(rows),
                Copied::Pending => {
                    if let Some((socket, direction)) = self.socket() {
                        wait(socket, direction)?;
                    }
                }
            }
        }
    }

    /// Begins a transaction that reads an exported snapshot.
    ///
    /// # Errors
    /// Those of [`CopyOut::rows`].
    pub fn import(&mut self, snapshot: &str, wait: &mut Wait<'_>) -> Result<(), Error> {
        let snapshot = quote_literal(snapshot);
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {snapshot}");
        self.rows(&begin, wait).map(drop)
    }

    /// The socket to wait for; none while there is nothing to wait for.
    #[must_use]
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        match &self.state {
            State::Closed | State::Idle(_) => None,
            State::Connecting(connecting) => connecting.socket(),
            State::Pinning(handle) | State::Running(handle) | State::Copying(handle) => {
                Some((handle.socket()?, if self.is_sent { Direction::Read } else { Direction::Write }))
            }
        }
    }

    /// The latest time of the next call of [`CopyOut::receive`].
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        matches!(self.state, State::Connecting(_)).then(|| now + CONNECTING_SLICE)
    }

    fn send(&mut self, mut handle: Handle, command: &CString) -> Result<(), Error> {
        if !handle.send_query(command) {
            return Err(lost(&handle));
        }
        (self.state, self.is_sent) = (State::Running(handle), false);
        Ok(())
    }

    /// Closes the connection, which has failed, and returns why.
    fn close(&mut self) -> Error {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Pinning(handle) | State::Idle(handle) | State::Running(handle) | State::Copying(handle) => {
                lost(&handle)
            }
            State::Closed | State::Connecting(_) => Error::Lost { message: self.name.to_owned() },
        }
    }
}

fn lost(handle: &Handle) -> Error {
    Error::Lost { message: one_line(&split_connect_message(&handle.error_message()).1) }
}
