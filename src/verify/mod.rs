//! Compares a topic with its table as of an LSN: folds the records of the topic by key, then looks up each row.
//!
//! It knows neither Kafka nor PostgreSQL: `commands/verify` gives it the records and the rows. What it keeps of a key is a
//! hash of fixed size ([`entries`]), so memory does not grow with the topic; if the keys do not fit, one pass compares
//! one range of their hashes ([`fold::Fold`]).
//!
//! What the snapshot does not show may not count: a record of a later transaction is only remembered as "changed since"
//! ([`record`]). A record that does not contain the whole row is compared by the columns that it has ([`columns`]).

pub mod bag;
pub mod columns;
pub mod entries;
pub mod fold;
pub mod hash;
pub mod record;
#[cfg(test)]
mod tests;
