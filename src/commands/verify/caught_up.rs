//! Waits until everything from before the snapshot is in Kafka: the slot has confirmed the snapshot's LSN, or the slot has
//! no change of the publications left from before it.

use std::time::{Duration, Instant};

use log::{info, warn};

use crate::config::StreamSettings;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pg::Connection;
use crate::pg::slots;
use crate::source;
use crate::source::slot::{self, missing_slot};
use crate::source::waiting::Waiter;

/// How long the slot may stay at one position.
const STILL_MAX: Duration = Duration::from_secs(60);

/// How long no process may read the slot: a stream may be restarting.
const UNREAD_MAX: Duration = Duration::from_secs(10);

/// The time between two looks at the slot.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The time between two log lines, and between two looks into the WAL.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Checks that the slot can be one of walcat's.
pub(super) fn check_slot(
    settings: &StreamSettings,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(), Error> {
    if settings.slot.is_empty() {
        return Ok(());
    }
    let found = slots::find(connection, &settings.slot, &mut |socket, way| waiter.wait(socket, way))?;
    let found = found.ok_or_else(|| missing_slot(&settings.slot))?;
    slot::check_plugin(&found)?;
    slot::check_database(&found, &connection.database())?;
    if let Some(why) = found.lost() {
        return Err(Error::from(source::Error::Setup {
            message: format!("the slot {} is permanently lost: {why}", settings.slot),
            hint: "its stream has not delivered what the tables have; drop the slot, create a new one and reload the tables \
                   with walcat snapshot start (see RELOADING in walcat(1))"
                .to_owned(),
        }));
    }
    Ok(())
}

/// Waits for the stream; only says so if no slot is set.
pub(super) fn wait(
    settings: &StreamSettings,
    snapshot: Lsn,
    connection: &mut Connection,
    waiter: &mut Waiter<'_>,
) -> Result<(), Error> {
    let name = settings.slot.as_str();
    if name.is_empty() {
        warn!(lsn:% = snapshot;
            "no slot is set: comparing with what is in Kafka now, whether or not a stream has delivered everything");
        return Ok(());
    }
    let began = Instant::now();
    let (mut confirmed, mut moved_at, mut read_at) = (Lsn::INVALID, began, began);
    let (mut peek_at, mut notice_at) = (None, began + Duration::from_secs(1));
    loop {
        let wait = &mut |socket, way| waiter.wait(socket, way);
        let slot = slots::find(connection, name, wait)?.ok_or_else(|| missing_slot(name))?;
        if slot.confirmed() >= snapshot {
            return Ok(());
        }
        let now = Instant::now();
        if slot.confirmed() > confirmed {
            (confirmed, moved_at) = (slot.confirmed(), now);
        }
        if slot.active {
            read_at = now;
        }
        // A slot that is read moves within a second or two.
        let patience = if slot.active { Duration::from_secs(2) } else { Duration::ZERO };
        if now >= *peek_at.get_or_insert(now + patience) {
            if slots::has_changes_before(connection, name, &settings.publications, snapshot, wait)? == Some(false) {
                info!(slot = name, confirmed:% = confirmed, lsn:% = snapshot;
                    "the slot has no change left from before the snapshot");
                return Ok(());
            }
            peek_at = Some(Instant::now() + NOTICE_INTERVAL);
        }
        let behind_bytes = snapshot.bytes_since(confirmed);
        if now >= notice_at {
            info!(slot = name, confirmed:% = confirmed, lsn:% = snapshot, behind_bytes;
                "waiting until the stream has delivered everything from before the snapshot");
            notice_at = now + NOTICE_INTERVAL;
        }
        if read_at.elapsed() >= UNREAD_MAX || moved_at.elapsed() >= STILL_MAX {
            let why = if slot.active { "its position does not move" } else { "no process reads it" };
            return Err(Error::Behind { slot: name.to_owned(), confirmed, snapshot, why });
        }
        waiter.sleep(LOOK_INTERVAL)?;
    }
}
