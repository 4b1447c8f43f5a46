//! Store first, confirm second: walcat confirms a delivered position to PostgreSQL only after the store has it.

use std::time::Instant;

use super::error::Error;
use crate::feedback::Feedback;
use crate::lsn::Lsn;
use crate::position::{FullKeys, Identity, Known, Stored, Vouched};
use crate::state_file::StateFile;

/// Where walcat keeps delivered positions.
#[derive(Debug)]
pub enum Store {
    /// In the slot only.
    Slot,
    /// In the state file too.
    File(StateFile),
}

impl Store {
    /// Reads the stored position again.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn read(&mut self) -> Result<Option<Known>, Error> {
        match self {
            Store::Slot => Ok(None),
            Store::File(file) => {
                file.reload()?;
                Ok(file.stored().map(|stored| Known { stored: stored.clone(), store: file.name() }))
            }
        }
    }

    /// The keys kept with the position.
    #[must_use]
    pub fn full_keys(&self) -> FullKeys {
        match self {
            Store::Slot => FullKeys::new(),
            Store::File(file) => file.stored().map(|stored| stored.full_keys.clone()).unwrap_or_default(),
        }
    }

    /// Stores the start of the stream, before any of it can be confirmed.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn begin(&mut self, position: Stored, now: Instant) -> Result<(), Error> {
        match self {
            Store::File(file) if file.stored() != Some(&position) => Ok(file.write(position, now)?),
            Store::File(_) | Store::Slot => Ok(()),
        }
    }

    /// Stores what is delivered, up to `position`, when a write is due, then allows its confirmation. A write is due at the
    /// interval, or now with `at_once`: when the server waits for it or the run ends.
    ///
    /// # Errors
    /// [`Error::State`]; then nothing more is confirmed.
    pub fn keep(
        &mut self,
        identity: &Identity,
        position: Vouched,
        feedback: &mut Feedback,
        at_once: bool,
        now: Instant,
    ) -> Result<(), Error> {
        let Store::File(file) = self else { return Ok(()) };
        let Vouched { delivered, records_end } = position;
        if delivered > file.end_lsn() && (at_once || now >= file.due_at(now)) {
            file.write(identity.at(delivered, records_end), now)?;
        }
        feedback.confirm(file.end_lsn());
        Ok(())
    }

    /// The latest time of the next write of [`Store::keep`].
    #[must_use]
    pub fn deadline(&self, delivered: Lsn, now: Instant) -> Option<Instant> {
        match self {
            Store::File(file) if delivered > file.end_lsn() => Some(file.due_at(now)),
            Store::File(_) | Store::Slot => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feedback::{Confirming, Timing};
    use crate::position::Reached;

    #[test]
    fn a_position_is_in_the_store_before_it_is_confirmed_and_waits_for_the_interval_together() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let second = Duration::from_secs(1);
        let mut store = Store::File(StateFile::open(&path, second).unwrap());
        let identity = Identity {
            system_identifier: "7".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            records: Reached::NOTHING,
            full_keys: FullKeys::new(),
        };
        let now = Instant::now();
        let timing = Timing { status_interval: second, stall_timeout: None, ask_interval: None };
        let mut feedback = Feedback::new(Lsn(100), timing, Confirming::Stored, now);
        store.begin(identity.at(Lsn(100), Lsn::INVALID), now).unwrap();
        let on_disk = || StateFile::open(&path, second).unwrap().end_lsn();
        assert_eq!(on_disk(), Lsn(100));

        feedback.heard(Lsn(500), now);
        feedback.deliver(Lsn(300));
        let keep = |store: &mut Store, feedback: &mut Feedback, at_once, now| {
            let position = Vouched { delivered: feedback.delivered(), records_end: feedback.records_end() };
            store.keep(&identity, position, feedback, at_once, now)
        };
        keep(&mut store, &mut feedback, false, now + second / 2).unwrap();
        assert_eq!((on_disk(), feedback.confirmed()), (Lsn(100), Lsn(100)));
        assert_eq!(store.deadline(feedback.delivered(), now), Some(now + second));
        keep(&mut store, &mut feedback, false, now + second).unwrap();
        assert_eq!((on_disk(), feedback.confirmed()), (Lsn(300), Lsn(300)));
        feedback.deliver(Lsn(400));
        keep(&mut store, &mut feedback, true, now + second).unwrap();
        assert_eq!((on_disk(), feedback.confirmed()), (Lsn(400), Lsn(400)));

        std::fs::remove_dir_all(directory.path()).unwrap();
        feedback.deliver(Lsn(500));
        assert!(keep(&mut store, &mut feedback, true, now + second).is_err());
        assert_eq!(feedback.confirmed(), Lsn(400), "confirmed although it could not be stored");
    }
}
