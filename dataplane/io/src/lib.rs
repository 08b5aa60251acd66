//! The syscalls: the ring, sockets, files, clocks, entropy and pinning. A [`Driver`] executes the operations of one
//! machine, which own their buffers, and reports their completions; a [`MeshBuilder`] joins the drivers of one node; a
//! [`JournalDirectory`] is what both the driver and recovery's [`BlockingDisk`] open. Knows no protocol and no format.
//! The only room with unsafe code.

#![allow(
    unsafe_code,
    reason = "the ring and its buffers are shared with the kernel; each block says why it is sound"
)]

mod adopt;
mod blocking_disk;
mod clock;
mod counters;
mod directory;
mod driver;
pub mod entropy;
mod files;
#[cfg(test)]
mod interleavings;
mod large_pages;
mod links;
mod listener;
mod mesh;
mod parts;
pub mod pin;
mod receive_pool;
#[cfg(feature = "disk-recording")]
mod recorder;
#[cfg(feature = "disk-recording-format")]
pub mod recording;
mod ring;
mod secure;
mod sending;
mod slab;
mod sleeping;
mod sockets;
mod spsc;
#[cfg(test)]
mod spsc_tests;
mod start;
mod sync;
mod syscall;
mod tls;
mod waker;

pub use adopt::Adopter;
pub use blocking_disk::BlockingDisk;
pub use clock::Clock;
pub use counters::{Counter, Counters};
pub use directory::{DirectoryError, JournalDirectory};
pub use driver::{Driver, Outcome};
pub use large_pages::LargePages;
pub use links::NodeLinks;
pub use listener::{Listen, Listener};
pub use mesh::{MeshBuilder, MeshEnd};
#[cfg(feature = "disk-recording")]
pub use recorder::Recording;
pub use start::{DriverConfig, StartError, StartReport, descriptors_besides, descriptors_of_links};
pub use tls::{
    Acceptor, Connector, CurrentIdentity, Identity, NodeIdentity, TlsEnd, TlsError, node_name,
};
pub use waker::StopHandle;
