//! Receive buffers: one region of equal buffers that the kernel fills in any order (a provided-buffer ring) and that the
//! machine then holds as [`Bytes`], without a copy. A buffer comes back when the last such slice is gone, on whatever
//! thread that happens, and is given to the kernel again at the end of a turn.
//!
//! A buffer belongs to exactly one side at a time: to the kernel while it is in the ring, to a lease from its completion
//! until the lease is dropped, to the pool in between. A quarter of the buffers is never lent: when that few are left,
//! pieces are copied out and their buffers go back at once. So machines that hold pieces of unfinished frames, or idle
//! connections that each hold a few bytes, never take the last buffer, and nobody waits for somebody who waits: when a turn
//! ends and every completion was taken, the kernel has at least that quarter.

use crate::ring::Ring;
use crate::start::StartError;
use bytes::Bytes;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use tiderace_base::limits::BLOCK_BYTES;

/// The one group of provided buffers.
pub(crate) const GROUP: u16 = 0;
/// What the kernel takes.
const BUFFERS_MAX: u16 = 1 << 15;

/// The buffers' memory, alive until the last lease is gone, also after the driver.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    layout: Layout,
    buffer_bytes: usize,
    /// One bit for each buffer that came back.
    returned: Box<[AtomicU64]>,
}

// SAFETY: the memory is reached through leases alone, each of which owns its buffer; the rest is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the kernel is done with it, because the driver reaped every operation or
        // kept a reference for ever, and no lease is left.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// A buffer that was filled, on its way through the machine.
struct Lease {
    memory: Arc<Memory>,
    buffer: u16,
    len: usize,
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        let at = usize::from(self.buffer) * self.memory.buffer_bytes;
        // SAFETY: inside the allocation; the kernel filled `len` bytes of this buffer and does not touch it again before
        // the lease is dropped, so it is initialised and shared for reading only.
        unsafe { std::slice::from_raw_parts(self.memory.base.as_ptr().add(at), self.len) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let word = &self.memory.returned[usize::from(self.buffer) / 64];
        // Release, so that our reads happen before the kernel's next write.
        word.fetch_or(1 << (self.buffer % 64), Ordering::Release);
    }
}

/// The driver's side.
#[derive(Debug)]
pub(crate) struct ReceivePool {
    memory: Arc<Memory>,
    /// The entries of the provided-buffer ring, shared with the kernel.
    entries: NonNull<BufRingEntry>,
    entries_layout: Layout,
    count: u16,
    /// Not to be lent.
    reserve: u16,
    lent: u16,
    tail: u16,
    leaked: bool,
}

// SAFETY: the entries are owned; nothing else points to them but the kernel.
unsafe impl Send for ReceivePool {}

impl ReceivePool {
    /// Allocates `count` buffers, a power of two, and registers them.
    pub(crate) fn new(ring: &Ring, count: u16, buffer_bytes: usize) -> Result<Self, StartError> {
        let count = count
            .max(2)
            .checked_next_power_of_two()
            .unwrap_or(BUFFERS_MAX)
            .min(BUFFERS_MAX);
        let buffer_bytes = buffer_bytes
            .clamp(1, i32::MAX as usize)
            .next_multiple_of(64);
        let (base, layout) = allocate(usize::from(count) * buffer_bytes);
        let (entries, entries_layout) = allocate(usize::from(count) * size_of::<BufRingEntry>());
        let memory = Memory {
            base,
            layout,
            buffer_bytes,
            returned: (0..usize::from(count).div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
        };
        let mut pool = Self {
            memory: Arc::new(memory),
            entries: entries.cast(),
            entries_layout,
            count,
            reserve: (count / 4).max(1),
            lent: 0,
            tail: 0,
            leaked: false,
        };
        for buffer in 0..count {
            pool.provide(buffer);
        }
        pool.publish();
        // SAFETY: the entries outlive the ring: the driver drops its ring first, and keeps them for ever if the kernel
        // might still use them.
        unsafe { ring.register_buffers(pool.entries.as_ptr() as u64, count, GROUP)? };
        Ok(pool)
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Buffers that the kernel has, as far as was seen.
    pub(crate) fn free(&self) -> u16 {
        self.count - self.lent
    }

    /// Puts a buffer into the ring; the kernel sees it after [`ReceivePool::publish`].
    fn provide(&mut self, buffer: u16) {
        let at = usize::from(buffer) * self.memory.buffer_bytes;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index lies below the number of entries. The entry is not in use by the kernel: there are as many
        // entries as buffers, and this buffer is not in the ring. Its tail, which lies in the first entry, is not written.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(self.memory.base.as_ptr().add(at) as u64);
            entry.set_len(self.memory.buffer_bytes as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the entries begin with the ring's first entry, in which the tail lies, aligned to 2.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes `len` bytes out of a buffer that the kernel filled. True: they were copied.
    pub(crate) fn take(&mut self, buffer: u16, len: usize) -> (Bytes, bool) {
        assert!(
            buffer < self.count && len <= self.memory.buffer_bytes,
            "the kernel fills buffers that it was given"
        );
        let lease = Lease {
            memory: Arc::clone(&self.memory),
            buffer,
            len,
        };
        self.lent += 1;
        if self.count - self.lent < self.reserve {
            self.reclaim();
        }
        if self.count - self.lent >= self.reserve {
            return (Bytes::from_owner(lease), false);
        }
        (Bytes::copy_from_slice(lease.as_ref()), true)
    }

    /// Looks into a buffer that the kernel filled, and gives it back.
    pub(crate) fn with<T>(
        &mut self,
        buffer: u16,
        len: usize,
        look: impl FnOnce(&mut [u8]) -> T,
    ) -> T {
        assert!(
            buffer < self.count && len <= self.memory.buffer_bytes,
            "the kernel fills buffers that it was given"
        );
        let at = usize::from(buffer) * self.memory.buffer_bytes;
        // SAFETY: inside the allocation; the kernel filled these bytes and has given the buffer away, no lease of it was
        // made, and it is put back only below: nobody else reaches it.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.memory.base.as_ptr().add(at), len) };
        let result = look(bytes);
        self.discard(buffer);
        result
    }

    /// A buffer that the kernel filled and nobody wants.
    pub(crate) fn discard(&mut self, buffer: u16) {
        drop(self.take(buffer, 0));
    }

    /// Gives the kernel every buffer that came back.
    pub(crate) fn reclaim(&mut self) {
        let tail = self.tail;
        for word in 0..self.memory.returned.len() {
            let mut bits = self.memory.returned[word].swap(0, Ordering::Acquire);
            while bits != 0 {
                let buffer = (word * 64) as u16 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                self.lent -= 1;
                self.provide(buffer);
            }
        }
        if self.tail != tail {
            self.publish();
        }
    }

    /// Keeps all memory for ever: the kernel may still use it.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
        let _ = Arc::into_raw(Arc::clone(&self.memory));
    }
}

impl Drop for ReceivePool {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: allocated with this layout; the driver closes its ring first, so the kernel is done with it.
            unsafe { dealloc(self.entries.as_ptr().cast(), self.entries_layout) };
        }
    }
}

fn allocate(bytes: usize) -> (NonNull<u8>, Layout) {
    let layout =
        Layout::from_size_align(bytes, BLOCK_BYTES).expect("receive buffers fit the address space");
    assert!(layout.size() > 0, "there are at least two buffers");
    // SAFETY: the size is not zero.
    let base = unsafe { alloc_zeroed(layout) };
    let Some(base) = NonNull::new(base) else {
        handle_alloc_error(layout);
    };
    (base, layout)
}
