//! The server: its version, its settings, its limits and the role.

use super::Verdict;

/// The server's version, as PostgreSQL numbers it.
#[must_use]
pub fn server_version(version: i32, oldest: i32, newest_major: i32) -> Verdict {
    let major = version / 10_000;
    if version < oldest {
        let hint = format!("walcat reads PostgreSQL {} to {newest_major}", oldest / 10_000);
        return Verdict::error(format!("server version: PostgreSQL {major} is too old"), hint);
    }
    if major > newest_major {
        let finding =
            format!("server version: PostgreSQL {major} is newer than the versions that this walcat is tested with");
        return Verdict::warning(finding, "upgrade walcat if there is a newer version");
    }
    Verdict::ok(format!("server version: PostgreSQL {major}.{}", version % 10_000))
}

/// `wal_level`.
#[must_use]
pub fn wal_level(level: &str) -> Verdict {
    match level {
        "logical" => Verdict::ok("wal_level: logical"),
        other => Verdict::error(
            format!("wal_level: expected logical, found {other}"),
            "run ALTER SYSTEM SET wal_level = logical, then restart the server",
        ),
    }
}

/// The server's encoding. With SQL_ASCII, a text can contain any bytes.
#[must_use]
pub fn server_encoding(encoding: &str) -> Verdict {
    match encoding {
        "SQL_ASCII" => Verdict::warning(
            "database encoding: SQL_ASCII, so text can contain bytes that are not UTF-8",
            "store text as UTF-8: another value stops the stream with exit code 65",
        ),
        other => Verdict::ok(format!("database encoding: {other}")),
    }
}

/// Walsenders: one must be free, unless the slot already has one.
#[must_use]
pub fn wal_senders(used: i32, max: i32, slot_is_read: bool) -> Verdict {
    let finding = format!("walsenders: {used} of {max} in use");
    if used < max {
        return Verdict::ok(finding);
    }
    let hint = "raise max_wal_senders, or stop other replication clients";
    if slot_is_read { Verdict::warning(finding, hint) } else { Verdict::error(finding, hint) }
}

/// Whether the server accepts a replication connection.
#[must_use]
pub fn replication_connection(failure: Option<(String, Option<String>)>) -> Verdict {
    match failure {
        None => Verdict::ok("replication connection: accepted"),
        Some((reason, hint)) => {
            let hint = hint.unwrap_or_else(|| "check the server's log".to_owned());
            Verdict::error(format!("replication connection: {reason}"), hint)
        }
    }
}

/// Replication slots: one must be free if walcat's slot does not exist yet.
#[must_use]
pub fn replication_slots(used: i32, max: i32, slot_exists: bool) -> Verdict {
    let finding = format!("replication slots: {used} of {max} in use");
    if used >= max && !slot_exists {
        return Verdict::error(finding, "raise max_replication_slots, or drop an unused slot");
    }
    Verdict::ok(finding)
}

/// The role's REPLICATION attribute.
#[must_use]
pub fn role(may_replicate: bool) -> Verdict {
    if may_replicate {
        return Verdict::ok("role: has REPLICATION");
    }
    Verdict::error("role: does not have REPLICATION", "run ALTER ROLE ... REPLICATION")
}
