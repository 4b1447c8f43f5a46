//! Encodes a change as the bytes of its records: key, value and headers, in Debezium's envelope with the values of
//! `lossless`.
//!
//! A plan is made once per Relation. After that, a row costs copies and a few integers, and no allocation once the
//! buffers have grown. Encoded records are borrowed from the encoder until the next change.

mod error;
mod format;
mod key;
mod plan;
mod records;
mod shape;
mod table;
#[cfg(test)]
mod tests;
pub mod topic;
mod values;

use std::collections::HashMap;

use crate::by_relation::ByRelation;
use crate::catalog_facts::CatalogAnswer;
use crate::change::{Change, Marker, Operation, Position, RelationIndex};
use crate::limits::{ENCODE_BUFFER_KEPT_BYTES, FULL_KEYS_MAX};
use crate::position::FullKeys;
use crate::record::topic::Route;
use crate::relations::Relation;
use crate::wire::pgoutput::ReplicaIdentity;

pub use error::{EncodeError, PrepareError};
pub use key::Warning;
pub use records::{Destination, Record, Records};

use format::json;
use key::Key;
use plan::{KeyValues, Placeholder, Plan};
use records::Ranges;
use shape::debezium;
use table::TableEncoder;
use values::Scratch;

/// Debezium's placeholder for a TOASTed value that the server did not send.
pub const UNAVAILABLE_VALUE: &str = "__debezium_unavailable_value";

/// The settings that apply to all records of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `source.db`.
    pub database: String,
    /// `source.name`: the topic prefix, or the slot's name without one.
    pub source_name: String,
    /// The prefix of all topics, without the dot.
    pub topic_prefix: Option<String>,
    /// The placeholder for a TOASTed value that the server did not send.
    pub unavailable_value: String,
    /// Whether records are sent without a key if their key is no longer known.
    pub accept_keyless: bool,
}

/// The result of preparing a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The topic of its records.
    pub topic: String,
    /// Whether the records have a key; without one there are no tombstones.
    pub has_key: bool,
    /// A warning about this table that was not logged yet.
    pub warning: Option<Warning>,
}

/// Encodes changes as records.
#[derive(Debug)]
pub struct Encoder {
    source: debezium::Source,
    /// `,"schema":"","table":"","txId":` for messages, which have no table.
    no_collection: Vec<u8>,
    placeholder: Placeholder,
    route: Route,
    plans: ByRelation<Plan>,
    /// The last warning of each table by OID, kept across reconnects so that it is logged once.
    warned: HashMap<u32, Warning>,
    /// The key columns of each table with REPLICA IDENTITY FULL by OID, from the last matching answer of the catalog;
    /// empty for no key.
    full_keys: FullKeys,
    /// Whether they have changed since they were last taken.
    full_keys_are_new: bool,
    accept_keyless: bool,
    workspace: Workspace,
}

/// Buffers that are reused for each change.
#[derive(Debug, Default)]
struct Workspace {
    bytes: Vec<u8>,
    ranges: Vec<Ranges>,
    scratch: Scratch,
    old_key: KeyValues,
    new_key: KeyValues,
    /// What followed the last row of a snapshot, and for which rows it is the same.
    rest: Vec<u8>,
    rest_of: Option<RestOf>,
}

/// What determines everything after the row of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RestOf {
    index: RelationIndex,
    marker: Option<Marker>,
    position: Position,
}

impl Encoder {
    /// Creates the encoder of a run.
    ///
    /// # Errors
    ///
    /// If the topic prefix is not valid at the beginning of a topic name.
    pub fn new(settings: &Settings) -> Result<Self, PrepareError> {
        Ok(Encoder {
            source: debezium::Source::new(&settings.source_name, &settings.database),
            no_collection: debezium::collection("", ""),
            placeholder: Placeholder::new(&settings.unavailable_value),
            route: Route::new(settings.topic_prefix.as_deref())?,
            plans: ByRelation::default(),
            warned: HashMap::new(),
            full_keys: FullKeys::new(),
            full_keys_are_new: false,
            accept_keyless: settings.accept_keyless,
            workspace: Workspace::default(),
        })
    }

    /// The topic of logical messages.
    #[must_use]
    pub fn message_topic(&self) -> &str {
        self.route.message_topic()
    }

    /// The placeholders for a TOASTed value that the server did not send, as JSON.
    #[must_use]
    pub fn placeholders(&self) -> Vec<String> {
        self.placeholder.forms().iter().map(|form| String::from_utf8_lossy(form).into_owned()).collect()
    }

    /// Makes the plan of a relation, again if the relation was announced again.
    ///
    /// # Errors
    ///
    /// If the relation has no topic of its own, or its key is no longer known.
    pub fn prepare(
        &mut self,
        index: RelationIndex,
        relation: &Relation,
        answer: &CatalogAnswer,
    ) -> Result<Prepared, PrepareError> {
        let topic = self.route.claim(index, &relation.namespace, &relation.name)?.to_owned();
        let key = self.key_of(relation, answer)?;
        let plan = Plan::new(relation, answer, &key.columns);
        let has_key = plan.has_key();
        self.plans.insert(index, plan);
        self.workspace.rest_of = None;
        let warning = key.warning.filter(|warning| self.warned.get(&relation.oid) != Some(warning));
        if let Some(warning) = &warning {
            self.warned.insert(relation.oid, warning.clone());
        }
        Ok(Prepared { topic, has_key, warning })
    }

    /// The places of the key columns of a relation's records, in the key's order; empty without a key.
    ///
    /// # Errors
    ///
    /// If its key is no longer known.
    pub fn key_columns(&mut self, relation: &Relation, answer: &CatalogAnswer) -> Result<Vec<usize>, PrepareError> {
        Ok(self.key_of(relation, answer)?.columns)
    }

