//! The index against a model that remembers every entry, footers against damage at every byte, and what a position
//! costs. A search is judged as a reader would judge it: by the entries found in the run that it names.

use super::*;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, SlotId, StreamId};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::position::{Offset, SlotSeq};
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

const EVER: SlotSeq = SlotSeq::MAX;

#[derive(Clone, Copy, Debug)]
enum Step {
    Note(Note),
    Truncate(SlotId, SlotSeq),
}

fn build(steps: &[Step]) -> SegmentIndex {
    let mut index = SegmentIndex::new();
    for step in steps {
        match step {
            Step::Note(note) => index.note(*note).expect("the steps follow one another"),
            Step::Truncate(slot, from) => index.truncate(*slot, *from),
        }
    }
    index
}

/// What a segment's bytes and the truncations say, without an index: the living entries, in order.
fn living(steps: &[Step]) -> Vec<Note> {
    let mut living: Vec<Note> = Vec::new();
    for step in steps {
        match step {
            Step::Note(note) => living.push(*note),
            Step::Truncate(slot, from) => {
                living.retain(|entry| entry.slot != *slot || entry.slot_seq < *from);
            }
        }
    }
    living
}

fn key_of(note: &Note) -> PartitionKey {
    note.key
        .expect("every entry of these is data, unless it says so")
}

/// The living entries of each partition.
fn live(steps: &[Step]) -> BTreeMap<PartitionKey, Vec<Note>> {
    let mut live: BTreeMap<PartitionKey, Vec<Note>> = BTreeMap::new();
    for note in living(steps).into_iter().filter(|note| note.key.is_some()) {
        live.entry(key_of(&note)).or_default().push(note);
    }
    live
}

fn slot_of(key: PartitionKey) -> SlotId {
    SlotId::new((key.stream.get() % 3) as u16)
}

