//! librdkafka's transactional calls. They wait, and are not to be resumed: the thread that makes them tells why
//! (`transaction_thread`).
//!
//! Source: librdkafka's `rdkafka.h`, "Transactional producer API". rust-rdkafka's own `commit_transaction` flushes
//! first, in steps of 100 ms; here nothing is in flight any more when it is called.

#![allow(unsafe_code, reason = "calls librdkafka")]

use std::ffi::c_int;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::sink::kafka::client::ffi::{Native, text};
use crate::sink::kafka::error::Error;

/// Why a call failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// librdkafka's or the broker's code.
    pub code: Code,
    /// Their words.
    pub reason: String,
}

/// Takes the transactional id, however long that takes: fences whoever had it, and ends the transaction that was left open.
///
/// # Errors
/// When the id is refused, or the client has failed.
pub fn init(client: Native) -> Result<(), CallError> {
    // librdkafka would make "for ever" (-1) twice the transaction's time-out.
    // SAFETY: the client lives as Native states; the error that is returned is ours.
    outcome(unsafe { rd::rd_kafka_init_transactions(client.raw(), c_int::MAX) })
}

/// Begins a transaction; asks nobody but librdkafka's main thread.
///
/// # Errors
/// When the client has failed, or the open transaction has: with the reason of that.
pub fn begin(client: Native) -> Result<(), CallError> {
    // SAFETY: as in init.
    outcome(unsafe { rd::rd_kafka_begin_transaction(client.raw()) })
}

/// Commits the transaction, of which every record has been delivered.
///
/// # Errors
/// When the outcome is not known, or the transaction has to be given up.
pub fn commit(client: Native, limit: Duration) -> Result<(), CallError> {
    // SAFETY: as in init.
    outcome(unsafe { rd::rd_kafka_commit_transaction(client.raw(), milliseconds(limit)) })
}

/// Gives the transaction up. It waits until the reports of what it purges have been taken.
///
/// # Errors
/// When the client has failed, or the time is over.
pub fn abort(client: Native, limit: Duration) -> Result<(), CallError> {
    // SAFETY: as in init.
    outcome(unsafe { rd::rd_kafka_abort_transaction(client.raw(), milliseconds(limit)) })
}

fn milliseconds(limit: Duration) -> c_int {
    c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX)
}

/// Reads and frees what a call returned; null is success. An error that librdkafka calls retriable is an error here.
fn outcome(error: *mut rd::rd_kafka_error_t) -> Result<(), CallError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is not null and belongs to us until it is destroyed below.
    let code = unsafe { rd::rd_kafka_error_code(error) };
    // SAFETY: the same; the text belongs to the error and is copied.
    let reason = text(unsafe { rd::rd_kafka_error_string(error) });
    // SAFETY: destroyed once, and not used afterwards.
    unsafe { rd::rd_kafka_error_destroy(error) };
    Err(CallError { code: code.into(), reason })
}

/// What a call's failure means.
pub fn failure(error: &CallError) -> Error {
    let CallError { code, reason } = error.clone();
    match code {
        code if is_fenced(code) => Error::Fenced { reason },
        Code::TransactionalIdAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TopicAuthorizationFailed
        | Code::InvalidTransactionTimeout
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedVersion => Error::Transactional { code, reason },
        _ => Error::Aborted { reason: format!("{reason} ({code})") },
    }
}

/// Whether the code says that the transactional id belongs to another producer, or that Kafka has given up a transaction
/// of ours: it does not tell these apart.
#[must_use]
pub fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}
