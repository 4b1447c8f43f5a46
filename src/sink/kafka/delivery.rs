//! The two deliveries. What is valid in only one of them is inside it.

use std::time::Instant;

use crate::sink::kafka::client::producer::Transactional;
use crate::sink::kafka::exactly_once::{self, Transactions};
use crate::sink::kafka::state_topic::{self, StateTopic};

/// The settings of the delivery.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A record settles with its delivery report. The position is kept in a topic, or not in Kafka.
    AtLeastOnce(Option<state_topic::Settings>),
    /// Records settle when their Kafka transaction is committed.
    ExactlyOnce(Box<exactly_once::Settings>),
}

impl Settings {
    /// The producer's settings for transactions.
    pub(super) fn transactional(&self) -> Option<Transactional> {
        match self {
            Settings::AtLeastOnce(_) => None,
            Settings::ExactlyOnce(own) => Some(Transactional { id: own.transactional_id(), timeout: own.timeout }),
        }
    }
}

/// The state of the delivery, across producers.
pub enum Delivery {
    /// Each record by itself.
    AtLeastOnce(Option<Box<StateTopic>>),
    /// In Kafka transactions.
    ExactlyOnce(Box<Transactions>),
}

impl Delivery {
    /// The start.
    pub fn new(settings: &Settings) -> Self {
        match settings {
            Settings::AtLeastOnce(state) => {
                Delivery::AtLeastOnce(state.clone().map(|state| Box::new(StateTopic::new(state))))
            }
            Settings::ExactlyOnce(own) => {
                Delivery::ExactlyOnce(Box::new(Transactions::new(exactly_once::Settings::clone(own))))
            }
        }
    }

    /// The Kafka transactions of exactly-once delivery.
    pub fn transactions(&self) -> Option<&Transactions> {
        match self {
            Delivery::AtLeastOnce(_) => None,
            Delivery::ExactlyOnce(transactions) => Some(transactions),
        }
    }

    /// The same, to change them.
    pub fn transactions_mut(&mut self) -> Option<&mut Transactions> {
        match self {
            Delivery::AtLeastOnce(_) => None,
            Delivery::ExactlyOnce(transactions) => Some(transactions),
        }
    }

    /// The topic with the position of at-least-once delivery.
    pub fn state(&self) -> Option<&StateTopic> {
        match self {
            Delivery::AtLeastOnce(state) => state.as_deref(),
            Delivery::ExactlyOnce(_) => None,
        }
    }

    /// The same, to change it.
    pub fn state_mut(&mut self) -> Option<&mut StateTopic> {
        match self {
            Delivery::AtLeastOnce(state) => state.as_deref_mut(),
            Delivery::ExactlyOnce(_) => None,
        }
    }

    /// Whether the position that was delivered before is known and judged, so that changes can be taken.
    pub fn has_room(&self, now: Instant) -> bool {
        match self {
            Delivery::AtLeastOnce(state) => state.as_ref().is_none_or(|state| state.has_begun()),
            Delivery::ExactlyOnce(transactions) => transactions.has_room(now),
        }
    }

    /// Whether nothing is left to commit or to store.
    pub fn is_drained(&self) -> bool {
        match self {
            Delivery::AtLeastOnce(state) => state.as_ref().is_none_or(|state| state.is_drained()),
            Delivery::ExactlyOnce(transactions) => transactions.is_drained(),
        }
    }

    /// The topic with the positions, if there is one.
    pub fn has_checkpoints_in(&self, topic: &str) -> bool {
        match self {
            Delivery::AtLeastOnce(state) => state.as_ref().is_some_and(|state| state.topic() == topic),
            Delivery::ExactlyOnce(transactions) => transactions.settings().topic() == topic,
        }
    }

    /// The producer is replaced. Returns whether a new one is needed.
    pub fn renew(&mut self) -> bool {
        match self {
            Delivery::AtLeastOnce(state) => {
                if let Some(state) = state {
                    state.renew();
                }
                true
            }
            Delivery::ExactlyOnce(transactions) => transactions.renew(),
        }
    }
}
