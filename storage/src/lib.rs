//! The journal without IO: writer, reader, recovery, segments, index and checkpoints. It asks for reads,
//! writes and syncs as values and is told of their completion; it never opens a file itself. Only `open` blocks, over a
//! port, because nothing is served before it is done.

#![forbid(unsafe_code)]

mod alarm;
pub mod checkpoint;
mod checkpointing;
mod cuts;
mod entry;
mod error;
mod filling;
mod footers;
mod format;
pub mod index;
mod journal;
mod marks;
mod operations;
mod outcome;
mod planted;
mod reader;
mod reclaim;
mod recovery;
mod scrub;
mod seals;
mod segments;
mod settings;
mod slots;
mod spares;
mod stats;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use alarm::Alarm;
pub use checkpoint::CELL_VALUE_BYTES_MAX;
pub use entry::{Class, EntryMeta, Placed, Refused};
pub use error::OpenError;
pub use journal::{Journal, Replay, Starts};
pub use marks::{Mark, MarkKind};
pub use outcome::{
    Damage, DamagedRange, Output, ReadBatches, ReadError, ReadId, SlotEntries, SlotOutput,
    SlotReadError,
};
pub use recovery::{Recovery, StandIn, open, recover};
pub use settings::{Scrubbing, Settings};
pub use slots::{CutRefused, EntryRefused};
pub use stats::Stats;
pub use writer::Draft;
