//! SIGTERM and SIGINT request walcat to drain and stop; a second one ends the process at once. SIGHUP is ignored because it
//! has no meaning yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use signal_hook_mio::v1_0::Signals;

/// The received signals.
pub struct StopSignals {
    signals: Signals,
    received: u32,
    /// Whether a stop request ends the process by itself.
    ends_at_once: Arc<AtomicBool>,
}

impl StopSignals {
    /// Starts to catch the signals.
    ///
    /// # Errors
    /// If the operating system has no descriptor left.
    pub fn install() -> io::Result<Self> {
        let ends_at_once = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            register_conditional_default(signal, Arc::clone(&ends_at_once))?;
        }
        Ok(StopSignals { signals: Signals::new([SIGTERM, SIGINT, SIGHUP])?, received: 0, ends_at_once })
    }

    /// Whether a stop request ends the process by itself from now on: for a command that waits for something else than the
    /// poller, and has nothing to drain.
    pub fn end_at_once(&self, ends: bool) {
        self.ends_at_once.store(ends, Ordering::Relaxed);
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
