//! Style as a test. Each checker is pure, from text to findings; `tests/repository.rs` runs them all on the
//! tracked files.

#![forbid(unsafe_code)]
