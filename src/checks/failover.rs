//! What a failover requires on the primary and on the standby.

use super::Verdict;

/// A slot that standbys do not copy although `failover = true`.
#[must_use]
pub fn no_failover(slot: &str) -> Verdict {
    Verdict::warning(
        format!("failover: the slot {slot} is not copied to standbys although failover = true"),
        format!(
            "walcat sets failover only on a slot that it creates. Stop walcat, then: psql 'dbname=... replication=database' \
             -c 'ALTER_REPLICATION_SLOT \"{slot}\" (FAILOVER true)'"
        ),
    )
}

/// What a failover requires on the primary. Without it, walcat can be ahead of the promoted standby.
#[must_use]
pub fn failover_primary(slot: &str, synchronized_standby_slots: Option<&str>, missing: &[String]) -> Verdict {
    match synchronized_standby_slots {
        Some(_) if !missing.is_empty() => Verdict::error(
            format!("failover: synchronized_standby_slots names slots that do not exist: {}", missing.join(", ")),
            "the server sends no changes until they exist: create each slot for its standby, or remove it from the setting",
        ),
        Some(slots) if !slots.is_empty() => Verdict::ok(format!(
            "failover: the slot {slot} is copied to standbys, and walcat receives changes after {slots}"
        )),
        _ => Verdict::warning(
            format!("failover: the slot {slot} is copied to standbys, but synchronized_standby_slots is empty"),
            "a promoted standby may not have changes that walcat has delivered: name the standbys' slots in \
             synchronized_standby_slots on the primary",
        ),
    }
}

/// What a failover requires on the standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyFacts<'a> {
    /// `sync_replication_slots`.
    pub sync_replication_slots: Option<&'a str>,
    /// `hot_standby_feedback`.
    pub hot_standby_feedback: Option<&'a str>,
    /// `primary_slot_name`.
    pub primary_slot_name: Option<&'a str>,
    /// Whether `primary_conninfo` has a dbname; `None` if the role may not see it.
    pub primary_conninfo_has_dbname: Option<bool>,
}

/// The settings of the standby that are required to copy a slot.
#[must_use]
pub fn failover_standby(facts: &StandbyFacts<'_>) -> Vec<Verdict> {
    let is_on = |setting: Option<&str>| setting == Some("on");
    let judge = |good: bool, what: [&str; 2], cure: &str| match good {
        true => Verdict::ok(format!("standby: {}", what.join(" "))),
        // Streaming from this standby works, but the standby copies no slot from the primary.
        false => Verdict::warning(format!("standby: {}", what.join(" not ")), cure),
    };
    let dbname = match facts.primary_conninfo_has_dbname {
        Some(has) => judge(has, ["primary_conninfo does", "name a database"], "add dbname=... to primary_conninfo"),
        None => Verdict::warning(
            "standby: the role has no privilege to read primary_conninfo",
            "check as a superuser that it has a dbname: without it, the standby copies no slot",
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
