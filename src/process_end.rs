//! The end of the process, after its last line is told.

#![allow(unsafe_code, reason = "calls libc")]

use std::io::Write;

use crate::exit_code::ExitCode;

/// Ends the process at once. Exit handlers of C libraries are not run: a thread of librdkafka's may still be waiting in a
/// transactional call, and OpenSSL's handler would free what that thread uses.
pub fn end(code: ExitCode) -> ! {
    // A reader that has gone is no failure.
    let _ = std::io::stdout().flush();
    // SAFETY: takes a number and does not return; nothing of ours waits to be written.
    unsafe { libc::_exit(i32::from(code.code())) }
}
