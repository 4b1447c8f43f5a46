//! What the ledger decides, with a Kafka that the tests play.

use rdkafka::error::RDKafkaErrorCode as Code;

use super::*;
use crate::sink::kafka::exactly_once::checkpoint::{self, render_checkpoint, render_start};

const SECOND: Duration = Duration::from_secs(1);
const QUIET: Traffic = Traffic { is_flight_empty: true, is_none_held: true, is_outage: false };

fn stored(end_lsn: u64) -> Stored {
    let records = Some(Reached { timeline: 1, lsn: Lsn(end_lsn) });
    let (system_identifier, slot) = ("7".to_owned(), "s".to_owned());
    Stored {
        system_identifier,
        timeline: 1,
        slot,
        end_lsn: Lsn(end_lsn),
        records,
        full_keys: FullKeys::new(),
        snapshot: None,
    }
}

fn instance() -> Instance {
    Instance { host: "h".to_owned(), pid: 7, started_unix_ms: 1, renewal: 0 }
}

fn ledger() -> Ledger {
    let bounds = Bounds { interval: SECOND, records_max: 100, timeout: 60 * SECOND };
    Ledger::new(bounds, stored(0), instance())
}

/// A ledger that has read this checkpoint and begins at `start`.
fn begun(found: Option<u64>, start: u64, now: Instant) -> Ledger {
    let mut ledger = ledger();
    assert_eq!(ledger.next(QUIET, now).unwrap(), Task::TakeId);
    ledger.asked();
    ledger.answered(Ok(()), now).unwrap();
    assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Announce);
    ledger.announced();
    commit(&mut ledger, now);
    let mut history = History::new(ledger.instance());
    if let Some(found) = found {
        let (stored, instance) = (stored(found), instance());
        history.take(&render_checkpoint(Checkpoint { stored, commit_lsn: Lsn(1), xid: 1, instance })).unwrap();
    }
    assert!(!ledger.handle_history(&history), "our start record has not been read");
    history.take(&render_start(checkpoint::Start { instance: instance(), unread_slot_at: Some(Lsn(1)) })).unwrap();
    assert!(ledger.handle_history(&history));
    let read = ledger.found().unwrap();
    assert_eq!((read.stored.map(|stored| stored.end_lsn.0), read.unread_slot_at), (found, Some(Lsn(1))));
    assert!(!ledger.has_room(now) && !ledger.has_begun(), "the position is not checked");
    let records = Reached { timeline: 1, lsn: Lsn(start) };
    ledger.begin_at(Start { lsn: Lsn(start), records, is_cut: false }, 1);
    ledger
}

fn commit(ledger: &mut Ledger, now: Instant) -> Option<Lsn> {
    let busy = Traffic { is_flight_empty: false, ..QUIET };
    assert_eq!(ledger.next(busy, now).unwrap(), Task::Nothing, "records are in flight");
    assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Commit);
    ledger.asked();
    assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Await);
    ledger.answered(Ok(()), now).unwrap()
}

fn take(ledger: &mut Ledger, ticket: u64, now: Instant) {
    ledger.open(now);
    ledger.take(Ticket(ticket), 1, true);
}

fn seal(ledger: &mut Ledger, end_lsn: u64) {
    ledger.seal(Sealed { commit_lsn: Lsn(end_lsn - 1), end_lsn: Lsn(end_lsn), xid: 1 });
}

#[test]
fn a_kafka_transaction_holds_whole_postgresql_transactions_and_settles_with_its_commit() {
    let now = Instant::now();
    let mut ledger = begun(Some(100), 100, now);
    take(&mut ledger, 0, now);
    seal(&mut ledger, 200);
    take(&mut ledger, 1, now);
    let later = now + 2 * SECOND;
    assert!(ledger.has_room(later), "the partly taken one must be read to its end");
    ledger.hurry();
    assert_eq!(ledger.next(QUIET, later).unwrap(), Task::Nothing);
    seal(&mut ledger, 300);
    assert!(!ledger.has_room(later), "the interval is over");
    let held = Traffic { is_none_held: false, ..QUIET };
    assert_eq!(ledger.next(held, later).unwrap(), Task::Nothing, "a record waits for its topic");
    let Task::Seal(checkpoint) = ledger.next(QUIET, later).unwrap() else { panic!("no checkpoint") };
    assert_eq!(checkpoint.stored, stored(300));
    ledger.sealed_with(&checkpoint.stored);
    assert_eq!((ledger.settled(), ledger.stored()), (None, Lsn(100)));
    assert_eq!(commit(&mut ledger, later), Some(Lsn(300)));
    assert_eq!(ledger.stored(), Lsn(300));
    assert_eq!(
        (ledger.settled(), ledger.settled(), ledger.settled()),
        (Some((Ticket(0), 1)), Some((Ticket(1), 1)), None)
    );
}

