//! Golden transcripts: decodes what real servers sent and compares the lines with the stored ones
//! (tests/transcripts/README.md).
//!
//! WALCAT_TRANSCRIPTS_WRITE=1 writes the lines again; `git diff` then shows the difference.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::cargo::cargo_bin_cmd;
use walcat::testing::dump::Line;
use walcat::testing::lsn::Lsn;
use walcat::testing::recording::{Entry, Header, Reader};
use walcat::testing::relations::Relation;
use walcat::testing::wire::pgoutput::{self, Context, Message};
use walcat::testing::wire::replication::{self, Frame};

/// What walcat requests from a server: `walcat decode` prints it with its records.
const SESSIONS: [&str; 1] = ["session-15"];

/// What walcat decodes but does not request: one line per message, without records.
const MESSAGES: [&str; 4] = ["binary-15", "streamed-15", "prepared-15", "parallel-16"];

fn path(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(name).with_extension(extension)
}

fn open(name: &str) -> (Reader<fs::File>, Header) {
    let path = path(name, "walcat");
    let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Reader::new(file).expect("a recording")
}

/// Calls `see` with every message, its position and its context, and returns the number of messages.
fn for_each_message(name: &str, mut see: impl FnMut(Lsn, &Message<'_>)) -> usize {
    let (mut reader, header) = open(name);
    let parallel = header.settings.get("streaming").is_some_and(|value| value == "parallel");
    let mut context = Context { in_stream: false, parallel };
    let mut count = 0;
    while let Some(entry) = reader.entry().expect("a whole recording") {
        let Entry::CopyData(frame) = entry else { continue };
        let Frame::XLogData { start, message, .. } = replication::decode(frame).expect("a frame") else { continue };
        let message = pgoutput::decode(message, context).unwrap_or_else(|error| panic!("{name} at {start}: {error}"));
        match message {
            Message::StreamStart(_) => context.in_stream = true,
            Message::StreamStop => context.in_stream = false,
            _ => {}
        }
        see(start, &message);
        count += 1;
    }
    count
}

/// The transaction that a message names.
fn xid(message: &Message<'_>) -> Option<u32> {
    match message {
        Message::Begin(begin) => Some(begin.xid),
        Message::Relation(relation) => relation.xid,
        Message::Type(kind) => kind.xid,
        Message::Insert(insert) => insert.xid,
        Message::Update(update) => update.xid,
        Message::Delete(delete) => delete.xid,
        Message::Truncate(truncate) => truncate.xid,
        Message::Logical(logical) => logical.xid,
        Message::StreamStart(start) => Some(start.xid),
        Message::StreamCommit(commit) => Some(commit.xid),
        Message::StreamAbort(abort) => Some(abort.xid),
        Message::BeginPrepare(begin) => Some(begin.prepared.xid),
        Message::Prepare(prepare) | Message::StreamPrepare(prepare) => Some(prepare.prepared.xid),
        Message::CommitPrepared(committed) => Some(committed.xid),
        Message::RollbackPrepared(rollback) => Some(rollback.xid),
        Message::Commit(_) | Message::Origin(_) | Message::StreamStop => None,
    }
}

/// One line per message.
fn lines(name: &str) -> String {
    let mut relations: HashMap<u32, Relation> = HashMap::new();
    let mut out = Vec::new();
    for_each_message(name, |lsn, message| {
        if let Message::Relation(relation) = message {
            relations.insert(relation.oid, Relation::from(relation));
        }
        let relation = match message {
            Message::Insert(insert) => relations.get(&insert.relation),
            Message::Update(update) => relations.get(&update.relation),
            Message::Delete(delete) => relations.get(&delete.relation),
            _ => None,
        };
        let mut line = Line::begin(&mut out, message.name(), message.letter(), lsn, xid(message));
        line.message(message, relation);
        if let Message::Truncate(truncate) = message {
            line.truncated(truncate.relations.iter().map(|oid| (oid, relations.get(&oid))));
        }
        line.end();
    });
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn assert_golden(name: &str, found: &str) {
    let path = path(name, "jsonl");
    if std::env::var_os("WALCAT_TRANSCRIPTS_WRITE").is_some() {
        fs::write(&path, found).expect("the golden lines can be written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (index, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, expected, "{name}, line {}", index + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{name}");
}

#[test]
fn a_recorded_session_is_decoded_to_its_lines() {
    for name in SESSIONS {
        let output = cargo_bin_cmd!("walcat").arg("decode").arg(path(name, "walcat")).output().expect("walcat runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let version = concat!("\"version\":\"", env!("CARGO_PKG_VERSION"), "\"");
        let lines = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        // A new version of walcat must not change the lines.
        assert_golden(name, &lines.replace(version, "\"version\":\"VERSION\""));
    }
}

#[test]
fn messages_that_walcat_does_not_ask_for_are_decoded_to_their_lines() {
    for name in MESSAGES {
        assert_golden(name, &lines(name));
    }
}

#[test]
fn every_message_type_was_sent_by_a_real_server() {
    let mut letters = BTreeSet::new();
    for name in SESSIONS.iter().chain(&MESSAGES) {
        let count = for_each_message(name, |_, message| _ = letters.insert(message.letter()));
        assert!(count > 0, "{name} is empty");
    }
    assert_eq!(String::from_iter(letters), "ABCDEIKMOPRSTUYbcpr");
}

#[test]
fn no_transcript_is_left_untested_or_large() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("the directory of transcripts") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "walcat") {
            assert!(fs::metadata(&path).expect("its size").len() < 64 * 1024, "{}", path.display());
            found.insert(path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned());
        }
    }
    let known: BTreeSet<String> = SESSIONS.iter().chain(&MESSAGES).map(|name| (*name).to_owned()).collect();
    assert_eq!(found, known);
}
