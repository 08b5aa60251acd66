//! Rebuilds a shard's state from what its journal holds: the cells of a checkpoint, then every entry after it. A cell is
//! captured while appends go on, so each says how far it has applied the journal; an entry below that is skipped.

use crate::partition::{
    Appended, Durable, Partition, decode_producers, key_of_cell, producers_of_cell,
};
use crate::partitions::{Index, Partitions};
use crate::producer::Producer;
use crate::producer_room::{ProducerBounds, ProducerRoom};
use std::collections::BTreeMap;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::limits::SLOTS;
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, Lsn, SlotSeq};
use tiderace_replica::Slot;
use tiderace_storage::Replay;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::{EntryKind, ProducerExpire, StartOffset};

/// The cell of a partition.
pub(crate) const CELL_PARTITION: u8 = 16;
/// The cell of a group of a partition's producers.
pub(crate) const CELL_PRODUCERS: u8 = 18;
/// The cell of a slot.
pub(crate) const CELL_SLOT: u8 = 17;

/// A slot with how far it has applied the journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldSlot {
    /// The slot.
    pub slot: Slot,
    /// Everything of this slot that ends at or before this place has been applied here.
    pub applied: Lsn,
    /// Whether the checkpoint under way or the next one must hold it.
    pub dirty: bool,
}

impl HeldSlot {
    /// Encodes the slot as a cell's value.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.applied.get().to_le_bytes());
        into.extend_from_slice(&self.slot.end().get().to_le_bytes());
        for (epoch, start) in self.slot.epochs().starts() {
            into.extend_from_slice(&epoch.get().to_le_bytes());
            into.extend_from_slice(&start.get().to_le_bytes());
        }
    }

    /// Decodes a cell's value; `None` when it is none.
    #[must_use]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (applied, rest) = bytes.split_first_chunk::<8>()?;
        let (end, rest) = rest.split_first_chunk::<8>()?;
        let (rows, rest) = rest.as_chunks::<12>();
        let starts: Vec<(Epoch, SlotSeq)> = rows
            .iter()
            .map(|row| {
                let (epoch, start) = row.split_first_chunk::<4>().expect("a row is twelve bytes");
                let start = u64::from_le_bytes(start.try_into().expect("eight bytes are left"));
                (Epoch::new(u32::from_le_bytes(*epoch)), SlotSeq::new(start))
            })
            .collect();
        let slot = Slot::restored(&starts, SlotSeq::new(u64::from_le_bytes(*end)))?;
        rest.is_empty().then_some(Self {
            slot,
            applied: Lsn::new(u64::from_le_bytes(*applied)),
            dirty: false,
        })
    }
}

/// State as it is being rebuilt.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    /// Every partition found.
    pub partitions: Partitions,
    /// What they remember of producers.
    pub producer_room: ProducerRoom,
    /// Every slot of the zone; those that this shard never held are empty.
    pub slots: Vec<HeldSlot>,
    /// Batches found after the checkpoint.
    pub batches: u64,
    /// The partition whose producers the next cells bring, and how many there must be.
    filling: Option<(PartitionKey, Index, usize)>,
    /// Partitions whose data does not continue where it ended: a drop must follow, after which the checkpoint that was
    /// being captured left them out.
    orphans: BTreeMap<PartitionKey, String>,
    /// What contradicts itself: the journal's checksums hold, but its meaning does not.
    contradiction: Option<String>,
}

impl Rebuilt {
    /// Nothing yet.
    pub(crate) fn new(bounds: ProducerBounds) -> Self {
        Self {
            partitions: Partitions::default(),
            producer_room: ProducerRoom::new(bounds),
            slots: vec![HeldSlot::default(); usize::from(SLOTS)],
            batches: 0,
            filling: None,
            orphans: BTreeMap::new(),
            contradiction: None,
        }
    }