#[test]
fn a_commit_that_failed_stores_and_settles_nothing() {
    let now = Instant::now();
    for code in [Code::RequestTimedOut, Code::InvalidProducerEpoch, Code::TopicAuthorizationFailed] {
        let mut ledger = begun(Some(100), 100, now);
        take(&mut ledger, 0, now);
        seal(&mut ledger, 200);
        ledger.hurry();
        let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
        ledger.sealed_with(&checkpoint.stored);
        ledger.next(QUIET, now).unwrap();
        ledger.asked();
        let error = CallError { code, reason: "none".to_owned() };
        assert!(ledger.answered(Err(error), now).is_err());
        assert_eq!((ledger.stored(), ledger.settled()), (Lsn(100), None));
        assert!(!ledger.has_room(now) && !ledger.close(), "its outcome is not known");
        assert!(ledger.renew(), "the producer cannot be used any more");
    }
}

#[test]
fn a_position_that_no_checkpoint_has_is_stored_before_it_counts() {
    let now = Instant::now();
    for (found, start) in [(None, 100), (Some(100), 200), (Some(300), 200)] {
        let mut ledger = begun(found, start, now);
        assert_eq!(ledger.stored(), Lsn::INVALID, "{found:?}");
        let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
        assert_eq!(checkpoint.stored.end_lsn, Lsn(start));
        ledger.sealed_with(&checkpoint.stored);
        assert_eq!(commit(&mut ledger, now), Some(Lsn(start)));
    }
    let mut ledger = begun(Some(100), 100, now);
    assert_eq!((ledger.stored(), ledger.next(QUIET, now).unwrap()), (Lsn(100), Task::Nothing));
}

#[test]
fn an_idle_position_waits_for_the_clock_and_not_for_who_ends_or_asks() {
    let now = Instant::now();
    let mut ledger = begun(None, 100, now);
    let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
    ledger.sealed_with(&checkpoint.stored);
    commit(&mut ledger, now);
    ledger.offer(Lsn(200), false);
    assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Nothing);
    assert_eq!(ledger.deadline(true, now, now), Some(now + CHECKPOINT_INTERVAL));
    assert!(matches!(ledger.next(QUIET, now + CHECKPOINT_INTERVAL).unwrap(), Task::Seal(_)));
    ledger.offer(Lsn(150), true);
    let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("no checkpoint") };
    assert_eq!(checkpoint.stored.end_lsn, Lsn(200), "a lower position changes nothing");
    assert_eq!(checkpoint.stored.records_end().lsn, Lsn(100), "it had no records");
}

#[test]
fn only_what_is_not_being_committed_is_given_up() {
    let now = Instant::now();
    assert!(!begun(Some(100), 100, now).close(), "nothing is open");
    let mut open = begun(Some(100), 100, now);
    take(&mut open, 0, now);
    assert!(open.close());
    assert!(open.renew(), "it needs another producer");
    assert_eq!((open.settled(), open.stored(), open.instance().renewal), (None, Lsn::INVALID, 1));
    let mut asked = ledger();
    asked.asked();
    assert!(!asked.close());
    assert!(!asked.renew(), "a late answer would fence another producer");
    assert_eq!(asked.next(QUIET, now).unwrap(), Task::Await);
}

