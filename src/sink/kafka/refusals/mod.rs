//! Handles rejected records: they end the run or, if the policy allows it, are left out or replaced by a dead letter.

pub mod dead_letters;

use std::time::{Duration, Instant};

use log::warn;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::change::Ticket;
use crate::lsn::Lsn;
use crate::sink::kafka::client::context::{Failure, UNPROVEN};
use crate::sink::kafka::client::ffi;
use crate::sink::kafka::client::link::record_size;
use crate::sink::kafka::client::transaction_calls::{CallError, is_fenced};
use crate::sink::kafka::client::transaction_thread::Call;
use crate::sink::kafka::error::is_missing_topic;
use crate::sink::kafka::exactly_once::fence::Look;
use crate::sink::kafka::flight::{InFlight, Ordinal};
use crate::sink::kafka::refusals::dead_letters::{OnError, Refused, can_be_left_out, short_key};
use crate::sink::kafka::{Error, KafkaSink};

/// How long to wait for the other reports of a failed Kafka transaction.
const COLLECT_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for librdkafka's main thread to report why a transaction has failed.
const REASON_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for records in flight before a producer without Kafka transactions is discarded: longer than
/// librdkafka waits for an answer (`socket.timeout.ms`). Otherwise a broker could write a request that it still has
/// after the repeated records.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);

/// Whether the records taken so far are delivered.
pub(super) enum Delivering {
    /// As far as known, they are.
    Yes,
    /// They will be discarded.
    Failing(Box<Failing>),
    /// Their Kafka transaction has failed, and librdkafka is being asked why.
    Asking(Box<Asking>),
    /// Their Kafka transaction is over, and the instance that may have taken over is being looked for.
    Looking(Box<Look>),
    /// They are discarded. With Kafka transactions, the ledger keeps this state.
    GivenUp,
}

/// The records taken so far will be discarded. One rejected record of a Kafka transaction fails all the others. Most of
/// them are reported as purged, some of them before the rejected one, so the cause is known only after all reports.
#[derive(Debug)]
pub(super) struct Failing {
    /// When to stop waiting for the other reports.
    deadline: Instant,
    /// The rejected records and the reasons.
    refusals: Vec<Refused>,
    /// A record whose topic does not exist, preferably one that a broker reported.
    missing: Option<Refused>,
    /// The first reported record among those that are not at fault.
    first: Option<Refused>,
}

/// The question to librdkafka why a Kafka transaction has failed. Its answer is the result of a transactional call.
pub(super) struct Asking {
    /// A record that was discarded with the transaction.
    refused: Refused,
    /// When to stop waiting for the answer.
    until: Instant,
}

impl Delivering {
    /// The latest time to serve the sink again.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Delivering::Failing(failing) => Some(failing.deadline),
            Delivering::Asking(asking) => Some(asking.until),
            Delivering::Looking(look) => Some(look.deadline(now)),
            Delivering::Yes | Delivering::GivenUp => None,
        }
    }
}

impl KafkaSink {
    /// A record was rejected; `lsn` is the commit LSN of its transaction. The policy may allow leaving it out.
    ///
    /// # Errors
    /// [`Error::Refused`] if the policy does not allow it, and other errors of a failed delivery.
    pub fn refuse(
        &mut self,
        ticket: Ticket,
        (ordinal, failure): (Ordinal, Failure),
        lsn: Lsn,
        now: Instant,
    ) -> Result<(), Error> {
        let refused = Refused { lsn, ordinal, failure };
        if !self.is_transactional() {
            return self.leave_out_new(ticket, refused, now);
        }
        self.collect(refused, now);
        Ok(())
    }

    /// Keeps a rejection until all reports have arrived; no more changes are taken.
    fn collect(&mut self, refused: Refused, now: Instant) {
        let is_missing = is_missing_topic(refused.failure.code) && !self.is_checkpoint(&refused.failure);
        if matches!(self.delivering, Delivering::Yes) {
            let is_transactional = self.is_transactional();
            if !is_transactional {
                // The record will be read again, so it need not be sent now.
                self.link.purge();
            }
            let deadline = now + if is_transactional { COLLECT_LIMIT } else { DRAIN_LIMIT };
            let failing = Failing { deadline, refusals: Vec::new(), missing: None, first: None };
            self.delivering = Delivering::Failing(Box::new(failing));
        }
        let Delivering::Failing(failing) = &mut self.delivering else { return };
        if is_missing {
            let is_last_word = refused.failure.code == Code::UnknownTopicOrPartition;
            failing.missing.take_if(|_| is_last_word);
            failing.missing.get_or_insert(refused);
        } else if refused.failure.is_permanent() || can_be_left_out(refused.failure.code) {
            failing.refusals.push(refused);
        } else {
            failing.first.get_or_insert(refused);
        }
    }

