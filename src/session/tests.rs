use std::time::Duration;

use super::*;
use crate::catalog_facts::CatalogAnswer;
use crate::change::Position;
use crate::exit_code::ExitCode;
use crate::relations::Relation;

const RELATION: u32 = 16_384;

fn xlogdata(start: u64, message: &[u8]) -> Vec<u8> {
    [b"w".as_slice(), &start.to_be_bytes(), &start.to_be_bytes(), &[0; 8], message].concat()
}

fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
    [b"k".as_slice(), &wal_end.to_be_bytes(), &[0; 8], &[reply]].concat()
}

/// B, final LSN, commit time, xid 7.
fn begin(commit: u64) -> Vec<u8> {
    xlogdata(commit, &[b"B".as_slice(), &commit.to_be_bytes(), &[0; 8], &7_u32.to_be_bytes()].concat())
}

/// C, flags, commit LSN, end LSN, commit time.
fn commit(commit: u64, end: u64) -> Vec<u8> {
    xlogdata(end, &[b"C\0".as_slice(), &commit.to_be_bytes(), &end.to_be_bytes(), &[0; 8]].concat())
}

/// I, relation, N, one column, text "1".
fn insert(lsn: u64) -> Vec<u8> {
    xlogdata(lsn, &[b"I".as_slice(), &RELATION.to_be_bytes(), b"N\0\x01t\0\0\0\x011"].concat())
}

/// M, not transactional, LSN, prefix "p", no content.
fn message(lsn: u64) -> Vec<u8> {
    xlogdata(lsn, &[b"M\0".as_slice(), &lsn.to_be_bytes(), b"p\0", &[0; 4]].concat())
}

fn session(goal: Goal) -> Session {
    let options = Options {
        start: Lsn(10),
        goal,
        confirming: Confirming::Yes,
        clock: EnvelopeClock::Commit,
        truncations: Truncations::Emit,
        timing: Timing { status_interval: Duration::from_secs(1), stall_timeout: None, ask_interval: None },
        entries_max: 2,
    };
    let mut session = Session::new(options, Instant::now());
    let column = crate::relations::Column { name: "id".into(), type_oid: 23, type_modifier: -1, part_of_key: true };
    let relation = Relation {
        oid: RELATION,
        namespace: "public".into(),
        name: "t".into(),
        replica_identity: crate::wire::pgoutput::ReplicaIdentity::Default,
        columns: vec![column],
    };
    session.relations().learn(relation, CatalogAnswer { relation: RELATION, table: None, types: Vec::new() });
    session
}

fn accept<'a>(session: &mut Session, frame: &'a [u8]) -> Result<Step<'a>, Error> {
    let item = Item::of_frame(frame, session.feedback().received())?;
    session.accept(&item, Instant::now(), 0)
}

/// Feeds a frame; returns the position and ticket of its change, after taking it as one record.
fn feed(session: &mut Session, frame: &[u8]) -> Result<Option<(Position, Ticket)>, Error> {
    match accept(session, frame)? {
        Step::Change { change, ticket, .. } => {
            session.emitted(&change, ticket, 1, 1)?;
            Ok(Some((change.position, ticket)))
        }
        _ => Ok(None),
    }
}

fn change(session: &mut Session, frame: &[u8]) -> (Position, Ticket) {
    feed(session, frame).unwrap().expect("a change")
}

#[test]
fn a_transaction_is_confirmed_by_its_end_once_all_its_records_are_settled() {
    let mut session = session(Goal::Forever);
    feed(&mut session, &begin(50)).unwrap();
    let (first, ticket) = change(&mut session, &insert(30));
    let (second, same) = change(&mut session, &insert(30));
    assert_eq!((first.total_order, second.total_order, ticket), (1, 2, same));
    assert_eq!((first.data_collection_order, second.data_collection_order), (1, 2));
    feed(&mut session, &commit(50, 60)).unwrap();
    session.settle(ticket, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(10));
    session.settle(ticket, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(60));
    feed(&mut session, &begin(70)).unwrap();
    assert_eq!(change(&mut session, &insert(65)).0.data_collection_order, 1, "numbers start again in each transaction");
}

