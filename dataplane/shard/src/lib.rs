//! The shard machine: one deterministic `step` from events to effects that composes storage, replication
//! and sessions. Knows no socket, no clock and no control plane.

#![forbid(unsafe_code)]
