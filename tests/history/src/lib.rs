//! What was seen of a zone from outside, and what must never be seen: the observations, a checker for each anomaly, the
//! judge over all of them, the file format and its exports. The simulator judges its runs with it as they go; the program
//! `history` judges files of real runs. `docs/consistency.md` is the promise that is judged here.
//!
//! - [`observation`] is what can be seen; [`properties`] are what must never be, one file each.
//! - [`judge`] shows a history to every property, one observation at a time.
//! - [`format`] is the file, [`export`] its translation for other checkers.
//!
//! Knows no world, no socket and no clock: whoever sees something says when. Invariants: judging changes nothing; each
//! observation costs amortised a search in an ordered map for each property that looks at it; an outcome that nobody knows
//! is never a failure.

#![forbid(unsafe_code)]

pub mod export;
pub mod format;
pub mod judge;
pub mod knowledge;
pub mod observation;
pub mod properties;
mod ranges;

pub use judge::{Judge, Violation};
pub use observation::{BatchName, Credit, Kind, Ledger, Observation, Reader, Scope};
