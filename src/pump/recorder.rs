//! The recording of a run: every frame and every catalog answer, unchanged.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::Error;
use crate::catalog_facts::CatalogAnswer;
use crate::recording::{Header, Writer};

/// Only the owner may read the file, because it holds rows.
const MODE: u32 = 0o600;

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    writer: Writer<BufWriter<File>>,
    path: PathBuf,
}

/// A file that is open for writing and still has its old content.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
}

impl Target {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path);
        Ok(Target { file: file.map_err(|source| failed(path, source))?, path: path.to_owned() })
    }

    /// Truncates a file and restricts it to its owner; leaves a pipe or a device unchanged.
    fn empty(&self) -> io::Result<()> {
        if self.file.metadata()?.is_file() {
            self.file.set_permissions(Permissions::from_mode(MODE))?;
            self.file.set_len(0)?;
        }
        Ok(())
    }
}

impl Recorder {
    /// Empties the file and writes the header.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn begin(target: Target, header: &Header) -> Result<Self, Error> {
        target.empty().map_err(|source| failed(&target.path, source))?;
        let Target { file, path } = target;
        let writer = Writer::new(BufWriter::new(file), header).map_err(|source| failed(&path, source))?;
        let mut recorder = Recorder { writer, path };
        recorder.flush()?;
        Ok(recorder)
    }

    /// Adds a CopyData frame.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn copy_data(&mut self, frame: &[u8]) -> Result<(), Error> {
        self.writer.copy_data(frame).map_err(|source| failed(&self.path, source))
    }

    /// Adds a catalog answer.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn catalog_answer(&mut self, answer: &CatalogAnswer) -> Result<(), Error> {
        self.writer.catalog(answer).map_err(|source| failed(&self.path, source))
    }

    /// Hands all buffered data to the operating system.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().map_err(|source| failed(&self.path, source))
    }

    /// Ends the recording with the mark that it is complete.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn finish(self) -> Result<(), Error> {
        let failed_here = |source| failed(&self.path, source);
        let mut file = self.writer.finish().map_err(failed_here)?;
        file.flush().map_err(failed_here)
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Record { path: path.display().to_string(), source }
}
