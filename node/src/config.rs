//! What a node is told before it boots: how many shards, where they listen, how much memory and disk they may take.
//! Checked once, whole, with an error for each way it can be wrong; nothing is clamped in silence.

use core::fmt;
use std::net::SocketAddr;
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::{NodeId, ZoneId};
use tiderace_base::limits::{
    BLOCK_BYTES, CHUNK_BYTES_MAX, CONNECTIONS_PER_SHARD_MAX, KIB, MIB, PRODUCERS_PER_PARTITION_MAX,
    SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SHARD_MEMORY_BYTES_MIN, SHARDS_MAX, SLOTS, SPARES_MAX,
};
use tiderace_control::LinksConfig;
use tiderace_shard::{ProducerBounds, read_buffer_bytes_max};
use tiderace_storage::Scrubbing;

/// Memory of a shard when nobody says otherwise.
pub const SHARD_MEMORY_BYTES_DEFAULT: usize = 64 * MIB;

/// Spare files that are never written ahead for: the journal's two reserves.
const SPARES_RESERVED: u64 = 2;

/// A node's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Shards, and so journals: fixed at the first start.
    pub shards: u16,
    /// The address that all shards share.
    pub shared: SocketAddr,
    /// Each shard's own address.
    pub shard_addrs: Vec<SocketAddr>,
    /// The durability of streams that do not name one.
    pub default_durability: Durability,
    /// Bytes of one journal segment: fixed at the first start.
    pub segment_bytes: u64,
    /// Journal that each shard keeps written with zeros ahead of its appends; at least one segment is, beside the reserves.
    pub prewrite_bytes: u64,
    /// Memory that the node may take for buffers and what it remembers of producers, all shards together.
    pub memory_bytes: usize,
    /// Connections that each shard serves at once, at most [`CONNECTIONS_PER_SHARD_MAX`].
    pub connections_max: usize,
    /// How every journal is searched for damage.
    pub scrubbing: Scrubbing,
    /// This node's id; `None` lets the first start choose one.
    pub node_id: Option<NodeId>,
    /// The zone that it belongs to; `None`: that of its catalogue.
    pub zone_id: Option<ZoneId>,
    /// How its control thread is linked to other nodes'; `None`: its zone is itself.
    pub links: Option<LinksConfig>,
    /// Whether chunks may be as small as a test wants them: segments too small for the largest batch refuse it.
    pub small_chunks: bool,
}

/// How a configuration can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// No shards, or more than a node may have.
    Shards {
        /// How many were asked for.
        asked: u16,
    },
    /// Not one address per shard.
    Addresses {
        /// How many there are.
        given: usize,
        /// How many there must be.
        due: u16,
    },
    /// A segment out of bounds, or not whole blocks.
    Segment {
        /// What was asked for.
        asked: u64,
    },
    /// More to be written ahead than a superblock lists.
    Prewrite {
        /// What was asked for.
        asked: u64,
        /// The most that so large segments allow.
        most: u64,
    },
    /// No connections, or more than a shard serves.
    Connections {
        /// How many were asked for.
        asked: usize,
    },
    /// Too little memory for so many shards.
    Memory {
        /// What was asked for.
        asked: usize,
        /// The least that works.
        least: usize,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shards { asked } => write!(
                f,
                "{asked} shards were asked for: a node has 1 to {SHARDS_MAX}"
            ),
            Self::Addresses { given, due } => write!(
                f,
                "{given} shard addresses for {due} shards: each shard needs one"
            ),
            Self::Segment { asked } => write!(
                f,
                "a segment of {asked} bytes was asked for: it must be whole blocks of {BLOCK_BYTES}, from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            ),
            Self::Prewrite { asked, most } => write!(
                f,
                "{asked} bytes were asked to be written ahead: segments of this size allow {most}; ask for less or for larger segments"
            ),
            Self::Connections { asked } => write!(
                f,
                "{asked} connections per shard were asked for: a shard serves 1 to {CONNECTIONS_PER_SHARD_MAX}"
            ),
            Self::Memory { asked, least } => {
                write!(
                    f,
                    "{asked} bytes of memory were asked for: so many shards need at least {least}; ask for more or run fewer shards"
                )
            }
        }
    }
}

impl core::error::Error for ConfigError {}

