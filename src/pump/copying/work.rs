//! What a snapshot still has to read: the parts of its tables, and the place of each row in the whole.
//!
//! A big table is read in parts, each a range of its pages, so that all connections stay busy. The last row of a table and
//! of the snapshot is marked as such, which only the end shows: one row of each table is held back, and the last row of a
//! table that has ended until another row is read.

use std::collections::VecDeque;

use crate::change::Marker;

/// A table with fewer pages than this is read as a whole: 16 MiB.
const PAGES_OF_A_PART_MIN: u32 = 2_048;

/// A part has at most as many pages: 1 GiB.
const PAGES_OF_A_PART_MAX: u32 = 131_072;

/// So many parts for each connection keep all of them busy until the end.
const PARTS_PER_CONNECTION: u32 = 8;

/// A part of a table: a range of pages, without an end for the last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The table, by its place in the list.
    pub table: usize,
    first_page: u32,
    end_page: Option<u32>,
}

impl Part {
    /// The condition that selects its rows; none for a whole table.
    #[must_use]
    pub fn condition(&self) -> Option<String> {
        match (self.first_page, self.end_page) {
            (0, None) => None,
            (first, None) => Some(format!("ctid >= '({first},0)'")),
            (first, Some(end)) => Some(format!("ctid >= '({first},0)' AND ctid < '({end},0)'")),
        }
    }
}

/// A row that goes to the sink now.
#[derive(Debug, PartialEq, Eq)]
pub struct Emitted<R> {
    /// Its table.
    pub table: usize,
    /// The row.
    pub row: R,
    /// Its place.
    pub marker: Marker,
}

#[derive(Debug)]
struct Progress<R> {
    parts_left: usize,
    held: Option<R>,
    has_emitted: bool,
}

/// The work of a snapshot, and the rows that are held back.
#[derive(Debug)]
pub struct Work<R> {
    queue: VecDeque<Part>,
    tables: Vec<Progress<R>>,
    tables_left: usize,
    /// The last row of a table that has ended, if no row of another table was read that is not emitted.
    held: Option<(usize, R)>,
    /// The tables that have not ended, and of which a row was read.
    begun: usize,
    has_emitted: bool,
}

impl<R> Work<R> {
    /// The work for tables with these numbers of pages.
    #[must_use]
    pub fn new(pages: &[u32], connections: u32) -> Self {
        let mut queue = VecDeque::new();
        let table = |(table, pages): (usize, &u32)| {
            let parts = parts(table, *pages, connections);
            let progress = Progress { parts_left: parts.len(), held: None, has_emitted: false };
            queue.extend(parts);
            progress
        };
        let tables: Vec<_> = pages.iter().enumerate().map(table).collect();
        Work { queue, tables_left: tables.len(), tables, held: None, begun: 0, has_emitted: false }
    }

    /// The next part to read.
    pub fn next(&mut self) -> Option<Part> {
        self.queue.pop_front()
    }

    /// A row was read. Returns the row of the table that was read before it, or the last row of a table that has ended.
    pub fn row(&mut self, table: usize, row: R) -> Option<Emitted<R>> {
        let progress = &mut self.tables[table];
        let Some(before) = progress.held.replace(row) else {
            self.begun += 1;
            let (table, row) = self.held.take()?;
            return Some(self.last_of(table, row));
        };
        let marker = match (self.has_emitted, std::mem::replace(&mut progress.has_emitted, true)) {
            (false, _) => Marker::First,
            (true, false) => Marker::FirstInDataCollection,
            (true, true) => Marker::True,
        };
        self.has_emitted = true;
        Some(Emitted { table, row: before, marker })
    }

    /// A part has ended. If its table has ended too, returns the last row of the table, unless it may be the last of all.
    pub fn part_ended(&mut self, table: usize) -> Option<Emitted<R>> {
        let progress = &mut self.tables[table];
        progress.parts_left -= 1;
        if progress.parts_left > 0 {
            return None;
        }
        self.tables_left -= 1;
        let last = progress.held.take()?;
        self.begun -= 1;
        if self.begun > 0 {
            return Some(self.last_of(table, last));
        }
        let held = self.held.replace((table, last));
        assert!(held.is_none(), "a row was held although another one was read");
        None
    }

    fn last_of(&mut self, table: usize, row: R) -> Emitted<R> {
        let marker =
            if std::mem::replace(&mut self.has_emitted, true) { Marker::LastInDataCollection } else { Marker::First };
        Emitted { table, row, marker }
    }

    /// The last row of all, once every table has ended.
    pub fn last(&mut self) -> Option<Emitted<R>> {
        if self.tables_left > 0 {
            return None;
        }
        let (table, row) = self.held.take()?;
        Some(Emitted { table, row, marker: Marker::Last })
    }

    /// Whether every table has ended.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.tables_left == 0
    }

    /// Whether a table has ended and none of its rows is held back.
    #[must_use]
    pub fn is_emitted(&self, table: usize) -> bool {
        let is_held = self.held.as_ref().is_some_and(|(held, _)| *held == table);
        self.is_done(table) && self.tables[table].held.is_none() && !is_held
    }

    /// The row of a table that was read last, while the table is read in one part.
    #[must_use]
    pub fn last_read(&self, table: usize) -> Option<&R> {
        self.tables[table].held.as_ref()
    }

    /// Whether a table has ended.
    #[must_use]
    pub fn is_done(&self, table: usize) -> bool {
        self.tables[table].parts_left == 0
    }
}

