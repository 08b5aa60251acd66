//! What the journal does beside serving: letting segments go, giving room back, and checkpoints that do not fit. Nothing
//! of it may stop for good, however little room there is and whatever cannot be read.

use super::world::{CELL, World, key, small};
use crate::checkpoint::CELL_VALUE_BYTES_MAX;
use crate::{Class, OpenError, Refused, Settings};
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::position::Offset;

/// A journal with this many full segments at least that both checkpoints cover.
fn covered(seed: u64, segments: usize, footer_cache_bytes: usize) -> World {
    let mut world = World::new(seed);
    world.settings = Settings {
        footer_cache_bytes,
        ..small(seed)
    };
    world.open();
    world.settle();
    grow(&mut world, segments);
    world
}

fn grow(world: &mut World, segments: usize) {
    loop {
        let covers = world.journal().checkpointing.chain.covered_by_both();
        let rows = world.journal().segments.values();
        if rows.filter(|it| Some(it.row.end) < covers).count() >= segments {
            return;
        }
        let partition = world.prng.below(4);
        if world.append_to(partition, 3000, Class::Data).is_err() {
            world.settle();
        }
        world.settle();
    }
}

/// Every partition starts behind what is durable.
fn drop_everything(world: &mut World) {
    for partition in 0..5 {
        let end = world.durable_end(partition);
        world
            .advance_start(partition, end)
            .expect("control entries have a reserve");
    }
    world.settle();
}

/// Fills the disk until data is refused.
fn fill_disk(world: &mut World) {
    world.disk.bytes_max = world
        .disk
        .files
        .values()
        .map(|file| file.seen.len() as u64)
        .sum();
    for _ in 0..2000 {
        match world.append(2000) {
            Err(Refused::ReadOnly) => break,
            _ => world.settle(),
        }
    }
    assert!(world.read_only);
}

fn segment_files(world: &World) -> usize {
    let files = world.disk.files.keys();
    files
        .filter(|file| matches!(file, JournalFile::Segment(_)))
        .count()
}

// J-14
#[test]
fn one_call_on_a_full_disk_releases_all_that_nobody_needs() {
    for seed in 0..4 {
        // With a cache that holds some, one, and none of the indexes.
        for cache in [24 * 1024, 8 * 1024, 0] {
            let mut world = covered(seed, 30, cache);
            fill_disk(&mut world);
            drop_everything(&mut world);
            assert!(world.read_only);
            world.reclaim();
            world.settle();
            assert!(!world.read_only, "seed {seed}, cache {cache}");
            let released = world.journal().stats().segments_recycled;
            assert!(released >= 30, "seed {seed}, cache {cache}: {released}");
        }
    }
}

// J-14
#[test]
fn indexes_that_have_to_be_built_and_cannot_be_kept_are_enough() {
    let mut world = covered(1, 6, 0);
    let names: Vec<JournalFile> = world.disk.files.keys().copied().collect();
    for name in names {
        if matches!(name, JournalFile::Footer(_)) {
            world.disk.remove(name).expect("it is there");
        }
    }
    fill_disk(&mut world);
    drop_everything(&mut world);
    world.reclaim();
    world.settle();
    assert!(!world.read_only);
    assert!(world.journal().stats().footers_rebuilt >= 6);
}

// J-14
#[test]
fn a_segment_that_cannot_be_read_stays_and_keeps_no_other() {
    let mut world = covered(2, 20, 0);
    let (seq, file) = {
        let mut rows = world.journal().segments.values();
        let row = rows.nth(3).expect("there are more").row;
        (row.seq, row.file)
    };
    world
        .disk
        .remove(JournalFile::Footer(file))
        .expect("it was written");
    world.disk.flip(JournalFile::Segment(file), 4096 + 600);
    drop_everything(&mut world);
    world.reclaim();
    world.settle();
    assert!(world.journal().stats().segments_recycled >= 19);
    assert!(world.journal().segments.contains_key(&seq));
    // It is not read again and again.
    let read = world.journal().stats().read_bytes;
    for _ in 0..5 {
        world.reclaim();
        world.settle();
    }
    assert_eq!(world.journal().stats().read_bytes, read);
}

