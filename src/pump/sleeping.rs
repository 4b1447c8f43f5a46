//! What can wake the loop, and when it wakes at the latest.

use std::time::Instant;

use mio::Interest;

use super::Pump;
use super::error::Error;
use super::incremental::Incremental;
use super::store::Store;
use crate::poller::Wakeup;

impl Pump {
    pub(super) fn sleep(&mut self, now: Instant) -> Result<(), Error> {
        // While reading is paused, the socket's readiness would only spin the loop.
        match (self.feed.socket()?, self.may_read(now)) {
            (Some((socket, true)), true) => {
                self.poller.arm(Wakeup::Postgres, socket, Interest::READABLE | Interest::WRITABLE)?;
            }
            (Some((socket, true)), false) => self.poller.arm(Wakeup::Postgres, socket, Interest::WRITABLE)?,
            (Some((socket, false)), true) => self.poller.arm(Wakeup::Postgres, socket, Interest::READABLE)?,
            (Some((_, false)), false) | (None, _) => self.poller.disarm(Wakeup::Postgres),
        }
        match self.asking.socket() {
            Some((socket, direction)) => self.poller.arm(Wakeup::Catalog, socket, direction.interest())?,
            None => self.poller.disarm(Wakeup::Catalog),
        }
        match self.watch.socket() {
            Some((socket, direction)) => self.poller.arm(Wakeup::Timeline, socket, direction.interest())?,
            None => self.poller.disarm(Wakeup::Timeline),
        }
        match self.outage.socket() {
            Some((socket, direction)) => self.poller.arm(Wakeup::Outage, socket, direction.interest())?,
            None => self.poller.disarm(Wakeup::Outage),
        }
        match self.incremental.as_ref().and_then(Incremental::socket) {
            Some((socket, direction)) => self.poller.arm(Wakeup::Reader(0), socket, direction.interest())?,
            None => self.poller.disarm(Wakeup::Reader(0)),
        }
        if let Some(descriptor) = self.output.kafka_descriptor() {
            self.poller.arm(Wakeup::Kafka, descriptor, Interest::READABLE)?;
        }
        match self.output.stdout() {
            Some((descriptor, interest)) => self.poller.arm(Wakeup::Stdout, descriptor, interest)?,
            None => self.poller.disarm(Wakeup::Stdout),
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.flush()?;
        }
        let deadline = self.deadline(now);
        Ok(self.poller.wait(deadline)?)
    }

    fn deadline(&mut self, now: Instant) -> Instant {
        let stopping = self.stage.deadline();
        let catalog = self.asking.deadline(now);
        let delivered = self.session.feedback().delivered();
        let store = Store::of(&mut self.state_file, &mut self.output).deadline(delivered, now);
        let feed = if self.may_read(now) { self.feed.deadline() } else { None };
        let store = store.filter(|_| !self.watch.is_needed());
        let own = [self.report.deadline(), self.outage.deadline(), self.watch.deadline(), self.hold_deadline()];
        let huge = self.huge.deadline(now);
        let is_reading = self.stage.is_reading();
        let snapshot = self.incremental.as_ref().filter(|_| is_reading).and_then(|one| one.deadline(now));
        let others = [feed, self.output.deadline(now), stopping, catalog, store, huge, snapshot].into_iter().chain(own);
        others.flatten().fold(self.session.feedback().deadline(), Instant::min)
    }
}
