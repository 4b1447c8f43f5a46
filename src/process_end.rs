//! The end of the process, after its last line is written.

#![allow(unsafe_code, reason = "calls libc")]

use std::io::Write;

use crate::exit_code::ExitCode;

/// Ends the process at once. This runs no exit handlers of C libraries: a thread of librdkafka may still wait in a
/// transactional call, and OpenSSL's handler would free memory that the thread uses.
pub fn end(code: ExitCode) -> ! {
    // A closed pipe is not an error.
    let _ = std::io::stdout().flush();
    // SAFETY: takes a number and does not return; walcat has no unwritten output.
    unsafe { libc::_exit(i32::from(code.code())) }
}
