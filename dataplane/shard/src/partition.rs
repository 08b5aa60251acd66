//! One partition as its shard holds it: where it starts and ends, how far it is visible, its epochs, its producers, and
//! the batches that live subscribers are about to want. Pure state with its checkpoint cell; what is done with it stands
//! in the rooms beside. Invariants: start <= visible <= end; offsets are dense; append times never go back.

use crate::producer::{PRODUCERS_PER_CELL, Producer, Producers, Remembered};
use crate::producer_room::RoomOf;
use crate::retention::{Mark, Marks};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tiderace_base::catalogue::{SlotPlace, Stream};
use tiderace_base::ids::{
    ConnectionId, PartitionIndex, PartitionKey, ProducerId, SlotId, StreamId, SubscriptionId,
};
use tiderace_base::limits::{BATCH_HEADER_BYTES, PRODUCER_WINDOW, PRODUCERS_PER_PARTITION_MAX};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{CatalogueVersion, Epoch, Lsn, Offset, ProducerEpoch, ProducerSeq};
use tiderace_replica::EpochMap;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::frame::GapReason;

/// Batches remembered for live subscribers of one partition; a subscriber further behind reads the journal.
pub(crate) const RECENT_MAX: usize = 1024;

/// A batch that can be sent from the journal's memory.
#[derive(Clone, Copy, Debug)]
pub struct Recent {
    /// Offset of its first record.
    pub base: Offset,
    /// The offset after its last record.
    pub next: Offset,
    /// Where its entry begins.
    pub lsn: Lsn,
    /// Its bytes, header and body.
    pub bytes: u32,
}

/// What survives a restart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Durable {
    /// The slot that its entries belong to.
    pub slot: SlotId,
    /// Everything of this partition that ends at or before this place has been applied here.
    pub applied: Lsn,
    /// The first offset kept.
    pub start: Offset,
    /// The next offset to be given.
    pub end: Offset,
    /// The append time of the last batch, in microseconds since 1970.
    pub last_append_us: u64,
    /// Bytes of all batches since the partition began.
    pub bytes: u64,
    /// Where each epoch began.
    pub epochs: EpochMap<Offset>,
    /// Who produced.
    pub producers: Producers,
    /// For retention.
    pub marks: Marks,
}

/// One partition.
#[derive(Debug)]
pub struct Partition {
    /// Its name.
    pub key: PartitionKey,
    /// Its stream; `None` until a catalogue that knows it arrives. Data of an unknown stream is kept.
    pub stream: Option<Arc<Stream>>,
    /// Where its slot is led, by the catalogue of this version.
    pub place: Option<(CatalogueVersion, SlotPlace)>,
    /// What survives a restart.
    pub durable: Durable,
    /// Below it, everything is durable at the stream's level.
    pub visible: Offset,
    /// Whether the checkpoint under way or the next one must hold it.
    pub dirty: bool,
    /// Whether its subscribers are about to be woken.
    pub woken: bool,
    /// Whether it stands in the list of those that may keep more bytes than they must.
    pub grown: bool,
    /// Batches in memory, while somebody subscribes.
    pub recent: VecDeque<Recent>,
    /// How many cells the last checkpoint has for its producers.
    pub producer_cells: u16,
    /// Who subscribes.
    pub subscribers: BTreeSet<(ConnectionId, SubscriptionId)>,
    /// Who of them has had everything that is visible: the next batch wakes these, and nobody else.
    pub caught_up: BTreeSet<(ConnectionId, SubscriptionId)>,
}

impl Partition {
    /// A partition with nothing in it.
    #[must_use]
    pub fn new(key: PartitionKey) -> Self {
        Self::restored(key, Durable::default())
    }

    /// A partition as recovery found it: everything that it found is durable.
    #[must_use]
    pub fn restored(key: PartitionKey, durable: Durable) -> Self {
        Self {
            key,
            stream: None,
            place: None,
            visible: durable.end,
            durable,
            dirty: false,
            woken: false,
            grown: false,
            recent: VecDeque::new(),
            producer_cells: 0,
            subscribers: BTreeSet::new(),
            caught_up: BTreeSet::new(),
        }
    }

    /// The append time of a batch appended at `wall_us`: never before the one before it, whatever the clock says.
    #[must_use]
    pub fn append_time_us(&self, wall_us: u64) -> u64 {
        if is_planted(Bug::FollowWallClock) {
            return wall_us;
        }
        wall_us.max(self.durable.last_append_us)
    }

    /// Why offsets below the start are gone, as far as it is remembered: which of its bounds moved it is in the journal.
    #[must_use]
    pub fn gap_reason(&self) -> GapReason {
        match &self.stream {
            Some(stream) if stream.retention.bytes > 0 => GapReason::Bytes,
            Some(_) | None => GapReason::Age,
        }
    }

