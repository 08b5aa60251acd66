//! The catalogue as cells: one for the zone, one for each node, slot, stream and tombstone. They are what a checkpoint
//! holds, and, all in order, the one encoding of a state. Every value begins with its format (u8); all numbers are
//! little-endian. A cell stands for itself: taking an older one and then every event after it gives the same state, and a
//! cell that is taken twice changes nothing.

use crate::catalogue::{Catalogue, JournalRecord, Node};
use crate::encoding::{DecodeError, Reader, Write};
use crate::event::{Fact, not_zero, put_count, put_stream, take_count, take_stream};
use core::ops::Bound;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use tiderace_base::catalogue::{NodePlace, SlotPlace};
use tiderace_base::ids::{BootId, DiskId, NodeId, ShardId, SlotId, StreamId, ZoneId};
use tiderace_base::position::{CatalogueVersion, Epoch};

/// The format of every kind, but for a node with a control address.
pub(crate) const FORMAT: u8 = 1;
/// The format of a node with a control address, which follows the shared one.
const FORMAT_NODE_WITH_CONTROL: u8 = 2;
/// The format of the zone that says when a stream was deleted last.
const FORMAT_ZONE_WITH_DELETED: u8 = 2;

/// Names a cell. The order is that of the encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum CellKey {
    /// Kind 17. Format, reserved u8, slots u16, reserved u32, zone u64, version u64, last stream id u64, in format 2 the version
    /// of the last deletion u64; format 1 is read only.
    Zone,
    /// Kind 18, key node u64. Format, is booted u8, journals u16, reserved u32, boot number u64, boot u64, shared address, in
    /// format 2 the control address, then for each journal: disk u128, boot count u64, address. Not booted: boot and
    /// addresses are left out.
    Node(NodeId),
    /// Kind 19, key slot u16. Format, reserved u8, shard u16, epoch u32, leader u64, generation u64.
    Slot(SlotId),
    /// Kind 20, key stream u64. Format, then the stream as in its event.
    Stream(StreamId),
    /// Kind 21, key stream u64. Format.
    Tombstone(StreamId),
}

impl CellKey {
    pub(crate) const fn kind(self) -> u8 {
        match self {
            Self::Zone => 17,
            Self::Node(_) => 18,
            Self::Slot(_) => 19,
            Self::Stream(_) => 20,
            Self::Tombstone(_) => 21,
        }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Zone => Vec::new(),
            Self::Node(node) => node.get().to_le_bytes().to_vec(),
            Self::Slot(slot) => slot.get().to_le_bytes().to_vec(),
            Self::Stream(stream) | Self::Tombstone(stream) => stream.get().to_le_bytes().to_vec(),
        }
    }

    pub(crate) fn decode(kind: u8, key: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(key);
        let key = match kind {
            17 => Self::Zone,
            18 => Self::Node(NodeId::new(not_zero(reader.u64()?, "node")?)),
            19 => Self::Slot(SlotId::new(reader.u16()?)),
            20 => Self::Stream(StreamId::new(not_zero(reader.u64()?, "stream")?)),
            21 => Self::Tombstone(StreamId::new(not_zero(reader.u64()?, "stream")?)),
            _ => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.end()?;
        Ok(key)
    }
}

impl Catalogue {
    /// Adds the cells that applying `fact` changed; this state has it applied.
    pub(crate) fn touch(&self, fact: &Fact, cells: &mut BTreeSet<CellKey>) {
        cells.insert(CellKey::Zone);
        let mut slots_led_by = None;
        match fact {
            Fact::ZoneCreated { .. } => {}
            Fact::NodeJoined { node, .. } | Fact::NodeBooted { node, .. } => {
                cells.insert(CellKey::Node(*node));
                slots_led_by = Some(*node);
            }
            Fact::StreamCreated(stream) => {
                cells.insert(CellKey::Stream(stream.id));
            }
            Fact::StreamDeleted { stream } => {
                cells.insert(CellKey::Stream(*stream));
                cells.insert(CellKey::Tombstone(*stream));
            }
            Fact::TombstoneCleared { stream } => {
                cells.insert(CellKey::Tombstone(*stream));
            }
        }
        if let Some(node) = slots_led_by {
            for (place, slot) in self.slots.iter().zip(0..) {
                if place.leader == node {
                    cells.insert(CellKey::Slot(SlotId::new(slot)));
                }
            }
        }
    }

