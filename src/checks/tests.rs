use super::*;
use Severity::{Error, Ok, Warning};

use crate::lsn::Lsn;

#[test]
fn server_facts_are_judged_one_by_one() {
    for (verdict, severity) in [
        (server_version(150_018, 140_000, 18), Ok),
        (server_version(130_020, 140_000, 18), Error),
        (server_version(190_000, 140_000, 18), Warning),
        (wal_level("logical"), Ok),
        (wal_level("replica"), Error),
        (server_encoding("UTF8"), Ok),
        (server_encoding("SQL_ASCII"), Warning),
        (wal_senders(1, 10, false), Ok),
        (wal_senders(10, 10, true), Warning),
        (wal_senders(10, 10, false), Error),
        (replication_connection(None), Ok),
        (replication_connection(Some(("refused".to_owned(), None))), Error),
        (kafka_properties(None), Ok),
        (kafka_properties(Some(("lingr.ms".to_owned(), None))), Error),
        (state_file("/s", None), Ok),
        (state_file("/s", Some("gone")), Error),
        (missing_slot("s", true), Ok),
        (missing_slot("s", false), Error),
        (replication_slots(9, 10, false), Ok),
        (replication_slots(10, 10, false), Error),
        (replication_slots(10, 10, true), Ok),
        (role(true), Ok),
        (role(false), Error),
        (publication("p", true), Ok),
        (publication("p", false), Error),
        (table_count(0), Warning),
        (table_count(3), Ok),
        (brokers("b:1", None), Ok),
        (brokers("b:1", Some(("refused".to_owned(), None))), Error),
        (stored_position("c", None, Lsn(1)), Ok),
        (stored_position("c", Some(Lsn(1)), Lsn(1)), Ok),
        (unread_position("c", "no"), Warning),
        (start(None), Ok),
        (start(Some(("a gap".to_owned(), None))), Error),
        (publication_age("p", "s", &Age::Older), Ok),
        (publication_age("p", "s", &Age::Younger), Error),
        (publication_age("p", "s", &Age::Unknown { reason: "no".to_owned() }), Warning),
    ] {
        assert_eq!(verdict.severity, severity, "{verdict:?}");
        assert_eq!(verdict.hint.is_empty(), severity == Ok, "each warning and error has a hint: {verdict:?}");
    }
}

#[test]
fn each_part_of_a_failover_is_judged() {
    assert_eq!(failover_primary("s", Some("standby"), &[]).severity, Ok);
    assert_eq!(failover_primary("s", Some("standby"), &["standby".to_owned()]).severity, Error);
    assert_eq!(failover_primary("s", Some(""), &[]).severity, Warning);
    assert_eq!(failover_primary("s", None, &[]).severity, Warning);
    assert_eq!(no_failover("s").severity, Warning);
    let good = StandbyFacts {
        sync_replication_slots: Some("on"),
        hot_standby_feedback: Some("on"),
        primary_slot_name: Some("standby"),
        primary_conninfo_has_dbname: Some(true),
    };
    let severities =
        |facts: &StandbyFacts<'_>| failover_standby(facts).iter().map(|verdict| verdict.severity).collect::<Vec<_>>();
    assert_eq!(severities(&good), [Ok; 4]);
    assert_eq!(severities(&StandbyFacts::default()), [Warning; 4]);
    assert_eq!(severities(&StandbyFacts { primary_conninfo_has_dbname: Some(false), ..good }), [Ok, Ok, Ok, Warning]);
}

#[test]
fn a_table_that_breaks_the_application_is_warned_of() {
    for (identity, primary_key, changes, severity) in [
        ('d', true, true, Ok),
        ('d', false, true, Warning),
        ('d', false, false, Warning),
        ('n', true, true, Warning),
        ('f', true, true, Ok),
        ('f', false, true, Warning),
        ('i', false, true, Ok),
    ] {
        let verdict = replica_identity("s", "t", identity, primary_key, changes);
        assert_eq!(verdict.severity, severity, "{identity} {primary_key} {changes}: {verdict:?}");
    }
}

#[test]
fn a_slot_is_judged_by_what_can_still_be_done() {
    let good = SlotFacts {
        name: "s",
        plugin: Some("pgoutput"),
        database: Some("db"),
        connected_to: "db",
        active_pid: None,
        lost: None,
        two_phase: false,
        wal_status: Some("reserved"),
        retained_bytes: 1,
    };
    for (facts, severity) in [
        (good.clone(), Ok),
        (SlotFacts { active_pid: Some(7), ..good.clone() }, Ok),
        (SlotFacts { plugin: Some("test_decoding"), ..good.clone() }, Error),
        (SlotFacts { plugin: None, ..good.clone() }, Error),
        (SlotFacts { database: Some("other"), ..good.clone() }, Error),
        (SlotFacts { lost: Some("wal_status = lost"), ..good.clone() }, Error),
        (SlotFacts { two_phase: true, ..good.clone() }, Error),
        (SlotFacts { wal_status: Some("unreserved"), ..good.clone() }, Error),
        (SlotFacts { wal_status: Some("extended"), ..good.clone() }, Warning),
    ] {
        assert_eq!(slot(&facts).severity, severity, "{facts:?}");
    }
}

#[test]
fn a_checkpoint_topic_that_may_be_deleted_from_is_an_error() {
    let exists = |policy: &str| TopicFacts::Exists { cleanup_policy: policy.to_owned() };
    for (facts, severity) in [
        (exists("compact"), Ok),
        (exists("compact,delete"), Error),
        (exists("delete"), Error),
        (TopicFacts::Missing { creation: Creation::Works }, Ok),
        (TopicFacts::Missing { creation: Creation::Refused { reason: "no".to_owned() } }, Error),
        (TopicFacts::Unknown { reason: "no".to_owned() }, Warning),
    ] {
        assert_eq!(checkpoint_topic("c", &facts).severity, severity, "{facts:?}");
    }
}

#[test]
fn a_time_for_transactions_that_may_be_too_long_is_reported() {
    let unknown = || Err("no".to_owned());
    for (given_ms, limit, severity) in [
        (60_000, Result::Ok(900_000), Some(Ok)),
        (900_000, Result::Ok(900_000), Some(Ok)),
        (60_001, Result::Ok(60_000), Some(Error)),
        (900_000, unknown(), None),
        (900_001, unknown(), Some(Warning)),
    ] {
        let verdict = transaction_timeout(given_ms, limit.clone());
        assert_eq!(verdict.map(|verdict| verdict.severity), severity, "{given_ms} {limit:?}");
    }
}

#[test]
fn a_topic_is_an_error_if_its_records_would_be_rejected() {
    let exists = |policy: &str| TopicFacts::Exists { cleanup_policy: policy.to_owned() };
    let missing = |creation: Creation| TopicFacts::Missing { creation };
    let reason = || "no".to_owned();
    for (facts, has_key, passes_refused, severity) in [
        (exists("compact,delete"), false, false, Error),
        (exists("compact,delete"), false, true, Warning),
        (exists("compact,delete"), true, false, Ok),
        (exists("delete"), false, false, Ok),
        (missing(Creation::Works), true, false, Ok),
        (missing(Creation::Off), true, false, Error),
        (missing(Creation::Refused { reason: reason() }), true, false, Error),
        (missing(Creation::Unknown { reason: reason() }), true, false, Warning),
        (TopicFacts::Unknown { reason: reason() }, true, false, Warning),
    ] {
        assert_eq!(topic("t", &facts, has_key, false, passes_refused).severity, severity, "{facts:?}");
    }
}
