//! The slot, and the place of its position beside it.

use super::Verdict;

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

/// What a stream looks at last: the positions, and whatever has no line of its own.
#[must_use]
pub fn start(failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok("start: slot, publications and positions agree"),
        Some((reason, hint)) => {
            Verdict::error(format!("start: {reason}"), hint.unwrap_or_else(|| "see walcat(1)".to_owned()))
        }
    }
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

/// The state file; `failure` says why it cannot be read or made.
#[must_use]
pub fn state_file(path: &str, failure: Option<&str>) -> Verdict {
    match failure {
        None => Verdict::ok(format!("state file {path}: can be written")),
        Some(reason) => Verdict::error(
            reason,
            "its directory has to be there and writable for the user that runs walcat, and to survive a restart",
        ),
    }
}
