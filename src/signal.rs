//! SIGTERM and SIGINT ask to drain and stop; a second one ends the process at once. SIGHUP is ignored until it has a
//! meaning.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

/// The signals that have arrived.
pub struct StopSignals {
    signals: Signals,
    received: u32,
}

impl StopSignals {
    /// Begins to catch the signals.
    ///
    /// # Errors
    /// When the operating system has no descriptor left.
    pub fn install() -> io::Result<Self> {
        Ok(StopSignals { signals: Signals::new([SIGTERM, SIGINT, SIGHUP])?, received: 0 })
    }

    /// The source for the poller.
    pub fn source(&mut self) -> &mut Signals {
        &mut self.signals
    }

    /// How many requests to stop have come so far.
    pub fn received(&mut self) -> u32 {
        self.received += self.signals.pending().filter(|signal| *signal != SIGHUP).map(|_| 1).sum::<u32>();
        self.received
    }
}
