//! The units of confirmation that are in flight: a preallocated ring of entries.
//!
//! An entry is a transaction or a non-transactional logical message (later also a snapshot chunk or a heartbeat). It is
//! opened with its first record. It counts the records that no delivery report has settled yet. It is sealed when no
//! more records can join it. The LSN to confirm follows from the contiguous prefix of sealed and settled entries. The
//! ring does not depend on libpq or Kafka.

use crate::change::Ticket;
use crate::lsn::Lsn;

/// One unit of confirmation.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Records that the sink has taken and that are not settled yet.
    outstanding: u64,
    /// The LSN for messages: that of the commit record, or of the logical message.
    position: Lsn,
    /// The position to confirm once this entry and all entries before it are settled; `None` while records can still
    /// join.
    confirm: Option<Confirm>,
}

/// The position that an entry confirms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirm {
    /// Everything up to this LSN is delivered: the records of the entry, and WAL after them that has no records.
    pub lsn: Lsn,
    /// The end of the last records.
    pub records_end: Lsn,
}

impl Confirm {
    /// The greater value of each field.
    fn max(self, other: Confirm) -> Confirm {
        Confirm { lsn: self.lsn.max(other.lsn), records_end: self.records_end.max(other.records_end) }
    }
}

/// A fixed number of entries. The oldest one is confirmed first.
#[derive(Debug)]
pub struct Ring {
    entries: Box<[Entry]>,
    /// Sequence number of the oldest entry.
    oldest: u64,
    /// Sequence number of the next entry to be opened.
    next: u64,
    /// Unsettled records of all entries.
    outstanding: u64,
}

/// The ticket belongs to no entry in flight: a defect of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record was settled twice, or was never in flight (ticket {0:?})")]
pub struct UnknownTicket(pub Ticket);

