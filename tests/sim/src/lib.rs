//! The simulator: a whole node in one thread under a seed, on a simulated disk, network and clock. A seed is a whole run,
//! and a failing one is a complete bug report.
//!
//! - [`world`] executes a machine's effects and gives it its events, and lets everything go wrong that may.
//! - [`history`] is what was seen from outside and what must never be: a crate of its own, which also judges real runs.
//! - [`run`] is the course of one run: a safety phase with faults, then healing and a demand for progress, then a power
//!   cut and an audit of every record.
//! - [`node`] is the product's node as a scenario, with clients that speak the wire protocol.
//! - [`toy`] is a small log with a protocol of its own, and with bugs planted in it: it shows that the world and the
//!   properties find what they are for.
//!
//! To plug in another program, implement [`world::Program`] for it and [`run::Scenario`] for its clients: the scenario
//! adds nodes and actors to the world, the actors tell the history what they see, and nothing else needs to know.

#![forbid(unsafe_code)]

pub mod node;
pub mod run;
pub mod toy;
mod workload;
pub mod world;

pub use history;
