//! The load generator: drives the client core on our ring and measures from the intended send time.

#![forbid(unsafe_code)]

fn main() {}
