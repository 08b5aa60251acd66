//! The `tiderace` program: threads, io, admin HTTP, command line.

#![forbid(unsafe_code)]

fn main() {}
