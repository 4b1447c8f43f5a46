//! The text of the replication commands. They use only the simple protocol.
//!
//! Source: PostgreSQL documentation, "55.4 Streaming Replication Protocol" and "55.5.1 Logical Streaming Replication
//! Parameters".

use crate::lsn::Lsn;

/// The first version with slot options in parentheses.
const OPTION_LIST_SINCE: i32 = 150_000;

/// The first version that can keep a copy of a slot on a standby.
pub const FAILOVER_SINCE: i32 = 170_000;

/// The options of a new slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SlotOptions {
    /// The slot ends with the session.
    pub temporary: bool,
    /// Standbys keep a copy of the slot. Omitted before version 17, which does not support it, and for a temporary
    /// slot, which cannot have one.
    pub failover: bool,
    /// The snapshot of the slot's consistent point is exported; otherwise there is none.
    pub exports_snapshot: bool,
}

/// The parameters of a stream.
#[derive(Clone, Copy, Debug)]
pub struct StartReplication<'a> {
    /// The slot.
    pub slot: &'a str,
    /// Where to start; 0/0 for the slot's confirmed position.
    pub lsn: Lsn,
    /// The publications.
    pub publications: &'a [String],
}

/// `IDENTIFY_SYSTEM`: identifier, timeline, flush position, database.
#[must_use]
pub fn identify_system() -> String {
    "IDENTIFY_SYSTEM".to_owned()
}

/// `CREATE_REPLICATION_SLOT` for pgoutput, in the syntax of the server's version.
#[must_use]
pub fn create_replication_slot(name: &str, options: SlotOptions, server_version: i32) -> String {
    let name = quote_identifier(name);
    let temporary = if options.temporary { " TEMPORARY" } else { "" };
    let failover = options.failover && !options.temporary && server_version >= FAILOVER_SINCE;
    let list = match (server_version >= OPTION_LIST_SINCE, options.exports_snapshot) {
        (false, false) => "NOEXPORT_SNAPSHOT".to_owned(),
        (false, true) => "EXPORT_SNAPSHOT".to_owned(),
        (true, exports) => {
            let snapshot = if exports { "export" } else { "nothing" };
            format!("(SNAPSHOT '{snapshot}'{})", if failover { ", FAILOVER 'true'" } else { "" })
        }
    };
    format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL pgoutput {list}")
}

/// `DROP_REPLICATION_SLOT`: fails at once if another session holds the slot.
#[must_use]
pub fn drop_replication_slot(name: &str) -> String {
    format!("DROP_REPLICATION_SLOT {}", quote_identifier(name))
}

/// `START_REPLICATION` with pgoutput's protocol version 1: the server sends whole transactions, after their commit.
#[must_use]
pub fn start_replication(start: &StartReplication<'_>) -> String {
    let StartReplication { slot, lsn, publications } = start;
    let list = publications.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(",");
    format!(
        "START_REPLICATION SLOT {} LOGICAL {lsn} (proto_version '1', publication_names {}, messages 'true')",
        quote_identifier(slot),
        quote_literal(&list)
    )
}

/// Quotes an identifier.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The same for SQL that a person reads: quotes the identifier only if necessary.
#[must_use]
pub fn quote_identifier_where_needed(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    // Reserved words need quotes too; only some of them are likely names.
    const RESERVED: [&str; 10] =
        ["all", "default", "end", "group", "limit", "order", "primary", "select", "table", "user"];
    if starts_well && name.bytes().all(is_plain) && !RESERVED.contains(&name) {
        name.to_owned()
    } else {
        quote_identifier(name)
    }
}

/// Quotes a text as a literal, for standard_conforming_strings = on.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_created_in_the_syntax_of_the_version() {
        let permanent = SlotOptions::default();
        let temporary = SlotOptions { temporary: true, failover: false, exports_snapshot: false };
        let failover = SlotOptions { temporary: false, failover: true, exports_snapshot: false };
        let both = SlotOptions { temporary: true, failover: true, exports_snapshot: false };
        let export = SlotOptions { exports_snapshot: true, ..temporary };
        for (version, options, text) in [
            (140_023, export, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"),
            (150_018, export, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"),
            (140_023, permanent, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput NOEXPORT_SNAPSHOT"),
            (140_023, both, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"),
            (150_018, permanent, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing')"),
            (160_014, failover, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing')"),
            (170_010, failover, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER 'true')"),
            (180_004, temporary, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"),
            (180_004, both, "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"),
        ] {
            assert_eq!(create_replication_slot("s", options, version), text);
        }
    }

    #[test]
    fn a_slot_is_dropped_at_once_or_when_it_is_free() {
        assert_eq!(drop_replication_slot("s"), "DROP_REPLICATION_SLOT \"s\"");
    }

    #[test]
    fn publication_names_are_quoted_as_identifiers_and_then_as_a_literal() {
        let publications = ["plain".to_owned(), "it's \"odd\", so".to_owned()];
        let start = StartReplication { slot: "s", lsn: Lsn(0x1_0000_0010), publications: &publications };
        assert_eq!(
            start_replication(&start),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/10 (proto_version '1', publication_names \
             '\"plain\",\"it''s \"\"odd\"\", so\"', messages 'true')"
        );
    }
}
