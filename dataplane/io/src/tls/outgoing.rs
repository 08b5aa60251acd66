//! Ciphertext on its way out. The buffer keeps its length, so that room in it costs no zeros.

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    filled: usize,
}

impl Outgoing {
    /// At least `count` bytes behind what is there. Call [`Outgoing::fill`] with as many as were written.
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() < self.filled + count {
            self.bytes.resize(self.filled + count, 0);
        }
        &mut self.bytes[self.filled..]
    }

    pub(super) fn fill(&mut self, count: usize) {
        self.filled += count;
        assert!(self.filled <= self.bytes.len(), "no more than the room");
    }

    /// What is left to be sent.
    pub(crate) fn left(&self) -> &[u8] {
        &self.bytes[self.sent..self.filled]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.filled
    }

    /// So much was sent. An empty one begins anew, and gives memory back that is larger than `kept_bytes`.
    pub(crate) fn advance(&mut self, count: usize, kept_bytes: usize) {
        self.sent += count;
        assert!(
            self.sent <= self.filled,
            "the kernel sent more than it was given"
        );
        if self.is_empty() {
            self.clear(kept_bytes);
        }
    }

    pub(crate) fn clear(&mut self, kept_bytes: usize) {
        (self.sent, self.filled) = (0, 0);
        if self.bytes.len() > kept_bytes {
            self.bytes = Vec::new();
        }
    }
}
