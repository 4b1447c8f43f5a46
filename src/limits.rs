//! Bounds that more than one module keeps, or that a reader looks for, by name; a wait of one module alone stands there.

use std::time::Duration;

/// Protocol messages read from PostgreSQL in one turn of the loop before Kafka is served again.
pub const MESSAGES_PER_TURN_MAX: u32 = 256;

/// Records in flight at most, whatever their size; beyond some 10,000 librdkafka gets no faster.
pub const RECORDS_IN_FLIGHT_MAX: u32 = 20_000;

/// Units of confirmation in flight at most: the capacity of the ring.
pub const RING_ENTRIES_MAX: usize = 32_768;

/// What librdkafka keeps beside a record's key and value, in bytes, as `[memory] max` counts it.
pub const RECORD_OVERHEAD_BYTES: usize = 300;

/// Bytes of WAL by which the confirmed position may be ahead of the last status update before one is sent early.
pub const CONFIRMED_BYTES_BEFORE_UPDATE: u64 = 256 * 1024;

/// The least time between two early status updates: at most 20 a second.
pub const STATUS_UPDATE_SPACING: Duration = Duration::from_millis(50);

/// How long a host of PostgreSQL gets to take a connection, unless the conninfo says, and one question to the catalog.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a command at the start may take; but for those that wait for others by their nature.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Records that one change can become: a key change is a delete, a tombstone and a create.
pub const RECORDS_PER_CHANGE_MAX: u32 = 3;

/// Bytes of lines that may wait for standard output before no more changes are taken.
pub const STDOUT_BUFFER_BYTES: usize = 64 * 1024;

/// How long the end of the copy may take, once all is delivered.
pub const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may go on sending after it was told that the copy ends, before the session is closed.
pub const COPY_END_TIMEOUT: Duration = Duration::from_secs(3);

/// How long PostgreSQL may be left unread for want of room, or Kafka be away with records in flight, before the session is
/// given up: a walsender that nobody reads cannot be ended. Well under wal_sender_timeout's default of 60 s.
pub const BLOCKED_SESSION_MAX: Duration = Duration::from_secs(15);

/// The same where the server says that the slot holds more WAL than max_wal_size.
pub const BLOCKED_SESSION_MIN: Duration = Duration::from_secs(2);

/// The largest message, in bytes, that libpq's input buffer may keep its size after. libpq never shrinks that buffer, so the
/// session is renewed after a larger one.
pub const MESSAGE_BUFFER_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// How long no such message may have come before the session is renewed: while they keep coming the buffer is needed.
pub const RENEWAL_REST: Duration = Duration::from_secs(5);

/// How often an outage of Kafka is logged while it lasts.
pub const OUTAGE_NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// The largest buffer that the encoder keeps after a huge row, in bytes.
pub const ENCODE_BUFFER_KEPT_BYTES: usize = 1024 * 1024;

/// WAL after which a position that no transaction carries is stored by a Kafka transaction of its own.
pub const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;

/// Time after which such a position is stored, however near it is.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Tables with REPLICA IDENTITY FULL whose keys are kept with each position.
pub const FULL_KEYS_MAX: usize = 1_000;

/// Columns that a table of PostgreSQL can have (`MaxHeapAttributeNumber`).
pub const COLUMNS_MAX: usize = 1_600;

// What depends on each other. The ring must not be what ends a batch of small transactions, a turn must not fill
// the producer.
const _: () = assert!(RING_ENTRIES_MAX > RECORDS_IN_FLIGHT_MAX as usize + RECORDS_PER_CHANGE_MAX as usize);
const _: () = assert!(MESSAGES_PER_TURN_MAX * RECORDS_PER_CHANGE_MAX < RECORDS_IN_FLIGHT_MAX);
const _: () = assert!(CONFIRMED_BYTES_BEFORE_UPDATE < CHECKPOINT_BYTES);
const _: () = assert!(STDOUT_BUFFER_BYTES <= ENCODE_BUFFER_KEPT_BYTES);
const _: () = assert!(CONNECT_TIMEOUT.as_millis() <= COMMAND_TIMEOUT.as_millis());
const _: () = assert!(COPY_END_TIMEOUT.as_millis() < FINISH_TIMEOUT.as_millis());
const _: () = assert!(BLOCKED_SESSION_MIN.as_millis() < BLOCKED_SESSION_MAX.as_millis());
// A session is given up well before wal_sender_timeout's default.
const _: () = assert!(BLOCKED_SESSION_MAX.as_millis() + FINISH_TIMEOUT.as_millis() < 60_000);
const _: () = assert!(BLOCKED_SESSION_MAX.as_millis() < OUTAGE_NOTICE_INTERVAL.as_millis());
