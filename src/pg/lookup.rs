//! Queries on a separate connection that never block the loop: one query at a time, for one value.
//!
//! The first query opens the connection, to the server of the stream, and later queries reuse it. If the connection is lost
//! while idle, the next query opens it again; the caller handles every other failure. Each query runs in its own
//! transaction with pinned settings, so nothing is left in the session: there may be a pooler between.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::conn::{begin_pinned, command_error};
use super::connecting::{Connecting, Direction, Kind, Server};
use super::error::{Error, split_connect_message};
use super::ffi::{Handle, Outcome};
use crate::limits::CONNECT_TIMEOUT;

/// The longest interval between checks of a connection in progress, because it has its own time limits.
const CONNECTING_SLICE: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum State {
    /// No connection.
    Closed,
    /// Connecting; the query follows.
    Connecting { connecting: Box<Connecting>, query: Query },
    /// Waiting for the end of a command.
    Asking { asked: Asked, command: Command, sent: bool },
    /// Nothing to do.
    Idle(Handle),
}

/// A connection with a running query.
#[derive(Debug)]
struct Asked {
    handle: Handle,
    query: Query,
    /// Whether the connection was idle before.
    was_idle: bool,
    /// The value that the present command has returned.
    value: Option<String>,
    deadline: Instant,
}

/// The commands of a query, one after another.
#[derive(Debug)]
enum Command {
    /// The transaction with its settings.
    Begin,
    /// The query itself.
    Query,
    /// The end, after the answer.
    Commit { answer: String },
}

/// A query and its parameters.
#[derive(Debug)]
struct Query {
    text: &'static CStr,
    parameters: Vec<CString>,
}

/// Runs queries, one at a time.
#[derive(Debug)]
pub struct Lookup {
    /// The name of the query in messages.
    name: &'static str,
    dsn: Option<String>,
    server: Server,
    state: State,
}

impl Lookup {
    /// Connects at the first query.
    #[must_use]
    pub fn new(name: &'static str, dsn: Option<String>, server: Server) -> Self {
        Lookup { name, dsn, server, state: State::Closed }
    }

    /// Queries this server from now on: the stream comes from it.
    pub fn follow(&mut self, server: Server) {
        self.server = server;
        self.state = State::Closed;
    }

