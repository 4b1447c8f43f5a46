//! Incremental snapshots: the rows of whole tables, chunk by chunk, beside the stream. No I/O, no clock.
//!
//! A chunk is a range of rows in the order of the table's key. Its read takes three things from one REPEATABLE READ
//! transaction, in this order: a lock against TRUNCATE and rewrites (ACCESS SHARE), a view S (`pg_current_snapshot()`) with a
//! position L of the WAL taken after S, and the rows that S sees. Every transaction that S sees has committed before L.
//!
//! The rule that keeps an older state of a key from following a newer one:
//!
//! 1. A chunk is held until the stream has passed L. Then the stream has emitted every transaction that S sees.
//! 2. A chunk is emitted between two transactions of the stream.
//! 3. A row is dropped if a transaction that S does not see was emitted since before the read began and changed its key. The
//!    stream has the newer row. If that change omits a TOASTed value, the chunk is read again instead ([`chunk`]).
//! 4. A commit is in the WAL before it is visible; under synchronous replication for as long as a standby is away. If a
//!    transaction that S does not see was emitted before the read began, its keys are unknown, and the chunk is read again
//!    later ([`tracking`]).
//!
//! TRUNCATE ends the snapshot of its table: every row after it is in the stream. Progress is stored only after the chunk is
//! delivered, or in the same Kafka transaction.

pub mod chunk;
pub mod job;
pub mod key;
pub mod progress;
pub mod request;
pub mod size;
pub mod tracking;
pub mod view;

pub use chunk::Touched;
pub use progress::Progress;
pub use view::View;
