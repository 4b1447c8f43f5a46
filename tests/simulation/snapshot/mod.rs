//! Incremental snapshots: walcat's rule against all orders of commit, visibility, stream, chunk read, delivery and crash.

mod consumer;
mod database;

use std::collections::VecDeque;
use std::time::Duration;

use consumer::{Consumer, Record};
use database::{Act, Database, Name, Row, TABLES, narrow};
use walcat::testing::change::Ticket;
use walcat::testing::lsn::Lsn;
use walcat::testing::snapshot::{Job, Progress, RequestAt, TableProgress, Touched, Verdict, key};

use crate::random::Random;

/// The steps with writers.
const STEPS: u32 = 400;

/// The steps within which everything must come to rest without writers.
const REST: u32 = 20_000;

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    chunks: u64,
    dropped: u64,
    waits: u64,
    useless: u64,
    truncated: u64,
    crashes: u64,
    resumed: u64,
}

/// The stages of a read.
enum Read {
    /// The chunk is open, and the read waits for its lock.
    Opened,
    /// These rows are still to arrive, and whether more follow in the table.
    Rows { rows: VecDeque<(u8, Row)>, has_more: bool, until: u64 },
    /// All have arrived.
    Complete,
}

/// What a store has.
#[derive(Clone)]
struct Stored {
    position: u64,
    progress: Progress,
}

struct Walcat {
    job: Job,
    read: Option<Read>,
    /// The place of the stream: the transaction in the WAL, and how many of its acts were emitted. None before Begin.
    next: usize,
    acts: Option<usize>,
    /// Everything before this position was read.
    passed: u64,
    /// Records that Kafka does not have, and the tickets that they complete.
    queue: VecDeque<Record>,
    /// The entries: the number of records up to their end, and the position after them.
    entries: VecDeque<(Ticket, u64, u64)>,
    ticket: u64,
    produced: u64,
    delivered: u64,
    position: u64,
}

struct World {
    seed: u64,
    random: Random,
    database: Database,
    consumer: Consumer,
    is_exactly_once: bool,
    stored: Stored,
    tally: Tally,
}

impl Walcat {
    fn start(world: &World) -> Self {
        let Stored { position, progress } = world.stored.clone();
        let mut walcat = Walcat {
            job: Job::new(progress, Duration::from_millis(200)),
            read: None,
            next: 0,
            acts: None,
            passed: position,
            queue: VecDeque::new(),
            entries: VecDeque::new(),
            ticket: 0,
            produced: 0,
            delivered: 0,
            position,
        };
        walcat.begin_stream(world, position);
        walcat
    }

    fn begin_stream(&mut self, world: &World, position: u64) {
        let wal = &world.database.wal;
        self.next = wal.iter().take_while(|place| world.database.transaction(**place).end <= position).count();
        self.acts = None;
    }

    fn produce(&mut self, record: Record) {
        self.produced += 1;
        self.queue.push_back(record);
    }

    /// Closes a unit of confirmation.
    fn seal(&mut self, position: u64) -> Ticket {
        self.ticket += 1;
        self.entries.push_back((Ticket(self.ticket), self.produced, position));
        Ticket(self.ticket)
    }

    /// Reads one message of the stream.
    fn read_stream(&mut self, world: &mut World) {
        let Some(place) = world.database.wal.get(self.next) else {
            // A keepalive.
            self.passed = world.database.wal_end;
            self.job.stream_is_at(None, Lsn(self.passed));
            return;
        };
        let transaction = world.database.transaction(*place);
        let xid = narrow(transaction.xid);
        let Some(done) = self.acts else {
            self.job.stream_is_at(Some(xid), Lsn(self.passed));
            self.acts = Some(0);
            return;
        };
        let Some(act) = transaction.acts.get(done) else {
            self.seal(transaction.end);
            self.passed = self.passed.max(transaction.end);
            self.job.stream_is_at(None, Lsn(self.passed));
            (self.next, self.acts) = (self.next + 1, None);
            return;
        };
        self.acts = Some(done + 1);
        match *act {
            Act::Put { name, row, is_whole } => {
                self.touch(xid, name, is_whole);
                self.produce(Record::Row { name, plain: row.plain, toasted: is_whole.then_some(row.toasted) });
            }
            Act::Delete { name, number } => {
                self.touch(xid, name, true);
                self.produce(Record::Deleted { name, number });
            }
            Act::Move { from, to, row } => {
                self.touch(xid, from, true);
                self.touch(xid, to, true);
                self.produce(Record::Deleted { name: from, number: row.plain });
                self.produce(Record::Row { name: to, plain: row.plain, toasted: Some(row.toasted) });
            }
            Act::Truncate { table, number } => {
                world.tally.truncated += u64::from(self.job.end_table(table).is_some());
                self.produce(Record::Truncated { table, number });
            }
            Act::Request => self.request(transaction.end),
        }
    }

