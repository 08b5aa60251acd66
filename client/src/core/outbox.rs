//! What is to be sent, in order. Link headers and control sections are written into one buffer that is used again once
//! sent; a batch follows as the caller's own bytes, without a copy, unless it is so small that a copy costs less than one
//! more piece in the vector of a write.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Up to here a batch is copied behind its control section: an atomic counter and an iovec each way cost more.
const COPY_BYTES_MAX: usize = 1024;
/// The control buffer is taken in steps of this size, so that it is allocated once for hundreds of frames.
const BUFFER_BYTES: usize = 64 * 1024;

/// Pieces in the order in which they are to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    ready: VecDeque<Bytes>,
    open: BytesMut,
    pending_bytes: usize,
}

impl Outbox {
    /// The buffer behind which `bytes_max` more bytes are written without growing it.
    pub(crate) fn frame(&mut self, bytes_max: usize, write: impl FnOnce(&mut BytesMut)) {
        if self.open.capacity() - self.open.len() < bytes_max {
            self.seal();
            self.open.reserve(bytes_max.max(BUFFER_BYTES));
        }
        let before = self.open.len();
        write(&mut self.open);
        self.pending_bytes += self.open.len() - before;
    }

    /// The batch that belongs to the frame just written.
    pub(crate) fn batch(&mut self, batch: &Bytes) {
        self.pending_bytes += batch.len();
        if batch.len() <= COPY_BYTES_MAX && self.open.capacity() - self.open.len() >= batch.len() {
            self.open.extend_from_slice(batch);
        } else {
            self.seal();
            self.ready.push_back(batch.clone());
        }
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.ready.push_back(self.open.split().freeze());
        }
    }

    /// Bytes that were written and not taken.
    pub(crate) const fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Moves all that is to be sent behind `out`.
    pub(crate) fn take(&mut self, out: &mut Vec<Bytes>) {
        self.seal();
        out.extend(self.ready.drain(..));
        self.pending_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    #[test]
    fn order_is_kept_and_large_batches_are_not_copied() {
        let mut outbox = Outbox::default();
        let small = Bytes::from(vec![1; 10]);
        let large = Bytes::from(vec![2; 5000]);
        for batch in [&small, &large, &small] {
            outbox.frame(8, |buffer| buffer.put_u64_le(9));
            outbox.batch(batch);
        }
        assert_eq!(outbox.pending_bytes(), 8 + 10 + 8 + 5000 + 8 + 10);
        let mut pieces = Vec::new();
        outbox.take(&mut pieces);
        assert_eq!(outbox.pending_bytes(), 0);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 5044);
    }
}
