//! The records that are queued or in flight in librdkafka. Each has a number that its delivery report returns, because
//! two records of one transaction can have the same topic, key and size.
//!
//! Invariant: a number belongs to at most one record, from the time it is queued until its report is processed.

use crate::change::Ticket;
use crate::limits::{RECORDS_IN_FLIGHT_MAX, RECORDS_PER_CHANGE_MAX};
use crate::lsn::Lsn;
use crate::record::Destination;
use crate::sink::kafka::client::request_size::REQUEST_BYTES_MAX_DEFAULT;

/// The maximum number of records in librdkafka. The sink takes a whole change even if only its first record fits below
/// the limit.
pub const FLIGHT_MAX: usize = (RECORDS_IN_FLIGHT_MAX + RECORDS_PER_CHANGE_MAX) as usize;

/// Identifies a record within its unit of confirmation (a transaction, or a message outside a transaction). It stays
/// the same when the unit is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordinal {
    /// The number of the change in its unit, starting at 0.
    pub change: u64,
    /// The number of the record in its change, starting at 0.
    pub record: u32,
}

/// Numbers the changes of each unit.
#[derive(Debug, Default)]
pub struct Numbering {
    unit: Option<Ticket>,
    next: u64,
    reads: u64,
}

impl Numbering {
    /// The number of the next change of this unit.
    pub fn next(&mut self, unit: Ticket) -> u64 {
        if self.unit != Some(unit) {
            (self.unit, self.next) = (Some(unit), 0);
        }
        let number = self.next;
        self.next += 1;
        number
    }

    /// The number of the next row of a snapshot. All rows of a snapshot have the same LSN, so the numbers do not start again:
    /// a row must not be taken for another one that was rejected.
    pub fn next_read(&mut self) -> u64 {
        let number = self.reads;
        self.reads += 1;
        number
    }
}

/// The opaque that librdkafka keeps with a record and returns in its delivery report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordNumber(pub usize);

/// The number of walcat's own records, which belong to no entry.
pub const OWN: RecordNumber = RecordNumber(usize::MAX);

/// A record that librdkafka has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The entry that it belongs to.
    pub ticket: Ticket,
    /// Its place in the unit of confirmation.
    pub ordinal: Ordinal,
    /// Where it goes; none for a dead letter.
    pub destination: Option<Destination>,
    /// The commit LSN of its transaction; its own LSN for a message outside a transaction.
    pub lsn: Lsn,
    /// Bytes of key and value.
    pub bytes: usize,
}

impl InFlight {
    /// Whether no request of the default size carries it without compression.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.bytes as u64 >= REQUEST_BYTES_MAX_DEFAULT
    }
}

/// The records in flight.
#[derive(Debug, Default)]
pub struct Flight {
    /// By number, each with its place in the order of arrival; `None` if the number is free.
    known: Vec<Option<(u64, InFlight)>>,
    arrived: u64,
    free: Vec<usize>,
    records: usize,
    bytes: usize,
}

impl Flight {
    /// How many records are in flight.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// Their size as counted in `[memory] max`.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The number for a record to queue. Call [`Flight::add`] if it was queued, otherwise [`Flight::give_back`].
    pub fn number(&mut self, record: InFlight) -> RecordNumber {
        let number = self.free.pop().unwrap_or_else(|| {
            self.known.push(None);
            self.known.len() - 1
        });
        assert!(number < FLIGHT_MAX, "more records are in flight than the limit allows");
        self.known[number] = Some((self.arrived, record));
        self.arrived += 1;
        RecordNumber(number)
    }

    /// The record with this number was not queued.
    pub fn give_back(&mut self, number: RecordNumber) {
        self.take(number);
    }

    /// A record was queued.
    pub fn add(&mut self, size: usize) {
        self.records += 1;
        self.bytes += size;
    }

    /// The delivery report of a record arrived. Returns the record, or `None` for one of walcat's own.
    pub fn remove(&mut self, number: RecordNumber, size: usize) -> Option<(Ticket, Ordinal)> {
        assert!(self.records > 0 && self.bytes >= size, "a delivery report for a record that is not in flight");
        self.records -= 1;
        self.bytes -= size;
        (number != OWN).then(|| self.take(number)).map(|record| (record.ticket, record.ordinal))
    }

