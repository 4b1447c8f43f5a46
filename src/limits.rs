//! Named bounds that several modules share or that a reader looks for. A timeout that only one module uses is declared
//! in that module.

use std::time::Duration;

/// The maximum number of protocol messages read from PostgreSQL in one turn of the loop before Kafka is served again.
pub const MESSAGES_PER_TURN_MAX: u32 = 256;

/// The maximum number of records in flight, regardless of their size; librdkafka gets no faster beyond about 10,000.
pub const RECORDS_IN_FLIGHT_MAX: u32 = 20_000;

/// The maximum number of units of confirmation in flight: the capacity of the ring.
pub const RING_ENTRIES_MAX: usize = 32_768;

/// The bytes that librdkafka needs for a record in addition to its key and value, as counted in `[memory] max`.
pub const RECORD_OVERHEAD_BYTES: usize = 300;

/// If the confirmed position is more than this many bytes of WAL ahead of the last status update, walcat sends one
/// early.
pub const CONFIRMED_BYTES_BEFORE_UPDATE: u64 = 256 * 1024;

/// The minimum time between two early status updates: at most 20 per second.
pub const STATUS_UPDATE_SPACING: Duration = Duration::from_millis(50);

/// The timeout for a connection to one PostgreSQL host, unless the conninfo sets one, and for one catalog query.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout for a command at the start, except for commands that wait for other sessions.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum number of records per change: a key change becomes a delete, a tombstone and a create.
pub const RECORDS_PER_CHANGE_MAX: u32 = 3;

/// The maximum bytes of rows in one chunk of an incremental snapshot; one larger row is a chunk by itself.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The maximum number of changed keys that an incremental snapshot remembers during the read of a chunk.
pub const SNAPSHOT_CHANGED_KEYS_MAX: usize = 20_000;

/// The maximum number of transactions that an incremental snapshot remembers because they may not be visible yet.
pub const SNAPSHOT_EMITTED_MAX: usize = 100_000;

/// If more bytes than this wait for standard output, walcat takes no more changes.
pub const STDOUT_BUFFER_BYTES: usize = 64 * 1024;

/// The timeout for the end of the copy once everything is delivered.
pub const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may keep sending after walcat has ended the copy, before walcat closes the session.
pub const COPY_END_TIMEOUT: Duration = Duration::from_secs(3);

/// How long walcat may stop reading PostgreSQL because there is no room, or because Kafka is unreachable with records in
/// flight, before it closes the session: a walsender that nobody reads from cannot be terminated. Well below the
/// default of wal_sender_timeout, 60 s.
pub const BLOCKED_SESSION_MAX: Duration = Duration::from_secs(15);

/// The same limit if the server reports that the slot holds more WAL than max_wal_size.
pub const BLOCKED_SESSION_MIN: Duration = Duration::from_secs(2);

/// libpq never shrinks its input buffer, so walcat renews the session after a message larger than this many bytes.
pub const MESSAGE_BUFFER_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// The session is renewed only after this time without such a message: while large messages arrive, the buffer is
/// needed.
pub const RENEWAL_REST: Duration = Duration::from_secs(5);

/// The interval between log messages during an outage of Kafka.
pub const OUTAGE_NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum size, in bytes, of a buffer that the encoder keeps after a huge row.
pub const ENCODE_BUFFER_KEPT_BYTES: usize = 1024 * 1024;

/// A position that no transaction carries is stored in a Kafka transaction of its own after this many bytes of WAL.
pub const CHECKPOINT_BYTES: u64 = 16 * 1024 * 1024;

/// Such a position is stored after this time, even if it has advanced by fewer bytes.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// The maximum number of tables with REPLICA IDENTITY FULL whose keys are stored with each position.
pub const FULL_KEYS_MAX: usize = 1_000;

/// The maximum number of connections that read a snapshot.
pub const SNAPSHOT_CONNECTIONS_MAX: i32 = 16;

/// The maximum number of columns of a PostgreSQL table (`MaxHeapAttributeNumber`).
pub const COLUMNS_MAX: usize = 1_600;

// Bounds that depend on each other. The ring must not limit a batch of small transactions, and one turn must not fill
// the producer.
const _: () = assert!(RING_ENTRIES_MAX > RECORDS_IN_FLIGHT_MAX as usize + RECORDS_PER_CHANGE_MAX as usize);
const _: () = assert!(MESSAGES_PER_TURN_MAX * RECORDS_PER_CHANGE_MAX < RECORDS_IN_FLIGHT_MAX);
const _: () = assert!(CONFIRMED_BYTES_BEFORE_UPDATE < CHECKPOINT_BYTES);
const _: () = assert!(STDOUT_BUFFER_BYTES <= ENCODE_BUFFER_KEPT_BYTES);
const _: () = assert!(CONNECT_TIMEOUT.as_millis() <= COMMAND_TIMEOUT.as_millis());
const _: () = assert!(COPY_END_TIMEOUT.as_millis() < FINISH_TIMEOUT.as_millis());
const _: () = assert!(BLOCKED_SESSION_MIN.as_millis() < BLOCKED_SESSION_MAX.as_millis());
// A session is closed well before the default of wal_sender_timeout.
const _: () = assert!(BLOCKED_SESSION_MAX.as_millis() + FINISH_TIMEOUT.as_millis() < 60_000);
const _: () = assert!(BLOCKED_SESSION_MAX.as_millis() < OUTAGE_NOTICE_INTERVAL.as_millis());
