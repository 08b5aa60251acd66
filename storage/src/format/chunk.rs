//! A chunk: one journal write. Its first block has a checksum of its own, which binds the checksum of the rest, so that the
//! directory of a torn chunk can still be believed. Where it lies, in which life of which journal, and what came before it
//! are all part of what is checked: bytes of another place, life or journal never parse.

use tiderace_base::checksum::{Crc32c, crc32c, crc32c_append};
use tiderace_base::ids::{BootId, JournalId, PartitionKey, SlotId};
use tiderace_base::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Epoch, Lsn, Offset, SlotSeq};
use tiderace_base::time::Wall;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: u32 = u32::from_le_bytes(*b"TRC1");
const VERSION: u16 = 1;
/// Not every row fitted the directory: what it lacks is unknown.
const FLAG_OVERFLOW: u16 = 1;
/// Written for the sake of its `durable_lsn` alone.
const FLAG_CLOSING: u16 = 2;

/// The fixed part; the directory follows it.
pub(crate) const HEADER_BYTES: usize = 128;
const FIRST_CRC_AT: usize = 124;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    flags: U16,
    journal_id: U64,
    salt: U64,
    lsn: U64,
    durable_lsn: U64,
    chunk_bytes: U32,
    entries_at: U16,
    directory_slots: U16,
    directory_partitions: U16,
    pad: U16,
    entry_bytes: U32,
    entry_count: U32,
    prev_crc: U32,
    wall_us: U64,
    boot_id: U64,
    reserved: [u8; 40],
    rest_crc: U32,
    first_crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSlot {
    slot: U16,
    pad: U16,
    epoch: U32,
    last_seq: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPartition {
    stream: U64,
    partition: U32,
    pad: U32,
    end_offset: U64,
}

/// Bytes of one slot's row.
pub(crate) const SLOT_ROW_BYTES: usize = size_of::<RawSlot>();
/// Bytes of one partition's row.
pub(crate) const PARTITION_ROW_BYTES: usize = size_of::<RawPartition>();

const _: () = {
    assert!(
        size_of::<Raw>() == HEADER_BYTES,
        "the table in docs/journal.md says 128"
    );
    assert!(
        core::mem::offset_of!(Raw, rest_crc) == 120,
        "the checksums end the header"
    );
    assert!(
        core::mem::offset_of!(Raw, first_crc) == FIRST_CRC_AT,
        "the checksums end the header"
    );
    assert!(SLOT_ROW_BYTES == 16 && PARTITION_ROW_BYTES == 24);
};

/// A slot's row in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotRow {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) last_seq: SlotSeq,
}

/// A partition's row in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartitionRow {
    pub(crate) key: PartitionKey,
    pub(crate) end_offset: Offset,
}

/// The life and the journal whose chunks are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Life {
    pub(crate) journal: JournalId,
    pub(crate) salt: u64,
}

/// What a chunk says about itself beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkHeader {
    pub(crate) lsn: Lsn,
    /// Everything below was durable when the chunk was submitted.
    pub(crate) durable_lsn: Lsn,
    pub(crate) chunk_bytes: usize,
    pub(crate) entries_at: usize,
    pub(crate) entry_bytes: usize,
    pub(crate) entry_count: u32,
    pub(crate) prev_crc: u32,
    pub(crate) first_crc: u32,
    pub(crate) closing: bool,
    pub(crate) directory_complete: bool,
    directory_slots: usize,
    rest_crc: u32,
}

/// How far the checksum of the blocks behind the first is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    /// Of the bytes from the second block up to here.
    pub(crate) to: usize,
    pub(crate) crc: u32,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            to: BLOCK_BYTES,
            crc: 0,
        }
    }
}

/// What the writer says about a chunk when it is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub(crate) life: Life,
    pub(crate) lsn: Lsn,
    pub(crate) durable_lsn: Lsn,
    pub(crate) entries_at: usize,
    pub(crate) entry_bytes: usize,
    pub(crate) entry_count: u32,
    pub(crate) prev_crc: u32,
    pub(crate) known: Known,
    pub(crate) closing: bool,
    pub(crate) wall: Wall,
    pub(crate) boot: BootId,
}

