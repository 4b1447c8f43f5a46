//! The file format of `--record`, golden transcripts and benchmarks: what a run received, unchanged.
//!
//! ```text
//! recording = "WALCAT\n" version, header, { frame }
//! version   = Int16 (1)
//! header    = Int32 length, JSON of Header
//! frame     = kind, Int32 length, bytes
//! kind      = 'd' (one CopyData message) | 'c' (JSON of a CatalogAnswer) | 'e' (the end, of length 0)
//! ```
//!
//! A catalog answer follows its Relation message. Without the end frame, a recording that was truncated between two frames
//! would look complete. Numbers are big-endian, as in PostgreSQL's protocol.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};

use crate::catalog_facts::CatalogAnswer;
use crate::exit_code::ExitCode;
use crate::lsn::Lsn;

const MAGIC: &[u8; 7] = b"WALCAT\n";
const VERSION: u16 = 1;

/// The longest frame: PostgreSQL sends no message longer than 1 GiB.
const FRAME_BYTES_MAX: usize = (1 << 30) + 1024;

/// Bytes to read at a time, so that a wrong length does not allocate memory.
const READ_BYTES: usize = 1 << 20;

/// What is fixed for a run, so that `decode` prints the same records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The server's version, such as 150018.
    pub server_version: i32,
    /// The cluster.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: u32,
    /// The database.
    pub database: String,
    /// The slot.
    pub slot: String,
    /// The publications.
    pub publications: Vec<String>,
    /// The prefix of the topics.
    pub topic_prefix: Option<String>,
    /// `source.name`.
    pub source_name: String,
    /// Settings that change the records, by name.
    pub settings: BTreeMap<String, String>,
    /// Where the stream started.
    pub start_lsn: Lsn,
}

/// One frame of a recording, borrowed from the reader's buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// One CopyData message.
    CopyData(&'a [u8]),
    /// An answer of the catalog.
    Catalog(Box<CatalogAnswer>),
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin like a recording.
    #[error("it is not a walcat recording")]
    NotARecording,
    /// It has another version.
    #[error("expected a recording of version {VERSION}, found version {0}")]
    UnsupportedVersion(u16),
    /// It ends before the end frame.
    #[error("it is truncated after {offset} bytes")]
    Cut { offset: u64 },
    /// Its content is invalid.
    #[error("it is invalid after {offset} bytes: {reason}")]
    Damaged { offset: u64, reason: String },
    /// The operating system reports an error.
    #[error(transparent)]
    Read(#[from] io::Error),
}

impl Error {
    /// The exit code of this failure.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Read(_) => ExitCode::NoInput,
            _ => ExitCode::Data,
        }
    }
}

/// Writes a recording.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Writes the part before the frames.
    ///
    /// # Errors
    /// What `output` returns.
    pub fn new(mut output: W, header: &Header) -> io::Result<Self> {
        output.write_all(MAGIC)?;
        output.write_all(&VERSION.to_be_bytes())?;
        let mut writer = Writer { output };
        let header = serde_json::to_vec(header)?;
        writer.bytes(&header)?;
        Ok(writer)
    }

    /// Appends one CopyData message.
    ///
    /// # Errors
    /// What the output returns.
    pub fn copy_data(&mut self, message: &[u8]) -> io::Result<()> {
        self.frame(b'd', message)
    }

    /// Appends an answer of the catalog.
    ///
    /// # Errors
    /// What the output returns.
    pub fn catalog(&mut self, answer: &CatalogAnswer) -> io::Result<()> {
        let answer = serde_json::to_vec(answer)?;
        self.frame(b'c', &answer)
    }

    /// Writes the buffer to the operating system.
    ///
    /// # Errors
    /// What the output returns.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Appends the end frame and returns the output.
    ///
    /// # Errors
    /// What the output returns.
    pub fn finish(mut self) -> io::Result<W> {
        self.frame(b'e', &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn frame(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(&[kind])?;
        self.bytes(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
        self.output.write_all(&length.to_be_bytes())?;
        self.output.write_all(bytes)
    }
}

/// Reads a recording, one frame at a time into one buffer.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the part before the frames.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(input: R) -> Result<(Self, Header), Error> {
        let mut reader = Reader { input, offset: 0, buffer: Vec::new(), ended: false };
        let magic = reader.array::<7>().map_err(not_a_recording)?;
        if &magic != MAGIC {
            return Err(Error::NotARecording);
        }
        let version = u16::from_be_bytes(reader.array()?);
        if version != VERSION {
            return Err(Error::UnsupportedVersion(version));
        }
        reader.bytes()?;
        let header = serde_json::from_slice(&reader.buffer).map_err(|error| reader.damaged(&error.to_string()))?;
        Ok((reader, header))
    }

    /// The next frame; `None` after the end.
    ///
    /// # Errors
    /// [`Error`].
    pub fn entry(&mut self) -> Result<Option<Entry<'_>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let [kind] = self.array::<1>()?;
        self.bytes()?;
        match kind {
            b'd' => Ok(Some(Entry::CopyData(&self.buffer))),
            b'c' => match serde_json::from_slice(&self.buffer) {
                Ok(answer) => Ok(Some(Entry::Catalog(Box::new(answer)))),
                Err(error) => Err(self.damaged(&error.to_string())),
            },
            b'e' => {
                self.ended = true;
                Ok(None)
            }
            other => Err(self.damaged(&format!("unknown frame kind 0x{other:02X}"))),
        }
    }

    /// Reads a length, then that many bytes into the buffer.
    fn bytes(&mut self) -> Result<(), Error> {
        let length = usize::try_from(u32::from_be_bytes(self.array()?)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged(&format!("a frame of {length} bytes")));
        }
        self.buffer.clear();
        while self.buffer.len() < length {
            let start = self.buffer.len();
            let end = length.min(start + READ_BYTES);
            self.buffer.resize(end, 0);
            let Some(place) = self.buffer.get_mut(start..) else { break };
            fill(&mut self.input, place, &mut self.offset)?;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        fill(&mut self.input, &mut array, &mut self.offset)?;
        Ok(array)
    }

    fn damaged(&self, reason: &str) -> Error {
        Error::Damaged { offset: self.offset, reason: reason.to_owned() }
    }
}

