//! The journal while it serves: what it promises its owner when disks are full, slow, failing or damaged, and when readers
//! hold on to what they were given.

use super::world::{World, key, small};
use crate::{Class, OpenError, Refused, Settings};
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::operation::{Effect, Effects, Fatal};
use tiderace_base::position::Offset;

fn opened(seed: u64) -> World {
    let mut world = World::new(seed);
    world.open();
    world.settle();
    world
}

// J-16
#[test]
fn a_failed_write_ends_the_journal_for_ever() {
    let mut world = opened(1);
    world.append(100).expect("there is room");
    world.fail_write = Some(DiskError::Io(5));
    world.flush();
    let acked = world.acked;
    while world.complete_one() {}
    assert_eq!(world.fatal, Some(Fatal::JournalWrite(DiskError::Io(5))));
    for _ in 0..3 {
        assert_eq!(world.append(100), Err(Refused::Poisoned));
        world.pass(1_000_000_000);
        world.flush();
        world.tick();
        assert!(!world.complete_one(), "nothing is tried again");
    }
    assert_eq!(world.acked, acked, "nothing more is durable");
    assert_eq!(world.journal().next_wake(), None);
}

// J-3
#[test]
fn no_chunk_of_a_segment_goes_before_its_header_and_the_superblock_are_durable() {
    for seed in 0..40 {
        let mut world = opened(seed);
        let rolls = world.journal().stats().rolls;
        let file_before = world.journal().active.file;
        while world.journal().stats().rolls == rolls {
            if world.append(3000).is_err() {
                world.settle();
            }
        }
        let file = world.journal().active.file;
        assert_ne!(file, file_before);
        for _ in 0..200 {
            world.flush();
            let begins = |it: &Effect| match it {
                Effect::Write { file: name, at, .. } => {
                    *name == JournalFile::Superblock
                        || (*name == JournalFile::Segment(file) && *at == 0)
                }
                _ => false,
            };
            let chunk = world.flying.iter().any(|it| {
                matches!(it, Effect::Write { file: JournalFile::Segment(name), at, durable: true, .. }
                    if *name == file && *at > 0)
            });
            let waiting = world.journal().active.begun != crate::segments::Begun::Yes;
            assert!(!(chunk && waiting), "seed {seed}");
            assert!(
                !waiting || world.flying.iter().any(begins),
                "seed {seed}: it is on its way"
            );
            if !world.complete_one() {
                break;
            }
        }
        world.settle();
    }
}

// J-13
#[test]
fn a_pause_writes_one_closing_chunk() {
    let mut world = opened(3);
    world.append(10).expect("there is room");
    world.settle();
    assert_eq!(world.journal().stats().closing_chunks, 0);
    for _ in 0..5 {
        world.pass(20_000_000);
        world.tick();
        world.settle();
    }
    assert_eq!(world.journal().stats().closing_chunks, 1);
    world.append(10).expect("there is room");
    world.settle();
    world.pass(20_000_000);
    world.tick();
    world.settle();
    assert_eq!(world.journal().stats().closing_chunks, 2);
}

#[test]
fn a_full_disk_refuses_data_takes_control_entries_and_recovers_by_itself() {
    let mut world = opened(4);
    world.settle();
    world.disk.bytes_max = world
        .disk
        .files
        .values()
        .map(|file| file.seen.len() as u64)
        .sum();
    let mut refused = None;
    for _ in 0..2000 {
        match world.append(2000) {
            Ok(_) => {}
            Err(Refused::ReadOnly) => {
                refused = Some(Refused::ReadOnly);
                break;
            }
            Err(_) => world.settle(),
        }
        world.flush();
        while world.complete_one() {}
    }
    assert_eq!(refused, Some(Refused::ReadOnly));
    assert!(world.read_only && world.journal().stats().read_only);
    world
        .append_to(0, 100, Class::Control)
        .expect("control entries have a reserve");
    world.settle();
    world.disk.bytes_max = u64::MAX;
    world.pass(2_000_000_000);
    world.tick();
    world.settle();
    assert!(!world.read_only);
    world.append(2000).expect("there is room again");
    world.settle();
    world.crash();
    world.open();
}

/// Fills the disk until data is refused, and leaves no byte of room.
fn fill_to_the_last_byte(world: &mut World) {
    let used = |world: &World| {
        let files = world.disk.files.values();
        files.map(|file| file.seen.len() as u64).sum()
    };
    world.disk.bytes_max = used(world);
    for _ in 0..2000 {
        if world.append(2000) == Err(Refused::ReadOnly) {
            break;
        }
        world.settle();
    }
    world.disk.bytes_max = used(world);
}

