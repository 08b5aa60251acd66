//! The index against a model that remembers every entry, footers against damage at every byte, and what a position
//! costs. A search is judged as a reader would judge it: by the entries found in the run that it names.

use super::*;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::Offset;
use tiderace_base::prng::Prng;

const START: u64 = 1 << 30;

fn key(stream: u64, partition: u32) -> PartitionKey {
    PartitionKey {
        stream: StreamId::new(stream),
        partition: PartitionIndex::new(partition),
    }
}

fn life(bytes: u64) -> Life {
    Life {
        journal: JournalId::new(0xabcd),
        seq: 7,
        salt: 0x5a17,
        start: Lsn::new(START),
        end: Lsn::new(START + bytes),
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Note(Note),
    Truncate(PartitionKey, Offset),
}

fn build(steps: &[Step]) -> SegmentIndex {
    let mut index = SegmentIndex::new();
    for step in steps {
        match step {
            Step::Note(note) => index.note(*note).expect("the steps follow one another"),
            Step::Truncate(key, from) => index.truncate(*key, *from),
        }
    }
    index
}

/// What a segment's bytes and the truncations say, without an index: the live entries of each partition.
fn live(steps: &[Step]) -> BTreeMap<PartitionKey, Vec<Note>> {
    let mut live: BTreeMap<PartitionKey, Vec<Note>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Note(note) => {
                let entries = live.entry(note.key).or_default();
                entries.retain(|entry| entry.base_offset < note.base_offset);
                entries.push(*note);
            }
            Step::Truncate(key, from) => {
                let entries = live.entry(*key).or_default();
                entries.retain(|entry| entry.base_offset < *from);
            }
        }
    }
    live.retain(|_, entries| !entries.is_empty());
    live
}

/// A segment's worth of entries in chunks, with gaps, clocks that go back and, if wanted, truncations.
fn steps(prng: &mut Prng, partitions: u64, entries: u64, truncations: bool) -> (Vec<Step>, u64) {
    let mut steps = Vec::new();
    let mut next: BTreeMap<PartitionKey, u64> = BTreeMap::new();
    let mut at = BLOCK_BYTES as u64;
    let mut chunk = START;
    let mut clock = 1_000_000;
    for _ in 0..entries {
        if prng.chance(1, 6) {
            at = at.next_multiple_of(BLOCK_BYTES as u64) + 512;
            chunk = START + at - 512 - BLOCK_BYTES as u64;
        }
        clock = if prng.chance(1, 20) {
            clock - 300
        } else {
            clock + prng.below(50)
        };
        let key = key(prng.below(partitions) / 3, prng.below(3) as u32);
        let next = next.entry(key).or_insert_with(|| prng.below(3) * 1000);
        let mut silent = false;
        if truncations && prng.chance(1, 15) {
            // Batches are cut whole: at the base of some live one, or past the end.
            let bases: Vec<u64> = live(&steps)
                .get(&key)
                .map(|entries| {
                    entries
                        .iter()
                        .map(|entry| entry.base_offset.get())
                        .collect()
                })
                .unwrap_or_default();
            if !bases.is_empty() {
                let from = bases[prng.below(bases.len() as u64) as usize];
                // Sometimes the truncation is known only from the entry that follows it.
                silent = prng.chance(1, 3);
                if !silent {
                    steps.push(Step::Truncate(key, Offset::new(from)));
                }
                *next = from;
            }
        }
        if !silent && prng.chance(1, 15) {
            *next += prng.range(1, 40);
        }
        let bytes = prng.range(129, 700);
        let base = *next;
        *next += prng.range(1, 9);
        steps.push(Step::Note(Note {
            key,
            base_offset: Offset::new(base),
            next_offset: Offset::new(*next),
            append_time_us: clock,
            at: at as u32,
            bytes: bytes as u32,
            chunk: Lsn::new(chunk),
        }));
        at += bytes;
    }
    (
        steps,
        at.next_multiple_of(BLOCK_BYTES as u64) - BLOCK_BYTES as u64,
    )
}

fn notes(steps: &[Step]) -> impl Iterator<Item = &Note> {
    steps.iter().filter_map(|step| match step {
        Step::Note(note) => Some(note),
        Step::Truncate(..) => None,
    })
}

/// The entries that a reader finds alive in a run.
fn read(steps: &[Step], key: PartitionKey, found: &Located) -> Vec<Note> {
    let run = found.position.at..found.position.at + found.position.span;
    notes(steps)
        .filter(|note| note.key == key && run.contains(&note.at))
        .filter(|note| note.base_offset < found.until)
        .copied()
        .collect()
}

