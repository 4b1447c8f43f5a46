//! librdkafka's transactional calls. They block and must not be resumed; `transaction_thread`, which makes them,
//! explains why.
//!
//! Source: librdkafka's `rdkafka.h`, "Transactional producer API". rust-rdkafka's own `commit_transaction` flushes
//! first, in steps of 100 ms; here nothing is in flight when it is called.

#![allow(unsafe_code, reason = "calls librdkafka")]

use std::ffi::c_int;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::sink::kafka::client::ffi::{Native, text};
use crate::sink::kafka::error::Error;

/// Why a call permanently failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// librdkafka's or the broker's code.
    pub code: Code,
    /// The message of the broker or librdkafka.
    pub reason: String,
}

/// Takes the transactional id, without a timeout. This fences the previous owner and ends its open transaction.
///
/// # Errors
/// If the id is rejected, or the client has failed.
pub fn init(client: Native) -> Result<(), CallError> {
    // librdkafka would replace an infinite timeout (-1) by twice the transaction's timeout.
    // SAFETY: the client lives as Native states; the error that is returned is ours.
    outcome(unsafe { rd::rd_kafka_init_transactions(client.raw(), c_int::MAX) })
}

/// Begins a transaction; involves only librdkafka's main thread.
///
/// # Errors
/// If the client or the open transaction has failed; the error is the reason of that failure.
pub fn begin(client: Native) -> Result<(), CallError> {
    // SAFETY: as in init.
    outcome(unsafe { rd::rd_kafka_begin_transaction(client.raw()) })
}

/// Commits the transaction, after every record of it was delivered.
///
/// # Errors
/// If the outcome is unknown, or the transaction must be aborted.
pub fn commit(client: Native, limit: Duration) -> Result<(), CallError> {
    // SAFETY: as in init.
    outcome(unsafe { rd::rd_kafka_commit_transaction(client.raw(), milliseconds(limit)) })
}

/// Aborts the transaction. The call waits until the reports of the purged records were processed.
///
/// # Errors
/// If the client has failed, or on timeout.
pub fn abort(client: Native, limit: Duration) -> Result<(), CallError> {
    // SAFETY: as in init.
    outcome(unsafe { rd::rd_kafka_abort_transaction(client.raw(), milliseconds(limit)) })
}

fn milliseconds(limit: Duration) -> c_int {
    c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX)
}

/// Reads and frees the result of a call; null is success. A retriable error of librdkafka is an error here.
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

/// The error for a failed call.
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

/// Whether the code means that another producer has the transactional id, or that Kafka has aborted our transaction.
/// Kafka does not distinguish the two.
#[must_use]
pub fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}
