//! What a driver counts about itself. One thread writes, any may read: relaxed loads and stores, no read-modify-write,
//! so that counting costs an ordinary store.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds to the count. Only the driver's own thread calls this, so no addition is lost.
    pub(crate) fn add(&self, count: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

/// A driver's counters, since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Turns taken.
    pub turns: Counter,
    /// Turns that waited for something to happen.
    pub sleeps: Counter,
    /// Turns that found something to do by looking for it, where they would have slept.
    pub polls: Counter,
    /// Completions taken from the ring.
    pub completions: Counter,
    /// Turns that found more completions than the queue holds. The kernel keeps the rest; none is lost.
    pub queue_overflows: Counter,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections closed at once because there were too many, or because none were wanted any more.
    pub turned_away: Counter,
    /// Nodes that were let in at the peer door, verified.
    pub nodes_accepted: Counter,
    /// Nodes that were connected to, each end verified by the other.
    pub nodes_connected: Counter,
    /// Connects to nodes that failed, for whatever reason.
    pub connects_failed: Counter,
    /// Links to nodes that were ended because this node's new identity does not trust the other end any more.
    pub links_distrusted: Counter,
    /// TLS handshakes that were completed.
    pub tls_opened: Counter,
    /// TLS connections that failed: no handshake in its time, a certificate that is not trusted, damaged records.
    pub tls_failed: Counter,
    /// Pieces received.
    pub received: Counter,
    /// Pieces that were copied out because receive buffers ran short.
    pub received_copied: Counter,
    /// Receives that found no buffer and had to wait for one.
    pub receive_starved: Counter,
    /// Sends that the network took in more than one piece.
    pub sends_continued: Counter,
    /// Writes whose memory was not aligned and had to be copied first.
    pub writes_copied: Counter,
    /// Reads and writes that the disk did in more than one piece.
    pub disk_continued: Counter,
    /// Opens that found no descriptor and were tried again.
    pub opens_repeated: Counter,
    /// Reads that waited because as many files were open as may be.
    pub reads_held: Counter,
    /// Messages that had to wait because the mesh was full.
    pub mesh_waited: Counter,
}
