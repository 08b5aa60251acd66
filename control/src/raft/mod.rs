//! Raft for the catalogue, without IO: time, messages and the durability of records come in as values, and what is to be
//! written, sent and applied goes out as [`Output`]s. The algorithm's core (elections, log matching, joint consensus) is
//! `noraft`; what it leaves to its caller is here: payloads, when a message may leave, pre-vote, the leader's lease, reads,
//! transfer of leadership, flow of entries to each peer, and voters whose disk was damaged.
//!
//! Invariants: no vote and no acknowledgement leaves before what it promises is durable. The leader counts itself no further
//! than it is durable. Heartbeats wait for no disk. No voter votes before the lease that it last granted has run out, and none
//! in the first lease after its start. What is said to be committed is durable here and on a majority.

pub(crate) mod codec;
mod election;
mod entries;
mod lease;
mod machine;
mod message;
mod peers;
mod planted;
mod replication;
#[cfg(test)]
mod world;

pub use entries::{Entry, Members, Payload, Position};
pub use lease::Timing;
pub use machine::{
    Config, Health, Output, ProposeError, Raft, ReadId, Record, RecordSeq, Restored, Role,
};
pub use message::Message;
