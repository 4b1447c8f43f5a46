//! The position from which a stream may start: what the server, the slot and a store say, and whether they agree.
//!
//! Pure: facts in, a verdict out. walcat stores a position before it confirms it, so another process moved a slot that is
//! ahead of the store. A position belongs to the timeline on which it was reached. If something was delivered there that is
//! not in the server's history, the two have diverged: consumers hold changes that this server does not have. An idle
//! position, the end of WAL without a record, may lie past the fork: walcat cuts it back, and nothing is lost.

mod stored;

pub use self::stored::{FullKeys, Identity, Known, Reached, Stored, Vouched};
use crate::lsn::Lsn;

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Everything up to this position was delivered.
    pub lsn: Lsn,
    /// The end of the last records before it, as far as it is known.
    pub records: Reached,
    /// Whether the stored position was past the history that the server shares with it, and idle.
    pub is_cut: bool,
}

impl Start {
    /// At the slot's position, for which no store has an entry.
    #[must_use]
    pub fn at_slot(facts: &Facts) -> Self {
        Start { lsn: facts.confirmed, records: Reached::NOTHING, is_cut: false }
    }

    /// At the slot's position, because the operator accepts that it disagrees with the stored one. Consumers keep what was
    /// delivered before: a failover to a point before this position must not repeat it.
    #[must_use]
    pub fn accepted(stored: Option<&Stored>, facts: &Facts) -> Self {
        // If the delivered records are not known, everything before the slot's position counts as delivered.
        let all = Reached { timeline: facts.timeline, lsn: facts.confirmed.min(facts.wal_end) };
        let records = match stored {
            None => all,
            Some(stored) if stored.system_identifier != facts.system_identifier => Reached::NOTHING,
            Some(stored) => match (stored.records_end(), facts.shared_up_to(stored.records_end().timeline)) {
                (records, _) if !records.lsn.is_valid() => Reached::NOTHING,
                (_, None) => all,
                (records, Some(shared)) => Reached { lsn: records.lsn.min(shared).min(facts.confirmed), ..records },
            },
        };
        Start { records, ..Start::at_slot(facts) }
    }
}

/// The end of a timeline, at the fork of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that ended.
    pub timeline: u32,
    /// The last position that it shares with the present timeline.
    pub lsn: Lsn,
}

/// The server's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The cluster's identifier.
    pub system_identifier: String,
    /// The present timeline.
    pub timeline: u32,
    /// The position flushed to disk.
    pub wal_end: Lsn,
    /// The slot.
    pub slot: String,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed: Lsn,
    /// The history of the present timeline; empty for the first one.
    pub switches: Vec<Switch>,
}

impl Facts {
    /// The position up to which the server has the WAL of a timeline; none if the timeline is not in its history.
    #[must_use]
    pub fn shared_up_to(&self, timeline: u32) -> Option<Lsn> {
        let is_ours = timeline == self.timeline || self.switches.iter().any(|switch| switch.timeline == timeline);
        // The WAL of the old timeline after the fork is not part of the present one.
        let forked_at = self.switches.iter().filter(|switch| switch.timeline >= timeline).map(|switch| switch.lsn);
        is_ours.then(|| forked_at.fold(self.wal_end, Lsn::min))
    }
}