#[test]
fn a_start_on_a_full_disk_serves_what_it_has_and_recovers_when_there_is_room() {
    for seed in 0..20 {
        let mut world = opened(seed);
        world.settle();
        fill_to_the_last_byte(&mut world);
        assert!(world.read_only, "seed {seed}");
        for _ in 0..2 {
            world.crash();
            world.open();
            world.settle();
            // Somebody else takes what recovery gave back.
            fill_to_the_last_byte(&mut world);
            assert!(world.read_only, "seed {seed}");
            world
                .append_to(0, 100, Class::Control)
                .expect("control entries have room");
            world.settle();
        }
        world.disk.bytes_max = u64::MAX;
        world.pass(2_000_000_000);
        world.tick();
        world.settle();
        assert!(!world.read_only, "seed {seed}");
        world.append(2000).expect("there is room again");
        world.settle();
    }
}

#[test]
fn a_start_without_any_spare_on_a_full_disk_says_what_it_needs() {
    let mut world = opened(4);
    world.settle();
    fill_to_the_last_byte(&mut world);
    let refused = loop {
        world.crash();
        match world.try_open() {
            Ok(owner) => world.check_recovered(&owner),
            Err(error) => break error,
        }
        world.settle();
        fill_to_the_last_byte(&mut world);
        world
            .append_to(0, 100, Class::Control)
            .expect("control entries have room");
        world.settle();
        let used = world.disk.files.values().map(|file| file.seen.len() as u64);
        world.disk.bytes_max = used.sum();
    };
    let OpenError::NoSpace { bytes, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(bytes, world.settings.segment_bytes);
    // That much is enough.
    world.disk.bytes_max += bytes;
    world.crash();
    world.open();
}

#[test]
fn slices_hold_their_buffers_and_the_journal_says_so() {
    let mut world = opened(5);
    let mut held = Vec::new();
    let mut busy = false;
    for _ in 0..400 {
        match world.append(4000) {
            Ok(placed) => {
                world.settle();
                let bytes = (placed.end.get() - placed.lsn.get()) as usize;
                let slice = world.journal().slice(placed.lsn, bytes).expect("it is new");
                assert_eq!(slice, world.entries.last().expect("one was added").bytes);
                held.push(slice);
            }
            Err(Refused::Busy) if world.journal().stats().regions_pinned > 0 => {
                busy = true;
                break;
            }
            Err(_) => world.settle(),
        }
    }
    assert!(busy, "pinned buffers stop the journal, not the memory");
    held.clear();
    world.append(4000).expect("the buffers are free again");
}

fn cold(seed: u64) -> World {
    cold_with(seed, 300)
}

fn cold_with(seed: u64, entries: u32) -> World {
    let mut world = World::new(seed);
    world.settings = Settings {
        checkpoint_every_bytes: u64::MAX,
        ..small(seed)
    };
    world.open();
    for _ in 0..entries {
        if world.append(700).is_err() {
            world.settle();
        }
        if world.prng.chance(1, 3) {
            world.flush();
        }
    }
    world.settle();
    world
}

fn read_everything(world: &mut World) {
    for partition in 0..5 {
        let end = world.durable_end(partition);
        let mut from = 0;
        while from < end {
            let before = world.reads_answered;
            world.ask(partition, from, 5000);
            world.settle();
            assert_eq!(world.reads_answered, before + 1);
            from += world.prng.range(1, 40);
        }
        world.ask(partition, end, 5000);
        world.settle();
        let last = world
            .entries
            .iter()
            .filter(|entry| entry.partition == partition)
            .map(|entry| entry.time_us)
            .max()
            .unwrap_or(0);
        for time_us in 0..last + 2 {
            world.ask_time(partition, time_us);
            world.settle();
        }
    }
}

#[test]
fn cold_reads_agree_with_what_was_appended_by_offset_and_by_time() {
    let mut world = cold(6);
    read_everything(&mut world);
    world.crash();
    world.open();
    read_everything(&mut world);
}

#[test]
fn readers_that_go_on_look_into_one_segment_after_the_other() {
    let mut world = cold_with(8, 1200);
    let segments = world.journal().stats().segments;
    assert!(segments > 10, "otherwise this shows little: {segments}");
    let end = world.durable_end(0);
    // Two of the same partition, one far behind the other.
    let mut readers = [0, end / 2];
    let mut steps = 0;
    let before = world.journal().stats().segments_searched;
    while readers.iter().any(|from| *from < end) {
        for from in readers.iter_mut().filter(|from| **from < end) {
            world.ask(0, *from, 1);
            world.settle();
            *from = world.last_read_next;
            steps += 1;
        }
    }
    let searched = world.journal().stats().segments_searched - before;
    let first_searches = 2 * segments;
    assert!(
        searched <= steps + 2 * segments + first_searches,
        "{searched} indexes for {steps} reads of {segments} segments"
    );
}

#[test]
fn an_absent_or_damaged_footer_is_built_again() {
    let mut world = cold(7);
    world.crash();
    world.open();
    // What recovery left in memory is dropped, and every footer on the disk is spoilt.
    world.journal().footers.cache = crate::index::FooterCache::new(20_000);
    let names: Vec<JournalFile> = world.disk.files.keys().copied().collect();
    for (index, name) in names.into_iter().enumerate() {
        if matches!(name, JournalFile::Footer(_)) {
            if index % 2 == 0 {
                world.disk.remove(name).expect("it is there");
            } else {
                world.disk.flip(name, 200);
            }
        }
    }
    read_everything(&mut world);
    assert!(world.journal().stats().footers_rebuilt > 0);
}

#[test]
fn a_damaged_batch_is_told_and_never_given() {
    let mut world = cold(8);
    world.damage_is_expected = true;
    let first = world.entries[0].clone();
    let file = world
        .journal()
        .segments
        .values()
        .next()
        .expect("one is full")
        .row
        .file;
    // Its body, in the first chunk of the journal.
    world
        .disk
        .flip(JournalFile::Segment(file), 4096 + 512 + 130);
    world.ask(first.partition, first.base, 1 << 16);
    world.settle();
    assert_eq!(
        world.damaged,
        [(JournalFile::Segment(file), 4096 + 512)],
        "it is named"
    );
    world.ask(first.partition, first.next, 1 << 16);
    world.settle();
    assert_eq!(world.damaged.len(), 1, "what lies behind it is served");
}

#[test]
fn what_lies_before_an_unreadable_block_is_given_however_much_is_asked_for() {
    let mut world = cold(8);
    world.damage_is_expected = true;
    let row = world.journal().segments.values().next().expect("full").row;
    let bytes = row.end.distance_from(row.start).expect("it has some");
    // In the middle of the segment.
    let bad = 1 + bytes / 4096 / 2;
    let file = JournalFile::Segment(row.file);
    world.disk.unreadable.insert((file, bad));
    let (mut given, mut refused) = (0, 0);
    for entry in world.entries.clone() {
        let end = 4096 + entry.end.distance_from(row.start).expect("the first one");
        let start = end - entry.bytes.len() as u64;
        let is_before = end <= bad * 4096;
        let is_hit = !is_before && start < (bad + 1) * 4096;
        if !is_before && !is_hit {
            continue;
        }
        let before = world.damaged.len();
        world.ask(entry.partition, entry.base, 1 << 16);
        world.settle();
        let is_refused = world.damaged.len() > before;
        assert_eq!(is_refused, is_hit, "bytes {start}..{end}");
        given += u32::from(!is_refused);
        refused += u32::from(is_refused);
    }
    assert!(given > 0 && refused > 0, "{given} given, {refused} refused");
    // It is told where it lies, and not as all that was asked for.
    for damage in &world.told {
        let place = damage.at..damage.at + damage.bytes;
        assert!(
            place.start < (bad + 1) * 4096 && bad * 4096 < place.end && damage.bytes <= 3 * 4096,
            "{damage}"
        );
    }
    assert!(!world.told.is_empty());
}

#[test]
fn a_cancelled_read_is_never_answered() {
    let mut world = cold(9);
    let mut effects = Effects::new();
    let id = world
        .journal()
        .read(key(0), Offset::ZERO, 1000, &mut effects);
    world.journal().cancel_read(id);
    world.flying.append(&mut effects);
    // The world panics on an answer that it does not know.
    world.settle();
}

// J-15
#[test]
fn a_released_file_waits_for_what_made_it_dead_and_for_a_superblock_that_says_so() {
    let mut world = opened(10);
    while world.checkpoints < 3 {
        if world.append(900).is_err() {
            world.settle();
        }
        world.settle();
    }
    for partition in 0..5 {
        let end = world.durable_end(partition);
        world.advance_start(partition, end).expect("there is room");
    }
    let spares = world.journal().stats().spares;
    let is_chunk = |effect: &Effect| matches!(effect, Effect::Write { file: JournalFile::Segment(_), at, durable: true, .. } if *at > 0);
    let is_superblock = |effect: &Effect| {
        matches!(
            effect,
            Effect::Write {
                file: JournalFile::Superblock,
                ..
            }
        )
    };
    for _ in 0..20 {
        world.reclaim();
        world.complete_but(is_chunk);
    }
    assert!(world.journal().stats().segments_recycled > 0);
    assert!(
        world
            .journal()
            .spares
            .releasing
            .iter()
            .all(|it| it.version.is_none())
    );
    assert_eq!(
        world.journal().stats().spares,
        spares,
        "the starts are not durable"
    );
    world.complete_but(is_superblock);
    world.flush();
    assert!(
        world.flying.iter().any(is_superblock),
        "it says which files are free"
    );
    assert_eq!(
        world.journal().stats().spares,
        spares,
        "that is not durable"
    );
    world.settle();
    assert!(world.journal().stats().spares > spares);
}
