//! Requests: messages of the prefix `walcat.snapshot`, and the tables that they name.

use log::{info, warn};

use super::Incremental;
use crate::clock::unix_now_ns;
use crate::patterns::Pattern;
use crate::pg::tables::Table;
use crate::snapshot::progress::{ALL, Progress, RequestAt, TableProgress};
use crate::snapshot::request::{Kind, Request};

impl Incremental {
    /// Obeys a request, unless it is included already. `keeps_progress` is false if its progress has no place.
    pub fn request(&mut self, at: RequestAt, content: &[u8], keeps_progress: bool) -> bool {
        let slot = self.slot.as_str();
        let request = match Request::parse(content) {
            Ok(request) if request.slot != self.slot => return false,
            Ok(request) => request,
            Err(error) => {
                warn!(slot, error:% = error; "a message with the prefix walcat.snapshot is not a request");
                return false;
            }
        };
        if !keeps_progress {
            warn!(slot, request = request.request.word();
                "a snapshot was requested, and this stream has no place for its progress: set file or topic in [state], or deliver \
                 exactly-once");
            return false;
        }
        if self.job.includes(at) {
            return false;
        }
        info!(slot, request = request.request.word(), tables = request.tables.join(","); "snapshot requested");
        self.apply(at, &request);
        true
    }

    fn apply(&mut self, at: RequestAt, request: &Request) {
        let patterns: Vec<Pattern> = request.tables.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        self.job.request(|progress: &mut Progress| {
            progress.last_request = at;
            match request.request {
                Kind::Start if request.tables.is_empty() => progress.patterns.push(ALL.to_owned()),
                Kind::Start => progress.patterns.extend(request.tables.iter().cloned()),
                Kind::Pause => progress.is_paused = true,
                Kind::Resume => progress.is_paused = false,
                Kind::Stop if request.tables.is_empty() => {
                    progress.patterns.clear();
                    progress.tables.clear();
                    progress.is_paused = false;
                }
                Kind::Stop => {
                    progress.patterns.retain(|pattern| !request.tables.contains(pattern));
                    let goes_on = |table: &TableProgress| {
                        !patterns.iter().any(|pattern| pattern.matches(&table.schema, &table.table))
                    };
                    progress.tables.retain(goes_on);
                }
            }
        });
        self.let_go_if_held();
    }

    /// A chunk whose table is no longer read is given up.
    fn let_go_if_held(&mut self) {
        if matches!(self.stage, super::Stage::Held { .. }) {
            self.let_go();
        }
    }

    /// Replaces patterns by the published tables that fit.
    pub(super) fn resolve(&mut self, tables: &[Table]) {
        let progress = self.job.progress();
        if progress.patterns.is_empty() {
            return;
        }
        let (slot, since_ms, request) = (self.slot.as_str(), unix_now_ns() / 1_000_000, progress.last_request);
        let mut found: Vec<TableProgress> = Vec::new();
        for text in &progress.patterns {
            let Ok(pattern) = Pattern::parse(text) else {
                warn!(slot, pattern = text.as_str(); "not a pattern of tables");
                continue;
            };
            let mut fitting = tables.iter().filter(|table| table.fits(&pattern)).peekable();
            if fitting.peek().is_none() {
                warn!(slot, pattern = text.as_str(); "no published table fits the pattern");
            }
            for table in fitting {
                let is_under_way = |one: &TableProgress| one.oid == table.relation.oid;
                if progress.tables.iter().any(is_under_way) || found.iter().any(is_under_way) {
                    continue;
                }
                found.push(TableProgress { since_ms, request, ..TableProgress::of(&table.relation) });
            }
        }
        info!(slot, tables = found.len(); "snapshot started");
        self.job.request(|progress| {
            progress.patterns.clear();
            progress.tables.extend(found.iter().cloned());
        });
        self.has_changed = true;
    }

    /// Adds the tables that were not published when walcat last looked. `next_xid` is the next transaction id now.
    ///
    /// The stream lacks what a transaction has changed in a table before it was published, and a chunk does not see it while
    /// that transaction is in progress. So each of them has to end first.
    pub(super) fn find_new(&mut self, tables: &[Table], next_xid: u64) {
        if !self.settings.new_tables {
            return;
        }
        let progress = self.job.progress();
        let mut published: Vec<u32> = tables.iter().map(|table| table.relation.oid).collect();
        published.sort_unstable();
        if progress.known.as_ref() == Some(&published) {
            return;
        }
        let is_new = |table: &&Table| {
            let Table { relation, .. } = table;
            let fits = |pattern: &Pattern| pattern.matches(&relation.namespace, &relation.name);
            progress.known.as_ref().is_some_and(|known| known.binary_search(&relation.oid).is_err())
                && !progress.tables.iter().any(|one| one.oid == relation.oid)
                && (self.settings.tables.is_empty() || self.settings.tables.iter().any(fits))
        };
        let (slot, since_ms, request) = (self.slot.as_str(), unix_now_ns() / 1_000_000, progress.last_request);
        let mut found = Vec::new();
        for table in tables.iter().filter(is_new) {
            let (schema, name) = (table.relation.namespace.as_str(), table.relation.name.as_str());
            info!(slot, schema, table = name; "the table is new in the publication: its snapshot begins");
            found.push(TableProgress {
                since_ms,
                request,
                waits_for: Some(next_xid),
                ..TableProgress::of(&table.relation)
            });
        }
        self.job.request(|progress| {
            progress.known = Some(published);
            progress.tables.extend(found);
        });
        self.has_changed = true;
    }
}
