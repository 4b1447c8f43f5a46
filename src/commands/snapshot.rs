//! `walcat stream --snapshot only` and `--snapshot initial`: the rows of the published tables as of one point, alone or before
//! the stream of a new slot.

use log::{info, warn};

use super::{incremental, kafka, stream};
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::pg::tables::Table;
use crate::pg::{slots, sqlstate};
use crate::poller::Poller;
use crate::position::{FullKeys, Identity, Reached};
use crate::pump;
use crate::pump::copying::record::Record;
use crate::pump::copying::{self, Copying, Keyed, Parts};
use crate::pump::error::Remedy;
use crate::record::Encoder;
use crate::signal::StopSignals;
use crate::sink::kafka::delivery;
use crate::sink::{self, Sink};
use crate::snapshot::Progress;
use crate::source::open;
use crate::source::options::Source;
use crate::source::slot;
use crate::source::snapshot::{self, Opened, Request};
use crate::source::waiting::Waiter;
use crate::state_file::StateFile;
use crate::wire::replication::command::SlotOptions;

/// Beyond this, a snapshot takes long enough for its cost to the server to matter.
const LARGE_BYTES: u64 = 50 << 30;

/// `source.name` without a prefix and without a slot.
const SOURCE_NAME: &str = "walcat";

/// Reads and delivers all rows, through a temporary slot of its own that ends before the first row is read.
///
/// # Errors
/// Every failure that ends the snapshot.
pub(super) fn only(settings: &StreamSettings, mut poller: Poller, mut signals: StopSignals) -> Result<(), Error> {
    stream::check_output(settings)?;
    let mut waiter = Waiter::new(&mut poller, &mut signals);
    if settings.sink == config::Sink::Kafka {
        // A mistyped broker must not cost the server a snapshot.
        drop(kafka::reach(settings, &mut waiter)?);
    }
    let slot = temporary_slot();
    let options = SlotOptions { temporary: true, failover: false, exports_snapshot: true };
    let opened = snapshot::open(&stream::source(settings), request(settings, &slot, options), &mut waiter)?;
    tell_cost(&opened);
    let mut encoding = stream::encoding(settings, &opened.system.database);
    if encoding.source_name.is_empty() {
        encoding.source_name = SOURCE_NAME.to_owned();
    }
    // Nothing is repeated within a run, and no position outlives it: Kafka transactions would add nothing.
    let mut sink = stream::sink(settings, delivery::Settings::AtLeastOnce(None), Encoder::new(&encoding)?)?;
    let keys = copying::prepare(&mut sink, &opened.tables)?;
    match copy(settings, opened, keys, sink, None, (&mut poller, &mut signals)) {
        // The end of a pipeline.
        Err(pump::Error::Sink(sink::Error::Stdout(sink::stdout::Error::Closed))) => {
            info!("the reader closed standard output: stopping");
            Ok(())
        }
        result => Ok(result?),
    }
}

/// The slot of a snapshot alone.
pub(super) fn temporary_slot() -> String {
    format!("walcat_snapshot_{}", std::process::id())
}

