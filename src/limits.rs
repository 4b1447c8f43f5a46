//! Every bound that is not a setting, by name.

/// Protocol messages read from PostgreSQL in one turn of the loop before Kafka is served again.
pub const MESSAGES_PER_TURN_MAX: u32 = 256;

/// Records in flight at most, whatever their size; beyond some 10,000 librdkafka gets no faster.
pub const RECORDS_IN_FLIGHT_MAX: u32 = 30_000;

/// Units of confirmation in flight at most: the capacity of the ring.
pub const RING_ENTRIES_MAX: usize = 32_768;

/// What librdkafka keeps beside a record's key and value, in bytes, as `[memory] max` counts it.
pub const RECORD_OVERHEAD_BYTES: usize = 300;
