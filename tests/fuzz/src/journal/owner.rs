//! The owner of a journal's state, as far as a recovery can show it: for each partition how many entries there were and a
//! digest of all their bytes in order. It believes nothing that it is told: a cell or an entry that no writer could have
//! written is counted and left out.

use std::collections::BTreeMap;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_base::position::Lsn;
use tiderace_storage::Replay;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::entry::EntryKind;

/// The kind of the owner's cells.
pub(crate) const CELL: u8 = 16;
/// Partitions that are written to.
pub(crate) const PARTITIONS: u64 = 5;

/// The key of partition `number`.
pub(crate) fn key(number: u64) -> PartitionKey {
    PartitionKey {
        stream: StreamId::new(1 + number / 2),
        partition: PartitionIndex::new((number % 2) as u32),
    }
}

/// The partition of this key, if it is one that is written to.
fn number(key_of: PartitionKey) -> Option<u64> {
    (0..PARTITIONS).find(|number| key(*number) == key_of)
}

/// What is known of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct State {
    /// The next offset.
    pub(crate) next: u64,
    /// Entries so far.
    pub(crate) entries: u64,
    /// Of all their bytes, in order.
    pub(crate) digest: u32,
    /// Where the last one ends.
    pub(crate) applied: u64,
    /// When it was appended.
    pub(crate) time_us: u64,
}

/// The words of a cell's value.
const WORDS: usize = 5;

impl State {
    pub(crate) fn apply(&mut self, end: Lsn, next: u64, bytes_crc: u32, time_us: u64) {
        self.next = next;
        self.entries += 1;
        let both = u64::from(self.digest) << 32 | u64::from(bytes_crc);
        self.digest = crc32c(&both.to_le_bytes());
        self.applied = end.get();
        self.time_us = time_us;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let words: [u64; WORDS] = [
            self.next,
            self.entries,
            u64::from(self.digest),
            self.applied,
            self.time_us,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: [[u8; 8]; WORDS] = words.try_into().ok()?;
        let [next, entries, digest, applied, time_us] = words.map(u64::from_le_bytes);
        let digest = u32::try_from(digest).ok()?;
        rest.is_empty().then_some(Self {
            next,
            entries,
            digest,
            applied,
            time_us,
        })
    }
}

/// What a recovery told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Owner {
    pub(crate) states: BTreeMap<u64, State>,
    /// Cells and entries that this owner never wrote.
    pub(crate) strange: u64,
    last: Lsn,
}

impl Owner {
    /// Entries of all partitions together.
    pub(crate) fn entries(&self) -> u64 {
        self.states
            .values()
            .fold(0, |sum, state| sum.saturating_add(state.entries))
    }

    fn take_cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) -> Option<()> {
        let number = u64::from_le_bytes(*key.as_array()?);
        if kind != CELL || number >= PARTITIONS {
            return None;
        }
        match value {
            Some(value) => self.states.insert(number, State::decode(value)?),
            None => self.states.remove(&number),
        };
        Some(())
    }

    fn take_entry(&mut self, end: Lsn, header: &BatchHeader, body: &[u8]) -> Option<()> {
        match header.entry_kind().ok()? {
            EntryKind::Data => {}
            EntryKind::EpochStart => return Some(()),
            _ => return None,
        }
        let state = self.states.entry(number(header.key())?).or_default();
        if state.applied >= end.get() {
            return Some(());
        }
        if state.next != header.base_offset().get() {
            return None;
        }
        let bytes = [header.bytes(), body].concat();
        state.apply(
            end,
            header.next_offset().get(),
            crc32c(&bytes),
            header.append_time_us(),
        );
        Some(())
    }
}

impl Replay for Owner {
    fn cell(&mut self, kind: u8, key: &[u8], value: Option<&[u8]>) {
        assert!(kind >= CELL, "the journal's own cells are its own business");
        if self.take_cell(kind, key, value).is_none() {
            self.strange += 1;
        }
    }

    fn entry(&mut self, lsn: Lsn, end: Lsn, header: &BatchHeader, body: &[u8]) {
        assert!(lsn >= self.last, "entries come in LSN order");
        self.last = end;
        assert_eq!(
            end.get() - lsn.get(),
            (BATCH_HEADER_BYTES + body.len()) as u64,
            "an entry takes what it has"
        );
        assert_eq!(header.check_producer(body.len()), Ok(()), "J-4");
        assert_eq!(header.check_placement(), Ok(()), "J-4");
        assert_eq!(header.check_body(body), Ok(()), "J-4");
        if self.take_entry(end, header, body).is_none() {
            self.strange += 1;
        }
    }
}