// J-14
#[test]
fn a_cancelled_read_keeps_its_file_until_it_is_back() {
    let mut world = World::new(3);
    world.open();
    world.append_to(0, 500, Class::Data).expect("there is room");
    world.settle();
    world.crash();
    // The file is cut: it will be removed, and not used again.
    world.open();
    let file = world.journal().segments[&1].row.file;
    grow(&mut world, 3);
    let mut effects = Effects::new();
    let id = world.journal().read(key(0), Offset::ZERO, 1, &mut effects);
    world.flying.append(&mut effects);
    let name = JournalFile::Segment(file);
    let is_its_read =
        |effect: &Effect| matches!(effect, Effect::Read { file, .. } if *file == name);
    world.complete_but(is_its_read);
    assert!(world.flying.iter().any(is_its_read));
    world.journal().cancel_read(id);
    for partition in 0..5 {
        let end = world.durable_end(partition);
        world.advance_start(partition, end).expect("there is room");
    }
    for _ in 0..10 {
        world.flush();
        world.complete_but(is_its_read);
        world.reclaim();
    }
    assert!(world.journal().stats().segments_recycled > 0);
    assert!(world.disk.files.contains_key(&name));
    world.settle();
    assert!(
        !world.disk.files.contains_key(&name),
        "it goes when the read is back"
    );
}

// J-56
#[test]
fn a_part_that_was_given_up_is_removed_and_spoils_no_other() {
    let mut world = World::new(4);
    world.open();
    world.settle();
    let part_of = |effect: &Effect| match effect {
        Effect::Write {
            file: JournalFile::Checkpoint(part),
            ..
        } => Some(*part),
        _ => None,
    };
    let is_part = |effect: &Effect| part_of(effect).is_some();
    while world.flying.iter().filter(|it| is_part(it)).count() < 2 {
        assert!(world.append(900).is_ok() || !world.flying.is_empty());
        world.flush();
        world.feed();
        world.complete_but(is_part);
    }
    let part = world.flying.iter().find_map(part_of).expect("it is there");
    let parts = |world: &World| {
        let files = world.disk.files.keys();
        files
            .filter(|file| matches!(file, JournalFile::Checkpoint(_)))
            .count()
    };
    world.fail_one(is_part, DiskError::NoSpace);
    world.pass(2_000_000_000);
    for _ in 0..3 {
        world.tick();
        world.feed();
        world.complete_but(is_part);
    }
    assert_eq!(parts(&world), 1, "no part is begun beside it");
    let now = world.now.mono;
    let wake = world.journal().next_wake();
    assert!(wake.is_none_or(|at| at > now), "there is nothing to do yet");
    world.fail_one(is_part, DiskError::NoSpace);
    world.settle();
    assert!(
        !world
            .disk
            .files
            .contains_key(&JournalFile::Checkpoint(part))
    );
    assert_eq!(world.journal().stats().checkpoints_failed, 1);
    world.pass(2_000_000_000);
    world.tick();
    world.settle();
    assert_eq!(world.checkpoints, 1);
    assert_eq!(parts(&world), 1);
}

// J-15
#[test]
fn spares_beyond_a_few_are_given_back_and_the_next_start_knows() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        world.open();
        world.settle();
        // The oldest segment stays: the numbers of lives alone do not say which of them were released.
        world.append_to(4, 100, Class::Data).expect("there is room");
        grow(&mut world, 25);
        let before = segment_files(&world);
        for partition in 0..4 {
            let end = world.durable_end(partition);
            world.advance_start(partition, end).expect("there is room");
        }
        world.settle();
        world.reclaim();
        world.settle();
        assert!(world.journal().stats().segments_recycled >= 24);
        assert!(world.journal().segments.contains_key(&1));
        // As many as were taken of late are likely to be taken again.
        assert!(world.journal().stats().spares > 20, "seed {seed}");
        for _ in 0..2 {
            assert!(world.journal().next_wake().is_some());
            world.pass(10_000_000_000);
            world.tick();
            world.settle();
        }
        let spares = world.journal().stats().spares;
        assert!((3..=6).contains(&spares), "seed {seed}: {spares}");
        assert!(segment_files(&world) + 15 < before, "seed {seed}");
        assert!(!world.journal().spares.gone.is_empty());
        // The checkpoints still tell of the files that are gone, start after start, and then no longer.
        for _ in 0..3 {
            world.crash();
            world.open();
            world.settle();
            assert!(world.journal().stats().spares <= 6);
        }
        let enough = world.checkpoints + 10;
        while world.checkpoints < enough {
            if world.append(3000).is_err() {
                world.settle();
            }
            world.settle();
        }
        assert!(world.journal().spares.gone.is_empty());
        world.crash();
        world.open();
    }
}

