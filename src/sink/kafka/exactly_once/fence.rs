//! Who has taken over, when Kafka says that somebody has.

use std::time::{Duration, Instant};

use super::Error;
use crate::sink::kafka::client::link::Link;
use crate::sink::kafka::exactly_once::Transactions;
use crate::sink::kafka::exactly_once::checkpoint::Reader;

/// How long another instance's start record is looked for after a fence.
const FENCE_LOOK: Duration = Duration::from_secs(3);

/// Kafka does not say who took the transactional id, nor whether it gave up our transaction by itself: the newest start
/// record does. Waits for it, for [`FENCE_LOOK`] at most.
pub(in crate::sink::kafka) fn find_successor(link: &Link, transactions: &Transactions, reason: String) -> Error {
    let (brokers, properties) = link.addresses();
    let topic = transactions.settings().topic();
    let reader = Reader::new(brokers, properties, &topic, transactions.instance());
    match reader.and_then(|mut reader| reader.wait_for_other(transactions.has_announced(), Instant::now() + FENCE_LOOK))
    {
        Ok(Some(other)) => Error::FencedBy { by: other.to_string() },
        Ok(None) => Error::Aborted { reason: format!("{reason}; no other instance has started since") },
        Err(error) => error,
    }
}
