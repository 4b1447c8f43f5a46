//! Which transactions the stream has emitted although a chunk's view does not see them.
//!
//! A walsender sends a commit as soon as it is in the WAL; other sessions see it later. A view that does not see an emitted
//! transaction reads rows from before it. If the transaction began after the chunk was opened, the chunk knows its keys. If
//! it began before, the keys are not known, and the read has to wait until the transaction is visible.
//!
//! walcat does not know what was emitted before tracking began, by an earlier connection or run. Those transactions have ids
//! before the next id of that time. So a read also waits for each transaction before that id, unless it is certain that
//! it was not committed when tracking began: it was emitted since, or its session was idle in it since.
//!
//! A standby sends only what it has replayed, and what is replayed is visible, so a standby's view is never behind its stream.

use std::collections::HashSet;

use super::view::View;
use crate::limits::SNAPSHOT_EMITTED_MAX;

/// The transactions that block a read, at most this many for a message.
const NAMED_MAX: usize = 10;

/// What is known about the transactions that were emitted before tracking began.
#[derive(Debug, Default)]
enum Beginning {
    /// No view was taken yet.
    #[default]
    Unknown,
    /// They have ids before `next_xid`. Those in `open` were not committed when tracking began.
    Before { next_xid: u64, open: HashSet<u64> },
    /// All of them are visible to every later view.
    Visible,
}

/// The emitted transactions that some view may not see.
#[derive(Debug, Default)]
pub struct Tracking {
    beginning: Beginning,
    /// Begun before the present chunk was opened.
    before: HashSet<u32>,
    /// Begun since.
    since: HashSet<u32>,
}

/// Whether a chunk may be read with a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rows can be read.
    Read,
    /// The read has to wait for these transactions; some of them.
    Wait(Vec<u64>),
}

impl Tracking {
    /// A transaction of the stream begins to be emitted.
    pub fn begin(&mut self, xid: u32) {
        if self.before.len() + self.since.len() >= SNAPSHOT_EMITTED_MAX {
            // What is forgotten counts as emitted before tracking began.
            *self = Tracking::default();
        }
        self.since.insert(xid);
    }

    /// A chunk is opened: it knows the keys of the transactions that begin from now on.
    pub fn open_chunk(&mut self) {
        self.before.extend(self.since.drain());
    }

    /// Judges a view, which was taken after the chunk was opened. `next_xid` is the next id to assign, taken after tracking
    /// began.
    pub fn judge(&mut self, view: &View, next_xid: u64) -> Verdict {
        if view.is_standby() {
            self.before.clear();
            self.beginning = Beginning::Visible;
            return Verdict::Read;
        }
        // What one view sees, every later view sees.
        self.before.retain(|xid| !view.sees(*xid));
        let mut waiting: Vec<u64> = self.before.iter().map(|xid| view.widen(*xid)).take(NAMED_MAX).collect();
        if let Beginning::Unknown = self.beginning {
            self.beginning = Beginning::Before { next_xid, open: HashSet::new() };
        }
        if let Beginning::Before { next_xid, open } = &self.beginning {
            let emitted: HashSet<u64> = self.since.iter().map(|xid| view.widen(*xid)).collect();
            let unknown = view.unseen_before(*next_xid).filter(|xid| !open.contains(xid) && !emitted.contains(xid));
            waiting.extend(unknown.take(NAMED_MAX));
            if view.xmin() >= *next_xid {
                self.beginning = Beginning::Visible;
            }
        }
        waiting.sort_unstable();
        waiting.dedup();
        if waiting.is_empty() { Verdict::Read } else { Verdict::Wait(waiting) }
    }

    /// These transactions are not committed now: their sessions are idle in them.
    pub fn are_open(&mut self, view: &View, xids: &[u32]) {
        if let Beginning::Before { open, .. } = &mut self.beginning {
            open.extend(xids.iter().map(|xid| view.widen(*xid)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> View {
        View::parse(text, false).unwrap()
    }

    /// Tracking that knows about all transactions since the beginning.
    fn tracking() -> Tracking {
        Tracking { beginning: Beginning::Visible, ..Tracking::default() }
    }

    #[test]
    fn a_read_waits_for_a_transaction_that_was_emitted_before_it_is_visible() {
        for (invisible, is_visible) in [("100:105:100", "101:105:"), ("100:100:", "105:105:")] {
            let mut tracking = tracking();
            tracking.begin(100);
            tracking.open_chunk();
            assert_eq!(tracking.judge(&view(invisible), 106), Verdict::Wait(vec![100]), "{invisible}");
            assert_eq!(tracking.judge(&view(is_visible), 106), Verdict::Read);
            assert!(tracking.before.is_empty(), "kept though it is visible");
        }
    }

    #[test]
    fn a_transaction_that_began_after_the_chunk_was_opened_blocks_only_the_next_chunk() {
        let mut tracking = tracking();
        tracking.open_chunk();
        tracking.begin(100);
        assert_eq!(tracking.judge(&view("100:105:100"), 106), Verdict::Read);
        tracking.open_chunk();
        assert_eq!(tracking.judge(&view("100:105:100"), 106), Verdict::Wait(vec![100]));
    }

    #[test]
    fn what_was_in_progress_when_tracking_began_blocks_until_it_is_known_not_to_be_emitted() {
        let mut tracking = Tracking::default();
        tracking.open_chunk();
        // 103 has no end yet, and no view lists it.
        let first = view("100:103:100,101");
        assert_eq!(tracking.judge(&first, 104), Verdict::Wait(vec![100, 101, 103]));
        tracking.are_open(&first, &[100]);
        // 110 began later.
        assert_eq!(tracking.judge(&view("100:112:100,101,110"), 113), Verdict::Wait(vec![101]));
        assert_eq!(tracking.judge(&view("100:112:100,110"), 113), Verdict::Read);
        // It is emitted under tracking, and its commit is not visible.
        tracking.begin(100);
        assert_eq!(tracking.judge(&view("100:112:100"), 113), Verdict::Read);
        tracking.open_chunk();
        assert_eq!(tracking.judge(&view("100:112:100"), 113), Verdict::Wait(vec![100]));
        assert_eq!(tracking.judge(&view("112:112:"), 113), Verdict::Read);
    }

    #[test]
    fn a_standby_sends_only_what_is_visible_there() {
        let mut tracking = Tracking::default();
        tracking.begin(100);
        tracking.open_chunk();
        assert_eq!(tracking.judge(&View::parse("90:105:", true).unwrap(), 106), Verdict::Read);
        // It is promoted.
        assert_eq!(tracking.judge(&view("90:105:90"), 106), Verdict::Read);
    }

    #[test]
    fn the_transactions_kept_are_bounded_and_forgotten_ones_count_as_unknown() {
        let mut tracking = tracking();
        for xid in 0..=u32::try_from(SNAPSHOT_EMITTED_MAX).unwrap() {
            tracking.begin(1_000 + xid);
        }
        tracking.open_chunk();
        assert_eq!(tracking.before.len(), 1);
        assert_eq!(tracking.judge(&view("1000:900000:1000"), 900_001), Verdict::Wait(vec![1_000, 900_000]));
    }
}
