//! What a poll is doing, and the round that it is in.

use std::time::Instant;

use crate::lsn::Lsn;

/// The state of a round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// The flushed position before it.
    pub flushed: Lsn,
    pub rows: u32,
    /// The last row's LSN.
    pub last: Lsn,
    /// Where the round ends, if it reads only what was delivered before.
    pub upto: Option<Lsn>,
}

/// What the poll is doing.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Waiting for the next round.
    Waiting { until: Instant },
    /// The transaction begins.
    Beginning(Round),
    /// Rows arrive.
    Peeking(Round),
    /// The transaction ends.
    Ending(Round),
    /// Waiting until everything that was read is delivered.
    Delivering(Round),
    /// Moving the slot.
    Advancing { round: Round, to: Lsn },
    /// Writing a message, which the next round reads.
    Emitting,
    /// Sending a query so that the server does not end a session that is idle between two rounds.
    Pinging(Idle),
}

/// What an idle session waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Idle {
    Round { until: Instant },
    Delivery(Round),
}

impl From<Idle> for State {
    fn from(idle: Idle) -> Self {
        match idle {
            Idle::Round { until } => State::Waiting { until },
            Idle::Delivery(round) => State::Delivering(round),
        }
    }
}