fn parts(table: usize, pages: u32, connections: u32) -> Vec<Part> {
    let whole = vec![Part { table, first_page: 0, end_page: None }];
    if connections < 2 || pages < 2 * PAGES_OF_A_PART_MIN {
        return whole;
    }
    let wanted = pages / (connections * PARTS_PER_CONNECTION);
    let length = wanted.clamp(PAGES_OF_A_PART_MIN, PAGES_OF_A_PART_MAX);
    let count = pages / length;
    // The last part has no end: it reads what is left.
    let part = |number| {
        let end_page = (number + 1 < count).then_some((number + 1) * length);
        Part { table, first_page: number * length, end_page }
    };
    (0..count).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_big_table_is_read_in_parts_without_a_gap() {
        assert_eq!(parts(3, 0, 2), [Part { table: 3, first_page: 0, end_page: None }]);
        assert_eq!(parts(0, 4_095, 4).len(), 1);
        assert_eq!(parts(0, 1_000_000, 1).len(), 1, "one connection reads in one go");
        for (pages, connections) in [(4_096, 2), (100_000, 2), (999_999, 3), (u32::MAX, 16)] {
            let parts = parts(0, pages, connections);
            assert!(parts.len() >= 2 && parts[0].first_page == 0 && parts[parts.len() - 1].end_page.is_none());
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end_page, Some(pair[1].first_page), "{pages} {connections}");
                assert!(pair[1].first_page - pair[0].first_page <= PAGES_OF_A_PART_MAX);
            }
        }
        let conditions: Vec<_> = parts(0, 4_096, 2).iter().map(Part::condition).collect();
        let expected = ["ctid >= '(0,0)' AND ctid < '(2048,0)'", "ctid >= '(2048,0)'"];
        assert_eq!(conditions, expected.map(|text| Some(text.to_owned())));
    }

    /// Reads tables with these numbers of rows in the order of `reading`, and returns the markers.
    fn markers(counts: &[u32]) -> Vec<(usize, u32, Marker)> {
        let mut work = Work::new(&vec![0; counts.len()], 2);
        let mut emitted = Vec::new();
        while let Some(part) = work.next() {
            for row in 0..counts[part.table] {
                emitted.extend(work.row(part.table, row));
            }
            emitted.extend(work.part_ended(part.table));
        }
        assert!(work.is_read());
        emitted.extend(work.last());
        assert_eq!(work.last(), None);
        emitted.into_iter().map(|emitted| (emitted.table, emitted.row, emitted.marker)).collect()
    }

    #[test]
    fn each_row_has_its_place() {
        use Marker::{First, FirstInDataCollection, Last, LastInDataCollection, True};
        assert_eq!(markers(&[]), []);
        assert_eq!(markers(&[0, 0]), []);
        assert_eq!(markers(&[1]), [(0, 0, Last)]);
        assert_eq!(markers(&[2, 0]), [(0, 0, First), (0, 1, Last)]);
        assert_eq!(markers(&[1, 1, 0]), [(0, 0, First), (1, 0, Last)]);
        let rows = markers(&[3, 1, 3]);
        let mut places: Vec<_> = rows.iter().map(|(_, _, marker)| *marker).collect();
        assert_eq!(rows.len(), 7);
        assert_eq!(places.remove(0), First);
        assert_eq!(places.pop(), Some(Last));
        for table in 0..3 {
            let rows: Vec<_> = rows.iter().filter(|row| row.0 == table).map(|row| row.1).collect();
            assert_eq!(rows, (0..[3, 1, 3][table]).collect::<Vec<_>>(), "in order");
        }
        assert_eq!(places.iter().filter(|marker| **marker == LastInDataCollection).count(), 2);
        assert_eq!(places.iter().filter(|marker| **marker == FirstInDataCollection).count(), 1);
        assert_eq!(places.iter().filter(|marker| **marker == True).count(), 2);
    }

    #[test]
    fn the_last_row_of_a_table_is_emitted_as_soon_as_another_row_is_read() {
        let mut work = Work::new(&[0, 0, 0], 2);
        assert_eq!((work.row(0, 1), work.part_ended(0)), (None, None));
        assert!(!work.is_emitted(0), "it may be the last of all");
        assert_eq!(work.part_ended(1), None);
        assert!(work.is_emitted(1), "a table without rows");
        assert_eq!(work.row(2, 2), Some(Emitted { table: 0, row: 1, marker: Marker::First }));
        assert!(work.is_emitted(0));
        let mut work = Work::new(&[0, 0], 2);
        assert_eq!((work.row(0, 1), work.row(1, 2)), (None, None));
        assert_eq!(work.part_ended(0), Some(Emitted { table: 0, row: 1, marker: Marker::First }));
        assert!(work.is_emitted(0) && !work.is_emitted(1));
    }

    #[test]
    fn parts_of_one_table_that_are_read_at_once_have_one_last_row() {
        let mut work = Work::new(&[4_096], 2);
        let (first, second) = (work.next().unwrap(), work.next().unwrap());
        assert_eq!(work.row(first.table, 1), None);
        assert_eq!(work.row(second.table, 2), Some(Emitted { table: 0, row: 1, marker: Marker::First }));
        assert_eq!(work.part_ended(second.table), None);
        assert_eq!((work.last(), work.is_done(0)), (None, false));
        assert_eq!(work.part_ended(first.table), None);
        assert_eq!(work.last(), Some(Emitted { table: 0, row: 2, marker: Marker::Last }));
        assert!(work.is_done(0) && work.is_read());
    }
}
