//! The write buffers. One fills at a time; the others wait until nobody refers to them any more: not a write in flight, not
//! the tail, not a send. When none is free the oldest part of the tail is given up first; what slow readers hold stays.

use crate::tail::Tail;
use bytes::BytesMut;
use tiderace_base::position::Lsn;
use tiderace_base::region::Region;

/// A bounded pool.
#[derive(Debug)]
pub(crate) struct Regions {
    regions: Vec<Region>,
    current: usize,
    region_bytes: usize,
    regions_max: usize,
    /// Regions that neither the tail nor a write explains, when one was looked for last.
    pinned: usize,
}

impl Regions {
    pub(crate) fn new(region_bytes: usize, regions_max: usize) -> Self {
        Self {
            regions: vec![Region::new(region_bytes)],
            current: 0,
            region_bytes,
            regions_max,
            pinned: 0,
        }
    }

    /// Makes sure that the current region has room for `bytes` behind what is frozen. Nothing is open. False: every
    /// region is held by somebody.
    pub(crate) fn make_room(&mut self, bytes: usize, tail: &mut Tail, durable: Lsn) -> bool {
        assert!(
            bytes <= self.region_bytes,
            "a region holds the largest chunk"
        );
        if self.room_bytes() >= bytes {
            return true;
        }
        for index in 0..self.regions.len() {
            if self.take(index, bytes) {
                return true;
            }
        }
        if self.regions.len() < self.regions_max {
            self.current = self.regions.len();
            self.regions.push(Region::new(self.region_bytes));
            return true;
        }
        while let Some(region) = tail.drop_oldest(durable) {
            if !tail.holds_region(region) && self.take(region, bytes) {
                return true;
            }
        }
        self.pinned = (0..self.regions.len())
            .filter(|region| !tail.holds_region(*region))
            .count();
        false
    }

    fn take(&mut self, index: usize, bytes: usize) -> bool {
        if !self.regions[index].try_reset() || self.regions[index].room_bytes() < bytes {
            return false;
        }
        self.current = index;
        self.pinned = 0;
        true
    }

    pub(crate) fn room_bytes(&self) -> usize {
        self.regions[self.current].room_bytes()
    }

    pub(crate) fn open(&mut self) -> &mut BytesMut {
        self.regions[self.current].open()
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.regions[self.current].filled()
    }

    pub(crate) fn freeze(&mut self) -> bytes::Bytes {
        self.regions[self.current].freeze()
    }

    pub(crate) fn current(&self) -> usize {
        self.current
    }

    pub(crate) fn count(&self) -> usize {
        self.regions.len()
    }

    pub(crate) fn pinned(&self) -> usize {
        self.pinned
    }
}