    /// After a failure, discards the records taken so far once all reports have arrived.
    ///
    /// # Errors
    /// [`Error::Refused`] for a record that may not be left out; otherwise [`Error::TopicGone`], or [`Error::Aborted`]
    /// to repeat the transaction without the rejected records.
    pub(super) fn conclude_failing(&mut self, now: Instant) -> Result<(), Error> {
        let is_heard = self.flight.is_empty();
        let Delivering::Failing(failing) = &mut self.delivering else { return Ok(()) };
        if !is_heard && now < failing.deadline {
            return Ok(());
        }
        let (refusals, missing, first) =
            (std::mem::take(&mut failing.refusals), failing.missing.take(), failing.first.take());
        self.delivering = if self.is_transactional() { Delivering::Yes } else { Delivering::GivenUp };
        if let Some(refused) = refusals.iter().find(|refused| !self.may_leave_out(&refused.failure)) {
            return self.fail_with(refused.clone(), now);
        }
        if let Some(missing) = missing {
            let Failure { code, topic, .. } = &missing.failure;
            return match self.is_gone(&missing.failure) {
                true => Err(Error::TopicGone { topic: topic.clone(), code: *code }),
                false => self.fail_with(missing, now),
            };
        }
        let Some(last) = refusals.last() else {
            return first.map_or(Ok(()), |refused| self.explain(refused, now));
        };
        let Failure { code, topic, .. } = last.failure.clone();
        let reason = format!("Kafka rejected a record for topic {topic}: {code}");
        for refused in refusals {
            self.tell(&refused);
            if !self.dead_letters.remember(refused) {
                return Err(Error::TooManyRefused { reason });
            }
        }
        // Kafka aborts the whole transaction, or rejects the whole batch: it is repeated without these records.
        Err(if self.is_transactional() { Error::Aborted { reason } } else { Error::BatchRefused { topic, code } })
    }

    /// Fails if no record is at fault except possibly this one, which was reported first.
    fn explain(&mut self, first: Refused, now: Instant) -> Result<(), Error> {
        match is_of_refused_batch(&first.failure) && !self.is_transactional() && self.dead_letters.will_differ() {
            true => Err(Error::BatchRefused { topic: first.failure.topic, code: first.failure.code }),
            false => self.fail_with(first, now),
        }
    }

    /// Whether the topic of a record is missing but existed before or can be created; the record is then read again.
    /// librdkafka reports the broker's code after it has looked for the topic until its timeout. It reports its own
    /// code if it knew the topic before.
    fn is_gone(&self, failure: &Failure) -> bool {
        let may_come = self.settings.create_topics.is_some() || failure.code != Code::UnknownTopicOrPartition;
        is_missing_topic(failure.code) && may_come && !self.is_checkpoint(failure)
    }

    fn is_checkpoint(&self, failure: &Failure) -> bool {
        self.delivery.has_checkpoints_in(&failure.topic)
    }

