//! The one event loop: owns the stream, the session, the output and the poll, and moves bytes between them.
//!
//! One turn: serve the output and settle what it delivered; read PostgreSQL as far as there is room; send the status
//! update that is due; sleep until something is ready. Invariants 3, 4 and 6 of the crate's documentation live here.

mod asking;
mod backlog;
mod closing;
pub mod copying;
pub mod display;
pub mod dumping;
mod ending;
pub mod error;
mod found;
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
mod sleeping;
mod stage;
pub mod store;
mod storing;
mod watch;

use std::time::{Duration, Instant};

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
use self::reconnect::Reconnects;
use self::recorder::Recorder;
use self::renewal::Huge;
use self::report::Report;
use self::stage::Stage;
use self::store::Store;
use self::watch::Watch;
use crate::backoff::Policy;
use crate::lsn::Lsn;
use crate::pg::catalog::Catalog;
use crate::poller::Poller;
use crate::position::{Facts, Identity};
use crate::session::Session;
use crate::signal::StopSignals;
use crate::snapshot::Progress;
use crate::source::open::Started;
use crate::source::options::{Engine, Source};
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
    /// Whether the last checkpoint was past the end of the WAL, and walcat has asked the server again since.
    was_overtaken: bool,
    reconnects: Reconnects,
    /// The slot that this run created, until a stored position was compared with it.
    new_slot: Option<String>,
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
            snapshot: Store::on_disk(&mut parts.state_file).snapshot().map(Progress::in_chunks),
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
        if let Some(incremental) = &incremental {
            incremental.tell_what_is_left();
        }
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
            // Without reconnects the first answer is final.
            was_overtaken: parts.retry.budget == Some(Duration::ZERO),
            reconnects: Reconnects::new(parts.retry, session_pid, now),
            new_slot: parts.started.new_slot,
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

    fn send_status_update(&mut self, now: Instant) -> Result<(), Error> {
        match self.session.feedback().update_due(now) {
            Some(update) => Ok(self.feed.update(update)?),
            None => {
                self.feed.confirm(self.session.feedback().confirmed());
                Ok(self.feed.flush()?)
            }
        }
    }
}