/// A segment's worth of entries in chunks, with control entries between, gaps, clocks that go back and, if wanted,
/// truncations.
fn steps(prng: &mut Prng, partitions: u64, entries: u64, truncations: bool) -> (Vec<Step>, u64) {
    let mut steps = Vec::new();
    let mut next: BTreeMap<PartitionKey, u64> = BTreeMap::new();
    let mut seqs = [1_u64; 3];
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
        if truncations && prng.chance(1, 15) {
            let slot = SlotId::new(prng.below(3) as u16);
            let seq = &mut seqs[usize::from(slot.get())];
            let least = seq.saturating_sub(20).max(1);
            let from = prng.range(least, *seq + 1);
            for dead in living(&steps).iter().rev() {
                if dead.slot == slot && dead.slot_seq.get() >= from && dead.key.is_some() {
                    next.insert(key_of(dead), dead.base_offset.get());
                }
            }
            steps.push(Step::Truncate(slot, SlotSeq::new(from)));
            *seq = from;
        }
        let key = key(prng.below(partitions) / 3, prng.below(3) as u32);
        let next = next.entry(key).or_insert_with(|| prng.below(3) * 1000);
        if prng.chance(1, 15) {
            *next += prng.range(1, 40);
        }
        let slot = slot_of(key);
        let seq = &mut seqs[usize::from(slot.get())];
        if prng.chance(1, 40) {
            // A snapshot stands in for what is left out.
            *seq += prng.range(1, 9);
        }
        let bytes = prng.range(129, 700);
        let mut note = Note {
            key: None,
            slot,
            slot_seq: SlotSeq::new(*seq),
            base_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            append_time_us: 0,
            at: at as u32,
            bytes: bytes as u32,
            chunk: Lsn::new(chunk),
        };
        if !prng.chance(1, 10) {
            note.key = Some(key);
            note.base_offset = Offset::new(*next);
            *next += prng.range(1, 9);
            note.next_offset = Offset::new(*next);
            note.append_time_us = clock;
        }
        *seq += 1;
        steps.push(Step::Note(note));
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

/// The entries that a reader finds alive in a run, in order: it asks of each whether it lives.
fn read(steps: &[Step], key: PartitionKey, found: &Located) -> Vec<Note> {
    let run = found.position.at..found.position.at + found.position.span;
    living(steps)
        .into_iter()
        .filter(|note| note.key == Some(key) && run.contains(&note.at))
        .filter(|note| note.base_offset < found.until)
        .collect()
}

/// Both forms of the index, behind one face.
trait Search {
    fn locate(&self, key: PartitionKey, offset: Offset, dead_from: SlotSeq) -> Option<Located>;
    fn locate_time(&self, key: PartitionKey, time_us: u64, dead_from: SlotSeq) -> Option<Located>;
    fn partition(&self, key: PartitionKey, dead_from: SlotSeq) -> Option<Partition>;
    fn locate_seq(&self, slot: SlotId, seq: SlotSeq, dead_from: SlotSeq) -> Option<SlotPosition>;
    fn slot_span(&self, slot: SlotId, dead_from: SlotSeq) -> Option<SlotSpan>;
    fn keys(&self) -> Vec<PartitionKey>;
}

macro_rules! search {
    ($of:ty) => {
        impl Search for $of {
            fn locate(&self, key: PartitionKey, at: Offset, from: SlotSeq) -> Option<Located> {
                <$of>::locate(self, key, at, from)
            }
            fn locate_time(&self, key: PartitionKey, at: u64, from: SlotSeq) -> Option<Located> {
                <$of>::locate_time(self, key, at, from)
            }
            fn partition(&self, key: PartitionKey, from: SlotSeq) -> Option<Partition> {
                <$of>::partition(self, key, from)
            }
            fn locate_seq(&self, slot: SlotId, at: SlotSeq, from: SlotSeq) -> Option<SlotPosition> {
                <$of>::locate_seq(self, slot, at, from)
            }
            fn slot_span(&self, slot: SlotId, from: SlotSeq) -> Option<SlotSpan> {
                <$of>::slot_span(self, slot, from)
            }
            fn keys(&self) -> Vec<PartitionKey> {
                self.partitions()
                    .map(|row| {
                        assert_eq!(self.partition(row.key, EVER), Some(row));
                        row.key
                    })
                    .collect()
            }
        }
    };
}
search!(SegmentIndex);
search!(Footer);

/// `cut`: what a truncation behind the segment took.
fn check(index: &impl Search, steps: &[Step], cut: Option<(SlotId, SlotSeq)>, context: u64) {
    let mut steps = steps.to_vec();
    steps.extend(cut.map(|(slot, from)| Step::Truncate(slot, from)));
    let steps = &steps[..];
    let dead_from = |slot| match cut {
        Some((cut, from)) if cut == slot => from,
        Some(_) | None => EVER,
    };
    let live = live(steps);
    let mut keys = index.keys();
    keys.retain(|key| index.partition(*key, dead_from(slot_of(*key))).is_some());
    keys.sort_unstable();
    assert_eq!(
        keys,
        live.keys().copied().collect::<Vec<_>>(),
        "seed {context}"
    );
    for (key, entries) in &live {
        let (first, last) = (entries[0], entries[entries.len() - 1]);
        let from = dead_from(slot_of(*key));
        let row = index.partition(*key, from).expect("it lives");
        assert_eq!(row.slot, slot_of(*key));
        assert_eq!(row.first_offset, first.base_offset, "seed {context}");
        // The end is that of the last living batch, or lies in a gap, or in the run in which a truncation cut.
        assert!(row.next_offset >= last.next_offset, "seed {context}");
        assert_eq!(index.locate(*key, row.next_offset, from), None);
        if let Some(before) = first.base_offset.get().checked_sub(1) {
            assert_eq!(index.locate(*key, Offset::new(before), from), None);
        }
        for entry in entries {
            for offset in entry.base_offset.get()..entry.next_offset.get() {
                let found = index.locate(*key, Offset::new(offset), from);
                let found = found.expect("it is held");
                assert!(found.until.get() > offset, "seed {context}");
                assert!(
                    read(steps, *key, &found).contains(entry),
                    "seed {context}: {entry:?} not in {found:?}"
                );
                assert_eq!(
                    found.next,
                    index
                        .locate(*key, found.until, from)
                        .map(|next| next.position),
                    "seed {context}: reading on needs no search"
                );
            }
        }
        let mut times: BTreeSet<u64> = entries.iter().map(|entry| entry.append_time_us).collect();
        times.extend([0, last.append_time_us + 1]);
        for time_us in times {
            let expected = entries.iter().find(|entry| entry.append_time_us >= time_us);
            let mut run = index.locate_time(*key, time_us, from);
            let mut found = None;
            while let Some(located) = run {
                found = read(steps, *key, &located)
                    .into_iter()
                    .find(|entry| entry.append_time_us >= time_us);
                if found.is_some() {
                    break;
                }
                run = index.locate(*key, located.until, from);
            }
            assert_eq!(found.as_ref(), expected, "seed {context}, time {time_us}");
        }
    }
    assert_eq!(index.locate(key(99, 0), Offset::ZERO, EVER), None);
    assert_eq!(index.locate_time(key(99, 0), 0, EVER), None);
    check_slots(index, steps, dead_from, context);
}

/// J-63: a slot's sequence leads to a run that holds its entry, and to nothing when it does not live here.
fn check_slots(
    index: &impl Search,
    steps: &[Step],
    dead_from: impl Fn(SlotId) -> SlotSeq,
    context: u64,
) {
    let living = living(steps);
    for slot in (0..4).map(SlotId::new) {
        let own: Vec<&Note> = living.iter().filter(|note| note.slot == slot).collect();
        let from = dead_from(slot);
        let span = index.slot_span(slot, from);
        let ends = own.first().zip(own.last());
        let expected = ends.map(|(first, last)| (first.slot_seq, last.slot_seq.advance(1)));
        assert_eq!(
            span.map(|span| (span.first_seq, span.next_seq)),
            expected,
            "seed {context}"
        );
        let end = expected.map_or(30, |(_, next)| next.get() + 30);
        for seq in (0..end).map(SlotSeq::new) {
            let found = index.locate_seq(slot, seq, from);
            let entry = own.iter().find(|note| note.slot_seq == seq);
            assert_eq!(found.is_some(), entry.is_some(), "seed {context}: {seq}");
            let (Some(found), Some(entry)) = (found, entry) else {
                continue;
            };
            let run = found.at..found.at + found.span;
            let held = own.iter().filter(|note| run.contains(&note.at));
            let held: Vec<SlotSeq> = held.map(|note| note.slot_seq).collect();
            assert!(held.contains(&entry.slot_seq), "seed {context}: {seq}");
            let first = held.first().copied();
            assert_eq!(first, Some(found.first_seq), "seed {context}");
            let next = held.last().map(|last| last.advance(1));
            assert_eq!(next, Some(found.next_seq), "seed {context}");
        }
    }
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
        check(&index, &steps, None, seed);
        let sealed = footer_of(&steps, bytes);
        check(&sealed, &steps, None, seed);
        let loaded = Footer::decode(sealed.bytes().clone(), &life(bytes)).expect("it is good");
        check(&loaded, &steps, None, seed);
        // J-61: what was cut behind the segment, in the index as it was.
        for _ in 0..3 {
            let slot = SlotId::new(prng.below(3) as u16);
            let end = index
                .slot_span(slot, EVER)
                .map_or(3, |it| it.next_seq.get());
            let cut = Some((slot, SlotSeq::new(prng.range(1, end + 2))));
            check(&index, &steps, cut, seed);
            check(&loaded, &steps, cut, seed);
        }
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
        let data = notes(&steps).filter(|note| note.key.is_some());
        let pairs: BTreeSet<_> = data.map(|note| (note.key, note.chunk)).collect();
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
            check(again.index(), &steps[..], None, seed);
            if prng.chance(1, 5) {
                break;
            }
        }
        assert_eq!(again.finish().bytes(), footer.bytes());
        assert_eq!(footer.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(footer.bytes().len() % BLOCK_BYTES, 0);
    }
}

