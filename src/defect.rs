//! A defect in walcat or in one of its C libraries: prints what to report and exits with code 70.
//!
//! Panics do not unwind; the hook ends the process. A failed assertion in librdkafka and a failed allocation call `abort()`;
//! the handler of SIGABRT then ends the process. Core dumps are off because they may contain passwords and rows.

#![allow(unsafe_code, reason = "calls libc")]

use std::ffi::c_int;
use std::panic::PanicHookInfo;

use crate::exit_code::ExitCode;

/// The message of the SIGABRT handler: a constant because a handler must not allocate.
const ABORTED: &str = concat!(
    "walcat: a defect in walcat or in one of its libraries: aborted (SIGABRT); the previous line names the cause\n",
    "hint: report these lines, the output of walcat --version, and what walcat was doing; then start it again: it has ",
    "confirmed to PostgreSQL only what Kafka has acknowledged\n"
);

/// Installs the hook and the handler, and turns off core dumps. Call this first.
pub fn install_handlers() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call; a failure leaves the limit as it was.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    std::panic::set_hook(Box::new(end));
    let handler: extern "C" fn(c_int) = aborted;
    // SAFETY: the handler makes only async-signal-safe calls; a failure leaves the signal as it was.
    unsafe { libc::signal(libc::SIGABRT, handler as libc::sighandler_t) };
}

/// In a test build, WALCAT_TEST_PANIC and WALCAT_TEST_ABORT cause a defect, so that a test can check the result.
pub fn fail_if_tested() {
    if cfg!(debug_assertions) && std::env::var_os("WALCAT_TEST_PANIC").is_some() {
        panic!("WALCAT_TEST_PANIC is set");
    }
    if cfg!(debug_assertions) && std::env::var_os("WALCAT_TEST_ABORT").is_some() {
        std::process::abort();
    }
}

extern "C" fn aborted(_: c_int) {
    // SAFETY: write(2) may be called in a handler, and the text is constant. A failure cannot be reported.
    unsafe { libc::write(libc::STDERR_FILENO, ABORTED.as_ptr().cast(), ABORTED.len()) };
    // SAFETY: _exit(2) may be called in a handler; it ends the process.
    unsafe { libc::_exit(i32::from(ExitCode::Defect.code())) };
}

fn end(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown location".to_owned(), ToString::to_string);
    // The message is a literal in the source, never wire input: the wire layer does not panic.
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    eprintln!("walcat: a defect in walcat, at {place}: {message}");
    eprintln!(
        "hint: report these lines, the output of walcat --version, and what walcat was doing; then start it again: it has \
         confirmed to PostgreSQL only what Kafka has acknowledged"
    );
    // SAFETY: ends the process at once, without running more code of a program that has a defect.
    unsafe { libc::_exit(i32::from(ExitCode::Defect.code())) };
}
