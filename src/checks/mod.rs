//! The verdicts of `walcat check` and `walcat slot status`: pure functions from the facts that `pg/` and `sink/` collect.

mod failover;
mod kafka;
mod server;
mod slot;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt;

pub use failover::{StandbyFacts, failover_primary, failover_standby, no_failover};
pub use kafka::{
    Creation, TopicFacts, brokers, checkpoint_topic, compact_command, kafka_properties, stored_position, topic,
    transaction_timeout, unread_position,
};
pub use server::{
    replication_connection, replication_slots, role, server_encoding, server_version, wal_level, wal_senders,
};
pub use slot::{SlotFacts, TWO_PHASE, missing_slot, slot, start, state_file, two_phase_cure};
pub use snapshot::{Readable, refused as snapshot_refused, snapshot};
pub use tables::{Age, publication, publication_age, replica_identity, table_count};

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing to do.
    Ok,
    /// It works, but the operator should look at it.
    Warning,
    /// walcat does not start, will stop, or changes will be missing.
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
    /// Its severity.
    pub severity: Severity,
    /// What was checked: what was found.
    pub finding: String,
    /// What to do; empty if there is nothing to do.
    pub hint: String,
}

impl Verdict {
    /// A finding that needs no action.
    #[must_use]
    pub fn ok(finding: impl Into<String>) -> Self {
        Verdict { severity: Severity::Ok, finding: finding.into(), hint: String::new() }
    }

    /// A warning and its hint.
    #[must_use]
    pub fn warning(finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Verdict { severity: Severity::Warning, finding: finding.into(), hint: hint.into() }
    }

    /// An error and its hint.
    #[must_use]
    pub fn error(finding: impl Into<String>, hint: impl Into<String>) -> Self {
        Verdict { severity: Severity::Error, finding: finding.into(), hint: hint.into() }
    }
}
