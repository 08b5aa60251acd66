//! The footers used last, within a bound in bytes. When a new one does not fit, those longest unused go. Holds nothing that
//! cannot be read again; what is handed out stays valid after it is dropped here.

use super::footer::Footer;
use std::collections::BTreeMap;
use tiderace_base::collections::Map;
use tiderace_base::limits::BLOCK_BYTES;

/// What the cache did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheCounts {
    /// Lookups that found a footer.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Footers dropped to make room.
    pub evictions: u64,
}

/// Footers by the number of the life that they describe.
#[derive(Debug)]
pub struct FooterCache {
    footers: Map<u64, (Footer, u64)>,
    /// Lives by their last use.
    ages: BTreeMap<u64, u64>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
    counts: CacheCounts,
}

/// What a footer costs: its bytes, and what alignment and the maps add at most.
fn cost(footer: &Footer) -> usize {
    footer.bytes().len() + BLOCK_BYTES
}

impl FooterCache {
    /// An empty cache that never holds more than `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            footers: Map::default(),
            ages: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            bytes_max,
            counts: CacheCounts::default(),
        }
    }

    /// The footer of the life, if it is held; it is then the one used last.
    pub fn get(&mut self, seq: u64) -> Option<Footer> {
        let Some((footer, used)) = self.footers.get_mut(&seq) else {
            self.counts.misses += 1;
            return None;
        };
        self.counts.hits += 1;
        self.uses += 1;
        self.ages.remove(used);
        *used = self.uses;
        self.ages.insert(self.uses, seq);
        Some(footer.clone())
    }

    /// Holds a footer, in place of an older one of the same life. False when it alone exceeds the bound: it is then not
    /// held, and what was held stays.
    pub fn insert(&mut self, footer: Footer) -> bool {
        let seq = footer.life().seq;
        self.remove(seq);
        let cost = cost(&footer);
        if cost > self.bytes_max {
            return false;
        }
        while self.bytes + cost > self.bytes_max {
            let Some((_, oldest)) = self.ages.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            self.remove(oldest);
            self.counts.evictions += 1;
        }
        self.uses += 1;
        self.bytes += cost;
        self.ages.insert(self.uses, seq);
        self.footers.insert(seq, (footer, self.uses));
        assert!(
            self.bytes <= self.bytes_max,
            "the cache stays within its bound"
        );
        true
    }

    /// Drops the footer of a life that was released.
    pub fn remove(&mut self, seq: u64) {
        if let Some((footer, used)) = self.footers.remove(&seq) {
            self.ages.remove(&used);
            self.bytes -= cost(&footer);
        }
    }

    /// Bytes held, never more than the bound.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        self.counts
    }
}
