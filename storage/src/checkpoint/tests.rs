//! Parts against a model of cells, damage at every byte and length, and chains against a disk that keeps only what the chain
//! has not given up.

use super::part::encode_header;
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::ids::JournalId;
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Lsn;
use tiderace_base::prng::Prng;
use tiderace_base::region::aligned_zeroed;

const JOURNAL: JournalId = JournalId::new(0xabcd);

/// Files in memory. Counts the largest read, to hold the reader to its bound.
#[derive(Default)]
struct Files {
    files: BTreeMap<JournalFile, Vec<u8>>,
    read_bytes_max: usize,
    /// After this many reads, one byte of every further read is wrong.
    reads_true: Option<usize>,
}

impl Files {
    fn of(id: u64, bytes: &[u8]) -> Self {
        let mut files = Self::default();
        files
            .files
            .insert(JournalFile::Checkpoint(id), bytes.to_vec());
        files
    }

    fn bytes(&mut self, id: u64) -> &mut Vec<u8> {
        self.files
            .get_mut(&JournalFile::Checkpoint(id))
            .expect("it is there")
    }
}

impl Disk for Files {
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError> {
        Ok(self.files.keys().copied().collect())
    }

    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError> {
        Ok(self.files.get(&file).ok_or(DiskError::Absent)?.len() as u64)
    }

    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.read_bytes_max = self.read_bytes_max.max(into.len());
        let bytes = self.files.get(&file).ok_or(DiskError::Absent)?;
        let from = bytes
            .get(at as usize..at as usize + into.len())
            .ok_or(DiskError::Short)?;
        into.copy_from_slice(from);
        if let Some(left) = &mut self.reads_true {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => into[9] ^= 1,
            }
        }
        Ok(())
    }

    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        assert_eq!(at as usize % BLOCK_BYTES, 0);
        assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        let content = self.files.entry(file).or_default();
        let end = at as usize + bytes.len();
        content.resize(content.len().max(end), 0);
        content[at as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, _: JournalFile) -> Result<(), DiskError> {
        Ok(())
    }

    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        self.files.insert(file, vec![0; bytes as usize]);
        Ok(())
    }

    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        self.files
            .get_mut(&file)
            .ok_or(DiskError::Absent)?
            .truncate(bytes as usize);
        Ok(())
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        self.files
            .remove(&file)
            .ok_or(DiskError::Absent)
            .map(|_| ())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Owned {
    kind: u8,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Owned {
    fn of(cell: Cell<'_>) -> Self {
        Self {
            kind: cell.kind,
            key: cell.key.to_vec(),
            value: cell.value.map(<[u8]>::to_vec),
        }
    }

    fn cell(&self) -> Cell<'_> {
        Cell {
            kind: self.kind,
            key: &self.key,
            value: self.value.as_deref(),
        }
    }
}

fn bytes(prng: &mut Prng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    prng.fill(&mut bytes);
    bytes
}

fn cells(prng: &mut Prng, count: u64, large: bool) -> Vec<Owned> {
    (0..count)
        .map(|_| {
            let key = prng.below(40) as usize;
            let value = match prng.below(20) {
                0 => None,
                1 if large => Some(CELL_VALUE_BYTES_MAX - prng.below(20) as usize),
                2 => Some(0),
                _ => Some(prng.below(300) as usize),
            };
            Owned {
                kind: prng.range(1, 256) as u8,
                key: bytes(prng, key),
                value: value.map(|length| bytes(prng, length)),
            }
        })
        .collect()
}

