//! What a read sees: PostgreSQL's snapshot as `pg_current_snapshot()` prints it.

use crate::lsn::Lsn;

/// The bytes of a page's header, and of the first page's of a segment.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// The end of the records before an insert position. `pg_current_wal_insert_lsn()` on a new page is after the page's header,
/// where no record ends: an idle server would never send that position.
#[must_use]
pub fn end_of_records(insert: Lsn, block: u64, segment: u64) -> Lsn {
    let is_after = |page: u64, header: u64| page != 0 && insert.0 % page == header;
    if is_after(segment, LONG_HEADER) {
        Lsn(insert.0 - LONG_HEADER)
    } else if is_after(block, SHORT_HEADER) {
        Lsn(insert.0 - SHORT_HEADER)
    } else {
        insert
    }
}

/// A snapshot, with 64-bit transaction ids.
///
/// On a primary it lists the top-level transactions in progress between `xmin` and `xmax`. On a standby the list is empty
/// although transactions are in progress: which of the transactions from `xmin` on are visible is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    xmin: u64,
    xmax: u64,
    /// In ascending order.
    running: Vec<u64>,
    is_standby: bool,
}

impl View {
    /// Parses `xmin:xmax:xid,xid`. None for a text in another format.
    #[must_use]
    pub fn parse(text: &str, is_standby: bool) -> Option<Self> {
        let mut fields = text.split(':');
        let (xmin, xmax) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let list = fields.next()?.split(',').filter(|xid| !xid.is_empty());
        let mut running = list.map(|xid| xid.parse().ok()).collect::<Option<Vec<u64>>>()?;
        running.sort_unstable();
        (fields.next().is_none() && xmin <= xmax).then_some(View { xmin, xmax, running, is_standby })
    }

    /// Whether it was taken during recovery.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.is_standby
    }

    /// Every transaction before this one has ended.
    #[must_use]
    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    /// The 64-bit form of a transaction id of the stream: the one nearest to this view.
    #[must_use]
    pub fn widen(&self, xid: u32) -> u64 {
        let (high, low) = (self.xmax >> 32, self.xmax & 0xFFFF_FFFF);
        let epoch = match i128::from(xid) - i128::from(low) {
            distance if distance > 1 << 31 => high.saturating_sub(1),
            distance if distance < -(1 << 31) => high + 1,
            _ => high,
        };
        (epoch << 32) | u64::from(xid)
    }

    /// Whether a committed transaction of the stream is visible for certain.
    #[must_use]
    pub fn sees(&self, xid: u32) -> bool {
        self.sees_wide(self.widen(xid))
    }

    fn sees_wide(&self, xid: u64) -> bool {
        xid < self.xmin || !self.is_standby && xid < self.xmax && self.running.binary_search(&xid).is_err()
    }

    /// The transactions before `end` that it does not see, on a primary. From `xmax` on every assigned id is in progress.
    pub fn unseen_before(&self, end: u64) -> impl Iterator<Item = u64> {
        let listed = self.running.iter().copied().filter(move |xid| *xid < end);
        listed.chain(self.xmax..end.max(self.xmax))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_after_the_header_of_a_page_is_the_end_of_the_page_before() {
        for (insert, end) in [
            (0x0100_0028, 0x0100_0000),
            (0x0100_2018, 0x0100_2000),
            (0x0100_2028, 0x0100_2028),
            (0x0100_0018, 0x0100_0000),
            (0x0100_2000, 0x0100_2000),
            (0x0100_2058, 0x0100_2058),
        ] {
            assert_eq!(end_of_records(Lsn(insert), 8_192, 16 << 20), Lsn(end), "{insert:x}");
        }
    }

    #[test]
    fn a_snapshot_is_parsed_or_refused_whole() {
        let view = View::parse("100:110:107,100", false).unwrap();
        let seen: Vec<u32> = (98..112).filter(|xid| view.sees(*xid)).collect();
        assert_eq!(seen, [98, 99, 101, 102, 103, 104, 105, 106, 108, 109]);
        assert!(View::parse("7:7:", false).is_some());
        for text in ["", "7", "7:8", "8:7:", "7:8:x", "7:8::", "-1:8:"] {
            assert_eq!(View::parse(text, false), None, "{text}");
        }
    }

    #[test]
    fn a_standbys_snapshot_lists_nothing_so_it_sees_only_what_is_before_its_xmin() {
        let view = View::parse("100:110:", true).unwrap();
        assert_eq!((view.sees(99), view.sees(100), view.sees(109)), (true, false, false));
    }

    #[test]
    fn an_xid_of_the_stream_is_widened_to_the_nearest_epoch() {
        let next = |xmax: u64| View { xmin: xmax, xmax, running: Vec::new(), is_standby: false };
        let epoch = 1_u64 << 32;
        for (xmax, xid, wide) in [
            (1_000, 999, 999),
            (5 * epoch + 10, 9, 5 * epoch + 9),
            (5 * epoch + 10, u32::MAX, 5 * epoch - 1),
            (6 * epoch - 1, 3, 6 * epoch + 3),
            (6 * epoch - 1, u32::MAX - 7, 6 * epoch - 8),
        ] {
            assert_eq!(next(xmax).widen(xid), wide, "{xid} near {xmax}");
        }
    }

    #[test]
    fn what_a_primary_does_not_see_is_listed_or_not_completed() {
        let view = View::parse("100:104:101,103", false).unwrap();
        assert_eq!(view.unseen_before(107).collect::<Vec<_>>(), [101, 103, 104, 105, 106]);
        assert_eq!(view.unseen_before(103).collect::<Vec<_>>(), [101]);
    }
}
