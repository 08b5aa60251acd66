//! Damaged and hostile bytes, for whatever reads bytes from outside. A target is a function that takes any bytes, asserts
//! what must hold of them and says whether they were taken; an engine of our own makes inputs from the target's corpus, as
//! many as wanted, each from a seed and a number alone, and closes checksums behind its changes, so that they are looked at
//! and not only refused. Invariant: a target's verdict depends on its input alone.

#![forbid(unsafe_code)]

pub mod mutate;
pub mod target;
pub mod targets;

pub use target::{TARGETS, Taken, Target, find};
