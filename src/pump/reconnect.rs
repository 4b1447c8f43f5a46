//! Reconnects to PostgreSQL after a lost connection, within the budget of `[retry]`. Records in flight stay in flight, and
//! the new stream continues after the last transaction that was read whole. With exactly-once delivery, walcat aborts the
//! open Kafka transaction and starts the stream again at the checkpoint; it does the same when Kafka aborts a transaction.
//! In either delivery the stream starts again at the delivered position when a topic was deleted.

use std::time::{Duration, Instant};

use log::kv::Value;
use log::{info, warn};

use super::error::{Error, Remedy};
use super::hold::Hold;
use super::output::{Output, serve_output};
use super::renewal::Huge;
use super::store::Store;
use super::watch::Watch;
use super::{Pump, Stage};
use crate::backoff::{Backoff, Policy};
use crate::lsn::Lsn;
use crate::pg;
use crate::position::Known;
use crate::sink::kafka::exactly_once::ABORT_LIMIT;
use crate::source;
use crate::source::open::{self, Started};
use crate::source::options::{SlotMode, Source, Takeover};
use crate::source::waiting::Waiter;

/// With exactly-once delivery: how long walcat waits for a slot that another process holds before it checks who that is,
/// and the interval between checks.
pub(super) const HOLDER_LOOK: Duration = Duration::from_secs(2);
const HOLDER_LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// A connection that lasted this long counts as a working one.
const CONNECTION_HAS_HELD: Duration = Duration::from_secs(30);

/// What the next attempt depends on: the attempts before, and the present session.
#[derive(Debug)]
pub(super) struct Reconnects {
    backoff: Backoff,
    /// The same for failing Kafka transactions, without a limit: `broker_for` limits the wait for Kafka.
    restarts: Backoff,
    /// When the present connection started to stream.
    connected_at: Instant,
    /// The pid of the walsender or backend of the present session, or of the last one.
    session_pid: i32,
    /// The received position when the connection was last lost.
    received_at_loss: Lsn,
    /// How many records were left out when the stream was last interrupted.
    refused_at_loss: u64,
}

impl Reconnects {
    /// For the first session.
    pub fn new(retry: Policy, session_pid: i32, now: Instant) -> Self {
        Reconnects {
            backoff: Backoff::new(retry),
            restarts: Backoff::new(Policy { budget: None, ..retry }),
            connected_at: now,
            session_pid,
            received_at_loss: Lsn::INVALID,
            refused_at_loss: 0,
        }
    }

    /// A session has ended with this position received and so many records left out. Returns whether it has read anything.
    fn interrupted(&mut self, received: Lsn, refused: u64) -> bool {
        // A quiet server sends nothing for hours, so a long-lived connection counts as a success too.
        let has_held = self.connected_at.elapsed() >= CONNECTION_HAS_HELD;
        let has_read = received > self.received_at_loss;
        if has_read || has_held {
            self.backoff.succeeded();
            self.restarts.succeeded();
        }
        // The next attempt leaves out one record more.
        if refused > std::mem::replace(&mut self.refused_at_loss, refused) {
            self.restarts.succeeded();
        }
        self.received_at_loss = received.max(self.received_at_loss);
        has_read
    }

    /// The attempts of this remedy; none if it needs no attempt.
    fn attempts(&mut self, remedy: Remedy) -> Option<&mut Backoff> {
        match remedy {
            Remedy::Producer => Some(&mut self.restarts),
            Remedy::Connection => Some(&mut self.backoff),
            Remedy::None => None,
        }
    }

    /// The time that is left for connecting again; none for no limit.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.backoff.left(now)
    }
}

