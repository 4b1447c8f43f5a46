//! A model of Kafka's transactions for one transactional id: epochs, timeouts, the checkpoint topic and its compaction, and
//! what a `read_committed` reader sees.

use std::time::{Duration, Instant};

use crate::random::Random;

/// Kafka's own limit for a transaction.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(20);

/// What a producer sends.
#[derive(Clone, Debug)]
pub enum Record {
    /// A record of a PostgreSQL change.
    Data { id: u64 },
    /// A record of the checkpoint topic.
    Own { key: &'static [u8], value: Vec<u8> },
}

/// The transactional id belongs to another producer, or the transaction was aborted: Kafka reports both in the same way.
#[derive(Clone, Copy, Debug)]
pub struct Fenced;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Aborted,
}

/// A record in the checkpoint topic.
struct Entry {
    offset: u64,
    key: &'static [u8],
    value: Vec<u8>,
    transaction: u64,
    state: State,
}

struct Transaction {
    number: u64,
    since: Instant,
    ids: Vec<u64>,
    /// EndTxn was accepted: the transaction will be committed and takes no more records.
    is_prepared: bool,
}

#[derive(Default)]
pub struct Kafka {
    epoch: u32,
    transactions: u64,
    open: Option<Transaction>,
    checkpoints: Vec<Entry>,
    next_offset: u64,
    /// The content of committed transactions, in order, until the checks take it.
    visible: Vec<Vec<u64>>,
}

impl Kafka {
    /// Time passes: a prepared transaction becomes visible, a transaction that was open too long is aborted, and the topic is
    /// compacted.
    pub fn tick(&mut self, now: Instant, random: &mut Random) {
        match &self.open {
            Some(open) if open.is_prepared && random.chance(50) => self.settle(),
            Some(open) if !open.is_prepared && now >= open.since + TRANSACTION_TIMEOUT => {
                self.end(State::Aborted);
                self.epoch += 1;
            }
            _ => {}
        }
        if random.chance(2) {
            self.compact();
        }
    }

    /// InitProducerId: fences the previous owner of the id, ends its transaction and returns the new epoch.
    pub fn take_id(&mut self) -> u32 {
        self.settle();
        self.end(State::Aborted);
        self.epoch += 1;
        self.epoch
    }

    /// A record arrives.
    pub fn produce(&mut self, epoch: u32, record: Record, now: Instant) -> Result<(), Fenced> {
        if epoch != self.epoch {
            return Err(Fenced);
        }
        self.settle();
        if self.open.is_none() {
            self.transactions += 1;
            let number = self.transactions;
            self.open = Some(Transaction { number, since: now, ids: Vec::new(), is_prepared: false });
        }
        let open = self.open.as_mut().expect("opened above");
        match record {
            Record::Data { id } => open.ids.push(id),
            Record::Own { key, value } => {
                let (offset, transaction) = (self.next_offset, open.number);
                self.next_offset += 1;
                self.checkpoints.push(Entry { offset, key, value, transaction, state: State::Open });
            }
        }
        Ok(())
    }

    /// EndTxn with commit.
    pub fn commit(&mut self, epoch: u32) -> Result<(), Fenced> {
        if epoch != self.epoch {
            return Err(Fenced);
        }
        if let Some(open) = &mut self.open {
            open.is_prepared = true;
        }
        Ok(())
    }

    /// EndTxn with abort.
    pub fn abort(&mut self, epoch: u32) -> Result<(), Fenced> {
        match &self.open {
            _ if epoch != self.epoch => Err(Fenced),
            Some(open) if !open.is_prepared => {
                self.end(State::Aborted);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The prepared transaction becomes visible.
    pub fn settle(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.is_prepared) {
            self.end(State::Committed);
        }
    }

    fn end(&mut self, state: State) {
        let Some(ended) = self.open.take() else { return };
        for entry in self.checkpoints.iter_mut().filter(|entry| entry.transaction == ended.number) {
            entry.state = state;
        }
        if state == State::Committed && !ended.ids.is_empty() {
            self.visible.push(ended.ids);
        }
    }

    /// Compacts: before the open transaction, removes aborted records and those with a newer record of the same key.
    fn compact(&mut self) {
        let stable = self.stable_offset();
        let newest = |key: &[u8]| {
            let committed = self.checkpoints.iter().filter(|entry| entry.state == State::Committed && entry.key == key);
            committed.filter(|entry| entry.offset < stable).map(|entry| entry.offset).max()
        };
        let kept = [newest(b"start"), newest(b"checkpoint")];
        self.checkpoints.retain(|entry| entry.offset >= stable || kept.contains(&Some(entry.offset)));
    }

    /// The last stable offset: a `read_committed` reader stops there.
    fn stable_offset(&self) -> u64 {
        let open = self.checkpoints.iter().filter(|entry| entry.state == State::Open);
        open.map(|entry| entry.offset).min().unwrap_or(self.next_offset)
    }

    /// The next record of the checkpoint topic for a `read_committed` reader, and the offset after it.
    pub fn read_checkpoints(&self, from: u64) -> Option<(u64, &[u8])> {
        let stable = self.stable_offset();
        let committed = self.checkpoints.iter().filter(|entry| entry.state == State::Committed);
        let next = committed.filter(|entry| (from..stable).contains(&entry.offset)).min_by_key(|entry| entry.offset)?;
        Some((next.offset + 1, &next.value))
    }

    /// The newest committed checkpoint's value.
    pub fn newest_checkpoint(&self) -> Option<&[u8]> {
        let committed = self.checkpoints.iter().filter(|entry| entry.state == State::Committed);
        let newest = committed.filter(|entry| entry.key == b"checkpoint").max_by_key(|entry| entry.offset)?;
        Some(&newest.value)
    }

    /// What has become visible since the last call: the ids of each transaction.
    pub fn take_visible(&mut self) -> Vec<Vec<u64>> {
        std::mem::take(&mut self.visible)
    }
}
