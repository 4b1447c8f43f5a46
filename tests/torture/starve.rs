//! Takes the CPU away from one thread of a process, as a busy machine might do.
//!
//! A traced thread can be stopped alone, while SIGSTOP would stop the whole process; see ptrace(2), PTRACE_SEIZE.

#![allow(unsafe_code, reason = "traces threads")]

use std::fs;
use std::io;
use std::ptr::null_mut;
use std::thread::sleep;
use std::time::Duration;

/// The thread of a process with this name.
pub fn thread(pid: i32, name: &str) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.flatten().find_map(|task| {
        let found = fs::read_to_string(task.path().join("comm")).ok()?;
        (found.trim_end() == name).then(|| task.file_name().to_str()?.parse().ok())?
    })
}

/// Stops a thread for this long.
pub fn hold(thread: i32, time: Duration) -> io::Result<()> {
    trace(libc::PTRACE_SEIZE, thread)?;
    let held = trace(libc::PTRACE_INTERRUPT, thread).and_then(|()| wait(thread));
    if held.is_ok() {
        sleep(time);
    }
    // The process may have been killed in the meantime.
    let _ = trace(libc::PTRACE_DETACH, thread);
    held
}

fn trace(request: libc::c_uint, thread: i32) -> io::Result<()> {
    // SAFETY: none of the three requests reads or writes through the two pointers.
    match unsafe { libc::ptrace(request, thread, null_mut::<libc::c_void>(), null_mut::<libc::c_void>()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn wait(thread: i32) -> io::Result<()> {
    // SAFETY: a null status pointer is allowed.
    match unsafe { libc::waitpid(thread, null_mut(), libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Instant;

    #[test]
    fn a_thread_is_found_by_its_name() {
        let stop = Arc::new(AtomicBool::new(false));
        let ticks = Arc::new(AtomicU64::new(0));
        let (stopped, ticked) = (Arc::clone(&stop), Arc::clone(&ticks));
        let named = std::thread::Builder::new().name("to-be-found".into());
        let ticking = named.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                ticked.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(1));
            }
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while ticks.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(thread(own, "to-be-found").is_some());
        assert!(thread(own, "no-such-thread").is_none());
        stop.store(true, Ordering::Relaxed);
        ticking.expect("a thread").join().expect("its end");
    }

    #[test]
    fn a_thread_that_is_held_stops_and_then_continues() {
        let mut child = std::process::Command::new("sleep").arg("1").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid");
        let holder = std::thread::spawn(move || hold(pid, Duration::from_secs(2)));
        // "t" is a tracing stop, see proc(5).
        let stands_still = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('t'))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stood_still = false;
        while !stood_still && Instant::now() < deadline {
            stood_still = stands_still();
        }
        assert!(stood_still);
        holder.join().expect("its end").expect("held");
        assert!(child.wait().expect("a status").success());
    }
}
