//! The history in the checkpoint topic: its records, and what follows from their order.

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::position::Stored;
use crate::sink::kafka::exactly_once::checkpoint::{Checkpoint, Instance, Start};

/// A record of the topic.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(in crate::sink::kafka) enum Record {
    Start(Start),
    Checkpoint(Box<Checkpoint>),
}

/// The records of the topic that were read so far, from its beginning.
#[derive(Clone, Debug)]
pub struct History {
    /// The instance whose start record the reader waits for.
    instance: Instance,
    /// Whether that start record has been read.
    pub has_seen_start: bool,
    /// The instance that started last.
    pub newest_start: Option<Instance>,
    /// The last checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The oldest start record that compaction has kept.
    pub first_start: Option<Start>,
    /// Whether a start record of this process, with any renewal, has been read.
    has_seen_process: bool,
}

impl History {
    /// The start: nothing has been read.
    #[must_use]
    pub fn new(instance: &Instance) -> Self {
        History {
            instance: instance.clone(),
            has_seen_start: false,
            newest_start: None,
            checkpoint: None,
            first_start: None,
            has_seen_process: false,
        }
    }

    /// Processes the value of the next record.
    ///
    /// # Errors
    /// Why a record is not one of walcat's.
    pub fn take(&mut self, value: &[u8]) -> Result<(), String> {
        match serde_json::from_slice(value).map_err(|error| error.to_string())? {
            Record::Start(start) => {
                self.has_seen_start |= start.instance == self.instance;
                self.has_seen_process |= start.instance.is_same_process(&self.instance);
                self.first_start.get_or_insert_with(|| start.clone());
                self.newest_start = Some(start.instance);
            }
            Record::Checkpoint(checkpoint) if self.is_late(&checkpoint) => {}
            Record::Checkpoint(checkpoint) => self.checkpoint = Some(*checkpoint),
        }
        Ok(())
    }

    /// Whether an instance that was replaced wrote this position late, behind what its successor had stored. Kafka
    /// transactions prevent this; without them, a record in flight cannot be called back.
    fn is_late(&self, checkpoint: &Checkpoint) -> bool {
        let reached = |checkpoint: &Checkpoint| (checkpoint.stored.timeline, checkpoint.stored.end_lsn);
        let is_replaced =
            self.newest_start.as_ref().is_some_and(|newest| !newest.is_same_process(&checkpoint.instance));
        is_replaced && self.checkpoint.as_ref().is_some_and(|kept| reached(checkpoint) < reached(kept))
    }

    /// The process that started after ours, if any. Start records before ours are old. If ours `is_compacted` away, a
    /// later one replaced it.
    #[must_use]
    pub fn successor(&self, is_compacted: bool) -> Option<&Instance> {
        let is_after_ours = self.has_seen_process || is_compacted;
        self.newest_start.as_ref().filter(|other| is_after_ours && !other.is_same_process(&self.instance))
    }
}

/// The contents of the checkpoint topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stored position.
    pub stored: Option<Stored>,
    /// The slot's position when the first instance started, if nothing had been read from the slot.
    pub unread_slot_at: Option<Lsn>,
}

impl Found {
    /// What was read, once it is complete: it is when the start record of the reading instance was read.
    #[must_use]
    pub fn of(history: &History) -> Option<Self> {
        history.has_seen_start.then(|| Found {
            stored: history.checkpoint.as_ref().map(|checkpoint| checkpoint.stored.clone()),
            unread_slot_at: history.first_start.as_ref().and_then(|start| start.unread_slot_at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::FullKeys;
    use crate::sink::kafka::exactly_once::checkpoint::{Start, render_checkpoint, render_start};

    fn instance(pid: u32, renewal: u32) -> Instance {
        Instance { host: "h".to_owned(), pid, started_unix_ms: 1, renewal }
    }

    fn start(instance: Instance) -> Vec<u8> {
        render_start(Start { instance, unread_slot_at: None })
    }

    #[test]
    fn the_topic_is_complete_with_the_exact_start_record_that_was_waited_for() {
        let mut history = History::new(&instance(7, 1));
        for other in [instance(6, 1), instance(7, 0), instance(8, 1)] {
            history.take(&start(other)).unwrap();
            assert!(!history.has_seen_start, "{:?}", history.newest_start);
        }
        history.take(&start(instance(7, 1))).unwrap();
        assert!(history.has_seen_start);
        assert!(history.take(b"{}").is_err());
    }

    #[test]
    fn who_started_before_is_no_successor_and_neither_are_we() {
        let mut history = History::new(&instance(7, 0));
        history.take(&start(instance(6, 0))).unwrap();
        assert_eq!(history.successor(false), None);
        assert_eq!(history.successor(true), Some(&instance(6, 0)), "our record was there, but is there no longer");
        for ours in [instance(7, 0), instance(7, 1)] {
            history.take(&start(ours)).unwrap();
            assert_eq!(history.successor(false), None);
        }
        history.take(&start(instance(8, 0))).unwrap();
        assert_eq!(history.successor(false), Some(&instance(8, 0)));
    }

    #[test]
    fn a_late_position_of_a_replaced_instance_counts_only_if_it_is_ahead() {
        let at = |pid, timeline, end_lsn| {
            let stored = Stored {
                system_identifier: "7".to_owned(),
                timeline,
                slot: "s".to_owned(),
                end_lsn: Lsn(end_lsn),
                records: None,
                full_keys: FullKeys::new(),
                snapshot: None,
            };
            render_checkpoint(Checkpoint { stored, commit_lsn: Lsn(end_lsn), xid: 0, instance: instance(pid, 0) })
        };
        let kept = |records: &[Vec<u8>]| {
            let mut history = History::new(&instance(9, 0));
            records.iter().for_each(|record| history.take(record).unwrap());
            history.checkpoint.map(|checkpoint| checkpoint.stored.end_lsn.0)
        };
        let (one, two) = (start(instance(1, 0)), start(instance(2, 0)));
        for (what, records, expected) in [
            ("late and behind", vec![one.clone(), at(1, 1, 100), two.clone(), at(2, 1, 300), at(1, 1, 200)], 300),
            ("late and ahead: it is delivered", vec![one.clone(), at(1, 1, 100), two.clone(), at(1, 1, 200)], 200),
            ("late, of an old timeline", vec![one.clone(), two.clone(), at(2, 2, 300), at(1, 1, 400)], 300),
            ("the operator has accepted a lower one", vec![one, at(1, 1, 400), two.clone(), at(2, 1, 300)], 300),
            ("compaction has left only the late one", vec![two, at(1, 1, 200)], 200),
        ] {
            assert_eq!(kept(&records), Some(expected), "{what}");
        }
    }
}
