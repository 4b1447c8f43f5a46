//! Which position a stream may start from: what the server, the slot and a store say of it, and whether they agree.
//!
//! Pure: facts in, a verdict out. A position is always stored before it is confirmed, so a slot ahead of the store was
//! moved by somebody else; a store ahead of the server's WAL knows of changes that this server does not have
//!.

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// A position that was delivered, as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The cluster's identifier, of IDENTIFY_SYSTEM.
    pub system_identifier: String,
    /// The timeline on which the position was reached.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// Everything up to it is delivered.
    pub end_lsn: Lsn,
}

/// Where a timeline ended because another one was forked from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended.
    pub timeline: u32,
    /// Its last position that the present timeline shares.
    pub lsn: Lsn,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The cluster's identifier.
    pub system_identifier: String,
    /// The present timeline.
    pub timeline: u32,
    /// What is flushed to disk.
    pub wal_end: Lsn,
    /// The slot.
    pub slot: String,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed: Lsn,
    /// The history of the present timeline; empty for the first one.
    pub switches: Vec<Switch>,
}

/// Why the positions do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Another cluster.
    #[error("{store} is of the cluster with the system identifier {stored}, and this server has {server}")]
    OtherCluster { store: String, stored: String, server: String },
    /// Another slot.
    #[error("{store} is of the slot {stored}, and this is {slot}")]
    OtherSlot { store: String, stored: String, slot: String },
    /// The slot has passed changes that were never delivered.
    #[error(
        "a gap: the slot {slot} stands at {confirmed}, and {store} says that only what ends at or before {stored} is \
         delivered: somebody else moved the slot, or it was made anew, and {} bytes of WAL are not in the stream",
        confirmed.bytes_since(*stored)
    )]
    Gap { store: String, slot: String, confirmed: Lsn, stored: Lsn },
    /// The position was reached on a timeline that is none of this server's.
    #[error(
        "{store} says that all up to {stored} is delivered from timeline {timeline}, and that is no part of the history of \
         this server's timeline {server}: another server, or a history that cannot be read"
    )]
    OtherTimeline { store: String, stored: Lsn, timeline: u32, server: u32 },
    /// The server has never written what was delivered.
    #[error(
        "{store} says that all up to {stored} is delivered, and this server's WAL on its timeline {timeline} ends at or \
         parts from it at {server}, {} bytes before: another cluster, or a failover that lost changes",
        stored.bytes_since(*server)
    )]
    StoreAhead { store: String, stored: Lsn, timeline: u32, server: Lsn },
}

impl Disagreement {
    /// The operator's choices.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Disagreement::OtherCluster { .. } | Disagreement::OtherSlot { .. } => {
                "check dsn, slot and [state] file; to begin anew at the slot's position: --accept-gap"
            }
            Disagreement::Gap { .. } => {
                "find out who moved the slot; copy the tables anew, or go on from the slot's position without the changes \
                 between: --accept-gap"
            }
            Disagreement::OtherTimeline { .. } => {
                "connect to the server that walcat followed last; if this is the right one, compare its rows with what \
                 consumers hold, then go on from the slot's position: --accept-gap. With engine = \"polling\" the role needs \
                 GRANT EXECUTE ON FUNCTION pg_read_file(text) to read the history"
            }
            Disagreement::StoreAhead { .. } => {
                "consumers hold changes that this server does not have: mend them, then go on from the slot's position: \
                 --accept-gap; set synchronized_standby_slots on the primary so that a failover cannot lose changes"
            }
        }
    }
}

/// Where to start: at the stored position, or at the slot's when nothing is stored. `store` is what messages call the
/// place where the position was kept.
///
/// # Errors
/// [`Disagreement`], when starting would lose or repeat changes in silence.
pub fn judge(stored: Option<&Stored>, store: &str, facts: &Facts) -> Result<Lsn, Disagreement> {
    let Some(stored) = stored else { return Ok(facts.confirmed) };
    let store = store.to_owned();
    if stored.system_identifier != facts.system_identifier {
        let (stored, server) = (stored.system_identifier.clone(), facts.system_identifier.clone());
        return Err(Disagreement::OtherCluster { store, stored, server });
    }
    if stored.slot != facts.slot {
        return Err(Disagreement::OtherSlot { store, stored: stored.slot.clone(), slot: facts.slot.clone() });
    }
    let is_ours =
        |timeline: u32| timeline == facts.timeline || facts.switches.iter().any(|switch| switch.timeline == timeline);
    if !is_ours(stored.timeline) {
        let (timeline, server) = (stored.timeline, facts.timeline);
        return Err(Disagreement::OtherTimeline { store, stored: stored.end_lsn, timeline, server });
    }
    // What the old timeline had after the fork is not part of the present one.
    let forked_at = facts.switches.iter().filter(|switch| switch.timeline >= stored.timeline).map(|switch| switch.lsn);
    let server = forked_at.chain([facts.wal_end]).min().unwrap_or(facts.wal_end);
    if stored.end_lsn > server {
        return Err(Disagreement::StoreAhead { store, stored: stored.end_lsn, timeline: facts.timeline, server });
    }
    if facts.confirmed > stored.end_lsn {
        let (slot, confirmed) = (facts.slot.clone(), facts.confirmed);
        return Err(Disagreement::Gap { store, slot, confirmed, stored: stored.end_lsn });
    }
    Ok(stored.end_lsn)
}

