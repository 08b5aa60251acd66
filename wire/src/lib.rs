//! Bytes to meaning and back: link and batch headers, bodies, the credit ledger and the session state
//! machine. Pure: it never waits, never reads a clock and allocates nothing before a length is checked.

#![forbid(unsafe_code)]
