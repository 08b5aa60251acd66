//! The floor: what the disk and the ring allow with no product on top, so that every other number can be
//! read as a distance from it.

#![forbid(unsafe_code)]

fn main() {}
