//! A model of PostgreSQL: transactions with row locks, commits that are in the WAL before they are visible, and views.

use std::collections::{BTreeMap, BTreeSet};

use walcat::testing::snapshot::View;

use crate::random::Random;

/// A row is named by its table and its key.
pub type Name = (u32, u8);

/// The tables.
pub const TABLES: [u32; 2] = [1, 2];

/// Each table has keys below this.
pub const KEYS: u8 = 7;

/// A row: a column that every change writes, and one that is TOASTed. Both have the number of the change that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub plain: u64,
    pub toasted: u64,
}

/// What a transaction did, as the stream sends it. The number is that of the change: a key's numbers ascend.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// An insert, or an update if `is_whole` is false: then the stream omits the TOASTed column.
    Put {
        name: Name,
        row: Row,
        is_whole: bool,
    },
    Delete {
        name: Name,
        number: u64,
    },
    /// An update of the key.
    Move {
        from: Name,
        to: Name,
        row: Row,
    },
    Truncate {
        table: u32,
        number: u64,
    },
    /// A request for a snapshot of all tables.
    Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Its commit is in the WAL, and no other session sees it.
    Written,
    Visible,
    Aborted,
}

#[derive(Debug)]
pub struct Transaction {
    pub xid: u64,
    pub acts: Vec<Act>,
    state: State,
    /// Where its commit record ends.
    pub end: u64,
}

/// The server.
pub struct Database {
    transactions: Vec<Transaction>,
    /// The next id; the simulation crosses an epoch.
    next_xid: u64,
    completed: u64,
    /// The committed transactions, in the order of their commit records.
    pub wal: Vec<usize>,
    pub wal_end: u64,
    changes: u64,
    /// The transaction that holds each row's lock, or the whole table's.
    locks: BTreeMap<Name, usize>,
    table_locks: BTreeMap<u32, usize>,
    /// The table that a read has locked against TRUNCATE.
    pub read_lock: Option<u32>,
    /// The rows that were there before the slot.
    base: BTreeMap<Name, Row>,
    /// The percentage of steps in which a written commit becomes visible.
    visible_chance: u64,
    has_ended: bool,
}

impl Database {
    pub fn new(random: &mut Random) -> Self {
        let mut base = BTreeMap::new();
        for table in TABLES {
            for key in (0..KEYS).filter(|_| random.chance(60)) {
                base.insert((table, key), Row { plain: 0, toasted: 0 });
            }
        }
        let first = (1 << 32) - 20;
        Database {
            transactions: Vec::new(),
            next_xid: first,
            completed: first - 1,
            wal: Vec::new(),
            wal_end: 100,
            changes: 0,
            locks: BTreeMap::new(),
            table_locks: BTreeMap::new(),
            read_lock: None,
            base,
            visible_chance: [4, 15, 60][random.index(3)],
            has_ended: false,
        }
    }

    pub fn transaction(&self, place: usize) -> &Transaction {
        &self.transactions[place]
    }

    /// The writers do something.
    pub fn step(&mut self, random: &mut Random) {
        let of = |state: State, transactions: &[Transaction]| {
            (0..transactions.len()).filter(|place| transactions[*place].state == state).collect::<Vec<_>>()
        };
        let written = of(State::Written, &self.transactions);
        if !written.is_empty() && (self.has_ended || random.chance(self.visible_chance)) {
            self.release(written[random.index(written.len())], State::Visible);
            return;
        }
        let running = of(State::Running, &self.transactions);
        if running.is_empty() || running.len() < 3 && random.chance(30) {
            if !self.has_ended {
                let (xid, acts) = (self.next_xid, Vec::new());
                self.next_xid += 1;
                self.transactions.push(Transaction { xid, acts, state: State::Running, end: 0 });
            }
            return;
        }
        let place = running[random.index(running.len())];
        match random.below(100) {
            _ if self.has_ended => self.commit(place),
            0..25 => self.commit(place),
            25..30 => self.release(place, State::Aborted),
            _ => self.write(place, random),
        }
    }

    fn commit(&mut self, place: usize) {
        self.wal_end += 10;
        self.transactions[place].end = self.wal_end;
        self.transactions[place].state = State::Written;
        self.wal.push(place);
    }

    /// A commit that only asks for a snapshot.
    pub fn request(&mut self) {
        let (xid, acts) = (self.next_xid, vec![Act::Request]);
        self.next_xid += 1;
        self.transactions.push(Transaction { xid, acts, state: State::Running, end: 0 });
        self.commit(self.transactions.len() - 1);
    }

    /// No transaction begins any more, and the open ones end.
    pub fn end(&mut self) {
        self.has_ended = true;
    }

    pub fn is_quiet(&self) -> bool {
        self.transactions.iter().all(|one| matches!(one.state, State::Visible | State::Aborted))
    }

    fn release(&mut self, place: usize, state: State) {
        self.transactions[place].state = state;
        self.completed = self.completed.max(self.transactions[place].xid);
        self.locks.retain(|_, holder| *holder != place);
        self.table_locks.retain(|_, holder| *holder != place);
    }