// J-15
#[test]
fn files_that_come_back_in_lumps_are_used_again_and_no_zeros_are_written() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.open();
        world.settle();
        let mut first = 0;
        for lump in 0..8 {
            grow(&mut world, 9);
            for partition in 0..4 {
                let end = world.durable_end(partition);
                world.advance_start(partition, end).expect("there is room");
            }
            world.settle();
            world.reclaim();
            world.pass(1_000_000_000);
            world.tick();
            world.settle();
            if lump == 0 {
                first = world.journal().stats().prewritten_bytes;
            }
        }
        // A lump is not always of the same size; a few files more see the largest through.
        let stats = world.journal().stats();
        let zeros = stats.prewritten_bytes - first;
        assert!(stats.segments_recycled > 60, "seed {seed}");
        assert!(
            zeros <= 4 * world.journal().segment_bytes(),
            "seed {seed}: {zeros} bytes"
        );
    }
}

// J-7
#[test]
fn a_segment_file_that_is_absent_and_was_not_released_is_refused_by_name() {
    let mut world = covered(5, 6, 24 * 1024);
    let oldest = world
        .journal()
        .segments
        .values()
        .next()
        .expect("one is full");
    let name = JournalFile::Segment(oldest.row.file);
    let start = oldest.row.start;
    world.crash();
    let file = world.disk.files.remove(&name).expect("it was there");
    match world.try_open() {
        Err(OpenError::Damaged { file, lsn, .. }) => assert_eq!((file, lsn), (name, start)),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a lost file was not missed"),
    }
    world.disk.files.insert(name, file);
    world.open();
}

#[test]
fn a_journal_with_room_again_is_not_woken_for_it() {
    let mut world = covered(6, 30, 24 * 1024);
    fill_disk(&mut world);
    drop_everything(&mut world);
    for _ in 0..20 {
        world.reclaim();
        world.settle();
    }
    assert!(!world.read_only);
    for _ in 0..3 {
        world.pass(5_000_000_000);
        world.tick();
        world.settle();
    }
    let now = world.now.mono;
    let wake = world.journal().next_wake();
    assert!(wake.is_none_or(|at| at > now), "{wake:?} at {now:?}");
}

#[test]
fn the_longest_cell_is_taken() {
    let mut world = World::new(7);
    world.open();
    let value = vec![7; CELL_VALUE_BYTES_MAX];
    let mut effects = Effects::new();
    while world.journal().checkpoint_backlog_bytes() == 0 {
        world.append(900).expect("there is room");
        world.flush();
        while world.complete_one() {}
    }
    world
        .journal()
        .checkpoint_cell(CELL, &[1; 8], Some(&value), &mut effects);
    let written = world.journal().stats().checkpoint_bytes as usize;
    assert!(world.journal().checkpoint_backlog_bytes() + written > value.len());
}

#[test]
fn zeros_follow_appends_in_small_pieces_and_the_next_segment_is_there_in_time() {
    let mut world = World::new(11);
    world.settings.segment_bytes = 2 << 20;
    world.open();
    world.settle();
    let zeros = |effect: &Effect| {
        matches!(
            effect,
            Effect::Write {
                file: JournalFile::Segment(_),
                durable: false,
                ..
            }
        )
    };
    let rolls = world.journal().stats().rolls;
    while world.journal().stats().rolls < rolls + 5 {
        world.append(3000).expect("no append waits for zeros");
        world.flush();
        let under_way = world.flying.iter().filter(|effect| zeros(effect)).count();
        assert!(under_way <= 1, "one piece at a time");
        assert!(
            under_way == 0 || world.journal().stats().spares < 3,
            "nothing is written ahead while a spare is ready and appends are under way"
        );
        while world.complete_one() {}
    }
}

#[test]
fn a_disk_that_fills_up_under_the_zeros_loses_the_file_and_nothing_else() {
    let mut world = World::new(12);
    world.settings.segment_bytes = 2 << 20;
    world.open();
    let zeros = |effect: &Effect| matches!(effect, Effect::Write { file: JournalFile::Segment(_), at, durable: false, .. } if *at > 0);
    while !world.flying.iter().any(zeros) {
        world.complete_one();
        world.flush();
    }
    world.fail_one(zeros, DiskError::NoSpace);
    let before = segment_files(&world);
    world.complete_but(|_| false);
    assert_eq!(segment_files(&world) + 1, before);
    assert_eq!(world.append(100), Err(Refused::ReadOnly));
    world.append_control().expect("the first segment has room");
    world.pass(2_000_000_000);
    world.tick();
    world.settle();
    world.append(100).expect("there is space again");
}