/// Why the positions do not match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Another cluster.
    #[error("{store} belongs to the cluster with the system identifier {stored}, but this server has {server}")]
    OtherCluster { store: String, stored: String, server: String },
    /// Another slot.
    #[error("{store} belongs to the slot {stored}, not to {slot}")]
    OtherSlot { store: String, stored: String, slot: String },
    /// The slot has passed changes that were never delivered.
    #[error(
        "gap: {} bytes of WAL between {stored} and {confirmed} were not delivered, according to {store}: another \
         process moved the slot {slot}, or the slot was recreated",
        confirmed.bytes_since(*stored)
    )]
    Gap { store: String, slot: String, confirmed: Lsn, stored: Lsn },
    /// The position was reached on a timeline outside this server's history.
    #[error(
        "according to {store}, everything up to {stored} was delivered from timeline {timeline}, which is not in the \
         history of this server's timeline {server}: another server, or an unreadable history"
    )]
    OtherTimeline { store: String, stored: Lsn, timeline: u32, server: u32 },
    /// The server has never written the WAL of the delivered changes.
    #[error(
        "according to {store}, everything up to {stored} was delivered, but this server's WAL on timeline {timeline} \
         ends or forks at {server}, {} bytes before: another cluster, or a failover that lost changes",
        stored.bytes_since(*server)
    )]
    StoreAhead { store: String, stored: Lsn, timeline: u32, server: Lsn },
    /// A slot that was read has no checkpoint.
    #[error(
        "{store} does not exist, but the slot {slot} at {confirmed} has been read{}: the topic was deleted or emptied, \
         or the slot was read without it",
        if known.is_valid() { format!(" by this process up to {known}") } else { String::new() }
    )]
    NoCheckpoint { store: String, slot: String, confirmed: Lsn, known: Lsn },
    /// Rows that were there before the slot are not delivered, and cannot be read in chunks.
    #[error(
        "according to {store}, the initial snapshot of the slot {slot} is not finished: {tables} without a key cannot be \
         read beside the stream"
    )]
    Keyless { store: String, slot: String, tables: String },
    /// The slot of a stored position does not exist.
    #[error(
        "the slot {slot} does not exist, but according to {store}, everything up to {stored} was delivered from it: \
         the slot was dropped"
    )]
    SlotMissing { store: String, slot: String, stored: Lsn },
    /// The slot was moved past the end of the server's WAL.
    #[error(
        "the slot {slot} is at {confirmed}, but this server's WAL ends at {wal_end}, {} bytes before: the server would \
         skip everything committed in between",
        confirmed.bytes_since(*wal_end)
    )]
    SlotAhead { slot: String, confirmed: Lsn, wal_end: Lsn },
}

impl Disagreement {
    /// The operator's choices.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Disagreement::OtherCluster { .. } | Disagreement::OtherSlot { .. } => {
                "check dsn, slot and [state] file; use --accept-gap to start at the slot's position"
            }
            Disagreement::Gap { .. } => {
                "find out who moved the slot; then use --accept-gap to continue from the slot's position, and reload the \
                 tables: see RELOADING in walcat(1)"
            }
            Disagreement::OtherTimeline { .. } => {
                "connect to the server that walcat followed last; if this is the right one, compare its rows with what \
                 consumers hold, then use --accept-gap to continue from the slot's position. With engine = \"polling\" \
                 the role needs GRANT EXECUTE ON FUNCTION pg_read_file(text) to read the history"
            }
            Disagreement::StoreAhead { .. } => {
                "consumers hold changes that this server does not have: fix their data, then use --accept-gap to \
                 continue from the slot's position; set synchronized_standby_slots on the primary so that a failover \
                 cannot lose changes"
            }
            Disagreement::Keyless { .. } => {
                "use --accept-gap once to go on without the rest of these tables, and reload them (see RELOADING in \
                 walcat(1)); or drop the slot, delete the topics, and start again with --snapshot initial and --accept-gap"
            }
            Disagreement::NoCheckpoint { .. } => {
                "find out what happened to the topic; use --accept-gap to start at the slot's position and deliver \
                 everything after it, possibly a second time"
            }
            Disagreement::SlotMissing { .. } => {
                "the changes since the slot was dropped are not in the stream: create a slot, use --accept-gap to start \
                 at its position, and reload the tables with walcat snapshot start: see RELOADING in walcat(1)"
            }
            Disagreement::SlotAhead { .. } => {
                "drop the slot, create a new one and reload the tables with walcat snapshot start (see RELOADING in \
                 walcat(1)); or use --accept-gap to continue from the slot's position without the changes before it"
            }
        }
    }
}