#[test]
fn a_keepalive_confirms_only_what_is_not_in_flight() {
    let mut session = session(Goal::Forever);
    feed(&mut session, &keepalive(20, 0)).unwrap();
    assert_eq!(session.feedback().confirmed(), Lsn(20));
    feed(&mut session, &begin(50)).unwrap();
    feed(&mut session, &keepalive(100, 0)).unwrap();
    assert_eq!(session.feedback().confirmed(), Lsn(20), "inside a transaction");
    let (_, ticket) = change(&mut session, &insert(30));
    feed(&mut session, &commit(50, 60)).unwrap();
    feed(&mut session, &keepalive(110, 0)).unwrap();
    assert_eq!(session.feedback().confirmed(), Lsn(20), "a record is in flight");
    session.settle(ticket, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(110), "the keepalive's position waited for the record");
}

#[test]
fn no_position_passes_a_message_that_is_under_way() {
    let mut session = session(Goal::Forever);
    let (position, ticket) = change(&mut session, &message(40));
    assert_eq!(position.transaction, None);
    feed(&mut session, &begin(50)).unwrap();
    feed(&mut session, &commit(50, 60)).unwrap();
    feed(&mut session, &keepalive(90, 1)).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(10));
    session.settle(ticket, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(90));
}

#[test]
fn what_was_delivered_before_is_passed_over_whole() {
    let mut session = session(Goal::Forever);
    session.pass_before(Lsn(60));
    assert!(feed(&mut session, &message(45)).unwrap().is_none());
    feed(&mut session, &begin(50)).unwrap();
    assert!(feed(&mut session, &insert(30)).unwrap().is_none());
    assert!(!session.is_inside_transaction());
    feed(&mut session, &commit(50, 60)).unwrap();
    assert!(feed(&mut session, &message(60)).unwrap().is_none(), "a message ends where it starts");
    // The next commit record starts where the last one ended.
    feed(&mut session, &begin(60)).unwrap();
    let (position, _) = change(&mut session, &insert(55));
    assert_eq!((position.total_order, position.data_collection_order), (1, 1));
    assert!(change(&mut session, &message(61)).0.transaction.is_none());
}

#[test]
fn a_new_connection_continues_after_what_was_read_whole() {
    let mut session = session(Goal::Forever);
    feed(&mut session, &begin(50)).unwrap();
    let (_, whole) = change(&mut session, &insert(30));
    feed(&mut session, &commit(50, 60)).unwrap();
    feed(&mut session, &begin(70)).unwrap();
    let (_, cut) = change(&mut session, &insert(65));
    assert_eq!(session.resume_lsn(), Lsn(60));
    session.reconnected(Instant::now()).unwrap();
    let error = feed(&mut session, &insert(65)).unwrap_err();
    assert!(error.to_string().contains("which was not announced"), "{error}");

    session.settle(whole, 1).unwrap();
    session.settle(cut, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(60), "a transaction that was cut confirms nothing");
    let relation = session.relations().relation(crate::change::RelationIndex(0)).clone();
    session.relations().learn(relation, CatalogAnswer { relation: RELATION, table: None, types: Vec::new() });
    feed(&mut session, &begin(70)).unwrap();
    let (position, again) = change(&mut session, &insert(65));
    assert_eq!((position.total_order, position.data_collection_order), (1, 1));
    feed(&mut session, &commit(70, 80)).unwrap();
    session.settle(again, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(80));
}

#[test]
fn on_a_server_that_parts_from_the_last_one_an_idle_position_in_flight_is_cut() {
    let mut session = session(Goal::Once { target: Lsn(200) });
    feed(&mut session, &begin(50)).unwrap();
    let (_, ticket) = change(&mut session, &insert(30));
    feed(&mut session, &commit(50, 60)).unwrap();
    // It has no changes for walcat, and it waits for the record.
    feed(&mut session, &keepalive(150, 0)).unwrap();
    assert_eq!((session.resume_lsn(), session.records_end()), (Lsn(150), Lsn(60)));
    session.reconnected(Instant::now()).unwrap();
    session.cut(Lsn(80));
    session.cut_goal(Lsn(100));
    assert_eq!((session.resume_lsn(), session.records_end()), (Lsn(80), Lsn(60)));
    session.settle(ticket, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(80), "150 is a position of the other server");
    feed(&mut session, &keepalive(100, 0)).unwrap();
    assert!(session.is_done(), "the whole job lies before the fork");
    assert_eq!((session.feedback().confirmed(), session.records_end()), (Lsn(100), Lsn(60)));
}

