//! The catalogue as every thread sees it: one immutable snapshot that shares all that did not change with the one
//! before. Control makes them, shards read them. Also the changes that may be asked for and what may come of them.

use crate::ids::{BootId, NodeId, PartitionKey, ShardId, SlotId, StreamId, TenantId, ZoneId};
use crate::limits;
use crate::position::{CatalogueVersion, Epoch};
use core::fmt;
use rpds::RedBlackTreeMapSync;
use std::net::SocketAddr;
use std::sync::Arc;

/// What an acknowledgement of a stream promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Durability {
    /// Journaled, not yet on disk: a crash loses it.
    Memory,
    /// On the leader's disk.
    Local,
    /// On the disks of W of N replicas.
    Quorum,
}

impl Durability {
    /// Every level, weakest first.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Local, Self::Quorum];

    /// The level's number in frames and entries.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Memory => 0,
            Self::Local => 1,
            Self::Quorum => 2,
        }
    }

    /// The level with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Memory),
            1 => Some(Self::Local),
            2 => Some(Self::Quorum),
            _ => None,
        }
    }

    /// The level's name, in every listing.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Local => "local",
            Self::Quorum => "quorum",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of a partition is kept. Zero means without bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// Bytes kept per partition.
    pub bytes: u64,
    /// Age kept, by append time, in milliseconds.
    pub age_ms: u64,
}

/// A stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Its id, never reused.
    pub id: StreamId,
    /// Its name: segments of `[A-Za-z0-9._-]` separated by `/`.
    pub path: Arc<str>,
    /// Who pays for it.
    pub tenant: TenantId,
    /// How many partitions it has.
    pub partitions: u32,
    /// What its acknowledgements promise.
    pub durability: Durability,
    /// How much of it is kept.
    pub retention: Retention,
    /// When it was created, in microseconds since 1970.
    pub created_us: u64,
}

/// Where a slot is led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPlace {
    /// The leading node.
    pub leader: NodeId,
    /// The shard of that node on which the slot lives.
    pub shard: ShardId,
    /// The slot's epoch.
    pub epoch: Epoch,
    /// Bumped by every change of the slot's configuration.
    pub generation: u64,
}

/// How a node is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePlace {
    /// The node.
    pub id: NodeId,
    /// Its run.
    pub boot: BootId,
    /// The port that all its shards share.
    pub shared: SocketAddr,
    /// The port of each shard, by number.
    pub shards: Arc<[SocketAddr]>,
    /// Where its control thread lets other nodes in. None: it runs by itself.
    pub control: Option<SocketAddr>,
}

/// One state of the catalogue.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// How many changes it holds.
    pub version: CatalogueVersion,
    /// The zone.
    pub zone: ZoneId,
    /// The node that reads this copy.
    pub node: NodeId,
    /// Every node of the zone.
    pub nodes: RedBlackTreeMapSync<NodeId, Arc<NodePlace>>,
    /// Where each slot is led; [`limits::SLOTS`] of them.
    pub slots: Arc<[SlotPlace]>,
    /// Every stream that is not deleted.
    pub streams: RedBlackTreeMapSync<StreamId, Arc<Stream>>,
    /// The same by path.
    pub paths: RedBlackTreeMapSync<Arc<str>, StreamId>,
    /// Deleted streams whose data may still be on disk. Only what stands here may be dropped. A stream leaves once every
    /// shard has said that it holds nothing of it.
    pub tombstones: RedBlackTreeMapSync<StreamId, ()>,
    /// No tombstone is younger than this version: whoever has worked one off that is as new has worked off all of these.
    pub deleted: CatalogueVersion,
}

impl Snapshot {
    /// The stream at a path.
    #[must_use]
    pub fn stream_at(&self, path: &str) -> Option<&Arc<Stream>> {
        self.paths.get(path).and_then(|id| self.streams.get(id))
    }

    /// A partition's slot and where that slot is led; `None` when there is no such partition.
    #[must_use]
    pub fn place(&self, partition: PartitionKey) -> Option<(SlotId, SlotPlace)> {
        let stream = self.streams.get(&partition.stream)?;
        if partition.partition.get() >= stream.partitions {
            return None;
        }
        let slot = crate::hash::slot_of(partition, stream.durability);
        Some((slot, self.slots[usize::from(slot.get())]))
    }
}

/// What a client may ask of the catalogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Create a stream.
    CreateStream {
        /// Its path.
        path: Arc<str>,
        /// Who pays for it.
        tenant: TenantId,
        /// How many partitions.
        partitions: u32,
        /// `None` takes the zone's default.
        durability: Option<Durability>,
        /// How much is kept.
        retention: Retention,
    },
    /// Delete the stream of this id.
    DeleteStream(StreamId),
}

/// What came of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The stream exists now.
    Created(Arc<Stream>),
    /// The stream is gone.
    Deleted(StreamId),
}

/// Why a change was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The path is taken by a stream with other properties: choose another path, or delete that stream.
    Exists,
    /// There is no such stream.
    Absent,
    /// The path is empty, too long, or holds a character that paths do not have.
    BadPath,
    /// No partitions, or more than the limit.
    BadPartitions,
    /// The zone holds as many streams as it may.
    TooManyStreams,
    /// Too many changes wait: try again.
    Busy,
    /// The control journal has no room: free disk space; it recovers by itself.
    DiskFull,
    /// Nobody leads the zone's catalogue with a majority behind it, or the answer was lost: the change may have been made or
    /// not. Ask again; if it lasts, see which nodes are missing.
    Unavailable,
}

/// Whether a path is well formed: 1 to [`limits::PATH_BYTES_MAX`] bytes of non-empty segments separated by `/`, each of
/// ASCII letters, digits, `.`, `_` and `-`, none of them `.` or `..`.
#[must_use]
pub fn path_is_valid(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= limits::PATH_BYTES_MAX
        && path.split('/').all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in ["a", "shop/orders", "a.b_c-D/9", "..."] {
            assert!(path_is_valid(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "a/..",
            "a b",
            "ä",
            &"x".repeat(256),
        ] {
            assert!(!path_is_valid(bad), "{bad}");
        }
    }
}