/// Returns the start: the stored position, or the slot's position if nothing is stored. Messages call the place of the
/// stored position `store`.
///
/// # Errors
/// [`Disagreement`], if the start would silently lose or repeat changes.
pub fn judge(stored: Option<&Stored>, store: &str, facts: &Facts) -> Result<Start, Disagreement> {
    let confirmed = facts.confirmed;
    if confirmed > facts.wal_end {
        let (slot, wal_end) = (facts.slot.clone(), facts.wal_end);
        return Err(Disagreement::SlotAhead { slot, confirmed, wal_end });
    }
    let Some(stored) = stored else { return Ok(Start::at_slot(facts)) };
    judge_identity(stored, store, &facts.system_identifier, &facts.slot)?;
    let keyless = stored.snapshot.iter().flat_map(|snapshot| &snapshot.keyless);
    let tables: Vec<_> = keyless.map(|table| format!("{}.{}", table.schema, table.table)).collect();
    if !tables.is_empty() {
        let (store, slot, tables) = (store.to_owned(), facts.slot.clone(), tables.join(", "));
        return Err(Disagreement::Keyless { store, slot, tables });
    }
    // An initial snapshot was on record before its slot was created, and no row of it was sent.
    if !stored.end_lsn.is_valid() {
        return Ok(Start::at_slot(facts));
    }
    let store = store.to_owned();
    let other_timeline = |at: Reached| {
        let (store, server) = (store.clone(), facts.timeline);
        Disagreement::OtherTimeline { store, stored: at.lsn, timeline: at.timeline, server }
    };
    let records = stored.records_end();
    if records.lsn.is_valid() {
        let shared = facts.shared_up_to(records.timeline).ok_or_else(|| other_timeline(records))?;
        if records.lsn > shared {
            let timeline = facts.timeline;
            return Err(Disagreement::StoreAhead { store, stored: records.lsn, timeline, server: shared });
        }
    }
    let idle = Reached { timeline: stored.timeline, lsn: stored.end_lsn };
    // Everything up to here was delivered, or had no records. On another timeline only the end of the records is known.
    let shared = facts.shared_up_to(idle.timeline);
    let known = idle.lsn.min(shared.unwrap_or(records.lsn));
    if confirmed > known {
        return Err(match shared {
            Some(_) => Disagreement::Gap { store, slot: facts.slot.clone(), confirmed, stored: known },
            None => other_timeline(idle),
        });
    }
    let is_cut = known < idle.lsn;
    // The end of the shared WAL may lie inside one of our records; the end of a record and the slot's position do not.
    let lsn = if is_cut { records.lsn.max(confirmed) } else { idle.lsn };
    Ok(Start { lsn, records, is_cut })
}

/// Whether walcat may create a missing slot: not if a store says that it was read.
///
/// # Errors
/// [`Disagreement`].
pub fn judge_new_slot(stored: &Stored, store: &str, system_identifier: &str, slot: &str) -> Result<(), Disagreement> {
    judge_identity(stored, store, system_identifier, slot)?;
    // An initial snapshot was on record before its slot was to be created, and no row of it was sent.
    if !stored.end_lsn.is_valid() {
        return Ok(());
    }
    let (store, slot) = (store.to_owned(), slot.to_owned());
    Err(Disagreement::SlotMissing { store, slot, stored: stored.end_lsn })
}

fn judge_identity(stored: &Stored, store: &str, system_identifier: &str, slot: &str) -> Result<(), Disagreement> {
    let store = store.to_owned();
    if stored.system_identifier != system_identifier {
        let (stored, server) = (stored.system_identifier.clone(), system_identifier.to_owned());
        return Err(Disagreement::OtherCluster { store, stored, server });
    }
    if stored.slot != slot {
        return Err(Disagreement::OtherSlot { store, stored: stored.slot.clone(), slot: slot.to_owned() });
    }
    Ok(())
}

