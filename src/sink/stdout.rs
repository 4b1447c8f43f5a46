//! Standard output as a sink: one JSON line per record.
//!
//! Never blocks: it writes at most PIPE_BUF bytes at a time, and only if poll(2) reports that the descriptor is ready.
//! A slow reader therefore stops the reading of the slot and nothing else. The descriptor's flags stay unchanged
//! because other processes share the terminal or the pipe. A record counts as delivered when `write` has taken its
//! line.

#![allow(unsafe_code, reason = "calls libc")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use mio::Interest;

use super::Taken;
use crate::catalog_facts::CatalogAnswer;
use crate::change::{Change, RelationIndex, Ticket};
use crate::exit_code::ExitCode;
use crate::limits::{ENCODE_BUFFER_KEPT_BYTES, STDOUT_BUFFER_BYTES};
use crate::record::{Encoder, Prepared, Record};
use crate::relations::Relation;

/// The content of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineForm {
    /// The record's value; a tombstone has no line.
    Value,
    /// `{"topic":...,"key":...,"headers":...,"value":...}`.
    Record,
}

/// A failure of standard output.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader closed the pipe. This is the normal end of a pipeline, not a failure.
    #[error("the reader of standard output closed it")]
    Closed,
    /// The operating system returned an error.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] io::Error),
}

impl Error {
    /// The exit code for this failure.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Closed => ExitCode::Done,
            Error::Write(_) => ExitCode::Os,
        }
    }
}

/// Checks that standard output is open. If the caller closed it, Rust's runtime has replaced it with `/dev/null`, open
/// for reading and writing, and everything written there would count as delivered.
///
/// # Errors
/// [`Error::Write`].
pub fn check_open() -> Result<(), Error> {
    // SAFETY: a query of a descriptor's flags; the kernel checks the number.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFL) };
    let null = std::fs::metadata("/dev/null").map(|null| null.rdev());
    let is_null = file_status().is_some_and(|status| null.is_ok_and(|null| null == status.st_rdev));
    if flags < 0 || (is_null && flags & libc::O_ACCMODE == libc::O_RDWR) {
        return Err(Error::Write(io::Error::from_raw_os_error(libc::EBADF)));
    }
    Ok(())
}

/// Bytes to write to standard output.
#[derive(Debug)]
pub struct LineWriter {
    buffer: Vec<u8>,
    written: usize,
    kind: Kind,
}

/// The kind of descriptor that standard output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A regular file: always ready, so poll(2) is not needed.
    File,
    /// A pipe: its reader can close it.
    Pipe,
    /// Anything else, such as a terminal or a socket.
    Other,
}

impl Kind {
    fn of_stdout() -> Self {
        match file_status().map(|status| status.st_mode & libc::S_IFMT) {
            Some(libc::S_IFREG) => Kind::File,
            Some(libc::S_IFIFO) => Kind::Pipe,
            _ => Kind::Other,
        }
    }
}

impl LineWriter {
    /// Standard output with no buffer except this one.
    #[must_use]
    pub fn new() -> Self {
        LineWriter { buffer: Vec::with_capacity(2 * STDOUT_BUFFER_BYTES), written: 0, kind: Kind::of_stdout() }
    }

    /// The buffer to append lines to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The bytes that are not written yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// The descriptor to poll and the interest: writable while bytes are pending; otherwise only the end of the pipe's
    /// reader, which every interest reports. `None` for a regular file, which never blocks.
    #[must_use]
    pub fn awaited(&self) -> Option<(RawFd, Interest)> {
        match (self.pending() > 0, self.kind) {
            (true, Kind::Pipe | Kind::Other) => Some((io::stdout().as_raw_fd(), Interest::WRITABLE)),
            (false, Kind::Pipe) => Some((io::stdout().as_raw_fd(), Interest::READABLE)),
            (_, Kind::File) | (false, Kind::Other) => None,
        }
    }

    /// Writes as much as the descriptor takes and returns the number of bytes.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Write`].
    pub fn write(&mut self) -> Result<usize, Error> {
        let is_file = self.kind == Kind::File;
        if self.pending() == 0 && self.kind == Kind::Pipe {
            // Detects that the reader has closed the pipe; room in the pipe does not matter.
            is_writable()?;
        }
        let mut taken = 0;
        while self.pending() > 0 && (is_file || is_writable()?) {
            let bound = if is_file { usize::MAX } else { libc::PIPE_BUF };
            let end = self.buffer.len().min(self.written.saturating_add(bound));
            match write_some(&self.buffer[self.written..end]) {
                Ok(count) => {
                    self.written += count;
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Error::Closed),
                Err(error) => return Err(Error::Write(error)),
            }
        }
        if self.pending() == 0 {
            self.buffer.clear();
            self.buffer.shrink_to(ENCODE_BUFFER_KEPT_BYTES);
            self.written = 0;
        } else if self.written >= STDOUT_BUFFER_BYTES {
            self.buffer.drain(..self.written);
            self.written = 0;
        }
        Ok(taken)
    }
}