    /// Remembers a batch for live subscribers.
    pub fn remember(&mut self, recent: Recent) {
        if self.subscribers.is_empty() {
            return;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(recent);
    }

    /// The remembered batch that holds `offset`, by its index in `recent`.
    #[must_use]
    pub fn recent_at(&self, offset: Offset) -> Option<usize> {
        let index = self.recent.partition_point(|recent| recent.next <= offset);
        self.recent
            .get(index)
            .is_some_and(|recent| recent.base <= offset)
            .then_some(index)
    }
}

/// A batch as it changes a partition's durable state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    /// Its first offset.
    pub base: Offset,
    /// Its records.
    pub records: u32,
    /// Its bytes, header and body.
    pub bytes: u64,
    /// When it was appended.
    pub append_time_us: u64,
    /// The epoch it was appended under.
    pub epoch: Epoch,
    /// The slot that its entry belongs to.
    pub slot: SlotId,
    /// Who produced it; zero for nobody in particular.
    pub producer: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The producer's sequence.
    pub producer_seq: ProducerSeq,
    /// The checksum over what its producer wrote.
    pub producer_crc: u32,
    /// The end of its entry.
    pub end: Lsn,
}

impl Appended {
    /// The batch of a placed header whose entry ends at `end`.
    #[must_use]
    pub(crate) fn from_header(header: &BatchHeader, end: Lsn) -> Self {
        Self {
            base: header.base_offset(),
            records: header.record_count(),
            bytes: BATCH_HEADER_BYTES as u64 + u64::from(header.body_bytes()),
            append_time_us: header.append_time_us(),
            epoch: header.epoch(),
            slot: header.slot(),
            producer: header.producer_id(),
            producer_epoch: header.producer_epoch(),
            producer_seq: header.producer_seq(),
            producer_crc: header.producer_crc(),
            end,
        }
    }
}

impl Durable {
    /// Whether no entry was ever applied: such a partition is in no journal and in no checkpoint.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.applied == Lsn::ZERO && self.end == Offset::ZERO
    }

    /// Applies a batch: the same when it is appended and when it is replayed. True: retention may drop more than before.
    ///
    /// # Panics
    /// When its offsets are not the next: an offset is never given twice.
    pub(crate) fn append(
        &mut self,
        batch: &Appended,
        stream: Option<&Stream>,
        room: &mut RoomOf<'_>,
    ) -> bool {
        assert_eq!(batch.base, self.end, "offsets are dense");
        let marked = stream.is_some_and(|stream| {
            let mark = Mark {
                offset: batch.base,
                append_time_us: batch.append_time_us,
                bytes_before: self.bytes,
            };
            self.marks.note(mark, stream.retention)
        });
        self.slot = batch.slot;
        self.epochs.note(batch.epoch, batch.base);
        self.end = self.end.advance(u64::from(batch.records));
        self.bytes += batch.bytes;
        self.last_append_us = self.last_append_us.max(batch.append_time_us);
        if batch.producer != ProducerId::default() {
            let place = Remembered {
                base_offset: batch.base,
                append_time_us: batch.append_time_us,
                end: batch.end,
                producer_crc: batch.producer_crc,
            };
            self.producers.appended(
                batch.producer,
                batch.producer_epoch,
                batch.producer_seq,
                place,
                room,
            );
        }
        self.applied = batch.end;
        marked
    }

    /// Encodes the state as a checkpoint cell's value.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let words = [
            self.applied.get(),
            self.start.get(),
            self.end.get(),
            self.last_append_us,
            self.bytes,
        ];
        words
            .iter()
            .for_each(|word| into.extend_from_slice(&word.to_le_bytes()));
        into.extend_from_slice(&self.slot.get().to_le_bytes());
        put_count(into, self.epochs.starts().len());
        for (epoch, start) in self.epochs.starts() {
            into.extend_from_slice(&epoch.get().to_le_bytes());
            into.extend_from_slice(&start.get().to_le_bytes());
        }
        put_count(into, self.marks.iter().len());
        for mark in self.marks.iter() {
            for word in [mark.offset.get(), mark.append_time_us, mark.bytes_before] {
                into.extend_from_slice(&word.to_le_bytes());
            }
        }
        put_count(into, self.producers.known().len());
        into.extend_from_slice(&self.producers.forgotten_end().get().to_le_bytes());
    }

    /// Encodes one group of the partition's producers as a cell's value.
    pub fn encode_producers(&self, group: u16, into: &mut Vec<u8>) {
        let producers = self.producers.group(group);
        put_count(into, producers.len());
        for producer in producers {
            into.extend_from_slice(&producer.id.get().to_le_bytes());
            into.extend_from_slice(&producer.epoch.get().to_le_bytes());
            into.extend_from_slice(&producer.last_seq.get().to_le_bytes());
            let window = producer.window();
            put_count(into, window.len());
            for place in window {
                for word in [
                    place.base_offset.get(),
                    place.append_time_us,
                    place.end.get(),
                ] {
                    into.extend_from_slice(&word.to_le_bytes());
                }
                into.extend_from_slice(&place.producer_crc.to_le_bytes());
            }
        }
    }

    /// Decodes a cell's value, without the producers, and how many of them its other cells must bring; `None` when it is
    /// none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut reader = CellReader(bytes);
        let mut durable = Self {
            applied: Lsn::new(reader.u64()?),
            start: Offset::new(reader.u64()?),
            end: Offset::new(reader.u64()?),
            last_append_us: reader.u64()?,
            bytes: reader.u64()?,
            slot: SlotId::new(reader.take().map(u16::from_le_bytes)?),
            ..Self::default()
        };
        let mut epochs = Vec::new();
        for _ in 0..reader.count()? {
            epochs.push((Epoch::new(reader.u32()?), Offset::new(reader.u64()?)));
        }
        durable.epochs = EpochMap::restored(&epochs)?;
        let mut marks = Vec::new();
        for _ in 0..reader.count()? {
            marks.push(Mark {
                offset: Offset::new(reader.u64()?),
                append_time_us: reader.u64()?,
                bytes_before: reader.u64()?,
            });
        }
        durable.marks = Marks::restored(marks)?;
        let producers = reader.count()?;
        durable.producers = Producers::restored(Offset::new(reader.u64()?));
        let sound = reader.0.is_empty()
            && durable.start <= durable.end
            && durable.producers.forgotten_end() <= durable.end;
        (sound && producers <= PRODUCERS_PER_PARTITION_MAX).then_some((durable, producers))
    }
}

