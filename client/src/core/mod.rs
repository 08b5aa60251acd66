//! The client without IO, clocks, threads or entropy: everything that is a rule stands here and can be driven by the
//! tokio driver, by a ring or by the simulator alike. The layers can be used one by one: a [`connection`] speaks to one
//! shard, a [`producer`] and a [`consumer`] keep one stream's and one partition's promises, an [`engine`] is the whole
//! client.

pub mod backoff;
pub mod batch;
mod completion;
pub mod connection;
pub mod consumer;
pub mod engine;
mod outbox;
mod outstanding;
pub mod producer;
mod question;
