//! The simulator: a whole node in one thread under a seed, on a simulated disk, network and clock. A seed is a whole run,
//! and a failing one is a complete bug report.
//!
//! - [`world`] executes a machine's effects and gives it its events, and lets everything go wrong that may.
//! - [`history`] is what was seen from outside and what must never be: a crate of its own, which also judges real runs.
//! - [`run`] is the course of one run: a safety phase with faults, then healing and a demand for progress, then a power
//!   cut and an audit of every record.
//! - [`rot`] is a course of its own: bytes rot at rest, and the node has to say so.
//! - [`node`] is the product's node as a scenario, with clients that speak the wire protocol.
//! - [`zone`] is a zone of several such nodes.
//! - `planted`, in builds with `--cfg planted`, plants bugs in the product and sees whether the properties notice.
//! - [`found`] is a node that starts from files that somebody else found, with a history that they must keep.
//! - [`toy`] is a small log with a protocol of its own, and with bugs planted in it: it shows that the world and the
//!   properties find what they are for.
//!
//! To plug in another program, implement [`world::Program`] for it and [`run::Scenario`] for its clients: the scenario
//! adds nodes and actors to the world, the actors tell the history what they see, and nothing else needs to know.

#![forbid(unsafe_code)]

pub mod found;
pub mod node;
#[cfg(planted)]
pub mod planted;
pub mod rot;
pub mod run;
pub mod toy;
mod workload;
pub mod world;
pub mod zone;

pub use history;