#[test]
fn records_of_a_transaction_that_was_read_in_part_are_records() {
    let mut session = session(Goal::Forever);
    feed(&mut session, &keepalive(40, 0)).unwrap();
    feed(&mut session, &begin(50)).unwrap();
    assert_eq!(session.records_end(), Lsn::INVALID, "it has no records yet");
    change(&mut session, &insert(30));
    assert_eq!((session.resume_lsn(), session.records_end()), (Lsn(40), Lsn(51)));
    session.reconnected(Instant::now()).unwrap();
    assert_eq!(
        session.records_end(),
        Lsn(51),
        "some of them may have been delivered, and the transaction is read again"
    );
    session.restarted(Instant::now());
    assert_eq!(session.records_end(), Lsn(51));
    session.cut(Lsn(45));
    assert_eq!(session.records_end(), Lsn(45));
}

#[test]
fn a_job_that_was_read_to_its_end_begins_again_when_nothing_of_it_will_be_delivered() {
    let mut session = session(Goal::EndLsn { lsn: Lsn(50), server_flushed: Lsn(500) });
    feed(&mut session, &begin(50)).unwrap();
    change(&mut session, &insert(30));
    feed(&mut session, &commit(50, 60)).unwrap();
    assert!(session.is_done());
    session.restarted(Instant::now());
    assert!(!session.is_done() && session.is_settled());
}

#[test]
fn nothing_is_taken_beyond_the_goal() {
    let mut session = session(Goal::EndLsn { lsn: Lsn(50), server_flushed: Lsn(500) });
    feed(&mut session, &begin(50)).unwrap();
    feed(&mut session, &commit(50, 60)).unwrap();
    assert!(session.is_done());
    assert!(matches!(accept(&mut session, &begin(60)), Ok(Step::Beyond)));
    assert!(matches!(accept(&mut session, &message(70)), Ok(Step::Beyond)));
}

#[test]
fn a_job_that_ends_before_it_begins_is_done_at_once() {
    assert!(session(Goal::Once { target: Lsn(10) }).is_done());
    assert!(!session(Goal::Once { target: Lsn(11) }).is_done());
}

#[test]
fn what_the_protocol_does_not_allow_is_refused_with_its_lsn() {
    let relation_unknown = xlogdata(30, b"I\0\0\0\x01N\0\x01n");
    let cut = xlogdata(30, b"I\0\0");
    for (frames, text) in [
        (vec![insert(30)], "0/1E: a row outside a transaction"),
        (vec![commit(50, 60)], "0/3C: Commit outside a transaction"),
        (vec![begin(50), begin(60)], "0/3C: Begin inside a transaction"),
        (vec![begin(50), commit(51, 60)], "Commit at 0/33 of the transaction begun for 0/32"),
        (vec![begin(50), relation_unknown], "OID 1, which was not announced"),
        (vec![begin(50), cut], "at 0/1E"),
        (vec![xlogdata(30, b"E")], "which walcat did not request"),
        (vec![b"?".to_vec()], "unknown type 0x3F"),
    ] {
        let mut session = session(Goal::Forever);
        let (last, before) = frames.split_last().expect("frames");
        for frame in before {
            feed(&mut session, frame).unwrap();
        }
        let error = feed(&mut session, last).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Protocol);
        assert!(error.to_string().contains(text), "{error} does not contain {text:?}");
        assert_eq!(session.feedback().confirmed(), Lsn(10), "nothing of it is confirmed");
    }
}

