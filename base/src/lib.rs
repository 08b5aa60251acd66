//! The leaf vocabulary that every other room speaks: ids, positions, units, limits, checksums, owned
//! buffers, and operations and completions as plain values. Knows no clock, no file, no socket and no
//! other crate of the workspace, so that whatever is built on it can be driven by the simulator.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod checksum;
pub mod collections;
pub mod disk;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod mesh;
pub mod operation;
pub mod planted;
pub mod position;
pub mod prng;
pub mod region;
pub mod time;
