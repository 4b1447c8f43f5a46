//! The position that Kafka stores: where a stream would start, and why it would not. Reads only; fences nobody.

use rdkafka::error::RDKafkaErrorCode as Code;

use super::Report;
use crate::checks;
use crate::commands::slot::Commands;
use crate::commands::{kafka, stream};
use crate::config::StreamSettings;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::pg::publications::PublishedTable;
use crate::position::{Facts, Known};
use crate::sink::kafka::client::inquiry::Inquiry;
use crate::sink::{self, kafka as sink_kafka};
use crate::source;
use crate::source::open::{self, Rehearsed};

/// Why the position is not what a stream needs.
enum Failure {
    /// The stream would fail too.
    Stream(Box<Error>),
    /// Kafka does not answer; it may later.
    Unread(String),
}

impl From<source::Error> for Failure {
    fn from(error: source::Error) -> Self {
        Failure::Stream(Box::new(error.into()))
    }
}

/// Judges the position in the topic as a stream does at its start. `tables` are the published ones.
pub(super) fn check(
    settings: &StreamSettings,
    (rehearsed, tables): (&Rehearsed, &[PublishedTable]),
    topic: &str,
    inquiry: &Inquiry,
    commands: &mut Commands,
    report: &mut Report,
) -> Result<(), Error> {
    match judge(settings, (rehearsed, tables), topic, inquiry, commands) {
        Ok((stored, start)) => report.line(&checks::stored_position(topic, stored, start)),
        Err(Failure::Stream(error)) => report.line(&checks::start(Some((error.to_string(), error.hint())))),
        Err(Failure::Unread(reason)) => report.line(&checks::unread_position(topic, &reason)),
    }
}

/// Returns the stored position, if there is one, and the start.
fn judge(
    settings: &StreamSettings,
    (rehearsed, tables): (&Rehearsed, &[PublishedTable]),
    topic: &str,
    inquiry: &Inquiry,
    commands: &mut Commands,
) -> Result<(Option<Lsn>, Lsn), Failure> {
    let source = stream::source(settings);
    let history = kafka::stored_history(settings, topic).map_err(unread)?;
    let store = format!("the checkpoint in the topic {topic}");
    let stored = history.checkpoint.map(|checkpoint| checkpoint.stored);
    let known = stored.map(|stored| Known { stored, store: store.clone() });
    let end_lsn = known.as_ref().map(|known| known.stored.end_lsn);
    let mut facts = rehearsed.facts.clone();
    if !rehearsed.has_slot && known.is_some() {
        open::check_new_slot(&source, &facts.system_identifier, &mut || Ok(known.clone()))?;
        return Ok((end_lsn, facts.confirmed));
    }
    if end_lsn.is_some_and(|end_lsn| end_lsn > facts.wal_end) {
        // Another instance delivers: the slot as it was before the topic was read, and the WAL as it is after.
        let again = open::rehearse(&source, &mut || Ok(None), &mut commands.waiter())?;
        facts = Facts { confirmed: facts.confirmed, ..again.facts };
    }
    let unread_slot_at = match history.first_start {
        Some(start) => start.unread_slot_at,
        // The stream that starts now would write the first one.
        None if known.is_some() => None,
        None => {
            let read_tables = if rehearsed.was_read { tables } else { &[] };
            let topics: Vec<_> = read_tables.iter().map(|table| kafka::topic_of(settings, table)).collect();
            let is_any_written = inquiry.is_any_written(&topics).map_err(|error| Failure::Unread(error.message))?;
            (!is_any_written).then_some(facts.confirmed)
        }
    };
    let may_be_missing = (unread_slot_at, Lsn::INVALID);
    let start = open::check_found(known.as_ref(), &store, may_be_missing, &facts, settings.accept_gap)?;
    Ok((end_lsn, start.lsn))
}

/// A missing permission and a record that is not walcat's stop a stream; silence may pass.
fn unread(error: sink_kafka::Error) -> Failure {
    match &error {
        sink_kafka::Error::Read { code, reason, .. } if *code != Code::TopicAuthorizationFailed => {
            Failure::Unread(reason.clone())
        }
        _ => Failure::Stream(Box::new(sink::Error::from(error).into())),
    }
}
