//! The slot, and the state file.

use super::Verdict;

/// What is known about the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its plugin; `None` for a physical slot.
    pub plugin: Option<&'a str>,
    /// Its database.
    pub database: Option<&'a str>,
    /// The database of the connection.
    pub connected_to: &'a str,
    /// The server process that reads it.
    pub active_pid: Option<i32>,
    /// Why it is lost, if it is.
    pub lost: Option<&'a str>,
    /// Whether it decodes prepared transactions at PREPARE.
    pub two_phase: bool,
    /// `wal_status`.
    pub wal_status: Option<&'a str>,
    /// Bytes of WAL that it retains.
    pub retained_bytes: u64,
}

/// The start of a stream: the positions, and everything without a line of its own.
#[must_use]
pub fn start(failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok("start: slot, publications and positions agree"),
        Some((reason, hint)) => {
            Verdict::error(format!("start: {reason}"), hint.unwrap_or_else(|| "see walcat(1)".to_owned()))
        }
    }
}

/// A slot that does not exist; `create_slot` says whether walcat creates it.
#[must_use]
pub fn missing_slot(name: &str, create_slot: bool) -> Verdict {
    if create_slot {
        return Verdict::ok(format!("slot {name}: walcat will create it"));
    }
    let hint = format!("run walcat slot create --slot {name}, or set create_slot = true");
    Verdict::error(format!("slot {name}: does not exist"), hint)
}

/// An existing slot.
#[must_use]
pub fn slot(facts: &SlotFacts<'_>) -> Verdict {
    let name = facts.name;
    if facts.plugin != Some("pgoutput") {
        let plugin = facts.plugin.unwrap_or("none: it is a physical slot");
        let hint = "use a logical slot with the plugin pgoutput";
        return Verdict::error(format!("slot {name}: its plugin is {plugin}"), hint);
    }
    if facts.database != Some(facts.connected_to) {
        let database = facts.database.unwrap_or("?");
        let finding = format!("slot {name}: belongs to the database {database}, not {}", facts.connected_to);
        return Verdict::error(finding, "connect to the slot's database, or use another slot");
    }
    if let Some(why) = facts.lost {
        let hint =
            "changes are missing: drop the slot, create a new one, and reload the tables with walcat snapshot start";
        return Verdict::error(format!("slot {name}: permanently lost ({why})"), hint);
    }
    if facts.two_phase {
        return Verdict::error(format!("slot {name}: {TWO_PHASE}"), two_phase_cure(name));
    }
    let retained = facts.retained_bytes;
    match (facts.wal_status, facts.active_pid) {
        (Some("unreserved"), _) => Verdict::error(
            format!(
                "slot {name}: the server is about to remove WAL that the slot requires ({retained} bytes retained)"
            ),
            "start walcat now, or raise max_slot_wal_keep_size",
        ),
        (_, Some(pid)) => {
            Verdict::ok(format!("slot {name}: active, read by process {pid}; {retained} bytes of WAL retained"))
        }
        (Some("extended"), None) => Verdict::warning(
            format!("slot {name}: inactive, and {retained} bytes of WAL retained, more than max_wal_size"),
            "start walcat, or drop the slot if it is not needed: the server's disk is filling up",
        ),
        (_, None) => Verdict::ok(format!("slot {name}: inactive; {retained} bytes of WAL retained")),
    }
}

/// Why walcat refuses a slot that decodes at PREPARE: a prepared transaction may still be rolled back.
pub const TWO_PHASE: &str = "created with two_phase = true, so it decodes transactions at PREPARE TRANSACTION, before \
     they are committed; walcat reads them at COMMIT PREPARED";

/// How to continue from the slot's position without two_phase: a copy has the same position, but not this property.
#[must_use]
pub fn two_phase_cure(name: &str) -> String {
    // A slot name has at most 63 characters.
    let copy: String = name.chars().take(57).chain("_plain".chars()).collect();
    format!(
        "copy the slot: SELECT pg_copy_logical_replication_slot('{name}', '{copy}'); then stream from {copy} and drop {name}: \
         the copy has the same position without two_phase, so no change is missing"
    )
}

/// The state file; `failure` says why it cannot be read or created.
#[must_use]
pub fn state_file(path: &str, failure: Option<&str>) -> Verdict {
    match failure {
        None => Verdict::ok(format!("state file {path}: writable")),
        Some(reason) => Verdict::error(
            reason,
            "use a directory that exists, that the user running walcat can write to, and that survives a restart",
        ),
    }
}