/// Both forms of the index, behind one face.
trait Search {
    fn locate(&self, key: PartitionKey, offset: Offset) -> Option<Located>;
    fn locate_time(&self, key: PartitionKey, time_us: u64) -> Option<Located>;
    fn rows(&self) -> BTreeMap<PartitionKey, Partition>;
}

macro_rules! search {
    ($of:ty) => {
        impl Search for $of {
            fn locate(&self, key: PartitionKey, offset: Offset) -> Option<Located> {
                <$of>::locate(self, key, offset)
            }
            fn locate_time(&self, key: PartitionKey, time_us: u64) -> Option<Located> {
                <$of>::locate_time(self, key, time_us)
            }
            fn rows(&self) -> BTreeMap<PartitionKey, Partition> {
                let rows: BTreeMap<_, _> = self.partitions().map(|row| (row.key, row)).collect();
                for (key, row) in &rows {
                    assert_eq!(self.partition(*key).as_ref(), Some(row));
                }
                rows
            }
        }
    };
}
search!(SegmentIndex);
search!(Footer);

fn check(index: &impl Search, steps: &[Step], context: u64) {
    let live = live(steps);
    let rows = index.rows();
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        live.keys().collect::<Vec<_>>(),
        "seed {context}"
    );
    for (key, entries) in &live {
        let (first, last) = (entries[0], entries[entries.len() - 1]);
        let row = rows[key];
        assert_eq!(row.first_offset, first.base_offset, "seed {context}");
        // A truncation cuts at a batch's base, so the end is that of the last live batch, or lies in a gap past it.
        assert!(row.next_offset >= last.next_offset, "seed {context}");
        assert_eq!(index.locate(*key, row.next_offset), None);
        if let Some(before) = first.base_offset.get().checked_sub(1) {
            assert_eq!(index.locate(*key, Offset::new(before)), None);
        }
        for entry in entries {
            for offset in entry.base_offset.get()..entry.next_offset.get() {
                let found = index.locate(*key, Offset::new(offset)).expect("it is held");
                assert!(found.until.get() > offset, "seed {context}");
                assert!(
                    read(steps, *key, &found).contains(entry),
                    "seed {context}: {entry:?} not in {found:?}"
                );
                assert_eq!(
                    found.next,
                    index.locate(*key, found.until).map(|next| next.position),
                    "seed {context}: reading on needs no search"
                );
            }
        }
        let mut times: BTreeSet<u64> = entries.iter().map(|entry| entry.append_time_us).collect();
        times.extend([0, last.append_time_us + 1]);
        for time_us in times {
            let expected = entries.iter().find(|entry| entry.append_time_us >= time_us);
            let mut run = index.locate_time(*key, time_us);
            let mut found = None;
            while let Some(located) = run {
                found = read(steps, *key, &located)
                    .into_iter()
                    .find(|entry| entry.append_time_us >= time_us);
                if found.is_some() {
                    break;
                }
                run = index.locate(*key, located.until);
            }
            assert_eq!(found.as_ref(), expected, "seed {context}, time {time_us}");
        }
    }
    assert_eq!(index.locate(key(99, 0), Offset::ZERO), None);
    assert_eq!(index.locate_time(key(99, 0), 0), None);
}

fn previous(key: PartitionKey) -> Option<u64> {
    (key.partition.get() != 1).then_some(key.stream.get() + 1)
}

fn footer_of(steps: &[Step], bytes: u64) -> Footer {
    build(steps).seal(life(bytes), previous).finish()
}

// J-43, J-44, J-45: searches find what is live, past truncations and clocks that go back.
#[test]
fn searches_agree_with_a_model_that_remembers_every_entry() {
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let partitions = prng.range(1, 12);
        let (steps, bytes) = steps(&mut prng, partitions, 250, seed % 2 == 1);
        let index = build(&steps);
        check(&index, &steps, seed);
        let sealed = footer_of(&steps, bytes);
        check(&sealed, &steps, seed);
        let loaded = Footer::decode(sealed.bytes().clone(), &life(bytes)).expect("it is good");
        check(&loaded, &steps, seed);
        assert_eq!(loaded.position_count(), index.position_count());
        assert!(loaded.partitions().is_sorted_by_key(|row| row.key));
        // J-47
        for row in loaded.partitions() {
            assert_eq!(loaded.previous_seq(row.key), previous(row.key));
        }
        assert_eq!(loaded.previous_seq(key(99, 0)), None);
    }
}

