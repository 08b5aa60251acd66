//! The control plane without IO: catalogue, membership, placement, fail-over. It decides who owns what and never carries an
//! event. It knows no shard's inside: it posts snapshots to threads that have a number, and hears that they were applied.
//!
//! [`Catalogue`] is the deterministic state machine, [`CatalogueEvent`] what it is fed with, [`Control`] the machine that
//! keeps it, with the consensus that stands between [`Catalogue::propose`] and [`Catalogue::apply`], in a journal of its own.

#![forbid(unsafe_code)]

mod boot;
mod catalogue;
mod cell;
mod checkpoint;
mod control;
mod desk;
mod encoding;
mod event;
mod leading;
mod letter;
mod links;
mod log;
mod mail;
mod membership;
mod metrics;
pub mod raft;
mod shards;
#[cfg(test)]
mod tests;

pub use boot::{ControlConfig, ControlError, ControlRecovery, LinksConfig, ShardJournal};
pub use catalogue::{ApplyError, Catalogue, JournalRecord, Node, Proposal};
pub use checkpoint::LogFault;
pub use control::{Control, Stats};
pub use encoding::DecodeError;
pub use event::{CatalogueEvent, EVENT_BYTES_MAX, EVENT_HEADER_BYTES, Fact, ShardBoot};
pub use metrics::Metrics;
