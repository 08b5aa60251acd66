//! Leader and follower of one slot, without IO. Decides which entry is next in a slot and under which epoch; refuses
//! to lead before the epoch's first entry is placed, and refuses every epoch that is not newer than all it has seen.
//! Knows no socket, no journal and no catalogue.

#![forbid(unsafe_code)]

mod slot;

pub use slot::{EpochMap, LeadRefused, Slot, SlotState};
