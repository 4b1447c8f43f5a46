//! The way of a record from a change to librdkafka: at once, or after it was held.

use std::time::Instant;

use log::warn;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::change::{Change, Operation, Ticket};
use crate::limits::RECORDS_IN_FLIGHT_MAX;
use crate::sink::kafka::KafkaSink;
use crate::sink::kafka::client::context::Failure;
use crate::sink::kafka::client::ffi::RecordHeader;
use crate::sink::kafka::client::link::record_size;
use crate::sink::kafka::client::request_size::{Codec, REQUEST_BYTES_MAX_DEFAULT};
use crate::sink::kafka::flight::{InFlight, Ordinal};
use crate::sink::kafka::refusals::dead_letters::Refused;
use crate::sink::kafka::topics::{HeldRecord, Release};
use crate::sink::{Error, Taken};

impl KafkaSink {
    /// Encodes a change and queues its records. Call it only while [`KafkaSink::has_room`].
    ///
    /// # Errors
    /// The encoder's error, and records that librdkafka rejects at once.
    pub fn take(&mut self, change: &Change<'_>, ticket: Ticket, now: Instant) -> Result<Taken, Error> {
        let truncation = matches!(change.operation, Operation::Truncate);
        if change.relation.is_none() {
            self.link.open_messages(self.encoder.message_topic())?;
        }
        if let Some(transactions) = self.delivery.transactions_mut() {
            transactions.open(now);
        }
        let records = self.encoder.encode(change)?;
        let mut taken = Taken { records: 0, values: records.values() };
        // Allocates nothing unless a record is rejected.
        let (mut known, mut refused) = (Vec::new(), Vec::new());
        let lsn = change.position.unit_lsn();
        let Some(topic) = self.link.topic(records.destination) else {
            return Err(Error::Unprepared);
        };
        let number = match change.operation {
            Operation::Read { .. } => self.numbering.next_read(),
            _ => self.numbering.next(ticket),
        };
        for record in records.iter() {
            let ordinal = Ordinal { change: number, record: taken.records };
            taken.records += 1;
            if let Some(found) = self.dead_letters.find(lsn, ordinal, records.topic) {
                known.push(found.clone());
                continue;
            }
            if self.waiting.must_wait(records.topic, truncation, record.size()) {
                self.waiting.hold(HeldRecord {
                    destination: records.destination,
                    topic: records.topic.to_owned(),
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    header: record.header.map(|(name, value)| (name, value.to_vec())),
                    ticket,
                    lsn,
                    ordinal,
                    truncation,
                });
                continue;
            }
            let header = record.header.map(|(name, value)| RecordHeader { name, value });
            let (destination, bytes) = (Some(records.destination), record.size());
            let number = self.flight.number(InFlight { ticket, ordinal, destination, lsn, bytes });
            match topic.produce(record.key, record.value, header, number) {
                Ok(()) => self.flight.add(record_size(record.key, record.value)),
                Err(code) => {
                    self.flight.give_back(number);
                    let (key, value_bytes) = (record.key.map(<[u8]>::to_vec), record.value.map_or(0, <[u8]>::len));
                    let failure = Failure { code, topic: records.topic.to_owned(), key, value_bytes };
                    refused.push(Refused { lsn, ordinal, failure });
                }
            }
        }
        self.encoder.release();
        for found in known {
            let passed = self.leave_out(ticket, &found, now);
            self.or_look(passed, now)?;
        }
        for new in refused {
            let passed = self.leave_out_new(ticket, new, now);
            self.or_look(passed, now)?;
        }
        if let Some(transactions) = self.delivery.transactions_mut() {
            // The rows of a chunk stay together, like those of a transaction.
            let is_transactional =
                change.position.transaction.is_some() || matches!(change.operation, Operation::Read { .. });
            transactions.take(ticket, taken.records, is_transactional);
        }
        Ok(taken)
    }

    /// Sends held records if enough is known about their topics and there is room. One TRUNCATE can name more tables
    /// than a change has records.
    pub(super) fn release(&mut self, now: Instant) -> Result<(), Error> {
        while self.flight.records() < RECORDS_IN_FLIGHT_MAX as usize
            && let Some(release) = self.waiting.release(self.link.admin(), now)?
        {
            let held = match release {
                Release::Send(held) => held,
                Release::Judge(held, limits) => {
                    let codec = Codec::of(self.link.client());
                    let bytes = codec.least_bytes(held.key.as_deref(), held.value.as_deref());
                    if limits.request_bytes_max.is_none() && bytes > REQUEST_BYTES_MAX_DEFAULT {
                        warn!(origin = self.dead_letters.origin(&held.topic).as_str(), topic = held.topic.as_str(),
                            lsn:% = held.lsn, bytes;
                            "sending a record that a broker with the default socket.request.max.bytes never takes; \
                             its limit is unknown: grant the ACL DescribeConfigs on the cluster");
                    }
                    if limits.are_exceeded_by(bytes) {
                        let HeldRecord { lsn, ordinal, ticket, topic, key, value, .. } = held;
                        let (code, value_bytes) = (Code::MessageSizeTooLarge, value.map_or(0, |value| value.len()));
                        let failure = Failure { code, topic, key, value_bytes };
                        self.leave_out_new(ticket, Refused { lsn, ordinal, failure }, now)?;
                        continue;
                    }
                    held
                }
                Release::Skip(ticket) => {
                    // In a transaction it settles together with the other records.
                    if !self.is_transactional() {
                        self.skipped.push_back(ticket);
                    }
                    continue;
                }
            };
            let HeldRecord { lsn, ordinal, ticket, .. } = held;
            let Some(topic) = self.link.topic(held.destination) else {
                return Err(Error::Unprepared);
            };
            let (key, value) = (held.key.as_deref(), held.value.as_deref());
            let header = held.header.as_ref().map(|(name, value)| RecordHeader { name, value });
            let (destination, bytes) = (Some(held.destination), held.bytes());
            let number = self.flight.number(InFlight { ticket, ordinal, destination, lsn, bytes });
            match topic.produce(key, value, header, number) {
                Ok(()) => self.flight.add(record_size(key, value)),
                Err(code) => {
                    self.flight.give_back(number);
                    let value_bytes = value.map_or(0, <[u8]>::len);
                    let failure = Failure { code, topic: held.topic, key: held.key, value_bytes };
                    self.leave_out_new(ticket, Refused { lsn, ordinal, failure }, now)?;
                }
            }
        }
        Ok(())
    }
}
