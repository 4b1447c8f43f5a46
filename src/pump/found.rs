//! A position that is found in Kafka after the start of the stream.

use std::time::Instant;

use log::{info, warn};

use super::Pump;
use super::error::Error;
use super::incremental::Incremental;
use super::store::{Found, Store};
use crate::limits::FINISH_TIMEOUT;
use crate::lsn::Lsn;
use crate::position::Known;
use crate::snapshot::Progress;
use crate::source;
use crate::source::open;
use crate::source::waiting::Waiter;

impl Pump {
    /// Judges a position that is found after the start of the stream, like any other stored position.
    pub(super) fn handle_found(&mut self) -> Result<(), Error> {
        let mut place = Store::of(&mut self.state_file, &mut self.output);
        let Some(Found { store, stored, unread_slot_at, known }) = place.found() else { return Ok(()) };
        let may_be_missing = (unread_slot_at, known);
        let known = stored.map(|stored| Known { stored, store: store.clone() });
        let wal_end = self.facts.wal_end;
        let is_of_past = |known: &&Known| known.stored.timeline < self.facts.timeline;
        let checkpoint =
            known.as_ref().filter(|known| !is_of_past(known)).map_or(Lsn::INVALID, |known| known.stored.end_lsn);
        // The other process is already fenced: ask the server again before the server counts as behind.
        if checkpoint > wal_end && !std::mem::replace(&mut self.was_overtaken, true) {
            return Err(Error::Overtaken { checkpoint, wal_end });
        }
        self.was_overtaken = false;
        let accept_gap = self.source.accept_gap;
        let start = open::check_found(known.as_ref(), &store, may_be_missing, &self.facts, accept_gap)?;
        // The operator's consent covers one gap.
        self.source.accept_gap = false;
        let is_first = known.is_none() || self.new_slot.is_some();
        let (full_keys, mut snapshot) =
            known.map(|known| (known.stored.full_keys, known.stored.snapshot)).unwrap_or_default();
        self.new_slot = None;
        if is_first {
            snapshot = self.incremental.as_ref().and_then(Incremental::at_first).or(snapshot);
        }
        let snapshot = snapshot.map(Progress::in_chunks);
        place.begin_at(start, self.facts.timeline, full_keys.clone());
        place.keep_snapshot(snapshot.clone());
        self.identity.snapshot.clone_from(&snapshot);
        if !place.is_read_at_each_start() {
            self.identity.records = start.records;
            self.identity.full_keys.clone_from(&full_keys);
            place.begin(self.identity.at(start.lsn, Lsn::INVALID), Instant::now())?;
        }
        if let Some(incremental) = &mut self.incremental {
            incremental.restart(snapshot.unwrap_or_default());
            incremental.tell_what_is_left();
        }
        self.output.encoder().restore_full_keys(&full_keys);
        self.session.begin_at(start.lsn);
        self.feed.pass_before(start.lsn);
        Ok(())
    }

    /// Drops the slot that this run created if a checkpoint of another slot forbids its use.
    pub(super) fn drop_new_slot(&mut self) {
        let Some(name) = self.new_slot.take() else { return };
        self.feed.close(true);
        let mut waiter = Waiter::new(&mut self.poller, &mut self.signals).until(Instant::now() + FINISH_TIMEOUT);
        match source::slot::drop_new(&self.source, &name, &mut waiter) {
            Ok(()) => info!(slot = name.as_str(); "dropped the slot that this run created"),
            Err(error) => warn!(slot = name.as_str(), error:% = error;
                "cannot drop the slot that this run created; it retains WAL until you drop it"),
        }
    }
}
