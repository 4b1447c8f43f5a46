//! `walcat stream --snapshot only`: the rows of the published tables as of one point, and nothing else.

use log::{info, warn};

use super::{kafka, stream};
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::pg::tables::Table;
use crate::poller::Poller;
use crate::pump;
use crate::pump::copying::{Copying, Parts};
use crate::record::Encoder;
use crate::signal::StopSignals;
use crate::sink;
use crate::sink::kafka::delivery;
use crate::source::snapshot::{self, Opened, Request};
use crate::source::waiting::Waiter;
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
    let slot = format!("walcat_snapshot_{}", std::process::id());
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
        result => Ok(result?),
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
