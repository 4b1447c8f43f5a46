//! `walcat stream --snapshot only` and `--snapshot initial`: the rows of the published tables as of one point, alone or before
//! the stream of a new slot.

use std::time::Instant;

use log::{info, warn};

use super::{kafka, stream};
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pg::tables::Table;
use crate::pg::{slots, sqlstate};
use crate::poller::Poller;
use crate::position::{FullKeys, Known, Reached, Stored};
use crate::pump;
use crate::pump::copying::{Copying, Parts};
use crate::record::Encoder;
use crate::signal::StopSignals;
use crate::sink;
use crate::sink::kafka::delivery;
use crate::source;
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
    let (connections, tables) = (settings.snapshot.connections, settings.snapshot.tables.as_slice());
    let request = Request { slot: &slot, options, connections, tables };
    let opened = snapshot::open(&stream::source(settings), request, &mut waiter)?;
    tell_cost(&opened);
    let Opened { connection, system, lsn, time, tables, readers } = opened;
    // The slot would only retain WAL: every reader has the snapshot.
    drop(connection);
    let mut encoding = stream::encoding(settings, &system.database);
    if encoding.source_name.is_empty() {
        encoding.source_name = SOURCE_NAME.to_owned();
    }
    let encoder = Encoder::new(&encoding)?;
    let sink = stream::sink(settings, delivery::Settings::AtLeastOnce(None), encoder)?;
    let copying = Copying::new(Parts {
        lsn,
        time,
        tables,
        readers,
        sink,
        poller,
        signals,
        shutdown_timeout: settings.shutdown_timeout.limit(),
        interval: settings.stats_interval,
    })?;
    match copying.run() {
        // The end of a pipeline.
        Err(pump::Error::Sink(sink::Error::Stdout(sink::stdout::Error::Closed))) => {
            info!("the reader closed standard output: stopping");
            Ok(())
        }
        result => Ok(result.map(drop)?),
    }
}

/// The slot of a snapshot alone.
pub(super) fn temporary_slot() -> String {
    format!("walcat_snapshot_{}", std::process::id())
}

/// If the slot does not exist, creates it and delivers the rows as of its consistent point; then the stream can begin there.
///
/// The state file says that the snapshot is not finished before the slot is created: a slot that looks finished would lose
/// the rows in silence. While it says so, nothing is confirmed.
///
/// # Errors
/// Every failure that ends the snapshot.
pub(super) fn initial(
    settings: &StreamSettings,
    source: &Source,
    state_file: &mut Option<StateFile>,
    mut poller: Poller,
    mut signals: StopSignals,
) -> Result<(Poller, StopSignals), Error> {
    let mut waiter = Waiter::new(&mut poller, &mut signals);
    let mut connection = open::connect(source, source.engine.kind(), &mut waiter)?;
    if slots::find(&mut connection, &source.slot, &mut |socket, way| waiter.wait(socket, way))?.is_some() {
        return Ok((poller, signals));
    }
    let Some(file) = state_file else {
        let message = "an initial snapshot needs a place for its progress".to_owned();
        let hint = "set file in the table [state] of the configuration file".to_owned();
        return Err(source::Error::Setup { message, hint }.into());
    };
    let system = open::identify(&mut connection, &mut waiter)?.0;
    drop(connection);
    let mut read = || Ok(file.stored().map(|stored| Known { stored: stored.clone(), store: file.name() }));
    open::check_new_slot(source, &system.identifier, &mut read)?;
    let unfinished = Stored {
        system_identifier: system.identifier.clone(),
        timeline: system.timeline,
        slot: source.slot.clone(),
        end_lsn: Lsn::INVALID,
        records: Some(Reached::NOTHING),
        full_keys: FullKeys::new(),
        snapshot: None,
    };
    file.write(unfinished.clone(), Instant::now()).map_err(pump::Error::from)?;

    let options = SlotOptions { temporary: false, failover: source.failover, exports_snapshot: true };
    let (connections, tables) = (settings.snapshot.connections, settings.snapshot.tables.as_slice());
    let request = Request { slot: &source.slot, options, connections, tables };
    let opened = match snapshot::open(source, request, &mut waiter) {
        Ok(opened) => opened,
        Err(error) => {
            // No row was sent: without the slot the next run begins anew.
            match slot::drop_new(source, &source.slot, &mut waiter) {
                Err(why) if why.sqlstate() != Some(sqlstate::UNDEFINED_OBJECT) => warn!(
                    slot = source.slot.as_str(), error:% = why;
                    "cannot drop the slot that this run created; it retains WAL until you drop it"
                ),
                _ => {}
            }
            return Err(error.into());
        }
    };
    tell_cost(&opened);
    let Opened { connection, system, lsn, time, tables, readers } = opened;
    // The stream connects again: this session would be idle for as long as the snapshot takes.
    drop(connection);
    let encoder = Encoder::new(&stream::encoding(settings, &system.database))?;
    let sink = stream::sink(settings, delivery::Settings::AtLeastOnce(None), encoder)?;
    let (shutdown_timeout, interval) = (settings.shutdown_timeout.limit(), settings.stats_interval);
    let parts = Parts { lsn, time, tables, readers, sink, poller, signals, shutdown_timeout, interval };
    let (poller, signals) = Copying::new(parts)?.run()?;
    let timeline = system.timeline;
    let finished = Stored { timeline, end_lsn: lsn, records: Some(Reached { timeline, lsn }), ..unfinished };
    file.write(finished, Instant::now()).map_err(pump::Error::from)?;
    Ok((poller, signals))
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
