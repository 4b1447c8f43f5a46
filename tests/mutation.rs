//! A million damaged frames: none makes the wire layer panic, and accepted values lie within the frame.
//!
//! The frames come from the golden transcripts, with one of each message type in addition. WALCAT_SEED=N runs another million;
//! a failure prints the seed, the iteration and the bytes.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use walcat::testing::recording::{Entry, Reader};
use walcat::testing::wire::pgoutput::{self, Cell, Context, Message, OldTuple, Tuple};
use walcat::testing::wire::replication::{self, Frame, StatusUpdate};

#[path = "../src/wire/pgoutput/samples.rs"]
mod samples;

const TURNS: u32 = 1_000_000;
const SEED: u64 = 1;
/// The maximum number of damages in one frame.
const DAMAGES_MAX: u64 = 4;
/// 'w', start, wal_end, sent_at.
const XLOGDATA_HEADER: [u8; 25] = {
    let mut header = [0; 25];
    header[0] = b'w';
    header
};
/// Numbers that are likely to break lengths and counts.
const EDGES: [u32; 12] =
    [0, 1, 2, 3, 0xFF, 0xFFFF, 0x1_0000, 0x7FFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF];
const CONTEXTS: [Context; 4] = [
    Context { in_stream: false, parallel: false },
    Context { in_stream: true, parallel: false },
    Context { in_stream: false, parallel: true },
    Context { in_stream: true, parallel: true },
];

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("less than a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[7]
    }
}

fn frames() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> =
        samples::ALL.iter().map(|(_, _, hex)| [XLOGDATA_HEADER.as_slice(), &samples::bytes(hex)].concat()).collect();
    // A keepalive and a status update.
    frames.push([b"k".as_slice(), &[0; 16], &[1]].concat());
    frames.push([b"r".as_slice(), &[0; 32], &[1]].concat());
    let by_hand = frames.len();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut recordings: Vec<_> =
        fs::read_dir(directory).expect("the transcripts").map(|entry| entry.expect("an entry").path()).collect();
    recordings.sort();
    for path in recordings.iter().filter(|path| path.extension().is_some_and(|extension| extension == "walcat")) {
        let (mut reader, _) = Reader::new(fs::File::open(path).expect("a transcript")).expect("a recording");
        while let Some(entry) = reader.entry().expect("a whole recording") {
            if let Entry::CopyData(frame) = entry {
                frames.push(frame.to_vec());
            }
        }
    }
    assert!(frames.len() > by_hand, "there are no transcripts");
    frames
}

/// Damages a frame in one place.
fn damage(frame: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let place = random.below(frame.len() + 1);
    match random.below(8) {
        0 => frame.truncate(place),
        1 => frame.insert(place, random.byte()),
        2 => frame.extend_from_slice(&other[random.below(other.len() + 1)..]),
        3 => {
            let end = (place + 1 + random.below(8)).min(frame.len());
            frame.drain(place..end);
        }
        4 => overwrite(frame, place, &EDGES[random.below(EDGES.len())].to_be_bytes()),
        5 => overwrite(frame, place, &EDGES[random.below(EDGES.len())].to_be_bytes()[2..]),
        6 => overwrite(frame, place, &[random.byte()]),
        _ => {
            let bit = 1 << random.below(8);
            if let Some(byte) = frame.get_mut(place) {
                *byte ^= bit;
            }
        }
    }
}

fn overwrite(frame: &mut [u8], place: usize, bytes: &[u8]) {
    for (old, new) in frame.iter_mut().skip(place).zip(bytes) {
        *old = *new;
    }
}

/// Decodes a frame in every context and returns the letters of the accepted messages.
fn decode_all(frame: &[u8], accepted: &mut BTreeSet<char>) -> u32 {
    let _ = StatusUpdate::decode(frame);
    let Ok(Frame::XLogData { message, .. }) = replication::decode(frame) else { return 0 };
    assert_within(frame, message);
    let mut count = 0;
    for context in CONTEXTS {
        if let Ok(decoded) = pgoutput::decode(message, context) {
            visit(message, &decoded);
            assert_eq!(u32::from(decoded.letter()), u32::from(message[0]));
            let shorter = &message[..message.len() - 1];
            assert!(pgoutput::decode(shorter, context).is_err(), "a message may not end at two places");
            accepted.insert(decoded.letter());
            count += 1;
        }
    }
    count
}

