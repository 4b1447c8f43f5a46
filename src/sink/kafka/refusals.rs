//! What becomes of a record that is refused: the end of the run, or, where the policy says so, a dead letter or nothing.

use log::warn;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::context::{Failure, UNPROVEN};
use super::dead_letters::{OnError, Refused, is_passable, short_key};
use super::fence::find_successor;
use super::link::{Link, record_size};
use super::transaction::Transactions;
use super::transaction_calls::{self as calls, is_fenced};
use super::{Error, KafkaSink, ffi};
use crate::change::Ticket;
use crate::lsn::Lsn;

impl KafkaSink {
    /// A record was refused; `lsn` is that of its transaction's commit. The policy may pass it.
    ///
    /// # Errors
    /// [`Error::Refused`] where it may not, and what else a failed delivery means.
    pub fn refuse(&mut self, ticket: Ticket, failure: Failure, lsn: Lsn) -> Result<(), Error> {
        let refused = Refused { lsn, failure };
        if self.transactions.is_none() || !self.may_pass(&refused.failure) {
            return self.pass(ticket, refused);
        }
        // Kafka gives up the whole transaction: it is repeated without this record.
        let reason = format!("a record for topic {} is refused: {}", refused.failure.topic, refused.failure.code);
        if self.dead_letters.remember(refused) { Err(Error::Aborted { reason }) } else { Err(Error::Passed { reason }) }
    }

    /// How many refused records were passed.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.dead_letters.count()
    }

    fn may_pass(&self, failure: &Failure) -> bool {
        let is_letter = matches!(&self.settings.on_error, OnError::DeadLetter { topic } if *topic == failure.topic);
        // A broker refuses a batch as too large as a whole, with all the small records in it.
        let key_bytes = failure.key.as_ref().map_or(0, Vec::len);
        let is_alone = key_bytes + failure.value_bytes >= self.settings.batch_bytes;
        let is_its_own = failure.code != Code::MessageSizeTooLarge || is_alone;
        self.settings.on_error != OnError::Stop && is_passable(failure.code) && is_its_own && !is_letter
    }

    /// Leaves a record out, as the policy says: its ticket settles at once, or with the dead letter.
    pub(super) fn pass(&mut self, ticket: Ticket, refused: Refused) -> Result<(), Error> {
        if !self.may_pass(&refused.failure) {
            return Err(refusal(&self.link, self.transactions.as_ref(), refused.failure, refused.lsn));
        }
        self.dead_letters.count_one();
        let Refused { lsn, failure } = &refused;
        warn!(lsn:% = lsn, topic = failure.topic.as_str(), value_bytes = failure.value_bytes,
            records_refused = self.dead_letters.count(), error:% = failure.code; "a record is refused and left out");
        let OnError::DeadLetter { topic } = &self.settings.on_error else {
            // In a transaction it settles with the others.
            if self.transactions.is_none() {
                self.skipped.push_back(ticket);
            }
            return Ok(());
        };
        let (key, value) = (short_key(failure), self.dead_letters.render(&refused));
        let letters = self.link.open_dead_letters(topic)?;
        if let Err(code) = letters.produce(key, Some(&value), None, ticket) {
            let failure = Failure { code, topic: topic.clone(), key: None, value_bytes: value.len() };
            return Err(refusal(&self.link, self.transactions.as_ref(), failure, *lsn));
        }
        self.flight.add(record_size(key, Some(&value)));
        Ok(())
    }
}

/// The error that a refusal ends with. In a transaction only what is wrong with the record itself ends the run.
fn refusal(link: &Link, transactions: Option<&Transactions>, failure: Failure, lsn: Lsn) -> Error {
    let fatal = ffi::fatal_error(link.client());
    match (transactions, fatal) {
        (Some(transactions), Some((code, reason))) if is_fenced(code) => find_successor(link, transactions, reason),
        (Some(transactions), _) if is_fenced(failure.code) => {
            find_successor(link, transactions, failure.code.to_string())
        }
        // The transaction had failed before: that failure is the one to tell.
        (Some(transactions), _) if failure.code == Code::State => {
            match calls::failed_already(link.client()).map(|cause| calls::failure(&cause)) {
                Some(Error::Fenced { reason }) => find_successor(link, transactions, reason),
                Some(error) => error,
                None => Error::Aborted { reason: "it takes no more records".to_owned() },
            }
        }
        (Some(_), _) if !failure.is_permanent() => {
            Error::Aborted { reason: format!("a record was not delivered: {}", failure.code) }
        }
        (None, Some((code, reason))) => Error::Fatal { code, reason },
        (None, None) if failure.code == UNPROVEN => Error::Unproven { topic: failure.topic, lsn },
        _ => Error::Refused { code: failure.code, topic: failure.topic, has_key: failure.key.is_some(), lsn },
    }
}