/// Completes a chunk in place: directory, header, checksums. `chunk` is whole blocks whose bytes are zero but for the
/// entries. Gives the checksum of its first block, and whether every row fitted.
///
/// # Panics
/// When the places do not fit together: a bug of the writer.
pub(crate) fn seal(
    chunk: &mut [u8],
    seal: &Seal,
    slots: &[SlotRow],
    partitions: &[PartitionRow],
) -> (u32, bool) {
    assert!(
        !chunk.is_empty() && chunk.len().is_multiple_of(BLOCK_BYTES),
        "a chunk is whole blocks"
    );
    assert!(
        (HEADER_BYTES..=BLOCK_BYTES).contains(&seal.entries_at)
            && seal.entries_at + seal.entry_bytes <= chunk.len(),
        "the entries lie inside the chunk"
    );
    let mut room = seal.entries_at - HEADER_BYTES;
    let slots_fit = slots.len().min(room / SLOT_ROW_BYTES);
    room -= slots_fit * SLOT_ROW_BYTES;
    let partitions_fit = partitions.len().min(room / PARTITION_ROW_BYTES);
    let complete = slots_fit == slots.len() && partitions_fit == partitions.len();
    let mut at = HEADER_BYTES;
    for row in &slots[..slots_fit] {
        let raw = RawSlot {
            slot: row.slot.get().into(),
            pad: 0.into(),
            epoch: row.epoch.get().into(),
            last_seq: row.last_seq.get().into(),
        };
        chunk[at..at + SLOT_ROW_BYTES].copy_from_slice(raw.as_bytes());
        at += SLOT_ROW_BYTES;
    }
    for row in &partitions[..partitions_fit] {
        let raw = RawPartition {
            stream: row.key.stream.get().into(),
            partition: row.key.partition.get().into(),
            pad: 0.into(),
            end_offset: row.end_offset.get().into(),
        };
        chunk[at..at + PARTITION_ROW_BYTES].copy_from_slice(raw.as_bytes());
        at += PARTITION_ROW_BYTES;
    }
    let (first, rest) = chunk.split_at_mut(BLOCK_BYTES);
    let raw = Raw {
        magic: MAGIC.into(),
        version: VERSION.into(),
        flags: (if complete { 0 } else { FLAG_OVERFLOW }
            | if seal.closing { FLAG_CLOSING } else { 0 })
        .into(),
        journal_id: seal.life.journal.get().into(),
        salt: seal.life.salt.into(),
        lsn: seal.lsn.get().into(),
        durable_lsn: seal.durable_lsn.get().into(),
        chunk_bytes: ((first.len() + rest.len()) as u32).into(),
        entries_at: (seal.entries_at as u16).into(),
        directory_slots: (slots_fit as u16).into(),
        directory_partitions: (partitions_fit as u16).into(),
        pad: 0.into(),
        entry_bytes: (seal.entry_bytes as u32).into(),
        entry_count: seal.entry_count.into(),
        prev_crc: seal.prev_crc.into(),
        wall_us: seal.wall.as_us().into(),
        boot_id: seal.boot.get().into(),
        reserved: [0; 40],
        rest_crc: crc32c_append(seal.known.crc, &rest[seal.known.to - BLOCK_BYTES..]).into(),
        first_crc: 0.into(),
    };
    first[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
    let crc = first_crc(first);
    first[FIRST_CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    (crc, complete)
}

/// The checksum of a first block without the field that holds it.
fn first_crc(first: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&first[..FIRST_CRC_AT]);
    crc.update(&first[HEADER_BYTES..BLOCK_BYTES]);
    crc.finish()
}

/// Reads a chunk's first block; none: no chunk of this life begins here, or its first block is damaged. J-4
pub(crate) fn decode_first(first: &[u8], life: Life) -> Option<ChunkHeader> {
    let first = first.get(..BLOCK_BYTES)?;
    let (raw, _) = Raw::ref_from_prefix(first).ok()?;
    // The cheap comparisons come first: recovery looks at every block behind a damaged place.
    let is_of_life = is_planted(Bug::ParseOldChunk)
        || (raw.journal_id.get(), raw.salt.get()) == (life.journal.get(), life.salt);
    if raw.magic.get() != MAGIC
        || raw.version.get() != VERSION
        || !is_of_life
        || raw.first_crc.get() != first_crc(first)
    {
        return None;
    }
    let chunk_bytes = raw.chunk_bytes.get() as usize;
    let entries_at = usize::from(raw.entries_at.get());
    let entry_bytes = raw.entry_bytes.get() as usize;
    let directory_bytes = usize::from(raw.directory_slots.get()) * SLOT_ROW_BYTES
        + usize::from(raw.directory_partitions.get()) * PARTITION_ROW_BYTES;
    let fits = chunk_bytes.is_multiple_of(BLOCK_BYTES)
        && (BLOCK_BYTES..=CHUNK_BYTES_MAX).contains(&chunk_bytes)
        && (HEADER_BYTES..=BLOCK_BYTES).contains(&entries_at)
        && HEADER_BYTES + directory_bytes <= entries_at
        && entries_at + entry_bytes <= chunk_bytes;
    fits.then(|| ChunkHeader {
        lsn: Lsn::new(raw.lsn.get()),
        durable_lsn: Lsn::new(raw.durable_lsn.get()),
        chunk_bytes,
        entries_at,
        entry_bytes,
        entry_count: raw.entry_count.get(),
        prev_crc: raw.prev_crc.get(),
        first_crc: raw.first_crc.get(),
        closing: raw.flags.get() & FLAG_CLOSING != 0,
        directory_complete: raw.flags.get() & FLAG_OVERFLOW == 0,
        directory_slots: usize::from(raw.directory_slots.get()),
        rest_crc: raw.rest_crc.get(),
    })
}

impl ChunkHeader {
    /// Whether the blocks after the first are those that were written.
    pub(crate) fn rest_matches(&self, chunk: &[u8]) -> bool {
        chunk.len() == self.chunk_bytes && crc32c(&chunk[BLOCK_BYTES..]) == self.rest_crc
    }

    /// The entries of a whole chunk.
    pub(crate) fn entries<'a>(&self, chunk: &'a [u8]) -> &'a [u8] {
        &chunk[self.entries_at..self.entries_at + self.entry_bytes]
    }

    /// The slots' rows in the first block.
    pub(crate) fn slots<'a>(&self, first: &'a [u8]) -> impl Iterator<Item = SlotRow> + use<'a> {
        first[HEADER_BYTES..HEADER_BYTES + self.directory_slots * SLOT_ROW_BYTES]
            .chunks_exact(SLOT_ROW_BYTES)
            .filter_map(|row| RawSlot::ref_from_bytes(row).ok())
            .map(|raw| SlotRow {
                slot: SlotId::new(raw.slot.get()),
                epoch: Epoch::new(raw.epoch.get()),
                last_seq: SlotSeq::new(raw.last_seq.get()),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(life: Life, lsn: Lsn) -> Vec<u8> {
        let mut chunk = vec![0; 2 * BLOCK_BYTES];
        chunk[512..700].fill(7);
        let slots = [SlotRow {
            slot: SlotId::new(3),
            epoch: Epoch::new(2),
            last_seq: SlotSeq::new(9),
        }];
        let seal_of = Seal {
            life,
            lsn,
            durable_lsn: lsn,
            entries_at: 512,
            entry_bytes: 4000,
            entry_count: 1,
            prev_crc: 5,
            known: Known::default(),
            closing: false,
            wall: Wall::from_us(1),
            boot: BootId::new(1),
        };
        let (_, complete) = seal(&mut chunk, &seal_of, &slots, &[]);
        assert!(complete);
        chunk
    }

    const LIFE: Life = Life {
        journal: JournalId::new(1),
        salt: 2,
    };

    // J-4: the bytes of an earlier life, of another journal, or moved to another place are no chunk here.
    #[test]
    fn a_chunk_parses_in_its_own_life_only() {
        let chunk = sealed(LIFE, Lsn::new(4096));
        let header = decode_first(&chunk, LIFE).expect("it is whole");
        assert_eq!(header.lsn, Lsn::new(4096));
        assert!(header.rest_matches(&chunk));
        let rows: Vec<SlotRow> = header.slots(&chunk).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].last_seq, SlotSeq::new(9));
        for other in [
            Life { salt: 3, ..LIFE },
            Life {
                journal: JournalId::new(2),
                ..LIFE
            },
        ] {
            assert_eq!(decode_first(&chunk, other), None);
        }
        assert_eq!(decode_first(&chunk[1..], LIFE), None);
        assert_eq!(decode_first(&chunk[..100], LIFE), None);
    }

    // J-4
    #[test]
    fn a_changed_byte_shows_in_the_first_block_or_in_the_rest() {
        let mut chunk = sealed(LIFE, Lsn::ZERO);
        for at in 0..chunk.len() {
            chunk[at] ^= 1;
            let seen = decode_first(&chunk, LIFE).is_none_or(|header| !header.rest_matches(&chunk));
            assert!(seen, "byte {at}");
            chunk[at] ^= 1;
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_said_to_be_missing() {
        let rows: Vec<PartitionRow> = (0..40)
            .map(|n| PartitionRow {
                key: PartitionKey {
                    stream: tiderace_base::ids::StreamId::new(n),
                    partition: tiderace_base::ids::PartitionIndex::new(0),
                },
                end_offset: Offset::new(n),
            })
            .collect();
        let mut chunk = vec![0; BLOCK_BYTES];
        let seal_of = Seal {
            life: LIFE,
            lsn: Lsn::ZERO,
            durable_lsn: Lsn::ZERO,
            entries_at: 512,
            entry_bytes: 0,
            entry_count: 0,
            prev_crc: 0,
            known: Known::default(),
            closing: true,
            wall: Wall::from_us(1),
            boot: BootId::new(1),
        };
        let (_, complete) = seal(&mut chunk, &seal_of, &[], &rows);
        assert!(!complete);
        let header = decode_first(&chunk, LIFE).expect("it is whole");
        assert!(!header.directory_complete && header.closing);
    }
}
