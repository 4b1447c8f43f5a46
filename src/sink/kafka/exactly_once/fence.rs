//! Finds the instance that has taken over after Kafka fenced the producer.

use std::time::{Duration, Instant};

use super::Error;
use crate::sink::kafka::client::link::Link;
use crate::sink::kafka::exactly_once::Transactions;
use crate::sink::kafka::exactly_once::checkpoint::Reader;

/// How long to look for the start record of another instance after a fence.
const FENCE_LOOK: Duration = Duration::from_secs(3);

/// Kafka does not report who took the transactional id, or whether Kafka itself aborted the transaction. The newest
/// start record answers both questions. Waits for it at most [`FENCE_LOOK`].
pub(in crate::sink::kafka) fn find_successor(link: &Link, transactions: &Transactions, reason: String) -> Error {
    let (brokers, properties) = link.addresses();
    let topic = transactions.settings().topic();
    let reader = Reader::new(brokers, properties, &topic, transactions.instance());
    match reader.and_then(|mut reader| reader.wait_for_other(transactions.has_announced(), Instant::now() + FENCE_LOOK))
    {
        Ok(Some(other)) => Error::FencedBy { by: other.to_string() },
        Ok(None) => Error::Aborted { reason: format!("{reason}; no other instance has started since then") },
        Err(error) => error,
    }
}