impl Ring {
    /// Creates a ring and allocates all of its `capacity` entries.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "the ring has no entries");
        Ring { entries: vec![Entry::default(); capacity].into_boxed_slice(), oldest: 0, next: 0, outstanding: 0 }
    }

    /// The number of entries in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.next - self.oldest).expect("the ring never holds more entries than its capacity")
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == self.oldest
    }

    /// Whether another entry can be opened.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.count() < self.entries.len()
    }

    /// The number of records that no delivery report has settled.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Opens an entry at `position`; returns `None` if the ring is full.
    pub fn open(&mut self, position: Lsn) -> Option<Ticket> {
        if !self.has_room() {
            return None;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        *self.at(ticket) = Entry { outstanding: 0, position, confirm: None };
        Some(ticket)
    }

    /// Adds `records` to the unsettled records of the entry.
    ///
    /// # Errors
    /// If no entry in flight has this ticket.
    pub fn add(&mut self, ticket: Ticket, records: u32) -> Result<(), UnknownTicket> {
        self.entry(ticket)?.outstanding += u64::from(records);
        self.outstanding += u64::from(records);
        Ok(())
    }

    /// Settles records of the entry.
    ///
    /// # Errors
    /// If no entry in flight has this ticket, or if the entry has fewer unsettled records.
    pub fn settle(&mut self, ticket: Ticket, records: u32) -> Result<(), UnknownTicket> {
        let entry = self.entry(ticket)?;
        entry.outstanding = entry.outstanding.checked_sub(u64::from(records)).ok_or(UnknownTicket(ticket))?;
        let outstanding = self.outstanding.checked_sub(u64::from(records));
        self.outstanding = outstanding.expect("the ring counts the records of all its entries");
        Ok(())
    }

    /// Closes the entry to more records. `confirm` can be confirmed once this entry and all entries before it are
    /// settled.
    ///
    /// # Errors
    /// If no entry in flight has this ticket.
    pub fn seal(&mut self, ticket: Ticket, confirm: Lsn) -> Result<(), UnknownTicket> {
        let entry = self.entry(ticket)?;
        assert!(entry.confirm.is_none(), "the entry is already sealed");
        entry.confirm = Some(Confirm { lsn: confirm, records_end: confirm });
        Ok(())
    }

    /// Raises the position that the newest entry confirms, for WAL after the entry that has no records. Does nothing if
    /// the newest entry is still open or the ring is empty.
    pub fn extend_newest(&mut self, confirm: Lsn) {
        if self.is_empty() {
            return;
        }
        if let Some(sealed) = &mut self.at(Ticket(self.next - 1)).confirm {
            sealed.lsn = confirm.max(sealed.lsn);
        }
    }

    /// Limits the positions that entries confirm to `limit`, but never below the end of their records. Call it when the
    /// WAL of another server diverges there from the WAL that was read.
    pub fn cut(&mut self, limit: Lsn) {
        for number in self.oldest..self.next {
            if let Some(sealed) = &mut self.at(Ticket(number)).confirm {
                sealed.lsn = sealed.lsn.min(limit).max(sealed.records_end);
            }
        }
    }

    /// The greatest positions that the entries in flight will confirm; `None` if no entry in flight is sealed.
    #[must_use]
    pub fn greatest_confirm(&self) -> Option<Confirm> {
        let sealed = (self.oldest..self.next).filter_map(|number| self.entries[self.index_of(Ticket(number))].confirm);
        sealed.reduce(Confirm::max)
    }

    /// Discards everything in flight; the records are sent again. Tickets given out so far belong to no entry any more.
    pub fn clear(&mut self) {
        self.oldest = self.next;
        self.outstanding = 0;
    }

    /// Removes the settled prefix. Returns the greatest positions that can now be confirmed, or `None` if no entry was
    /// removed.
    pub fn advance(&mut self) -> Option<Confirm> {
        let mut confirmed: Option<Confirm> = None;
        while !self.is_empty() {
            let Entry { outstanding: 0, confirm: Some(confirm), .. } = *self.at(Ticket(self.oldest)) else {
                break;
            };
            confirmed = Some(confirmed.map_or(confirm, |greatest| greatest.max(confirm)));
            self.oldest += 1;
        }
        assert!(!self.is_empty() || self.outstanding == 0, "a record is outstanding, but no entry waits for it");
        confirmed
    }

    /// The position of the entry, for messages; `None` if the entry is not in flight.
    #[must_use]
    pub fn position(&self, ticket: Ticket) -> Option<Lsn> {
        self.holds(ticket).then(|| self.entries[self.index_of(ticket)].position)
    }

    fn holds(&self, ticket: Ticket) -> bool {
        (self.oldest..self.next).contains(&ticket.0)
    }

    fn index_of(&self, ticket: Ticket) -> usize {
        usize::try_from(ticket.0 % self.entries.len() as u64).expect("an index is below the ring's capacity")
    }

    fn at(&mut self, ticket: Ticket) -> &mut Entry {
        let index = self.index_of(ticket);
        &mut self.entries[index]
    }

    fn entry(&mut self, ticket: Ticket) -> Result<&mut Entry, UnknownTicket> {
        if self.holds(ticket) { Ok(self.at(ticket)) } else { Err(UnknownTicket(ticket)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirm(lsn: u64, records_end: u64) -> Option<Confirm> {
        Some(Confirm { lsn: Lsn(lsn), records_end: Lsn(records_end) })
    }

    fn sealed(ring: &mut Ring, records: u32, confirm: u64) -> Ticket {
        let ticket = ring.open(Lsn(confirm - 1)).unwrap();
        ring.add(ticket, records).unwrap();
        ring.seal(ticket, Lsn(confirm)).unwrap();
        ticket
    }

    #[test]
    fn a_later_success_does_not_move_past_an_earlier_record() {
        let mut ring = Ring::with_capacity(4);
        let first = sealed(&mut ring, 2, 10);
        let second = sealed(&mut ring, 1, 20);
        ring.settle(second, 1).unwrap();
        assert_eq!(ring.advance(), None);
        ring.settle(first, 1).unwrap();
        assert_eq!(ring.advance(), None);
        ring.settle(first, 1).unwrap();
        assert_eq!(ring.advance(), confirm(20, 20));
        assert!(ring.is_empty());
    }

    #[test]
    fn an_open_entry_is_not_confirmed_though_all_its_records_are_settled() {
        let mut ring = Ring::with_capacity(4);
        let ticket = ring.open(Lsn(9)).unwrap();
        ring.add(ticket, 1).unwrap();
        ring.settle(ticket, 1).unwrap();
        assert_eq!(ring.advance(), None);
        ring.seal(ticket, Lsn(10)).unwrap();
        assert_eq!(ring.advance(), confirm(10, 10));
    }

    #[test]
    fn a_full_ring_opens_no_entry_until_the_oldest_is_confirmed() {
        let mut ring = Ring::with_capacity(2);
        let first = sealed(&mut ring, 1, 10);
        sealed(&mut ring, 1, 20);
        assert_eq!(ring.open(Lsn(30)), None);
        ring.settle(first, 1).unwrap();
        assert_eq!(ring.advance(), confirm(10, 10));
        assert!(ring.open(Lsn(30)).is_some());
    }

    #[test]
    fn an_empty_transaction_joins_the_newest_entry() {
        let mut ring = Ring::with_capacity(2);
        ring.extend_newest(Lsn(5));
        assert_eq!(ring.advance(), None);
        let ticket = sealed(&mut ring, 1, 10);
        ring.extend_newest(Lsn(30));
        // A lower position changes nothing.
        ring.extend_newest(Lsn(20));
        assert_eq!(ring.advance(), None);
        ring.settle(ticket, 1).unwrap();
        assert_eq!(ring.advance(), confirm(30, 10));
    }

    #[test]
    fn what_is_in_flight_knows_the_greatest_position_that_it_will_confirm() {
        let mut ring = Ring::with_capacity(4);
        assert_eq!(ring.greatest_confirm(), None);
        sealed(&mut ring, 1, 20);
        // A message that precedes it in the WAL and is sealed after it.
        sealed(&mut ring, 1, 10);
        ring.open(Lsn(90)).unwrap();
        assert_eq!(ring.greatest_confirm(), confirm(20, 20));
    }

    #[test]
    fn a_position_that_no_record_belongs_to_is_cut_and_the_end_of_a_record_is_not() {
        let mut ring = Ring::with_capacity(2);
        sealed(&mut ring, 1, 10);
        ring.extend_newest(Lsn(30));
        assert_eq!(ring.greatest_confirm(), confirm(30, 10));
        ring.cut(Lsn(40));
        assert_eq!(ring.greatest_confirm(), confirm(30, 10));
        ring.cut(Lsn(20));
        assert_eq!(ring.greatest_confirm(), confirm(20, 10));
        ring.cut(Lsn(5));
        assert_eq!(ring.greatest_confirm(), confirm(10, 10));
    }

    #[test]
    fn a_ring_that_was_cleared_knows_none_of_its_tickets() {
        let mut ring = Ring::with_capacity(2);
        let ticket = sealed(&mut ring, 1, 10);
        ring.clear();
        assert!(ring.is_empty());
        assert_eq!(ring.outstanding(), 0);
        assert_eq!(ring.settle(ticket, 1), Err(UnknownTicket(ticket)));
        assert_ne!(ring.open(Lsn(9)), Some(ticket));
    }

    #[test]
    #[should_panic(expected = "the entry is already sealed")]
    fn an_entry_is_sealed_once() {
        let mut ring = Ring::with_capacity(2);
        let ticket = sealed(&mut ring, 1, 10);
        let _ = ring.seal(ticket, Lsn(20));
    }

    #[test]
    fn a_record_settled_twice_is_a_defect() {
        let mut ring = Ring::with_capacity(2);
        let ticket = sealed(&mut ring, 1, 10);
        ring.settle(ticket, 1).unwrap();
        assert_eq!(ring.settle(ticket, 1), Err(UnknownTicket(ticket)));
        ring.advance();
        assert_eq!(ring.settle(ticket, 1), Err(UnknownTicket(ticket)));
        assert_eq!(ring.seal(Ticket(7), Lsn(1)), Err(UnknownTicket(Ticket(7))));
    }
}
