//! `walcat stream`: builds the pump from the settings and runs it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::kafka;
use crate::backoff::Policy;
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::feedback::{Confirming, Timing};
use crate::limits::RING_ENTRIES_MAX;
use crate::pg::peek;
use crate::poller::Poller;
use crate::pump::recorder::{Recorder, Target};
use crate::pump::store::Store;
use crate::pump::{self, Dump, Dumping, Output, Parts, Pump, Times};
use crate::record::{self, Encoder, UNAVAILABLE_VALUE};
use crate::recording::Header;
use crate::session::{EnvelopeClock, Goal, Options, Session, Truncations};
use crate::signal::StopSignals;
use crate::sink::kafka::client::link::Addresses;
use crate::sink::kafka::delivery;
use crate::sink::stdout::{self, LineWriter, StdoutSink};
use crate::sink::{self, KafkaSink, Sink};
use crate::source::open::{self, Started};
use crate::source::options::{Engine, SlotMode, Source, Takeover};
use crate::source::waiting::Waiter;
use crate::state_file::StateFile;

/// How long to wait for an active slot, unless configured.
const SLOT_WAIT: Duration = Duration::from_secs(30);

/// How long to keep trying to reconnect, unless configured.
const RECONNECT_FOR: Duration = Duration::from_secs(300);

/// How often to request a keepalive if the server's position ends the job.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Streams until the job is done or a signal arrives.
///
/// # Errors
/// Every failure that ends the stream.
pub fn run(settings: &StreamSettings) -> Result<(), Error> {
    let mut poller = Poller::new().map_err(pump::Error::from)?;
    let mut signals = StopSignals::install().map_err(pump::Error::from)?;
    poller.register_signals(signals.source()).map_err(pump::Error::from)?;

    if settings.snapshot.mode == config::SnapshotMode::Only {
        return super::snapshot::only(settings, poller, signals);
    }
    let mut source = source(settings);
    let mut state_file = state_file(settings)?;
    // Check the output before creating or acquiring a slot.
    check_output(settings)?;
    let recording = settings.record.as_deref().map(Target::open).transpose()?;
    let mut waiter = Waiter::new(&mut poller, &mut signals);
    if settings.sink == config::Sink::Kafka && settings.dump.is_none() {
        // A mistyped broker must not leave a new slot or block an existing one.
        drop(kafka::reach(settings, &mut waiter)?);
    }
    if settings.snapshot.mode == config::SnapshotMode::Initial && settings.create_slot {
        // The operator's consent was for the position of the slot before.
        source.accept_gap &= !super::snapshot::initial(settings, &source, &mut state_file, &mut poller, &mut signals)?;
    }
    let mut waiter = Waiter::new(&mut poller, &mut signals);
    super::incremental::check(settings, &source, state_file.as_ref(), &mut waiter)?;
    let table_topics = kafka::table_topics(settings, &source, &mut waiter)?;
    let started = open::start(&source, &mut || Ok(Store::on_disk(&mut state_file).read()?), &mut waiter)?;
    let session = session(settings, &started);
    let encoder = Encoder::new(&encoding(settings, &started.system.database))?;
    let recorder = recording.map(|target| Recorder::begin(target, &header(settings, &started))).transpose()?;
    let output = output(settings, &started, table_topics, encoder)?;
    let pump = Pump::new(Parts {
        started,
        session,
        output,
        recorder,
        poller,
        signals,
        times: Times { shutdown_timeout: settings.shutdown_timeout.limit(), stats_interval: settings.stats_interval },
        source,
        state_file,
        retry: Policy {
            initial: settings.retry.initial,
            max: settings.retry.max,
            budget: settings.retry.for_.map_or(Some(RECONNECT_FOR), config::Budget::limit),
        },
        incremental: (!is_look(settings)).then(|| pump::IncrementalSettings {
            dsn: settings.dsn.as_ref().map(|dsn| dsn.expose().to_owned()),
            publications: settings.publications.clone(),
            chunk_time: settings.snapshot.chunk_time,
            is_automatic: settings.snapshot.mode == config::SnapshotMode::Incremental,
            new_tables: settings.snapshot.new_tables,
            tables: settings.snapshot.tables.clone(),
        }),
    })?;
    match pump.run() {
        // The end of a pipeline. What the reader did not take stays unconfirmed.
        Err(pump::Error::Sink(sink::Error::Stdout(sink::stdout::Error::Closed))) => {
            info!(slot = settings.slot.as_str(); "the reader closed standard output: stopping");
            Ok(())
        }
        result => Ok(result?),
    }
}

pub(super) fn source(settings: &StreamSettings) -> Source {
    let slot_mode = match (settings.temporary_slot, settings.create_slot, settings.dump.is_some()) {
        (true, _, _) => SlotMode::Temporary,
        (false, true, _) => SlotMode::Create,
        (false, false, true) => SlotMode::ExistingOrCopy,
        (false, false, false) => SlotMode::Existing,
    };
    Source {
        dsn: settings.dsn.as_ref().map(|dsn| dsn.expose().to_owned()),
        slot: settings.slot.clone(),
        publications: settings.publications.clone(),
        engine: match settings.engine {
            config::Engine::Streaming => Engine::Streaming,
            config::Engine::Polling => Engine::Polling(peek::Settings {
                interval: settings.poll.interval,
                changes_max: settings.poll.changes_max,
                idle_bytes: settings.poll.idle_bytes,
                stall_timeout: settings.stall_timeout,
                patience_factor: 1,
            }),
        },
        slot_mode,
        failover: settings.failover,
        startpos: settings.startpos,
        connect_for: settings.wait.limit(),
        slot_for: settings.retry.for_.map_or(Some(SLOT_WAIT), config::Budget::limit),
        takeover: if settings.takeover { Takeover::Anybody } else { Takeover::Never },
        accept_gap: settings.accept_gap,
        rows_follow: settings.snapshot.mode == config::SnapshotMode::Incremental && !is_look(settings),
    }
}