/// If the slot does not exist, creates it and delivers the rows as of its consistent point; then the stream can begin there.
/// Returns whether it has created the slot.
///
/// The snapshot is on record before the slot is created: a slot that looks finished would lose the rows in silence.
///
/// # Errors
/// Every failure that ends the snapshot.
pub(super) fn initial(
    settings: &StreamSettings,
    source: &Source,
    state_file: &mut Option<StateFile>,
    poller: &mut Poller,
    signals: &mut StopSignals,
) -> Result<bool, Error> {
    let mut waiter = Waiter::new(poller, signals);
    let mut connection = open::connect(source, source.engine.kind(), &mut waiter)?;
    if slots::find(&mut connection, &source.slot, &mut |socket, way| waiter.wait(socket, way))?.is_some() {
        return Ok(false);
    }
    if !incremental::has_place(settings) {
        return Err(incremental::no_place());
    }
    let system = open::identify(&mut connection, &mut waiter)?.0;
    drop(connection);
    let encoder = Encoder::new(&stream::encoding(settings, &system.database))?;
    let mut sink = stream::sink(settings, kafka::delivery_before_slot(settings, &system)?, encoder)?;
    let patterns = settings.snapshot.tables.iter().map(|pattern| pattern.text().to_owned()).collect();
    let identity = Identity {
        system_identifier: system.identifier.clone(),
        timeline: system.timeline,
        slot: source.slot.clone(),
        records: Reached::NOTHING,
        full_keys: FullKeys::new(),
        snapshot: Some(Progress { is_initial: true, ..Progress::of(patterns) }),
    };
    let judge = |known| Ok(open::check_new_slot(source, &system.identifier, &mut || Ok(Option::clone(&known)))?);
    let mut record = Record::begin(state_file, identity, &mut sink, judge, &mut waiter)?;

    let options = SlotOptions { temporary: false, failover: source.failover, exports_snapshot: true };
    let opened = snapshot::open(source, request(settings, &source.slot, options), &mut waiter)
        .map_err(pump::Error::from)
        .and_then(|opened| Ok((copying::prepare(&mut sink, &opened.tables)?, opened)));
    let (keys, opened) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // No row was sent: without the slot the next run begins anew.
            give_up(source, record, &mut sink, &mut waiter);
            return Err(error.into());
        }
    };
    tell_cost(&opened);
    record.point_is((opened.lsn, opened.system.timeline), &opened.tables, &keys, &mut sink)?;
    match copy(settings, opened, keys, sink, Some(record), (poller, signals)) {
        Err(error) if error.remedy() != Remedy::None => {
            warn!(slot = source.slot.as_str(), error:% = error;
                "the snapshot is interrupted; what is left is read beside the stream");
            Ok(true)
        }
        result => Ok(result.map(|()| true)?),
    }
}

fn request<'a>(settings: &'a StreamSettings, slot: &'a str, options: SlotOptions) -> Request<'a> {
    Request { slot, options, connections: settings.snapshot.connections, tables: &settings.snapshot.tables }
}

/// Reads and delivers the rows of an open snapshot. The connection that has opened it is closed: every reader has the
/// snapshot, a temporary slot would only retain WAL, and the stream connects again.
fn copy(
    settings: &StreamSettings,
    opened: Opened,
    keys: Vec<Keyed>,
    sink: Sink,
    record: Option<Record<'_>>,
    (poller, signals): (&mut Poller, &mut StopSignals),
) -> Result<(), pump::Error> {
    let Opened { connection, lsn, time, tables, readers, .. } = opened;
    drop(connection);
    let (shutdown_timeout, interval) = (settings.shutdown_timeout.limit(), settings.stats_interval);
    let parts = Parts { lsn, time, tables, keys, readers, sink, record, poller, signals, shutdown_timeout, interval };
    Copying::new(parts).run()
}

/// Drops the slot that an initial snapshot created, and takes it off the record.
fn give_up(source: &Source, record: Record<'_>, sink: &mut Sink, waiter: &mut Waiter<'_>) {
    match slot::drop_new(source, &source.slot, waiter) {
        Err(why) if why.sqlstate() != Some(sqlstate::UNDEFINED_OBJECT) => warn!(
            slot = source.slot.as_str(), error:% = why;
            "cannot drop the slot that this run created; it retains WAL until you drop it"
        ),
        _ => {
            if let Err(why) = record.withdraw(sink, waiter) {
                warn!(slot = source.slot.as_str(), error:% = why;
                    "a snapshot that did not begin stays on record; it begins when a stream creates the slot");
            }
        }
    }
}

/// Says before the start what the snapshot costs the server.
fn tell_cost(opened: &Opened) {
    let Opened { tables, readers, lsn, .. } = opened;
    let bytes: u64 = tables.iter().map(|table: &Table| table.size.bytes).sum();
    let rows = tables.iter().map(|table| table.size.rows).sum::<f64>() as u64;
    info!(
        lsn:% = *lsn, tables = tables.len(), rows_estimated = rows, bytes, connections = readers.len();
        "snapshot begins; until it ends, the server cannot remove dead rows (VACUUM), and the tables cannot be altered"
    );
    if bytes > LARGE_BYTES {
        warn!(bytes; "this snapshot may take long: watch the dead rows and the disk of the server");
    }
}
