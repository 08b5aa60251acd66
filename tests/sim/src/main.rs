//! Runs seeds of the simulator and prints the first one that breaks a property.

#![forbid(unsafe_code)]

fn main() {}
