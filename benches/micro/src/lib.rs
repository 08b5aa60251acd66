//! What the micro-benchmarks share: batches, and a whole node in memory whose disk and network cost nothing, so that what
//! is measured is the machine alone.

#![forbid(unsafe_code)]

mod batches;
mod disk;
mod node;

pub use batches::{Batches, Shape};
pub use disk::MemoryDisk;
pub use node::{Client, Node};
