//! The thread that makes librdkafka's transactional calls, one at a time. It is walcat's only thread besides the loop.
//!
//! These calls need a thread because they wait for the cluster and cannot be split into short waits.
//! `rd_kafka_commit_transaction` and `rd_kafka_abort_transaction` send three requests to librdkafka's main thread, one
//! after another, and the answers do not name their request: any answer counts as the answer to the last request. If
//! the timeout expires during the first request ("begin"), librdkafka forgets which call is in progress, although it
//! reports that the call can be resumed. The first request stays in its queue. In a second call, therefore:
//! - The late answer counts as the answer to the next request: the commit is reported before Kafka has answered EndTxn,
//!   or it fails with "Operation not valid in state CommittingTransaction".
//! - If the answer to EndTxn arrives while no call is in progress, it counts as the answer to an abort: librdkafka
//!   aborts the process with "BUG: Invalid transaction state transition" (`rdkafka_txnmgr.c` of 2.12.1:
//!   `rd_kafka_txn_op_req0`, `rd_kafka_txn_curr_api_return0` with `resumable` false, `rd_kafka_txn_endtxn_complete`).
//!
//! `rd_kafka_init_transactions` can be resumed, but like `rd_kafka_begin_transaction` it waits for the main thread
//! without a limit. If the main thread gets no processor for 20 ms, that is enough to cause all of this. Rejected
//! alternatives: a call that blocks the loop for as long as PostgreSQL tolerates (an unreachable Kafka takes longer,
//! and signals would wait); librdkafka's background thread (it runs callbacks only for events, so each call would need
//! an artificial event).
//!
//! Invariants: each call is made once and never resumed; any failure ends the transactions of the producer. The thread
//! shares the producer and releases it last, so the producer is destroyed here, after its last call, and the loop does
//! not wait for that. When the process ends, nobody waits for this thread.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use rdkafka::producer::{BaseProducer, Producer as _};

use crate::sink::kafka::client::context::Context;
use crate::sink::kafka::client::ffi::{Native, Wake};
use crate::sink::kafka::client::topic_ends::{is_any_written, topics_with};
use crate::sink::kafka::client::transaction_calls::{self, CallError};

/// A call to librdkafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Take the transactional id, without a timeout, and begin a transaction. Then check whether any of these topics
    /// ever contained a record.
    Init {
        /// The names of the topics.
        topics: Vec<String>,
    },
    /// Check whether any of these topics ever contained a record, for any producer.
    Look {
        /// The names of the topics.
        topics: Vec<String>,
    },
    /// Commit the transaction within this time and begin the next one, which costs nothing until it has a record.
    Commit(Duration),
    /// Abort the transaction within this time.
    Abort(Duration),
    /// Find out why the transaction has failed; never succeeds.
    Reason,
    /// List the topics whose names begin like this, for any producer.
    List {
        /// The beginning of the names.
        prefix: &'static str,
    },
}

/// The result of a successful call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// This process has the transactional id, if it asked for it.
    Begun {
        /// Whether any of the topics ever contained a record.
        is_any_written: bool,
    },
    /// The transaction has ended.
    Ended,
    /// The names of the topics.
    Listed(Vec<String>),
}

/// The thread as seen by the loop.
pub struct TransactionThread {
    calls: Sender<Call>,
    results: Receiver<Result<Done, CallError>>,
    is_calling: bool,
}

impl TransactionThread {
    /// Starts the thread. It ends when this handle is dropped and the call in progress, if any, has returned.
    ///
    /// # Errors
    /// If the operating system cannot create a thread.
    pub fn start(producer: Arc<BaseProducer<Context>>, wake: Wake) -> io::Result<Self> {
        let (calls, inbox) = bounded(1);
        let (outbox, results) = bounded(1);
        thread::Builder::new()
            .name("transactions".to_owned())
            .spawn(move || work(&producer, &inbox, &outbox, &wake))?;
        Ok(TransactionThread { calls, results, is_calling: false })
    }

    /// Starts a call; its result arrives later. Only one call can be in progress.
    pub fn call(&mut self, call: Call) {
        assert!(!self.is_calling, "{call:?} while another transactional call is in progress");
        let sent = self.calls.try_send(call);
        assert!(sent.is_ok(), "the thread for transactional calls has ended");
        self.is_calling = true;
    }

    /// Whether a call is in progress, or its result was not taken yet.
    #[must_use]
    pub fn is_calling(&self) -> bool {
        self.is_calling
    }

    /// Takes the result of the call, if it has returned.
    pub fn result(&mut self) -> Option<Result<Done, CallError>> {
        match self.results.try_recv() {
            Ok(result) => {
                self.is_calling = false;
                Some(result)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => unreachable!("the thread lives as long as its channel"),
        }
    }
}

fn work(
    producer: &BaseProducer<Context>,
    calls: &Receiver<Call>,
    results: &Sender<Result<Done, CallError>>,
    wake: &Wake,
) {
    let client = Native::new(producer.client().native_ptr()).expect("a producer has a client");
    for call in calls {
        let result = match call {
            Call::Init { topics } => transaction_calls::init(client)
                .and_then(|()| transaction_calls::begin(client))
                .and_then(|()| is_any_written(producer.client(), &topics))
                .map(|is_any_written| Done::Begun { is_any_written }),
            Call::Look { topics } => {
                is_any_written(producer.client(), &topics).map(|is_any_written| Done::Begun { is_any_written })
            }
            Call::Commit(limit) => {
                let committed = transaction_calls::commit(client, limit);
                committed.and_then(|()| transaction_calls::begin(client)).map(|()| Done::Ended)
            }
            Call::Abort(limit) => transaction_calls::abort(client, limit).map(|()| Done::Ended),
            Call::Reason => transaction_calls::begin(client).map(|()| Done::Ended),
            Call::List { prefix } => topics_with(producer.client(), prefix).map(Done::Listed),
        };
        if results.send(result).is_err() {
            return;
        }
        wake.wake();
    }
}
