//! SIGTERM and SIGINT request walcat to drain and stop; a second one ends the process at once. SIGHUP is ignored because it
//! has no meaning yet.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

/// The received signals.
pub struct StopSignals {
    signals: Signals,
    received: u32,
}

impl StopSignals {
    /// Starts to catch the signals.
    ///
    /// # Errors
    /// If the operating system has no descriptor left.
    pub fn install() -> io::Result<Self> {
        Ok(StopSignals { signals: Signals::new([SIGTERM, SIGINT, SIGHUP])?, received: 0 })
    }

    /// The source for the poller.
    pub fn source(&mut self) -> &mut Signals {
        &mut self.signals
    }

    /// The number of stop requests so far.
    pub fn received(&mut self) -> u32 {
        self.received += self.signals.pending().filter(|signal| *signal != SIGHUP).map(|_| 1).sum::<u32>();
        self.received
    }
}
