//! The verdicts of `walcat check` and `walcat slot status`, on facts that `pg/` and `sink/` gathered. Pure: a table of
//! facts in, a table of verdicts out.

use std::fmt;

use crate::replication::command::quote_identifier_where_needed;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, but somebody should look at it.
    Warning,
    /// walcat will not run, or will stop, or data will be missing.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How bad.
    pub severity: Severity,
    /// What was looked at, and what was found.
    pub finding: String,
    /// What to do about it; empty when there is nothing to do.
    pub hint: String,
}

impl Verdict {
    /// As it should be.
    #[must_use]
    pub fn ok(finding: impl Into<String>) -> Self {
        Verdict { severity: Severity::Ok, finding: finding.into(), hint: String::new() }
    }

    /// Worth a look.
    #[must_use]
    pub fn warning(finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Verdict { severity: Severity::Warning, finding: finding.into(), hint: hint.into() }
    }

    /// To be mended first.
    #[must_use]
    pub fn error(finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Verdict { severity: Severity::Error, finding: finding.into(), hint: hint.into() }
    }
}

/// The server's version, as PostgreSQL numbers it, against the versions that walcat reads.
#[must_use]
pub fn server_version(version: i32, oldest: i32, newest_major: i32) -> Verdict {
    let major = version / 10_000;
    if version < oldest {
        let hint = format!("walcat reads PostgreSQL {} to {newest_major}", oldest / 10_000);
        return Verdict::error(format!("server version: PostgreSQL {major} is too old"), hint);
    }
    if major > newest_major {
        let finding = format!("server version: PostgreSQL {major} is newer than this walcat was tested with");
        return Verdict::warning(finding, "look for a newer walcat");
    }
    Verdict::ok(format!("server version: PostgreSQL {major}.{}", version % 10_000))
}

/// `wal_level`.
#[must_use]
pub fn wal_level(level: &str) -> Verdict {
    match level {
        "logical" => Verdict::ok("wal_level: logical"),
        other => Verdict::error(
            format!("wal_level: {other}, and logical decoding needs logical"),
            "ALTER SYSTEM SET wal_level = logical, then restart the server",
        ),
    }
}

/// The server's encoding: SQL_ASCII promises nothing about the bytes of a text.
#[must_use]
pub fn server_encoding(encoding: &str) -> Verdict {
    match encoding {
        "SQL_ASCII" => Verdict::warning(
            "database encoding: SQL_ASCII, so that text may hold bytes that are not UTF-8",
            "a value that is not UTF-8 stops the stream with exit code 65: keep text in UTF-8",
        ),
        other => Verdict::ok(format!("database encoding: {other}")),
    }
}

/// Walsenders: one has to be left, unless the slot has one already.
#[must_use]
pub fn wal_senders(used: i32, max: i32, slot_is_read: bool) -> Verdict {
    let finding = format!("walsenders: {used} of {max} in use");
    if used < max {
        return Verdict::ok(finding);
    }
    let hint = "raise max_wal_senders, or stop other replication clients";
    if slot_is_read { Verdict::warning(finding, hint) } else { Verdict::error(finding, hint) }
}

/// Whether the server takes a replication connection.
#[must_use]
pub fn replication_connection(failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok("replication connection: taken"),
        Some((reason, hint)) => {
            let hint = hint.unwrap_or_else(|| "check the server's log".to_owned());
            Verdict::error(format!("replication connection: {reason}"), hint)
        }
    }
}

/// Replication slots: one has to be free when ours is still to be made.
#[must_use]
pub fn replication_slots(used: i32, max: i32, slot_exists: bool) -> Verdict {
    let finding = format!("replication slots: {used} of {max} in use");
    if used >= max && !slot_exists {
        return Verdict::error(finding, "raise max_replication_slots, or drop a slot that nobody uses");
    }
    Verdict::ok(finding)
}

/// The role's right to replicate.
#[must_use]
pub fn role(may_replicate: bool) -> Verdict {
    if may_replicate {
        return Verdict::ok("role: may replicate");
    }
    Verdict::error("role: lacks REPLICATION", "ALTER ROLE ... REPLICATION")
}

/// A publication.
#[must_use]
pub fn publication(name: &str, exists: bool) -> Verdict {
    if exists {
        return Verdict::ok(format!("publication {name}: exists"));
    }
    Verdict::error(
        format!("publication {name}: does not exist"),
        format!(
            "CREATE PUBLICATION {} FOR ALL TABLES, before the slot is created",
            quote_identifier_where_needed(name)
        ),
    )
}

