//! Tests on real servers: PostgreSQL and Apache Kafka, started by `scripts/pg-up` and `scripts/kafka-up`.
//!
//! Each test has its own database, slot, publication and topic prefix. A server that does not start is a failure. No test ends
//! with a sleep: it ends at an LSN, or when a condition holds within a deadline.

mod kafka;
#[allow(dead_code, reason = "scripts/torture uses more of it")]
#[path = "../torture/proxy.rs"]
mod proxy;
mod servers;
mod walcat;

mod aborted_checkpoint;
mod acls;
mod catalog;
mod check;
mod checkpoints;
mod connections;
mod corpus;
mod crashes;
mod dead_letters;
mod exactly_once;
mod exit_codes;
mod failover;
mod fences;
mod half_open;
mod hold;
mod idle;
mod incremental;
mod initial;
mod lost_topics;
mod memory;
mod once_and_endpos;
mod operations;
mod polling;
mod promotion;
mod readme;
mod reconnects;
mod secrets;
mod secure;
mod set_up;
mod slots;
mod snapshot_settings;
mod snapshots;
mod starvation;
mod state_topic;
mod stdout_and_dump;
mod topics;
mod verify;
mod versions;