/// A batch of ten records, the `seq`-th entry of its slot.
fn ten(seq: u64, at: u32, base: u64) -> Note {
    Note {
        key: Some(key(1, 1)),
        slot: slot_of(key(1, 1)),
        slot_seq: SlotSeq::new(seq),
        base_offset: Offset::new(base),
        next_offset: Offset::new(base + 10),
        append_time_us: 1,
        at,
        bytes: 200,
        chunk: Lsn::new(START),
    }
}

// J-43
#[test]
fn a_run_behind_a_truncation_begins_where_that_cut() {
    let steps = [
        Step::Note(ten(1, 5000, 0)),
        Step::Note(ten(2, 5200, 10)),
        Step::Truncate(slot_of(key(1, 1)), SlotSeq::new(2)),
        Step::Note(ten(2, 5400, 10)),
    ];
    let index = build(&steps);
    let locate = |offset| index.locate(key(1, 1), Offset::new(offset), EVER);
    let before = locate(9).expect("it is held");
    assert_eq!(read(&steps, key(1, 1), &before).len(), 1);
    assert_eq!(before.until, Offset::new(10));
    let after = locate(10).expect("it was given again");
    assert_eq!(after.position.at, 5400);
}

// J-60
#[test]
fn a_number_is_given_again_only_behind_a_truncation() {
    let slot = slot_of(key(1, 1));
    let mut index = build(&[Step::Note(ten(1, 5000, 0)), Step::Note(ten(2, 5200, 10))]);
    for seq in [0, 1, 2, u64::MAX] {
        assert_eq!(index.note(ten(seq, 5400, 20)), Err(NoteError::Sequence));
    }
    let elsewhere = Note {
        slot: SlotId::new(77),
        ..ten(3, 5400, 20)
    };
    assert_eq!(index.note(elsewhere), Err(NoteError::Slot));
    index.truncate(slot, SlotSeq::new(2));
    assert_eq!(index.note(ten(1, 5400, 10)), Err(NoteError::Sequence));
    index.note(ten(2, 5400, 10)).expect("it was cut");
}

