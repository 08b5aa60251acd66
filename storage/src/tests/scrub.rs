//! The search for damage: finds every byte that rots, names what it held and nothing else, writes anew what it can, and
//! neither takes more of the disk than it may nor stands in the way of appends.

use super::damage::chunks;
use super::world::{World, key, small};
use crate::format::superblock::COPY_BYTES;
use crate::{Class, Scrubbing, Settings};
use core::ops::Range;
use std::collections::BTreeSet;
use tiderace_base::disk::JournalFile;
use tiderace_base::operation::Effect;
use tiderace_base::prng::Prng;

/// Searches only when it is told to, so that what is damaged meanwhile is found by one pass.
fn patient(seed: u64) -> Settings {
    Settings {
        scrubbing: Scrubbing {
            every_ns: 1_000_000_000,
            ..small(seed).scrubbing
        },
        ..small(seed)
    }
}

/// A journal of several segments, all of it durable, open.
fn written(seed: u64) -> World {
    let mut world = World::new(seed);
    world.settings = patient(seed);
    world.open();
    let entries = 150 + world.prng.below(100) as usize;
    while world.entries.len() < entries {
        let bytes = world.prng.range(1, 3000) as usize;
        if world.append(bytes).is_err() || world.prng.chance(1, 4) {
            world.settle();
        }
    }
    world.settle();
    search(&mut world);
    world.damage_is_expected = true;
    world
}

/// Lets passes go by until one that began now is over.
fn search(world: &mut World) {
    let passes = world.journal().stats().scrubs + 2;
    for _ in 0..100_000 {
        world.pass(10_000_000);
        world.tick();
        world.feed();
        while world.complete_one() {
            world.feed();
        }
        if world.journal().stats().scrubs >= passes {
            world.settle();
            return;
        }
    }
    panic!("the search never comes to its end");
}

/// The chunks of all segments that are kept, by file.
fn kept_chunks(world: &mut World) -> Vec<(u32, Range<u64>)> {
    let journal = world.journal();
    let mut kept: BTreeSet<u32> = journal.segments.values().map(|it| it.row.file).collect();
    kept.insert(journal.active.file);
    chunks(world)
        .into_iter()
        .filter(|(file, _, _)| kept.contains(file))
        .map(|(file, at, bytes)| (file, at..at + bytes))
        .collect()
}

// J-19
#[test]
fn every_chunk_that_rots_is_named_with_what_it_held_and_no_other() {
    for seed in 0..60 {
        let mut world = written(seed);
        let chunks = kept_chunks(&mut world);
        let mut prng = Prng::new(seed ^ 0x5c2b);
        let mut hit = BTreeSet::new();
        for _ in 0..prng.range(1, 6) {
            let pick = prng.below(chunks.len() as u64) as usize;
            let (file, place) = &chunks[pick];
            if hit.insert(pick) {
                let at = prng.range(place.start, place.end);
                if prng.chance(1, 4) {
                    let block = (JournalFile::Segment(*file), at / 4096);
                    world.disk.unreadable.insert(block);
                } else {
                    world.disk.flip(JournalFile::Segment(*file), at);
                }
            }
        }
        search(&mut world);
        let mut told: Vec<(u32, Range<u64>)> = Vec::new();
        for damage in &world.told {
            let JournalFile::Segment(file) = damage.file else {
                panic!("seed {seed}: {damage}");
            };
            told.push((file, damage.at..damage.at + damage.bytes));
        }
        for (index, (file, place)) in chunks.iter().enumerate() {
            let is_told = told.iter().any(|(told, range)| {
                told == file && range.start < place.end && place.start < range.end
            });
            assert_eq!(
                is_told,
                hit.contains(&index),
                "seed {seed}: segment {file} bytes {place:?}, told {told:?}"
            );
        }
        assert_eq!(
            world.journal().stats().damaged,
            told.len() as u64,
            "seed {seed}"
        );

        // What lies there is named: an entry that cannot be read is in a range that was told.
        for partition in 0..5 {
            let end = world.durable_end(partition);
            for from in 0..end {
                world.damaged.clear();
                world.ask(partition, from, 1);
                while world.complete_one() {}
                if world.damaged.is_empty() {
                    continue;
                }
                let is_named = world.told.iter().any(|damage| {
                    damage.partitions.iter().any(|range| {
                        range.key == key(partition)
                            && (range.from.get()..range.to.get()).contains(&from)
                    })
                });
                assert!(is_named, "seed {seed}: partition {partition} offset {from}");
            }
        }
        // Neither a reader nor another pass tells it again.
        let count = world.told.len();
        search(&mut world);
        assert_eq!(world.told.len(), count, "seed {seed}");
    }
}