    /// The first cell of this state, or the one after `previous`.
    pub(crate) fn next_cell(&self, previous: Option<CellKey>) -> Option<CellKey> {
        let Some(previous) = previous else {
            return Some(CellKey::Zone);
        };
        let after_nodes = || {
            (!self.slots.is_empty())
                .then_some(CellKey::Slot(SlotId::new(0)))
                .or_else(|| self.next_stream(StreamId::new(0)))
        };
        match previous {
            CellKey::Zone => self.next_node(NodeId::new(0)).or_else(after_nodes),
            CellKey::Node(node) => self.next_node(node).or_else(after_nodes),
            CellKey::Slot(slot) => {
                let next = slot.get() + 1;
                (usize::from(next) < self.slots.len())
                    .then_some(CellKey::Slot(SlotId::new(next)))
                    .or_else(|| self.next_stream(StreamId::new(0)))
            }
            CellKey::Stream(stream) => self.next_stream(stream),
            CellKey::Tombstone(stream) => self.next_tombstone(stream),
        }
    }

    // Nodes and streams are never zero, so that zero stands before the first.

    fn next_node(&self, after: NodeId) -> Option<CellKey> {
        let mut nodes = self.nodes.range((Bound::Excluded(after), Bound::Unbounded));
        nodes.next().map(|(node, _)| CellKey::Node(*node))
    }

    fn next_stream(&self, after: StreamId) -> Option<CellKey> {
        let mut streams = self
            .streams
            .range((Bound::Excluded(after), Bound::Unbounded));
        match streams.next() {
            Some((stream, _)) => Some(CellKey::Stream(*stream)),
            None => self.next_tombstone(StreamId::new(0)),
        }
    }

    fn next_tombstone(&self, after: StreamId) -> Option<CellKey> {
        let mut tombstones = self
            .tombstones
            .range((Bound::Excluded(after), Bound::Unbounded));
        tombstones
            .next()
            .map(|(stream, ())| CellKey::Tombstone(*stream))
    }

    /// A cell's value; `None` when there is no such cell (any more).
    pub(crate) fn cell(&self, key: CellKey) -> Option<Vec<u8>> {
        let mut out = vec![FORMAT];
        match key {
            CellKey::Zone => {
                out[0] = FORMAT_ZONE_WITH_DELETED;
                out.put_u8(0);
                out.put_u16(self.slot_count);
                out.put_u32(0);
                out.put_u64(self.zone.get());
                out.put_u64(self.version.get());
                out.put_u64(self.last_stream.get());
                out.put_u64(self.deleted.get());
            }
            CellKey::Node(node) => {
                let node = self.nodes.get(&node)?;
                let control = node.place.as_ref().and_then(|place| place.control);
                if control.is_some() {
                    out[0] = FORMAT_NODE_WITH_CONTROL;
                }
                put_node(&mut out, node);
            }
            CellKey::Slot(slot) => {
                let place = self.slots.get(usize::from(slot.get()))?;
                out.put_u8(0);
                out.put_u16(place.shard.get());
                out.put_u32(place.epoch.get());
                out.put_u64(place.leader.get());
                out.put_u64(place.generation);
            }
            CellKey::Stream(stream) => put_stream(&mut out, self.streams.get(&stream)?),
            CellKey::Tombstone(stream) => self.tombstones.get(&stream).copied()?,
        }
        Some(out)
    }

    /// The whole state as bytes, the same for equal states: for each cell kind u8, key bytes u8, value bytes u32, key,
    /// value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut cursor = None;
        while let Some(key) = self.next_cell(cursor) {
            let value = self.cell(key).expect("a cell that was found has a value");
            let name = key.encode();
            out.put_u8(key.kind());
            out.put_u8(name.len() as u8);
            out.put_u32(value.len() as u32);
            out.put(&name);
            out.put(&value);
            cursor = Some(key);
        }
        out
    }
}

/// A catalogue that is being put together from cells, in any order; the last value of a cell counts.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    catalogue: Catalogue,
    slots: Vec<Option<SlotPlace>>,
}