#[test]
fn an_empty_segment_has_a_footer() {
    let footer = SegmentIndex::new().seal(life(0), |_| None).finish();
    let loaded = Footer::decode(footer.bytes().clone(), &life(0)).expect("it is good");
    assert_eq!(loaded.partitions().count(), 0);
    assert_eq!(loaded.slots().count(), 0);
    assert_eq!(loaded.locate(key(0, 0), Offset::ZERO, EVER), None);
}

#[test]
fn entries_that_do_not_follow_are_refused_and_change_nothing() {
    let good = Note {
        key: Some(key(1, 1)),
        slot: slot_of(key(1, 1)),
        slot_seq: SlotSeq::new(4),
        base_offset: Offset::new(5),
        next_offset: Offset::new(6),
        append_time_us: 1,
        at: 5000,
        bytes: 200,
        chunk: Lsn::new(START + 4096),
    };
    let mut index = build(&[Step::Note(good)]);
    let after = Note {
        at: 5200,
        slot_seq: SlotSeq::new(5),
        ..good
    };
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
    let slots: Vec<SlotSpan> = good.slots().collect();
    let slot_positions: u32 = slots.iter().map(|slot| slot.position_count).sum();
    let used = 128
        + good.partitions().count() * 64
        + good.position_count() * 32
        + slots.len() * 16
        + slot_positions as usize * 24;
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
                        .locate(row.key, row.first_offset, EVER)
                        .expect("it is held");
                    assert!(found.position.at as usize >= BLOCK_BYTES);
                    let _ = footer.locate_time(row.key, prng.next_u64(), EVER);
                    let cut = SlotSeq::new(prng.next_u64());
                    let _ = footer.locate(row.key, row.first_offset, cut);
                }
                for span in footer.slots() {
                    let found = footer
                        .locate_seq(span.slot, span.first_seq, EVER)
                        .expect("it is held");
                    assert!(found.at as usize >= BLOCK_BYTES);
                    let cut = SlotSeq::new(prng.next_u64());
                    let _ = footer.slot_span(span.slot, cut);
                }
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
    // One that knows no slots, of an earlier release, is built again like one of a later.
    for version in [1, 3] {
        let mut other = good.bytes().to_vec();
        other[8] = version;
        mend(&mut other);
        assert_eq!(
            Footer::decode(Bytes::from(other), &life(bytes)).err(),
            Some(FooterError::Version(u32::from(version)))
        );
    }
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

