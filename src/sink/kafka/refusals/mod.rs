//! What becomes of a record that is refused: the end of the run, or, where the policy says so, a dead letter or nothing.

pub mod dead_letters;

use std::time::{Duration, Instant};

use log::warn;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::change::Ticket;
use crate::lsn::Lsn;
use crate::sink::kafka::client::context::{Failure, UNPROVEN};
use crate::sink::kafka::client::ffi;
use crate::sink::kafka::client::link::record_size;
use crate::sink::kafka::client::transaction_calls::is_fenced;
use crate::sink::kafka::exactly_once::fence::find_successor;
use crate::sink::kafka::flight::Ordinal;
use crate::sink::kafka::refusals::dead_letters::{OnError, Refused, is_passable, short_key};
use crate::sink::kafka::{Error, KafkaSink};

/// How long the other reports of a Kafka transaction that fails are waited for.
const COLLECT_LIMIT: Duration = Duration::from_secs(2);

/// A Kafka transaction that will be given up. One refused record fails all the others, most of which are reported as purged,
/// and some before it: what is wrong shows when all have been heard.
pub(in crate::sink::kafka) struct Failing {
    since: Instant,
    /// What is wrong with which record.
    refusals: Vec<Refused>,
    /// What was reported first, of those that are not wrong themselves.
    first: Option<Refused>,
}

impl Failing {
    /// When it is given up at the latest.
    pub fn deadline(&self) -> Instant {
        self.since + COLLECT_LIMIT
    }
}

impl KafkaSink {
    /// A record was refused; `lsn` is that of its transaction's commit. The policy may pass it.
    ///
    /// # Errors
    /// [`Error::Refused`] where it may not, and what else a failed delivery means.
    pub fn refuse(
        &mut self,
        ticket: Ticket,
        (ordinal, failure): (Ordinal, Failure),
        lsn: Lsn,
        now: Instant,
    ) -> Result<(), Error> {
        let refused = Refused { lsn, ordinal, failure };
        if self.transactions.is_none() {
            return self.pass_new(ticket, refused);
        }
        let failing = self.failing.get_or_insert_with(|| Failing { since: now, refusals: Vec::new(), first: None });
        if refused.failure.is_permanent() || is_passable(refused.failure.code) {
            failing.refusals.push(refused);
        } else {
            failing.first.get_or_insert(refused);
        }
        Ok(())
    }

    /// Gives up the Kafka transaction that fails, once its reports are there.
    ///
    /// # Errors
    /// [`Error::Refused`] for a record that may not be passed; else [`Error::Aborted`], to be repeated without the others.
    pub(in crate::sink::kafka) fn conclude_failing(&mut self, now: Instant) -> Result<(), Error> {
        let is_heard = self.flight.is_empty();
        let Some(Failing { refusals, first, .. }) =
            self.failing.take_if(|failing| is_heard || now >= failing.deadline())
        else {
            return Ok(());
        };
        let Some(last) = refusals.last() else {
            return first.map_or(Ok(()), |refused| Err(self.refusal(refused)));
        };
        let reason = format!("a record for topic {} is refused: {}", last.failure.topic, last.failure.code);
        if let Some(refused) = refusals.iter().find(|refused| !self.may_pass(&refused.failure)) {
            return Err(self.refusal(refused.clone()));
        }
        for refused in refusals {
            self.tell(&refused);
            if !self.dead_letters.remember(refused) {
                return Err(Error::Passed { reason });
            }
        }
        // Kafka gives up the whole transaction: it is repeated without these.
        Err(Error::Aborted { reason })
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
        // Without its checkpoint no transaction is complete: it would be repeated without end.
        let is_checkpoint =
            self.transactions.as_ref().is_some_and(|transactions| transactions.settings().topic() == failure.topic);
        let is_a_changes = !is_letter && !is_checkpoint;
        self.settings.on_error != OnError::Stop && is_passable(failure.code) && is_its_own && is_a_changes
    }

    /// Counts a record that is left out, and tells of it.
    fn tell(&mut self, Refused { lsn, failure, .. }: &Refused) {
        self.dead_letters.count_one();
        warn!(lsn:% = lsn, topic = failure.topic.as_str(), value_bytes = failure.value_bytes,
            records_refused = self.dead_letters.count(), error:% = failure.code; "a record is refused and left out");
    }

