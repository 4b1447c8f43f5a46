//! The last line of the terminal, which shows how far a run is. The log is written above it.
//!
//! A process has at most one such line, and none if stderr is no terminal. Its owner removes it by dropping it.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::{Level, log_enabled};

/// The line that is shown now.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The line.
#[derive(Debug)]
pub struct Line {
    bar: ProgressBar,
}

impl Line {
    /// Begins the line; none if stderr is no terminal, or with -q.
    #[must_use]
    pub fn begin() -> Option<Self> {
        if !std::io::stderr().is_terminal() || !log_enabled!(Level::Info) {
            return None;
        }
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{percent:>3}% {bar:20} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        *shown() = Some(bar.clone());
        Some(Line { bar })
    }

    /// Shows a text and how much is done.
    pub fn show(&self, per_cent: u64, text: String) {
        self.bar.set_position(per_cent);
        self.bar.set_message(text);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        *shown() = None;
        self.bar.finish_and_clear();
    }
}

/// Writes to the terminal above the line. `write` must not log.
pub fn above(write: impl FnOnce()) {
    let bar = shown().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn shown() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    // The lock protects one assignment.
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
