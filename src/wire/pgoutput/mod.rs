//! The messages of PostgreSQL's `pgoutput` plugin, protocol versions 1 to 4, decoded into borrowed views.
//!
//! The decoder does no I/O, allocates nothing and panics on no input. It decodes a message completely or not at all, and a
//! byte after the end of a message is an error. `session` checks the order of messages.
//!
//! ```text
//! message = Begin | Commit | Origin | Insert | Update | Delete | Truncate | Message     (message)
//!         | Relation | Type                                                             (relation)
//!         | Stream Start | Stream Stop | Stream Commit | Stream Abort                   (streamed)
//!         | Begin Prepare | Prepare | Commit Prepared | Rollback Prepared | Stream Prepare (prepared)
//! ```
//!
//! Each message starts with a byte that names it; the fields follow without padding, integers in network byte order.
//!
//! Source: PostgreSQL documentation, "55.9 Logical Replication Message Formats".

pub mod message;
pub mod prepared;
pub mod relation;
pub mod streamed;
pub mod tuple;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

use super::reader::Reader;
pub use crate::wire::error::DecodeError;
pub use message::{Begin, Commit, Delete, Insert, LogicalMessage, Oids, Origin, Truncate, Update};
pub use prepared::{BeginPrepare, CommitPrepared, Prepare, Prepared, RollbackPrepared};
pub use relation::{RelationMessage, ReplicaIdentity, TypeMessage};
pub use streamed::{StreamAbort, StreamCommit, StreamStart};
pub use tuple::{Cell, Cells, OldTuple, Tuple};

/// What a decoder must know besides the bytes of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Between Stream Start and Stream Stop: seven message types have an additional xid.
    pub in_stream: bool,
    /// The stream was started with `streaming 'parallel'`: Stream Abort has an LSN and a time.
    pub parallel: bool,
}

/// A message, borrowed from the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`
    Origin(Origin<'a>),
    /// `R`
    Relation(RelationMessage<'a>),
    /// `Y`
    Type(TypeMessage<'a>),
    /// `I`
    Insert(Insert<'a>),
    /// `U`
    Update(Update<'a>),
    /// `D`
    Delete(Delete<'a>),
    /// `T`
    Truncate(Truncate<'a>),
    /// `M`
    Logical(LogicalMessage<'a>),
    /// `S`
    StreamStart(StreamStart),
    /// `E`: a stream block ends.
    StreamStop,
    /// `c`
    StreamCommit(StreamCommit),
    /// `A`
    StreamAbort(StreamAbort),
    /// `b`
    BeginPrepare(BeginPrepare<'a>),
    /// `P`
    Prepare(Prepare<'a>),
    /// `K`
    CommitPrepared(CommitPrepared<'a>),
    /// `r`
    RollbackPrepared(RollbackPrepared<'a>),
    /// `p`
    StreamPrepare(Prepare<'a>),
}

impl Message<'_> {
    /// Its name in the documentation, in lower case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Message::Begin(_) => "begin",
            Message::Commit(_) => "commit",
            Message::Origin(_) => "origin",
            Message::Relation(_) => "relation",
            Message::Type(_) => "type",
            Message::Insert(_) => "insert",
            Message::Update(_) => "update",
            Message::Delete(_) => "delete",
            Message::Truncate(_) => "truncate",
            Message::Logical(_) => "message",
            Message::StreamStart(_) => "stream start",
            Message::StreamStop => "stream stop",
            Message::StreamCommit(_) => "stream commit",
            Message::StreamAbort(_) => "stream abort",
            Message::BeginPrepare(_) => "begin prepare",
            Message::Prepare(_) => "prepare",
            Message::CommitPrepared(_) => "commit prepared",
            Message::RollbackPrepared(_) => "rollback prepared",
            Message::StreamPrepare(_) => "stream prepare",
        }
    }

    /// Its first byte.
    #[must_use]
    pub fn letter(&self) -> char {
        match self {
            Message::Begin(_) => 'B',
            Message::Commit(_) => 'C',
            Message::Origin(_) => 'O',
            Message::Relation(_) => 'R',
            Message::Type(_) => 'Y',
            Message::Insert(_) => 'I',
            Message::Update(_) => 'U',
            Message::Delete(_) => 'D',
            Message::Truncate(_) => 'T',
            Message::Logical(_) => 'M',
            Message::StreamStart(_) => 'S',
            Message::StreamStop => 'E',
            Message::StreamCommit(_) => 'c',
            Message::StreamAbort(_) => 'A',
            Message::BeginPrepare(_) => 'b',
            Message::Prepare(_) => 'P',
            Message::CommitPrepared(_) => 'K',
            Message::RollbackPrepared(_) => 'r',
            Message::StreamPrepare(_) => 'p',
        }
    }
}

/// Decodes one message, which takes up all of `message`.
///
/// # Errors
/// [`DecodeError`] if the bytes are not exactly one message of a known type.
pub fn decode(message: &[u8], context: Context) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(message);
    let tag = reader.u8("the message type")?;
    let message = decode_tagged(tag, context, &mut reader)?;
    reader.finish()?;
    Ok(message)
}

fn decode_tagged<'a>(tag: u8, context: Context, reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let message = match tag {
        b'B' => Message::Begin(Begin::decode(reader)?),
        b'C' => Message::Commit(Commit::decode(reader)?),
        b'O' => Message::Origin(Origin::decode(reader)?),
        b'R' => Message::Relation(RelationMessage::decode(xid(context, reader)?, reader)?),
        b'Y' => Message::Type(TypeMessage::decode(xid(context, reader)?, reader)?),
        b'I' => Message::Insert(Insert::decode(xid(context, reader)?, reader)?),
        b'U' => Message::Update(Update::decode(xid(context, reader)?, reader)?),
        b'D' => Message::Delete(Delete::decode(xid(context, reader)?, reader)?),
        b'T' => Message::Truncate(Truncate::decode(xid(context, reader)?, reader)?),
        b'M' => Message::Logical(LogicalMessage::decode(xid(context, reader)?, reader)?),
        b'S' => Message::StreamStart(StreamStart::decode(reader)?),
        b'E' => Message::StreamStop,
        b'c' => Message::StreamCommit(StreamCommit::decode(reader)?),
        b'A' => Message::StreamAbort(StreamAbort::decode(context.parallel, reader)?),
        b'b' => Message::BeginPrepare(BeginPrepare::decode(reader)?),
        b'P' => Message::Prepare(Prepare::decode(reader)?),
        b'K' => Message::CommitPrepared(CommitPrepared::decode(reader)?),
        b'r' => Message::RollbackPrepared(RollbackPrepared::decode(reader)?),
        b'p' => Message::StreamPrepare(Prepare::decode(reader)?),
        _ => return Err(DecodeError::UnknownMessage { tag }),
    };
    Ok(message)
}

/// The xid at the start of seven message types within a stream block.
fn xid(context: Context, reader: &mut Reader<'_>) -> Result<Option<u32>, DecodeError> {
    match context.in_stream {
        true => reader.u32("the xid").map(Some),
        false => Ok(None),
    }
}
