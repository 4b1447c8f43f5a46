use super::relation::ColumnMessage;
use super::streamed::Abort;
use super::*;
use crate::clock::PgTimestamp;
use crate::lsn::Lsn;
use samples::bytes;

const OUT: Context = Context { in_stream: false, parallel: false };
const IN: Context = Context { in_stream: true, parallel: false };
const PARALLEL: Context = Context { in_stream: false, parallel: true };

const LSN: Lsn = Lsn(0x16B_3748);
const END_LSN: Lsn = Lsn(0x16B_3778);
const TIME: PgTimestamp = PgTimestamp(1_000_000);
const COMMIT: Commit = Commit { flags: 0, commit_lsn: LSN, end_lsn: END_LSN, commit_time: TIME };
const PREPARED: Prepared<'_> = Prepared { prepare_lsn: LSN, end_lsn: END_LSN, prepare_time: TIME, xid: 751, gid: "gx" };

fn tuple(old: OldTuple<'_>) -> Tuple<'_> {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}

#[test]
fn messages_without_parts_are_decoded_field_by_field() {
    let table: &[(&str, Context, Message<'_>)] = &[
        (samples::BEGIN, OUT, Message::Begin(Begin { final_lsn: LSN, commit_time: TIME, xid: 751 })),
        (samples::COMMIT, OUT, Message::Commit(COMMIT)),
        (samples::ORIGIN, OUT, Message::Origin(Origin { commit_lsn: Lsn(0x16_B374_D848), name: "node" })),
        (samples::TYPE, OUT, Message::Type(TypeMessage { xid: None, oid: 16387, namespace: "s", name: "mood" })),
        (
            samples::TYPE_IN_STREAM,
            IN,
            Message::Type(TypeMessage { xid: Some(751), oid: 16387, namespace: "pg_catalog", name: "mood" }),
        ),
        (
            samples::LOGICAL,
            OUT,
            Message::Logical(LogicalMessage {
                xid: None,
                flags: 0,
                transactional: false,
                lsn: LSN,
                prefix: "a",
                content: b"\x00\xff",
            }),
        ),
        (
            samples::LOGICAL_IN_STREAM,
            IN,
            Message::Logical(LogicalMessage {
                xid: Some(751),
                flags: 1,
                transactional: true,
                lsn: LSN,
                prefix: "",
                content: b"",
            }),
        ),
        (samples::STREAM_START, OUT, Message::StreamStart(StreamStart { xid: 751, flags: 1, first_segment: true })),
        (samples::STREAM_STOP, IN, Message::StreamStop),
        (samples::STREAM_COMMIT, OUT, Message::StreamCommit(StreamCommit { xid: 751, commit: COMMIT })),
        (samples::STREAM_ABORT, OUT, Message::StreamAbort(StreamAbort { xid: 751, subxid: 752, abort: None })),
        (
            samples::STREAM_ABORT_PARALLEL,
            PARALLEL,
            Message::StreamAbort(StreamAbort { xid: 751, subxid: 752, abort: Some(Abort { lsn: LSN, time: TIME }) }),
        ),
        (samples::BEGIN_PREPARE, OUT, Message::BeginPrepare(BeginPrepare { prepared: PREPARED })),
        (samples::PREPARE, OUT, Message::Prepare(Prepare { flags: 0, prepared: PREPARED })),
        (samples::STREAM_PREPARE, OUT, Message::StreamPrepare(Prepare { flags: 0, prepared: PREPARED })),
        (
            samples::COMMIT_PREPARED,
            OUT,
            Message::CommitPrepared(CommitPrepared { commit: COMMIT, xid: 751, gid: "gx" }),
        ),
        (
            samples::ROLLBACK_PREPARED,
            OUT,
            Message::RollbackPrepared(RollbackPrepared {
                flags: 0,
                prepare_end_lsn: LSN,
                rollback_end_lsn: END_LSN,
                prepare_time: TIME,
                rollback_time: PgTimestamp(2_000_000),
                xid: 751,
                gid: "gx",
            }),
        ),
    ];
    for (hex, context, expected) in table {
        assert_eq!(decode(&bytes(hex), *context), Ok(*expected), "{hex}");
    }
}

#[test]
fn a_relation_gives_its_columns() {
    let message = bytes(samples::RELATION);
    let Ok(Message::Relation(relation)) = decode(&message, OUT) else { panic!("a relation") };
    assert_eq!((relation.xid, relation.oid), (None, 16385));
    assert_eq!((relation.namespace, relation.name), ("public", "t"));
    assert_eq!(relation.replica_identity, ReplicaIdentity::Default);
    assert_eq!(
        relation.columns().collect::<Vec<_>>(),
        [
            ColumnMessage { flags: 1, part_of_key: true, name: "id", type_oid: 23, type_modifier: -1 },
            ColumnMessage { flags: 0, part_of_key: false, name: "ä", type_oid: 1043, type_modifier: 14 },
        ]
    );

    let message = bytes(samples::RELATION_IN_STREAM);
    let Ok(Message::Relation(relation)) = decode(&message, IN) else { panic!("a relation") };
    assert_eq!((relation.xid, relation.oid), (Some(751), 16386));
    assert_eq!((relation.namespace, relation.name), ("pg_catalog", "u"));
    assert_eq!(relation.replica_identity, ReplicaIdentity::Full);
    assert_eq!(relation.columns().count(), 0);
}

#[test]
fn every_replica_identity_has_its_letter() {
    let table = [
        ('d', ReplicaIdentity::Default),
        ('n', ReplicaIdentity::Nothing),
        ('f', ReplicaIdentity::Full),
        ('i', ReplicaIdentity::Index),
    ];
    for (letter, expected) in table {
        let mut message = bytes(samples::RELATION);
        message[14] = u8::try_from(letter).unwrap();
        let Ok(Message::Relation(relation)) = decode(&message, OUT) else { panic!("a relation") };
        assert_eq!(relation.replica_identity, expected);
        assert_eq!(expected.letter(), letter);
    }
}

#[test]
fn an_insert_gives_its_cells() {
    let message = bytes(samples::INSERT);
    let Ok(Message::Insert(insert)) = decode(&message, OUT) else { panic!("an insert") };
    assert_eq!((insert.xid, insert.relation, insert.new.column_count()), (None, 16385, 5));
    assert_eq!(
        insert.new.cells().collect::<Vec<_>>(),
        [Cell::Text(b"42"), Cell::Null, Cell::UnchangedToast, Cell::Binary(b"\x00\xff\x01"), Cell::Text(b"")]
    );

    let message = bytes(samples::INSERT_IN_STREAM);
    let Ok(Message::Insert(insert)) = decode(&message, IN) else { panic!("an insert") };
    assert_eq!((insert.xid, insert.relation), (Some(751), 16385));
    assert_eq!(insert.new.cells().collect::<Vec<_>>(), [Cell::Text(b"1")]);

    let message = bytes(samples::INSERT_OF_NO_COLUMNS);
    let Ok(Message::Insert(insert)) = decode(&message, OUT) else { panic!("an insert") };
    assert_eq!(insert.new.cells().next(), None);
}

#[test]
fn an_update_tells_old_key_old_row_and_neither_apart() {
    let table: &[(&str, Context, Option<u32>, &str)] = &[
        (samples::UPDATE, OUT, None, "none"),
        (samples::UPDATE_OF_KEY, OUT, None, "key"),
        (samples::UPDATE_IN_STREAM, IN, Some(751), "full"),
    ];
    for (hex, context, xid, expected) in table {
        let message = bytes(hex);
        let Ok(Message::Update(update)) = decode(&message, *context) else { panic!("an update: {hex}") };
        assert_eq!((update.xid, update.relation), (*xid, 16385));
        let old = match update.old {
            None => "none",
            Some(OldTuple::Key(_)) => "key",
            Some(OldTuple::Full(_)) => "full",
        };
        assert_eq!(old, *expected);
    }

    let message = bytes(samples::UPDATE_OF_KEY);
    let Ok(Message::Update(update)) = decode(&message, OUT) else { panic!("an update") };
    assert_eq!(tuple(update.old.unwrap()).cells().collect::<Vec<_>>(), [Cell::Text(b"1"), Cell::Null]);
    assert_eq!(update.new.cells().collect::<Vec<_>>(), [Cell::Text(b"2"), Cell::UnchangedToast]);
}

#[test]
fn a_delete_has_an_old_key_or_an_old_row() {
    let message = bytes(samples::DELETE);
    let Ok(Message::Delete(Delete { xid: None, relation: 16385, old: OldTuple::Key(key) })) = decode(&message, OUT)
    else {
        panic!("a delete by key")
    };
    assert_eq!(key.cells().collect::<Vec<_>>(), [Cell::Text(b"1"), Cell::Null]);

    let message = bytes(samples::DELETE_IN_STREAM);
    let Ok(Message::Delete(Delete { xid: Some(751), relation: 16385, old: OldTuple::Full(row) })) =
        decode(&message, IN)
    else {
        panic!("a delete with the whole row")
    };
    assert_eq!(row.cells().collect::<Vec<_>>(), [Cell::Text(b"1")]);
}

#[test]
fn a_truncate_gives_its_options_and_relations() {
    let message = bytes(samples::TRUNCATE);
    let Ok(Message::Truncate(truncate)) = decode(&message, OUT) else { panic!("a truncate") };
    assert_eq!((truncate.xid, truncate.options), (None, 3));
    assert!(truncate.cascade && truncate.restart_identity);
    assert_eq!(truncate.relations.iter().collect::<Vec<_>>(), [16385, 16386]);

    let message = bytes(samples::TRUNCATE_IN_STREAM);
    let Ok(Message::Truncate(truncate)) = decode(&message, IN) else { panic!("a truncate") };
    assert_eq!((truncate.xid, truncate.options), (Some(751), 0));
    assert!(!truncate.cascade && !truncate.restart_identity);
    assert_eq!(truncate.relations.iter().collect::<Vec<_>>(), [16385]);
}

fn context((in_stream, parallel): samples::Flags) -> Context {
    Context { in_stream, parallel }
}

#[test]
fn a_message_cut_at_any_length_is_an_error() {
    for (name, flags, hex) in samples::ALL {
        let whole = bytes(hex);
        let message = decode(&whole, context(*flags)).unwrap();
        assert_eq!(u32::from(message.letter()), u32::from(whole[0]), "{name}");
        assert!(name.replace("logical ", "").starts_with(message.name()), "{name}: {}", message.name());
        for length in 0..whole.len() {
            let result = decode(&whole[..length], context(*flags));
            assert!(
                matches!(result, Err(DecodeError::Truncated { offset, available, .. }) if offset + available == length),
                "{name} cut to {length} bytes: {result:?}"
            );
        }
    }
}

#[test]
fn a_byte_after_the_end_of_any_message_is_an_error() {
    for (name, flags, hex) in samples::ALL {
        let mut message = bytes(hex);
        let offset = message.len();
        message.push(0);
        let result = decode(&message, context(*flags));
        assert_eq!(result, Err(DecodeError::TrailingBytes { offset, count: 1 }), "{name}");
    }
}

#[test]
fn what_the_protocol_does_not_know_is_an_error_that_names_the_place() {
    let value = |reading, offset, value| DecodeError::UnknownValue { reading, offset, value };
    let negative = |reading, offset| DecodeError::Negative { reading, offset, value: -1 };
    let table: &[(&str, DecodeError)] = &[
        ("58", DecodeError::UnknownMessage { tag: 0x58 }),
        ("00", DecodeError::UnknownMessage { tag: 0 }),
        ("52 00004001 00 00 78 0000", value("replica identity", 7, 0x78)),
        ("49 00004001 4b 0000", value("kind of new tuple", 5, 0x4b)),
        ("55 00004001 58 0000", value("kind of old tuple", 5, 0x58)),
        ("55 00004001 4b 0000 4f 0000", value("kind of new tuple", 8, 0x4f)),
        ("44 00004001 4e 0000", value("kind of old tuple", 5, 0x4e)),
        ("49 00004001 4e 0001 78", value("kind of cell", 8, 0x78)),
        ("49 00004001 4e 0001 74 ffffffff", negative("a cell's length", 9)),
        ("54 ffffffff 00", negative("the count of relations", 1)),
        ("4d 00 0000000000000000 00 ffffffff", negative("the length of the message's content", 11)),
        ("52 00004001 61ff00 00 64 0000", DecodeError::NotUtf8 { reading: "the relation's namespace", offset: 6 }),
        ("49 00004001 4e 0001 74 7fffffff 31", DecodeError::Truncated { reading: "a cell", offset: 13, available: 1 }),
        ("54 7fffffff 00 00004001", DecodeError::Truncated { reading: "the relations' OIDs", offset: 6, available: 4 }),
        ("49 00004001 4e ffff", DecodeError::Truncated { reading: "a cell's kind", offset: 8, available: 0 }),
    ];
    for (hex, expected) in table {
        assert_eq!(decode(&bytes(hex), OUT), Err(*expected), "{hex}");
    }
}

#[test]
fn the_context_decides_whether_an_xid_is_read() {
    // The same bytes are a truncate of one relation outside a stream block, and too short inside one.
    assert!(decode(&bytes("54 00000001 00 00004001"), OUT).is_ok());
    assert!(decode(&bytes("54 00000001 00 00004001"), IN).is_err());
    assert!(decode(&bytes(samples::STREAM_ABORT), PARALLEL).is_err());
    assert!(decode(&bytes(samples::STREAM_ABORT_PARALLEL), OUT).is_err());
}

#[test]
fn an_error_says_what_was_read_and_where() {
    let error = decode(&bytes("42 0000"), OUT).unwrap_err();
    assert_eq!(error.to_string(), "message cut short: the final LSN at byte 1 needs more than the remaining 2 bytes");
    assert_eq!(decode(b"X", OUT).unwrap_err().to_string(), "unknown message type: byte 0x58");
}
