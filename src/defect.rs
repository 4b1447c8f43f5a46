//! A defect of walcat: say what to send us, and end with exit code 70.
//!
//! Panics do not unwind; the hook ends the process. Core dumps are off, since they may hold passwords and rows.

use std::panic::PanicHookInfo;

use crate::exit_code::ExitCode;

/// Installs the hook and turns core dumps off. Call it first.
pub fn install_panic_hook() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call; a refusal leaves the limit as it was.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    std::panic::set_hook(Box::new(end));
}

/// In a test build WALCAT_TEST_PANIC makes a defect, so that a test can see what becomes of one.
pub fn panic_if_tested() {
    if cfg!(debug_assertions) && std::env::var_os("WALCAT_TEST_PANIC").is_some() {
        panic!("WALCAT_TEST_PANIC is set");
    }
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
