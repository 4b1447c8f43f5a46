//! The one event loop: owns the stream, the session, the output and the poll, and moves bytes between them.
//!
//! One turn: serve the output and settle what it delivered; read PostgreSQL as far as there is room; send the status
//! update that is due; sleep until something is ready. Invariants 3, 4 and 6 of the crate's documentation live here.

mod asking;
mod backlog;
mod closing;
pub mod copying;
mod display;
pub mod dumping;
pub mod error;
mod gone;
mod hold;
mod incremental;
mod outage;
pub mod output;
mod reading;
mod reconnect;
pub mod recorder;
mod renewal;
pub mod report;
pub mod store;
mod storing;
mod watch;

use std::time::{Duration, Instant};

use log::kv::Value;
use log::{debug, info, warn};
use mio::Interest;

use self::asking::Asking;
pub use self::dumping::{Dumped, Dumping};
pub use self::error::Error;
use self::gone::Gone;
use self::hold::Hold;
use self::incremental::Incremental;
pub use self::incremental::Settings as IncrementalSettings;
use self::outage::OutageReport;
use self::output::serve_output;
pub use self::output::{Dump, Output};
use self::reading::Read;
use self::recorder::Recorder;
use self::renewal::Huge;
use self::report::Report;
use self::store::{Found, Store, Urgency};
use self::watch::Watch;
use crate::backoff::{Backoff, Policy};
use crate::limits::{COPY_END_TIMEOUT, FINISH_TIMEOUT};
use crate::lsn::Lsn;
use crate::pg;
use crate::pg::catalog::Catalog;
use crate::poller::{Poller, Wakeup};
use crate::position::{Facts, Identity, Known, Vouched};
use crate::session::Session;
use crate::signal::StopSignals;
use crate::sink::kafka::exactly_once::ABORT_LIMIT;
use crate::source;
use crate::source::open::{self, Started};
use crate::source::options::{Engine, Source};
use crate::source::waiting::Waiter;
pub use crate::source::{Feed, Received};
use crate::state_file::StateFile;

/// The times of the loop.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long the sink may drain after a signal; none for no limit.
    pub shutdown_timeout: Option<Duration>,
    /// The interval between lines of statistics; none for no statistics.
    pub stats_interval: Option<Duration>,
}

/// What the loop is doing.
#[derive(Debug)]
enum Stage {
    /// Reading the stream.
    Reading,
    /// The job is done: delivering what was read.
    Draining,
    /// A signal came: delivering what was read until the deadline.
    Stopping { deadline: Option<Instant> },
    /// The source has failed: delivering what was read whole until the deadline. Then the failure is reported, whatever
    /// else fails meanwhile.
    Failing { error: Box<Error>, deadline: Instant },
}

impl Stage {
    fn is_reading(&self) -> bool {
        matches!(self, Stage::Reading)
    }

    /// The time at which nothing more is delivered.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Stage::Reading | Stage::Draining => None,
            Stage::Stopping { deadline } => *deadline,
            Stage::Failing { deadline, .. } => Some(*deadline),
        }
    }
}

/// The loop and everything it owns.
pub struct Pump {
    feed: Feed,
    session: Session,
    output: Output,
    asking: Asking,
    gone: Gone,
    recorder: Option<Recorder>,
    poller: Poller,
    signals: StopSignals,
    stage: Stage,
    hold: Hold,
    huge: Huge,
    times: Times,
    report: Report,
    outage: OutageReport,
    source: Source,
    state_file: Option<StateFile>,
    identity: Identity,
    /// Snapshots beside the stream; none in a look.
    incremental: Option<Incremental>,
    /// The facts against which a position that is found later is judged.
    facts: Facts,
    /// Watches whether the timeline changes during the stream.
    watch: Watch,
    /// What was delivered when walcat last asked the standby, and what the standby has vouched for.
    asked_for: Vouched,
    vouched: Vouched,
    /// Whether a position waits for that answer.
    is_wanted: bool,
    /// Whether the last checkpoint was past the end of the WAL, and walcat has asked the server again since.
    was_overtaken: bool,
    backoff: Backoff,
    /// The same for failing Kafka transactions, without a limit: `broker_for` limits the wait for Kafka.
    restarts: Backoff,
    /// The slot that this run created, until a stored position was compared with it.
    new_slot: Option<String>,
    /// When the present connection started to stream.
    connected_at: Instant,
    /// The pid of the walsender or backend of the present session, or of the last one.
    session_pid: i32,
    /// The received position when the connection was last lost.
    received_at_loss: Lsn,
    /// How many records were left out when the stream was last interrupted.
    refused_at_loss: u64,
}