/// Reads everything that a message contains.
fn visit(bytes: &[u8], message: &Message<'_>) {
    let text = |text: &str| assert_within(bytes, text.as_bytes());
    match message {
        Message::Origin(origin) => text(origin.name),
        Message::Relation(relation) => {
            relation.columns().for_each(|column| text(column.name));
            text(relation.name);
        }
        Message::Type(kind) => text(kind.name),
        Message::Insert(insert) => visit_tuple(bytes, insert.new),
        Message::Update(update) => {
            visit_tuple(bytes, update.new);
            if let Some(old) = update.old {
                visit_tuple(bytes, either(old));
            }
        }
        Message::Delete(delete) => visit_tuple(bytes, either(delete.old)),
        Message::Truncate(truncate) => assert!(truncate.relations.iter().len() <= bytes.len()),
        Message::Logical(logical) => {
            text(logical.prefix);
            assert_within(bytes, logical.content);
        }
        Message::BeginPrepare(begin) => text(begin.prepared.gid),
        Message::Prepare(prepare) | Message::StreamPrepare(prepare) => text(prepare.prepared.gid),
        Message::CommitPrepared(committed) => text(committed.gid),
        Message::RollbackPrepared(rollback) => text(rollback.gid),
        Message::Begin(_) | Message::Commit(_) | Message::StreamStart(_) => {}
        Message::StreamStop | Message::StreamCommit(_) | Message::StreamAbort(_) => {}
    }
}

fn either(old: OldTuple<'_>) -> Tuple<'_> {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}

fn visit_tuple(bytes: &[u8], tuple: Tuple<'_>) {
    let mut count = 0;
    for cell in tuple.cells() {
        if let Cell::Text(value) | Cell::Binary(value) = cell {
            assert_within(bytes, value);
        }
        count += 1;
    }
    assert_eq!(count, tuple.column_count());
}

fn assert_within(whole: &[u8], part: &[u8]) {
    let (whole, part) = (whole.as_ptr_range(), part.as_ptr_range());
    assert!(whole.start <= part.start && part.end <= whole.end, "what was decoded lies outside of the frame");
}

#[test]
fn every_frame_is_accepted_as_it_came() {
    let mut accepted = BTreeSet::new();
    for frame in frames() {
        decode_all(&frame, &mut accepted);
    }
    assert_eq!(String::from_iter(accepted), "ABCDEIKMOPRSTUYbcpr");
}

#[test]
fn no_damaged_frame_makes_the_wire_layer_panic() {
    let seed = std::env::var("WALCAT_SEED").map_or(SEED, |seed| seed.parse().expect("WALCAT_SEED is a number"));
    println!("WALCAT_SEED={seed}");
    let frames = frames();
    let mut random = Random::new(seed);
    let mut accepted = BTreeSet::new();
    let mut count = 0;
    let mut frame = Vec::new();
    for turn in 0..TURNS {
        frame.clear();
        frame.extend_from_slice(&frames[random.below(frames.len())]);
        for _ in 0..=random.next() % DAMAGES_MAX {
            let other = random.below(frames.len());
            damage(&mut frame, &frames[other], &mut random);
        }
        match catch_unwind(AssertUnwindSafe(|| decode_all(&frame, &mut accepted))) {
            Ok(more) => count += more,
            Err(panic) => {
                println!("WALCAT_SEED={seed}, turn {turn}: {frame:02x?}");
                resume_unwind(panic);
            }
        }
    }
    println!("{TURNS} frames, {count} messages accepted");
    // If every frame were rejected, the test would cover only the first byte.
    assert!(count > TURNS / 20, "only {count} messages were accepted");
    assert_eq!(String::from_iter(accepted), "ABCDEIKMOPRSTUYbcpr");
}
