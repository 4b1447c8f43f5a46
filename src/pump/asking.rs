//! The catalog query that a Relation message needs. While a query is open, walcat reads no changes, but it keeps the stream
//! and its status updates alive. If the query fails, walcat repeats it within the budget of `[retry]`: a refused catalog
//! connection is no reason to close a working stream. walcat also repeats the query while the catalog does not show the
//! changes of the Relation's own transaction: a walsender streams a commit before other sessions see it.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::warn;

use super::error::Error;
use crate::backoff::{Backoff, Policy};
use crate::pg::catalog::{Catalog, Question, Reply};
use crate::pg::{self, Direction, Server};
use crate::relations::Relation;

/// The time between two checks whether a transaction is visible.
const VISIBLE_INTERVAL: Duration = Duration::from_millis(50);

/// The longest wait for that. With synchronous replication an absent standby can delay it without end. After this time
/// walcat uses the catalog as it is.
const VISIBLE_PATIENCE: Duration = Duration::from_secs(10);

/// The catalog connection, and the relation that waits for the answer.
#[derive(Debug)]
pub(super) struct Asking {
    catalog: Catalog,
    waiting: Option<Waiting>,
    backoff: Backoff,
    /// The time of the first failure since the last success.
    failing_since: Option<Instant>,
    /// The time of the next attempt.
    retry_at: Option<Instant>,
    /// The time since which walcat waits for transactions to become visible.
    invisible_since: Option<Instant>,
    told_invisible: bool,
}

/// A relation that waits for the catalog.
#[derive(Debug)]
struct Waiting {
    relation: Relation,
    question: Question,
}

impl Asking {
    /// Creates it without an open question.
    pub fn new(catalog: Catalog, policy: Policy) -> Self {
        Asking {
            catalog,
            waiting: None,
            backoff: Backoff::new(policy),
            failing_since: None,
            retry_at: None,
            invisible_since: None,
            told_invisible: false,
        }
    }

    /// Whether a relation waits for the catalog.
    pub fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    /// Asks the catalog about a relation; [`Asking::poll`] returns the reply.
    ///
    /// # Errors
    /// Those of [`Asking::poll`].
    pub fn ask(&mut self, relation: Relation, question: Question, slot: &str, now: Instant) -> Result<(), Error> {
        let asked = self.catalog.ask(&question);
        self.waiting = Some(Waiting { relation, question });
        self.retry_at = None;
        asked.or_else(|error| self.failed(error, slot, now))
    }

    /// Returns the relation, the question and the reply, once the reply has arrived. The loop calls this at every turn.
    ///
    /// # Errors
    /// [`Error::Catalog`] when the budget is spent, and [`Error::Postgres`] for failures that a retry does not fix.
    pub fn poll(&mut self, slot: &str, now: Instant) -> Result<Option<(Relation, Question, Reply)>, Error> {
        let Some(Waiting { question, .. }) = &self.waiting else { return Ok(None) };
        let replied = match self.retry_at {
            Some(at) if now < at => return Ok(None),
            Some(_) => {
                self.retry_at = None;
                self.catalog.ask(question).and_then(|()| self.catalog.poll())
            }
            None => self.catalog.poll(),
        };
        let reply = match replied {
            Ok(None) => return Ok(None),
            Ok(Some(reply)) => reply,
            Err(error) => return self.failed(error, slot, now).map(|()| None),
        };
        self.backoff.succeeded();
        self.failing_since = None;
        if !self.may_be_used(&reply, slot, now) {
            self.retry_at = Some(now + VISIBLE_INTERVAL);
            return Ok(None);
        }
        Ok(self.waiting.take().map(|Waiting { relation, question, .. }| (relation, question, reply)))
    }

    /// Whether the reply includes the changes of the relation's transaction, or walcat has waited long enough.
    fn may_be_used(&mut self, reply: &Reply, slot: &str, now: Instant) -> bool {
        if reply.is_visible {
            self.invisible_since = None;
            self.told_invisible = false;
            return true;
        }
        let since = *self.invisible_since.get_or_insert(now);
        let is_enough = now.saturating_duration_since(since) >= VISIBLE_PATIENCE;
        if is_enough
            && let Some(Waiting { relation, question }) = &self.waiting
            && !std::mem::replace(&mut self.told_invisible, true)
        {
            warn!(slot, xid = question.xid, schema = relation.namespace.as_str(), table = relation.name.as_str(),
                waited_s = VISIBLE_PATIENCE.as_secs();
                "a committed transaction is still not visible (synchronous replication may be waiting for a standby); \
                 using its tables as the catalog shows them without it");
        }
        is_enough
    }

    /// Drops the open question, because the stream has ended or starts again from this server.
    pub fn give_up(&mut self, server: Option<Server>) {
        self.waiting = None;
        self.retry_at = None;
        if let Some(server) = server {
            self.catalog.follow(server);
        }
    }

    /// The socket to wait for while a question is open.
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        if self.waiting.is_none() || self.retry_at.is_some() {
            return None;
        }
        self.catalog.socket()
    }

    /// The latest time of the next call of [`Asking::poll`].
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.waiting.as_ref()?;
        self.retry_at.or_else(|| self.catalog.deadline(now))
    }

    /// Schedules another attempt if a retry can help.
    fn failed(&mut self, error: pg::Error, slot: &str, now: Instant) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error.into());
        }
        let since = *self.failing_since.get_or_insert(now);
        let Some(delay) = self.backoff.failed(now, fastrand::f64()) else {
            let seconds = now.saturating_duration_since(since).as_secs();
            return Err(Error::Catalog { source: error, seconds });
        };
        let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        warn!(slot, error:% = error, retry_in_ms;
            "cannot query the catalog of PostgreSQL; reading pauses until a retry succeeds");
        self.retry_at = Some(now + delay);
        Ok(())
    }
}
