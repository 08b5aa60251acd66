//! Turns the index of a full segment into its footer, a bounded piece of work at a time: a segment shared by many thousand
//! partitions has a footer of many MiB, and copying that at once would delay every append of the shard. Until it is done
//! the index still answers.

use super::Life;
use super::footer::{Counts, Footer, Header, PartitionRow, SlotRow};
use super::segment::SegmentIndex;
use bytes::{BufMut, Bytes, BytesMut};
use tiderace_base::checksum::Crc32c;
use tiderace_base::ids::PartitionKey;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::SlotSeq;
use zerocopy::{Immutable, IntoBytes};

/// A footer that is being written into memory.
#[derive(Debug)]
pub struct Sealing {
    index: SegmentIndex,
    life: Life,
    /// Places in the index of the partitions that have positions, by key.
    order: Vec<u32>,
    /// The same of the slots, by number.
    slot_order: Vec<u32>,
    counts: Counts,
    /// How many of `order`, then of `slot_order`, have their positions written, and how many positions of the next one.
    lists_done: usize,
    positions_done: usize,
    body_crc: Crc32c,
    file_bytes: usize,
    out: BytesMut,
}

impl Sealing {
    pub(super) fn new(
        index: SegmentIndex,
        life: Life,
        mut previous: impl FnMut(PartitionKey) -> Option<u64>,
    ) -> Self {
        assert!(
            u64::from(index.filled_to()) <= life.positions_end(),
            "a life holds the entries noted in it"
        );
        let all = index.all();
        let mut order: Vec<u32> = (0..all.len() as u32)
            .filter(|place| !all[*place as usize].rows.is_empty())
            .collect();
        // J-44: sorted, so that a footer is searched where it lies.
        order.sort_unstable_by_key(|place| all[*place as usize].key);
        let slots = index.all_slots();
        let mut slot_order: Vec<u32> = (0..slots.len() as u32)
            .filter(|place| !slots[*place as usize].rows.is_empty())
            .collect();
        slot_order.sort_unstable_by_key(|place| slots[*place as usize].slot);
        let counts = Counts {
            partitions: order.len() as u32,
            positions: index.position_count() as u32,
            slots: slot_order.len() as u32,
            slot_positions: slots.iter().map(|slot| slot.rows.len() as u32).sum(),
        };
        let file_bytes = counts.file_bytes() as usize;
        // Within capacity nothing moves; pages are touched only as they are filled.
        let mut out = BytesMut::with_capacity(file_bytes + BLOCK_BYTES);
        let pad = out.as_ptr().align_offset(BLOCK_BYTES);
        out.resize(pad, 0);
        drop(out.split_to(pad));
        out.put_bytes(0, Header::BYTES);
        let mut body_crc = Crc32c::new();
        let mut positions_at = 0;
        for place in &order {
            let indexed = &all[*place as usize];
            let Some(partition) = indexed.partition(SlotSeq::MAX) else {
                continue;
            };
            let row = PartitionRow::new(&partition, positions_at, previous(partition.key));
            positions_at += partition.position_count;
            body_crc.update(row.as_bytes());
            out.put_slice(row.as_bytes());
        }
        let mut slot_positions_at = 0;
        for place in &slot_order {
            let slot = &slots[*place as usize];
            let row = SlotRow::new(slot.slot, slot.rows.len() as u32, slot_positions_at);
            slot_positions_at += slot.rows.len() as u32;
            body_crc.update(row.as_bytes());
            out.put_slice(row.as_bytes());
        }
        Self {
            index,
            life,
            order,
            slot_order,
            counts,
            lists_done: 0,
            positions_done: 0,
            body_crc,
            file_bytes,
            out,
        }
    }

    /// The index, which answers until the footer takes over.
    #[must_use]
    pub fn index(&self) -> &SegmentIndex {
        &self.index
    }

    /// Copies up to `positions_max` more positions. True when none are left, and [`Sealing::finish`] is cheap.
    pub fn step(&mut self, positions_max: usize) -> bool {
        let mut room = positions_max;
        let lists = self.order.len() + self.slot_order.len();
        while self.lists_done < lists {
            let from = self.positions_done;
            let (bytes, taken, left) = match self.order.get(self.lists_done) {
                Some(place) => taken(&self.index.all()[*place as usize].rows[from..], room),
                None => {
                    let place = self.slot_order[self.lists_done - self.order.len()];
                    taken(&self.index.all_slots()[place as usize].rows[from..], room)
                }
            };
            self.body_crc.update(bytes);
            self.out.put_slice(bytes);
            room -= taken;
            if left > 0 {
                self.positions_done += taken;
                return false;
            }
            self.positions_done = 0;
            self.lists_done += 1;
        }
        true
    }

    /// Writes what is left and gives the footer; its bytes are whole aligned blocks, ready to be written.
    #[must_use]
    pub fn finish(mut self) -> Footer {
        while !self.step(usize::MAX) {}
        let padding = self.file_bytes - self.out.len();
        let padding_at = self.out.len();
        self.out.put_bytes(0, padding);
        // J-41: the padding is covered too.
        self.body_crc.update(&self.out[padding_at..]);
        let header = Header::new(
            self.life,
            self.counts,
            self.file_bytes as u64,
            self.body_crc.finish(),
        );
        self.out[..Header::BYTES].copy_from_slice(header.as_bytes());
        let bytes: Bytes = self.out.freeze();
        assert_eq!(
            bytes.len(),
            self.file_bytes,
            "a footer's size is known before it is written"
        );
        assert_eq!(
            bytes.as_ptr().align_offset(BLOCK_BYTES),
            0,
            "a footer is written in place"
        );
        Footer::from_sealing(bytes, self.life, self.counts)
    }
}

/// The bytes of at most `room` rows, how many that are, and how many are left.
fn taken<T: IntoBytes + Immutable>(rows: &[T], room: usize) -> (&[u8], usize, usize) {
    let taken = rows.len().min(room);
    (rows[..taken].as_bytes(), taken, rows.len() - taken)
}
