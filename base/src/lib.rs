//! The leaf vocabulary that every other room speaks: ids, offsets, epochs, units, limits, checksums,
//! owned buffers, and operations and completions as plain values. Knows no clock, no file, no socket
//! and no other crate of the workspace.

#![forbid(unsafe_code)]