/// The history of a timeline, as TIMELINE_HISTORY sends it: one line per timeline before it, its number and the LSN of
/// the fork parted by blanks, then a reason; `#` begins a comment.
///
/// Source: PostgreSQL documentation, "55.4 Streaming Replication Protocol", and the server's `timeline.c`.
/// None for a text that is no such history.
#[must_use]
pub fn parse_timeline_history(text: &str) -> Option<Vec<Switch>> {
    let switch = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(Switch { timeline: fields.next()?.parse().ok()?, lsn: fields.next()?.parse().ok()? })
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(switch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(timeline: u32, wal_end: u64, confirmed: u64, switches: &[(u32, u64)]) -> Facts {
        Facts {
            system_identifier: "7".to_owned(),
            timeline,
            wal_end: Lsn(wal_end),
            slot: "s".to_owned(),
            confirmed: Lsn(confirmed),
            switches: switches.iter().map(|(timeline, lsn)| Switch { timeline: *timeline, lsn: Lsn(*lsn) }).collect(),
        }
    }

    fn stored(timeline: u32, end_lsn: u64) -> Stored {
        let (system_identifier, slot) = ("7".to_owned(), "s".to_owned());
        Stored { system_identifier, timeline, slot, end_lsn: Lsn(end_lsn) }
    }

    #[test]
    fn a_stream_starts_at_the_stored_position_or_says_why_not() {
        let failover = [(1, 150)];
        for (what, stored, facts, expected) in [
            ("nothing stored", None, facts(1, 200, 100, &[]), Ok(100)),
            ("the slot forgot after a crash", Some(stored(1, 150)), facts(1, 200, 100, &[]), Ok(150)),
            ("in step", Some(stored(1, 200)), facts(1, 200, 200, &[]), Ok(200)),
            (
                "the slot was moved",
                Some(stored(1, 90)),
                facts(1, 200, 100, &[]),
                Err("a gap: the slot s stands at 0/64"),
            ),
            (
                "a shorter WAL",
                Some(stored(1, 201)),
                facts(1, 200, 100, &[]),
                Err("ends at or parts from it at 0/C8, 1 b"),
            ),
            ("a failover", Some(stored(1, 150)), facts(2, 900, 100, &failover), Ok(150)),
            ("a failover that lost changes", Some(stored(1, 151)), facts(2, 900, 100, &failover), Err("0/96, 1 bytes")),
            ("an old primary", Some(stored(2, 150)), facts(1, 900, 100, &[]), Err("is no part of the history")),
            ("a sibling", Some(stored(2, 150)), facts(3, 900, 100, &failover), Err("is no part of the history")),
            ("stored after the failover", Some(stored(2, 800)), facts(2, 900, 100, &failover), Ok(800)),
        ] {
            match (judge(stored.as_ref(), "the state file", &facts), expected) {
                (Ok(lsn), Ok(expected)) => assert_eq!(lsn, Lsn(expected), "{what}"),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{what}: {error}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_position_of_another_cluster_or_slot_is_refused() {
        let other = Stored { system_identifier: "8".to_owned(), ..stored(1, 100) };
        let verdict = judge(Some(&other), "the checkpoint", &facts(1, 200, 100, &[]));
        assert!(matches!(verdict, Err(Disagreement::OtherCluster { .. })));
        let other = Stored { slot: "t".to_owned(), ..stored(1, 100) };
        let verdict = judge(Some(&other), "the checkpoint", &facts(1, 200, 100, &[]));
        assert!(matches!(verdict, Err(Disagreement::OtherSlot { .. })));
    }

    #[test]
    fn a_timeline_history_is_read_line_by_line() {
        let text = "1\t0/3000060\tno recovery target specified\n\n# comment\n2\t1/A0\treason\n";
        let switches = parse_timeline_history(text).unwrap();
        assert_eq!(switches.len(), 2);
        assert_eq!(switches[1], Switch { timeline: 2, lsn: "1/A0".parse().unwrap() });
        assert_eq!(parse_timeline_history("1\t0/3000060\n2\tgone\n"), None);
    }
}
