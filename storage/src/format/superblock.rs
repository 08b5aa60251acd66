//! The superblock: what must be known before anything else of a journal can be believed. Two copies in one file; generation
//! `g` goes to copy `g % 2`, so that the copy before it is whole while it is written. J-1

use super::{COUNT_MAX, FILE_NUMBER_MAX, FORMAT_VERSION, whole_blocks};
use crate::marks::{Mark, MarkKind};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{BootId, DiskId, JournalId, NodeId, SlotId};
use tiderace_base::limits::{BLOCK_BYTES, KIB, SLOTS};
use tiderace_base::position::{Epoch, Lsn, SlotSeq};
use tiderace_wire::entry::Seal;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"TRSUPER1";
/// Room for one copy.
pub(crate) const COPY_BYTES: usize = 256 * KIB;
/// The whole file.
pub(crate) const FILE_BYTES: u64 = 2 * COPY_BYTES as u64;
/// The fixed part at the start of a copy.
pub(crate) const HEADER_BYTES: usize = 512;
/// The newest segments named with their salts.
pub(crate) const RECENT_MAX: usize = 8;
/// A row per slot and one for all, of each kind.
const MARKS_MAX: usize = 2 * (SLOTS as usize + 1);
/// What is left of a copy holds this many free files; more are not remembered, and prepared anew after a restart.
pub(crate) const FREE_MAX: usize = 32 * KIB;
/// Says every slot in a mark's row.
const SLOT_EVERY: u16 = u16::MAX;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    copy_bytes: U32,
    generation: U64,
    journal_id: U64,
    disk_id: U128,
    node_id: U64,
    journal_index: U16,
    journal_count: U16,
    slots: U16,
    pad: U16,
    boot_id: U64,
    boot_count: U64,
    segment_bytes: U64,
    recovered_end_lsn: U64,
    oldest_segment_seq: U64,
    newest_id: U64,
    newest_covers: U64,
    previous_id: U64,
    previous_covers: U64,
    recent_count: U32,
    seal_count: U32,
    truncation_count: U32,
    mark_count: U32,
    free_count: U32,
    body_bytes: U32,
    body_crc: U32,
    pad2: U32,
    durable_lsn: U64,
    reserved: [u8; 332],
    header_crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecent {
    file: U32,
    pad: U32,
    seq: U64,
    salt: U64,
    start_lsn: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMark {
    slot: U16,
    kind: u8,
    has_greatest: u8,
    epoch: U32,
    seq: U64,
    since_lsn: U64,
}

impl Raw {
    /// No list is longer than it may be, and no number greater than any journal's.
    fn counts_are_possible(&self) -> bool {
        let lists = [
            (self.recent_count, RECENT_MAX),
            (self.seal_count, SLOTS as usize),
            (self.truncation_count, SLOTS as usize),
            (self.mark_count, MARKS_MAX),
            (self.free_count, FREE_MAX),
        ];
        let numbers = [
            self.generation,
            self.boot_count,
            self.recovered_end_lsn,
            self.durable_lsn,
            self.oldest_segment_seq,
            self.newest_id,
            self.newest_covers,
            self.previous_id,
            self.previous_covers,
        ];
        lists
            .iter()
            .all(|(count, most)| count.get() as usize <= *most)
            && numbers.iter().all(|number| number.get() <= COUNT_MAX)
    }
}

impl RawRecent {
    fn is_possible(&self) -> bool {
        self.file.get() <= FILE_NUMBER_MAX
            && self.seq.get() <= COUNT_MAX
            && self.start_lsn.get() <= COUNT_MAX
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSeal {
    slot: U16,
    cut: u8,
    pad: u8,
    epoch: U32,
    last_epoch: U32,
    pad2: U32,
    last_seq: U64,
    flushed_seq: U64,
}

impl RawSeal {
    fn new(seal: &Seal) -> Self {
        Self {
            slot: seal.slot.get().into(),
            cut: u8::from(seal.cut),
            pad: 0,
            epoch: seal.epoch.get().into(),
            last_epoch: seal.last_epoch.get().into(),
            pad2: 0.into(),
            last_seq: seal.last_seq.get().into(),
            flushed_seq: seal.flushed_seq.get().into(),
        }
    }

    fn get(&self) -> Option<Seal> {
        let is_possible = self.slot.get() < SLOTS
            && self.cut <= 1
            && self.last_seq.get() <= COUNT_MAX
            && self.flushed_seq.get() <= COUNT_MAX;
        is_possible.then(|| Seal {
            slot: SlotId::new(self.slot.get()),
            epoch: Epoch::new(self.epoch.get()),
            last_epoch: Epoch::new(self.last_epoch.get()),
            last_seq: SlotSeq::new(self.last_seq.get()),
            flushed_seq: SlotSeq::new(self.flushed_seq.get()),
            cut: self.cut == 1,
        })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTruncation {
    slot: U16,
    pad: U16,
    epoch: U32,
    from_seq: U64,
    lsn: U64,
}

impl RawTruncation {
    fn new(truncation: &Truncation) -> Self {
        Self {
            slot: truncation.slot.get().into(),
            pad: 0.into(),
            epoch: truncation.epoch.get().into(),
            from_seq: truncation.from.get().into(),
            lsn: truncation.at.get().into(),
        }
    }

    fn get(&self) -> Option<Truncation> {
        let is_possible = self.slot.get() < SLOTS
            && (1..=COUNT_MAX).contains(&self.from_seq.get())
            && self.lsn.get() <= COUNT_MAX;
        is_possible.then(|| Truncation {
            slot: SlotId::new(self.slot.get()),
            epoch: Epoch::new(self.epoch.get()),
            from: SlotSeq::new(self.from_seq.get()),
            at: Lsn::new(self.lsn.get()),
        })
    }
}

const _: () = {
    assert!(
        size_of::<Raw>() == HEADER_BYTES,
        "the table in docs/journal.md says 512"
    );
    assert!(size_of::<RawRecent>() == 32 && size_of::<RawMark>() == 24);
    assert!(size_of::<RawSeal>() == 32 && size_of::<RawTruncation>() == 24);
    assert!(
        HEADER_BYTES
            + RECENT_MAX * size_of::<RawRecent>()
            + SLOTS as usize * (size_of::<RawSeal>() + size_of::<RawTruncation>())
            + MARKS_MAX * size_of::<RawMark>()
            + FREE_MAX * 4
            <= COPY_BYTES,
        "a copy holds the longest lists"
    );
};

/// A segment that was begun lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Recent {
    pub(crate) file: u32,
    pub(crate) seq: u64,
    pub(crate) salt: u64,
    pub(crate) start_lsn: Lsn,
}

/// The newest truncation of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Truncation {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) from: SlotSeq,
    /// Where its entry lies.
    pub(crate) at: Lsn,
}

/// A checkpoint by its last part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CheckpointRef {
    pub(crate) id: u64,
    pub(crate) covers: Lsn,
}

/// What a superblock says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub(crate) generation: u64,
    pub(crate) journal: JournalId,
    pub(crate) disk: DiskId,
    pub(crate) node: NodeId,
    pub(crate) journal_index: u16,
    pub(crate) journal_count: u16,
    pub(crate) boot: BootId,
    pub(crate) boot_count: u64,
    pub(crate) segment_bytes: u64,
    /// Where the last recovery found the journal's end.
    pub(crate) recovered_end: Lsn,
    /// Everything below was durable when this was written.
    pub(crate) durable: Lsn,
    pub(crate) oldest_segment_seq: u64,
    pub(crate) newest: Option<CheckpointRef>,
    pub(crate) previous: Option<CheckpointRef>,
    /// Oldest first; the last one is the segment begun last.
    pub(crate) recent: Vec<Recent>,
    /// The newest seal of each slot. J-64
    pub(crate) seals: Vec<Seal>,
    /// The newest truncation of each slot, unless both checkpoints cover it. J-62
    pub(crate) truncations: Vec<Truncation>,
    pub(crate) marks: Vec<Mark>,
    /// Segment files that no life needs: zero-written once and whole.
    pub(crate) free: Vec<u32>,
}

/// What the bytes of a copy turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Copy {
    Valid(Box<Superblock>),
    /// Intact, and of a version that is not known here.
    Newer(u32),
    /// Never written, torn, or damaged.
    Invalid,
}

