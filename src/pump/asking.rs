//! The question to the catalog that a Relation waits for. While it is open nothing is read; the stream stays, and so do its
//! status updates. A catalog that cannot be asked is asked again within the budget of `[retry]`: a connection too few for it
//! is no reason to tear down a stream that works. It is asked again, too, while it does not have what the Relation's own
//! transaction has changed: a commit is streamed before other sessions see it.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::warn;

use super::error::Error;
use crate::backoff::{Backoff, Policy};
use crate::pg::catalog::{Catalog, Question, Reply};
use crate::pg::{self, Direction, Server};
use crate::relations::Relation;

/// The time between two looks at whether a transaction is visible.
const VISIBLE_INTERVAL: Duration = Duration::from_millis(50);

/// How long that may take: with synchronous replication a standby that is away holds it up without end. Then the catalog is
/// taken as it is.
const VISIBLE_PATIENCE: Duration = Duration::from_secs(10);

/// The catalog, and the relation that waits for its answer.
#[derive(Debug)]
pub(super) struct Asking {
    catalog: Catalog,
    waiting: Option<Waiting>,
    backoff: Backoff,
    /// When the first attempt failed of those that have failed since one succeeded.
    failing_since: Option<Instant>,
    /// When it is asked again.
    retry_at: Option<Instant>,
    /// Since when transactions have been waited for that are not visible yet.
    invisible_since: Option<Instant>,
    told_invisible: bool,
}

/// A relation that waits.
#[derive(Debug)]
struct Waiting {
    relation: Relation,
    question: Question,
}

impl Asking {
    /// Nothing is asked yet.
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

    /// Whether a relation waits.
    pub fn is_open(&self) -> bool {
        self.waiting.is_some()
    }

    /// Asks about a relation; [`Asking::poll`] gives the reply.
    ///
    /// # Errors
    /// Those of [`Asking::poll`].
    pub fn ask(&mut self, relation: Relation, question: Question, slot: &str, now: Instant) -> Result<(), Error> {
        let asked = self.catalog.ask(&question);
        self.waiting = Some(Waiting { relation, question });
        self.retry_at = None;
        asked.or_else(|error| self.failed(error, slot, now))
    }

    /// The relation and the reply, once it is there, with what was asked. Call it at every turn.
    ///
    /// # Errors
    /// [`Error::Catalog`] when the budget is spent, and [`Error::Postgres`] for what trying again does not mend.
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

    /// Whether the reply knows of the relation's transaction, or has been waited for long enough.
    fn may_be_used(&mut self, reply: &Reply, slot: &str, now: Instant) -> bool {
        if reply.is_visible {
            self.invisible_since = None;
            self.told_invisible = false;
            return true;
        }
        let since = *self.invisible_since.get_or_insert(now);
        let is_enough = now.saturating_duration_since(since) >= VISIBLE_PATIENCE;
        if is_enough && !std::mem::replace(&mut self.told_invisible, true) {
            warn!(slot, waited_s = VISIBLE_PATIENCE.as_secs();
                "a transaction that is committed is not visible yet (does synchronous replication wait for a standby?): \
                 its tables are taken as the catalog has them without it");
        }
        is_enough
    }

    /// The stream is over, or begins anew from this server: nothing waits any more.
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

    /// When [`Asking::poll`] has to be called again at the latest.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.waiting.as_ref()?;
        self.retry_at.or_else(|| self.catalog.deadline(now))
    }

    /// Asks again a little later, if that may help.
    fn failed(&mut self, error: pg::Error, slot: &str, now: Instant) -> Result<(), Error> {
        if !error.may_pass() {
            return Err(error.into());
        }
        let since = *self.failing_since.get_or_insert(now);
        let Some(delay) = self.backoff.failed(now, fastrand::f64()) else {
            let seconds = now.saturating_duration_since(since).as_secs();
            return Err(Error::Catalog { source: error, seconds });
        };
        let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        warn!(slot, error:% = error, retry_in_ms;
            "the catalog of PostgreSQL cannot be asked: reading waits for it, and it is asked again");
        self.retry_at = Some(now + delay);
        Ok(())
    }
}