// J-42
#[test]
fn there_is_one_position_for_each_partition_and_chunk() {
    for seed in 0..20 {
        let (steps, _) = steps(&mut Prng::new(seed), 7, 400, false);
        let pairs: BTreeSet<_> = notes(&steps).map(|note| (note.key, note.chunk)).collect();
        assert_eq!(build(&steps).position_count(), pairs.len());
    }
}

// J-46
#[test]
fn a_rebuilt_index_gives_the_same_bytes_however_the_work_was_cut() {
    for seed in 0..20 {
        let mut prng = Prng::new(seed);
        let (steps, bytes) = steps(&mut prng, 9, 300, true);
        let footer = footer_of(&steps, bytes);
        let mut again = build(&steps).seal(life(bytes), previous);
        while !again.step(prng.below(9) as usize) {
            check(again.index(), &steps[..], seed);
            if prng.chance(1, 5) {
                break;
            }
        }
        assert_eq!(again.finish().bytes(), footer.bytes());
        assert_eq!(footer.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(footer.bytes().len() % BLOCK_BYTES, 0);
    }
}

// J-43
#[test]
fn a_run_behind_a_truncation_begins_where_that_cut() {
    let note = |at: u32, base: u64| Note {
        key: key(1, 1),
        base_offset: Offset::new(base),
        next_offset: Offset::new(base + 10),
        append_time_us: 1,
        at,
        bytes: 200,
        chunk: Lsn::new(START),
    };
    let steps = [
        Step::Note(note(5000, 0)),
        Step::Note(note(5200, 10)),
        Step::Truncate(key(1, 1), Offset::new(10)),
        Step::Note(note(5400, 30)),
    ];
    let index = build(&steps);
    let dead = index.locate(key(1, 1), Offset::new(9)).expect("it is held");
    assert_eq!(read(&steps, key(1, 1), &dead).len(), 1);
    assert_eq!(dead.until, Offset::new(10));
    let after = index
        .locate(key(1, 1), Offset::new(10))
        .expect("it lies in a gap");
    assert_eq!(after.position.at, 5400);
}

#[test]
fn an_empty_segment_has_a_footer() {
    let footer = SegmentIndex::new().seal(life(0), |_| None).finish();
    let loaded = Footer::decode(footer.bytes().clone(), &life(0)).expect("it is good");
    assert_eq!(loaded.partitions().len(), 0);
    assert_eq!(loaded.locate(key(0, 0), Offset::ZERO), None);
}

#[test]
fn entries_that_do_not_follow_are_refused_and_change_nothing() {
    let good = Note {
        key: key(1, 1),
        base_offset: Offset::new(5),
        next_offset: Offset::new(6),
        append_time_us: 1,
        at: 5000,
        bytes: 200,
        chunk: Lsn::new(START + 4096),
    };
    let mut index = build(&[Step::Note(good)]);
    let after = Note { at: 5200, ..good };
    for (bad, why) in [
        (Note { bytes: 0, ..after }, NoteError::Empty),
        (
            Note {
                next_offset: Offset::new(5),
                ..after
            },
            NoteError::Empty,
        ),
        (Note { at: 5199, ..after }, NoteError::Place),
        (
            Note {
                at: u32::MAX,
                ..after
            },
            NoteError::Place,
        ),
        (
            Note {
                chunk: Lsn::new(START),
                ..after
            },
            NoteError::Chunk,
        ),
    ] {
        assert_eq!(index.note(bad), Err(why));
        assert_eq!(index.position_count(), 1);
    }
    assert_eq!(
        SegmentIndex::new().note(Note { at: 4095, ..good }),
        Err(NoteError::Place)
    );
    index
        .note(Note {
            base_offset: Offset::new(6),
            next_offset: Offset::new(7),
            ..after
        })
        .expect("it follows");
    assert_eq!(index.position_count(), 1);
}

// J-40
#[test]
fn a_footer_of_another_life_is_foreign() {
    let (steps, bytes) = steps(&mut Prng::new(1), 5, 100, false);
    let footer = footer_of(&steps, bytes);
    let own = life(bytes);
    for other in [
        Life {
            journal: JournalId::new(1),
            ..own
        },
        Life { seq: 8, ..own },
        Life { salt: 1, ..own },
        Life {
            start: Lsn::ZERO,
            ..own
        },
        Life {
            end: own.end.advance(1),
            ..own
        },
    ] {
        let found = Footer::decode(footer.bytes().clone(), &other);
        assert_eq!(found.err(), Some(FooterError::Foreign));
        let found = Footer::file_bytes(&footer.bytes()[..BLOCK_BYTES], &other);
        assert_eq!(found, Err(FooterError::Foreign));
    }
    assert_eq!(
        Footer::file_bytes(&footer.bytes()[..BLOCK_BYTES], &own),
        Ok(footer.bytes().len() as u64)
    );
}

// J-41
#[test]
fn damage_at_any_byte_and_any_length_is_detected() {
    let (steps, bytes) = steps(&mut Prng::new(3), 6, 150, true);
    let good = footer_of(&steps, bytes);
    let good = good.bytes();
    let mut prng = Prng::new(4);
    let mut damaged = good.to_vec();
    for at in 0..good.len() {
        damaged[at] ^= 1 << prng.below(8);
        let found = Footer::decode(Bytes::copy_from_slice(&damaged), &life(bytes));
        assert!(found.is_err(), "byte {at}");
        damaged[at] = good[at];
    }
    for length in 0..good.len() {
        assert!(
            Footer::decode(good.slice(..length), &life(bytes)).is_err(),
            "{length} bytes"
        );
    }
    for more in [1, BLOCK_BYTES] {
        let mut longer = good.to_vec();
        longer.resize(good.len() + more, 0);
        assert_eq!(
            Footer::decode(Bytes::from(longer), &life(bytes)).err(),
            Some(FooterError::Length)
        );
    }
}

/// Makes the checksums of a changed footer agree again.
fn mend(bytes: &mut [u8]) {
    let body = crc32c(&bytes[128..]);
    bytes[120..124].copy_from_slice(&body.to_le_bytes());
    let header = crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&header.to_le_bytes());
}

