//! Journals that were written here, each another shape: young, grown over several segments, with checkpoints and footers, with
//! segments that were released and used again over several starts, and one that lost power in the middle of a chunk. Of each,
//! every entry is known, and what its files were earlier.

use crate::journal::disk::ImageDisk;
use crate::journal::driver::{Driven, settings, start};
use crate::journal::owner::{PARTITIONS, State, key};
use std::sync::LazyLock;
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::JournalFile;
use tiderace_base::ids::{ProducerId, SlotId};
use tiderace_base::limits::{BLOCK_BYTES, KIB};
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq};
use tiderace_base::prng::Prng;
use tiderace_storage::{Class, EntryMeta, Placed, Refused};
use tiderace_wire::batch::{Attributes, BatchHeader, Placement, ProducerPart};
use tiderace_wire::entry::EntryKind;

/// An entry, as it was appended.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) partition: u64,
    pub(crate) base: u64,
    pub(crate) next: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A journal without power, and everything that is known of it.
pub(crate) struct Written {
    pub(crate) disk: ImageDisk,
    /// What its files were earlier.
    pub(crate) older: ImageDisk,
    pub(crate) entries: Vec<Entry>,
    /// The owner's states after so many entries.
    pub(crate) after: Vec<[State; PARTITIONS as usize]>,
    /// Where each partition starts: entries before it may be gone.
    pub(crate) starts: [u64; PARTITIONS as usize],
    pub(crate) checkpoint_every_bytes: u64,
}

/// All of them, in the order in which an input counts them.
pub(crate) static ALL: LazyLock<Vec<Written>> = LazyLock::new(|| {
    vec![
        Writing::new(1, u64::MAX).entries(12).end(),
        Writing::new(2, u64::MAX)
            .entries(60)
            .older()
            .entries(90)
            .end(),
        Writing::new(3, 48 * KIB as u64)
            .entries(120)
            .older()
            .entries(110)
            .end(),
        Writing::new(4, 32 * KIB as u64)
            .entries(120)
            .released()
            .restarted()
            .entries(100)
            .older()
            .released()
            .entries(60)
            .released()
            .restarted()
            .entries(40)
            .end(),
        Writing::new(5, 48 * KIB as u64)
            .entries(90)
            .older()
            .entries(30)
            .torn(),
    ]
});

/// An entry to append: its header is placed.
pub(crate) struct Drawn {
    bytes: Vec<u8>,
    meta: EntryMeta,
    partition: u64,
    time_us: u64,
}

/// Draws the next entry of a partition.
pub(crate) fn draw(prng: &mut Prng, partition: u64, state: State, slot_seq: u64) -> Drawn {
    let mut body = vec![0; prng.range(1, 900) as usize];
    prng.fill(&mut body);
    let records = 1 + prng.below(5);
    let time_us = state.time_us + prng.below(3);
    let mut header = BatchHeader::producer(ProducerPart {
        attributes: Attributes::NONE,
        key: key(partition),
        record_count: records as u32,
        body_bytes: body.len() as u32,
        body_crc: crc32c(&body),
        producer_id: ProducerId::new(0),
        producer_seq: ProducerSeq::ZERO,
        producer_epoch: ProducerEpoch::ZERO,
        schema_id: 0,
        first_time_us: 0,
        time_span_us: 0,
    });
    let slot = SlotId::new(partition as u16);
    let slot_seq = SlotSeq::new(slot_seq);
    header.place(Placement {
        base_offset: Offset::new(state.next),
        slot_seq,
        epoch: Epoch::new(1),
        slot,
        entry_kind: EntryKind::Data,
        append_time_us: time_us,
    });
    Drawn {
        bytes: [header.bytes(), body.as_slice()].concat(),
        meta: EntryMeta {
            key: Some(key(partition)),
            slot,
            epoch: Epoch::new(1),
            slot_seq,
            base_offset: Offset::new(state.next),
            next_offset: Offset::new(state.next + records),
            append_time_us: time_us,
        },
        partition,
        time_us,
    }
}

/// Appends an entry and applies it to the owner's state.
///
/// # Errors
/// As the journal refuses it; nothing was applied then.
pub(crate) fn append(driven: &mut Driven, drawn: &Drawn) -> Result<Entry, Refused> {
    let mut draft = driven.journal.draft(Class::Data, drawn.bytes.len())?;
    draft.copy(&drawn.bytes);
    let Placed { end, .. } = draft.commit(drawn.meta);
    let state = driven.owner.states.entry(drawn.partition).or_default();
    let base = state.next;
    let next = drawn.meta.next_offset.get();
    state.apply(end, next, crc32c(&drawn.bytes), drawn.time_us);
    Ok(Entry {
        partition: drawn.partition,
        base,
        next,
        bytes: drawn.bytes.clone(),
    })
}

struct Writing {
    driven: Option<Driven>,
    prng: Prng,
    entries: Vec<Entry>,
    after: Vec<[State; PARTITIONS as usize]>,
    older: ImageDisk,
    checkpoint_every_bytes: u64,
    seed: u64,
    boots: u64,
}