#[test]
fn a_session_that_was_closed_continues_after_the_last_taken_change() {
    let mut session = session(Goal::Forever);
    feed(&mut session, &begin(50)).unwrap();
    let (_, ticket) = change(&mut session, &insert(30));
    change(&mut session, &insert(30));
    for _ in 0..2 {
        let known = session.relations().index_of(RELATION).expect("a relation");
        let (relation, answer) =
            (session.relations().relation(known).clone(), session.relations().answer(known).clone());
        assert!(session.is_inside_transaction());
        session.resumed(Instant::now());
        assert!(session.is_inside_transaction());
        session.relations().learn(relation, answer);
        feed(&mut session, &begin(50)).unwrap();
        assert!(feed(&mut session, &insert(30)).unwrap().is_none(), "it was taken before");
    }
    assert!(feed(&mut session, &insert(30)).unwrap().is_none(), "the second change with this LSN was taken too");
    let (third, same) = change(&mut session, &insert(30));
    assert_eq!((third.total_order, third.data_collection_order, same), (3, 3, ticket));
    change(&mut session, &insert(40));
    feed(&mut session, &commit(50, 60)).unwrap();
    for _ in 0..4 {
        session.settle(ticket, 1).unwrap();
    }
    session.advance();
    assert_eq!(session.feedback().confirmed(), Lsn(60));
}

#[test]
fn a_transaction_that_is_sent_again_with_other_changes_is_read_again() {
    for frames in [
        vec![begin(51)],
        vec![begin(50), insert(31)],
        vec![begin(50), insert(29), insert(29)],
        vec![begin(50), insert(30), commit(50, 60)],
    ] {
        let mut session = session(Goal::Forever);
        feed(&mut session, &begin(50)).unwrap();
        let (_, ticket) = change(&mut session, &insert(30));
        change(&mut session, &insert(30));
        let again = |session: &mut Session, frames: &[Vec<u8>]| {
            frames.iter().try_for_each(|frame| accept(session, frame).map(drop))
        };
        session.resumed(Instant::now());
        let result = again(&mut session, &frames);
        // A third change at a lower LSN is one more than before.
        let result = if frames.len() == 3 && frames[1] == insert(29) {
            result.and_then(|()| again(&mut session, &[insert(30)]))
        } else {
            result
        };
        assert!(matches!(result, Err(Error::Differs { commit_lsn: Lsn(50) })), "{result:?}");
        session.reconnected(Instant::now()).unwrap();
        assert!(!session.is_inside_transaction());
        session.settle(ticket, 1).unwrap();
        session.settle(ticket, 1).unwrap();
        session.advance();
        assert_eq!(session.feedback().confirmed(), Lsn(10), "the taken records confirm nothing");
    }
}

/// M, transactional, LSN, walcat's prefix for requests, content "x".
fn request(lsn: u64) -> Vec<u8> {
    let prefix = [REQUEST_PREFIX.as_bytes(), b"\0"].concat();
    xlogdata(lsn, &[b"M\x01".as_slice(), &lsn.to_be_bytes(), &prefix, &[0, 0, 0, 1], b"x"].concat())
}

#[test]
fn a_request_for_a_snapshot_becomes_no_record_and_has_the_position_of_its_commit() {
    let mut session = session(Goal::Forever);
    accept(&mut session, &begin(90)).unwrap();
    let frame = request(50);
    let step = accept(&mut session, &frame).unwrap();
    let Step::Request { at, content } = step else { panic!("{step:?}") };
    assert_eq!((at.unit, at.message, content), (Lsn(90), Lsn(50), &b"x"[..]));
    assert!(matches!(accept(&mut session, &commit(90, 100)).unwrap(), Step::Nothing));
    assert!(session.is_settled());
    assert_eq!(session.feedback().delivered(), Lsn(100));
}

#[test]
fn the_rows_of_a_chunk_are_an_entry_that_confirms_nothing_but_holds_what_follows() {
    let mut session = session(Goal::Forever);
    assert_eq!((session.emitting(), session.passed()), (None, Lsn(10)));
    feed(&mut session, &begin(20)).unwrap();
    assert_eq!(session.emitting(), Some(7));
    accept(&mut session, &commit(20, 30)).unwrap();
    assert_eq!((session.emitting(), session.passed()), (None, Lsn(30)));
    let ticket = session.open_chunk().unwrap();
    session.emitted_row(ticket, 1).unwrap();
    session.seal_chunk(ticket).unwrap();
    accept(&mut session, &keepalive(40, 0)).unwrap();
    assert_eq!((session.passed(), session.feedback().delivered()), (Lsn(40), Lsn(30)));
    session.settle(ticket, 1).unwrap();
    session.advance();
    assert_eq!(session.feedback().delivered(), Lsn(40));
    assert_eq!(session.feedback().records_end(), Lsn::INVALID, "a snapshot's rows are not in the WAL");
}