impl NodeConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.shards == 0 || usize::from(self.shards) > SHARDS_MAX || self.shards > SLOTS {
            return Err(ConfigError::Shards { asked: self.shards });
        }
        if self.shard_addrs.len() != usize::from(self.shards) {
            return Err(ConfigError::Addresses {
                given: self.shard_addrs.len(),
                due: self.shards,
            });
        }
        let bounds = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        let roomy =
            self.small_chunks || self.segment_bytes >= (CHUNK_BYTES_MAX + 2 * BLOCK_BYTES) as u64;
        if !bounds.contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
            || !roomy
        {
            return Err(ConfigError::Segment {
                asked: self.segment_bytes,
            });
        }
        let most = (SPARES_MAX as u64 - SPARES_RESERVED) * self.segment_bytes;
        if self.prewrite_bytes > most {
            return Err(ConfigError::Prewrite {
                asked: self.prewrite_bytes,
                most,
            });
        }
        if !(1..=CONNECTIONS_PER_SHARD_MAX).contains(&self.connections_max) {
            return Err(ConfigError::Connections {
                asked: self.connections_max,
            });
        }
        let least = SHARD_MEMORY_BYTES_MIN * usize::from(self.shards);
        if self.memory_bytes < least && !self.small_chunks {
            return Err(ConfigError::Memory {
                asked: self.memory_bytes,
                least,
            });
        }
        Ok(())
    }

    /// Segment files that each shard keeps ready, the reserves included.
    pub(crate) fn spares_wanted(&self) -> usize {
        let ahead = self.prewrite_bytes.div_ceil(self.segment_bytes).max(1);
        (ahead + SPARES_RESERVED) as usize
    }

    /// How one shard divides its memory.
    #[must_use]
    pub fn shard_memory(&self) -> ShardMemory {
        ShardMemory::of(
            self.memory_bytes / usize::from(self.shards.max(1)),
            self.small_chunks,
        )
    }
}

/// Memory of a shard for each subscription that it takes: what one needs itself is less than a tenth of it.
const BYTES_PER_SUBSCRIPTION: usize = 4096;

/// How one shard divides its memory: three eighths for write buffers (with what of them is kept for tail reads), a quarter
/// for received bytes, an eighth for what is remembered of producers, a sixteenth for footers, two thirds of the rest for
/// cold reads and what of them is being sent, and what remains for sessions (with the few bytes that each stalled reader
/// holds) and partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardMemory {
    /// Write buffers.
    pub regions_max: usize,
    /// Bytes of each.
    pub region_bytes: usize,
    /// The largest chunk.
    pub chunk_bytes_max: usize,
    /// Bytes of written chunks kept for tail reads.
    pub tail_bytes_max: usize,
    /// Receive buffers.
    pub receive_buffers: usize,
    /// Bytes of each.
    pub receive_buffer_bytes: usize,
    /// Bytes of footers kept.
    pub footer_cache_bytes: usize,
    /// Bytes of one cold read.
    pub read_bytes_max: usize,
    /// Cold reads under way at once.
    pub reads_max: usize,
    /// Bytes of the buffers of all cold reads, until what they brought has been sent.
    pub held_bytes_max: usize,
    /// Subscriptions.
    pub subscriptions_max: usize,
    /// What is remembered of producers.
    pub producers: ProducerBounds,
}