/// The published bytes of a footer's header, the row of a partition and of a slot, and a position of each.
#[test]
fn the_layout_is_the_published_one() {
    let note = Note {
        key: Some(key(0x11, 0x22)),
        slot: SlotId::new(0x77),
        slot_seq: SlotSeq::new(0x88),
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
    put(8, &2_u32.to_le_bytes());
    put(16, &0xabcd_u64.to_le_bytes());
    put(24, &7_u64.to_le_bytes());
    put(32, &0x5a17_u64.to_le_bytes());
    put(40, &START.to_le_bytes());
    put(48, &(START + 0x1000).to_le_bytes());
    put(56, &1_u32.to_le_bytes());
    put(60, &1_u32.to_le_bytes());
    put(64, &4096_u64.to_le_bytes());
    put(72, &1_u32.to_le_bytes());
    put(76, &1_u32.to_le_bytes());
    put(128, &0x11_u64.to_le_bytes());
    put(136, &0x22_u32.to_le_bytes());
    put(140, &1_u32.to_le_bytes());
    put(144, &0x33_u64.to_le_bytes());
    put(152, &0x34_u64.to_le_bytes());
    put(160, &0x55_u64.to_le_bytes());
    put(168, &0x55_u64.to_le_bytes());
    put(176, &0x12_u64.to_le_bytes());
    put(188, &0x77_u16.to_le_bytes());
    put(192, &0x77_u16.to_le_bytes());
    put(196, &1_u32.to_le_bytes());
    put(208, &0x33_u64.to_le_bytes());
    put(216, &0x55_u64.to_le_bytes());
    put(224, &0x88_u64.to_le_bytes());
    put(232, &0x1200_u32.to_le_bytes());
    put(236, &0x100_u32.to_le_bytes());
    put(240, &0x88_u64.to_le_bytes());
    put(248, &0x89_u64.to_le_bytes());
    put(256, &0x1200_u32.to_le_bytes());
    put(260, &0x100_u32.to_le_bytes());
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

/// Fills a segment: `partitions`, of so many slots, have an entry in each of `chunks` chunks.
const SLOTS: u32 = 100;

fn filled(partitions: u32, chunks: u64) -> SegmentIndex {
    let mut index = SegmentIndex::new();
    let mut at = BLOCK_BYTES as u32;
    for chunk in 0..chunks {
        for partition in 0..partitions {
            index
                .note(Note {
                    key: Some(key(u64::from(partition), 0)),
                    slot: SlotId::new((partition % SLOTS) as u16),
                    slot_seq: SlotSeq::new(
                        1 + chunk * u64::from(partitions.div_ceil(SLOTS))
                            + u64::from(partition / SLOTS),
                    ),
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
fn a_position_costs_little_more_than_its_32_bytes_and_what_its_slot_has_there() {
    for (partitions, chunks, bytes_max) in [
        (1, 32_768, 70.0),
        (10_000, 64, 43.0),
        (10_000, 8, 65.0),
        (1000, 700, 43.0),
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
