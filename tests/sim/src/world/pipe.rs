//! What the links of clients and those of nodes have in common: bytes on their way in one direction, a machine's send in
//! flight, and the receive buffers of a driver, which are lent and come back when the machine drops them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use tiderace_base::operation::OpId;
use tiderace_base::prng::Prng;

/// The largest piece in which bytes arrive.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024;
/// A flow that found no receive buffer looks again after this long.
pub(super) const BUFFER_RETRY_NS: u64 = 100_000;

/// One direction of a link.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued_bytes: usize,
    /// A flow is scheduled.
    pub(super) flowing: bool,
    /// Nothing follows what is queued.
    pub(super) ended: bool,
    /// The end was told.
    pub(super) told: bool,
}

impl Pipe {
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queued_bytes += bytes.len();
        self.queue.push_back(bytes);
    }

    pub(super) fn take(&mut self, limit: usize) -> Vec<u8> {
        let mut taken = Vec::with_capacity(limit.min(self.queued_bytes));
        while taken.len() < limit
            && let Some(front) = self.queue.front_mut()
        {
            let count = front.len().min(limit - taken.len());
            taken.extend_from_slice(&front[..count]);
            front.advance(count);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        self.queued_bytes -= taken.len();
        taken
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
    }

    pub(super) fn has_work(&self) -> bool {
        self.queued_bytes > 0 || (self.ended && !self.told)
    }
}

/// A machine's send.
#[derive(Debug)]
pub(super) struct SendInFlight {
    pub(super) op: OpId,
    pub(super) parts: VecDeque<Bytes>,
    pub(super) sent_bytes: u64,
    /// Set once it ended: whether the connection can take more.
    pub(super) ended: Option<bool>,
}

/// The receive buffers of one machine's driver.
#[derive(Clone, Debug)]
pub struct ReceiveBuffers {
    held: Arc<AtomicUsize>,
    limit: usize,
}

/// One of them; given back when the machine drops it.
struct Lent {
    bytes: Vec<u8>,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReceiveBuffers {
    /// A pool of `limit` buffers.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            held: Arc::new(AtomicUsize::new(0)),
            limit,
        }
    }

    pub(super) fn exhausted(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.limit
    }

    pub(super) fn lend(&self, bytes: Vec<u8>) -> Bytes {
        self.held.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Lent {
            bytes,
            held: Arc::clone(&self.held),
        })
    }
}

/// How many of the queued bytes arrive together.
pub(super) fn segment_bytes(dribbles: bool, queued_bytes: usize, prng: &mut Prng) -> usize {
    // A dribble of a large queue would only cost time: its pieces grow with it.
    let most = match (dribbles, prng.below(16)) {
        (true, _) => 1 + queued_bytes as u64 / 64,
        (false, 0) => 64,
        (false, 1..=4) => 1460,
        (false, _) => SEGMENT_BYTES_MAX,
    };
    usize::try_from(prng.range(1, most + 1).max(u64::from(!dribbles) * most / 2))
        .expect("segments fit memory")
}
