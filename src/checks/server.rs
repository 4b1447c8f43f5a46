//! What the server itself has to have: version, settings, room for us, the role.

use super::Verdict;

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
