//! The journal without IO: writer, reader, recovery, segments, index and checkpoints. It asks for reads,
//! writes and syncs as values and is told of their completion; it never opens a file itself.

#![forbid(unsafe_code)]

pub mod checkpoint;
mod entry;
mod error;
pub mod index;
mod journal;
mod marks;
mod outcome;
mod settings;
mod stats;

pub use entry::{Class, EntryMeta, Placed, Refused};
pub use error::OpenError;
pub use journal::{Draft, Journal, Replay, Starts, open};
pub use marks::{Mark, MarkKind};
pub use outcome::{Output, ReadBatches, ReadError, ReadId};
pub use settings::Settings;
pub use stats::Stats;