/// Fills `place`, or reports that the recording is truncated.
fn fill(input: &mut impl Read, mut place: &mut [u8], offset: &mut u64) -> Result<(), Error> {
    while !place.is_empty() {
        match input.read(place) {
            Ok(0) => return Err(Error::Cut { offset: *offset }),
            Ok(count) => {
                *offset += count as u64;
                place = place.get_mut(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Read(error)),
        }
    }
    Ok(())
}

/// A file that is too short for the magic is not a truncated recording but no recording.
fn not_a_recording(error: Error) -> Error {
    match error {
        Error::Cut { .. } => Error::NotARecording,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { server_version: 150_018, database: "db".to_owned(), start_lsn: Lsn(0x10), ..Header::default() }
    }

    fn answer() -> CatalogAnswer {
        CatalogAnswer { relation: 16_384, table: None, types: Vec::new() }
    }

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        writer.copy_data(b"frame").unwrap();
        writer.catalog(&answer()).unwrap();
        writer.copy_data(b"").unwrap();
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, Error> {
        let (mut reader, _) = Reader::new(bytes)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.entry()? {
            entries.push(format!("{entry:?}"));
        }
        Ok(entries)
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = sample();
        let (mut reader, found) = Reader::new(bytes.as_slice()).unwrap();
        assert_eq!(found, header());
        assert_eq!(found.start_lsn, Lsn(0x10));
        assert_eq!(reader.entry().unwrap(), Some(Entry::CopyData(b"frame")));
        assert_eq!(reader.entry().unwrap(), Some(Entry::Catalog(Box::new(answer()))));
        assert_eq!(reader.entry().unwrap(), Some(Entry::CopyData(b"")));
        assert_eq!(reader.entry().unwrap(), None);
        assert_eq!(reader.entry().unwrap(), None);
        assert_eq!(reader.offset, bytes.len() as u64);
    }

    #[test]
    fn a_recording_that_is_truncated_anywhere_is_reported_as_truncated() {
        let bytes = sample();
        for length in 0..bytes.len() {
            let error = read(&bytes[..length]).unwrap_err();
            if length < MAGIC.len() {
                assert!(matches!(error, Error::NotARecording), "{length}: {error}");
            } else {
                assert!(matches!(error, Error::Cut { offset } if offset == length as u64), "{length}: {error}");
            }
            assert_eq!(error.exit_code(), ExitCode::Data);
        }
    }

    #[test]
    fn a_wrong_length_allocates_no_memory() {
        let mut bytes = Writer::new(Vec::new(), &header()).unwrap().output;
        bytes.push(b'd');
        bytes.extend_from_slice(&(1_u32 << 30).to_be_bytes());
        bytes.extend_from_slice(b"only this");
        let (mut reader, _) = Reader::new(bytes.as_slice()).unwrap();
        assert!(matches!(reader.entry(), Err(Error::Cut { offset }) if offset == bytes.len() as u64));
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES);
    }

    #[test]
    fn a_frame_longer_than_one_read_is_whole() {
        let frame: Vec<u8> = (0..READ_BYTES * 2 + 7).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        writer.copy_data(&frame).unwrap();
        let bytes = writer.finish().unwrap();
        let (mut reader, _) = Reader::new(bytes.as_slice()).unwrap();
        assert_eq!(reader.entry().unwrap(), Some(Entry::CopyData(&frame)));
        assert_eq!(reader.entry().unwrap(), None);
    }

    /// Returns one byte at a time, with an interruption before each.
    struct Dripping<'a>(&'a [u8], bool);

    impl Read for Dripping<'_> {
        fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = place.len().min(1);
            self.0.read(&mut place[..count])
        }
    }

    proptest::proptest! {
        #[test]
        fn any_frames_are_read_as_they_were_written(frames: Vec<Vec<u8>>) {
            let mut writer = Writer::new(Vec::new(), &header()).unwrap();
            for frame in &frames {
                writer.copy_data(frame).unwrap();
            }
            let bytes = writer.finish().unwrap();
            let (mut reader, _) = Reader::new(Dripping(&bytes, false)).unwrap();
            for frame in &frames {
                assert_eq!(reader.entry().unwrap(), Some(Entry::CopyData(frame)));
            }
            assert_eq!(reader.entry().unwrap(), None);
        }

        #[test]
        fn no_bytes_after_the_header_make_it_panic(tail: Vec<u8>) {
            let mut bytes = Writer::new(Vec::new(), &header()).unwrap().output;
            bytes.extend_from_slice(&tail);
            // Every result except a panic is right. Each iteration reads at least one byte, so it ends.
            let _ = read(&bytes);
        }

        #[test]
        fn no_byte_changed_makes_it_panic(place: proptest::sample::Index, value: u8) {
            let mut bytes = sample();
            let place = place.index(bytes.len());
            bytes[place] = value;
            let _ = read(&bytes);
        }
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        assert!(matches!(read(b"PNG, for example"), Err(Error::NotARecording)));
        let mut newer = sample();
        newer[8] = 9;
        assert!(matches!(read(&newer), Err(Error::UnsupportedVersion(9))));
        let mut lying = sample();
        lying[9..13].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(read(&lying), Err(Error::Damaged { .. })));
    }
}