/// Writes a part as the journal does: pieces as they come, the header last.
fn write(disk: &mut Files, id: u64, parent: u64, covers: u64, cells: &[Owned]) -> Part {
    let file = JournalFile::Checkpoint(id);
    disk.create(file, 0).expect("files in memory");
    let mut writer = PartWriter::new(JOURNAL, id, parent, Lsn::new(covers));
    let mut at = BLOCK_BYTES as u64;
    let mut take = |writer: &mut PartWriter| {
        while let Some(piece) = writer.take() {
            if piece.at != 0 {
                assert_eq!(piece.at, at, "pieces follow one another");
                at += piece.data.len() as u64;
            } else {
                assert!(
                    PartReader::verify(disk, JOURNAL, id).is_err(),
                    "no header yet"
                );
            }
            assert!(piece.data.len() <= PIECE_BYTES);
            assert_eq!(piece.data.as_ptr().align_offset(BLOCK_BYTES), 0);
            disk.write(file, piece.at, &piece.data)
                .expect("files in memory");
        }
    };
    for cell in cells {
        writer.push(cell.cell()).expect("the cell is within bounds");
        assert!(writer.backlog_bytes() <= PIECE_BYTES + CELL_BYTES_MAX);
        take(&mut writer);
        assert!(writer.backlog_bytes() < PIECE_BYTES);
        assert_eq!(writer.finished(), None);
    }
    writer.finish();
    take(&mut writer);
    assert_eq!(writer.backlog_bytes(), 0);
    *writer.finished().expect("it is finished")
}

fn replay(disk: &mut Files, reader: &PartReader) -> Vec<Owned> {
    let mut cells = Vec::new();
    reader
        .replay(disk, &mut |cell| cells.push(Owned::of(cell)))
        .expect("it was verified");
    cells
}

#[test]
fn what_was_pushed_comes_back_in_order_within_bounded_memory() {
    for seed in 0..40 {
        let mut prng = Prng::new(seed);
        let mut disk = Files::default();
        let count = prng.below(400);
        let cells = cells(&mut prng, count, seed % 4 == 0);
        let part = write(&mut disk, 5, 3, 77, &cells);
        let reader = PartReader::verify(&mut disk, JOURNAL, 5).expect("it is complete");
        assert_eq!(reader.part(), &part);
        assert_eq!(
            (part.parent, part.covers, part.cell_count),
            (3, Lsn::new(77), count)
        );
        assert_eq!(replay(&mut disk, &reader), cells, "seed {seed}");
        assert!(disk.read_bytes_max <= PIECE_BYTES);
    }
}

// J-50
#[test]
fn cells_round_trip_and_every_prefix_is_short() {
    let mut prng = Prng::new(1);
    for owned in cells(&mut prng, 200, false) {
        let mut encoded = Vec::new();
        owned
            .cell()
            .encode(&mut encoded)
            .expect("it is within bounds");
        assert_eq!(encoded.len(), owned.cell().encoded_bytes());
        for length in 0..encoded.len() {
            assert_eq!(Cell::decode(&encoded[..length]), Err(CellError::Short));
        }
        let length = encoded.len();
        encoded.push(7);
        assert_eq!(Cell::decode(&encoded), Ok((owned.cell(), length)));
    }
}