    /// The record that the others probably wait for: the oldest huge one, otherwise the oldest one.
    #[must_use]
    pub fn suspect(&self) -> Option<&InFlight> {
        let known = self.known.iter().flatten();
        known.min_by_key(|(arrived, record)| (!record.is_huge(), *arrived)).map(|(_, record)| record)
    }

    fn take(&mut self, number: RecordNumber) -> InFlight {
        let found = self.known.get_mut(number.0).and_then(Option::take);
        let found = found.expect("a delivery report for a record that is not in flight");
        self.free.push(number.0);
        found.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(unit: u64, ordinal: Ordinal) -> InFlight {
        InFlight { ticket: Ticket(unit), ordinal, destination: Some(Destination::Message), lsn: Lsn(unit), bytes: 90 }
    }

    #[test]
    fn the_record_that_the_others_wait_for_is_the_oldest_or_one_that_no_request_carries() {
        let mut flight = Flight::default();
        assert_eq!(flight.suspect(), None);
        let ordinal = Ordinal { change: 0, record: 0 };
        let first = flight.number(record(1, ordinal));
        flight.add(100);
        flight.number(record(2, ordinal));
        flight.add(100);
        assert_eq!(flight.suspect(), Some(&record(1, ordinal)));
        flight.remove(first, 100);
        // It has the number of the first.
        flight.number(record(3, ordinal));
        assert_eq!(flight.suspect(), Some(&record(2, ordinal)));
        let huge = InFlight { bytes: 100 * 1024 * 1024, ..record(4, ordinal) };
        flight.number(huge);
        flight.number(InFlight { lsn: Lsn(5), ..huge });
        assert_eq!(flight.suspect(), Some(&huge));
    }

    #[test]
    fn records_of_one_transaction_are_told_apart_whatever_they_have_in_common() {
        let mut flight = Flight::default();
        let mut numbering = Numbering::default();
        let mut queue = |flight: &mut Flight, unit| {
            let ordinal = Ordinal { change: numbering.next(Ticket(unit)), record: 0 };
            let number = flight.number(record(unit, ordinal));
            flight.add(100);
            number
        };
        let first = queue(&mut flight, 7);
        let second = queue(&mut flight, 7);
        let other = queue(&mut flight, 8);
        let ordinal = |change| Ordinal { change, record: 0 };
        assert_eq!(flight.remove(second, 100), Some((Ticket(7), ordinal(1))));
        let again = queue(&mut flight, 8);
        assert_eq!(again, second, "a number is used again");
        assert_eq!(flight.remove(first, 100), Some((Ticket(7), ordinal(0))));
        assert_eq!(flight.remove(again, 100), Some((Ticket(8), ordinal(1))));
        assert_eq!(flight.remove(other, 100), Some((Ticket(8), ordinal(0))));
        assert!(flight.is_empty());
        assert_eq!(flight.bytes(), 0);
    }

    #[test]
    fn rows_of_a_snapshot_are_told_apart_across_units() {
        let mut numbering = Numbering::default();
        let numbers =
            [numbering.next_read(), numbering.next(Ticket(1)), numbering.next_read(), numbering.next(Ticket(2))];
        assert_eq!((numbers, numbering.next_read()), ([0, 0, 1, 0], 2));
    }

    #[test]
    fn walcats_own_records_are_counted_and_belong_to_nothing() {
        let mut flight = Flight::default();
        flight.add(10);
        assert_eq!((flight.records(), flight.bytes()), (1, 10));
        assert_eq!(flight.remove(OWN, 10), None);
        assert!(flight.is_empty());
    }

    #[test]
    fn a_record_that_was_not_queued_gives_its_number_back() {
        let mut flight = Flight::default();
        let ordinal = Ordinal { change: 0, record: 0 };
        let number = flight.number(record(1, ordinal));
        flight.give_back(number);
        assert!(flight.is_empty());
        assert_eq!(flight.number(record(2, ordinal)), number);
    }
}
