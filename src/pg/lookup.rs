//! A query on an ordinary connection of its own that never blocks the loop: one at a time, for one value.
//!
//! The connection is made at the first query and kept. A connection that was lost while idle is made again.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::time::Instant;

use super::conn::command_error;
use super::connecting::{Connecting, Direction, Kind};
use super::error::{Error, split_connect_message};
use super::ffi::{Handle, Outcome};
use crate::limits::CONNECT_TIMEOUT;

#[derive(Debug)]
enum State {
    /// No connection.
    Closed,
    /// Connecting, to ask afterwards.
    Connecting { connecting: Connecting, query: Query },
    /// Waiting for the answer.
    Asking { handle: Handle, sent: bool, deadline: Instant },
    /// Nothing to do.
    Idle(Handle),
}

/// A query and its parameters.
#[derive(Debug)]
struct Query {
    text: &'static CStr,
    parameters: Vec<CString>,
}

/// Asks, one query at a time.
#[derive(Debug)]
pub struct Lookup {
    /// What messages call it.
    name: &'static str,
    dsn: Option<String>,
    state: State,
}

impl Lookup {
    /// Connects only when it is asked something.
    #[must_use]
    pub fn new(name: &'static str, dsn: Option<String>) -> Self {
        Lookup { name, dsn, state: State::Closed }
    }

    /// Sends a query for one value, in place of one that is under way; [`Lookup::poll`] gives the answer.
    ///
    /// # Errors
    /// [`Error::Conninfo`] and [`Error::Connect`].
    pub fn ask(&mut self, text: &'static CStr, parameters: &[&str]) -> Result<(), Error> {
        // A NUL byte is in none of them: they are names that were checked, and numbers.
        let parameters = parameters.iter().map(|text| CString::new(*text).unwrap_or_default()).collect();
        let query = Query { text, parameters };
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Idle(handle) => match send(handle, &query) {
                Ok(asking) => asking,
                // Lost while it was idle: the server may have been asked to end idle sessions.
                Err(_) => self.connect(query)?,
            },
            _ => self.connect(query)?,
        };
        Ok(())
    }

    /// The answer, when it is there. Call it whenever the socket is ready.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Command`], [`Error::Lost`], and [`Error::Answer`] for none.
    pub fn poll(&mut self) -> Result<Option<String>, Error> {
        loop {
            match std::mem::replace(&mut self.state, State::Closed) {
                State::Connecting { mut connecting, query } => {
                    if !connecting.poll(Instant::now())? {
                        self.state = State::Connecting { connecting, query };
                        return Ok(None);
                    }
                    let mut handle = connecting.into_handle();
                    handle.set_nonblocking();
                    self.state = send(handle, &query)?;
                }
                State::Asking { mut handle, deadline, .. } => {
                    let sent = handle.flush().map_err(|_| lost(&handle))?;
                    if !handle.consume_input() {
                        return Err(lost(&handle));
                    }
                    if !sent || handle.is_busy() {
                        if Instant::now() >= deadline {
                            let message = format!("{}: no answer within {} s", self.name, CONNECT_TIMEOUT.as_secs());
                            return Err(Error::Lost { message });
                        }
                        self.state = State::Asking { handle, sent, deadline };
                        return Ok(None);
                    }
                    let answer = self.read_answer(&mut handle)?;
                    self.state = State::Idle(handle);
                    return Ok(Some(answer));
                }
                state => {
                    self.state = state;
                    return Ok(None);
                }
            }
        }
    }

    /// The socket to wait for while a query is under way.
    #[must_use]
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        match &self.state {
            State::Connecting { connecting, .. } => connecting.socket(),
            State::Asking { handle, sent, .. } => {
                Some((handle.socket()?, if *sent { Direction::Read } else { Direction::Write }))
            }
            State::Closed | State::Idle(_) => None,
        }
    }

    fn connect(&self, query: Query) -> Result<State, Error> {
        Ok(State::Connecting { connecting: Connecting::start(self.dsn.as_deref(), Kind::Ordinary)?, query })
    }

    fn read_answer(&self, handle: &mut Handle) -> Result<String, Error> {
        let mut answer = None;
        // The command is complete: getting its results does not wait.
        while let Some(result) = handle.result() {
            if result.outcome() == Outcome::Failed {
                return Err(command_error(self.name, &result));
            }
            answer = result.value(0, 0).map(str::to_owned);
        }
        answer.ok_or_else(|| Error::Answer { command: self.name, reason: "no row".to_owned() })
    }
}

fn send(mut handle: Handle, query: &Query) -> Result<State, Error> {
    let parameters = query.parameters.iter().map(CString::as_c_str).collect::<Vec<_>>();
    if handle.is_bad() || !handle.send_query_params(query.text, &parameters) {
        return Err(lost(&handle));
    }
    Ok(State::Asking { handle, sent: false, deadline: Instant::now() + CONNECT_TIMEOUT })
}

fn lost(handle: &Handle) -> Error {
    Error::Lost { message: split_connect_message(&handle.error_message()).1 }
}
