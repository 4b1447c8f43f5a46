//! The two deliveries. What is valid in only one of them is inside it.

use crate::sink::kafka::client::producer::Transactional;
use crate::sink::kafka::exactly_once::{self, Transactions};

/// The settings of the delivery.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A record settles with its delivery report.
    AtLeastOnce,
    /// Records settle when their Kafka transaction is committed.
    ExactlyOnce(Box<exactly_once::Settings>),
}

impl Settings {
    /// The producer's settings for transactions.
    pub(super) fn transactional(&self) -> Option<Transactional> {
        match self {
            Settings::AtLeastOnce => None,
            Settings::ExactlyOnce(own) => Some(Transactional { id: own.transactional_id(), timeout: own.timeout }),
        }
    }
}

/// The state of the delivery, across producers.
pub(super) enum Delivery {
    AtLeastOnce,
    ExactlyOnce(Box<Transactions>),
}

impl Delivery {
    /// The start.
    pub fn new(settings: &Settings) -> Self {
        match settings {
            Settings::AtLeastOnce => Delivery::AtLeastOnce,
            Settings::ExactlyOnce(own) => {
                Delivery::ExactlyOnce(Box::new(Transactions::new(exactly_once::Settings::clone(own))))
            }
        }
    }

    /// The Kafka transactions of exactly-once delivery.
    pub fn transactions(&self) -> Option<&Transactions> {
        match self {
            Delivery::AtLeastOnce => None,
            Delivery::ExactlyOnce(transactions) => Some(transactions),
        }
    }

    /// The same, to change them.
    pub fn transactions_mut(&mut self) -> Option<&mut Transactions> {
        match self {
            Delivery::AtLeastOnce => None,
            Delivery::ExactlyOnce(transactions) => Some(transactions),
        }
    }
}
