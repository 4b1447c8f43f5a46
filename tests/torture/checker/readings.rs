//! Compares what was read during the run with what is read at the end: records that a consumer has seen must not disappear or
//! change.

use std::collections::HashMap;

use super::{Findings, Promise};
use crate::record::{Record, Table};

/// `live` is what was read during the run.
pub fn compare(live: &[Record], last: &[Record], findings: &mut Findings) {
    let place = |record: &Record| -> (Table, u32, u64) { (record.table, record.partition, record.offset) };
    let mut there: HashMap<_, &Record> = last.iter().map(|record| (place(record), record)).collect();
    for seen in live {
        match there.remove(&place(seen)) {
            Some(record) if record == seen => {}
            Some(record) => findings.add(Promise::Stays, || format!("{seen:?} has become {record:?}")),
            None => findings.add(Promise::Stays, || format!("{seen:?} was seen, and is not there")),
        }
    }
    let mut unseen: Vec<_> = there.keys().collect();
    unseen.sort_unstable();
    for place in unseen {
        findings.add(Promise::Stays, || format!("{place:?} was never seen by the reader beside the writers"));
    }
}