impl Writing {
    fn new(seed: u64, checkpoint_every_bytes: u64) -> Self {
        let mut writing = Self {
            driven: None,
            prng: Prng::new(seed),
            entries: Vec::new(),
            after: vec![[State::default(); PARTITIONS as usize]],
            older: ImageDisk::default(),
            checkpoint_every_bytes,
            seed,
            boots: 0,
        };
        writing.open(ImageDisk::default());
        writing.older = writing.driven().disk.clone();
        writing
    }

    fn driven(&mut self) -> &mut Driven {
        self.driven.as_mut().expect("it is open")
    }

    fn open(&mut self, disk: ImageDisk) {
        self.boots += 1;
        let settings = settings(self.seed * 1000 + self.boots, self.checkpoint_every_bytes);
        let driven = start(disk, settings).map_err(|(error, _)| error);
        let driven = driven.expect("an undamaged journal opens");
        assert_eq!(driven.owner.entries(), self.entries.len() as u64);
        self.driven = Some(driven);
        self.driven().settle();
    }

    fn entries(mut self, count: usize) -> Self {
        for _ in 0..count {
            let partition = self.prng.below(PARTITIONS);
            let slot_seq = self.entries.len() as u64 + 1;
            let state = self.driven().owner.states.get(&partition).copied();
            let drawn = draw(
                &mut self.prng,
                partition,
                state.unwrap_or_default(),
                slot_seq,
            );
            let entry = match append(self.driven(), &drawn) {
                Ok(entry) => entry,
                Err(refused) => {
                    assert_eq!(refused, Refused::Busy);
                    self.driven().settle();
                    append(self.driven(), &drawn).expect("a settled journal has room")
                }
            };
            self.entries.push(entry);
            let states = self.driven().owner.states.clone();
            self.after.push(std::array::from_fn(|at| {
                states.get(&(at as u64)).copied().unwrap_or_default()
            }));
            if self.prng.chance(1, 4) {
                self.driven().settle();
            }
        }
        self.driven().settle();
        self
    }

    /// What the files are now is what they were earlier.
    fn older(mut self) -> Self {
        self.older = self.driven().disk.clone();
        self
    }

    /// Every partition starts near its end, and what nobody needs goes.
    fn released(mut self) -> Self {
        let driven = self.driven();
        let ends: Vec<(u64, u64)> = driven
            .owner
            .states
            .iter()
            .map(|(n, state)| (*n, state.next))
            .collect();
        for (number, end) in ends {
            driven.starts.insert(number, end.saturating_sub(3));
        }
        for _ in 0..3 {
            driven.reclaim();
            driven.settle();
        }
        self
    }

    fn restarted(mut self) -> Self {
        let driven = self.driven.take().expect("it is open");
        let starts = driven.starts.clone();
        self.open(driven.disk);
        self.driven().starts = starts;
        self
    }

    /// A pause, in which the closing chunk is written, and then no power.
    fn end(mut self) -> Written {
        self.driven().pass(20_000_000);
        self.driven().settle();
        self.written()
    }

    /// The power goes while the last chunk is written: only its first block is there.
    fn torn(mut self) -> Written {
        let before = self.driven().disk.clone();
        let end = self.entries.len();
        for _ in 0..8 {
            self = self.entries(1);
        }
        let changed = |name: &JournalFile| {
            matches!(name, JournalFile::Segment(_))
                && before.bytes(*name)
                    != self
                        .driven
                        .as_ref()
                        .and_then(|driven| driven.disk.bytes(*name))
        };
        let names = before.names();
        let file = *names
            .iter()
            .find(|name| changed(name))
            .expect("a segment grew");
        let now = self.driven().disk.bytes(file).expect("it is there");
        let was = before.bytes(file).expect("it was there");
        let first = (0..was.len())
            .step_by(BLOCK_BYTES)
            .find(|at| now[*at..][..BLOCK_BYTES] != was[*at..][..BLOCK_BYTES]);
        let first = first.expect("a block changed");
        let mut torn = was;
        torn[first..first + BLOCK_BYTES].copy_from_slice(&now[first..first + BLOCK_BYTES]);
        let disk = &mut self.driven().disk;
        *disk = before.clone();
        disk.put(file, &torn);
        assert!(self.entries.len() > end);
        self.written()
    }

    fn written(mut self) -> Written {
        let driven = self.driven.take().expect("it is open");
        let starts = driven.starts;
        Written {
            disk: driven.disk,
            older: self.older,
            entries: self.entries,
            after: self.after,
            starts: std::array::from_fn(|at| starts.get(&(at as u64)).copied().unwrap_or(0)),
            checkpoint_every_bytes: self.checkpoint_every_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journals_have_every_kind_of_file_and_share_none() {
        let has = |written: &Written, wanted: fn(&JournalFile) -> bool| {
            written.disk.names().iter().any(wanted)
        };
        for written in ALL.iter() {
            assert!(has(written, |name| *name == JournalFile::Superblock));
            assert_ne!(written.disk, written.older);
        }
        let third = &ALL[2];
        assert!(has(third, |name| matches!(name, JournalFile::Footer(_))));
        assert!(has(third, |name| matches!(
            name,
            JournalFile::Checkpoint(_)
        )));
        assert!(ALL[3].starts.iter().all(|start| *start > 0));
        let sizes: Vec<usize> = ALL
            .iter()
            .map(|written| written.disk.names().len())
            .collect();
        assert!(
            sizes.iter().all(|files| (2..40).contains(files)),
            "{sizes:?}"
        );
    }
}