    /// Ends the rebuilding.
    ///
    /// # Errors
    /// What contradicts itself.
    pub(crate) fn finish(mut self) -> Result<Self, String> {
        self.filled();
        if is_planted(Bug::ForgetProducerWindow) {
            let all: Vec<Index> = self.partitions.iter().map(|(index, _)| index).collect();
            for index in all {
                let producers = &mut self.partitions.at(index).durable.producers;
                producers.dropped(&mut self.producer_room.of(index));
            }
        }
        match self
            .contradiction
            .take()
            .or_else(|| self.orphans.pop_first().map(|(_, what)| what))
        {
            Some(what) => Err(what),
            None => Ok(self),
        }
    }

    /// A partition as its cell says it is, or that it is gone. What an older part of the checkpoint said goes with it.
    fn partition_cell(&mut self, name: PartitionKey, value: Option<&[u8]>) {
        self.filled();
        let held = self.partitions.find(name);
        if let Some(index) = held {
            let producers = &mut self.partitions.at(index).durable.producers;
            producers.dropped(&mut self.producer_room.of(index));
        }
        let Some(value) = value else {
            self.partitions.remove(name);
            return;
        };
        let Some((durable, producers)) = Durable::decode(value) else {
            return self.contradict(format!(
                "the checkpoint cell of partition {name} is malformed"
            ));
        };
        let partition = Partition::restored(name, durable);
        let index = match held {
            Some(index) => {
                *self.partitions.at(index) = partition;
                index
            }
            None => self.partitions.insert(partition),
        };
        self.filling = Some((name, index, producers));
    }

    /// A group of a partition's producers; the groups follow their partition's cell, in order.
    fn producers_cell(&mut self, name: PartitionKey, group: u16, producers: Vec<Producer>) {
        let Some((_, index, _)) = self.filling.filter(|(filling, ..)| *filling == name) else {
            return self.contradict(format!(
                "a checkpoint has producers of partition {name}, but not the partition before them"
            ));
        };
        let partition = self.partitions.at(index);
        partition.producer_cells = group + 1;
        let known = &mut partition.durable.producers;
        let mut room = self.producer_room.of(index);
        let follows = known.groups() == group;
        if !follows
            || producers
                .into_iter()
                .any(|producer| known.restore(producer, &mut room).is_err())
        {
            self.contradict(format!(
                "the producers of partition {name} are out of order in the checkpoint"
            ));
        }
    }

    /// Every cell of the last partition has come.
    fn filled(&mut self) {
        if let Some((name, index, due)) = self.filling.take()
            && self.partitions.at(index).durable.producers.known().len() != due
        {
            self.contradict(format!(
                "the checkpoint lacks producers of partition {name}"
            ));
        }
    }

    fn contradict(&mut self, what: String) {
        self.contradiction.get_or_insert(what);
    }

    fn partition(&mut self, key: PartitionKey) -> Index {
        match self.partitions.find(key) {
            Some(index) => index,
            None => self.partitions.insert(Partition::new(key)),
        }
    }

    fn data(&mut self, end: Lsn, header: &BatchHeader) {
        let index = self.partition(header.key());
        let partition = self.partitions.at(index);
        if end <= partition.durable.applied {
            return;
        }
        let batch = Appended::from_header(header, end);
        if batch.base != partition.durable.end {
            let due = partition.durable.end;
            let what = format!(
                "partition {} continues at offset {} where {due} is due (journal place {end})",
                header.key(),
                batch.base
            );
            self.orphans.entry(header.key()).or_insert(what);
            return;
        }
        let known = partition.durable.producers.get(batch.producer);
        if known.is_some_and(Producer::asks_for_places) {
            self.producer_room
                .make_places(&mut self.partitions, index, batch.producer);
        }
        let partition = self.partitions.at(index);
        let mut room = self.producer_room.of(index);
        partition.durable.append(&batch, None, &mut room);
        partition.visible = partition.durable.end;
        partition.dirty = true;
        self.batches += 1;
    }

