//! Frozen chunks that are still in memory, oldest first: what subscribers at the tail are served from without a copy.
//! Chunks that are not durable yet are always held; beyond that, as many as fit the bound.

use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::position::Lsn;

#[derive(Debug)]
struct Held {
    lsn: Lsn,
    end: Lsn,
    bytes: Bytes,
    region: usize,
}

/// The chunks held.
#[derive(Debug)]
pub(crate) struct Tail {
    chunks: VecDeque<Held>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(crate) fn push(&mut self, lsn: Lsn, bytes: Bytes, region: usize) {
        let end = lsn.advance(bytes.len() as u64);
        assert!(
            self.chunks.back().is_none_or(|last| last.end == lsn),
            "chunks follow one another"
        );
        self.bytes += bytes.len();
        self.chunks.push_back(Held {
            lsn,
            end,
            bytes,
            region,
        });
    }

    /// Gives up the oldest chunk if it is durable; the region that it lay in.
    pub(crate) fn drop_oldest(&mut self, durable: Lsn) -> Option<usize> {
        self.chunks.front().filter(|oldest| oldest.end <= durable)?;
        let oldest = self.chunks.pop_front()?;
        self.bytes -= oldest.bytes.len();
        Some(oldest.region)
    }

    /// Gives up what exceeds the bound.
    pub(crate) fn trim(&mut self, durable: Lsn) {
        while self.bytes > self.bytes_max && self.drop_oldest(durable).is_some() {}
    }

    pub(crate) fn slice(&self, lsn: Lsn, bytes: usize) -> Option<Bytes> {
        let index = self.chunks.partition_point(|held| held.end <= lsn);
        let held = self.chunks.get(index)?;
        let from = usize::try_from(lsn.distance_from(held.lsn)?).ok()?;
        let to = from.checked_add(bytes)?;
        (to <= held.bytes.len()).then(|| held.bytes.slice(from..to))
    }

    /// Where the oldest chunk that is held begins.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        Some(self.chunks.front()?.lsn)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether any held chunk lies in the region.
    pub(crate) fn holds_region(&self, region: usize) -> bool {
        self.chunks.iter().any(|held| held.region == region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_come_from_one_chunk_and_only_durable_chunks_are_given_up() {
        let mut tail = Tail::new(8192);
        for n in 0..4_u8 {
            tail.push(Lsn::new(u64::from(n) * 4096), Bytes::from(vec![n; 4096]), 0);
        }
        assert_eq!(tail.slice(Lsn::new(4100), 4).as_deref(), Some(&[1; 4][..]));
        assert_eq!(tail.slice(Lsn::new(4100), 4096), None);
        assert_eq!(tail.slice(Lsn::new(16384), 1), None);
        tail.trim(Lsn::new(4096));
        assert_eq!(tail.bytes(), 3 * 4096);
        assert_eq!(tail.slice(Lsn::new(0), 4), None);
        tail.trim(Lsn::new(16384));
        assert_eq!(tail.bytes(), 8192);
    }
}