/// Where generation `generation` goes in the file.
pub(crate) const fn copy_at(generation: u64) -> u64 {
    (generation % 2) * COPY_BYTES as u64
}

impl Superblock {
    /// The bytes to write at [`copy_at`]: whole blocks, as few as needed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        for recent in &self.recent {
            let raw = RawRecent {
                file: recent.file.into(),
                pad: 0.into(),
                seq: recent.seq.into(),
                salt: recent.salt.into(),
                start_lsn: recent.start_lsn.get().into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        for seal in &self.seals {
            bytes.extend_from_slice(RawSeal::new(seal).as_bytes());
        }
        for truncation in &self.truncations {
            bytes.extend_from_slice(RawTruncation::new(truncation).as_bytes());
        }
        for mark in &self.marks {
            let (epoch, seq) = mark.greatest.unwrap_or((Epoch::ZERO, SlotSeq::ZERO));
            let raw = RawMark {
                slot: mark.slot.map_or(SLOT_EVERY, SlotId::get).into(),
                kind: match mark.kind {
                    MarkKind::Suspect => 1,
                    MarkKind::Cut => 2,
                },
                has_greatest: u8::from(mark.greatest.is_some()),
                epoch: epoch.get().into(),
                seq: seq.get().into(),
                since_lsn: mark.since_lsn.get().into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        let free = &self.free[..self.free.len().min(FREE_MAX)];
        for file in free {
            bytes.extend_from_slice(&file.to_le_bytes());
        }
        let body_bytes = bytes.len() - HEADER_BYTES;
        let body_crc = crc32c(&bytes[HEADER_BYTES..]);
        let mut raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            copy_bytes: (COPY_BYTES as u32).into(),
            generation: self.generation.into(),
            journal_id: self.journal.get().into(),
            disk_id: self.disk.get().into(),
            node_id: self.node.get().into(),
            journal_index: self.journal_index.into(),
            journal_count: self.journal_count.into(),
            slots: SLOTS.into(),
            pad: 0.into(),
            boot_id: self.boot.get().into(),
            boot_count: self.boot_count.into(),
            segment_bytes: self.segment_bytes.into(),
            recovered_end_lsn: self.recovered_end.get().into(),
            oldest_segment_seq: self.oldest_segment_seq.into(),
            newest_id: self.newest.map_or(0, |it| it.id).into(),
            newest_covers: self.newest.map_or(0, |it| it.covers.get()).into(),
            previous_id: self.previous.map_or(0, |it| it.id).into(),
            previous_covers: self.previous.map_or(0, |it| it.covers.get()).into(),
            recent_count: (self.recent.len() as u32).into(),
            seal_count: (self.seals.len() as u32).into(),
            truncation_count: (self.truncations.len() as u32).into(),
            mark_count: (self.marks.len() as u32).into(),
            free_count: (free.len() as u32).into(),
            body_bytes: (body_bytes as u32).into(),
            body_crc: body_crc.into(),
            pad2: 0.into(),
            durable_lsn: self.durable.get().into(),
            reserved: [0; 332],
            header_crc: 0.into(),
        };
        raw.header_crc = crc32c(&raw.as_bytes()[..HEADER_BYTES - 4]).into();
        bytes[..HEADER_BYTES].copy_from_slice(raw.as_bytes());
        bytes.resize(whole_blocks(bytes.len()), 0);
        assert!(bytes.len() <= COPY_BYTES, "every list has its bound");
        bytes
    }

    /// Reads copy `index` from all of its bytes.
    pub(crate) fn decode(bytes: &[u8], index: u64) -> Copy {
        Self::decode_known(bytes, index).unwrap_or(Copy::Invalid)
    }

    fn decode_known(bytes: &[u8], index: u64) -> Option<Copy> {
        let (raw, body) = Raw::ref_from_prefix(bytes).ok()?;
        if raw.magic != MAGIC
            || raw.header_crc.get() != crc32c(&bytes[..HEADER_BYTES - 4])
            || raw.generation.get() % 2 != index
        {
            return None;
        }
        if raw.version.get() > FORMAT_VERSION {
            return Some(Copy::Newer(raw.version.get()));
        }
        let body = body.get(..raw.body_bytes.get() as usize)?;
        if raw.version.get() != FORMAT_VERSION
            || raw.slots.get() != SLOTS
            || raw.copy_bytes.get() as usize != COPY_BYTES
            || crc32c(body) != raw.body_crc.get()
        {
            return None;
        }
        let (recent, body) =
            <[RawRecent]>::ref_from_prefix_with_elems(body, raw.recent_count.get() as usize)
                .ok()?;
        let (seals, body) =
            <[RawSeal]>::ref_from_prefix_with_elems(body, raw.seal_count.get() as usize).ok()?;
        let (truncations, body) = <[RawTruncation]>::ref_from_prefix_with_elems(
            body,
            raw.truncation_count.get() as usize,
        )
        .ok()?;
        let (marks, body) =
            <[RawMark]>::ref_from_prefix_with_elems(body, raw.mark_count.get() as usize).ok()?;
        let (free, _) =
            <[U32]>::ref_from_prefix_with_elems(body, raw.free_count.get() as usize).ok()?;
        if !raw.counts_are_possible()
            || recent.iter().any(|raw| !raw.is_possible())
            || free.iter().any(|file| file.get() > FILE_NUMBER_MAX)
        {
            return None;
        }
        let reference = |id: U64, covers: U64| {
            (id.get() != 0).then(|| CheckpointRef {
                id: id.get(),
                covers: Lsn::new(covers.get()),
            })
        };
        let seals: Option<Vec<Seal>> = seals.iter().map(RawSeal::get).collect();
        let truncations: Option<Vec<Truncation>> =
            truncations.iter().map(RawTruncation::get).collect();
        let marks: Option<Vec<Mark>> = marks
            .iter()
            .map(|raw| {
                let slot = raw.slot.get();
                if slot >= SLOTS && slot != SLOT_EVERY {
                    return None;
                }
                Some(Mark {
                    slot: (slot != SLOT_EVERY).then(|| SlotId::new(slot)),
                    kind: match raw.kind {
                        1 => MarkKind::Suspect,
                        2 => MarkKind::Cut,
                        _ => return None,
                    },
                    greatest: (raw.has_greatest != 0)
                        .then(|| (Epoch::new(raw.epoch.get()), SlotSeq::new(raw.seq.get()))),
                    since_lsn: Lsn::new(raw.since_lsn.get()),
                })
            })
            .collect();
        Some(Copy::Valid(Box::new(Self {
            generation: raw.generation.get(),
            journal: JournalId::new(raw.journal_id.get()),
            disk: DiskId::new(raw.disk_id.get()),
            node: NodeId::new(raw.node_id.get()),
            journal_index: raw.journal_index.get(),
            journal_count: raw.journal_count.get(),
            boot: BootId::new(raw.boot_id.get()),
            boot_count: raw.boot_count.get(),
            segment_bytes: raw.segment_bytes.get(),
            recovered_end: Lsn::new(raw.recovered_end_lsn.get()),
            durable: Lsn::new(raw.durable_lsn.get()),
            oldest_segment_seq: raw.oldest_segment_seq.get(),
            newest: reference(raw.newest_id, raw.newest_covers),
            previous: reference(raw.previous_id, raw.previous_covers),
            recent: recent
                .iter()
                .map(|raw| Recent {
                    file: raw.file.get(),
                    seq: raw.seq.get(),
                    salt: raw.salt.get(),
                    start_lsn: Lsn::new(raw.start_lsn.get()),
                })
                .collect(),
            seals: seals?,
            truncations: truncations?,
            marks: marks?,
            free: free.iter().map(|file| file.get()).collect(),
        })))
    }

    /// Names a segment that is about to begin.
    pub(crate) fn begin(&mut self, recent: Recent) {
        self.recent.push(recent);
        if self.recent.len() > RECENT_MAX {
            self.recent.remove(0);
        }
    }
}

const _: () = assert!(BLOCK_BYTES.is_multiple_of(HEADER_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            generation: 7,
            journal: JournalId::new(1),
            disk: DiskId::new(2),
            node: NodeId::new(3),
            journal_index: 0,
            journal_count: 2,
            boot: BootId::new(4),
            boot_count: 5,
            segment_bytes: 65536,
            recovered_end: Lsn::new(4096),
            durable: Lsn::new(8192),
            oldest_segment_seq: 1,
            newest: Some(CheckpointRef {
                id: 9,
                covers: Lsn::new(4096),
            }),
            previous: None,
            recent: (1..=8)
                .map(|seq| Recent {
                    file: seq as u32,
                    seq,
                    salt: 100 + seq,
                    start_lsn: Lsn::new(seq * 4096),
                })
                .collect(),
            seals: vec![Seal {
                slot: SlotId::new(5),
                epoch: Epoch::new(9),
                last_epoch: Epoch::new(8),
                last_seq: SlotSeq::new(70),
                flushed_seq: SlotSeq::new(69),
                cut: true,
            }],
            truncations: [3, 4]
                .map(|slot| Truncation {
                    slot: SlotId::new(slot),
                    epoch: Epoch::new(9),
                    from: SlotSeq::new(60),
                    at: Lsn::new(4096),
                })
                .to_vec(),
            marks: vec![
                Mark {
                    slot: None,
                    kind: MarkKind::Suspect,
                    greatest: None,
                    since_lsn: Lsn::new(1),
                },
                Mark {
                    slot: Some(SlotId::new(6)),
                    kind: MarkKind::Cut,
                    greatest: Some((Epoch::new(3), SlotSeq::new(8))),
                    since_lsn: Lsn::new(1),
                },
            ],
            free: (0..5000).collect(),
        }
    }