impl Pump {
    /// Reconnects if that fixes `error`; otherwise, or when the budget is spent, returns the error that ends the run.
    pub(super) fn recover(&mut self, error: Error) -> Result<(), Error> {
        if error.remedy() == Remedy::None || !self.may_reconnect() {
            return Err(error);
        }
        if matches!(self.stage, Stage::Stopping { .. }) {
            return Err(self.unacknowledged());
        }
        let received = self.session.feedback().received();
        let has_read = self.reconnects.interrupted(received, self.output.refused_count());
        let is_stalled = matches!(error, Error::Stalled(_));
        self.source.engine.be_patient(is_stalled, has_read);
        self.session.feedback().be_patient(is_stalled, has_read);
        // Our own session would still hold the slot.
        self.feed.close(error.remedy() == Remedy::Producer);
        self.output.close(ABORT_LIMIT, Instant::now());
        if matches!(error, Error::Postgres(pg::Error::SlotMoved { .. })) {
            // Continuing would fence the instance that moved the slot.
            self.output.check_successor(Instant::now());
        }
        self.settle_output()?;
        if error.remedy() == Remedy::Producer {
            self.output.has_failed(&error.to_string(), Instant::now())?;
        }
        let (mut error, began) = (error, Instant::now());
        let mut holder_look = HOLDER_LOOK;
        loop {
            let Some(backoff) = self.reconnects.attempts(error.remedy()) else { return Err(error) };
            let Some(delay) = backoff.failed(Instant::now(), fastrand::f64()) else {
                return Err(self.given_up(error, began));
            };
            let gives_up_in_s = backoff.left(Instant::now()).map_or(Value::from("never"), |left| left.as_secs().into());
            let retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let what = match error.remedy() {
                Remedy::Producer => "Kafka discarded records; reading them again with a new producer",
                Remedy::Connection | Remedy::None => "the stream is interrupted; reconnecting",
            };
            warn!(slot = self.report.slot(), received:% = received, error:% = error, retry_in_ms, gives_up_in_s; "{what}");
            match self.connect_again(delay, holder_look, None) {
                Ok(started) => {
                    // A fence that was reported meanwhile; it is known within seconds, and the server waits longer.
                    self.settle_output()?;
                    return self.go_on(started);
                }
                Err(Error::Postgres(pg::Error::Interrupted)) => return Err(self.unacknowledged()),
                // The holder may have taken over while this process was thought dead.
                Err(again @ Error::Source(source::Error::SlotHeld { .. })) => {
                    self.output.check_successor(Instant::now());
                    self.settle_output()?;
                    holder_look = HOLDER_LOOK_INTERVAL;
                    error = again;
                }
                Err(again) => error = again,
            }
        }
    }

    /// Returns the error to report when the budget is spent.
    fn given_up(&self, error: Error, began: Instant) -> Error {
        let seconds = began.elapsed().as_secs();
        // With a budget of zero, walcat did not try.
        if seconds > 0 {
            warn!(slot = self.report.slot(), tried_for_s = seconds;
                "giving up on reconnecting: the time of [retry] for is spent");
        }
        match error {
            Error::Source(source::Error::SlotHeld { slot, holder, .. }) => {
                source::Error::SlotHeld { slot, holder, seconds }.into()
            }
            error => error,
        }
    }

    /// Whether the run may reconnect: a temporary slot is gone with its session, and a dump or a recording shows one
    /// session.
    pub(super) fn may_reconnect(&self) -> bool {
        let is_look = self.recorder.is_some() || matches!(self.output, Output::Dump(_));
        !is_look && self.source.slot_mode != SlotMode::Temporary
    }