// J-19
#[test]
fn a_segments_header_is_part_of_it() {
    for seed in 0..10 {
        let mut world = written(seed);
        let file = JournalFile::Segment(world.journal().active.file);
        world.disk.flip(file, 77);
        search(&mut world);
        let [damage] = &world.told[..] else {
            panic!("seed {seed}: {:?}", world.told);
        };
        assert_eq!((damage.file, damage.at, damage.bytes), (file, 0, 4096));
        assert!(damage.partitions.is_empty(), "seed {seed}: {damage}");
    }
}

// J-19
#[test]
fn a_lost_file_is_named_whole_and_what_is_released_is_forgotten() {
    let mut world = written(3);
    let (seq, file) = {
        let (seq, sealed) = world.journal().segments.first_key_value().expect("several");
        (*seq, JournalFile::Segment(sealed.row.file))
    };
    world.disk.files.remove(&file);
    search(&mut world);
    assert!(
        world
            .told
            .iter()
            .any(|damage| damage.file == file && damage.at == 0)
    );
    assert_eq!(world.journal().stats().damaged, 1);
    for partition in 0..5 {
        let end = world.durable_end(partition);
        world.advance_start(partition, end).expect("there is room");
    }
    world.settle();
    for _ in 0..20 {
        // Checkpoints have to cover it first.
        for _ in 0..8 {
            let _ = world.append_to(0, 3000, Class::Data);
            world.settle();
        }
        world.reclaim();
        world.settle();
    }
    assert!(!world.journal().segments.contains_key(&seq));
    assert_eq!(world.journal().stats().damaged, 0);
}

// J-19
#[test]
fn what_can_be_written_anew_is() {
    for seed in 0..40 {
        let mut world = written(seed);
        let mut prng = Prng::new(seed ^ 0xf007);
        let wanted: fn(&JournalFile) -> bool = match seed % 3 {
            0 => |file| matches!(file, JournalFile::Footer(_)),
            1 => |file| matches!(file, JournalFile::Checkpoint(_)),
            _ => |file| *file == JournalFile::Superblock,
        };
        let live: BTreeSet<JournalFile> = {
            let journal = world.journal();
            let footers = journal.segments.values().map(|it| it.row.file);
            let parts = journal.checkpointing.chain.needed();
            footers
                .map(JournalFile::Footer)
                .chain(parts.map(JournalFile::Checkpoint))
                .chain([JournalFile::Superblock])
                .collect()
        };
        let files: Vec<JournalFile> = live
            .into_iter()
            .filter(|file| wanted(file) && world.disk.files.contains_key(file))
            .collect();
        let file = files[prng.below(files.len() as u64) as usize];
        let length = world.disk.files[&file].durable.len() as u64;
        let at = match file {
            // The fixed part of one copy: what lies behind its lists belongs to nobody.
            JournalFile::Superblock => prng.below(2) * COPY_BYTES as u64 + prng.below(512),
            _ => prng.below(length),
        };
        world.disk.flip(file, at);
        let before = world.journal().stats();
        search(&mut world);
        let after = world.journal().stats();
        let repairs = after.footers_rebuilt + after.scrub_repairs
            - before.footers_rebuilt
            - before.scrub_repairs;
        assert_eq!(repairs, 1, "seed {seed}: {file} byte {at}");
        search(&mut world);
        let later = world.journal().stats();
        assert_eq!(
            (later.footers_rebuilt, later.scrub_repairs),
            (after.footers_rebuilt, after.scrub_repairs),
            "seed {seed}: {file} is still damaged"
        );
        assert!(world.told.is_empty(), "seed {seed}: {:?}", world.told);
        world.crash();
        world.open();
    }
}

