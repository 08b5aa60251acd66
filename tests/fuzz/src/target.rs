//! What a target is, and the list of all. A new one is a file in `targets` and a row here. Refuses nothing: whatever bytes
//! come, `run` decides.

use tiderace_base::prng::Prng;

use crate::mutate::mutate;
use crate::targets;

/// Whether an input got behind the first door: a target that refuses everything shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It was taken, or taken in part.
    Yes,
    /// It was refused.
    No,
}

impl From<bool> for Taken {
    fn from(is_taken: bool) -> Self {
        if is_taken { Self::Yes } else { Self::No }
    }
}

/// One reader of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// How the command line calls it.
    pub name: &'static str,
    /// What reads, and what must hold; for the table in `docs/fuzzing.md`.
    pub about: &'static str,
    /// Inputs to begin with, made by the product's own writers.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Closes the checksums of a changed input, where it has any.
    pub seal: fn(&mut [u8]),
    /// Panics when something that must hold does not.
    pub run: fn(&[u8]) -> Taken,
}

impl Target {
    /// The input of this seed and number: the same for ever.
    #[must_use]
    pub fn input(&self, corpus: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
        let mut prng = Prng::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut input = mutate(&mut prng, corpus);
        if prng.chance(3, 4) {
            (self.seal)(&mut input);
        }
        input
    }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    targets::frame::TARGET,
    targets::stream::TARGET,
    targets::section::TARGET,
    targets::batch::TARGET,
    targets::body::TARGET,
    targets::server::TARGET,
    targets::client::TARGET,
    targets::journal::TARGET,
    targets::history::TARGET,
    targets::config::TARGET,
    targets::records::TARGET,
    targets::units::TARGET,
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// For formats without a checksum.
pub(crate) fn no_seal(_: &mut [u8]) {}
