//! Finds the instance that has taken over after Kafka fenced the producer.

use std::time::{Duration, Instant};

use super::Error;
use crate::sink::kafka::client::link::Link;
use crate::sink::kafka::exactly_once::Transactions;
use crate::sink::kafka::exactly_once::checkpoint::Reader;

/// How long to look for the start record of another instance after a fence.
const FENCE_LOOK: Duration = Duration::from_secs(3);

/// The time between two looks at what the reader has.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Kafka does not report who took the transactional id, or whether Kafka itself aborted the transaction. The newest
/// start record answers both questions.
pub(in crate::sink::kafka) struct Look {
    reader: Reader,
    has_announced: bool,
    /// Why Kafka fenced the producer; none if it is not known that Kafka did.
    fenced: Option<String>,
    until: Instant,
}

impl Look {
    /// Starts to read the checkpoint topic.
    ///
    /// # Errors
    /// Those of [`Reader::new`].
    pub fn begin(
        link: &Link,
        transactions: &Transactions,
        fenced: Option<String>,
        now: Instant,
    ) -> Result<Self, Error> {
        let (brokers, properties) = link.addresses();
        let topic = transactions.settings().topic();
        let reader = Reader::new(brokers, properties, &topic, transactions.instance())?;
        Ok(Look { reader, has_announced: transactions.has_announced(), fenced, until: now + FENCE_LOOK })
    }

    /// Whether the look is over: nobody has taken over, as far as is known, and Kafka did not fence the producer.
    ///
    /// # Errors
    /// [`Error::FencedBy`] if an instance has taken over; [`Error::Aborted`] if Kafka fenced the producer and no other
    /// instance has started since; the errors of [`Reader::advance`].
    pub fn advance(&mut self, now: Instant) -> Result<bool, Error> {
        match (self.reader.advance(), &self.fenced) {
            (Ok(()), _) => {}
            (Err(_), None) => return Ok(true),
            (Err(error), Some(_)) => return Err(error),
        }
        if let Some(other) = self.reader.successor(self.has_announced) {
            return Err(Error::FencedBy { by: other.to_string() });
        }
        match &self.fenced {
            _ if now < self.until => Ok(false),
            Some(reason) => {
                Err(Error::Aborted { reason: format!("{reason}; no other instance has started since then") })
            }
            None => Ok(true),
        }
    }

    /// The time by which [`Look::advance`] must be called again.
    pub fn deadline(&self, now: Instant) -> Instant {
        self.until.min(now + LOOK_INTERVAL)
    }
}