    fn touch(&mut self, xid: u32, (table, key): Name, is_whole: bool) {
        if self.job.watched() == Some(table) {
            self.job.touched(xid, Touched::Key { key: &bytes(key), is_whole });
        }
    }

    /// A request for all tables that are not under way.
    fn request(&mut self, end: u64) {
        let at = RequestAt { unit: Lsn(end), message: Lsn(end) };
        if self.job.includes(at) {
            return;
        }
        self.job.request(|progress| {
            progress.last_request = at;
            for oid in TABLES {
                if progress.tables.iter().all(|table| table.oid != oid) {
                    let table = serde_json::json!({"oid": oid, "schema": "public", "table": "t", "request": at});
                    progress.tables.push(serde_json::from_value::<TableProgress>(table).expect("a table"));
                }
            }
        });
    }

    /// The read of a chunk goes on.
    fn read_chunk(&mut self, world: &mut World) {
        if self.job.watched().is_none() {
            (self.read, world.database.read_lock) = (None, None);
        }
        match &mut self.read {
            None if self.job.wants_chunk() => {
                self.job.open();
                self.read = Some(Read::Opened);
            }
            None | Some(Read::Complete) => {}
            Some(Read::Opened) if world.random.chance(70) => {}
            Some(Read::Opened) => self.take_view(world),
            Some(Read::Rows { rows, has_more, until }) => {
                let reading = self.job.reading().expect("an open chunk");
                match rows.pop_front() {
                    Some((key, row)) => {
                        let text = format!("{},{}", row.plain, row.toasted);
                        reading.chunk_mut().row(&bytes(key), format!("{key},{text}").as_bytes());
                    }
                    None => {
                        reading.complete(if *has_more { reading.rows_max } else { 0 }, Lsn(*until));
                        world.database.read_lock = None;
                        self.read = Some(Read::Complete);
                    }
                }
            }
        }
        if self.job.is_useless() && matches!(self.read, Some(Read::Complete)) {
            world.tally.useless += 1;
            self.job.close();
            self.read = None;
        }
    }

    /// The lock, the view with its position, and which rows there are.
    fn take_view(&mut self, world: &mut World) {
        let table = self.job.reading().expect("an open chunk").table.clone();
        if !world.database.can_read(table.oid) {
            return;
        }
        let after = table.after.first().map(|key| key.parse().expect("a key"));
        world.tally.resumed += u64::from(after.is_some());
        let (view, next_xid, rows) = world.database.view(table.oid, after);
        let until = world.database.wal_end;
        match self.job.view(view.clone(), next_xid) {
            Verdict::Wait(_) => {
                world.tally.waits += 1;
                let open = world.database.idle(&mut world.random);
                self.job.are_open(&view, &open);
                self.read = None;
            }
            Verdict::Read => {
                let count = world.random.index(5) + 1;
                let has_more = rows.len() > count;
                world.database.read_lock = Some(table.oid);
                self.read = Some(Read::Rows { rows: rows.into_iter().take(count).collect(), has_more, until });
            }
        }
    }

    fn emit(&mut self, world: &mut World) {
        if !self.job.is_ready() {
            return;
        }
        let open = self.produced - self.entries.back().map_or(self.delivered, |(_, records, _)| *records);
        assert!(self.acts.is_none() || open == 0, "seed {}: the chunk splits a transaction", world.seed);
        let reading = self.job.reading().expect("a chunk");
        let (table, chunk) = (reading.table.oid, reading.chunk());
        let rows: Vec<Record> =
            (0..chunk.row_count()).filter_map(|row| chunk.bytes_of(row)).map(|row| parse(table, row)).collect();
        world.tally.chunks += 1;
        world.tally.dropped += chunk.dropped();
        rows.into_iter().for_each(|record| self.produce(record));
        let ticket = self.seal(self.position_read());
        self.job.emitted(ticket, &["id".to_owned()]);
        self.read = None;
    }

    /// What the newest entry confirms.
    fn position_read(&self) -> u64 {
        self.entries.back().map_or(self.position, |(_, _, position)| *position)
    }

    /// Kafka takes records, and perhaps reports them.
    fn deliver(&mut self, world: &mut World) {
        if world.is_exactly_once {
            // A commit contains whole transactions.
            if self.acts.is_some() || world.random.chance(70) {
                return;
            }
            self.queue.drain(..).for_each(|record| world.consumer.take(record, world.seed));
            self.delivered = self.produced;
        } else {
            let count = world.random.index(self.queue.len() + 1);
            self.queue.drain(..count).for_each(|record| world.consumer.take(record, world.seed));
            self.delivered += count as u64;
        }
        while let Some((_, records, position)) = self.entries.front().copied()
            && records <= self.delivered
        {
            self.position = position;
            self.entries.pop_front();
        }
        let oldest = self.entries.front().map(|(ticket, _, _)| *ticket);
        self.job.settle(|ticket| oldest.is_some_and(|oldest| ticket >= oldest));
        if world.is_exactly_once {
            world.stored = Stored { position: self.position, progress: self.job.progress().clone() };
        } else if world.random.chance(30) {
            world.stored = Stored { position: self.position, progress: self.job.delivered().clone() };
        }
    }