    /// Sends a query for one value, in place of a running one; [`Lookup::poll`] returns the answer.
    ///
    /// # Errors
    /// [`Error::Conninfo`] and [`Error::Connect`].
    pub fn ask(&mut self, text: &'static CStr, parameters: &[&str]) -> Result<(), Error> {
        let parameter =
            |text: &&str| CString::new(*text).expect("names that were checked, and numbers, hold no NUL byte");
        let parameters = parameters.iter().map(parameter).collect();
        let query = Query { text, parameters };
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Idle(handle) => match begin(handle, query, true) {
                Ok(asking) => asking,
                Err((query, _)) => self.connect(query)?,
            },
            _ => self.connect(query)?,
        };
        Ok(())
    }

    /// Returns the answer once it has arrived. Call this whenever the socket is ready, and at the deadline.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Command`], [`Error::Lost`], and [`Error::Answer`] without an answer.
    pub fn poll(&mut self) -> Result<Option<String>, Error> {
        loop {
            match std::mem::replace(&mut self.state, State::Closed) {
                State::Connecting { mut connecting, query } => {
                    if !connecting.poll(Instant::now())? {
                        self.state = State::Connecting { connecting, query };
                        return Ok(None);
                    }
                    let handle = connecting.into_handle()?;
                    self.state = begin(handle, query, false).map_err(|(_, error)| error)?;
                }
                State::Asking { mut asked, command, .. } => match self.progress(&mut asked) {
                    Ok(Progress::Waiting { sent }) => {
                        if Instant::now() >= asked.deadline {
                            let message = format!("{}: no answer within {} s", self.name, CONNECT_TIMEOUT.as_secs());
                            return Err(Error::Lost { message });
                        }
                        self.state = State::Asking { asked, command, sent };
                        return Ok(None);
                    }
                    Ok(Progress::Done) => {
                        self.state = match command {
                            Command::Begin => query(asked)?,
                            Command::Query => {
                                let missing = || Error::Answer { command: self.name, reason: "no row".to_owned() };
                                let answer = asked.value.take().ok_or_else(missing)?;
                                commit(asked, answer)?
                            }
                            Command::Commit { answer } => {
                                self.state = State::Idle(asked.handle);
                                return Ok(Some(answer));
                            }
                        };
                    }
                    // The connection was lost while idle, which shows only now.
                    Err(Error::Lost { .. }) if asked.was_idle => self.state = self.connect(asked.query)?,
                    Err(error) => return Err(error),
                },
                state => {
                    self.state = state;
                    return Ok(None);
                }
            }
        }
    }

    /// The socket to wait for while a query is running.
    #[must_use]
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        match &self.state {
            State::Connecting { connecting, .. } => connecting.socket(),
            State::Asking { asked, sent, .. } => {
                Some((asked.handle.socket()?, if *sent { Direction::Read } else { Direction::Write }))
            }
            State::Closed | State::Idle(_) => None,
        }
    }

    /// The latest time of the next call of [`Lookup::poll`].
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Connecting { .. } => Some(now + CONNECTING_SLICE),
            State::Asking { asked, .. } => Some(asked.deadline),
            State::Closed | State::Idle(_) => None,
        }
    }

    fn connect(&self, query: Query) -> Result<State, Error> {
        let connecting = Connecting::start(self.dsn.as_deref(), Some(&self.server), Kind::Pooled)?;
        Ok(State::Connecting { connecting: Box::new(connecting), query })
    }

    /// Reads the available results of the present command.
    fn progress(&self, asked: &mut Asked) -> Result<Progress, Error> {
        let handle = &mut asked.handle;
        let sent = handle.flush().map_err(|_| lost(handle))?;
        if !handle.consume_input() {
            return Err(lost(handle));
        }
        loop {
            if !sent || handle.is_busy() {
                return Ok(Progress::Waiting { sent });
            }
            let Some(result) = handle.result() else { return Ok(Progress::Done) };
            if result.outcome() == Outcome::Failed {
                return Err(command_error(self.name, &result));
            }
            asked.value = result.value(0, 0).map(str::to_owned);
        }
    }
}

/// The progress of a command.
enum Progress {
    Waiting { sent: bool },
    Done,
}

/// Begins the transaction of a query; a lost connection returns the query.
fn begin(mut handle: Handle, query: Query, was_idle: bool) -> Result<State, (Query, Error)> {
    let text = CString::new(begin_pinned(handle.server_version())).expect("our commands contain no NUL byte");
    if handle.is_bad() || !handle.send_query(&text) {
        return Err((query, lost(&handle)));
    }
    let asked = Asked { handle, query, was_idle, value: None, deadline: Instant::now() + CONNECT_TIMEOUT };
    Ok(State::Asking { asked, command: Command::Begin, sent: false })
}

fn query(mut asked: Asked) -> Result<State, Error> {
    let parameters = asked.query.parameters.iter().map(CString::as_c_str).collect::<Vec<_>>();
    if !asked.handle.send_query_params(asked.query.text, &parameters) {
        return Err(lost(&asked.handle));
    }
    Ok(State::Asking { asked, command: Command::Query, sent: false })
}

fn commit(mut asked: Asked, answer: String) -> Result<State, Error> {
    if !asked.handle.send_query(c"COMMIT") {
        return Err(lost(&asked.handle));
    }
    Ok(State::Asking { asked, command: Command::Commit { answer }, sent: false })
}

fn lost(handle: &Handle) -> Error {
    Error::Lost { message: split_connect_message(&handle.error_message()).1 }
}
