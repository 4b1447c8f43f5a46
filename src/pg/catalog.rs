//! The catalog's answer for a Relation, asked on an ordinary connection of its own that never blocks the loop.
//!
//! The connection is made at the first question and kept. A connection that was lost while idle is made again.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::time::Instant;

use super::conn::{Direction, Kind, command_error};
use super::connecting::Connecting;
use super::error::{Error, split_connect_message};
use super::ffi::{Handle, Outcome};
use crate::catalog_facts::CatalogAnswer;
use crate::limits::CONNECT_TIMEOUT;

const NAME: &str = "the catalog query";

/// One row, one value: the answer as JSON, as [`CatalogAnswer`] reads it. Settings of the session do not change it.
const QUERY: &CStr = c"
WITH RECURSIVE wanted(oid) AS (
    SELECT pg_catalog.unnest($2::pg_catalog.oid[])
  UNION
    SELECT related.oid
    FROM wanted
    JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
    CROSS JOIN LATERAL (VALUES (t.typbasetype), (CASE WHEN t.typcategory = 'A' THEN t.typelem END)) AS related(oid)
    WHERE related.oid <> 0
)
SELECT pg_catalog.json_build_object(
  'relation', $1::pg_catalog.int8,
  'table', (
    SELECT pg_catalog.json_build_object(
      'namespace', n.nspname,
      'name', c.relname,
      'replica_identity', c.relreplident,
      'identity_columns', COALESCE((
        SELECT pg_catalog.json_agg(a.attname ORDER BY k.place)
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE i.indrelid = c.oid AND k.place <= i.indnkeyatts
          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), '[]'),
      'primary_key', COALESCE((
        SELECT pg_catalog.json_agg(a.attname ORDER BY k.place)
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts), '[]'),
      'is_partition', c.relispartition)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = $1::pg_catalog.oid),
  'types', COALESCE((
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', t.oid::pg_catalog.int8,
      'name', t.typname,
      'kind', t.typtype,
      'base_type', t.typbasetype::pg_catalog.int8,
      'element_type', CASE WHEN t.typcategory = 'A' THEN t.typelem::pg_catalog.int8 ELSE 0 END,
      'delimiter', COALESCE(e.typdelim, t.typdelim)) ORDER BY t.oid)
    FROM wanted
    JOIN pg_catalog.pg_type t ON t.oid = wanted.oid
    LEFT JOIN pg_catalog.pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
    WHERE t.oid >= 16384), '[]'))";

#[derive(Debug)]
enum State {
    /// No connection.
    Closed,
    /// Connecting, to ask afterwards.
    Connecting { connecting: Connecting, question: Question },
    /// Waiting for the answer.
    Asking { handle: Handle, sent: bool, deadline: Instant },
    /// Nothing to do.
    Idle(Handle),
}

#[derive(Debug)]
struct Question {
    relation: CString,
    types: CString,
}

/// Asks the catalog, one question at a time.
#[derive(Debug)]
pub struct Catalog {
    dsn: Option<String>,
    state: State,
}

impl Catalog {
    /// Connects only when it is asked something.
    #[must_use]
    pub fn new(dsn: Option<String>) -> Self {
        Catalog { dsn, state: State::Closed }
    }

    /// Asks about a relation and the types of its columns; [`Catalog::poll`] gives the answer.
    ///
    /// # Errors
    /// [`Error::Conninfo`] and [`Error::Connect`].
    pub fn ask(&mut self, relation: u32, types: impl Iterator<Item = u32>) -> Result<(), Error> {
        let types = types.map(|oid| oid.to_string()).collect::<Vec<_>>().join(",");
        let text = |text: String| CString::new(text).unwrap_or_default();
        let question = Question { relation: text(relation.to_string()), types: text(format!("{{{types}}}")) };
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Idle(handle) => match send(handle, &question) {
                Ok(asking) => asking,
                // Lost while it was idle: the server may have been asked to end idle sessions.
                Err(_) => self.connect(question)?,
            },
            _ => self.connect(question)?,
        };
        Ok(())
    }

    /// The answer, when it is there. Call it whenever the socket is ready.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Command`], [`Error::Lost`], [`Error::Answer`].
    pub fn poll(&mut self) -> Result<Option<CatalogAnswer>, Error> {
        loop {
            match std::mem::replace(&mut self.state, State::Closed) {
                State::Connecting { mut connecting, question } => {
                    if !connecting.poll(Instant::now())? {
                        self.state = State::Connecting { connecting, question };
                        return Ok(None);
                    }
                    let mut handle = connecting.into_handle();
                    handle.set_nonblocking();
                    self.state = send(handle, &question)?;
                }
                State::Asking { mut handle, deadline, .. } => {
                    let sent = handle.flush().map_err(|_| lost(&handle))?;
                    if !handle.consume_input() {
                        return Err(lost(&handle));
                    }
                    if !sent || handle.is_busy() {
                        if Instant::now() >= deadline {
                            let message = format!("no answer of the catalog within {} s", CONNECT_TIMEOUT.as_secs());
                            return Err(Error::Lost { message });
                        }
                        self.state = State::Asking { handle, sent, deadline };
                        return Ok(None);
                    }
                    let answer = read_answer(&mut handle)?;
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

    /// The socket to wait for while a question is open.
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

    fn connect(&self, question: Question) -> Result<State, Error> {
        Ok(State::Connecting { connecting: Connecting::start(self.dsn.as_deref(), Kind::Ordinary)?, question })
    }
}

fn send(mut handle: Handle, question: &Question) -> Result<State, Error> {
    if handle.is_bad() || !handle.send_query_params(QUERY, &[&question.relation, &question.types]) {
        return Err(lost(&handle));
    }
    Ok(State::Asking { handle, sent: false, deadline: Instant::now() + CONNECT_TIMEOUT })
}

fn read_answer(handle: &mut Handle) -> Result<CatalogAnswer, Error> {
    let mut answer = None;
    // The command is complete: getting its results does not wait.
    while let Some(result) = handle.result() {
        if result.outcome() == Outcome::Failed {
            return Err(command_error(NAME, &result));
        }
        answer = result.value(0, 0).map(serde_json::from_str::<CatalogAnswer>);
    }
    let not_understood = |reason: String| Error::Answer { command: NAME, reason };
    answer.ok_or_else(|| not_understood("no row".to_owned()))?.map_err(|error| not_understood(error.to_string()))
}

fn lost(handle: &Handle) -> Error {
    Error::Lost { message: split_connect_message(&handle.error_message()).1 }
}