    /// Waits, then starts a stream that continues this one. walcat serves the output meanwhile. A deadline limits the
    /// wait at the end of the run.
    pub(super) fn connect_again(
        &mut self,
        delay: Duration,
        holder_look: Duration,
        deadline: Option<Instant>,
    ) -> Result<Started, Error> {
        let at = match self.output.begins_again() {
            true => self.session.feedback().delivered(),
            false => self.session.resume_lsn(),
        };
        let is_read_again = Store::of(&mut self.state_file, &mut self.output).is_read_at_each_start();
        let known = (!is_read_again).then(|| Known {
            stored: self.identity.at(at, self.session.records_end()),
            store: "what was read before the connection was lost".to_owned(),
        });
        let source = Source {
            // A missing slot was dropped: a new one would be a gap.
            slot_mode: SlotMode::Existing,
            startpos: None,
            connect_for: Some(Duration::ZERO),
            slot_for: match (is_read_again, self.reconnects.left(Instant::now())) {
                (true, left) => Some(left.map_or(holder_look, |left| left.min(holder_look))),
                (false, left) => left,
            },
            accept_gap: false,
            takeover: match self.source.takeover {
                Takeover::Never => Takeover::Never,
                Takeover::Anybody | Takeover::Own(_) => Takeover::Own(self.reconnects.session_pid),
            },
            ..self.source.clone()
        };
        // Settle what is delivered meanwhile: otherwise it looks as if Kafka accepted nothing.
        let (output, session, mut failure) = (&mut self.output, &mut self.session, None);
        let mut serve = |now| {
            failure = serve_output(output, session, now).err();
            failure.is_none()
        };
        let mut waiter = Waiter::with_work(&mut self.poller, &mut self.signals, &mut serve);
        if let Some(deadline) = deadline {
            waiter = waiter.until(deadline);
        }
        let started = waiter
            .sleep(delay)
            .map_err(Error::from)
            .and_then(|()| Ok(open::start(&source, &mut || Ok(known.clone()), &mut waiter)?));
        match failure {
            Some(failure) => Err(failure),
            None => started,
        }
    }

    /// Replaces the old connection by the new one.
    pub(super) fn attach(&mut self, started: Started, now: Instant) {
        self.feed = started.feed;
        self.reconnects.session_pid = self.feed.session_pid();
        self.asking.give_up(Some(started.server.clone()));
        self.outage.follow(started.server.clone());
        if let Some(incremental) = &mut self.incremental {
            incremental.follow(started.server.clone());
        }
        self.identity.go_on(started.system.timeline, self.session.feedback().records_end());
        self.facts = started.facts;
        self.watch = Watch::new(
            self.identity.slot.clone(),
            self.source.dsn.clone(),
            started.server.clone(),
            started.is_standby,
            self.identity.timeline,
            now,
        );
        Store::of(&mut self.state_file, &mut self.output).ask_timeline(self.watch.is_needed());
        self.reconnects.connected_at = now;
        self.hold = Hold::InUse;
        self.huge = Huge::default();
    }

    pub(super) fn go_on(&mut self, started: Started) -> Result<(), Error> {
        let (start, is_cut, now) = (started.start, started.is_cut, Instant::now());
        let last_timeline = self.identity.timeline;
        self.attach(started, now);
        let is_again = self.output.renew(now)?;
        if is_again {
            self.session.restarted(now);
            self.stage = Stage::Reading;
        } else {
            self.session.reconnected(now)?;
        }
        if let Some(incremental) = &mut self.incremental {
            match is_again {
                // What Kafka transactions have stored is found later.
                true => incremental.restart(incremental.delivered().clone()),
                false => incremental.reconnected(),
            }
        }
        let mut store = Store::of(&mut self.state_file, &mut self.output);
        if store.is_read_at_each_start() {
            // Knowledge of another server may be wrong for this one: use the slot's position until the stored one is read.
            self.session.cut(start);
        } else {
            self.session.pass_before(start);
            if is_cut {
                self.session.cut(start);
            }
        }
        if is_cut || self.identity.timeline != last_timeline {
            self.session.cut_goal(self.facts.shared_up_to(last_timeline).unwrap_or(self.facts.wal_end));
            self.reconnects.received_at_loss = self.session.feedback().received();
            let feedback = self.session.feedback();
            // Store the position before this server confirms anything: one of the old timeline does not apply here.
            store.begin(self.identity.at(feedback.delivered(), feedback.records_end()), now)?;
        }
        info!(slot = self.report.slot(), lsn:% = start, in_flight = self.session.ring().outstanding();
            "streaming resumed");
        Ok(())
    }
}
