//! The targets: one file for each reader of bytes from outside, each with a function that takes any bytes and panics when one
//! of its properties does not hold. Invariant: a target is a function of its input alone.

pub mod batch;
pub mod body;
pub mod catalogue;
pub mod checkpoint;
pub mod client;
pub mod config;
pub mod control;
pub mod footer;
pub mod frame;
pub mod history_file;
pub mod journal;
pub mod journal_sealed;
pub mod link_header;
mod reasons;
pub(crate) mod seals;
pub mod session;
pub mod superblock;
pub mod texts;
pub mod tls;

use crate::outcome::Outcome;

/// An input with the name of its file.
pub type Sample = (String, Vec<u8>);

/// A reader under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called on the command line and in the corpus.
    pub name: &'static str,
    /// What reads the bytes, and whose they are.
    pub reads: &'static str,
    /// What must hold of any input.
    pub holds: &'static str,
    /// Runs one input. Panics when a property does not hold.
    pub run: fn(&[u8]) -> Outcome,
    /// Inputs that the product's own encoders made.
    pub samples: fn() -> Vec<Sample>,
    /// Mends checksums and lengths after a change, as a hostile writer would.
    pub seal: Option<fn(&mut Vec<u8>)>,
    /// Bytes that mean something to the reader.
    pub words: &'static [&'static [u8]],
    /// The longest input that is made, in bytes.
    pub bytes_max: usize,
    /// The most memory that a run may hold, in bytes.
    pub held_bytes_max: usize,
    /// Inputs of one campaign in `cargo test`: a second's worth at most.
    pub runs_in_tests: u64,
}

/// Every target, in the order of docs/fuzzing.md.
pub const ALL: &[Target] = &[
    link_header::TARGET,
    frame::TARGET,
    control::TARGET,
    batch::TARGET,
    body::TARGET,
    session::TARGET,
    client::TARGET,
    journal::TARGET,
    journal_sealed::TARGET,
    superblock::TARGET,
    footer::TARGET,
    checkpoint::TARGET,
    catalogue::TARGET,
    tls::TARGET,
    config::TARGET,
    texts::TARGET,
    history_file::TARGET,
];

/// The target of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}