/// How many tables the publications have.
#[must_use]
pub fn table_count(count: usize) -> Verdict {
    if count == 0 {
        return Verdict::warning("published tables: none", "ALTER PUBLICATION ... ADD TABLE ...");
    }
    Verdict::ok(format!("published tables: {count}"))
}

/// A published table's replica identity: without one, UPDATE and DELETE fail in the application.
#[must_use]
pub fn replica_identity(
    schema: &str,
    table: &str,
    identity: char,
    has_primary_key: bool,
    publishes_changes: bool,
) -> Verdict {
    let name = format!("table {schema}.{table}");
    let cure = "add a primary key, or ALTER TABLE ... REPLICA IDENTITY USING INDEX or FULL";
    match (identity, has_primary_key) {
        ('f', false) => Verdict::warning(
            format!("{name}: REPLICA IDENTITY FULL and no primary key: its records have no key"),
            "add a primary key if consumers need one, or if the topic is compacted",
        ),
        ('f', true) => Verdict::ok(format!("{name}: replica identity FULL, keyed by the primary key")),
        ('i', _) => Verdict::ok(format!("{name}: replica identity USING INDEX")),
        ('d', true) => Verdict::ok(format!("{name}: replica identity is the primary key")),
        _ if publishes_changes => Verdict::error(
            format!("{name}: no replica identity: UPDATE and DELETE on it fail while it is published"),
            cure,
        ),
        _ => Verdict::warning(format!("{name}: no replica identity: its records have no key"), cure),
    }
}

/// What is known of the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its plugin; none for a physical slot.
    pub plugin: Option<&'a str>,
    /// Its database.
    pub database: Option<&'a str>,
    /// The database of the connection.
    pub connected_to: &'a str,
    /// The process that reads it.
    pub active_pid: Option<i32>,
    /// Why it is lost, if it is.
    pub lost: Option<&'a str>,
    /// Whether prepared transactions are decoded at PREPARE.
    pub two_phase: bool,
    /// `wal_status`.
    pub wal_status: Option<&'a str>,
    /// Bytes of WAL that it keeps.
    pub retained_bytes: u64,
}

/// A slot that does not exist: `create_slot` says whether walcat makes it.
#[must_use]
pub fn missing_slot(name: &str, create_slot: bool) -> Verdict {
    if create_slot {
        return Verdict::ok(format!("slot {name}: walcat will create it"));
    }
    let hint = format!("walcat slot create --slot {name}, or create_slot = true");
    Verdict::error(format!("slot {name}: does not exist"), hint)
}

/// A slot that exists.
#[must_use]
pub fn slot(facts: &SlotFacts<'_>) -> Verdict {
    let name = facts.name;
    if facts.plugin != Some("pgoutput") {
        let plugin = facts.plugin.unwrap_or("none: it is a physical slot");
        let hint = "walcat reads logical slots of the plugin pgoutput: use another slot";
        return Verdict::error(format!("slot {name}: its plugin is {plugin}"), hint);
    }
    if facts.database != Some(facts.connected_to) {
        let database = facts.database.unwrap_or("?");
        let finding = format!("slot {name}: belongs to the database {database}, not {}", facts.connected_to);
        return Verdict::error(finding, "connect to the slot's database, or use another slot");
    }
    if let Some(why) = facts.lost {
        let hint = "changes are missing: drop it, create a new one, and copy the tables anew";
        return Verdict::error(format!("slot {name}: lost for good ({why})"), hint);
    }
    if facts.two_phase {
        return Verdict::error(format!("slot {name}: {TWO_PHASE}"), two_phase_cure(name));
    }
    let retained = facts.retained_bytes;
    match (facts.wal_status, facts.active_pid) {
        (Some("unreserved"), _) => Verdict::error(
            format!("slot {name}: WAL that it needs is about to be removed ({retained} bytes kept)"),
            "start walcat now, or raise max_slot_wal_keep_size",
        ),
        (_, Some(pid)) => Verdict::ok(format!("slot {name}: read by the process {pid}, {retained} bytes of WAL kept")),
        (Some("extended"), None) => Verdict::warning(
            format!("slot {name}: read by nobody and keeping {retained} bytes of WAL, more than max_wal_size"),
            "start walcat, or drop the slot if it is not needed: the server's disk fills up",
        ),
        (_, None) => Verdict::ok(format!("slot {name}: free, {retained} bytes of WAL kept")),
    }
}

/// What is wrong with a slot that decodes at PREPARE: what was prepared may still be rolled back.
pub const TWO_PHASE: &str = "made with two_phase = true, so that prepared transactions are decoded before they are \
     committed; walcat reads them at COMMIT PREPARED";