    /// Relations of other tables that have the same topic as this one.
    pub fn rivals(&self, relation: &Relation) -> Vec<RelationIndex> {
        self.route.rivals(&relation.namespace, &relation.name).collect()
    }

    /// Releases the topic of a relation whose table is gone or was renamed. The relation must be prepared again before
    /// its next change.
    pub fn yield_topic(&mut self, index: RelationIndex) {
        self.route.release(index);
    }

    /// Forgets a relation that gets no more changes; returns its topic if no other relation has it.
    pub fn forget(&mut self, index: RelationIndex, oid: u32) -> Option<String> {
        self.plans.remove(index);
        self.warned.remove(&oid);
        self.full_keys_are_new |= self.full_keys.remove(&oid.to_string()).is_some();
        self.route.release(index)
    }

    /// Restores the keys of tables with REPLICA IDENTITY FULL from an earlier run.
    pub fn restore_full_keys(&mut self, full_keys: &FullKeys) {
        for (oid, names) in full_keys {
            self.full_keys.entry(oid.clone()).or_insert_with(|| names.clone());
        }
    }

    /// Returns the keys of this run if they have changed since the last call.
    pub fn new_full_keys(&mut self) -> Option<FullKeys> {
        std::mem::take(&mut self.full_keys_are_new).then(|| self.full_keys.clone())
    }

    fn remember(&mut self, oid: u32, names: Vec<String>) {
        let oid = oid.to_string();
        let is_known = self.full_keys.contains_key(&oid);
        if self.full_keys.get(&oid) != Some(&names) && (is_known || self.full_keys.len() < FULL_KEYS_MAX) {
            self.full_keys.insert(oid, names);
            self.full_keys_are_new = true;
        }
    }

    /// The key of a relation's records. With REPLICA IDENTITY FULL only the catalog contains it. The last answer is
    /// remembered for changes from before the table was dropped or got a new key.
    fn key_of(&mut self, relation: &Relation, answer: &CatalogAnswer) -> Result<Key, PrepareError> {
        let is_full = relation.replica_identity == ReplicaIdentity::Full;
        match key::key_of(relation, answer) {
            Ok(key) => {
                if is_full {
                    let names = key.columns.iter().map(|place| relation.columns[*place].name.clone());
                    self.remember(relation.oid, names.collect());
                }
                Ok(key)
            }
            Err(why) => {
                let remembered = self.full_keys.get(&relation.oid.to_string());
                match remembered.and_then(|names| key::places(relation, names)) {
                    Some(columns) => Ok(Key { columns, warning: None }),
                    None if self.accept_keyless => {
                        Ok(Key { columns: Vec::new(), warning: Some(Warning::KeyUnknown(why)) })
                    }
                    None => {
                        let (schema, table) = (relation.namespace.clone(), relation.name.clone());
                        Err(PrepareError::KeyUnknown { schema, table, why })
                    }
                }
            }
        }
    }

    /// Encodes a change. The records are borrowed until the next change.
    ///
    /// # Errors
    ///
    /// If the row does not match its relation, or a value cannot be encoded.
    pub fn encode(&mut self, change: &Change<'_>) -> Result<Records<'_>, EncodeError> {
        self.workspace.begin();
        let position = &change.position;
        if let Operation::Message { prefix, content, .. } = change.operation {
            self.encode_message(prefix, content, position);
            return Ok(self.records(Destination::Message, self.route.message_topic()));
        }
        let unprepared = EncodeError::Unprepared { lsn: position.lsn };
        let Some(index) = change.relation else { return Err(unprepared) };
        let (Some(plan), Some(topic)) = (self.plans.get(index), self.route.topic(index)) else {
            return Err(unprepared);
        };
        let mut table = TableEncoder {
            index,
            plan,
            source: &self.source,
            placeholder: &self.placeholder,
            position,
            marker: None,
            workspace: &mut self.workspace,
        };
        let encoded = table.encode(change.operation);
        encoded.map_err(|(fault, column)| fault.at(plan.place(column, position.lsn)))?;
        Ok(self.records(Destination::Relation(index), topic))
    }

    /// Releases the buffer if a huge row has enlarged it. Call it after the records were taken: the next change may be
    /// hours away.
    pub fn release(&mut self) {
        if self.workspace.bytes.capacity() > ENCODE_BUFFER_KEPT_BYTES {
            self.workspace.begin();
            self.workspace.bytes.shrink_to(ENCODE_BUFFER_KEPT_BYTES);
        }
    }

    fn records<'s>(&'s self, destination: Destination, topic: &'s str) -> Records<'s> {
        Records { destination, topic, bytes: &self.workspace.bytes, ranges: &self.workspace.ranges }
    }

    fn encode_message(&mut self, prefix: &str, content: &[u8], position: &Position) {
        let Workspace { bytes, ranges, .. } = &mut self.workspace;
        bytes.extend_from_slice(br#"{"op":"m","ts_ms":"#);
        json::push_integer(bytes, position.processed_unix_ns.div_euclid(1_000_000));
        bytes.push(b',');
        self.source.push(bytes, &self.no_collection, position, None);
        debezium::push_transaction(bytes, position, 0);
        bytes.extend_from_slice(br#","message":{"prefix":"#);
        json::push_string(bytes, prefix);
        bytes.extend_from_slice(br#","content":"#);
        values::push_base64(bytes, content);
        bytes.extend_from_slice(b"}}");
        let value = 0..bytes.len();
        bytes.extend_from_slice(br#"{"prefix":"#);
        json::push_string(bytes, prefix);
        bytes.push(b'}');
        let key = value.end..bytes.len();
        ranges.push(Ranges { key: Some(key), header: None, value: Some(value) });
    }
}

impl Workspace {
    fn begin(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }
}
