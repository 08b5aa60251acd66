//! The catalogue: an event-sourced, deterministic state machine. [`Catalogue::propose`] turns what a client asks for into a
//! conclusion; [`Catalogue::apply`] takes conclusions and nothing else: no clock, no entropy, no float, no order of a hash.
//! So every copy that applied the same events encodes to the same bytes. A clone costs a few reference counts and shares
//! all that does not change afterwards; that is how a state that is not durable yet is put aside.
//!
//! Invariants: versions are dense; stream ids only grow; a path names at most one stream; an epoch only grows; streams and
//! tombstones together never exceed [`limits::STREAMS_MAX`], so that churn is bounded until tombstones are cleared.

use crate::event::{CatalogueEvent, Fact, ShardBoot};
use core::fmt;
use core::num::NonZeroU8;
use rpds::RedBlackTreeMapSync;
use std::sync::Arc;
use tiderace_base::catalogue::{
    Change, Durability, NodePlace, Outcome, Refusal, SlotPlace, Snapshot, Stream, path_is_valid,
};
use tiderace_base::ids::{DiskId, NodeId, ShardId, SlotId, StreamId, ZoneId};
use tiderace_base::limits;
use tiderace_base::position::{CatalogueVersion, Epoch};
use tiderace_base::time::Wall;

/// One state of the zone's metadata.
#[derive(Clone, Debug)]
pub struct Catalogue {
    pub(crate) version: CatalogueVersion,
    pub(crate) zone: ZoneId,
    pub(crate) slot_count: u16,
    /// The last id given to a stream: a deleted stream's id is spent.
    pub(crate) last_stream: StreamId,
    pub(crate) nodes: RedBlackTreeMapSync<NodeId, Arc<Node>>,
    places: RedBlackTreeMapSync<NodeId, Arc<NodePlace>>,
    /// Empty until the first node joins, then one for each slot.
    pub(crate) slots: Arc<[SlotPlace]>,
    pub(crate) streams: RedBlackTreeMapSync<StreamId, Arc<Stream>>,
    paths: RedBlackTreeMapSync<Arc<str>, StreamId>,
    pub(crate) tombstones: RedBlackTreeMapSync<StreamId, ()>,
    /// No tombstone is younger: the version of the last deletion, or, where an older version wrote the checkpoint that this state
    /// comes from, that of the checkpoint. The same on every node: whoever has said that it holds nothing of what was deleted
    /// does not say so again.
    pub(crate) deleted: CatalogueVersion,
}

/// What the zone remembers of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its journals, by number. Their count is fixed when it joins.
    pub journals: Arc<[JournalRecord]>,
    /// How often it started.
    pub boot_number: u64,
    /// Where it is reached; `None` before its first start.
    pub place: Option<Arc<NodePlace>>,
}

/// What the zone remembers of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalRecord {
    /// The disk that it is on.
    pub disk: DiskId,
    /// The runs that its superblock had counted at the node's last start; zero before the first.
    pub boot_count: u64,
}

/// What becomes of a change that may be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proposal {
    /// Apply this; then the outcome is true.
    Conclude(Fact, Outcome),
    /// The outcome is true already: the same change was made before.
    Already(Outcome),
}

/// Why an event does not fit the state. Nothing that was proposed on this state is refused, so an event that is came from
/// another history or from damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// It is not the next one.
    Version {
        /// The version that would be.
        expected: CatalogueVersion,
        /// The event's.
        found: CatalogueVersion,
    },
    /// There is no zone yet, or there is one already.
    Zone,
    /// The node is not known, or joins twice.
    Node(NodeId),
    /// The boot is not the node's next one, or brings another count of journals.
    Boot(NodeId),
    /// An epoch cannot move that far: 2^32 are spent.
    Epoch(SlotId),
    /// The stream exists already or its id was given before, its path is taken, or there are too many.
    Stream(StreamId),
    /// The stream to delete, or the tombstone to clear, is not there.
    Absent(StreamId),
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { expected, found } => {
                write!(f, "version {found} follows where {expected} belongs")
            }
            Self::Zone => write!(f, "the zone is created twice, or not at all"),
            Self::Node(node) => write!(f, "node {node:?} is not known, or joins twice"),
            Self::Boot(node) => write!(f, "this is not the next boot of node {node:?}"),
            Self::Epoch(slot) => write!(f, "the epochs of slot {slot} are spent"),
            Self::Stream(stream) => write!(f, "stream {stream} cannot be created again"),
            Self::Absent(stream) => write!(f, "stream {stream} is not there"),
        }
    }
}

