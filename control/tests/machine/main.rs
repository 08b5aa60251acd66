//! The control machine in a small world of its own: a disk in memory that can lose power and be full, a clock, and as much
//! of a shard as control can see. Everything is decided by a seed.

mod crash;
mod disk;
mod starts;
mod turns;
mod world;
