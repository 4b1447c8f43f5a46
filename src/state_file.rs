//! `[state] file`: the last delivered position on disk, for at-least-once delivery.
//!
//! walcat replaces the whole file atomically: a temporary file, fsync, rename, fsync of the directory. After a crash
//! the file has the old content or the new one. The format is one JSON object.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exit_code::ExitCode;
use crate::lsn::Lsn;
use crate::position::Stored;

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the state file {path}: {source}")]
    Read { path: String, source: io::Error },
    /// It holds something else.
    #[error("the state file {path} is not a walcat state file: {reason}")]
    Malformed { path: String, reason: String },
    /// It cannot be written.
    #[error("cannot write the state file {path}: {source}")]
    Write { path: String, source: io::Error },
}

impl Error {
    /// The exit code that this failure ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Read { .. } | Error::Write { .. } => ExitCode::Os,
            Error::Malformed { .. } => ExitCode::Setup,
        }
    }

    /// The operator's next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Read { .. } | Error::Write { .. } => {
                "make the directory of [state] file writable: walcat replaces the file at each write"
            }
            Error::Malformed { .. } => {
                "name another file in [state]; or remove this one, and walcat starts at the slot's position"
            }
        }
    }
}

/// The file and its content.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    interval: Duration,
    stored: Option<Stored>,
    written_at: Option<Instant>,
}

impl StateFile {
    /// Reads the file; a missing file has no position. walcat writes positions at most once per `interval`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`].
    pub fn open(path: &Path, interval: Duration) -> Result<Self, Error> {
        let mut file = StateFile { path: path.to_owned(), interval, stored: None, written_at: None };
        file.reload()?;
        Ok(file)
    }

    /// Reads the file again: another process may have written it while this one waited for the slot.
    ///
    /// # Errors
    /// Those of [`StateFile::open`].
    pub fn reload(&mut self) -> Result<(), Error> {
        let path = || self.path.display().to_string();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.stored = None;
                return Ok(());
            }
            Err(source) => return Err(Error::Read { path: path(), source }),
        };
        let malformed = |error: serde_json::Error| Error::Malformed { path: path(), reason: error.to_string() };
        self.stored = Some(serde_json::from_slice(&text).map_err(malformed)?);
        Ok(())
    }

    /// Checks whether the file can be replaced: creates a file beside it and removes it. So a failure shows before a stream
    /// starts.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn check_writable(&self) -> Result<(), Error> {
        let failed = |source| Error::Write { path: self.path.display().to_string(), source };
        if self.path.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        // Not the name of the temporary file, which another instance may be about to rename.
        let trial = beside(&self.path, TRIAL_SUFFIX);
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&trial).map_err(failed)?;
        match fs::remove_file(&trial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// The content of the file.
    #[must_use]
    pub fn stored(&self) -> Option<&Stored> {
        self.stored.as_ref()
    }

    /// The stored position; 0/0 if there is none.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        self.stored.as_ref().map_or(Lsn::INVALID, |stored| stored.end_lsn)
    }

    /// The name of the file in messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("the state file {}", self.path.display())
    }

    /// The latest time to write a position that is not in the file yet.
    #[must_use]
    pub fn due_at(&self, now: Instant) -> Instant {
        self.written_at.map_or(now, |at| at + self.interval)
    }

    /// Replaces the content of the file.
    ///
    /// # Errors
    /// [`Error::Write`]; the file keeps its old content.
    pub fn write(&mut self, stored: Stored, now: Instant) -> Result<(), Error> {
        let failed = |source| Error::Write { path: self.path.display().to_string(), source };
        let mut text = serde_json::to_vec(&stored).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        replace(&self.path, &text).map_err(failed)?;
        self.stored = Some(stored);
        self.written_at = Some(now);
        Ok(())
    }
}

/// As long as [`TRIAL_SUFFIX`], so that a file name that is too long for one is too long for the other.
const TEMPORARY_SUFFIX: &str = ".tmp";
const TRIAL_SUFFIX: &str = ".try";

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = beside(path, TEMPORARY_SUFFIX);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::FullKeys;

    fn stored(end_lsn: u64) -> Stored {
        let (system_identifier, slot) = ("7".to_owned(), "s".to_owned());
        Stored {
            system_identifier,
            timeline: 1,
            slot,
            end_lsn: Lsn(end_lsn),
            records: None,
            full_keys: FullKeys::new(),
            snapshot: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let now = Instant::now();
        let mut file = StateFile::open(&path, Duration::from_secs(1)).unwrap();
        assert_eq!((file.stored(), file.due_at(now)), (None, now));
        file.write(stored(100), now).unwrap();
        file.write(stored(200), now).unwrap();
        assert_eq!(file.due_at(now), now + Duration::from_secs(1));
        assert_eq!(StateFile::open(&path, Duration::ZERO).unwrap().stored(), Some(&stored(200)));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for text in ["", "{}", "0/16B3748", "{\"system_identifier\":\"7\",\"timeline\":1,\"slot\":\"s\",\"end_lsn\":7}"]
        {
            fs::write(&path, text).unwrap();
            let error = StateFile::open(&path, Duration::ZERO).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_could_not_be_replaced_is_found_before_there_is_anything_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let check = |path: &Path| {
            StateFile { path: path.to_owned(), interval: Duration::ZERO, stored: None, written_at: None }
                .check_writable()
        };
        assert!(check(&directory.path().join("state.json")).is_ok());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file is left");
        for path in [
            directory.path().join("no/state.json"),
            directory.path().to_owned(),
            directory.path().join("x".repeat(253)),
        ] {
            assert_eq!(check(&path).unwrap_err().exit_code(), ExitCode::Os, "{}", path.display());
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_of_the_system() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(&directory.path().join("no/state.json"), Duration::ZERO).unwrap();
        assert_eq!(file.write(stored(1), Instant::now()).unwrap_err().exit_code(), ExitCode::Os);
        assert_eq!(file.stored(), None);
    }
}