impl ShardMemory {
    fn of(bytes: usize, small_chunks: bool) -> Self {
        if small_chunks {
            return Self {
                regions_max: 6,
                region_bytes: 64 * 1024,
                chunk_bytes_max: 32 * 1024,
                tail_bytes_max: 128 * 1024,
                receive_buffers: 16,
                receive_buffer_bytes: 16 * 1024,
                footer_cache_bytes: 64 * 1024,
                read_bytes_max: 64 * 1024,
                reads_max: 4,
                held_bytes_max: 4 * read_buffer_bytes_max(64 * 1024),
                subscriptions_max: 4096,
                // A small crowd reaches this bound and that of a partition.
                producers: ProducerBounds {
                    producers_max: PRODUCERS_PER_PARTITION_MAX + 16,
                    places_max: bytes / KIB,
                },
            };
        }
        let region_bytes = 2 * CHUNK_BYTES_MAX;
        let regions_max = (bytes * 3 / 8 / region_bytes).clamp(3, 64);
        let receive_buffer_bytes = 64 * 1024;
        let receive_buffers = (bytes / 4 / receive_buffer_bytes)
            .clamp(32, 4096)
            .next_power_of_two();
        let receive_buffers = if receive_buffers * receive_buffer_bytes > bytes * 3 / 10 {
            receive_buffers / 2
        } else {
            receive_buffers
        };
        let footer_cache_bytes = bytes / 16;
        let producers = ProducerBounds::of(bytes / 8);
        let rest = bytes
            .saturating_sub(regions_max * region_bytes)
            .saturating_sub(receive_buffers * receive_buffer_bytes)
            .saturating_sub(footer_cache_bytes)
            .saturating_sub(producers.bytes());
        let read = read_buffer_bytes_max(MIB);
        let held_bytes_max = (rest * 2 / 3).max(2 * read);
        Self {
            regions_max,
            region_bytes,
            chunk_bytes_max: CHUNK_BYTES_MAX,
            tail_bytes_max: (regions_max - 2) * region_bytes,
            receive_buffers,
            receive_buffer_bytes,
            footer_cache_bytes,
            read_bytes_max: MIB,
            reads_max: (held_bytes_max / read).clamp(2, 64),
            held_bytes_max,
            subscriptions_max: bytes / BYTES_PER_SUBSCRIPTION,
            producers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::limits::SCRUB_BYTES_PER_SECOND_DEFAULT;

    fn config() -> NodeConfig {
        let addr: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        NodeConfig {
            shards: 2,
            shared: addr,
            shard_addrs: vec![addr, addr],
            default_durability: Durability::Local,
            segment_bytes: 64 * MIB as u64,
            prewrite_bytes: 0,
            memory_bytes: 2 * SHARD_MEMORY_BYTES_DEFAULT,
            connections_max: CONNECTIONS_PER_SHARD_MAX,
            scrubbing: Scrubbing::daily(SCRUB_BYTES_PER_SECOND_DEFAULT),
            node_id: None,
            zone_id: None,
            links: None,
            small_chunks: false,
        }
    }

    #[test]
    fn each_wrong_value_is_named() {
        assert_eq!(config().check(), Ok(()));
        assert_eq!(
            NodeConfig {
                shards: 0,
                ..config()
            }
            .check(),
            Err(ConfigError::Shards { asked: 0 })
        );
        assert_eq!(
            NodeConfig {
                shards: 3,
                ..config()
            }
            .check(),
            Err(ConfigError::Addresses { given: 2, due: 3 })
        );
        assert_eq!(
            NodeConfig {
                segment_bytes: 1,
                ..config()
            }
            .check(),
            Err(ConfigError::Segment { asked: 1 })
        );
        assert_eq!(
            NodeConfig {
                segment_bytes: 65_536,
                ..config()
            }
            .check(),
            Err(ConfigError::Segment { asked: 65_536 })
        );
        assert!(matches!(
            NodeConfig {
                prewrite_bytes: u64::MAX,
                ..config()
            }
            .check(),
            Err(ConfigError::Prewrite { .. })
        ));
        for asked in [0, CONNECTIONS_PER_SHARD_MAX + 1] {
            let config = NodeConfig {
                connections_max: asked,
                ..config()
            };
            assert_eq!(config.check(), Err(ConfigError::Connections { asked }));
        }
        assert!(matches!(
            NodeConfig {
                memory_bytes: 1,
                ..config()
            }
            .check(),
            Err(ConfigError::Memory { .. })
        ));
    }

    #[test]
    fn a_shard_stays_within_its_memory() {
        for mib in [24, 32, 48, 64, 100, 256, 1024, 8192] {
            let bytes = mib * MIB;
            let memory = ShardMemory::of(bytes, false);
            let buffers = memory.regions_max * memory.region_bytes
                + memory.receive_buffers * memory.receive_buffer_bytes
                + memory.footer_cache_bytes
                + memory.producers.bytes()
                + memory.held_bytes_max;
            let reads = memory.reads_max * read_buffer_bytes_max(memory.read_bytes_max);
            assert!(
                reads <= memory.held_bytes_max,
                "{mib} MiB: {memory:?} reads more than it may hold"
            );
            assert!(buffers <= bytes, "{mib} MiB: {memory:?} takes {buffers}");
            assert!(memory.tail_bytes_max > 0 && memory.receive_buffers.is_power_of_two());
        }
    }
}
