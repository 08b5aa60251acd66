//! The simulator: a whole zone in one thread under a seed, on a simulated disk, network and clock. One file
//! per property, named after what must never happen.

#![forbid(unsafe_code)]
