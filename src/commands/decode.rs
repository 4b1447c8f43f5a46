//! `walcat decode FILE`: prints a recording as `stream --dump json` would print the stream.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Write};
use std::path::Path;
use std::time::Instant;

use log::warn;

use crate::error::Error;
use crate::feedback::{Confirming, Timing};
use crate::limits::{RING_ENTRIES_MAX, STDOUT_BUFFER_BYTES};
use crate::pump::{self, Dumped, Dumping};
use crate::record::{self, Encoder, UNAVAILABLE_VALUE};
use crate::recording::{self, Entry, Header, Reader};
use crate::relations::Relation;
use crate::session::{EnvelopeClock, Goal, Item, Options, Session, Truncations};

/// Prints every complete frame. A truncated recording is an error, but only after its last complete frame.
///
/// # Errors
/// [`Error::Input`] if the file cannot be opened, [`Error::Recording`] if it is invalid, and the errors of the stream it
/// holds.
pub fn run(path: &Path, keepalives: bool) -> Result<(), Error> {
    let unreadable = |source| Error::Input { path: path.display().to_string(), source };
    let file = File::open(path).map_err(unreadable)?;
    let damaged = |source| Error::Recording { path: path.display().to_string(), source };
    let (mut reader, header) = Reader::new(BufReader::new(file)).map_err(damaged)?;
    let mut lines = Lines::default();
    let result = replay(&mut reader, &header, keepalives, &mut lines, &damaged);
    match lines.write() {
        // The end of a pipeline.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::Output(error)),
        Ok(()) => result,
    }
}

fn replay(
    reader: &mut Reader<BufReader<File>>,
    header: &Header,
    keepalives: bool,
    lines: &mut Lines,
    damaged: &dyn Fn(recording::Error) -> Error,
) -> Result<(), Error> {
    let encoder = Encoder::new(&record::Settings {
        database: header.database.clone(),
        source_name: header.source_name.clone(),
        topic_prefix: header.topic_prefix.clone(),
        unavailable_value: UNAVAILABLE_VALUE.to_owned(),
        accept_keyless: true,
    })?;
    let mut dumping = Dumping::new(encoder, keepalives);
    let mut session = session(header);
    let mut announced: Option<Relation> = None;
    while let Some(entry) = reader.entry().map_err(damaged)? {
        match entry {
            Entry::CopyData(frame) => {
                let item = Item::of_frame(frame, session.feedback().received()).map_err(pump::Error::from)?;
                match dumping.item(&mut session, &item, Instant::now(), &mut lines.buffer)? {
                    Dumped::Relation(relation) => announced = Some(relation),
                    Dumped::Nothing | Dumped::Beyond => {}
                }
                if lines.buffer.len() >= STDOUT_BUFFER_BYTES {
                    match lines.write() {
                        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                        written => written.map_err(Error::Output)?,
                    }
                }
            }
            Entry::Catalog(answer) => {
                let Some(relation) = announced.take() else {
                    warn!(relation = answer.relation; "ignoring a catalog answer without a Relation message in the recording");
                    continue;
                };
                session.relations().learn(relation, *answer);
            }
        }
    }
    Ok(())
}

fn session(header: &Header) -> Session {
    let skips = header.settings.get("truncate").is_some_and(|value| value == "skip");
    let options = Options {
        start: header.start_lsn,
        goal: Goal::Forever,
        confirming: Confirming::Never,
        clock: EnvelopeClock::Commit,
        truncations: if skips { Truncations::Skip } else { Truncations::Emit },
        timing: Timing { status_interval: std::time::Duration::MAX, stall_timeout: None, ask_interval: None },
        entries_max: RING_ENTRIES_MAX,
    };
    Session::new(options, Instant::now())
}

/// Lines that are not yet written to standard output.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    fn write(&mut self) -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(&self.buffer)?;
        self.buffer.clear();
        output.flush()
    }
}