/// A dump or a recording confirms nothing, so it stores nothing.
pub(super) fn state_file(settings: &StreamSettings) -> Result<Option<StateFile>, Error> {
    match &settings.state.file {
        Some(path) if !is_look(settings) => {
            let file = StateFile::open(path, settings.state.interval).map_err(pump::Error::from)?;
            file.check_writable().map_err(pump::Error::from)?;
            Ok(Some(file))
        }
        _ => Ok(None),
    }
}

pub(super) fn is_look(settings: &StreamSettings) -> bool {
    settings.dump.is_some() || settings.record.is_some()
}

fn session(settings: &StreamSettings, started: &Started) -> Session {
    let server_flushed = started.decodable;
    let goal = match (settings.once, settings.endpos) {
        (_, Some(lsn)) => Goal::EndLsn { lsn, server_flushed },
        (true, None) => Goal::Once { target: server_flushed },
        (false, None) => Goal::Forever,
    };
    if settings.record.is_some() && settings.dump.is_none() {
        warn!(slot = settings.slot.as_str();
            "recording confirms nothing: the slot does not move, and the server will send the changes again");
    }
    let timing = Timing {
        status_interval: settings.status_interval,
        // A poll cannot request keepalives; it has its own timeout.
        stall_timeout: settings.stall_timeout.filter(|_| settings.engine == config::Engine::Streaming),
        ask_interval: (goal != Goal::Forever).then_some(ASK_INTERVAL),
    };
    let options = Options {
        start: started.start,
        goal,
        confirming: match (is_look(settings), settings.delivery, settings.state.file.is_some() || settings.state.topic)
        {
            (true, ..) => Confirming::Never,
            (false, config::Delivery::ExactlyOnce, _) | (false, _, true) => Confirming::Stored,
            (false, config::Delivery::AtLeastOnce, false) => Confirming::Yes,
        },
        clock: if settings.dump.is_some() { EnvelopeClock::Commit } else { EnvelopeClock::Processing },
        truncations: settings.truncate,
        timing,
        entries_max: RING_ENTRIES_MAX,
    };
    Session::new(options, Instant::now())
}

pub(super) fn encoding(settings: &StreamSettings, database: &str) -> record::Settings {
    record::Settings {
        database: database.to_owned(),
        source_name: settings.topic_prefix.clone().unwrap_or_else(|| settings.slot.clone()),
        topic_prefix: settings.topic_prefix.clone(),
        unavailable_value: UNAVAILABLE_VALUE.to_owned(),
        // A dump shows every change.
        accept_keyless: settings.accept_keyless || settings.dump.is_some(),
    }
}

fn header(settings: &StreamSettings, started: &Started) -> Header {
    Header {
        server_version: started.server_version,
        system_identifier: started.system.identifier.clone(),
        timeline: started.system.timeline,
        database: started.system.database.clone(),
        slot: settings.slot.clone(),
        publications: settings.publications.clone(),
        topic_prefix: settings.topic_prefix.clone(),
        source_name: settings.topic_prefix.clone().unwrap_or_else(|| settings.slot.clone()),
        settings: recorded_settings(settings),
        start_lsn: started.start,
    }
}

/// Settings that change the lines that `decode` prints.
fn recorded_settings(settings: &StreamSettings) -> BTreeMap<String, String> {
    let truncate = match settings.truncate {
        Truncations::Emit => "emit",
        Truncations::Skip => "skip",
    };
    BTreeMap::from([("truncate".to_owned(), truncate.to_owned())])
}

/// Checks the output as far as possible without connecting to anything.
pub(super) fn check_output(settings: &StreamSettings) -> Result<(), Error> {
    match settings.sink {
        _ if settings.dump.is_some() => Ok(()),
        config::Sink::Stdout => Ok(stdout::check_open().map_err(sink::Error::from)?),
        config::Sink::Kafka => kafka::check_properties(settings),
    }
}

fn output(
    settings: &StreamSettings,
    started: &Started,
    table_topics: Vec<String>,
    encoder: Encoder,
) -> Result<Output, Error> {
    if settings.dump.is_some() {
        return Ok(Output::Dump(Box::new(Dump {
            dumping: Dumping::new(encoder, settings.dump_keepalives),
            lines: LineWriter::new(),
        })));
    }
    let delivery = kafka::delivery(settings, started, table_topics)?;
    Ok(Output::Records(sink(settings, delivery, encoder)?))
}

/// The sink for records.
pub(super) fn sink(settings: &StreamSettings, delivery: delivery::Settings, encoder: Encoder) -> Result<Sink, Error> {
    Ok(match settings.sink {
        config::Sink::Stdout => Sink::Stdout(Box::new(StdoutSink::new(encoder, settings.stdout))),
        config::Sink::Kafka => {
            let addresses = Addresses {
                brokers: settings.brokers.clone().unwrap_or_default(),
                properties: kafka::producer_properties(settings),
            };
            let sink = KafkaSink::new(addresses, kafka::sink_settings(settings, delivery), encoder, Instant::now());
            Sink::Kafka(Box::new(sink.map_err(sink::Error::from)?))
        }
    })
}
