//! Whatever reads bytes from outside, fed with bytes that nobody would send. A target is a function that takes any bytes and
//! panics when a property does not hold; a mutator makes inputs of valid ones, under a seed, and mends their checksums so that
//! most of them come further than the first check; a campaign runs a target and keeps what it found as a file that replays.
//!
//! - [`targets`] is one file for each reader, and the table of all of them.
//! - [`mutate`] makes inputs.
//! - [`campaign`] runs them, counts what became of them and keeps findings.
//! - [`corpus`] is the inputs in the tree.
//! - [`memory`] counts what a run holds, because a bound on memory is a property like any other.
//!
//! Invariant: a seed decides a whole campaign, and an input decides a whole run.

pub mod campaign;
pub mod corpus;
mod journal;
pub mod memory;
pub mod mutate;
pub mod outcome;
pub mod targets;

pub use outcome::Outcome;
pub use targets::Target;
