//! The commands of a poll.

use super::Peek;
use crate::lsn::Lsn;
use crate::pg::conn::begin_pinned;
use crate::wire::replication::command::quote_literal;

pub(super) const PEEK: &str = "pg_logical_slot_peek_binary_changes";
pub(super) const EMIT: &str = "pg_logical_emit_message";
pub(super) const ADVANCE: &str = "pg_replication_slot_advance";

/// The flushed position.
const FLUSHED: &str = "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_flush_lsn() END";

impl Peek {
    pub(super) fn peek_command(&self, upto: Option<Lsn>) -> String {
        let upto = upto.map_or("NULL".to_owned(), |lsn| format!("'{lsn}'"));
        format!(
            "SELECT lsn, data FROM pg_catalog.{PEEK}({}, {upto}, {}, 'proto_version', '1', 'publication_names', {}, \
             'messages', 'true')",
            quote_literal(&self.slot),
            self.settings.changes_max,
            self.publications
        )
    }

    pub(super) fn begin_command(&self) -> String {
        let begin = begin_pinned(self.connection.server_version());
        // The session's own value, outside this transaction.
        let idle = "(SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout')";
        format!("{begin} {}, {idle}", self.look_command())
    }

    /// The query for the flushed position and the position of the slot.
    pub(super) fn look_command(&self) -> String {
        let slot = quote_literal(&self.slot);
        format!(
            "SELECT {FLUSHED}, (SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot})"
        )
    }

    pub(super) fn advance_command(&self, to: Lsn) -> String {
        format!("SELECT pg_catalog.{ADVANCE}({}, '{to}')", quote_literal(&self.slot))
    }
}
