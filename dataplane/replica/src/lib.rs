//! Leader and follower of one slot, without IO: plain values in, plain values out. Decides which entry is next in a slot
//! and under which epoch, who has it and what of it may be exposed, what a copy has to cut, what it promises, and who of
//! several leads next. The rules of docs/replication.md are kept here, each where it is named; `world`, in the
//! tests, drives several replicas through loss, crashes, damage and elections and checks that they are.
//!
//! Knows no socket, no journal, no catalogue and no clock: the shard drives it, and control collects the answers that
//! [`choose`] decides over. What the machines say has a frame or an entry each; `frames` translates, and nothing else knows
//! of them. [`SlotCopy`] is what a replica holds, for as long as it holds it; [`Leader`] and
//! [`Follower`] live for one epoch and work on it. [`Slot`] is the same for a zone of one node, which counts nobody.

#![forbid(unsafe_code)]

mod configuration;
mod copy;
mod election;
mod epoch_map;
mod follower;
mod frames;
mod leader;
mod lease;
mod planted;
mod seal;
mod slot;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use configuration::{Configuration, ConfigurationError, Generation, Member};
pub use copy::{End, Marks, Quarantine, Reach, Replayed, SlotCopy, Written};
pub use election::{Choice, Winner, choose, choose_lossy};
pub use epoch_map::EpochMap;
pub use follower::{Ack, Diverged, Fetch, FollowRefused, Follower, Parting, Shipment, Taken};
pub use frames::{Contradiction, Credit};
pub use leader::{AckIgnored, FetchAnswer, Given, LeadError, Leader, Phase, Place, Start};
pub use lease::{DRIFT_PART, Grants, LeaseAsk, believed_ns, waited_ns};
pub use seal::{Promise, SealAnswer, SealAsk, SealEntry, SealRefused, Sealing};
pub use slot::{LeadRefused, Slot, SlotState};