impl Assembly {
    /// Takes a cell; `None` removes it.
    pub(crate) fn put(&mut self, key: CellKey, value: Option<&[u8]>) -> Result<(), DecodeError> {
        let Some(value) = value else {
            match key {
                CellKey::Zone | CellKey::Node(_) | CellKey::Slot(_) => {
                    return Err(DecodeError::BadField("a removal"));
                }
                CellKey::Stream(stream) => drop(self.catalogue.remove_stream(stream)),
                CellKey::Tombstone(stream) => {
                    self.catalogue.tombstones.remove_mut(&stream);
                }
            }
            return Ok(());
        };
        let mut reader = Reader::new(value);
        let format = reader.u8()?;
        let has_control = format == FORMAT_NODE_WITH_CONTROL && matches!(key, CellKey::Node(_));
        let has_deleted = format == FORMAT_ZONE_WITH_DELETED && key == CellKey::Zone;
        if format != FORMAT && !has_control && !has_deleted {
            return Err(DecodeError::UnknownFormat {
                kind: key.kind(),
                format,
            });
        }
        match key {
            CellKey::Zone => {
                reader.reserved(1)?;
                self.catalogue.slot_count = reader.u16()?;
                reader.reserved(4)?;
                self.catalogue.zone = ZoneId::new(reader.u64()?);
                self.catalogue.version = CatalogueVersion::new(reader.u64()?);
                self.catalogue.last_stream = StreamId::new(reader.u64()?);
                // Not said: no later than this.
                self.catalogue.deleted = self.catalogue.version;
                if has_deleted {
                    self.catalogue.deleted = CatalogueVersion::new(reader.u64()?);
                    if self.catalogue.deleted > self.catalogue.version {
                        return Err(DecodeError::BadField("deleted"));
                    }
                }
            }
            CellKey::Node(id) => {
                let node = take_node(&mut reader, id, has_control)?;
                self.catalogue.put_node(id, node);
            }
            CellKey::Slot(slot) => {
                reader.reserved(1)?;
                let place = SlotPlace {
                    shard: ShardId::new(reader.u16()?),
                    epoch: Epoch::new(reader.u32()?),
                    leader: NodeId::new(reader.u64()?),
                    generation: reader.u64()?,
                };
                let index = usize::from(slot.get());
                if self.slots.len() <= index {
                    self.slots.resize(index + 1, None);
                }
                self.slots[index] = Some(place);
            }
            CellKey::Stream(id) => {
                let stream = take_stream(&mut reader)?;
                if stream.id != id {
                    return Err(DecodeError::BadField("stream"));
                }
                self.catalogue.put_stream(Arc::new(stream));
            }
            CellKey::Tombstone(stream) => self.catalogue.tombstones.insert_mut(stream, ()),
        }
        reader.end()
    }

    /// The catalogue, once every cell was taken; empty when there was none.
    pub(crate) fn finish(self) -> Result<Catalogue, DecodeError> {
        let mut catalogue = self.catalogue;
        let expected = if catalogue.nodes.is_empty() {
            0
        } else {
            usize::from(catalogue.slot_count)
        };
        let slots: Option<Arc<[SlotPlace]>> = self.slots.into_iter().collect();
        catalogue.slots = slots
            .filter(|slots| slots.len() == expected)
            .ok_or(DecodeError::BadField("slots"))?;
        let youngest = [
            catalogue.streams.last().map(|(stream, _)| *stream),
            catalogue.tombstones.last().map(|(stream, ())| *stream),
        ];
        if youngest.into_iter().flatten().max() > Some(catalogue.last_stream) {
            return Err(DecodeError::BadField("last stream"));
        }
        Ok(catalogue)
    }
}

fn put_node(out: &mut Vec<u8>, node: &Node) {
    out.put_u8(u8::from(node.place.is_some()));
    put_count(out, node.journals.len());
    out.put_u32(0);
    out.put_u64(node.boot_number);
    if let Some(place) = &node.place {
        out.put_u64(place.boot.get());
        out.put_address(place.shared);
        if let Some(control) = place.control {
            out.put_address(control);
        }
    }
    for (journal, index) in node.journals.iter().zip(0..) {
        out.put_u128(journal.disk.get());
        out.put_u64(journal.boot_count);
        if let Some(place) = &node.place {
            let address: SocketAddr = place.shards[index];
            out.put_address(address);
        }
    }
}

fn take_node(reader: &mut Reader<'_>, id: NodeId, has_control: bool) -> Result<Node, DecodeError> {
    let is_booted = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::BadField("booted")),
    };
    let count = take_count(reader)?;
    reader.reserved(4)?;
    let boot_number = reader.u64()?;
    let reached = if is_booted {
        let (boot, shared) = (BootId::new(reader.u64()?), reader.address()?);
        let control = has_control.then(|| reader.address()).transpose()?;
        Some((boot, shared, control))
    } else if has_control {
        return Err(DecodeError::BadField("booted"));
    } else {
        None
    };
    let mut journals = Vec::with_capacity(count);
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        journals.push(JournalRecord {
            disk: DiskId::new(reader.u128()?),
            boot_count: reader.u64()?,
        });
        if is_booted {
            addresses.push(reader.address()?);
        }
    }
    Ok(Node {
        journals: journals.into(),
        boot_number,
        place: reached.map(|(boot, shared, control)| {
            Arc::new(NodePlace {
                id,
                boot,
                shared,
                control,
                shards: addresses.into(),
            })
        }),
    })
}
