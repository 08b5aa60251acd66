//! Every limit of the product, with its reason, and the relations between them proven when it compiles. Limits that a
//! user may choose have their bounds here too. Backpressure is then arithmetic: no queue, buffer, map or length exists
//! whose bound does not stand on this page.

use crate::catalogue::Durability;
use core::ops::Range;

/// One KiB.
pub const KIB: usize = 1024;
/// One MiB.
pub const MIB: usize = 1024 * KIB;

// --- Disk -----------------------------------------------------------------------------------------------------------

/// The unit of alignment of every journal write, and the largest sector that a disk writes without tearing.
pub const BLOCK_BYTES: usize = 4096;
/// The largest chunk: past a few MiB a bigger write is no faster, and everyone in it waits for all of it.
pub const CHUNK_BYTES_MAX: usize = 2 * MIB;
/// Journal writes in flight at once: enough to hide one write behind another; more only makes the tail longer.
pub const CHUNKS_INFLIGHT_MAX: usize = 4;
/// The smallest segment, for tests and simulations.
pub const SEGMENT_BYTES_MIN: u64 = 64 * KIB as u64;
/// A segment of a serving node: a roll every tenth of a second at full speed, and a restart that reads at most this.
pub const SEGMENT_BYTES_DEFAULT: u64 = 128 * MIB as u64;
/// Bytes that a journal reads in a second in search of damage: 725 GB a day, in 32 reads of 256 KiB a second.
pub const SCRUB_BYTES_PER_SECOND_DEFAULT: u64 = 8 * MIB as u64;
/// The largest segment: positions inside it fit 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2048 * MIB as u64;
/// Segment files that a journal keeps ready ahead of its appends, the reserves included: a superblock lists them all, and
/// as many again that are being released.
pub const SPARES_MAX: usize = 16 * KIB;
/// Shards of one node, and so journals.
pub const SHARDS_MAX: usize = 256;
/// Time without work after which a closing chunk proves the last chunk durable.
pub const CLOSING_CHUNK_AFTER_NS: u64 = 10_000_000;

// --- Batches and frames ---------------------------------------------------------------------------------------------

/// A batch header, on every socket, in memory and on disk.
pub const BATCH_HEADER_BYTES: usize = 128;
/// A link header.
pub const LINK_HEADER_BYTES: usize = 32;
/// The largest body. With its header it fits a chunk beside the chunk's own first KiB.
pub const BODY_BYTES_MAX: usize = MIB;
/// The largest batch.
pub const BATCH_BYTES_MAX: usize = BODY_BYTES_MAX + BATCH_HEADER_BYTES;
/// Records of one batch: a body of the smallest records cannot hold more.
pub const BATCH_RECORDS_MAX: u32 = 32 * KIB as u32;
/// The control section of any frame: metadata is paged to fit.
pub const CONTROL_BYTES_MAX: usize = 64 * KIB;
/// Batches of one deliver frame, in bytes; one batch always fits.
pub const DELIVER_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// The one frame that a peer may send before it is known, and an idle link's credit.
pub const FIRST_FRAME_BYTES_MAX: usize = 4 * KIB;
/// Time from accept to a complete hello.
pub const HANDSHAKE_NS_MAX: u64 = 5_000_000_000;
/// Acknowledgements of one produced frame.
pub const ACKS_PER_FRAME_MAX: usize = 1024;

// --- Credit ---------------------------------------------------------------------------------------------------------

/// What one link may have outstanding towards the node, in bytes: two of the largest batches and change, so that one is
/// received while the other is written.
pub const LINK_WINDOW_BYTES: u64 = 4 * MIB as u64;
/// What one link may have outstanding towards the node, in batches.
pub const LINK_WINDOW_BATCHES: u32 = 1024;
/// The smallest grant that lets a sender make progress with any batch.
pub const LINK_WINDOW_BYTES_MIN: u64 = BATCH_BYTES_MAX as u64;
/// The most that a subscription may be granted at once, in bytes.
pub const SUBSCRIPTION_WINDOW_BYTES_MAX: u64 = 64 * MIB as u64;
/// The most that a subscription may be granted at once, in batches.
pub const SUBSCRIPTION_WINDOW_BATCHES_MAX: u32 = 64 * KIB as u32;
/// Outstanding requests of one connection that no credit covers (metadata, create, subscribe, ..).
pub const UNCREDITED_OUTSTANDING_MAX: usize = 8;
/// Subscriptions of one connection.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 4096;
/// Received bytes of a TLS handshake: a chain of certificates fits, and nobody unknown costs more.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = 32 * KIB;
/// Connections of one shard: beyond it new ones are refused with a typed error.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 16 * KIB;
/// Connections of one shard to and from other nodes, beside those of clients: with so many of their own, neither can take
/// the other's descriptors. A shard links to the shards that hold replicas of its slots: 63 nodes with 16 shards each fit.
pub const NODE_LINKS_PER_SHARD_MAX: usize = 1024;
/// Connections at a peer door whose other end has not shown yet who it is, beside the links: a stranger takes no link.
pub const PEER_DOOR_STRANGERS_MAX: usize = 64;
/// Time of a connect to a node, from the effect to its answer, the handshake included: a network that loses a packet or two
/// costs one or three seconds, and what takes longer is better begun anew.
pub const CONNECT_NS_MAX: u64 = 5_000_000_000;
/// Received buffers that one connection may hold while a frame is incomplete: a larger frame goes to a buffer of its own.
pub const RECEIVE_BUFFERS_HELD_MAX: usize = 4;
/// How long a node that drains waits for readers: a supervisor's patience is some ten seconds, and control stops behind the
/// shards. Who has not read by then goes on elsewhere, where its cursor stands.
pub const DRAIN_NS_MAX: u64 = 5_000_000_000;
/// How long a connection whose last byte is on its way waits for its peer's end before it is closed: a few round trips.
pub const FINISH_NS_MAX: u64 = 1_000_000_000;
/// Bytes of replies and errors that may wait for one slow reader: room is reserved when the request is accepted.
pub const REPLY_BYTES_MAX: usize = 256 * KIB;
/// Bytes of a deliver frame that are copied for a reader that stalls while others wait for the memory that its send held:
/// only to find out when it reads again, so few that every connection of a shard may stall.
pub const STALLED_BYTES_MAX: usize = 256;

