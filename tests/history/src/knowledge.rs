//! What every property may know of the history so far: the streams, what was sent, and when it is. Kept once for all of
//! them. Invariant: it holds what is true *before* a property sees the observation, and the observation itself.

use std::collections::BTreeMap;

use tiderace_base::catalogue::Durability;
use tiderace_base::collections::Map;
use tiderace_base::ids::PartitionKey;

use crate::observation::{BatchName, Observation};

/// What a producer said of a batch when it sent it last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// How many records it has.
    pub records: u32,
    /// A digest of its content.
    pub digest: u64,
}

/// A stream.
#[derive(Clone, Copy, Debug)]
struct Stream {
    durability: Durability,
    trims: bool,
}

/// What a stream promises to keep: what one of its bounds allows to go may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Bytes; zero for no bound.
    pub bytes: u64,
    /// Nanoseconds; zero for no bound.
    pub age_ns: u64,
}

impl Kept {
    /// No bound: nothing may go.
    pub const EVERYTHING: Self = Self {
        bytes: 0,
        age_ns: 0,
    };
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    at_ns: u64,
    streams: BTreeMap<u64, Stream>,
    kept: BTreeMap<u64, Kept>,
    sent: Map<BatchName, Sent>,
}

impl Knowledge {
    /// Takes the next observation. Constant time but for the ordered map of streams.
    pub fn learn(&mut self, at_ns: u64, observation: &Observation) {
        self.at_ns = at_ns;
        match observation {
            Observation::StreamKnown {
                stream,
                durability,
                trims,
            } => {
                let (durability, trims) = (*durability, *trims);
                self.streams.insert(*stream, Stream { durability, trims });
            }
            Observation::RetentionDeclared {
                stream,
                bytes,
                age_ms,
            } => {
                let kept = Kept {
                    bytes: *bytes,
                    age_ns: age_ms.saturating_mul(1_000_000),
                };
                self.kept.insert(*stream, kept);
            }
            Observation::Submitted {
                batch,
                records,
                digest,
                ..
            } => {
                let (records, digest) = (*records, *digest);
                self.sent.insert(*batch, Sent { records, digest });
            }
            _ => {}
        }
    }

    /// When the newest observation was made, in nanoseconds of the history's clock.
    #[must_use]
    pub const fn at_ns(&self) -> u64 {
        self.at_ns
    }

    /// What was sent under this name; `None` when nothing was.
    #[must_use]
    pub fn sent(&self, batch: &BatchName) -> Option<Sent> {
        self.sent.get(batch).copied()
    }

    /// Whether what was acknowledged or delivered may be gone after a crash.
    #[must_use]
    pub fn is_volatile(&self, partition: PartitionKey) -> bool {
        let stream = self.streams.get(&partition.stream.get());
        stream.is_some_and(|stream| stream.durability == Durability::Memory)
    }

    /// What the stream of a partition promises to keep, if that was said.
    #[must_use]
    pub fn kept(&self, partition: PartitionKey) -> Option<Kept> {
        self.kept.get(&partition.stream.get()).copied()
    }

    /// Whether old records may go away.
    #[must_use]
    pub fn trims(&self, partition: PartitionKey) -> bool {
        let stream = self.streams.get(&partition.stream.get());
        stream.is_some_and(|stream| stream.trims)
    }
}
