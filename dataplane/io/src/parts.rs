//! What is left of a send: parts in order, of which the first may be gone in part.

use bytes::Bytes;
use std::collections::VecDeque;

/// See the module. No part is empty.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    parts: VecDeque<Bytes>,
    /// How much of the first part is gone.
    skip: usize,
}

impl Parts {
    pub(crate) fn new(parts: Vec<Bytes>) -> Self {
        let mut parts = VecDeque::from(parts);
        parts.retain(|part| !part.is_empty());
        Self { parts, skip: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.parts.len()
    }

    /// What is left of the first part.
    ///
    /// # Panics
    /// When nothing is left.
    pub(crate) fn first(&self) -> &[u8] {
        &self.parts[0][self.skip..]
    }

    /// What is left of each part.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let skips = core::iter::once(self.skip).chain(core::iter::repeat(0));
        self.parts
            .iter()
            .zip(skips)
            .map(|(part, skip)| &part[skip..])
    }

    /// Copies the first `bytes_max` bytes, or all.
    pub(crate) fn gather(&self, bytes_max: usize, into: &mut Vec<u8>) {
        into.clear();
        for part in self.iter() {
            let count = part.len().min(bytes_max - into.len());
            into.extend_from_slice(&part[..count]);
            if into.len() == bytes_max {
                return;
            }
        }
    }

    /// Drops so many bytes from the front.
    ///
    /// # Panics
    /// When there are not as many.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let mut passed = self.skip + bytes;
        while let Some(first) = self.parts.front() {
            if passed < first.len() {
                break;
            }
            passed -= first.len();
            self.parts.pop_front();
        }
        assert!(
            passed == 0 || !self.parts.is_empty(),
            "no more is sent than there is"
        );
        self.skip = passed;
    }
}
