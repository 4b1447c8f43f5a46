//! The question to the catalog that a Relation waits for. While it is open nothing is read; the stream stays, and so do its
//! status updates. A catalog that cannot be asked is asked again within the budget of `[retry]`: a connection too few for it
//! is no reason to tear down a stream that works.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use log::warn;

use super::error::Error;
use crate::backoff::{Backoff, Policy};
use crate::catalog_facts::CatalogAnswer;
use crate::pg::catalog::Catalog;
use crate::pg::error::Retry;
use crate::pg::{self, Direction, Server};
use crate::relations::{AnnouncedType, Relation};

/// The catalog, and the relation that waits for its answer.
#[derive(Debug)]
pub(super) struct Asking {
    catalog: Catalog,
    relation: Option<Relation>,
    /// The types that were announced with it.
    types: Vec<AnnouncedType>,
    backoff: Backoff,
    /// When the first attempt failed of those that have failed since one succeeded.
    failing_since: Option<Instant>,
    /// When it is asked again.
    retry_at: Option<Instant>,
}

impl Asking {
    /// Nothing is asked yet.
    pub fn new(catalog: Catalog, policy: Policy) -> Self {
        let backoff = Backoff::new(policy);
        Asking { catalog, relation: None, types: Vec::new(), backoff, failing_since: None, retry_at: None }
    }

    /// Whether a relation waits.
    pub fn is_open(&self) -> bool {
        self.relation.is_some()
    }

    /// Asks about a relation; [`Asking::poll`] gives the answer.
    ///
    /// # Errors
    /// Those of [`Asking::poll`].
    pub fn ask(
        &mut self,
        relation: Relation,
        types: Vec<AnnouncedType>,
        slot: &str,
        now: Instant,
    ) -> Result<(), Error> {
        (self.relation, self.types) = (Some(relation), types);
        self.retry_at = None;
        match self.send() {
            Ok(()) => Ok(()),
            Err(error) => self.failed(error, slot, now),
        }
    }

    /// The relation and the answer, once it is there. Call it at every turn.
    ///
    /// # Errors
    /// [`Error::Catalog`] when the budget is spent, and [`Error::Postgres`] for what trying again does not mend.
    pub fn poll(&mut self, slot: &str, now: Instant) -> Result<Option<(Relation, CatalogAnswer)>, Error> {
        if self.relation.is_none() {
            return Ok(None);
        }
        let answered = match self.retry_at {
            Some(at) if now < at => return Ok(None),
            Some(_) => {
                self.retry_at = None;
                self.send().and_then(|()| self.catalog.poll())
            }
            None => self.catalog.poll(),
        };
        match answered {
            Ok(None) => Ok(None),
            Ok(Some(answer)) => {
                self.backoff.succeeded();
                self.failing_since = None;
                Ok(self.relation.take().map(|relation| (relation, answer)))
            }
            Err(error) => self.failed(error, slot, now).map(|()| None),
        }
    }

    /// The stream is over, or begins anew from this server: nothing waits any more.
    pub fn give_up(&mut self, server: Option<Server>) {
        self.relation = None;
        self.retry_at = None;
        if let Some(server) = server {
            self.catalog.follow(server);
        }
    }

    /// The socket to wait for while a question is open.
    pub fn socket(&self) -> Option<(RawFd, Direction)> {
        if self.relation.is_none() || self.retry_at.is_some() {
            return None;
        }
        self.catalog.socket()
    }

    /// When [`Asking::poll`] has to be called again at the latest.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.relation.as_ref()?;
        self.retry_at.or_else(|| self.catalog.deadline(now))
    }

    fn send(&mut self) -> Result<(), pg::Error> {
        let Some(relation) = &self.relation else { return Ok(()) };
        self.catalog.ask(relation.oid, relation.columns.iter().map(|column| column.type_oid), &self.types)
    }

    /// Asks again a little later, if that may help.
    fn failed(&mut self, error: pg::Error, slot: &str, now: Instant) -> Result<(), Error> {
        if error.retry() == Retry::Never {
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
        self.retry_at = Some(now + delay.max(Duration::from_millis(1)));
        Ok(())
    }
}
