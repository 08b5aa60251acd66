//! One file for each reader of bytes: its corpus, how its checksums are closed, and what must hold of any input. A target
//! names the rule of `docs/protocol.md` or `docs/journal.md` that it holds the reader to.

pub mod batch;
pub mod body;
pub mod client;
pub mod config;
pub mod frame;
pub mod history;
pub mod journal;
pub mod records;
mod scribe;
pub mod section;
pub mod server;
pub mod stream;
pub mod units;