    /// How many rejected records were left out.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.dead_letters.count()
    }

    fn may_leave_out(&self, failure: &Failure) -> bool {
        let is_letter = matches!(&self.settings.on_error, OnError::DeadLetter { topic } if *topic == failure.topic);
        // A broker that rejects a batch as too large rejects all the small records in it, too.
        let key_bytes = failure.key.as_ref().map_or(0, Vec::len);
        let is_alone = key_bytes + failure.value_bytes >= self.settings.batch_bytes;
        let is_its_own = failure.code != Code::MessageSizeTooLarge || is_alone;
        // A transaction without its checkpoint is incomplete and would be repeated forever.
        let is_a_changes = !is_letter && !self.is_checkpoint(failure);
        self.settings.on_error != OnError::Stop && can_be_left_out(failure.code) && is_its_own && is_a_changes
    }

    /// Counts and logs a record that is left out.
    fn tell(&mut self, Refused { lsn, failure, .. }: &Refused) {
        self.dead_letters.count_one();
        let origin = self.dead_letters.origin(&failure.topic);
        let dead_letter = match &self.settings.on_error {
            OnError::DeadLetter { topic } => topic.as_str(),
            OnError::Stop | OnError::Skip => "none",
        };
        warn!(lsn:% = lsn, topic = failure.topic.as_str(), origin = origin.as_str(), value_bytes = failure.value_bytes,
            dead_letter, records_refused = self.dead_letters.count(), error:% = failure.code;
            "Kafka rejected a record; leaving it out");
    }

    /// A record is rejected for the first time: leaves it out if the policy allows it.
    ///
    /// # Errors
    /// [`Error::Refused`] if the policy does not allow it.
    pub(super) fn leave_out_new(&mut self, ticket: Ticket, refused: Refused, now: Instant) -> Result<(), Error> {
        let is_repeated = self.is_gone(&refused.failure) || is_of_refused_batch(&refused.failure);
        if !matches!(self.delivering, Delivering::Yes) || is_repeated {
            self.collect(refused, now);
            return Ok(());
        }
        if !self.may_leave_out(&refused.failure) {
            return self.fail_with(refused, now);
        }
        self.leave_out(ticket, &refused, now)?;
        self.tell(&refused);
        let Failure { code, topic, .. } = refused.failure.clone();
        let is_remembered = self.dead_letters.remember(refused);
        // Without transactions the record is most likely not repeated.
        if self.is_transactional() && !is_remembered {
            return Err(Error::TooManyRefused { reason: format!("Kafka rejected a record for topic {topic}: {code}") });
        }
        Ok(())
    }

    /// Leaves a record out: its ticket settles at once, or when the dead letter is delivered.
    pub(super) fn leave_out(&mut self, ticket: Ticket, refused: &Refused, now: Instant) -> Result<(), Error> {
        let Refused { lsn, ordinal, failure } = refused;
        let OnError::DeadLetter { topic } = &self.settings.on_error else {
            // In a transaction it settles together with the other records.
            if !self.is_transactional() {
                self.skipped.push_back(ticket);
            }
            return Ok(());
        };
        let (key, value) = (short_key(failure), self.dead_letters.render(refused));
        let letters = self.link.open_dead_letters(topic)?;
        let record =
            InFlight { ticket, ordinal: *ordinal, destination: None, lsn: *lsn, bytes: record_size(key, Some(&value)) };
        let number = self.flight.number(record);
        if let Err(code) = letters.produce(key, Some(&value), None, number) {
            self.flight.give_back(number);
            let failure = Failure { code, topic: topic.clone(), key: None, value_bytes: value.len() };
            return self.leave_out_new(ticket, Refused { lsn: *lsn, ordinal: *ordinal, failure }, now);
        }
        self.flight.add(record_size(key, Some(&value)));
        Ok(())
    }

    /// Fails because of a rejected record. If its transaction failed before, librdkafka knows why, and is asked first.
    fn fail_with(&mut self, refused: Refused, now: Instant) -> Result<(), Error> {
        let may_ask = self.is_transactional() && !self.link.is_calling();
        if may_ask && is_consequence(&refused.failure) && ffi::fatal_error(self.link.client()).is_none() {
            self.link.call(Call::Reason);
            self.delivering = Delivering::Asking(Box::new(Asking { refused, until: now + REASON_LIMIT }));
            return Ok(());
        }
        Err(self.refusal(refused, None))
    }

    /// Fails once librdkafka has answered why the transaction failed, or does not answer in time.
    ///
    /// # Errors
    /// The reason of the failure.
    pub(super) fn conclude_asking(&mut self, now: Instant) -> Result<(), Error> {
        let Delivering::Asking(asking) = &self.delivering else { return Ok(()) };
        let answer = self.link.call_result();
        if answer.is_none() && now < asking.until {
            return Ok(());
        }
        let refused = asking.refused.clone();
        self.delivering = Delivering::Yes;
        Err(self.refusal(refused, answer.and_then(Result::err)))
    }

    /// The error for a rejection. In a transaction, only an error of the record itself ends the run. `cause` is the error
    /// of the whole transaction, if librdkafka has reported it.
    fn refusal(&self, Refused { lsn, failure, .. }: Refused, cause: Option<CallError>) -> Error {
        if let Some(state) = self.delivery.state()
            && state.topic() == failure.topic
        {
            return state.explain(failure.code, self.waiting.is_denied(&failure.topic));
        }
        let fatal = ffi::fatal_error(self.link.client());
        let transactions = self.delivery.transactions();
        if let Some(transactions) = transactions
            && self.is_checkpoint(&failure)
        {
            let cause = cause.as_ref().map_or(failure.code, |cause| cause.code);
            let is_denied = self.waiting.is_denied(&failure.topic);
            let is_missing = is_missing_topic(cause);
            if cause == Code::TopicAuthorizationFailed || is_missing && is_denied {
                return transactions.explain_checkpoint(cause, is_denied);
            }
        }
        match (transactions, fatal) {
            (Some(_), Some((code, reason))) if is_fenced(code) => Error::Fenced { reason },
            (Some(_), _) if is_fenced(failure.code) => Error::Fenced { reason: failure.code.to_string() },
            (Some(transactions), _) if is_consequence(&failure) => match cause {
                Some(cause) => transactions.explain(cause),
                None => Error::Aborted { reason: format!("a record was not delivered: {}", failure.code) },
            },
            (Some(_), _) if !failure.is_permanent() => {
                let Failure { code, topic, .. } = failure;
                Error::Aborted { reason: format!("a record for topic {topic} was not delivered: {code}") }
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

/// Whether the record was discarded because its transaction had failed before.
fn is_consequence(failure: &Failure) -> bool {
    matches!(failure.code, Code::State | Code::PurgeQueue | Code::PurgeInflight)
}

/// Whether the record itself is not at fault: a broker rejects a batch because of one record, and names that record.
fn is_of_refused_batch(failure: &Failure) -> bool {
    failure.code == Code::InvalidDifferentRecord
}
