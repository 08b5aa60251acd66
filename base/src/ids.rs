//! Names of things. Each is a newtype with a private field: two kinds of number cannot be confused, and
//! none can be computed with by accident.

use core::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number, as a codec or an allocator of ids does.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number, as it stands in a header.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// One process on one host, for as long as the zone remembers it.
    NodeId(u64)
);
id!(
    /// One run of a node's process. Random, so that two runs never share one.
    BootId(u64)
);
id!(
    /// A disk that holds journals. A wiped or replaced disk is a new identity, and so is an old image of one.
    DiskId(u128)
);
id!(
    /// A consensus domain.
    ZoneId(u64)
);
id!(
    /// One pinned thread of a node, and the journal it owns.
    ShardId(u16)
);
id!(
    /// A shard's journal. Random, so that no other journal's bytes ever parse in it.
    JournalId(u64)
);
id!(
    /// A stream. Never reused: a deleted stream's id is spent.
    StreamId(u64)
);
id!(
    /// Which partition of its stream, from zero.
    PartitionIndex(u32)
);
id!(
    /// Unit of placement and replication.
    SlotId(u16)
);
id!(
    /// Whoever pays for a stream.
    TenantId(u32)
);
id!(
    /// A producer: 128 random bits chosen by the client. Zero is no producer: its batches are not deduplicated.
    ProducerId(u128)
);
id!(
    /// One connection of one shard, accepted or opened by it. Never reused within a boot.
    ConnectionId(u64)
);
id!(
    /// A subscription of one connection, chosen by the client.
    SubscriptionId(u32)
);
id!(
    /// Unique and monotonic per connection and direction.
    MessageId(u64)
);

/// One totally ordered sequence of records: a stream's partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionKey {
    /// The stream that the partition belongs to.
    pub stream: StreamId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.partition)
    }
}