    /// The stream begins again after the last whole transaction, in the same process.
    fn reconnect(&mut self, world: &mut World) {
        if self.acts.is_some() {
            // A partly read transaction is sent again.
            self.queue.drain(..).for_each(|record| world.consumer.take(record, world.seed));
            self.delivered = self.produced;
            world.consumer.repeats();
        }
        self.job.reconnected();
        (self.read, world.database.read_lock) = (None, None);
        self.acts = None;
    }

    fn is_done(&self, world: &World) -> bool {
        let has_read = self.next == world.database.wal.len() && self.queue.is_empty() && self.entries.is_empty();
        has_read && self.job.delivered().is_idle() && self.job.progress().is_idle()
    }
}

fn bytes(key: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    key::push(&mut bytes, key.to_string().as_bytes());
    bytes
}

fn parse(table: u32, row: &[u8]) -> Record {
    let text = std::str::from_utf8(row).expect("text");
    let fields: Vec<u64> = text.split(',').map(|field| field.parse().expect("a number")).collect();
    let name = (table, u8::try_from(fields[0]).expect("a key"));
    Record::Row { name, plain: fields[1], toasted: Some(fields[2]) }
}

fn simulate(seed: u64, is_exactly_once: bool) -> Tally {
    let mut random = Random::new(seed);
    let mut database = Database::new(&mut random);
    // Some transactions are under way when walcat starts.
    (0..random.below(40)).for_each(|_| database.step(&mut random));
    let stored = Stored { position: database.wal_end, progress: Progress::default() };
    let mut world = World {
        seed,
        random,
        database,
        consumer: Consumer::default(),
        is_exactly_once,
        stored,
        tally: Tally::default(),
    };
    let mut walcat = Walcat::start(&world);
    // Rows that exist when the slot is created are read later: the consumer has no state before.
    world.database.request();
    for step in 0..STEPS + REST {
        if step == STEPS {
            world.database.end();
        }
        if step >= STEPS && world.database.is_quiet() && walcat.is_done(&world) {
            world.consumer.check(&world.database.table(), seed);
            return world.tally;
        }
        match world.random.below(100) {
            0..40 => world.database.step(&mut world.random),
            40..68 => walcat.read_stream(&mut world),
            68..82 => walcat.read_chunk(&mut world),
            82..90 => walcat.emit(&mut world),
            90..97 => walcat.deliver(&mut world),
            97 if step < STEPS => {
                world.tally.crashes += 1;
                if !is_exactly_once {
                    world.consumer.repeats();
                }
                world.database.read_lock = None;
                walcat = Walcat::start(&world);
            }
            98 if step < STEPS && !is_exactly_once => walcat.reconnect(&mut world),
            99 if step < STEPS && world.random.chance(20) => world.database.request(),
            _ => {}
        }
    }
    let wal = world.database.wal.len();
    panic!(
        "seed {seed}: no rest: read {} of {wal}, {} entries, {} records, {:?}",
        walcat.next,
        walcat.entries.len(),
        walcat.queue.len(),
        walcat.job
    );
}

fn run(is_exactly_once: bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("WALCAT_SEED") {
        println!("seed {seed}: {:?}", simulate(seed, is_exactly_once));
        return;
    }
    let seeds = number("WALCAT_SEEDS").unwrap_or(crate::SEEDS);
    let mut sum = Tally::default();
    for seed in 1..=seeds {
        let Tally { chunks, dropped, waits, useless, truncated, crashes, resumed } = simulate(seed, is_exactly_once);
        sum.chunks += chunks;
        sum.dropped += dropped;
        sum.waits += waits;
        sum.useless += useless;
        sum.truncated += truncated;
        sum.crashes += crashes;
        sum.resumed += resumed;
    }
    println!("seeds 1 to {seeds}: {sum:?}");
    let Tally { chunks, dropped, waits, useless, truncated, crashes, resumed } = sum;
    for (what, count) in [
        ("chunks", chunks),
        ("dropped rows", dropped),
        ("waits", waits),
        ("useless chunks", useless),
        ("truncated tables", truncated),
        ("crashes", crashes),
        ("resumed tables", resumed),
    ] {
        assert!(count > 30, "too few {what}: {count}");
    }
}

#[test]
fn an_older_state_of_a_key_never_follows_a_newer_one_and_the_fold_equals_the_table() {
    run(false);
}

#[test]
fn with_exactly_once_no_key_goes_back_through_any_number_of_crashes() {
    run(true);
}
