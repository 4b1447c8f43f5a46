//! `walcat verify`: compares the topics of a publication with its tables, as of one LSN.
//!
//! 1. It notes the ends of the topics, so that it knows which records were there before the snapshot.
//! 2. It takes the snapshot of a temporary slot, and drops the slot (`snapshot`).
//! 3. It waits until the stream has delivered everything from before the snapshot (`caught_up`).
//! 4. It compares one table after another, each in as many passes as the memory requires (`comparison`), and prints the
//!    result (`report`).

mod caught_up;
mod comparison;
mod report;
mod snapshot;

use std::collections::HashMap;

use log::info;

use super::kafka;
use super::slot::{Commands, print};
use super::stream::encoding;
use crate::change::RelationIndex;
use crate::config::{self, StreamSettings};
use crate::error::Error;
use crate::patterns::Pattern;
use crate::pg::tables::Table;
use crate::pg::{Connection, Kind};
use crate::record::{self, Encoder};
use crate::sink;
use crate::sink::kafka::client::inquiry::Inquiry;
use crate::sink::kafka::client::topic_reader::{self, Partition, Topics};
use crate::source::open;
use comparison::{Comparison, Memory};
use snapshot::{Snapshot, Source};

/// What every comparison uses.
struct Run {
    commands: Commands,
    inquiry: Inquiry,
    topics: Topics,
    reading: topic_reader::Settings,
    encoder: Encoder,
    memory: Memory,
    show_values: bool,
}

/// A table with its topic.
struct Pair {
    table: Table,
    index: RelationIndex,
    topic: String,
    has_key: bool,
    /// The partitions before the snapshot.
    before: Vec<Partition>,
}

/// Compares the tables that one of the patterns matches; all without a pattern.
///
/// # Errors
/// [`Error::Differs`] if a topic is not its table, [`Error::Behind`] if the stream has not delivered what the snapshot has,
/// [`Error::NoTable`] if there is nothing to compare, and the errors of the servers.
pub fn run(settings: &StreamSettings, patterns: &[Pattern], show_values: bool) -> Result<(), Error> {
    kafka::check_properties(settings)?;
    let mut commands = Commands::new()?;
    let dsn = settings.dsn.as_ref().map(|dsn| dsn.expose());
    let mut connection = {
        let mut waiter = commands.waiter();
        Connection::connect(dsn, Kind::Ordinary, &mut |socket, way| waiter.wait(socket, way))?
    };
    open::check_version(connection.server_version())?;
    open::check_publications(&settings.publications, &settings.slot, &mut connection, &mut commands.waiter())?;
    caught_up::check_slot(settings, &mut connection, &mut commands.waiter())?;
    let inquiry = kafka::reach(settings, &mut commands.waiter())?;

    let memory = Memory::of(settings);
    let reading = topic_reader::Settings {
        brokers: settings.brokers.clone().unwrap_or_default(),
        properties: kafka::properties(&settings.kafka),
        read_committed: settings.delivery == config::Delivery::ExactlyOnce,
        queue_bytes: memory.queue_bytes,
    };
    let topics = Topics::new(&reading).map_err(sink::Error::from)?;
    let encoder =
        Encoder::new(&record::Settings { accept_keyless: true, ..encoding(settings, &connection.database()) })?;
    let mut run = Run { commands, inquiry, topics, reading, encoder, memory, show_values };
    let source = Source {
        dsn,
        server: connection.server(),
        server_version: connection.server_version(),
        publications: &settings.publications,
        patterns,
    };
    let (snapshot, pairs) = run.snapshot(&source)?;
    info!(lsn:% = snapshot.lsn, tables = pairs.len(); "snapshot taken");
    caught_up::wait(settings, snapshot.lsn, &mut connection, &mut run.commands.waiter())?;
    run.compare(snapshot, &pairs)
}

impl Run {
    /// Takes the snapshot, after the ends of the topics.
    fn snapshot(&mut self, source: &Source<'_>) -> Result<(Snapshot, Vec<Pair>), Error> {
        loop {
            let mut attempt = snapshot::Attempt::begin(source, &mut self.commands.waiter())?;
            let mut before = HashMap::new();
            for pair in self.pairs(std::mem::take(&mut attempt.tables), &HashMap::new())? {
                let partitions = self.topics.partitions(&pair.topic).map_err(sink::Error::from)?;
                before.insert(pair.table.relation.oid, partitions);
            }
            let taken = attempt.take(source, &mut self.commands.waiter())?;
            let Some((snapshot, tables)) = taken else { continue };
            let pairs = self.pairs(tables, &before)?;
            if pairs.is_empty() {
                let patterns = source.patterns.iter().map(|pattern| pattern.text().to_owned()).collect();
                return Err(Error::NoTable { patterns });
            }
            return Ok((snapshot, pairs));
        }
    }

    fn pairs(&mut self, tables: Vec<Table>, before: &HashMap<u32, Vec<Partition>>) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        for (index, table) in (0..).map(RelationIndex).zip(tables) {
            let prepared = self.encoder.prepare(index, &table.relation, &table.answer)?;
            let before = before.get(&table.relation.oid).cloned().unwrap_or_default();
            pairs.push(Pair { table, index, topic: prepared.topic, has_key: prepared.has_key, before });
        }
        Ok(pairs)
    }

    fn compare(&mut self, mut snapshot: Snapshot, pairs: &[Pair]) -> Result<(), Error> {
        let mut summary = report::Summary::new(snapshot.lsn);
        for pair in pairs {
            let comparison = Comparison::new(self, &mut snapshot, pair)?;
            let result = if pair.has_key { comparison.run()? } else { comparison.run_without_key()? };
            print(&report::lines(&pair.table.relation, &pair.topic, &result))?;
            summary.add(&result);
        }
        print(&summary.line())?;
        summary.verdict()
    }
}
