//! Assembly without a runtime: shards, control and the routing between them. It is what the program runs and what the
//! simulator drives, and the only room where shard and control meet.

#![forbid(unsafe_code)]

pub mod boot;
pub mod config;

pub use boot::{BootError, Node, Reason, boot};
pub use config::{ConfigError, NodeConfig, ShardMemory};
pub use tiderace_control::LinksConfig;
pub use tiderace_control::raft::Timing;
pub use tiderace_storage::{Alarm, Damage, DamagedRange, Mark, Scrubbing};