/// Whether a missing checkpoint is normal: this process has `known` none, and when the first instance started, nothing
/// had been read from the slot, which is still at the same position.
///
/// # Errors
/// [`Disagreement::NoCheckpoint`].
pub fn judge_missing(unread_slot_at: Option<Lsn>, known: Lsn, store: &str, facts: &Facts) -> Result<(), Disagreement> {
    let (confirmed, slot) = (facts.confirmed, facts.slot.clone());
    if !known.is_valid() && unread_slot_at == Some(confirmed) {
        return Ok(());
    }
    Err(Disagreement::NoCheckpoint { store: store.to_owned(), slot, confirmed, known })
}

/// The history of a timeline, as TIMELINE_HISTORY sends it: one line for each timeline before it, with its number, the
/// LSN of the fork and a reason, separated by blanks; `#` starts a comment.
///
/// Source: PostgreSQL documentation, "55.4 Streaming Replication Protocol", and the server's `timeline.c`.
/// None for a text in another format.
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
        Stored {
            system_identifier,
            timeline,
            slot,
            end_lsn: Lsn(end_lsn),
            records: None,
            full_keys: FullKeys::new(),
            snapshot: None,
        }
    }

    /// With records that end at `lsn` on `timeline`.
    fn with_records(stored: Stored, timeline: u32, lsn: u64) -> Stored {
        Stored { records: Some(Reached { timeline, lsn: Lsn(lsn) }), ..stored }
    }

    #[test]
    fn a_stream_starts_at_the_stored_position_or_says_why_not() {
        let failover = [(1, 150)];
        for (what, stored, facts, expected) in [
            ("nothing stored", None, facts(1, 200, 100, &[]), Ok(100)),
            ("an initial snapshot before its slot", Some(stored(1, 0)), facts(1, 200, 100, &[]), Ok(100)),
            ("the slot forgot after a crash", Some(stored(1, 150)), facts(1, 200, 100, &[]), Ok(150)),
            ("in step", Some(stored(1, 200)), facts(1, 200, 200, &[]), Ok(200)),
            ("the slot was moved", Some(stored(1, 90)), facts(1, 200, 100, &[]), Err("and 0/64 were not delivered")),
            ("a shorter WAL", Some(stored(1, 201)), facts(1, 200, 100, &[]), Err("ends or forks at 0/C8, 1 b")),
            ("a failover", Some(stored(1, 150)), facts(2, 900, 100, &failover), Ok(150)),
            ("a failover that lost changes", Some(stored(1, 151)), facts(2, 900, 100, &failover), Err("0/96, 1 bytes")),
            ("an old primary", Some(stored(2, 150)), facts(1, 900, 100, &[]), Err("is not in the history")),
            ("a sibling", Some(stored(2, 150)), facts(3, 900, 100, &failover), Err("is not in the history")),
            ("stored after the failover", Some(stored(2, 800)), facts(2, 900, 100, &failover), Ok(800)),
            (
                "a slot beyond the WAL",
                None,
                facts(1, 200, 201, &[]),
                Err("the slot s is at 0/C9, but this server's WAL"),
            ),
        ] {
            match (judge(stored.as_ref(), "the state file", &facts), expected) {
                (Ok(start), Ok(expected)) => assert_eq!((start.lsn, start.is_cut), (Lsn(expected), false), "{what}"),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{what}: {error}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn an_idle_position_beyond_what_the_server_shares_is_cut_and_a_delivered_one_is_a_divergence() {
        let failover = [(1, 150)];
        let idle = |lsn, records| with_records(stored(1, lsn), 1, records);
        for (what, stored, facts, expected) in [
            ("idle before the fork", idle(140, 100), facts(2, 900, 90, &failover), Ok((140, false))),
            ("idle past it", idle(500, 100), facts(2, 900, 90, &failover), Ok((100, true))),
            ("the slot's copy knows more", idle(500, 100), facts(2, 900, 120, &failover), Ok((120, true))),
            ("up to the fork", idle(500, 150), facts(2, 900, 150, &failover), Ok((150, true))),
            ("the new WAL is shorter", idle(500, 100), facts(2, 160, 90, &failover), Ok((100, true))),
            ("nothing was delivered", idle(500, 0), facts(2, 900, 90, &failover), Ok((90, true))),
            ("delivered past it", idle(500, 151), facts(2, 900, 90, &failover), Err("0/97 was delivered")),
            ("the slot was moved", idle(500, 100), facts(2, 900, 151, &failover), Err("and 0/97 were not delivered")),
            ("a server that lost idle WAL", idle(500, 100), facts(1, 400, 90, &[]), Ok((100, true))),
            ("a server that lost more", idle(500, 401), facts(1, 400, 90, &[]), Err("a failover that lost changes")),
            // Two standbys of the first timeline were promoted, one after the other.
            (
                "a sibling, records of the parent",
                with_records(stored(2, 500), 1, 100),
                facts(3, 900, 90, &failover),
                Ok((100, true)),
            ),
            (
                "a sibling whose slot is beyond them",
                with_records(stored(2, 500), 1, 100),
                facts(3, 900, 110, &failover),
                Err("0/1F4 was delivered from timeline 2, which is not in the history"),
            ),
            (
                "a sibling, records of the lost one",
                with_records(stored(2, 500), 2, 200),
                facts(3, 900, 90, &failover),
                Err("0/C8 was delivered from timeline 2, which is not in the history"),
            ),
            (
                "two failovers",
                with_records(stored(2, 500), 1, 100),
                facts(3, 900, 90, &[(1, 150), (2, 400)]),
                Ok((100, true)),
            ),
        ] {
            match (judge(Some(&stored), "the state file", &facts), expected) {
                (Ok(start), Ok((lsn, is_cut))) => assert_eq!((start.lsn, start.is_cut), (Lsn(lsn), is_cut), "{what}"),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{what}: {error}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_failover_after_an_accepted_gap_does_not_repeat_what_was_delivered_before_the_gap() {
        // Delivered up to 150; somebody moves the slot to 300, and the operator accepts that.
        let (delivered, moved) = (with_records(stored(1, 150), 1, 150), facts(1, 400, 300, &[]));
        assert!(matches!(judge(Some(&delivered), "the checkpoint", &moved), Err(Disagreement::Gap { .. })));
        let accepted = Start::accepted(Some(&delivered), &moved);
        assert_eq!(accepted.lsn, Lsn(300));
        // The standby has WAL up to 200, and its copy of the slot is older than what was delivered.
        let kept = Stored { records: Some(accepted.records), ..stored(1, accepted.lsn.0) };
        let start = judge(Some(&kept), "the checkpoint", &facts(2, 900, 100, &[(1, 200)])).unwrap();
        assert_eq!((start.lsn, start.is_cut), (Lsn(150), true), "what is between 100 and 150 would be repeated");
    }

    #[test]
    fn an_accepted_position_keeps_what_is_known_of_the_records_before_it() {
        let at = |timeline, lsn| Reached { timeline, lsn: Lsn(lsn) };
        let idle = |lsn, records| with_records(stored(1, lsn), 1, records);
        let other_cluster = Stored { system_identifier: "8".to_owned(), ..idle(150, 120) };
        for (what, stored, facts, expected) in [
            ("a gap", Some(idle(150, 120)), facts(1, 400, 300, &[]), at(1, 120)),
            (
                "of another slot",
                Some(Stored { slot: "t".to_owned(), ..idle(150, 120) }),
                facts(1, 400, 300, &[]),
                at(1, 120),
            ),
            ("of another cluster", Some(other_cluster), facts(1, 400, 300, &[]), Reached::NOTHING),
            (
                "nothing was delivered",
                Some(with_records(stored(1, 150), 0, 0)),
                facts(1, 400, 300, &[]),
                Reached::NOTHING,
            ),
            ("lost in a failover", Some(idle(300, 300)), facts(2, 400, 100, &[(1, 200)]), at(1, 100)),
            ("lost, and the slot is past the fork", Some(idle(300, 300)), facts(2, 400, 250, &[(1, 200)]), at(1, 200)),
            (
                "of an unknown timeline",
                Some(with_records(stored(3, 300), 3, 300)),
                facts(2, 400, 250, &[(1, 200)]),
                at(2, 250),
            ),
            ("nothing is stored", None, facts(1, 400, 300, &[]), at(1, 300)),
            ("a slot past the WAL", None, facts(1, 200, 300, &[]), at(1, 200)),
        ] {
            let start = Start::accepted(stored.as_ref(), &facts);
            assert_eq!((start.lsn, start.records, start.is_cut), (facts.confirmed, expected, false), "{what}");
        }
    }

    #[test]
    fn what_was_stored_before_records_were_told_from_idle_wal_counts_as_delivered() {
        let text = r#"{"system_identifier":"7","timeline":1,"slot":"s","end_lsn":"0/97"}"#;
        let old: Stored = serde_json::from_str(text).unwrap();
        assert_eq!(old.records_end(), Reached { timeline: 1, lsn: Lsn(0x97) });
        assert_eq!(serde_json::to_string(&old).unwrap(), text);
        let new = with_records(old, 1, 0x10);
        let text = serde_json::to_string(&new).unwrap();
        assert!(text.ends_with(r#""end_lsn":"0/97","records":{"timeline":1,"lsn":"0/10"}}"#), "{text}");
        assert_eq!(serde_json::from_str::<Stored>(&text).unwrap(), new);
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
    fn a_slot_without_a_checkpoint_is_new_or_a_disagreement() {
        let facts = facts(1, 200, 100, &[]);
        assert_eq!(judge_missing(Some(Lsn(100)), Lsn::INVALID, "the checkpoint", &facts), Ok(()));
        for (unread_slot_at, known) in [(None, 0), (Some(Lsn(90)), 0), (Some(Lsn(100)), 150)] {
            let error = judge_missing(unread_slot_at, Lsn(known), "the checkpoint", &facts).unwrap_err().to_string();
            assert!(error.contains("at 0/64 has been read"), "{error}");
            assert_eq!(error.contains("by this process up to 0/96"), known == 150, "{error}");
        }
    }

    #[test]
    fn a_slot_that_a_store_knows_is_not_recreated() {
        let verdict = |identifier, slot| judge_new_slot(&stored(1, 100), "the state file", identifier, slot);
        assert!(matches!(verdict("7", "s"), Err(Disagreement::SlotMissing { .. })));
        assert!(matches!(verdict("8", "s"), Err(Disagreement::OtherCluster { .. })));
        assert!(matches!(verdict("7", "t"), Err(Disagreement::OtherSlot { .. })));
    }

    #[test]
    fn a_timeline_history_is_read_line_by_line() {
        let text = "1\t0/3000060\tno recovery target specified\n\n# comment\n2\t1/A0\treason\n";
        let switches = parse_timeline_history(text).unwrap();
        assert_eq!(switches.len(), 2);
        assert_eq!(switches[1], Switch { timeline: 2, lsn: "1/A0".parse().unwrap() });
        assert_eq!(parse_timeline_history("1\t0/3000060\n2\tgone\n"), None);
    }

    #[test]
    fn an_initial_snapshot_with_a_table_that_cannot_be_read_in_chunks_is_refused() {
        use crate::snapshot::progress::Progress;
        let left = r#"{"is_initial":true,"tables":[{"oid":1,"schema":"a","table":"b"}],"keyless":[{"oid":2,"schema":"c","table":"d"}]}"#;
        let left: Progress = serde_json::from_str(left).unwrap();
        let unfinished = Stored { snapshot: Some(left), ..stored(1, 150) };
        let error = judge(Some(&unfinished), "the state file", &facts(1, 200, 100, &[])).unwrap_err();
        assert!(error.to_string().contains("c.d without a key"), "{error}");
        let rest = unfinished.without_keyless();
        assert_eq!(judge(Some(&rest), "the state file", &facts(1, 200, 100, &[])).map(|start| start.lsn), Ok(Lsn(150)));
        assert_eq!(rest.snapshot.map(|left| left.tables.len()), Some(1), "the others are read");
    }
}
