//! The `on_error` policy: what to do with a record that Kafka permanently rejects, and the dead letter that replaces
//! it.
//!
//! The policy applies only to errors of the record itself. If a broker is unreachable, a topic does not exist or a
//! permission is missing, the stream stops regardless of the policy.

use std::collections::HashMap;

use rdkafka::error::RDKafkaErrorCode as Code;
use serde_json::value::RawValue;

use crate::lsn::Lsn;
use crate::sink::kafka::client::context::Failure;
use crate::sink::kafka::flight::Ordinal;

/// A dead letter omits a key that is longer than this, so that the dead letter itself is not rejected.
const KEY_BYTES_MAX: usize = 64 * 1024;

/// The maximum number of rejected records to remember, so that they are left out when their transaction is repeated.
const REMEMBERED_MAX: usize = 1_000;

/// What to do with a record that Kafka permanently rejects.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum OnError {
    /// Stop the stream.
    #[default]
    Stop,
    /// Count and log the record, and leave it out.
    Skip,
    /// Do the same, after writing a dead letter with the record's origin to this topic.
    DeadLetter { topic: String },
}

impl OnError {
    /// The topic of dead letters.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            OnError::DeadLetter { topic } => Some(topic),
            OnError::Stop | OnError::Skip => None,
        }
    }
}

/// A rejected record.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The commit LSN of its transaction; its own LSN for a message outside a transaction.
    pub lsn: Lsn,
    /// The place of the record in that transaction.
    pub ordinal: Ordinal,
    /// Its topic, the reason, its key, and the size of its value.
    pub failure: Failure,
}

/// The table of each topic, and the rejected records of a transaction that is being repeated.
#[derive(Debug, Default)]
pub struct DeadLetters {
    tables: HashMap<String, (String, String)>,
    remembered: Vec<Refused>,
    count: u64,
    /// The count at the last restart.
    count_at_beginning: u64,
}

impl DeadLetters {
    /// This topic belongs to this table.
    pub fn learn(&mut self, topic: &str, schema: &str, table: &str) {
        self.tables.insert(topic.to_owned(), (schema.to_owned(), table.to_owned()));
    }

    /// The topic no longer belongs to a table.
    pub fn forget_topic(&mut self, topic: &str) {
        self.tables.remove(topic);
    }

    /// The origin of a topic's records, for messages.
    #[must_use]
    pub fn origin(&self, topic: &str) -> String {
        match self.tables.get(topic) {
            Some((schema, table)) => format!("table {schema}.{table}"),
            None => "walcat itself or a logical message".to_owned(),
        }
    }

    /// How many records were left out.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts a record that is left out.
    pub fn count_one(&mut self) {
        self.count += 1;
    }

    /// The stream restarts; the same changes are taken again.
    pub fn begin(&mut self) {
        self.count_at_beginning = self.count;
    }

    /// Whether a repetition will differ because one more record is left out. If that record cannot be remembered, it
    /// would be rejected again forever.
    #[must_use]
    pub fn will_differ(&self) -> bool {
        self.count > self.count_at_beginning && self.remembered.len() < REMEMBERED_MAX
    }

    /// Remembers a record whose transaction may be repeated without it. Returns false if there is no room.
    pub fn remember(&mut self, refused: Refused) -> bool {
        let has_room = self.remembered.len() < REMEMBERED_MAX;
        if has_room {
            self.remembered.push(refused);
        }
        has_room
    }

    /// Forgets records before the stored position: they are not repeated.
    pub fn forget_before(&mut self, stored: Lsn) {
        self.remembered.retain(|refused| refused.lsn >= stored);
    }

    /// The earlier rejection of exactly this record, if its transaction was sent before. Another record of the
    /// transaction can have the same topic, key and size. A different topic means that the transaction was not read in
    /// the same way again.
    #[must_use]
    pub fn find(&self, lsn: Lsn, ordinal: Ordinal, topic: &str) -> Option<&Refused> {
        self.remembered
            .iter()
            .find(|refused| refused.lsn == lsn && refused.ordinal == ordinal && refused.failure.topic == topic)
    }

    /// Renders the value of the dead letter.
    #[must_use]
    pub fn render(&self, refused: &Refused) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Letter<'a> {
            lsn: Lsn,
            topic: &'a str,
            schema: Option<&'a str>,
            table: Option<&'a str>,
            key: Option<&'a RawValue>,
            key_bytes: usize,
            value_bytes: usize,
            code: i32,
            reason: String,
        }
        let Refused { lsn, failure, .. } = refused;
        let table = self.tables.get(&failure.topic);
        let letter = Letter {
            lsn: *lsn,
            topic: &failure.topic,
            schema: table.map(|(schema, _)| schema.as_str()),
            table: table.map(|(_, table)| table.as_str()),
            key: short_key(failure).and_then(|key| serde_json::from_slice(key).ok()),
            key_bytes: failure.key.as_ref().map_or(0, Vec::len),
            value_bytes: failure.value_bytes,
            code: failure.code as i32,
            reason: failure.code.to_string(),
        };
        serde_json::to_vec(&letter).expect("numbers, strings and a key that is JSON can be written as JSON")
    }
}

/// The key of the rejected record, unless it is too long.
#[must_use]
pub fn short_key(failure: &Failure) -> Option<&[u8]> {
    failure.key.as_deref().filter(|key| key.len() <= KEY_BYTES_MAX)
}

/// Whether the policy allows leaving out a record that was rejected with this code.
#[must_use]
pub fn can_be_left_out(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessageSize | Code::InvalidMessage)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Ordinal = Ordinal { change: 0, record: 0 };

    fn refused(lsn: u64, key: Option<&str>) -> Refused {
        let key = key.map(|text| text.as_bytes().to_vec());
        let failure = Failure { code: Code::MessageSizeTooLarge, topic: "p.s.t".to_owned(), key, value_bytes: 99 };
        Refused { lsn: Lsn(lsn), ordinal: FIRST, failure }
    }

    #[test]
    fn a_letter_says_where_the_record_came_from_and_nothing_of_its_value() {
        let mut letters = DeadLetters::default();
        letters.learn("p.s.t", "s", "t");
        let text = letters.render(&refused(0x10, Some(r#"{"id":1}"#)));
        let expected = format!(
            r#"{{"lsn":"0/10","topic":"p.s.t","schema":"s","table":"t","key":{{"id":1}},"key_bytes":8,"value_bytes":99,"code":10,"reason":{}}}"#,
            serde_json::to_string(&Code::MessageSizeTooLarge.to_string()).unwrap()
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        let text = letters.render(&refused(0x10, Some(&long)));
        assert!(text.len() < 1_000, "a dead letter must be small");
    }

    #[test]
    fn a_refused_record_is_known_again_until_its_transaction_is_stored() {
        let mut letters = DeadLetters::default();
        assert!(letters.remember(refused(10, Some("k"))));
        let find = |letters: &DeadLetters, lsn, ordinal| letters.find(Lsn(lsn), ordinal, "p.s.t").is_some();
        assert!(find(&letters, 10, FIRST));
        assert!(letters.find(Lsn(10), FIRST, "p.s.u").is_none());
        for other in [Ordinal { change: 1, record: 0 }, Ordinal { change: 0, record: 1 }] {
            assert!(!find(&letters, 11, FIRST) && !find(&letters, 10, other));
        }
        letters.forget_before(Lsn(11));
        assert!(!find(&letters, 10, FIRST));
    }
}