    /// A record is refused for the first time: leaves it out, if the policy says so.
    ///
    /// # Errors
    /// [`Error::Refused`] where it does not.
    pub(in crate::sink::kafka) fn pass_new(&mut self, ticket: Ticket, refused: Refused) -> Result<(), Error> {
        if !self.may_pass(&refused.failure) {
            return Err(self.refusal(refused));
        }
        self.pass(ticket, &refused)?;
        self.tell(&refused);
        if self.transactions.is_some() && !self.dead_letters.remember(refused) {
            return Err(Error::Passed { reason: "see the log".to_owned() });
        }
        Ok(())
    }

    /// Leaves a record out: its ticket settles at once, or with the dead letter.
    pub(in crate::sink::kafka) fn pass(&mut self, ticket: Ticket, refused: &Refused) -> Result<(), Error> {
        let Refused { lsn, ordinal, failure } = refused;
        let OnError::DeadLetter { topic } = &self.settings.on_error else {
            // In a transaction it settles with the others.
            if self.transactions.is_none() {
                self.skipped.push_back(ticket);
            }
            return Ok(());
        };
        let (key, value) = (short_key(failure), self.dead_letters.render(refused));
        let letters = self.link.open_dead_letters(topic)?;
        let number = self.flight.number(ticket, *ordinal);
        if let Err(code) = letters.produce(key, Some(&value), None, number) {
            self.flight.give_back(number);
            let failure = Failure { code, topic: topic.clone(), key: None, value_bytes: value.len() };
            return Err(self.refusal(Refused { lsn: *lsn, ordinal: *ordinal, failure }));
        }
        self.flight.add(record_size(key, Some(&value)));
        Ok(())
    }

    /// The error that a refusal ends with. In a transaction only what is wrong with the record itself ends the run.
    fn refusal(&mut self, Refused { lsn, failure, .. }: Refused) -> Error {
        let fatal = ffi::fatal_error(self.link.client());
        // The transaction had failed before: that failure is the one to tell.
        let is_consequence = matches!(failure.code, Code::State | Code::PurgeQueue | Code::PurgeInflight);
        let cause = match (&self.transactions, &fatal) {
            (Some(_), None) if is_consequence => self.link.failure_reason(),
            _ => None,
        };
        let (link, transactions) = (&self.link, self.transactions.as_ref());
        if let Some(transactions) = transactions
            && failure.topic == transactions.settings().topic()
        {
            let cause = cause.as_ref().map_or(failure.code, |cause| cause.code);
            let is_denied = self.waiting.is_denied(&failure.topic);
            let is_missing = matches!(cause, Code::UnknownTopic | Code::UnknownTopicOrPartition);
            if cause == Code::TopicAuthorizationFailed || is_missing && is_denied {
                return transactions.explain_checkpoint(cause, is_denied);
            }
        }
        match (transactions, fatal) {
            (Some(transactions), Some((code, reason))) if is_fenced(code) => find_successor(link, transactions, reason),
            (Some(transactions), _) if is_fenced(failure.code) => {
                find_successor(link, transactions, failure.code.to_string())
            }
            (Some(transactions), _) if is_consequence => match cause.map(|cause| transactions.explain(cause)) {
                Some(Error::Fenced { reason }) => find_successor(link, transactions, reason),
                Some(error) => error,
                None => Error::Aborted { reason: format!("a record was not delivered: {}", failure.code) },
            },
            (Some(_), _) if !failure.is_permanent() => {
                Error::Aborted { reason: format!("a record was not delivered: {}", failure.code) }
            }
            (None, Some((code, reason))) => Error::Fatal { code, reason },
            (None, None) if failure.code == UNPROVEN => Error::Unproven { topic: failure.topic, lsn },
            _ => Error::Refused {
                code: failure.code,
                origin: self.dead_letters.origin(&failure.topic),
                topic: failure.topic,
                has_key: failure.key.is_some(),
                lsn,
            },
        }
    }
}
