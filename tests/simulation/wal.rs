//! The content of the WAL, and the frames that a walsender sends.

/// The one table.
pub const RELATION: u32 = 16_384;

/// An inserted row. Its id is the value of its only column: after a failover LSNs repeat, but ids do not.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub lsn: u64,
    pub id: u64,
}

/// One unit of confirmation, or other WAL.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Committed by the record at `commit`, which ends at `end`; no rows for an empty transaction.
    Transaction { rows: Vec<Row>, commit: u64, end: u64 },
    /// A non-transactional message; its LSN is that of its end.
    Message { start: u64, end: u64, id: u64 },
    /// Other WAL, announced by a keepalive.
    Other { end: u64 },
}

impl Unit {
    pub fn end(&self) -> u64 {
        match self {
            Unit::Transaction { end, .. } | Unit::Message { end, .. } | Unit::Other { end } => *end,
        }
    }

    /// Whether a walsender that starts at `lsn` sends it: not if the commit record begins before `lsn`.
    pub fn is_sent_from(&self, lsn: u64) -> bool {
        match self {
            Unit::Transaction { commit, .. } => *commit >= lsn,
            Unit::Message { start, .. } => *start >= lsn,
            Unit::Other { end } => *end > lsn,
        }
    }

    /// What consumers must receive of it.
    pub fn ids(&self) -> Vec<u64> {
        match self {
            Unit::Transaction { rows, .. } => rows.iter().map(|row| row.id).collect(),
            Unit::Message { id, .. } => vec![*id],
            Unit::Other { .. } => Vec::new(),
        }
    }

    /// The frames that a walsender sends for it. `before` is the position sent so far.
    pub fn frames(&self, before: u64) -> Vec<Vec<u8>> {
        match self {
            Unit::Transaction { rows, commit: at, end } => {
                let first = rows.first().map_or(*at, |row| row.lsn);
                let mut frames = vec![xlogdata(first, &begin(*at))];
                for (number, row) in rows.iter().enumerate() {
                    // A walsender sends keepalives inside a long transaction.
                    if number % 4 == 3 {
                        frames.push(keepalive(before, false));
                    }
                    frames.push(xlogdata(row.lsn, &insert(row.id)));
                }
                frames.push(xlogdata(*end, &commit(*at, *end)));
                frames
            }
            Unit::Message { end, id, .. } => vec![xlogdata(*end, &logical(*end, *id))],
            Unit::Other { .. } => Vec::new(),
        }
    }
}

/// w, start, end, clock, then the message.
fn xlogdata(start: u64, message: &[u8]) -> Vec<u8> {
    [b"w".as_slice(), &start.to_be_bytes(), &start.to_be_bytes(), &[0; 8], message].concat()
}

/// k, end, clock, whether a reply is requested.
pub fn keepalive(wal_end: u64, reply: bool) -> Vec<u8> {
    [b"k".as_slice(), &wal_end.to_be_bytes(), &[0; 8], &[u8::from(reply)]].concat()
}

/// R, OID, schema, table, replica identity, one column: part of the key, `id`, int4, no modifier.
pub fn relation() -> Vec<u8> {
    let head = [b"R".as_slice(), &RELATION.to_be_bytes(), b"public\0t\0d\0\x01\x01id\0"].concat();
    xlogdata(0, &[head.as_slice(), &23_u32.to_be_bytes(), &(-1_i32).to_be_bytes()].concat())
}

/// B, commit LSN, commit time, xid.
fn begin(commit: u64) -> Vec<u8> {
    [b"B".as_slice(), &commit.to_be_bytes(), &[0; 8], &7_u32.to_be_bytes()].concat()
}

/// I, relation, N, one column as text.
fn insert(id: u64) -> Vec<u8> {
    let text = id.to_string();
    let length = u32::try_from(text.len()).expect("a short text").to_be_bytes();
    [b"I".as_slice(), &RELATION.to_be_bytes(), b"N\0\x01t", &length, text.as_bytes()].concat()
}

/// C, flags, commit LSN, end LSN, commit time.
fn commit(commit: u64, end: u64) -> Vec<u8> {
    [b"C\0".as_slice(), &commit.to_be_bytes(), &end.to_be_bytes(), &[0; 8]].concat()
}

/// M, not transactional, LSN, prefix, content.
fn logical(lsn: u64, id: u64) -> Vec<u8> {
    let text = id.to_string();
    let length = u32::try_from(text.len()).expect("a short text").to_be_bytes();
    [b"M\0".as_slice(), &lsn.to_be_bytes(), b"p\0", &length, text.as_bytes()].concat()
}