/// The parts of a pump.
pub struct Parts {
    /// The running stream.
    pub started: Started,
    /// The session that follows the stream.
    pub session: Session,
    /// Where the changes go.
    pub output: Output,
    /// The recording, if there is one.
    pub recorder: Option<Recorder>,
    /// The poll.
    pub poller: Poller,
    /// The signals, registered with the poll.
    pub signals: StopSignals,
    /// The times of the loop.
    pub times: Times,
    /// What walcat reads, for reconnects.
    pub source: Source,
    /// Where walcat keeps delivered positions, unless the slot or the sink does.
    pub state_file: Option<StateFile>,
    /// How to reconnect; a budget of zero for no reconnects.
    pub retry: Policy,
    /// Snapshots beside the stream; none if this run makes none.
    pub incremental: Option<IncrementalSettings>,
}

impl Pump {
    /// Puts the parts together.
    ///
    /// # Errors
    /// [`Error::State`] when the start position of the stream cannot be stored.
    pub fn new(mut parts: Parts) -> Result<Self, Error> {
        let now = Instant::now();
        let mut identity = Identity {
            system_identifier: parts.started.system.identifier.clone(),
            timeline: parts.started.system.timeline,
            slot: parts.source.slot.clone(),
            records: parts.started.records,
            full_keys: Store::on_disk(&mut parts.state_file).full_keys(),
            snapshot: Store::on_disk(&mut parts.state_file).snapshot(),
        };
        let is_first = parts.state_file.as_ref().is_some_and(|file| file.stored().is_none());
        if is_first || parts.started.new_slot.is_some() {
            let at_first = parts.incremental.as_ref().and_then(IncrementalSettings::at_first);
            identity.snapshot = at_first.or(identity.snapshot);
        }
        parts.output.encoder().restore_full_keys(&identity.full_keys);
        let mut store = Store::of(&mut parts.state_file, &mut parts.output);
        store.begin(identity.at(parts.started.start, Lsn::INVALID), now)?;
        let session_pid = parts.started.feed.session_pid();
        let watch = Watch::new(
            identity.slot.clone(),
            parts.source.dsn.clone(),
            parts.started.server.clone(),
            // A peek stores nothing.
            parts.started.is_standby && matches!(parts.output, Output::Records(_)),
            identity.timeline,
            now,
        );
        Store::of(&mut parts.state_file, &mut parts.output).ask_timeline(watch.is_needed());
        let incremental = parts.incremental.map(|settings| {
            let (server, version) = (parts.started.server.clone(), parts.started.server_version);
            Incremental::new(settings, identity.slot.clone(), server, version, identity.snapshot.clone())
        });
        // A peek starts at the slot's position, which may be before the stored one.
        parts.session.pass_before(parts.started.start);
        Ok(Pump {
            feed: parts.started.feed,
            session: parts.session,
            output: parts.output,
            gone: Gone::default(),
            asking: Asking::new(Catalog::new(parts.source.dsn.clone(), parts.started.server.clone()), parts.retry),
            recorder: parts.recorder,
            poller: parts.poller,
            signals: parts.signals,
            stage: Stage::Reading,
            hold: Hold::InUse,
            huge: Huge::default(),
            outage: OutageReport::new(parts.source.slot.clone(), parts.source.dsn.clone(), parts.started.server),
            report: Report::new(parts.source.slot.clone(), parts.times.stats_interval, now),
            times: parts.times,
            source: parts.source,
            state_file: parts.state_file,
            identity,
            incremental,
            facts: parts.started.facts,
            watch,
            asked_for: Vouched::default(),
            vouched: Vouched::default(),
            is_wanted: false,
            // Without reconnects the first answer is final.
            was_overtaken: parts.retry.budget == Some(Duration::ZERO),
            backoff: Backoff::new(parts.retry),
            restarts: Backoff::new(Policy { budget: None, ..parts.retry }),
            new_slot: parts.started.new_slot,
            connected_at: now,
            session_pid,
            received_at_loss: Lsn::INVALID,
            refused_at_loss: 0,
        })
    }