    fn can_lock(&self, name: Name, place: usize) -> bool {
        let is_free = |holder: Option<&usize>| holder.is_none_or(|holder| *holder == place);
        is_free(self.locks.get(&name)) && is_free(self.table_locks.get(&name.0))
    }

    fn write(&mut self, place: usize, random: &mut Random) {
        let table = TABLES[random.index(2)];
        let name = (table, u8::try_from(random.below(u64::from(KEYS))).unwrap());
        let to = (table, u8::try_from(random.below(u64::from(KEYS))).unwrap());
        if random.chance(2) {
            let is_locked = self.locks.iter().any(|((locked, _), holder)| *locked == table && *holder != place);
            let is_used = self.table_locks.get(&table).is_some_and(|holder| *holder != place);
            if !is_locked && !is_used && self.read_lock != Some(table) {
                self.changes += 1;
                self.table_locks.insert(table, place);
                self.transactions[place].acts.push(Act::Truncate { table, number: self.changes });
            }
            return;
        }
        if !self.can_lock(name, place) {
            return;
        }
        let rows = self.rows(|other| other == place || self.transactions[other].state == State::Visible);
        self.changes += 1;
        let number = self.changes;
        let new = Row { plain: number, toasted: number };
        let act = match rows.get(&name) {
            None => Act::Put { name, row: new, is_whole: true },
            Some(_) if random.chance(25) => Act::Delete { name, number },
            Some(_) if random.chance(25) => {
                if rows.contains_key(&to) || !self.can_lock(to, place) {
                    return;
                }
                self.locks.insert(to, place);
                Act::Move { from: name, to, row: new }
            }
            Some(row) if random.chance(40) => Act::Put { name, row: Row { plain: number, ..*row }, is_whole: false },
            Some(_) => Act::Put { name, row: new, is_whole: true },
        };
        self.locks.insert(name, place);
        self.transactions[place].acts.push(act);
    }

    /// The rows that somebody sees: the changes of these transactions, in the order in which they were made.
    fn rows(&self, is_seen: impl Fn(usize) -> bool) -> BTreeMap<Name, Row> {
        let mut rows = self.base.clone();
        let mut acts: Vec<(u64, Act)> = Vec::new();
        for (_, transaction) in self.transactions.iter().enumerate().filter(|(place, _)| is_seen(*place)) {
            acts.extend(transaction.acts.iter().filter_map(|act| {
                Some(match *act {
                    Act::Put { row, .. } | Act::Move { row, .. } => (row.plain, *act),
                    Act::Delete { number, .. } | Act::Truncate { number, .. } => (number, *act),
                    Act::Request => return None,
                })
            }));
        }
        acts.sort_by_key(|(number, _)| *number);
        for (_, act) in acts {
            match act {
                Act::Put { name, row, .. } => drop(rows.insert(name, row)),
                Act::Delete { name, .. } => drop(rows.remove(&name)),
                Act::Move { from, to, row } => {
                    rows.remove(&from);
                    rows.insert(to, row);
                }
                Act::Truncate { table, .. } => rows.retain(|name, _| name.0 != table),
                Act::Request => {}
            }
        }
        rows
    }

    /// The table as everybody sees it.
    pub fn table(&self) -> BTreeMap<Name, Row> {
        self.rows(|place| self.transactions[place].state == State::Visible)
    }

    /// Whether a read can lock the table against TRUNCATE.
    pub fn can_read(&self, table: u32) -> bool {
        !self.table_locks.contains_key(&table)
    }

    /// What a read sees now: its view, the next id, and the rows of a table after a key.
    pub fn view(&self, table: u32, after: Option<u8>) -> (View, u64, Vec<(u8, Row)>) {
        let open = |one: &&Transaction| matches!(one.state, State::Running | State::Written);
        let xmax = self.completed + 1;
        let running: BTreeSet<u64> =
            self.transactions.iter().filter(open).map(|one| one.xid).filter(|xid| *xid < xmax).collect();
        let xmin = running.first().copied().unwrap_or(xmax);
        let list = running.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let view = View::parse(&format!("{xmin}:{xmax}:{list}"), false).expect("a snapshot");
        let rows =
            self.table().into_iter().filter(|((of, key), _)| *of == table && after.is_none_or(|after| *key > after));
        (view, self.next_xid, rows.map(|((_, key), row)| (key, row)).collect())
    }

    /// The transactions that are certainly not committed: those whose sessions are idle.
    pub fn idle(&self, random: &mut Random) -> Vec<u32> {
        let open = self.transactions.iter().filter(|one| one.state == State::Running);
        open.filter(|_| random.chance(50)).map(|one| narrow(one.xid)).collect()
    }
}

/// An id as the stream sends it.
pub fn narrow(xid: u64) -> u32 {
    u32::try_from(xid & 0xFFFF_FFFF).unwrap()
}
