//! What is read, and how to get at it.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::pg::Kind;
use crate::pg::peek;
use crate::pump::Error;

/// The time between two attempts to connect or to get the slot.
pub(crate) const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);

/// What to read, and how to get at it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The connection string; none for libpq's own variables and files.
    pub dsn: Option<String>,
    /// The slot.
    pub slot: String,
    /// The publications.
    pub publications: Vec<String>,
    /// How the slot is read.
    pub engine: Engine,
    /// What to do about the slot when it is not there.
    pub slot_mode: SlotMode,
    /// Whether standbys keep a copy of a slot that is made.
    pub failover: bool,
    /// Where to start; none for the slot's confirmed position.
    pub startpos: Option<Lsn>,
    /// How long to keep trying to connect at the start; none for ever.
    pub connect_for: Option<Duration>,
    /// How long to wait for a slot that another process holds; none for ever.
    pub slot_for: Option<Duration>,
    /// Which process that holds the slot is ended.
    pub takeover: Takeover,
    /// Go on from the slot's position where the stored one disagrees.
    pub accept_gap: bool,
}

/// Which process that holds the slot is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// None.
    Never,
    /// Whichever it is: the user says that it is dead.
    Anybody,
    /// This one, which is our own of a connection that was lost: two instances would end each other for ever.
    Own(i32),
}

impl Takeover {
    /// Whether this process is ended.
    #[must_use]
    pub fn includes(self, pid: i32) -> bool {
        match self {
            Takeover::Never => false,
            Takeover::Anybody => true,
            Takeover::Own(own) => pid == own,
        }
    }
}

/// How the slot is read.
#[derive(Clone, Debug)]
pub enum Engine {
    /// By a walsender, on a replication connection.
    Streaming,
    /// By one peek after another, on an ordinary connection.
    Polling(peek::Settings),
}

impl Engine {
    /// A peek that takes longer than the server may be silent looks like a dead connection: it gets twice the time, again
    /// and again until something is read.
    pub(crate) fn be_patient(&mut self, error: &Error, has_read: bool) {
        let Engine::Polling(settings) = self else { return };
        if has_read {
            settings.patience_factor = 1;
        }
        if matches!(error, Error::Stalled(_)) {
            settings.patience_factor = settings.patience_factor.saturating_mul(2);
        }
    }

    /// The connection that it needs.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Engine::Streaming => Kind::Replication,
            Engine::Polling(_) => Kind::Pooled,
        }
    }
}

/// Which slot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMode {
    /// One that exists.
    Existing,
    /// One that exists, or a new one.
    Create,
    /// A new one that ends with the session.
    Temporary,
    /// One that exists, or, when another process reads it, a temporary copy of it: for a look without confirming.
    ExistingOrCopy,
}