    fn slot_entry(&mut self, end: Lsn, header: &BatchHeader) {
        let id: SlotId = header.slot();
        let Some(held) = self.slots.get_mut(usize::from(id.get())) else {
            return self.contradict(format!(
                "an entry at journal place {end} names slot {id}, which no zone has"
            ));
        };
        if end <= held.applied {
            return;
        }
        let due = held.slot.end().advance(1);
        if header.slot_seq() != due || header.epoch() < held.slot.last_epoch() {
            return self.contradict(format!(
                "slot {id} continues with sequence {} of epoch {} where sequence {due} is due (journal place {end})",
                header.slot_seq(),
                header.epoch()
            ));
        }
        held.slot.replay(header.epoch(), header.slot_seq());
        held.applied = end;
        held.dirty = true;
    }
}

impl Replay for Rebuilt {
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) {
        match (kind, value) {
            (CELL_PARTITION, value) => {
                let Some(name) = key_of_cell(key) else {
                    return self.contradict("a checkpoint cell names no partition".into());
                };
                self.partition_cell(name, value);
            }
            (CELL_PRODUCERS, value) => {
                let Some((name, group)) = producers_of_cell(key) else {
                    return self.contradict("a checkpoint cell names no group of producers".into());
                };
                // One that is gone went with what its partition's cell replaced.
                let Some(value) = value else {
                    return;
                };
                match decode_producers(value) {
                    Some(producers) => self.producers_cell(name, group, producers),
                    None => self.contradict(format!(
                        "a checkpoint cell of partition {name}'s producers is malformed"
                    )),
                }
            }
            (CELL_SLOT, Some(value)) => {
                let slot = key
                    .try_into()
                    .ok()
                    .map(|key| usize::from(u16::from_be_bytes(key)));
                match (
                    slot.filter(|slot| *slot < self.slots.len()),
                    HeldSlot::decode(value),
                ) {
                    (Some(slot), Some(held)) => self.slots[slot] = held,
                    _ => self.contradict("the checkpoint cell of a slot is malformed".into()),
                }
            }
            (CELL_SLOT, None) => {
                self.contradict("a checkpoint removes a slot, which is never done".into());
            }
            (other, _) => self.contradict(format!(
                "a checkpoint holds cells of kind {other}, which this version does not know"
            )),
        }
    }

    fn entry(&mut self, _lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]) {
        self.filled();
        let Ok(kind) = header.entry_kind() else {
            return self.contradict(format!(
                "an entry at journal place {end} is of a kind that this version does not know"
            ));
        };
        match kind {
            EntryKind::Data => {
                self.slot_entry(end, header);
                self.data(end, header);
            }
            EntryKind::EpochStart => self.slot_entry(end, header),
            EntryKind::StartOffset => {
                self.slot_entry(end, header);
                let index = self.partition(header.key());
                let durable = &mut self.partitions.at(index).durable;
                if end > durable.applied
                    && let Ok(entry) = StartOffset::from_bytes(body)
                {
                    durable.start = durable.start.max(entry.offset).min(durable.end);
                    durable.applied = end;
                }
            }
            EntryKind::ProducerExpire => {
                self.slot_entry(end, header);
                let index = self.partition(header.key());
                let durable = &mut self.partitions.at(index).durable;
                if end > durable.applied
                    && let Ok(entry) = ProducerExpire::from_bytes(body)
                {
                    let mut room = self.producer_room.of(index);
                    durable.producers.expire(entry.producer_id, &mut room);
                    durable.applied = end;
                }
            }
            EntryKind::PartitionDrop => {
                self.slot_entry(end, header);
                if let Some(index) = self.partitions.find(header.key()) {
                    let producers = &mut self.partitions.at(index).durable.producers;
                    producers.dropped(&mut self.producer_room.of(index));
                    self.partitions.remove(header.key());
                }
                self.orphans.remove(&header.key());
            }
            EntryKind::GroupOffset
            | EntryKind::TaskTransition
            | EntryKind::Loss
            | EntryKind::Truncate
            | EntryKind::Seal
            | EntryKind::Catalogue
            | EntryKind::Consensus => self.contradict(format!(
                "an entry at journal place {end} is of kind {kind:?}, which a lone node of this version never writes"
            )),
        }
    }
}
