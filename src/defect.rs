//! A defect of walcat, or of a C library in it: say what to send us, and end with exit code 70.
//!
//! Panics do not unwind; the hook ends the process. A failed assertion of librdkafka's, and an allocation that fails, end in
//! `abort()`; the handler of SIGABRT ends the process then. Core dumps are off, since they may hold passwords and rows.

#![allow(unsafe_code, reason = "calls libc")]

use std::ffi::c_int;
use std::panic::PanicHookInfo;

use crate::exit_code::ExitCode;

/// What the handler of SIGABRT tells: a constant, since a handler may not allocate.
const ABORTED: &str = concat!(
    "walcat: a defect of walcat, or of a library in it: aborted (SIGABRT); the line before this one says by whom\n",
    "hint: please send us these lines, the output of walcat --version, and what it was doing; nothing that Kafka has not ",
    "confirmed was confirmed to PostgreSQL, so start it again\n"
);

/// Installs the hook and the handler, and turns core dumps off. Call it first.
pub fn install_handlers() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call; a refusal leaves the limit as it was.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    std::panic::set_hook(Box::new(end));
    let handler: extern "C" fn(c_int) = aborted;
    // SAFETY: the handler does nothing but what a handler may do; a refusal leaves the signal as it was.
    unsafe { libc::signal(libc::SIGABRT, handler as libc::sighandler_t) };
}

/// In a test build WALCAT_TEST_PANIC and WALCAT_TEST_ABORT make a defect, so that a test can see what becomes of one.
pub fn fail_if_tested() {
    if cfg!(debug_assertions) && std::env::var_os("WALCAT_TEST_PANIC").is_some() {
        panic!("WALCAT_TEST_PANIC is set");
    }
    if cfg!(debug_assertions) && std::env::var_os("WALCAT_TEST_ABORT").is_some() {
        std::process::abort();
    }
}

extern "C" fn aborted(_: c_int) {
    // SAFETY: write(2) may be called in a handler; the text is constant. There is nobody to tell of a failure.
    unsafe { libc::write(libc::STDERR_FILENO, ABORTED.as_ptr().cast(), ABORTED.len()) };
    // SAFETY: may be called in a handler, and ends the process.
    unsafe { libc::_exit(i32::from(ExitCode::Defect.code())) };
}

fn end(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    // The message is a literal of ours, never wire input: see the wire layer's rules.
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    eprintln!("walcat: a defect of walcat, at {place}: {message}");
    eprintln!(
        "hint: please send us these lines, the output of walcat --version, and what it was doing; nothing that Kafka \
         has not confirmed was confirmed to PostgreSQL, so start it again"
    );
    // SAFETY: ends the process at once, without running anything of a program that is known to be wrong.
    unsafe { libc::_exit(i32::from(ExitCode::Defect.code())) };
}
