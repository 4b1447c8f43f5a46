//! What is in flight: a preallocated ring of entries, one per unit of confirmation.
//!
//! An entry is a transaction, or a non-transactional logical message (later a snapshot chunk or a heartbeat). It is
//! opened at the first record, counts the records that no delivery report has settled, and is sealed when no more
//! records will join it. The contiguous prefix of entries that are sealed and settled gives the LSN to confirm.
//! The ring knows neither libpq nor Kafka.

use crate::change::Ticket;
use crate::lsn::Lsn;

/// One unit of confirmation.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Records handed to the sink and not settled yet.
    outstanding: u64,
    /// The LSN to name in messages: of the commit record, or of the message.
    position: Lsn,
    /// What is confirmed once this entry and all before it are settled; none while records may still join.
    confirm: Option<Confirm>,
}

/// The position that an entry confirms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirm {
    /// All up to it is delivered: what the entry holds, and what has no records after it.
    pub lsn: Lsn,
    /// The end of what has records.
    pub records_end: Lsn,
}

impl Confirm {
    /// The greater of both, each for itself.
    fn max(self, other: Confirm) -> Confirm {
        Confirm { lsn: self.lsn.max(other.lsn), records_end: self.records_end.max(other.records_end) }
    }
}

/// A fixed number of entries; the oldest is the next to be confirmed.
#[derive(Debug)]
pub struct Ring {
    entries: Box<[Entry]>,
    /// Sequence number of the oldest entry.
    oldest: u64,
    /// Sequence number of the next entry to be opened.
    next: u64,
    /// Records of all entries that are not settled.
    outstanding: u64,
}

/// A ticket that no entry in flight has: a defect of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record was settled twice, or was never in flight (ticket {0:?})")]
pub struct UnknownTicket(pub Ticket);

impl Ring {
    /// A ring of `capacity` entries, all of them allocated now.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "a ring without entries");
        Ring { entries: vec![Entry::default(); capacity].into_boxed_slice(), oldest: 0, next: 0, outstanding: 0 }
    }

    /// How many entries are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.next - self.oldest).expect("there are no more entries than the ring has")
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

    /// Records that no delivery report has settled.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Opens an entry at `position`; none when the ring is full.
    pub fn open(&mut self, position: Lsn) -> Option<Ticket> {
        if !self.has_room() {
            return None;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        *self.at(ticket) = Entry { outstanding: 0, position, confirm: None };
        Some(ticket)
    }

    /// Adds `records` to what the entry waits for.
    ///
    /// # Errors
    /// When no entry in flight has this ticket.
    pub fn add(&mut self, ticket: Ticket, records: u32) -> Result<(), UnknownTicket> {
        self.entry(ticket)?.outstanding += u64::from(records);
        self.outstanding += u64::from(records);
        Ok(())
    }

    /// Settles records of the entry.
    ///
    /// # Errors
    /// When no entry in flight has this ticket, or fewer of its records are under way.
    pub fn settle(&mut self, ticket: Ticket, records: u32) -> Result<(), UnknownTicket> {
        let entry = self.entry(ticket)?;
        entry.outstanding = entry.outstanding.checked_sub(u64::from(records)).ok_or(UnknownTicket(ticket))?;
        let outstanding = self.outstanding.checked_sub(u64::from(records));
        self.outstanding = outstanding.expect("the ring counts the records of all its entries");
        Ok(())
    }

    /// Closes the entry for more records; `confirm` may be confirmed once it and all before it are settled.
    ///
    /// # Errors
    /// When no entry in flight has this ticket.
    pub fn seal(&mut self, ticket: Ticket, confirm: Lsn) -> Result<(), UnknownTicket> {
        let entry = self.entry(ticket)?;
        assert!(entry.confirm.is_none(), "an entry is sealed twice");
        entry.confirm = Some(Confirm { lsn: confirm, records_end: confirm });
        Ok(())
    }

    /// Raises what the newest entry confirms, for a position after it that no record belongs to. An entry that is still
    /// open, or an empty ring, is left alone.
    pub fn extend_newest(&mut self, confirm: Lsn) {
        if self.is_empty() {
            return;
        }
        if let Some(sealed) = &mut self.at(Ticket(self.next - 1)).confirm {
            sealed.lsn = confirm.max(sealed.lsn);
        }
    }

    /// Cuts what entries confirm to `limit`, but never below the end of their records: another server's WAL parts from the
    /// one that was read there.
    pub fn cut(&mut self, limit: Lsn) {
        for number in self.oldest..self.next {
            if let Some(sealed) = &mut self.at(Ticket(number)).confirm {
                sealed.lsn = sealed.lsn.min(limit).max(sealed.records_end);
            }
        }
    }

    /// The greatest positions that entries in flight will confirm; none when nothing in flight is sealed.
    #[must_use]
    pub fn greatest_confirm(&self) -> Option<Confirm> {
        let sealed = (self.oldest..self.next).filter_map(|number| self.entries[self.index_of(Ticket(number))].confirm);
        sealed.reduce(Confirm::max)
    }

    /// Gives up all that is in flight: their records will come again. Tickets given so far belong to no entry any more.
    pub fn clear(&mut self) {
        self.oldest = self.next;
        self.outstanding = 0;
    }

    /// Drops the settled prefix; the greatest positions that it allows to confirm, if any entry was dropped.
    pub fn advance(&mut self) -> Option<Confirm> {
        let mut confirmed: Option<Confirm> = None;
        while !self.is_empty() {
            let Entry { outstanding: 0, confirm: Some(confirm), .. } = *self.at(Ticket(self.oldest)) else {
                break;
            };
            confirmed = Some(confirmed.map_or(confirm, |greatest| greatest.max(confirm)));
            self.oldest += 1;
        }
        assert!(!self.is_empty() || self.outstanding == 0, "a record is outstanding, and no entry waits for it");
        confirmed
    }

    /// The position of the entry, for messages; none when it is not in flight.
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
        // A message before it in the WAL, sealed after it.
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
    #[should_panic(expected = "an entry is sealed twice")]
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
