//! Crash images from real loads. A build of the program that records its disk runs under a real load; at each point of the
//! recording power may have been lost, and then the disk holds one of many images: whatever was durable is there, and of
//! the rest any part. Each image that is drawn is started from and held against what clients had been told.
//! `docs/crash-images.md` says what is legal and why.
//!
//! - [`recording`] reads a recording.
//! - [`image`] is a journal's directory in the middle of one, and what a power cut may leave of it.
//! - [`history`] is what clients had been told, read from the bytes of their connections.
//! - [`check`] chooses points and seeds, draws, starts, judges, and names what failed.
//! - [`load`] makes a recording of the real program.
//!
//! Invariant: a recording, a point and a seed decide everything.

#![forbid(unsafe_code)]

pub mod check;
pub mod history;
pub mod image;
pub mod load;
pub mod recording;