// J-44: what a faulty writer might leave is judged before it is used, and nothing in it makes a search panic.
#[test]
fn nonsense_with_good_checksums_is_refused_or_harmless() {
    let (steps, bytes) = steps(&mut Prng::new(5), 4, 60, false);
    let good = footer_of(&steps, bytes);
    let used = 128 + good.partitions().len() * 64 + good.position_count() * 24;
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut prng = Prng::new(seed);
        let mut bad = good.bytes().to_vec();
        for _ in 0..prng.range(1, 4) {
            let at = prng.below(used as u64) as usize;
            bad[at] = prng.next_u64() as u8;
        }
        mend(&mut bad);
        match Footer::decode(Bytes::from(bad), &life(bytes)) {
            Err(_) => refused += 1,
            Ok(footer) => {
                for row in footer.partitions() {
                    let found = footer
                        .locate(row.key, row.first_offset)
                        .expect("it is held");
                    assert!(found.position.at as usize >= BLOCK_BYTES);
                    let _ = footer.locate_time(row.key, prng.next_u64());
                }
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
    let mut newer = good.bytes().to_vec();
    newer[8] = 2;
    mend(&mut newer);
    assert_eq!(
        Footer::decode(Bytes::from(newer), &life(bytes)).err(),
        Some(FooterError::Version(2))
    );
}

#[test]
fn arbitrary_bytes_are_no_footer() {
    let mut prng = Prng::new(6);
    for _ in 0..2000 {
        let mut bytes = vec![0; prng.below(9000) as usize];
        prng.fill(&mut bytes);
        if prng.chance(1, 2) && bytes.len() >= 128 {
            bytes[..8].copy_from_slice(b"TRFOOT01");
            mend(&mut bytes);
        }
        assert!(Footer::decode(Bytes::from(bytes), &life(0)).is_err());
    }
}

/// The published bytes of a footer's header, one partition's row and its position.
#[test]
fn the_layout_is_the_published_one() {
    let note = Note {
        key: key(0x11, 0x22),
        base_offset: Offset::new(0x33),
        next_offset: Offset::new(0x34),
        append_time_us: 0x55,
        at: 0x1200,
        bytes: 0x100,
        chunk: Lsn::new(START),
    };
    let footer = footer_of(&[Step::Note(note)], 0x1000);
    let mut expected = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"TRFOOT01");
    put(8, &1_u32.to_le_bytes());
    put(16, &0xabcd_u64.to_le_bytes());
    put(24, &7_u64.to_le_bytes());
    put(32, &0x5a17_u64.to_le_bytes());
    put(40, &START.to_le_bytes());
    put(48, &(START + 0x1000).to_le_bytes());
    put(56, &1_u32.to_le_bytes());
    put(60, &1_u32.to_le_bytes());
    put(64, &4096_u64.to_le_bytes());
    put(128, &0x11_u64.to_le_bytes());
    put(136, &0x22_u32.to_le_bytes());
    put(140, &1_u32.to_le_bytes());
    put(144, &0x33_u64.to_le_bytes());
    put(152, &0x34_u64.to_le_bytes());
    put(160, &0x55_u64.to_le_bytes());
    put(168, &0x55_u64.to_le_bytes());
    put(176, &0x12_u64.to_le_bytes());
    put(192, &0x33_u64.to_le_bytes());
    put(200, &0x55_u64.to_le_bytes());
    put(208, &0x1200_u32.to_le_bytes());
    put(212, &0x100_u32.to_le_bytes());
    mend(&mut expected);
    assert_eq!(footer.bytes(), &expected);
}

#[test]
fn the_cache_keeps_what_was_used_last_and_never_exceeds_its_bound() {
    let footer = |seq: u64, partitions: u64| {
        let (steps, bytes) = steps(&mut Prng::new(seq), partitions, 400, false);
        build(&steps)
            .seal(Life { seq, ..life(bytes) }, |_| None)
            .finish()
    };
    for seed in 0..20 {
        let mut prng = Prng::new(seed);
        let bytes_max = 100_000;
        let mut cache = FooterCache::new(bytes_max);
        // The model: lives by age, newest last.
        let mut model: Vec<(u64, usize)> = Vec::new();
        for _ in 0..300 {
            let seq = prng.below(20);
            match prng.below(10) {
                0 => {
                    cache.remove(seq);
                    model.retain(|held| held.0 != seq);
                }
                1..=4 => {
                    let footer = footer(seq, prng.range(1, 12));
                    let cost = footer.bytes().len() + BLOCK_BYTES;
                    assert!(cache.insert(footer));
                    model.retain(|held| held.0 != seq);
                    while model.iter().map(|held| held.1).sum::<usize>() + cost > bytes_max {
                        model.remove(0);
                    }
                    model.push((seq, cost));
                }
                _ => {
                    let held = model.iter().position(|held| held.0 == seq);
                    let found = cache.get(seq);
                    assert_eq!(
                        found.as_ref().map(|footer| footer.life().seq),
                        held.map(|_| seq)
                    );
                    if let Some(place) = held {
                        let used = model.remove(place);
                        model.push(used);
                    }
                }
            }
            assert_eq!(
                cache.bytes(),
                model.iter().map(|held| held.1).sum::<usize>()
            );
            assert!(cache.bytes() <= bytes_max);
        }
        let counts = cache.counts();
        assert!(counts.hits > 0 && counts.misses > 0 && counts.evictions > 0);
    }
    let mut small = FooterCache::new(BLOCK_BYTES);
    assert!(!small.insert(footer(1, 3)));
    assert_eq!(small.bytes(), 0);
}

/// Fills a segment: `partitions` have an entry in each of `chunks` chunks.
fn filled(partitions: u32, chunks: u64) -> SegmentIndex {
    let mut index = SegmentIndex::new();
    let mut at = BLOCK_BYTES as u32;
    for chunk in 0..chunks {
        for partition in 0..partitions {
            index
                .note(Note {
                    key: key(u64::from(partition), 0),
                    base_offset: Offset::new(chunk),
                    next_offset: Offset::new(chunk + 1),
                    append_time_us: chunk,
                    at,
                    bytes: 160,
                    chunk: Lsn::new(chunk),
                })
                .expect("it follows");
            at += 160;
        }
    }
    index
}

#[test]
fn a_position_costs_little_more_than_its_24_bytes() {
    for (partitions, chunks, bytes_max) in [
        (1, 32_768, 31.0),
        (10_000, 64, 33.0),
        (10_000, 8, 55.0),
        (1000, 700, 31.0),
    ] {
        let index = filled(partitions, chunks);
        let positions = index.position_count();
        assert_eq!(positions as u64, u64::from(partitions) * chunks);
        let each = index.memory_bytes() as f64 / positions as f64;
        println!("{partitions} partitions x {chunks} chunks: {each:.1} bytes a position in memory");
        assert!(
            each <= bytes_max,
            "{partitions} x {chunks}: {each:.1} bytes a position"
        );
        let file = index.seal(life(1 << 31), |_| None).finish();
        println!(
            "    {:.1} in the footer",
            file.bytes().len() as f64 / positions as f64
        );
    }
}