impl Default for LineWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes records as lines.
pub struct StdoutSink {
    encoder: Encoder,
    lines: LineForm,
    output: LineWriter,
    /// All bytes appended so far, and all bytes written so far.
    appended: u64,
    written: u64,
    /// The position, in all bytes ever appended, where a change's last line ends. A change without a line has the
    /// position of the line before it.
    waiting: VecDeque<(u64, Ticket, u32)>,
}

impl StdoutSink {
    /// Creates a sink that writes `lines`.
    #[must_use]
    pub fn new(encoder: Encoder, lines: LineForm) -> Self {
        StdoutSink { encoder, lines, output: LineWriter::new(), appended: 0, written: 0, waiting: VecDeque::new() }
    }

    /// Prepares the encoder for a relation.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn prepare(
        &mut self,
        index: RelationIndex,
        relation: &Relation,
        answer: &CatalogAnswer,
    ) -> Result<Prepared, super::Error> {
        Ok(self.encoder.prepare(index, relation, answer)?)
    }

    /// The encoder.
    pub fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoder
    }

    /// Forgets a relation that gets no more changes.
    pub fn forget(&mut self, index: RelationIndex, oid: u32) {
        self.encoder.forget(index, oid);
    }

    /// Whether another change can be taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.output.pending() < STDOUT_BUFFER_BYTES
    }

    /// Encodes a change and appends its lines.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn take(&mut self, change: &Change<'_>, ticket: Ticket) -> Result<Taken, super::Error> {
        let records = self.encoder.encode(change)?;
        let mut taken = Taken { records: 0, values: records.values() };
        let before = self.output.buffer.len();
        for record in records.iter() {
            taken.records += 1;
            match self.lines {
                LineForm::Value => append_value(&record, &mut self.output.buffer),
                LineForm::Record => append_record(records.topic, &record, &mut self.output.buffer),
            }
        }
        self.encoder.release();
        self.appended += (self.output.buffer.len() - before) as u64;
        match self.waiting.back_mut() {
            Some((end, last, count)) if *last == ticket => {
                *end = self.appended;
                *count += taken.records;
            }
            _ => self.waiting.push_back((self.appended, ticket, taken.records)),
        }
        Ok(taken)
    }

    /// Writes as much as standard output takes.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Write`].
    pub fn serve(&mut self) -> Result<(), Error> {
        self.written += self.output.write()? as u64;
        Ok(())
    }

    /// The next change whose lines are written, with its number of records.
    pub fn settled(&mut self) -> Option<(Ticket, u32)> {
        let (end, ticket, count) = *self.waiting.front()?;
        if end > self.written {
            return None;
        }
        self.waiting.pop_front();
        Some((ticket, count))
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.output.pending() == 0 && self.waiting.is_empty()
    }

    /// The descriptor to poll while bytes are pending.
    #[must_use]
    pub fn awaited(&self) -> Option<(RawFd, Interest)> {
        self.output.awaited()
    }
}

fn append_value(record: &Record<'_>, out: &mut Vec<u8>) {
    if let Some(value) = record.value {
        out.extend_from_slice(value);
        out.push(b'\n');
    }
}

/// The key, the value and the header values are already JSON.
fn append_record(topic: &str, record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"topic\":\"");
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(b"\",\"key\":");
    out.extend_from_slice(record.key.unwrap_or(b"null"));
    out.extend_from_slice(b",\"headers\":{");
    if let Some((name, value)) = record.header {
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"},\"value\":");
    out.extend_from_slice(record.value.unwrap_or(b"null"));
    out.extend_from_slice(b"}\n");
}

/// Bypasses the line buffer of Rust's standard output.
fn write_some(bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for the call; descriptor 1 is a number that the kernel checks.
    let count = unsafe { libc::write(libc::STDOUT_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Whether PIPE_BUF bytes can be written without blocking (poll(2) with a timeout of 0).
fn is_writable() -> Result<bool, Error> {
    let mut descriptor = libc::pollfd { fd: libc::STDOUT_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, valid for the call.
    let count = unsafe { libc::poll(&raw mut descriptor, 1, 0) };
    if descriptor.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
        return Err(Error::Closed);
    }
    Ok(count > 0)
}

fn file_status() -> Option<libc::stat> {
    // SAFETY: an all-zero stat is a valid value of the type.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is valid for the call.
    let result = unsafe { libc::fstat(libc::STDOUT_FILENO, &raw mut status) };
    (result == 0).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        assert_eq!(Error::Closed.exit_code(), ExitCode::Done);
        assert_eq!(Error::Write(io::Error::from_raw_os_error(libc::ENOSPC)).exit_code(), ExitCode::Os);
    }
}