// J-19, J-1: a copy that is whole and old is a write that never came.
#[test]
fn a_copy_of_the_superblock_that_is_old_is_written_anew() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.settings = patient(seed);
        world.open();
        let name = JournalFile::Superblock;
        let old = world.disk.files[&name].durable.clone();
        while world.journal().segments.len() < 4 {
            if world.append(2000).is_err() {
                world.settle();
            }
        }
        world.settle();
        search(&mut world);
        assert_eq!(world.journal().stats().scrub_repairs, 0, "seed {seed}");
        let range = (seed as usize % 2) * COPY_BYTES..(seed as usize % 2 + 1) * COPY_BYTES;
        let file = world.disk.files.get_mut(&name).expect("it is there");
        file.durable[range.clone()].copy_from_slice(&old[range.clone()]);
        file.seen[range.clone()].copy_from_slice(&old[range.clone()]);
        search(&mut world);
        assert_eq!(world.journal().stats().scrub_repairs, 1, "seed {seed}");
        assert_ne!(world.disk.files[&name].durable[range.clone()], old[range]);
        search(&mut world);
        assert_eq!(world.journal().stats().scrub_repairs, 1, "seed {seed}");
        world.crash();
        world.open();
    }
}

// J-19: what is known of damage is bounded, and no damaged file passes for a sound one.
#[test]
fn beyond_what_can_be_known_one_by_one_a_file_is_told_whole() {
    let mut world = written(5);
    let lives: Vec<u64> = world.journal().segments.keys().copied().collect();
    let (many, last) = (lives[0], lives[1]);
    for place in 0..5000 {
        let at = 4096 + place * 2;
        world.journal().tell_damage(many, &(at..at + 1), None);
    }
    world.journal().tell_damage(last, &(8192..8193), None);
    let known = world.journal().scrub.damaged();
    assert!(known <= 4096, "{known}");
    assert!(world.journal().scrub.forget(last), "no file is forgotten");
    assert!(world.journal().scrub.forget(many));
    assert_eq!(world.journal().scrub.damaged(), 0);
}

// J-19
#[test]
fn no_more_is_read_than_may_be_and_nothing_while_appends_are_under_way() {
    let mut world = World::new(5);
    let rate = 1 << 20;
    world.settings.scrubbing = Scrubbing {
        bytes_per_second: rate,
        first_after_ns: 1_000_000,
        every_ns: 1_000_000,
    };
    world.open();
    for _ in 0..40 {
        let _ = world.append(3000);
        world.settle();
    }
    // Nobody else reads here.
    let is_search = |world: &World| {
        let mut effects = world.flying.iter();
        effects.any(|effect| matches!(effect, Effect::Read { .. }))
    };
    let begun = world.now.mono;
    for _ in 0..2_000 {
        world.pass(1_000_000);
        world.tick();
        while world.complete_one() {}
        let read = world.journal().stats().scrubbed_bytes;
        let allowed = world.now.mono.since(begun) / 1_000_000 * rate / 1000 + 2 * COPY_BYTES as u64;
        assert!(read <= allowed, "{read} bytes, {allowed} were allowed");
    }
    assert!(world.journal().stats().scrubs > 0);

    // Due, and a chunk is in flight: only when it was so for longer than anybody waits for a gap.
    let wake = world.journal().next_wake().expect("a search goes on");
    let ahead = wake.since(world.now.mono);
    world.pass(ahead);
    let _ = world.append(100);
    world.flush();
    assert!(!is_search(&world), "an append is under way");
    // The end of a pass is a turn of its own.
    for _ in 0..2 {
        world.pass(200_000_000);
        world.tick();
    }
    assert!(is_search(&world), "there is no end of waiting");
    world.settle();
}