#[test]
fn a_postgresql_transaction_that_is_too_long_twice_is_too_long() {
    let now = Instant::now();
    for (is_outage, is_too_long) in [(false, true), (true, false)] {
        let mut ledger = begun(Some(100), 100, now);
        let traffic = Traffic { is_outage, ..QUIET };
        for round in 0..2 {
            take(&mut ledger, 0, now);
            assert_eq!(ledger.deadline(true, now, now), Some(now + 54 * SECOND));
            assert_eq!(ledger.next(traffic, now + 53 * SECOND).unwrap(), Task::Nothing);
            let error = ledger.next(traffic, now + 54 * SECOND).unwrap_err();
            let expected = is_too_long && round == 1;
            assert_eq!(matches!(error, Error::TransactionTooLong { .. }), expected, "{error}");
        }
    }
}

#[test]
fn a_checkpoint_waits_for_the_timeline_of_a_standby_and_takes_nothing_more_meanwhile() {
    let now = Instant::now();
    let mut ledger = ledger();
    ledger.ask_timeline(true);
    ledger.stage = Stage::Idle;
    assert!(ledger.has_room(now) && !ledger.wants_timeline());
    // An answer that arrives before a checkpoint waits was requested before its records were taken.
    ledger.timeline_is(2);
    assert!(!ledger.vouching.knows_timeline() && ledger.wants_timeline());
    assert!(!ledger.has_room(now));
    ledger.timeline_is(2);
    assert!(!ledger.has_room(now) && !ledger.wants_timeline());
    assert!(ledger.vouching.knows_timeline() && ledger.has_room(now));
    assert!(!ledger.vouching.knows_timeline(), "the next one asks again");
    ledger.is_promoted(3);
    assert!(ledger.vouching.knows_timeline() && ledger.has_room(now));
}

#[test]
fn a_position_that_differs_from_the_stored_one_is_stored_even_if_nothing_follows() {
    let now = Instant::now();
    let start = |lsn| Start { lsn: Lsn(lsn), records: Reached::NOTHING, is_cut: false };
    for (what, stored, lsn, timeline, is_due) in [
        ("as it was stored", Some(stored(100)), 100, 1, false),
        ("a first one", None, 100, 1, true),
        ("accepted below what is stored", Some(stored(200)), 100, 1, true),
        ("accepted above it", Some(stored(50)), 100, 1, true),
        ("on another timeline", Some(stored(100)), 100, 2, true),
    ] {
        let mut ledger = ledger();
        ledger.stage = Stage::Found(Box::new(Found { stored, unread_slot_at: None }));
        ledger.begin_at(start(lsn), timeline);
        assert_eq!(ledger.idle_due_at(now), is_due.then_some(now), "{what}");
        assert_eq!(ledger.stored(), if is_due { Lsn::INVALID } else { Lsn(lsn) }, "{what}");
    }
}

#[test]
fn a_record_that_lies_before_the_last_one_is_in_another_topic() {
    let now = Instant::now();
    let mut ledger = begun(Some(100), 100, now);
    ledger.delivered_own(7);
    ledger.delivered_own(9);
    assert!(!ledger.own_records.are_elsewhere());
    take(&mut ledger, 0, now);
    seal(&mut ledger, 200);
    ledger.sealed_with(&stored(200));
    ledger.delivered_own(0);
    assert!(ledger.next(QUIET, now).is_err(), "its commit would store nothing");
}

#[test]
fn what_is_stored_from_outside_the_stream_is_committed_although_the_position_has_not_moved() {
    let now = Instant::now();
    let mut ledger = begun(Some(100), 100, now);
    assert_eq!(ledger.next(QUIET, now).unwrap(), Task::Nothing);
    let left = Some(Progress::of(Vec::new()));
    for (end_lsn, snapshot) in [(0, left.clone()), (100, left), (100, None)] {
        ledger.store(Stored { snapshot: snapshot.clone(), ..stored(end_lsn) });
        assert!(ledger.owes());
        let Task::Seal(checkpoint) = ledger.next(QUIET, now).unwrap() else { panic!("it is not stored") };
        assert_eq!((checkpoint.stored.end_lsn, &checkpoint.stored.snapshot), (Lsn(end_lsn), &snapshot));
        ledger.sealed_with(&checkpoint.stored);
        assert!(ledger.owes(), "it is not committed");
        commit(&mut ledger, now);
        assert!(!ledger.owes());
    }
}