    // J-1
    #[test]
    fn a_superblock_round_trips_in_its_own_copy_only() {
        let superblock = sample();
        let bytes = superblock.encode();
        assert_eq!(
            Superblock::decode(&bytes, 1),
            Copy::Valid(Box::new(superblock))
        );
        assert_eq!(Superblock::decode(&bytes, 0), Copy::Invalid);
    }

    /// The published bytes of the rows of seals and truncations. J-62, J-64
    #[test]
    fn rows_of_slots_are_the_published_ones() {
        let bytes = sample().encode();
        let at = HEADER_BYTES + RECENT_MAX * size_of::<RawRecent>();
        let mut expected = Vec::new();
        expected.extend_from_slice(&5_u16.to_le_bytes());
        expected.extend_from_slice(&[1, 0]);
        expected.extend_from_slice(&9_u32.to_le_bytes());
        expected.extend_from_slice(&8_u32.to_le_bytes());
        expected.extend_from_slice(&[0; 4]);
        expected.extend_from_slice(&70_u64.to_le_bytes());
        expected.extend_from_slice(&69_u64.to_le_bytes());
        expected.extend_from_slice(&3_u16.to_le_bytes());
        expected.extend_from_slice(&[0; 2]);
        expected.extend_from_slice(&9_u32.to_le_bytes());
        expected.extend_from_slice(&60_u64.to_le_bytes());
        expected.extend_from_slice(&4096_u64.to_le_bytes());
        assert_eq!(bytes[at..at + expected.len()], expected);
    }

    // J-1
    #[test]
    fn a_torn_or_changed_superblock_is_invalid() {
        let bytes = sample().encode();
        for at in (0..20_000).step_by(97) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Superblock::decode(&damaged, 1), Copy::Invalid, "byte {at}");
        }
        for cut in [0, 1, 511, 512, 4096, 8192] {
            assert_eq!(Superblock::decode(&bytes[..cut], 1), Copy::Invalid);
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let crc = crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Superblock::decode(&bytes, 1), Copy::Newer(2));
    }
}