    /// Runs until the job is done or a signal ends it.
    ///
    /// # Errors
    /// Every other end of the run. walcat first confirms what was delivered, if the connection still works.
    pub fn run(mut self) -> Result<(), Error> {
        loop {
            let ended = self.turns();
            let ended = match std::mem::replace(&mut self.stage, Stage::Draining) {
                Stage::Failing { error, deadline } => {
                    self.stage = Stage::Stopping { deadline: Some(deadline) };
                    return Err(self.fail(*error));
                }
                stage => {
                    self.stage = stage;
                    ended.and_then(|()| self.finish())
                }
            };
            let Err(error) = ended else { return self.end_output() };
            let Err(error) = self.recover(error) else { continue };
            // A peek that fails returns nothing, so the last relation is one of an earlier peek.
            let latest = match self.source.engine {
                Engine::Streaming => self.session.relations().latest(),
                Engine::Polling(_) => None,
            };
            let table = latest.map(|last| format!("{}.{}", last.namespace, last.name));
            let error = error.after(self.session.feedback().received(), table);
            match self.delivers_before(&error) {
                true => self.begin_failing(error),
                false => return Err(self.fail(error)),
            }
        }
    }

    /// Ends the run with this failure.
    fn fail(&mut self, error: Error) -> Error {
        self.confirm_before_failing();
        self.abandon_output();
        if matches!(error, Error::Positions(_)) {
            self.drop_new_slot();
        }
        error
    }

    /// Drops the slot that this run created if a checkpoint of another slot forbids its use.
    fn drop_new_slot(&mut self) {
        let Some(name) = self.new_slot.take() else { return };
        self.feed.close(true);
        let mut waiter = Waiter::new(&mut self.poller, &mut self.signals).until(Instant::now() + FINISH_TIMEOUT);
        match source::slot::drop_new(&self.source, &name, &mut waiter) {
            Ok(()) => info!(slot = name.as_str(); "dropped the slot that this run created"),
            Err(error) => warn!(slot = name.as_str(), error:% = error;
                "cannot drop the slot that this run created; it retains WAL until you drop it"),
        }
    }

