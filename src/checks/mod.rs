//! The verdicts of `walcat check` and `walcat slot status`, on facts that `pg/` and `sink/` gathered. Pure: a table of
//! facts in, a table of verdicts out.

mod failover;
mod kafka;
mod server;
mod slot;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt;

pub use failover::{StandbyFacts, failover_primary, failover_standby, no_failover};
pub use kafka::{Creation, TopicFacts, brokers, checkpoint_topic, compact_command, kafka_properties, topic};
pub use server::{
    replication_connection, replication_slots, role, server_encoding, server_version, wal_level, wal_senders,
};
pub use slot::{SlotFacts, TWO_PHASE, missing_slot, slot, start, state_file, two_phase_cure};
pub use tables::{Age, publication, publication_age, replica_identity, table_count};

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