/// How to go on from where a slot stands without two_phase: a copy has the same position and not that property.
#[must_use]
pub fn two_phase_cure(name: &str) -> String {
    // A slot's name has at most 63 characters.
    let copy: String = name.chars().take(57).chain("_plain".chars()).collect();
    format!(
        "copy it: SELECT pg_copy_logical_replication_slot('{name}', '{copy}'); then stream from {copy}, and drop {name}: the \
         copy stands at the same position and has no two_phase, so no change is missing"
    )
}

/// A slot that was to be copied to standbys, and is not.
#[must_use]
pub fn no_failover(slot: &str) -> Verdict {
    Verdict::warning(
        format!("failover: the slot {slot} is not copied to standbys, though failover = true"),
        "failover is a property that a slot is made with: ALTER_REPLICATION_SLOT, or drop it and create it with --failover",
    )
}

/// What a failover needs of the primary: without it walcat can be ahead of the standby that is promoted.
#[must_use]
pub fn failover_primary(slot: &str, synchronized_standby_slots: Option<&str>, missing: &[String]) -> Verdict {
    match synchronized_standby_slots {
        Some(_) if !missing.is_empty() => Verdict::error(
            format!("failover: synchronized_standby_slots names slots that are not there: {}", missing.join(", ")),
            "the server holds changes back until each of them is there: create it for its standby, or take it out",
        ),
        Some(slots) if !slots.is_empty() => {
            Verdict::ok(format!("failover: the slot {slot} is copied to standbys, and walcat waits for {slots}"))
        }
        _ => Verdict::warning(
            format!("failover: the slot {slot} is copied to standbys, but synchronized_standby_slots is empty"),
            "a promotion may lose changes that walcat has delivered: name the standbys' slots in \
             synchronized_standby_slots on the primary",
        ),
    }
}

/// What a failover needs of the standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyFacts<'a> {
    /// `sync_replication_slots`.
    pub sync_replication_slots: Option<&'a str>,
    /// `hot_standby_feedback`.
    pub hot_standby_feedback: Option<&'a str>,
    /// `primary_slot_name`.
    pub primary_slot_name: Option<&'a str>,
    /// Whether `primary_conninfo` has a dbname; none when the role may not see it.
    pub primary_conninfo_has_dbname: Option<bool>,
}

/// Each setting of the standby that copying a slot depends on.
#[must_use]
pub fn failover_standby(facts: &StandbyFacts<'_>) -> Vec<Verdict> {
    let is_on = |setting: Option<&str>| setting == Some("on");
    let judge = |good: bool, what: [&str; 2], cure: &str| match good {
        true => Verdict::ok(format!("standby: {}", what.join(" "))),
        false => Verdict::error(format!("standby: {}", what.join(" not ")), cure),
    };
    let dbname = match facts.primary_conninfo_has_dbname {
        Some(has) => judge(has, ["primary_conninfo does", "name a database"], "add dbname=... to primary_conninfo"),
        None => Verdict::warning(
            "standby: the role may not see whether primary_conninfo names a database",
            "check it as a superuser: without dbname no slot is copied",
        ),
    };
    let slot_name = facts.primary_slot_name.is_some_and(|name| !name.is_empty());
    vec![
        judge(
            is_on(facts.sync_replication_slots),
            ["sync_replication_slots is", "on"],
            "ALTER SYSTEM SET sync_replication_slots = on (PostgreSQL 17 and later)",
        ),
        judge(
            is_on(facts.hot_standby_feedback),
            ["hot_standby_feedback is", "on"],
            "ALTER SYSTEM SET hot_standby_feedback = on",
        ),
        judge(
            slot_name,
            ["primary_slot_name is", "set"],
            "create a physical slot on the primary and name it in primary_slot_name",
        ),
        dbname,
    ]
}

/// Whether a broker answers.
#[must_use]
pub fn brokers(list: &str, failure: Option<&str>) -> Verdict {
    match failure {
        None => Verdict::ok(format!("brokers {list}: reachable")),
        Some(reason) => {
            Verdict::error(format!("brokers {list}: not reachable: {reason}"), "check brokers, [kafka] and the network")
        }
    }
}

/// The state file; `failure` says why it cannot be read or made.
#[must_use]
pub fn state_file(path: &str, failure: Option<&str>) -> Verdict {
    match failure {
        None => Verdict::ok(format!("state file {path}: its directory is there")),
        Some(reason) => Verdict::error(
            format!("state file {path}: {reason}"),
            "make its directory, for the user that runs walcat; it has to survive a restart",
        ),
    }
}

