//! The shard machine: composes storage, replication and sessions into one deterministic step. Knows no socket, no file
//! and no clock, and starts nothing: events come in, effects go out.
//!
//! Read [`Shard`] first, then an event's way: `sessions` (frames), `produce` (into the journal), `undurable` (until it is
//! durable), `subscription` and `sending` (out again); beside it `requests`, `reads`, `maintenance`, `tombstones`, `retention` and `replay`.

#![forbid(unsafe_code)]

mod connection;
mod maintenance;
mod metrics;
mod partition;
mod partitions;
mod produce;
mod producer;
mod producer_room;
mod reads;
mod recovery;
mod replay;
mod requests;
mod retention;
mod sending;
mod sessions;
mod shard;
mod subscription;
mod tombstones;
mod undurable;

pub use metrics::{Kind, Metric, Metrics};
pub use partition::Partition;
pub use producer_room::ProducerBounds;
pub use reads::read_buffer_bytes_max;
pub use recovery::ShardRecovery;
pub use shard::{Shard, ShardConfig, ShardError};
