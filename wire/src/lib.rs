//! Bytes to meaning and back: link and batch headers, bodies, the credit ledger and the session state
//! machine. Pure: it never waits, never reads a clock and allocates nothing before a length is checked.
//! What the bytes mean to other languages is written in `docs/protocol.md`; `P-n` names a rule there.

#![forbid(unsafe_code)]

mod layout;

pub mod assembly;
pub mod batch;
pub mod body;
pub mod credit;
pub mod entry;
pub mod error;
pub mod frame;
pub mod link;
pub mod session;

pub use layout::{ControlError, FieldLayout};
