//! The thread that makes librdkafka's transactional calls, one at a time: the only one of walcat's own beside the loop.
//!
//! Why a thread, where everything else is one loop: these calls wait for the cluster, and none of them can be waited for
//! in slices. `rd_kafka_commit_transaction` and `rd_kafka_abort_transaction` are three questions to librdkafka's main
//! thread, one after another, and the answers carry no name: whichever comes is taken for the answer to what was asked
//! last. When the time is over during the first question ("begin"), librdkafka forgets which call is under way although it
//! says that the call may be resumed. That first question stays in its queue. So in a second call
//! - the late answer is taken for that of the next question: the commit is reported before Kafka has answered EndTxn, or
//!   fails by "Operation not valid in state CommittingTransaction";
//! - EndTxn's answer, when it comes while no call is named, counts as that of an abort: librdkafka ends the process by
//!   "BUG: Invalid transaction state transition" (`rdkafka_txnmgr.c` of 2.12.1: `rd_kafka_txn_op_req0`,
//!   `rd_kafka_txn_curr_api_return0` with `resumable` false, `rd_kafka_txn_endtxn_complete`).
//!
//! `rd_kafka_init_transactions` may be resumed, but like `rd_kafka_begin_transaction` it waits for the main thread without
//! any limit in the end. A main thread that gets no processor for 20 ms is enough for all that. Rejected: a call that
//! blocks the loop for as long as the server is patient (a dead Kafka takes longer than that, and signals would wait);
//! librdkafka's background thread (it runs callbacks for events only, so each call would need a made-up event).
//!
//! Invariants: each call is made once and never resumed; what fails, for whatever reason, ends the producer's
//! transactions. The thread has a share of the producer and gives it up last, so a producer is destroyed here, after its
//! last call and without the loop waiting for it. When the process ends nobody waits for this thread.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use rdkafka::producer::{BaseProducer, Producer as _};

use crate::sink::kafka::client::context::Context;
use crate::sink::kafka::client::ffi::{Native, Wake};
use crate::sink::kafka::client::topic_ends::is_any_written;
use crate::sink::kafka::client::transaction_calls::{self, CallError};

/// What librdkafka is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// To take the transactional id, however long that takes, and to begin a transaction. Then, whether any of these topics
    /// was ever written to.
    Init {
        /// Their names.
        topics: Vec<String>,
    },
    /// To commit the transaction within this time, and to begin the next one: it costs nothing until a record is in it.
    Commit(Duration),
    /// To give the transaction up within this time.
    Abort(Duration),
    /// Why the transaction has failed: never successful.
    Reason,
}

/// What a call that succeeded says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The transactional id is ours.
    Begun {
        /// Whether any of the topics was ever written to.
        is_any_written: bool,
    },
    /// The transaction is over.
    Ended,
}

/// The thread, as the loop sees it.
pub struct TransactionThread {
    calls: Sender<Call>,
    results: Receiver<Result<Done, CallError>>,
    is_calling: bool,
}

impl TransactionThread {
    /// Starts it. It ends when this is dropped and the call under way, if there is one, is over.
    ///
    /// # Errors
    /// When the operating system has no thread left.
    pub fn start(producer: Arc<BaseProducer<Context>>, wake: Wake) -> io::Result<Self> {
        let (calls, inbox) = bounded(1);
        let (outbox, results) = bounded(1);
        thread::Builder::new()
            .name("transactions".to_owned())
            .spawn(move || work(&producer, &inbox, &outbox, &wake))?;
        Ok(TransactionThread { calls, results, is_calling: false })
    }

    /// Makes a call; its result comes later. One at a time.
    pub fn call(&mut self, call: Call) {
        assert!(!self.is_calling, "{call:?} while another transactional call is under way");
        let sent = self.calls.try_send(call);
        assert!(sent.is_ok(), "the thread for transactional calls takes none");
        self.is_calling = true;
    }

    /// Whether a call is under way, or its result has not been taken.
    #[must_use]
    pub fn is_calling(&self) -> bool {
        self.is_calling
    }

    /// The call's result, once, when it is there.
    pub fn result(&mut self) -> Option<Result<Done, CallError>> {
        match self.results.try_recv() {
            Ok(result) => {
                self.is_calling = false;
                Some(result)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => unreachable!("the thread lasts as long as its channel"),
        }
    }

    /// The call's result, waited for until the deadline.
    pub fn wait(&mut self, deadline: Instant) -> Option<Result<Done, CallError>> {
        match self.results.recv_deadline(deadline) {
            Ok(result) => {
                self.is_calling = false;
                Some(result)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the thread lasts as long as its channel"),
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
            Call::Commit(limit) => {
                let committed = transaction_calls::commit(client, limit);
                committed.and_then(|()| transaction_calls::begin(client)).map(|()| Done::Ended)
            }
            Call::Abort(limit) => transaction_calls::abort(client, limit).map(|()| Done::Ended),
            Call::Reason => transaction_calls::begin(client).map(|()| Done::Ended),
        };
        if results.send(result).is_err() {
            return;
        }
        wake.wake();
    }
}