/// librdkafka's properties.
#[must_use]
pub fn kafka_properties(failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok("Kafka properties: accepted"),
        Some((reason, hint)) => Verdict::error(reason, hint.unwrap_or_else(|| "see [kafka] and -X".to_owned())),
    }
}

/// The topic of the positions of exactly-once delivery, of which nothing may be deleted.
#[must_use]
pub fn checkpoint_topic(name: &str, facts: &TopicFacts) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if cleanup_policy.contains("delete") => Verdict::error(
            format!(
                "checkpoint topic {name}: cleanup.policy={cleanup_policy}: Kafka deletes the stored position in time"
            ),
            compact_command(name),
        ),
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("checkpoint topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing => Verdict::ok(format!("checkpoint topic {name}: walcat will create it")),
        TopicFacts::Unknown { reason } => Verdict::warning(
            format!("checkpoint topic {name}: the cluster does not describe it: {reason}"),
            "check the ACLs",
        ),
    }
}

/// What makes a topic one that nothing is deleted from by age or size.
#[must_use]
pub fn compact_command(topic: &str) -> String {
    format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact")
}

/// What the cluster says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFacts {
    /// It is there, with this `cleanup.policy`.
    Exists { cleanup_policy: String },
    /// It is not there.
    Missing,
    /// The cluster does not say.
    Unknown { reason: String },
}

/// A table's topic: there, to be made, and fit for records without a key.
#[must_use]
pub fn topic(name: &str, facts: &TopicFacts, has_key: bool, walcat_creates: bool) -> Verdict {
    match facts {
        TopicFacts::Exists { cleanup_policy } if !has_key && cleanup_policy.contains("compact") => Verdict::error(
            format!("topic {name}: compacted, and the table's records have no key: the broker refuses them"),
            "give the table a primary key or REPLICA IDENTITY USING INDEX, or set the topic's cleanup.policy to delete",
        ),
        TopicFacts::Exists { cleanup_policy } => {
            Verdict::ok(format!("topic {name}: exists (cleanup.policy={cleanup_policy})"))
        }
        TopicFacts::Missing if walcat_creates => Verdict::ok(format!("topic {name}: walcat will create it")),
        TopicFacts::Missing => Verdict::warning(
            format!("topic {name}: does not exist"),
            "create it, or set [topics] create = true; with auto.create.topics.enable the broker makes it",
        ),
        TopicFacts::Unknown { reason } => {
            Verdict::warning(format!("topic {name}: the cluster does not describe it: {reason}"), "check the ACLs")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Severity::{Error, Ok, Warning};

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
            (brokers("b:1", Some("refused")), Error),
        ] {
            assert_eq!(verdict.severity, severity, "{verdict:?}");
            assert_eq!(verdict.hint.is_empty(), severity == Ok, "each trouble has a next step: {verdict:?}");
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
        let severities = |facts: &StandbyFacts<'_>| {
            failover_standby(facts).iter().map(|verdict| verdict.severity).collect::<Vec<_>>()
        };
        assert_eq!(severities(&good), [Ok; 4]);
        assert_eq!(severities(&StandbyFacts::default()), [Error, Error, Error, Warning]);
        assert_eq!(severities(&StandbyFacts { primary_conninfo_has_dbname: Some(false), ..good }), [Ok, Ok, Ok, Error]);
    }

    #[test]
    fn a_table_that_breaks_the_application_is_an_error() {
        for (identity, primary_key, changes, severity) in [
            ('d', true, true, Ok),
            ('d', false, true, Error),
            ('d', false, false, Warning),
            ('n', true, true, Error),
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
            (TopicFacts::Missing, Ok),
            (TopicFacts::Unknown { reason: "no".to_owned() }, Warning),
        ] {
            assert_eq!(checkpoint_topic("c", &facts).severity, severity, "{facts:?}");
        }
    }

    #[test]
    fn a_compacted_topic_is_an_error_only_for_records_without_key() {
        let compacted = TopicFacts::Exists { cleanup_policy: "compact,delete".to_owned() };
        let kept = TopicFacts::Exists { cleanup_policy: "delete".to_owned() };
        let unknown = TopicFacts::Unknown { reason: "no".to_owned() };
        for (facts, has_key, creates, severity) in [
            (&compacted, false, false, Error),
            (&compacted, true, false, Ok),
            (&kept, false, false, Ok),
            (&TopicFacts::Missing, true, false, Warning),
            (&TopicFacts::Missing, true, true, Ok),
            (&unknown, true, false, Warning),
        ] {
            assert_eq!(topic("t", facts, has_key, creates).severity, severity, "{facts:?}");
        }
    }
}