// --- Streams and producers ------------------------------------------------------------------------------------------

/// A stream's path, in bytes.
pub const PATH_BYTES_MAX: usize = 255;
/// Partitions of one stream.
pub const PARTITIONS_MAX: u32 = 16 * KIB as u32;
/// Streams of a zone.
pub const STREAMS_MAX: u64 = 4_000_000;
/// Slots of a zone.
pub const SLOTS: u16 = 1024;
/// Batches that a producer may have in flight to one partition, and so the batches whose acknowledgement can be repeated
/// exactly. The client never exceeds it.
pub const PRODUCER_WINDOW: usize = 128;
/// Producers remembered for one partition, if the shard's memory allows. Beyond it the one longest silent is expired by an
/// entry.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 1024;
/// A key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 * KIB;

// --- Node -----------------------------------------------------------------------------------------------------------

/// Messages waiting from one shard to one other. A full mesh makes the sender wait.
pub const MESH_MESSAGES_MAX: usize = 1024;
/// Changes that the control thread commits at once.
pub const CATALOGUE_BATCH_MAX: usize = 256;
/// The largest random step of an epoch at a start.
pub const EPOCH_STEP_MAX: u64 = 255;
/// Sealed write buffers kept for tail reads, by default, per shard.
pub const TAIL_BYTES_DEFAULT: usize = 16 * MIB;
/// The smallest memory budget of a shard: its regions, its receive buffers and room for sessions.
pub const SHARD_MEMORY_BYTES_MIN: usize = 24 * MIB;

// --- Replication ----------------------------------------------------------------------------------------------------

/// Members of one slot. Each costs an arm of every commit; more than seven copies are bought by another zone.
pub const SLOT_MEMBERS_MAX: usize = 7;
/// Epochs that a map remembers. Older ones are folded into the oldest kept.
pub const EPOCHS_KEPT_MAX: usize = 64;
/// The longest lease that a slot's leader may ask for, and so what a member that restarted has to assume it granted.
pub const SLOT_LEASE_NS_MAX: u64 = 1_000_000_000;

/// The slots of one durability: a quorum batch never waits behind local bytes.
#[must_use]
pub const fn slot_family(durability: Durability) -> Range<u16> {
    match durability {
        Durability::Memory => 0..SLOTS / 8,
        Durability::Local => SLOTS / 8..SLOTS / 2 + SLOTS / 16,
        Durability::Quorum => SLOTS / 2 + SLOTS / 16..SLOTS,
    }
}

const _: () = {
    assert!(
        BATCH_BYTES_MAX + 2 * BLOCK_BYTES <= CHUNK_BYTES_MAX,
        "a chunk holds the largest batch"
    );
    assert!(
        CHUNK_BYTES_MAX.is_multiple_of(BLOCK_BYTES),
        "a chunk is whole blocks"
    );
    assert!(
        LINK_WINDOW_BYTES >= LINK_WINDOW_BYTES_MIN,
        "a link's window lets any batch pass"
    );
    assert!(
        SUBSCRIPTION_WINDOW_BYTES_MAX >= BATCH_BYTES_MAX as u64,
        "a subscription can take any batch"
    );
    assert!(
        FIRST_FRAME_BYTES_MAX <= CONTROL_BYTES_MAX,
        "a hello is a small frame"
    );
    assert!(
        SEGMENT_BYTES_MAX <= u32::MAX as u64,
        "positions in a segment fit 32 bits"
    );
    assert!(
        PRODUCER_WINDOW <= LINK_WINDOW_BATCHES as usize,
        "a producer's window fits its link's"
    );
    assert!(
        2 * FINISH_NS_MAX < DRAIN_NS_MAX,
        "a peer that does not end its side costs a drain less than one that does not read"
    );
    assert!(
        SLOT_LEASE_NS_MAX < HANDSHAKE_NS_MAX,
        "a fail-over is not held up by a lease longer than by a connection"
    );
    assert!(
        CONNECT_NS_MAX <= HANDSHAKE_NS_MAX,
        "whoever connects gives up first: the peer door never lets go of a handshake that is still waited for"
    );
    assert!(
        PEER_DOOR_STRANGERS_MAX < NODE_LINKS_PER_SHARD_MAX,
        "strangers are the smaller part of what the peer door costs"
    );
    assert!(SHARDS_MAX <= SLOTS as usize, "every shard leads a slot");
    assert!(
        slot_family(Durability::Memory).end == slot_family(Durability::Local).start,
        "families are gapless"
    );
    assert!(
        slot_family(Durability::Local).end == slot_family(Durability::Quorum).start,
        "families are gapless"
    );
    assert!(
        slot_family(Durability::Quorum).end == SLOTS,
        "families cover all slots"
    );
};