// J-50
#[test]
fn cells_beyond_a_bound_are_refused_on_both_ways() {
    let long_key = vec![1; CELL_KEY_BYTES_MAX + 1];
    let long_value = vec![1; CELL_VALUE_BYTES_MAX + 1];
    let good = Cell {
        kind: 16,
        key: b"k",
        value: Some(b"v"),
    };
    let mut writer = PartWriter::new(JOURNAL, 1, NO_PARENT, Lsn::ZERO);
    for (cell, error) in [
        (Cell { kind: 0, ..good }, CellError::Kind),
        (
            Cell {
                key: &long_key,
                ..good
            },
            CellError::Key,
        ),
        (
            Cell {
                value: Some(&long_value),
                ..good
            },
            CellError::Value,
        ),
    ] {
        assert_eq!(cell.encode(&mut Vec::new()), Err(error));
        assert_eq!(writer.push(cell), Err(error));
    }
    assert_eq!(writer.backlog_bytes(), 0);
    for (head, error) in [
        ([0, 0, 1, 0, 1, 0, 0, 0], CellError::Kind),
        ([1, 2, 1, 0, 1, 0, 0, 0], CellError::Flags(2)),
        ([1, 0, 1, 4, 1, 0, 0, 0], CellError::Key),
        ([1, 0, 1, 0, 1, 0, 4, 0], CellError::Value),
        ([1, 0, 1, 0, 255, 255, 255, 255], CellError::Value),
        ([1, 1, 1, 0, 1, 0, 0, 0], CellError::Value),
    ] {
        assert_eq!(Cell::decode(&head), Err(error));
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut prng = Prng::new(2);
    for _ in 0..20_000 {
        let length = prng.below(60) as usize;
        let bytes = bytes(&mut prng, length);
        if let Ok((cell, length)) = Cell::decode(&bytes) {
            let mut again = Vec::new();
            cell.encode(&mut again)
                .expect("what is read can be written");
            assert_eq!(again, &bytes[..length]);
        }
    }
    for _ in 0..300 {
        let length = prng.below(4) as usize * BLOCK_BYTES + prng.below(2) as usize * 100;
        let mut disk = Files::of(1, &bytes(&mut prng, length));
        assert!(PartReader::verify(&mut disk, JOURNAL, 1).is_err());
    }
}

// J-51, J-52
#[test]
fn damage_at_any_byte_and_any_length_is_detected() {
    let mut prng = Prng::new(3);
    let mut disk = Files::default();
    let cells = cells(&mut prng, 40, false);
    write(&mut disk, 9, 4, 1, &cells);
    let good = disk.bytes(9).clone();
    assert!(good.len() >= 3 * BLOCK_BYTES);
    for at in 0..good.len() {
        let bit = 1 << prng.below(8);
        disk.bytes(9)[at] ^= bit;
        assert!(
            PartReader::verify(&mut disk, JOURNAL, 9).is_err(),
            "byte {at}"
        );
        disk.bytes(9)[at] ^= bit;
    }
    for length in 0..good.len() {
        let mut disk = Files::of(9, &good[..length]);
        assert!(
            PartReader::verify(&mut disk, JOURNAL, 9).is_err(),
            "{length} bytes"
        );
    }
    for more in [1, BLOCK_BYTES] {
        let mut longer = good.clone();
        longer.resize(good.len() + more, 0);
        let found = PartReader::verify(&mut Files::of(9, &longer), JOURNAL, 9);
        assert_eq!(found, Err(PartError::Length));
    }
    let found = PartReader::verify(&mut disk, JournalId::new(1), 9);
    assert_eq!(found, Err(PartError::Foreign));
    let found = PartReader::verify(&mut Files::of(8, &good), JOURNAL, 8);
    assert_eq!(found, Err(PartError::Foreign));
    let found = PartReader::verify(&mut disk, JOURNAL, 8);
    assert_eq!(found, Err(PartError::Disk(DiskError::Absent)));
}

// J-51: any set of blocks that reached the disk, short of all, is no part.
#[test]
fn a_half_written_part_never_parses() {
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let mut whole = Files::default();
        let cells = cells(&mut prng, 120, false);
        write(&mut whole, 2, NO_PARENT, 1, &cells);
        let good = whole.bytes(2).clone();
        let mut half = good.clone();
        let blocks = good.len() / BLOCK_BYTES;
        let lost = prng.below(blocks as u64) as usize;
        for block in 0..blocks {
            if block == lost || prng.chance(1, 3) {
                half[block * BLOCK_BYTES..][..BLOCK_BYTES].fill(0);
            }
        }
        assert!(PartReader::verify(&mut Files::of(2, &half), JOURNAL, 2).is_err());
    }
}

