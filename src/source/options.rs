//! What to read, and how to connect to it.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::pg::Kind;
use crate::pg::peek;

/// The time between two attempts to connect or to take the slot.
pub(crate) const ATTEMPT_INTERVAL: Duration = Duration::from_millis(500);

/// What to read, and how to connect to it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The connection string; none for libpq's environment variables and files.
    pub dsn: Option<String>,
    /// The slot.
    pub slot: String,
    /// The publications.
    pub publications: Vec<String>,
    /// How the slot is read.
    pub engine: Engine,
    /// What to do if the slot is missing.
    pub slot_mode: SlotMode,
    /// Whether standbys keep a copy of a slot that walcat creates.
    pub failover: bool,
    /// Where to start; none for the slot's confirmed position.
    pub startpos: Option<Lsn>,
    /// How long to try to connect at the start; none for no limit.
    pub connect_for: Option<Duration>,
    /// How long to wait for a slot that another process holds; none for no limit.
    pub slot_for: Option<Duration>,
    /// Which holder of the slot walcat ends.
    pub takeover: Takeover,
    /// Whether to continue from the slot's position if the stored one disagrees.
    pub accept_gap: bool,
    /// Whether the rows that exist before a new slot follow.
    pub rows_follow: bool,
}

/// Which holder of the slot walcat ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// None.
    Never,
    /// Any: the user says that it is dead.
    Anybody,
    /// This one, our own process of a lost connection. Ending others would make two instances end each other without end.
    Own(i32),
}

impl Takeover {
    /// Whether walcat ends this process.
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
    /// A peek that takes longer than the server may be silent looks like a dead connection: it gets twice the time, and
    /// again twice, until something is read.
    pub(crate) fn be_patient(&mut self, is_stalled: bool, has_read: bool) {
        let Engine::Polling(settings) = self else { return };
        if has_read {
            settings.patience_factor = 1;
        }
        if is_stalled {
            settings.patience_factor = settings.patience_factor.saturating_mul(2);
        }
    }

    /// The kind of connection that the engine needs.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Engine::Streaming => Kind::Replication,
            Engine::Polling(_) => Kind::Pooled,
        }
    }
}

/// Which slot to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMode {
    /// An existing one.
    Existing,
    /// An existing one, or a new one.
    Create,
    /// A new one that ends with the session.
    Temporary,
    /// An existing one or, if another process reads it, a temporary copy: for a peek that confirms nothing.
    ExistingOrCopy,
}