/// Decodes a group of producers; `None` when it is none.
#[must_use]
pub(crate) fn decode_producers(bytes: &[u8]) -> Option<Vec<Producer>> {
    let mut reader = CellReader(bytes);
    let mut producers = Vec::new();
    for _ in 0..reader.count()? {
        let id = ProducerId::new(reader.u128()?);
        let epoch = ProducerEpoch::new(reader.u32()?);
        let last_seq = ProducerSeq::new(reader.u64()?);
        let places = reader.count()?;
        if places == 0
            || places > PRODUCER_WINDOW
            || places as u64 > last_seq.get().saturating_add(1)
        {
            return None;
        }
        let mut window = VecDeque::with_capacity(places);
        for _ in 0..places {
            window.push_back(Remembered {
                base_offset: Offset::new(reader.u64()?),
                append_time_us: reader.u64()?,
                end: Lsn::new(reader.u64()?),
                producer_crc: reader.u32()?,
            });
        }
        producers.push(Producer::new(id, epoch, last_seq, window));
    }
    (reader.0.is_empty() && producers.len() <= PRODUCERS_PER_CELL).then_some(producers)
}

const _: () = assert!(
    2 + PRODUCERS_PER_CELL * (30 + 28 * PRODUCER_WINDOW) <= tiderace_storage::CELL_VALUE_BYTES_MAX,
    "a group of producers fits a cell"
);

fn put_count(into: &mut Vec<u8>, count: usize) {
    let count =
        u16::try_from(count).expect("every list of a partition is bounded well below a u16");
    into.extend_from_slice(&count.to_le_bytes());
}

/// Reads a cell front to back; every read may fail, none panics.
struct CellReader<'a>(&'a [u8]);

impl CellReader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }

    fn count(&mut self) -> Option<usize> {
        self.take()
            .map(|bytes| usize::from(u16::from_le_bytes(bytes)))
    }
}

/// The key of a partition's cell.
#[must_use]
pub(crate) fn cell_key(key: PartitionKey) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.stream.get().to_be_bytes());
    bytes[8..].copy_from_slice(&key.partition.get().to_be_bytes());
    bytes
}

/// The key of a group of a partition's producers.
#[must_use]
pub(crate) fn producers_cell_key(key: PartitionKey, group: u16) -> [u8; 14] {
    let mut bytes = [0; 14];
    bytes[..12].copy_from_slice(&cell_key(key));
    bytes[12..].copy_from_slice(&group.to_be_bytes());
    bytes
}

/// The partition and the group that such a key names.
#[must_use]
pub(crate) fn producers_of_cell(bytes: &[u8]) -> Option<(PartitionKey, u16)> {
    let (partition, group) = bytes.split_at_checked(12)?;
    Some((
        key_of_cell(partition)?,
        u16::from_be_bytes(group.try_into().ok()?),
    ))
}