// J-53
#[test]
fn no_cell_of_a_damaged_part_is_handed_out_and_a_disk_that_changes_its_mind_is_noticed() {
    let mut prng = Prng::new(4);
    let mut disk = Files::default();
    let cells = cells(&mut prng, 3000, false);
    write(&mut disk, 1, NO_PARENT, 1, &cells);
    let reader = PartReader::verify(&mut disk, JOURNAL, 1).expect("it is complete");
    let reads = 2;
    disk.reads_true = Some(reads - 1);
    let found = reader.replay(&mut disk, &mut |_| {});
    assert_eq!(found, Err(PartError::BodyChecksum));
    // Verification hands out nothing by its very form, and reads to the end before it says yes.
    disk.reads_true = Some(reads);
    let found = PartReader::verify(&mut disk, JOURNAL, 1);
    assert_eq!(found, Err(PartError::BodyChecksum));
}

/// A part with this body and good checksums, however wrong the body is.
fn forged(part: &Part, body: &[u8]) -> Vec<u8> {
    let mut file = aligned_zeroed(BLOCK_BYTES).to_vec();
    file.extend_from_slice(body);
    file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
    let crc = crc32c(&file[BLOCK_BYTES..]);
    encode_header(&mut file[..BLOCK_BYTES], JOURNAL, part, crc);
    file
}