impl core::error::Error for ApplyError {}

impl Default for Catalogue {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalogue {
    /// The state before the first event.
    #[must_use]
    pub fn new() -> Self {
        Self {
            version: CatalogueVersion::ZERO,
            zone: ZoneId::new(0),
            slot_count: 0,
            last_stream: StreamId::new(0),
            nodes: RedBlackTreeMapSync::new_sync(),
            places: RedBlackTreeMapSync::new_sync(),
            slots: Arc::new([]),
            streams: RedBlackTreeMapSync::new_sync(),
            paths: RedBlackTreeMapSync::new_sync(),
            tombstones: RedBlackTreeMapSync::new_sync(),
            deleted: CatalogueVersion::ZERO,
        }
    }

    /// How many events it holds.
    #[must_use]
    pub const fn version(&self) -> CatalogueVersion {
        self.version
    }

    /// The zone; zero before it is created.
    #[must_use]
    pub const fn zone(&self) -> ZoneId {
        self.zone
    }

    /// How many slots the zone has; zero before it is created.
    #[must_use]
    pub const fn slot_count(&self) -> u16 {
        self.slot_count
    }

    /// What is remembered of a node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&node)
    }

    /// Every node, in order of its id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    /// How many streams there are.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.size()
    }

    /// How many deleted streams may still have data.
    #[must_use]
    pub fn tombstone_count(&self) -> usize {
        self.tombstones.size()
    }

    /// Every deleted stream that may still have data, in order of its id.
    pub fn tombstones(&self) -> impl Iterator<Item = StreamId> {
        self.tombstones.keys().copied()
    }

    /// The greatest epoch of the slots that a node leads on one of its journals; zero when it leads none there.
    #[must_use]
    pub fn epoch_max(&self, node: NodeId, journal: ShardId) -> Epoch {
        self.slots
            .iter()
            .filter(|slot| slot.leader == node && slot.shard == journal)
            .map(|slot| slot.epoch)
            .max()
            .unwrap_or(Epoch::ZERO)
    }

    /// This state as `node` reads it.
    ///
    /// # Panics
    /// Before a node has joined: nothing can be read from a zone without slots.
    #[must_use]
    pub fn snapshot(&self, node: NodeId) -> Snapshot {
        assert!(
            !self.slots.is_empty(),
            "a zone is read once a node is in it"
        );
        Snapshot {
            version: self.version,
            zone: self.zone,
            node,
            nodes: self.places.clone(),
            slots: Arc::clone(&self.slots),
            streams: self.streams.clone(),
            paths: self.paths.clone(),
            tombstones: self.tombstones.clone(),
            deleted: self.deleted,
        }
    }

    /// The event that a fact is, on this state.
    #[must_use]
    pub const fn event(&self, fact: Fact) -> CatalogueEvent {
        CatalogueEvent {
            version: self.version.advance(1),
            fact,
        }
    }

    // --- Concluding -------------------------------------------------------------------------------------------------

    /// What a client's change would do to this state. `default` is the durability of a stream whose creator named none,
    /// `now` the stamp of a stream's creation.
    ///
    /// Asking again for a stream that exists with the same properties is no error (no durability asked for agrees with
    /// any), nor is deleting one that is deleted: whoever lost an answer may ask again.
    ///
    /// # Errors
    /// Why the change may not be made; never `Busy` or `DiskFull`.
    pub fn propose(
        &self,
        change: &Change,
        default: Durability,
        now: Wall,
    ) -> Result<Proposal, Refusal> {
        match change {
            Change::CreateStream {
                path,
                tenant,
                partitions,
                durability,
                retention,
            } => {
                check_form(change)?;
                if let Some(existing) = self.paths.get(path).and_then(|id| self.streams.get(id)) {
                    let same = existing.tenant == *tenant
                        && existing.partitions == *partitions
                        && existing.retention == *retention
                        && durability.is_none_or(|asked| asked == existing.durability);
                    return if same {
                        Ok(Proposal::Already(Outcome::Created(Arc::clone(existing))))
                    } else {
                        Err(Refusal::Exists)
                    };
                }
                if !self.has_room() {
                    return Err(Refusal::TooManyStreams);
                }
                // 2^64 ids outlast a million creations a second for half a million years.
                let stream = Arc::new(Stream {
                    id: StreamId::new(self.last_stream.get() + 1),
                    path: Arc::clone(path),
                    tenant: *tenant,
                    partitions: *partitions,
                    durability: durability.unwrap_or(default),
                    retention: *retention,
                    created_us: now.as_us(),
                });
                Ok(Proposal::Conclude(
                    Fact::StreamCreated(Arc::clone(&stream)),
                    Outcome::Created(stream),
                ))
            }
            Change::DeleteStream(stream) => {
                let outcome = Outcome::Deleted(*stream);
                if self.streams.contains_key(stream) {
                    Ok(Proposal::Conclude(
                        Fact::StreamDeleted { stream: *stream },
                        outcome,
                    ))
                } else if stream.get() != 0 && *stream <= self.last_stream {
                    Ok(Proposal::Already(outcome))
                } else {
                    Err(Refusal::Absent)
                }
            }
        }
    }

    /// That a deleted stream's data is gone from every shard, as the caller has made sure.
    ///
    /// # Errors
    /// `Absent` when there is no such tombstone.
    pub fn propose_cleared(&self, stream: StreamId) -> Result<Fact, Refusal> {
        if self.tombstones.contains_key(&stream) {
            Ok(Fact::TombstoneCleared { stream })
        } else {
            Err(Refusal::Absent)
        }
    }

    fn has_room(&self) -> bool {
        ((self.streams.size() + self.tombstones.size()) as u64) < limits::STREAMS_MAX
    }

    // --- Applying ---------------------------------------------------------------------------------------------------

    /// Takes the next event.
    ///
    /// # Errors
    /// When the event does not fit; the state is as before.
    pub fn apply(&mut self, event: &CatalogueEvent) -> Result<(), ApplyError> {
        let expected = self.version.advance(1);
        if event.version != expected {
            return Err(ApplyError::Version {
                expected,
                found: event.version,
            });
        }
        let is_first = self.version == CatalogueVersion::ZERO;
        if is_first != matches!(event.fact, Fact::ZoneCreated { .. }) {
            return Err(ApplyError::Zone);
        }
        match &event.fact {
            Fact::ZoneCreated { zone, slots } => {
                self.zone = *zone;
                self.slot_count = *slots;
            }
            Fact::NodeJoined { node, disks } => self.join(*node, disks)?,
            Fact::NodeBooted {
                node,
                boot_number,
                epoch_step,
                shards,
                boot,
                shared,
                control,
            } => {
                let place = NodePlace {
                    id: *node,
                    boot: *boot,
                    shared: *shared,
                    control: *control,
                    shards: shards.iter().map(|shard| shard.address).collect(),
                };
                self.boot(place, *boot_number, *epoch_step, shards)?;
            }
            Fact::StreamCreated(stream) => {
                if stream.id <= self.last_stream
                    || self.paths.contains_key(&stream.path)
                    || !self.has_room()
                {
                    return Err(ApplyError::Stream(stream.id));
                }
                self.last_stream = stream.id;
                self.put_stream(Arc::clone(stream));
            }
            Fact::StreamDeleted { stream } => {
                if !self.remove_stream(*stream) {
                    return Err(ApplyError::Absent(*stream));
                }
                self.tombstones.insert_mut(*stream, ());
                self.deleted = expected;
            }
            Fact::TombstoneCleared { stream } => {
                if !self.tombstones.remove_mut(stream) {
                    return Err(ApplyError::Absent(*stream));
                }
            }
        }
        self.version = expected;
        Ok(())
    }

    fn join(&mut self, node: NodeId, disks: &[DiskId]) -> Result<(), ApplyError> {
        if self.nodes.contains_key(&node) || disks.is_empty() {
            return Err(ApplyError::Node(node));
        }
        if self.nodes.is_empty() {
            self.slots = (0..self.slot_count)
                .map(|slot| SlotPlace {
                    leader: node,
                    shard: ShardId::new((usize::from(slot) % disks.len()) as u16),
                    epoch: Epoch::ZERO,
                    generation: 1,
                })
                .collect();
        }
        let journals = disks
            .iter()
            .map(|disk| JournalRecord {
                disk: *disk,
                boot_count: 0,
            })
            .collect();
        self.put_node(
            node,
            Node {
                journals,
                boot_number: 0,
                place: None,
            },
        );
        Ok(())
    }

    fn boot(
        &mut self,
        place: NodePlace,
        boot_number: u64,
        epoch_step: NonZeroU8,
        shards: &[ShardBoot],
    ) -> Result<(), ApplyError> {
        let node = place.id;
        let record = self.nodes.get(&node).ok_or(ApplyError::Node(node))?;
        if record.boot_number.checked_add(1) != Some(boot_number)
            || record.journals.len() != shards.len()
        {
            return Err(ApplyError::Boot(node));
        }
        let mut slots = self.slots.to_vec();
        for (slot, index) in slots.iter_mut().zip(0..) {
            if slot.leader == node {
                slot.epoch = slot
                    .epoch
                    .checked_add(u32::from(epoch_step.get()))
                    .ok_or(ApplyError::Epoch(SlotId::new(index)))?;
            }
        }
        self.slots = slots.into();
        let journals = shards
            .iter()
            .map(|shard| JournalRecord {
                disk: shard.disk,
                boot_count: shard.boot_count,
            })
            .collect();
        self.put_node(
            node,
            Node {
                journals,
                boot_number,
                place: Some(Arc::new(place)),
            },
        );
        Ok(())
    }

    // --- Parts, as events and checkpoint cells put them ----------------------------------------------------------------

    pub(crate) fn put_node(&mut self, id: NodeId, node: Node) {
        if let Some(place) = &node.place {
            self.places.insert_mut(id, Arc::clone(place));
        }
        self.nodes.insert_mut(id, Arc::new(node));
    }

    pub(crate) fn put_stream(&mut self, stream: Arc<Stream>) {
        self.paths.insert_mut(Arc::clone(&stream.path), stream.id);
        self.streams.insert_mut(stream.id, stream);
    }

    /// False when there is none. A path that names another stream by now stays.
    pub(crate) fn remove_stream(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get(&id).map(Arc::clone) else {
            return false;
        };
        self.streams.remove_mut(&id);
        if self.paths.get(&stream.path) == Some(&id) {
            self.paths.remove_mut(&stream.path);
        }
        true
    }
}

/// Whether a change is well formed, whatever the state.
///
/// # Errors
/// `BadPath` or `BadPartitions`.
pub(crate) fn check_form(change: &Change) -> Result<(), Refusal> {
    match change {
        Change::CreateStream {
            path, partitions, ..
        } => {
            if !path_is_valid(path) {
                Err(Refusal::BadPath)
            } else if *partitions == 0 || *partitions > limits::PARTITIONS_MAX {
                Err(Refusal::BadPartitions)
            } else {
                Ok(())
            }
        }
        Change::DeleteStream(_) => Ok(()),
    }
}