/// The partition that a cell's key names.
#[must_use]
pub(crate) fn key_of_cell(bytes: &[u8]) -> Option<PartitionKey> {
    let (stream, partition) = bytes.split_first_chunk::<8>()?;
    Some(PartitionKey {
        stream: StreamId::new(u64::from_be_bytes(*stream)),
        partition: PartitionIndex::new(u32::from_be_bytes(partition.try_into().ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partitions::Index;
    use crate::producer_room::{ProducerBounds, ProducerRoom};
    use tiderace_base::catalogue::{Durability, Retention};
    use tiderace_base::ids::TenantId;
    use tiderace_base::prng::Prng;

    fn room() -> ProducerRoom {
        ProducerRoom::new(ProducerBounds::of(1 << 20))
    }

    fn random(seed: u64) -> Durable {
        let mut prng = Prng::new(seed);
        let stream = Stream {
            id: StreamId::new(1),
            path: "a".into(),
            tenant: TenantId::new(0),
            partitions: 1,
            durability: Durability::Local,
            retention: Retention {
                bytes: 1000,
                age_ms: 0,
            },
            created_us: 0,
        };
        let mut room = room();
        let mut durable = Durable::default();
        let mut seqs = [0_u64; 3];
        for n in 0..prng.below(300) {
            let who = prng.below(3) as usize;
            let batch = Appended {
                base: durable.end,
                records: 1 + prng.below(5) as u32,
                bytes: 200,
                append_time_us: n,
                epoch: Epoch::new(1 + (n / 50) as u32),
                slot: SlotId::new(7),
                producer: ProducerId::new(who as u128),
                producer_epoch: ProducerEpoch::new(1),
                producer_seq: ProducerSeq::new(seqs[who]),
                producer_crc: n as u32 * 3,
                end: Lsn::new(4096 * (n + 1)),
            };
            seqs[who] += 1;
            durable.append(&batch, Some(&stream), &mut room.of(Index::FIRST));
        }
        if prng.chance(1, 2) {
            let mut room = room.of(Index::FIRST);
            durable.producers.expire(ProducerId::new(1), &mut room);
        }
        durable
    }

    #[test]
    fn cells_round_trip_and_damage_never_panics() {
        for seed in 0..100 {
            let durable = random(seed);
            let mut bytes = Vec::new();
            durable.encode(&mut bytes);
            let (mut decoded, producers) = Durable::decode(&bytes).expect("it is one");
            assert_eq!(producers, durable.producers.known().len());
            let mut room = room();
            for group in 0..durable.producers.groups() {
                let mut cell = Vec::new();
                durable.encode_producers(group, &mut cell);
                for producer in decode_producers(&cell).expect("it is one") {
                    let mut room = room.of(Index::FIRST);
                    decoded
                        .producers
                        .restore(producer, &mut room)
                        .expect("in order");
                }
                for cut in 0..cell.len() {
                    assert_eq!(decode_producers(&cell[..cut]), None);
                }
            }
            assert_eq!(decoded, durable);
            for cut in 0..bytes.len() {
                assert_eq!(Durable::decode(&bytes[..cut]), None);
            }
            let mut prng = Prng::new(seed);
            for _ in 0..200 {
                let mut damaged = bytes.clone();
                let at = prng.below(damaged.len() as u64) as usize;
                damaged[at] ^= 1 << prng.below(8);
                let _whatever_it_says = Durable::decode(&damaged);
            }
        }
    }

    #[test]
    fn the_remembered_batch_that_holds_an_offset_is_found() {
        let mut partition = Partition::new(PartitionKey {
            stream: StreamId::new(1),
            partition: PartitionIndex::new(0),
        });
        partition
            .subscribers
            .insert((ConnectionId::new(1), SubscriptionId::new(1)));
        for n in 0..(RECENT_MAX as u64 + 10) {
            partition.remember(Recent {
                base: Offset::new(n * 3),
                next: Offset::new(n * 3 + 3),
                lsn: Lsn::new(n),
                bytes: 1,
            });
        }
        assert_eq!(partition.recent.len(), RECENT_MAX);
        assert_eq!(partition.recent_at(Offset::new(29)), None, "forgotten");
        assert_eq!(partition.recent_at(Offset::new(30)), Some(0));
        assert_eq!(partition.recent_at(Offset::new(32)), Some(0));
        assert_eq!(partition.recent_at(Offset::new(33)), Some(1));
        assert_eq!(partition.recent_at(Offset::new(u64::from(u32::MAX))), None);
    }
}
