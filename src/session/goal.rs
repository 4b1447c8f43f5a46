//! The end of the job: `--once` and `--endpos`, judged by positions only.

use crate::lsn::Lsn;

/// The end of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The job has no end.
    Forever,
    /// After every transaction that ends at or before the server's flush position at the start. walcat compares the
    /// target but never confirms it, because it may lie inside a record.
    Once { target: Lsn },
    /// After every transaction whose commit LSN is at or before this LSN. `server_flushed` is the server's flush position at
    /// the start: if the LSN lies before it, a commit record may start exactly at the LSN, so walcat waits for it.
    EndLsn { lsn: Lsn, server_flushed: Lsn },
}

impl Goal {
    /// The position where the job ends, as far as it is known.
    #[must_use]
    pub fn end(self) -> Option<Lsn> {
        match self {
            Goal::Forever => None,
            Goal::Once { target } => Some(target),
            Goal::EndLsn { lsn, server_flushed } => Some(lsn.min(server_flushed)),
        }
    }

    /// Whether the whole job lies before `position`, if everything before `position` has been read.
    #[must_use]
    pub fn is_reached(self, position: Lsn) -> bool {
        match self {
            Goal::Forever => false,
            Goal::Once { target } => position >= target,
            Goal::EndLsn { lsn, server_flushed } if lsn < server_flushed => position > lsn,
            Goal::EndLsn { lsn, .. } => position >= lsn,
        }
    }

    /// Whether a transaction with this commit LSN, or a message at this LSN, is past the end of the job.
    #[must_use]
    pub fn is_beyond(self, lsn: Lsn) -> bool {
        match self {
            Goal::Forever => false,
            Goal::Once { target } => lsn >= target,
            Goal::EndLsn { lsn: end, .. } => lsn > end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_when_nothing_wanted_can_follow() {
        let once = Goal::Once { target: Lsn(100) };
        let inside = Goal::EndLsn { lsn: Lsn(100), server_flushed: Lsn(200) };
        let at_the_end = Goal::EndLsn { lsn: Lsn(100), server_flushed: Lsn(100) };
        for (goal, position, reached) in [
            (Goal::Forever, u64::MAX, false),
            (once, 99, false),
            (once, 100, true),
            (inside, 99, false),
            // A commit record may start at 100, and it belongs to the job.
            (inside, 100, false),
            (inside, 101, true),
            (at_the_end, 99, false),
            (at_the_end, 100, true),
        ] {
            assert_eq!(goal.is_reached(Lsn(position)), reached, "{goal:?} at {position}");
        }
    }

    #[test]
    fn a_commit_is_beyond_the_goal_by_its_commit_lsn() {
        let once = Goal::Once { target: Lsn(100) };
        let end = Goal::EndLsn { lsn: Lsn(100), server_flushed: Lsn(200) };
        for (goal, commit_lsn, beyond) in [
            (Goal::Forever, u64::MAX, false),
            (once, 99, false),
            // It ends after the target.
            (once, 100, true),
            (end, 100, false),
            (end, 101, true),
        ] {
            assert_eq!(goal.is_beyond(Lsn(commit_lsn)), beyond, "{goal:?} at {commit_lsn}");
        }
    }
}
