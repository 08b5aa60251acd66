//! Style as a test. Each checker is a pure function from a `Tree` of texts to findings, so that it can be shown to
//! find a planted violation; `tests/repository.rs` runs all of them on the files of this repository. A finding always
//! names the better way: who meets one has never read this crate.

#![forbid(unsafe_code)]

pub mod arrows;
pub mod features;
pub mod leftovers;
pub mod reach;
pub mod rules;
pub mod shape;
pub mod source;
pub mod tree;

pub use tree::{File, Finding, Tree};

/// Panics with every finding on a line of its own, because fixing ten at once is cheaper than ten runs.
///
/// # Panics
///
/// If there is at least one finding.
pub fn assert_none(findings: &[Finding]) {
    assert!(
        findings.is_empty(),
        "\n\n{}\n",
        findings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    );
}