    fn turns(&mut self) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            self.handle_signals(now)?;
            serve_output(&mut self.output, &mut self.session, now)?;
            self.handle_catalog(now)?;
            self.forget_gone();
            self.handle_found()?;
            let read = self.read(now)?;
            let has_rows = self.serve_snapshot(read == Read::Drained, now)?;
            self.keep_full_keys();
            if self.stage.is_reading() && self.session.is_done() {
                self.stage = Stage::Draining;
            }
            serve_output(&mut self.output, &mut self.session, now)?;
            self.session.feedback().check_stall(now)?;
            self.feed.check_stall(now)?;
            self.store(now)?;
            self.send_status_update(now)?;
            let confirmed = self.session.feedback().confirmed();
            self.outage.handle(self.output.outage(), confirmed, now);
            let refused = self.output.refused_count();
            self.report.statistics(&mut self.session, refused, self.poller.turns(), now);
            let is_reading = self.may_read(now);
            self.report.progress(&mut self.session, self.incremental.as_ref(), is_reading, now);
            if self.is_over(now) {
                return Ok(());
            }
            self.handle_hold(now)?;
            if self.handle_huge(read, now)? {
                // libpq may already hold the first messages of the new session.
                continue;
            }
            // libpq may hold data that there is room for now, and no readiness event reports it.
            match read {
                Read::Drained if !has_rows => self.sleep(now)?,
                Read::Blocked if !has_rows && !self.may_read(now) => self.sleep(now)?,
                Read::Drained | Read::Blocked | Read::Unfinished => {}
            }
        }
    }

    /// Judges a position that is found after the start of the stream, like any other stored position.
    fn handle_found(&mut self) -> Result<(), Error> {
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
        }
        self.output.encoder().restore_full_keys(&full_keys);
        self.session.begin_at(start.lsn);
        self.feed.pass_before(start.lsn);
        Ok(())
    }

    /// Keeps learned keys with the next position.
    fn keep_full_keys(&mut self) {
        let Some(full_keys) = self.output.encoder().new_full_keys() else { return };
        Store::of(&mut self.state_file, &mut self.output).keep_full_keys(&full_keys);
        self.identity.full_keys = full_keys;
    }

    /// Forgets relations that have no changes left in the stream or in flight.
    fn forget_gone(&mut self) {
        if self.session.is_inside_transaction() || self.asking.is_open() {
            return;
        }
        for index in self.gone.take_finished(self.session.feedback().delivered()) {
            let relations = self.session.relations();
            let oid = relations.relation(index).oid;
            relations.forget(index);
            self.output.forget(index, oid);
        }
    }

    fn handle_signals(&mut self, now: Instant) -> Result<(), Error> {
        let received = self.signals.received();
        if received == 0 {
            return Ok(());
        }
        if received > 1 {
            warn!(slot = self.report.slot(); "second signal: stopping at once");
            return Err(self.unacknowledged());
        }
        if !matches!(self.stage, Stage::Stopping { .. } | Stage::Failing { .. }) {
            self.log_first_signal();
            self.stage = Stage::Stopping { deadline: self.times.shutdown_timeout.map(|timeout| now + timeout) };
        }
        Ok(())
    }

    /// Logs what the first signal waits for, how long, and how to end at once.
    fn log_first_signal(&self) {
        let (slot, in_flight) = (self.report.slot(), self.session.ring().outstanding());
        let wait_s = self.times.shutdown_timeout.map_or(Value::from("forever"), |limit| Value::from(limit.as_secs()));
        match self.output.outage() {
            Some((_, reason)) => warn!(slot, in_flight, wait_s, reason;
                "signal: Kafka is not accepting records; waiting for it before the end (a second signal ends at once)"),
            None if in_flight > 0 => info!(slot, in_flight, wait_s;
                "signal: waiting until the records in flight are delivered (a second signal ends at once)"),
            None => info!(slot; "signal: stopping"),
        }
    }

    /// Whether everything that was read is delivered, or the time limit has passed.
    fn is_over(&mut self, now: Instant) -> bool {
        let drained = self.output.is_drained();
        // A job with nothing to read is not done before the stored position was compared with the slot.
        let has_begun = Store::of(&mut self.state_file, &mut self.output).has_begun();
        match self.stage {
            Stage::Reading => false,
            _ if self.incremental.as_ref().is_some_and(Incremental::is_emitting) && !self.has_expired(now) => false,
            Stage::Draining => drained && has_begun && self.session.is_settled() && self.session.feedback().is_stored(),
            // Nothing more is delivered.
            Stage::Stopping { .. } | Stage::Failing { .. } if self.output.is_finding_cause() => true,
            Stage::Stopping { .. } | Stage::Failing { .. } => {
                drained && !self.waits_for_timeline() || self.has_expired(now)
            }
        }
    }

    /// How long to wait for the end of the open Kafka transaction at the end of the run. A broker that answers needs much
    /// less than the least time, and a frozen one must not prolong a stop.
    pub(super) fn abort_limit(&self, now: Instant) -> Duration {
        const LIMIT_MIN: Duration = Duration::from_millis(500);
        let left = |deadline: Instant| deadline.saturating_duration_since(now).clamp(LIMIT_MIN, ABORT_LIMIT);
        self.stage.deadline().map_or(ABORT_LIMIT, left)
    }

    /// Whether the time for a stop is over.
    fn has_expired(&self, now: Instant) -> bool {
        self.stage.deadline().is_some_and(|deadline| now >= deadline)
    }

    fn send_status_update(&mut self, now: Instant) -> Result<(), Error> {
        match self.session.feedback().update_due(now) {
            Some(update) => Ok(self.feed.update(update)?),
            None => {
                self.feed.confirm(self.session.feedback().confirmed());
                Ok(self.feed.flush()?)
            }
        }
    }

    fn sleep(&mut self, now: Instant) -> Result<(), Error> {
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

    /// Ends the stream in order: a last status update, CopyDone, and the server's own CopyDone.
    fn finish(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.store(now)?;
        self.reclaim_to_finish()?;
        let update = self.session.feedback().update(now);
        self.feed.update(update)?;
        if let Some(recorder) = self.recorder.take() {
            recorder.finish()?;
        }
        let unacknowledged = matches!(self.stage, Stage::Stopping { .. }) && self.has_unacknowledged();
        self.end_stream(unacknowledged)?;
        let refused = self.output.refused_count();
        self.report.ended(&mut self.session, refused, self.poller.turns(), now);
        if unacknowledged { Err(self.unacknowledged()) } else { Ok(()) }
    }

    /// Ends the copy in order. A server in the middle of a large transaction would first send all of it. Then walcat
    /// closes the session and confirms on a new one, before that one has anything to send.
    fn end_stream(&mut self, unacknowledged: bool) -> Result<(), Error> {
        // Moving a slot by SQL takes a while.
        let is_stream = matches!(self.feed, Feed::Streaming(_));
        if self.finish_feed(if is_stream { COPY_END_TIMEOUT } else { FINISH_TIMEOUT })? {
            return Ok(());
        }
        let slot = self.report.slot();
        debug!(slot; "the server keeps sending; closing the session");
        self.poller.disarm(Wakeup::Postgres);
        self.feed.close(false);
        // A peek has nothing to confirm, and a run that stopped inside a transaction has confirmed everything before it.
        if unacknowledged || !self.may_reconnect() {
            return Ok(());
        }
        self.hold = Hold::Released { confirmed: Lsn::INVALID };
        self.reclaim_to_finish()?;
        let update = self.session.feedback().update(Instant::now());
        self.feed.update(update)?;
        if self.finish_feed(FINISH_TIMEOUT)? {
            return Ok(());
        }
        let message = format!("the server did not end the stream within {} s", FINISH_TIMEOUT.as_secs());
        Err(pg::Error::Lost { message }.into())
    }

    /// Returns whether the server ended the copy within the limit.
    fn finish_feed(&mut self, limit: Duration) -> Result<bool, Error> {
        let signals = self.signals.received();
        let mut waiter = Waiter::new(&mut self.poller, &mut self.signals).until(Instant::now() + limit);
        match self.feed.finish(&mut waiter) {
            Err(pg::Error::Interrupted) if self.signals.received() == signals => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    fn has_unacknowledged(&self) -> bool {
        match &self.output {
            Output::Records(sink) => {
                let unreached = !sink.ever_reached();
                unreached || !self.session.is_settled() || self.session.is_inside_transaction()
            }
            Output::Dump(_) => false,
        }
    }

    fn unacknowledged(&mut self) -> Error {
        Error::Unacknowledged { confirmed: self.session.feedback().confirmed() }
    }

    /// Whether everything that was read whole is delivered before this failure ends the run. This includes the failure of a
    /// lost or dropped slot: no other source has what was read from it.
    fn delivers_before(&self, error: &Error) -> bool {
        let is_of_source =
            matches!(error, Error::Server { .. } | Error::Postgres(_) | Error::Stalled(_) | Error::Setup { .. });
        is_of_source || matches!(error, Error::Session(_))
    }

    fn begin_failing(&mut self, error: Error) {
        if !matches!(error, Error::Session(_)) {
            self.feed.close(false);
        }
        self.asking.give_up(None);
        let limit = self.times.shutdown_timeout.unwrap_or(FINISH_TIMEOUT);
        self.stage = Stage::Failing { error: Box::new(error), deadline: Instant::now() + limit };
    }

    /// Confirms what was delivered before the failure, so that the next run does not deliver it again.
    fn confirm_before_failing(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            // Report only the failure that ends the run.
            let _ = recorder.finish();
        }
        let feedback = self.session.feedback();
        let latest = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
        // If the store is what failed, nothing more is confirmed.
        if self.keep(latest, Urgency::AtOnce, Instant::now()).is_ok() && !self.session.feedback().is_sent() {
            let update = self.session.feedback().update(Instant::now());
            // The connection may be what failed.
            let _: Result<(), pg::Error> = self.feed.update(update);
        }
    }
}