#[test]
fn nonsense_with_good_checksums_is_refused_without_a_panic() {
    let part = Part {
        id: 3,
        parent: 1,
        covers: Lsn::ZERO,
        cell_count: 1,
        body_bytes: 10,
    };
    let verify = |part: Part, body: &[u8]| {
        PartReader::verify(&mut Files::of(3, &forged(&part, body)), JOURNAL, 3).map(|_| ())
    };
    let good = [16, 0, 1, 0, 1, 0, 0, 0, 5, 6];
    assert_eq!(verify(part, &good), Ok(()));
    assert_eq!(
        verify(
            Part {
                cell_count: 2,
                ..part
            },
            &good
        ),
        Err(PartError::Malformed)
    );
    assert_eq!(
        verify(
            Part {
                body_bytes: 9,
                ..part
            },
            &good
        ),
        Err(PartError::Malformed)
    );
    assert_eq!(
        verify(
            Part {
                body_bytes: 11,
                ..part
            },
            &good
        ),
        Err(PartError::Malformed)
    );
    assert_eq!(
        verify(
            Part {
                body_bytes: 20,
                ..part
            },
            &good
        ),
        Err(PartError::Cell {
            at: 10,
            error: CellError::Kind
        })
    );
    assert_eq!(
        verify(
            Part {
                body_bytes: u64::MAX,
                ..part
            },
            &good
        ),
        Err(PartError::Length)
    );
    assert_eq!(
        verify(
            Part {
                body_bytes: 4097,
                ..part
            },
            &good
        ),
        Err(PartError::Length)
    );
    // J-54
    assert_eq!(
        verify(Part { parent: 3, ..part }, &good),
        Err(PartError::Malformed)
    );
    let mut newer = forged(&part, &good);
    newer[8] = 2;
    let crc = crc32c(&newer[..BLOCK_BYTES - 4]);
    newer[BLOCK_BYTES - 4..BLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
    let found = PartReader::verify(&mut Files::of(3, &newer), JOURNAL, 3);
    assert_eq!(found, Err(PartError::Version(2)));
    for seed in 0..3000 {
        let mut prng = Prng::new(seed);
        let mut body = Vec::new();
        let cells = cells(&mut prng, 12, false);
        for cell in &cells {
            cell.cell().encode(&mut body).expect("it is within bounds");
        }
        for _ in 0..prng.range(1, 5) {
            let at = prng.below(body.len() as u64) as usize;
            body[at] = prng.next_u64() as u8;
        }
        let part = Part {
            cell_count: 12,
            body_bytes: body.len() as u64,
            ..part
        };
        // Damage to a key or a value alone cannot be seen behind a good checksum; nothing panics.
        let _ = verify(part, &body);
    }
}

/// The published bytes of a part with one cell and one removal.
#[test]
fn the_layout_is_the_published_one() {
    let mut disk = Files::default();
    let cells = [
        Owned {
            kind: 16,
            key: b"key".to_vec(),
            value: Some(b"value".to_vec()),
        },
        Owned {
            kind: 17,
            key: b"gone".to_vec(),
            value: None,
        },
    ];
    write(&mut disk, 0x22, 0x11, 0x33, &cells);
    let mut expected = vec![0; 2 * BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"TRCKPT01");
    put(8, &1_u32.to_le_bytes());
    put(16, &0xabcd_u64.to_le_bytes());
    put(24, &0x22_u64.to_le_bytes());
    put(32, &0x11_u64.to_le_bytes());
    put(40, &0x33_u64.to_le_bytes());
    put(48, &2_u64.to_le_bytes());
    put(56, &28_u64.to_le_bytes());
    put(4096, &[16, 0, 3, 0, 5, 0, 0, 0]);
    put(4104, b"keyvalue");
    put(4112, &[17, 1, 4, 0, 0, 0, 0, 0]);
    put(4120, b"gone");
    let body = crc32c(&expected[BLOCK_BYTES..]);
    expected[12..16].copy_from_slice(&body.to_le_bytes());
    let header = crc32c(&expected[..4092]);
    expected[4092..4096].copy_from_slice(&header.to_le_bytes());
    assert_eq!(*disk.bytes(0x22), expected);
}

// J-59
#[test]
fn segment_rows_round_trip_and_others_are_refused() {
    let row = SegmentRow {
        seq: 0x11,
        file: 0x22,
        last_crc: 0x33,
        salt: 0x44,
        start: Lsn::new(0x55),
        end: Lsn::new(0x66),
    };
    row.with_cell(|cell| {
        assert_eq!(cell.kind, kind::SEGMENT);
        assert_eq!(cell.key, 0x11_u64.to_le_bytes());
        let value = cell.value.expect("a row has a value");
        let words: Vec<_> = value.chunks(4).map(|word| word[0]).collect();
        assert_eq!(words, [0x22, 0x33, 0x44, 0, 0x55, 0, 0x66, 0]);
        assert_eq!(SegmentRow::decode(cell.key, value), Ok(row));
        assert_eq!(
            SegmentRow::decode(&cell.key[1..], value),
            Err(SegmentRowError::Key)
        );
        assert_eq!(
            SegmentRow::decode(cell.key, &value[1..]),
            Err(SegmentRowError::Length)
        );
    });
    let backwards = SegmentRow {
        end: Lsn::ZERO,
        ..row
    };
    let found = SegmentRow::decode(&backwards.key(), &backwards.value());
    assert_eq!(found, Err(SegmentRowError::Order));
    SegmentRow::with_removal(0x11, |cell| {
        assert_eq!(SegmentRow::decode_seq(cell.key), Ok(0x11));
        assert_eq!(cell.value, None);
    });
}

fn ids(disk: &mut Files) -> Vec<u64> {
    let files = disk.list().expect("files in memory");
    files
        .into_iter()
        .filter_map(|file| match file {
            JournalFile::Checkpoint(id) => Some(id),
            JournalFile::Superblock | JournalFile::Segment(_) | JournalFile::Footer(_) => None,
        })
        .collect()
}

type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// The state that a checkpoint holds, read as recovery does.
fn load(disk: &mut Files, newest: u64) -> (Vec<Part>, State) {
    let readers = verify_chain(disk, JOURNAL, newest).expect("no part that is needed was given up");
    let mut state = State::new();
    for reader in &readers {
        for cell in replay(disk, reader) {
            match cell.value {
                Some(value) => state.insert(cell.key, value),
                None => state.remove(&cell.key),
            };
        }
    }
    (readers.iter().map(|reader| *reader.part()).collect(), state)
}

fn remove(disk: &mut Files, gone: &[u64], never_again: &mut BTreeSet<u64>) {
    for id in gone {
        assert!(never_again.insert(*id), "a file is given up once");
        // An abandoned part's file may be absent.
        let _ = disk.remove(JournalFile::Checkpoint(*id));
    }
}

// J-54, J-56, J-57, J-58: through crashes before and after the superblock and parts that found no space, both
// checkpoints stay whole, nothing else stays, and no number comes twice.
#[test]
fn both_checkpoints_stay_whole_and_nothing_else_stays() {
    for seed in 0..30 {
        let mut prng = Prng::new(seed);
        let mut disk = Files::default();
        let mut chain = Chain::default();
        let mut state = State::new();
        let mut dirty: BTreeSet<Vec<u8>> = BTreeSet::new();
        // What the superblock says, and what the state was then.
        let mut named: Vec<(u64, State)> = Vec::new();
        let mut gone_for_ever = BTreeSet::new();
        let mut spent = BTreeSet::new();
        for round in 0..120_u64 {
            for _ in 0..prng.below(30) {
                let key = vec![prng.below(60) as u8];
                if prng.chance(1, 4) {
                    state.remove(&key);
                } else {
                    let length = prng.below(200) as usize;
                    state.insert(key.clone(), bytes(&mut prng, length));
                }
                dirty.insert(key);
            }
            let next = chain.begin(prng.chance(1, 12));
            assert!(
                spent.insert(next.id),
                "seed {seed}: number {} came twice",
                next.id
            );
            let cells: Vec<Owned> = if next.parent == NO_PARENT {
                state.keys().cloned().collect::<Vec<_>>()
            } else {
                dirty.iter().cloned().collect()
            }
            .into_iter()
            .map(|key| Owned {
                kind: 16,
                value: state.get(&key).cloned(),
                key,
            })
            .collect();
            if prng.chance(1, 10) {
                // No space: sometimes before there is a file.
                if prng.chance(1, 2) {
                    disk.create(JournalFile::Checkpoint(next.id), 0)
                        .expect("in memory");
                }
                let gone = chain.abandon();
                assert_eq!(gone, [next.id]);
                remove(&mut disk, &gone, &mut gone_for_ever);
                continue;
            }
            let part = write(&mut disk, next.id, next.parent, round, &cells);
            let named_now = prng.chance(9, 10);
            let crash = !named_now || prng.chance(1, 6);
            if named_now {
                named.push((next.id, state.clone()));
                dirty.clear();
            }
            if crash {
                let kept = named.len().saturating_sub(2);
                named.drain(..kept);
                let mut chains: Vec<Vec<Part>> =
                    named.iter().map(|(id, _)| load(&mut disk, *id).0).collect();
                let newest = chains.pop().unwrap_or_default();
                let previous = chains.pop().unwrap_or_default();
                let files = ids(&mut disk);
                chain = Chain::recovered(newest, previous, files);
                let gone = chain.give_up();
                remove(&mut disk, &gone, &mut gone_for_ever);
                // What was not named is lost: the owner replays the log and marks it dirty again.
                if !named_now {
                    dirty.extend((0..60).map(|key| vec![key]));
                }
            } else {
                let gone = chain.commit(part);
                remove(&mut disk, &gone, &mut gone_for_ever);
            }
            let kept = named.len().saturating_sub(2);
            named.drain(..kept);
            for (id, then) in &named {
                assert_eq!(&load(&mut disk, *id).1, then, "seed {seed}, part {id}");
            }
            let needed: BTreeSet<u64> = chain.needed().collect();
            assert_eq!(ids(&mut disk), needed.into_iter().collect::<Vec<_>>());
            let newest: Vec<u64> = named.iter().map(|(id, _)| *id).collect();
            let by_chain: Vec<u64> = [chain.previous(), chain.newest()]
                .into_iter()
                .flatten()
                .map(|part| part.id)
                .collect();
            assert_eq!(by_chain, newest);
            let both = chain.covered_by_both().map(Lsn::get);
            let expected = chain.previous().map(|part| part.covers.get());
            assert_eq!(both, expected);
        }
    }
}

// J-57
#[test]
fn numbers_of_strangers_and_of_absent_parts_are_spent() {
    let base = Part {
        id: 4,
        parent: NO_PARENT,
        covers: Lsn::ZERO,
        cell_count: 0,
        body_bytes: 0,
    };
    // The superblock names 6, which is damaged, and 4; 9 was being written.
    let mut chain = Chain::recovered(vec![base], Vec::new(), [4, 9, 6]);
    assert_eq!(chain.covered_by_both(), None);
    assert_eq!(chain.begin(false), Next { id: 10, parent: 4 });
    assert_eq!(chain.give_up(), [6, 9]);
    assert_eq!(chain.abandon(), [10]);
}

// J-55
#[test]
fn a_base_is_due_when_the_deltas_outgrow_it_or_the_parts_are_too_many() {
    let part = |next: Next, body_bytes: u64| Part {
        id: next.id,
        parent: next.parent,
        covers: Lsn::ZERO,
        cell_count: 0,
        body_bytes,
    };
    for (delta_bytes, parts) in [(0, PARTS_MAX), (100_000, 17), (DELTA_SLACK_BYTES, 4)] {
        let mut chain = Chain::default();
        assert!(chain.next_is_base());
        let mut bases = Vec::new();
        for count in 0..3 * parts {
            let next = chain.begin(false);
            if next.parent == NO_PARENT {
                bases.push(count);
                chain.commit(part(next, 500_000));
            } else {
                chain.commit(part(next, delta_bytes));
            }
            assert!(chain.size().0 <= PARTS_MAX);
        }
        assert_eq!(bases[1] - bases[0], bases[2] - bases[1]);
        assert_eq!(
            bases[1],
            match delta_bytes {
                0 => PARTS_MAX,
                // The first sum above 500,000 + 1 MiB.
                100_000 => 1 + 16,
                _ => 1 + 2,
            }
        );
    }
}

// J-54
#[test]
fn a_chain_with_a_missing_damaged_or_contradicting_part_is_refused_by_name() {
    let mut disk = Files::default();
    let cells = cells(&mut Prng::new(8), 20, false);
    write(&mut disk, 1, NO_PARENT, 10, &cells);
    write(&mut disk, 2, 1, 20, &cells);
    write(&mut disk, 3, 2, 30, &cells);
    let ids: Vec<u64> = verify_chain(&mut disk, JOURNAL, 3)
        .expect("it is whole")
        .iter()
        .map(|reader| reader.part().id)
        .collect();
    assert_eq!(ids, [1, 2, 3]);
    write(&mut disk, 4, 3, 29, &cells);
    let found = verify_chain(&mut disk, JOURNAL, 4);
    assert_eq!(
        found,
        Err(ChainError {
            part: 3,
            error: PartError::Malformed
        })
    );
    disk.bytes(2)[5000] ^= 1;
    let found = verify_chain(&mut disk, JOURNAL, 3);
    assert_eq!(
        found,
        Err(ChainError {
            part: 2,
            error: PartError::BodyChecksum
        })
    );
    disk.remove(JournalFile::Checkpoint(1))
        .expect("it is there");
    let found = verify_chain(&mut disk, JOURNAL, 1);
    let absent = PartError::Disk(DiskError::Absent);
    assert_eq!(
        found,
        Err(ChainError {
            part: 1,
            error: absent
        })
    );
    // More parts than a chain may have.
    let mut disk = Files::default();
    write(&mut disk, 1, NO_PARENT, 0, &[]);
    for id in 2..=PARTS_MAX as u64 + 1 {
        write(&mut disk, id, id - 1, 0, &[]);
    }
    assert!(verify_chain(&mut disk, JOURNAL, PARTS_MAX as u64).is_ok());
    let found = verify_chain(&mut disk, JOURNAL, PARTS_MAX as u64 + 1);
    assert_eq!(
        found,
        Err(ChainError {
            part: 1,
            error: PartError::Malformed
        })
    );
}
