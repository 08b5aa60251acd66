//! Bytes that were acknowledged and rot: refused by name while anything proves them durable, never skipped, never guessed.
//! What is not damage (a torn tail, an interrupted first start, files of others) is no reason to refuse.

use super::world::{World, small};
use crate::format::superblock::{COPY_BYTES, HEADER_BYTES};
use crate::{Journal, MarkKind, OpenError, Replay, Settings, open};
use std::collections::BTreeMap;
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::ids::SlotId;
use tiderace_base::operation::Effect;
use tiderace_base::position::{Lsn, Offset};
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;
use tiderace_wire::batch::BatchHeader;

/// Takes anything.
struct Anybody;

impl Replay for Anybody {
    fn cell(&mut self, _kind: u8, _key: &[u8], _value: Option<&[u8]>) {}
    fn entry(&mut self, _lsn: Lsn, _end: Lsn, _header: &BatchHeader, _body: &[u8]) {}
}

fn settings(seed: u64, checkpoint_every_bytes: u64) -> Settings {
    Settings {
        checkpoint_every_bytes,
        ..small(seed)
    }
}

/// A journal of `entries` entries, all acknowledged, closed by a pause, without power.
fn written(seed: u64, entries: u64, checkpoint_every_bytes: u64) -> World {
    let mut world = World::new(seed);
    world.settings = settings(seed, checkpoint_every_bytes);
    world.open();
    fill(&mut world, entries);
    world
}

fn fill(world: &mut World, entries: u64) {
    let all = world.entries.len() as u64 + entries;
    while (world.entries.len() as u64) < all {
        let bytes = world.prng.range(1, 1500) as usize;
        if world.append(bytes).is_err() {
            world.settle();
        }
        if world.prng.chance(1, 4) {
            world.flush();
        }
    }
    world.settle();
    world.pass(20_000_000);
    world.tick();
    world.settle();
    world.crash();
}

/// Where each segment file's chunks are, by walking what the journal wrote: (file, first byte, bytes).
pub(super) fn chunks(world: &World) -> Vec<(u32, u64, u64)> {
    let mut found = Vec::new();
    for (file, content) in &world.disk.files {
        let JournalFile::Segment(number) = file else {
            continue;
        };
        let mut at = 4096;
        while at + 4096 <= content.durable.len() {
            let block = &content.durable[at..];
            if block[..4] != *b"TRC1" {
                break;
            }
            let bytes = u32::from_le_bytes(block[40..44].try_into().expect("four bytes"));
            found.push((*number, at as u64, u64::from(bytes)));
            at += bytes as usize;
        }
    }
    // Files are taken in the order of their numbers in so young a journal.
    found
}

// J-6, J-8: every byte of a chunk but the last one, and of every header.
#[test]
fn a_flipped_bit_in_acknowledged_bytes_is_refused_by_name_and_nothing_is_changed() {
    for seed in 0..120 {
        let mut world = written(seed, 60, u64::MAX);
        let chunks = chunks(&world);
        let mut prng = Prng::new(seed ^ 0xf11b);
        let pick = prng.below(chunks.len() as u64 - 1) as usize;
        let (file, first, bytes) = chunks[pick];
        let (at, range) = if prng.chance(1, 6) {
            (prng.below(4096), 0..4096)
        } else {
            (first + prng.below(bytes), first..first + bytes)
        };
        let name = JournalFile::Segment(file);
        world.disk.flip(name, at);
        let before = world.disk.files.keys().copied().collect::<Vec<_>>();
        match world.try_open() {
            Err(OpenError::Damaged {
                file: found,
                at: found_at,
                bytes: found_bytes,
                ..
            }) => {
                assert_eq!(found, name, "seed {seed}");
                assert_eq!(found_at, range.start, "seed {seed}");
                assert!(
                    (found_at..found_at + found_bytes).contains(&at),
                    "seed {seed}"
                );
            }
            Err(error) => panic!("seed {seed}: {error}"),
            Ok(_) => panic!("seed {seed}: damage at {at} of {name} was not seen"),
        }
        let after = world.disk.files.keys().copied().collect::<Vec<_>>();
        assert_eq!(before, after, "seed {seed}");
        world.disk.flip(name, at);
        world.open();
    }
}

// J-6: a place that a readable first block describes is named with its slots.
#[test]
fn damage_names_the_slots_that_the_directory_tells() {
    let mut world = World::new(1);
    world.open();
    world
        .append_to(3, 9000, crate::Class::Data)
        .expect("there is room");
    world.settle();
    world
        .append_to(1, 10, crate::Class::Data)
        .expect("there is room");
    world.settle();
    world.crash();
    let (file, at, _) = chunks(&world)[0];
    world.disk.flip(JournalFile::Segment(file), at + 5000);
    let Err(OpenError::Damaged { slots, lsn, .. }) = world.try_open() else {
        panic!("it is damage");
    };
    assert_eq!(slots, [SlotId::new(3)]);
    assert_eq!(lsn, Lsn::ZERO);
}

// J-6, J-10
#[test]
fn a_torn_tail_is_cut_and_the_slots_that_it_may_have_held_are_marked() {
    let mut world = World::new(2);
    world.open();
    world
        .append_to(1, 10, crate::Class::Data)
        .expect("there is room");
    world.settle();
    let placed = world
        .append_to(4, 9000, crate::Class::Data)
        .expect("there is room");
    world.flush();
    let write = world
        .flying
        .iter()
        .find_map(|effect| match effect {
            Effect::Write {
                file: file @ JournalFile::Segment(_),
                at,
                data,
                ..
            } => Some((*file, *at, data.clone())),
            _ => None,
        })
        .expect("the chunk is on its way");
    // Only its first block arrives.
    world.disk.write_durably(write.0, write.1, &write.2[..4096]);
    world.flying.clear();
    world.crash();
    world.open();
    assert_eq!(world.entries.len(), 1);
    assert!(world.acked < placed.end);
    let marks = world.journal().marks().to_vec();
    assert_eq!(marks.len(), 1);
    assert_eq!(marks[0].kind, MarkKind::Cut);
    assert_eq!(marks[0].slot, Some(SlotId::new(4)));
    assert!(marks[0].greatest.is_some());
    // Marks survive restarts until they are cleared, durably.
    world.crash();
    world.open();
    assert_eq!(world.journal().marks(), marks);
    world.journal().clear_marks();
    fill(&mut world, 120);
    world.open();
    assert_eq!(world.journal().marks(), []);
}

// J-10
#[test]
fn a_closed_journal_opens_without_a_mark() {
    let mut world = written(3, 30, u64::MAX);
    world.open();
    assert_eq!(world.journal().marks(), []);
}

// J-1, J-7: a roll's superblock is lost after chunks of the new segment were acknowledged.
#[test]
fn a_lost_copy_of_the_superblock_loses_no_segment() {
    let mut rolled = 0;
    for seed in 0..60 {
        let mut world = written(seed, 70, u64::MAX);
        let newest = newest_copy(&mut world);
        world
            .disk
            .flip(JournalFile::Superblock, newest * COPY_BYTES as u64 + 40);
        world.open();
        let suspect = world
            .journal()
            .marks()
            .iter()
            .any(|mark| mark.kind == MarkKind::Suspect);
        rolled += u64::from(suspect);
    }
    assert!(rolled > 10, "the case happens: {rolled}");
}

// J-7: both copies of the superblock are whole and older than the log, because what was written last is lost.
#[test]
fn an_old_superblock_loses_no_segment_that_was_begun_since() {
    let mut rolled = 0;
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.settings = settings(seed, u64::MAX);
        world.open();
        let old = world.disk.files[&JournalFile::Superblock].durable.clone();
        fill(&mut world, 60);
        let file = world.disk.files.get_mut(&JournalFile::Superblock);
        let file = file.expect("it is there");
        file.seen.clone_from(&old);
        file.durable = old;
        world.open();
        let suspect = world
            .journal()
            .marks()
            .iter()
            .any(|mark| mark.kind == MarkKind::Suspect);
        rolled += u64::from(suspect);
    }
    assert!(rolled > 30, "the case happens: {rolled}");
}

// J-7: the last write of a superblock is lost, and its copy is as it was before. Segments were released meanwhile, and their
// files taken again, so that rows of the checkpoint tell of earlier lives in them.
#[test]
fn a_lost_superblock_write_loses_no_segment_in_a_file_that_was_free() {
    let mut adopted = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        // Several segments between two checkpoints, so that a file is free and taken again before the next one.
        world.settings = settings(seed, 200_000 + 20_000 * (seed % 10));
        world.open();
        let mut history: Vec<Vec<u8>> = Vec::new();
        let mut note = |world: &World| {
            let now = &world.disk.files[&JournalFile::Superblock].durable;
            if history.last() != Some(now) {
                history.push(now.clone());
            }
        };
        let steps = world.prng.range(200, 800);
        for _ in 0..steps {
            let bytes = world.prng.range(1, 6000) as usize;
            if world.append(bytes).is_err() || world.prng.chance(1, 4) {
                world.settle();
            }
            note(&world);
            if world.prng.chance(1, 40) {
                for partition in 0..5 {
                    let end = world.durable_end(partition);
                    world.advance_start(partition, end).expect("there is room");
                }
                world.settle();
                world.reclaim();
                world.settle();
                note(&world);
            }
        }
        world.settle();
        note(&world);
        world.crash();
        let generation = |bytes: &[u8], copy: usize| {
            let at = copy * COPY_BYTES + 16;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let last = history[history.len() - 1].clone();
        let copy = usize::from(generation(&last, 1) > generation(&last, 0));
        let earlier = history
            .iter()
            .rev()
            .find(|it| generation(it, copy) < generation(&last, copy));
        let Some(earlier) = earlier else { continue };
        let range = copy * COPY_BYTES..(copy + 1) * COPY_BYTES;
        let file = world.disk.files.get_mut(&JournalFile::Superblock);
        let file = file.expect("it is there");
        file.seen[range.clone()].copy_from_slice(&earlier[range.clone()]);
        file.durable[range.clone()].copy_from_slice(&earlier[range]);
        // Refused, or everything that was acknowledged is there.
        if let Ok(owner) = world.try_open() {
            world.check_recovered(&owner);
            let mut marks = world.journal().marks().iter();
            adopted += u64::from(marks.any(|mark| mark.kind == MarkKind::Suspect));
        }
    }
    assert!(adopted > 20, "the case happens: {adopted}");
}

// J-11: whoever is refused elsewhere finds this journal as it was.
#[test]
fn a_recovery_that_is_not_begun_changes_nothing() {
    for seed in 0..40 {
        let mut world = if seed == 0 {
            World::new(seed)
        } else {
            written(seed, 10 + 3 * seed, 30_000)
        };
        let before = world.disk.files.clone();
        let mut count = 0;
        for _ in 0..3 {
            let settings = settings(seed, 30_000);
            let found = crate::recover(&mut world.disk, settings, Now::default(), &mut Anybody)
                .expect("the journal is sound");
            assert!(
                count == 0 || found.boot_count() == count,
                "no run is counted"
            );
            count = found.boot_count();
        }
        let same = |(name, file): (&JournalFile, &super::disk::File)| {
            before
                .get(name)
                .is_some_and(|it| it.durable == file.durable && it.seen == file.seen)
        };
        assert_eq!(world.disk.files.len(), before.len(), "seed {seed}");
        assert!(world.disk.files.iter().all(same), "seed {seed}");
        world.open();
        assert_eq!(world.journal().boot_count(), count, "seed {seed}");
    }
}

// J-1, J-11: whichever copy is lost, the other one tells of the same run.
#[test]
fn a_start_leaves_two_superblocks_of_its_own_run() {
    let mut world = written(3, 20, u64::MAX);
    for boots in 2_u64..5 {
        world.open();
        let counted = [0, COPY_BYTES].map(|at| {
            let file = &world.disk.files[&JournalFile::Superblock].durable;
            let count = file[at + 72..at + 80].try_into().expect("eight bytes");
            u64::from_le_bytes(count)
        });
        assert_eq!(counted, [boots; 2]);
        world.crash();
    }
}

fn newest_copy(world: &mut World) -> u64 {
    let generation = |world: &mut World, copy: u64| {
        let mut header = vec![0; HEADER_BYTES];
        world
            .disk
            .read(
                JournalFile::Superblock,
                copy * COPY_BYTES as u64,
                &mut header,
            )
            .expect("the file is there");
        u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"))
    };
    u64::from(generation(world, 1) > generation(world, 0))
}

// J-2
#[test]
fn without_any_superblock_a_journal_with_data_is_refused_and_an_interrupted_first_start_is_not() {
    let mut world = written(4, 20, u64::MAX);
    let whole = world.disk.clone();
    for copy in 0..2 {
        world
            .disk
            .flip(JournalFile::Superblock, copy * COPY_BYTES as u64 + 100);
    }
    assert_eq!(world.try_open(), Err(OpenError::SuperblockDamaged));
    world.disk = whole;
    world
        .disk
        .remove(JournalFile::Superblock)
        .expect("it is there");
    let refused = world.try_open();
    assert!(
        matches!(refused, Err(OpenError::NotEmptyNoSuperblock { .. })),
        "{refused:?}"
    );
    for fuel in 0..12 {
        let mut world = World::new(100 + fuel);
        world.disk.fuel = Some(fuel);
        if world.try_open().is_err() {
            world.disk.crash(Vec::new());
            world.open();
        }
    }
}

#[test]
fn another_setting_and_a_newer_version_are_refused() {
    let mut world = written(5, 5, u64::MAX);
    for change in [0, 1, 2] {
        let mut other = settings(5, u64::MAX);
        match change {
            0 => other.segment_bytes *= 2,
            1 => other.journal_count = 2,
            _ => (other.journal_index, other.journal_count) = (1, 2),
        }
        let refused = open(&mut world.disk, other, Now::default(), &mut Anybody);
        assert!(matches!(refused, Err(OpenError::SettingsMismatch { .. })));
    }
    let copy = newest_copy(&mut world);
    let at = (copy * COPY_BYTES as u64) as usize;
    let file = world
        .disk
        .files
        .get_mut(&JournalFile::Superblock)
        .expect("it is there");
    file.seen[at + 8] = 9;
    let crc = crc32c(&file.seen[at..at + HEADER_BYTES - 4]);
    file.seen[at + HEADER_BYTES - 4..at + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    file.durable.clone_from(&file.seen);
    assert_eq!(
        world.try_open(),
        Err(OpenError::NewerVersion { found: 9, known: 1 })
    );
}

// J-9
#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before_it_and_both_to_the_whole_log() {
    let mut fell_back = 0;
    for seed in 0..20 {
        let mut world = written(seed, 400, 96 * 1024);
        let mut parts: Vec<u64> = world
            .disk
            .files
            .keys()
            .filter_map(|file| match file {
                JournalFile::Checkpoint(part) => Some(*part),
                _ => None,
            })
            .collect();
        let newest = parts.pop().expect("checkpoints were made");
        world.disk.flip(JournalFile::Checkpoint(newest), 5);
        fell_back += u64::from(!parts.is_empty());
        let with_one = world.disk.clone();
        world.open();
        world.crash();
        world.disk = with_one;
        // Nothing was released yet: the log alone is enough.
        for part in parts {
            world.disk.flip(JournalFile::Checkpoint(part), 5);
        }
        world.open();
    }
    assert!(fell_back > 10);
}

// J-9
#[test]
fn without_a_checkpoint_a_log_that_lost_its_start_is_refused() {
    let mut world = World::new(7);
    world.open();
    let mut refused = false;
    for _ in 0..12 {
        for _ in 0..100 {
            if world.append(900).is_err() {
                world.settle();
            }
        }
        world.settle();
        for partition in 0..5 {
            let end = world.durable_end(partition);
            world
                .starts
                .insert(super::world::key(partition), Offset::new(end));
        }
        for _ in 0..4 {
            world.reclaim();
            world.settle();
        }
    }
    assert!(world.journal().stats().segments_recycled > 5);
    world.crash();
    let whole = world.disk.clone();
    world.open();
    world.crash();
    world.disk = whole;
    let parts: BTreeMap<_, _> = world.disk.files.clone();
    for file in parts.keys() {
        if matches!(file, JournalFile::Checkpoint(_)) {
            world.disk.flip(*file, 9);
        }
    }
    if let Err(OpenError::CheckpointDamaged { newest, .. }) = world.try_open() {
        assert!(newest > 0);
        refused = true;
    }
    assert!(refused);
}

// J-1: a superblock that was written to a copy of a file that was cut short is found again.
#[test]
fn a_superblock_file_that_was_cut_short_gets_its_length_back() {
    for seed in 0..12 {
        let mut world = written(seed, 70, u64::MAX);
        let copy = newest_copy(&mut world);
        let file = world
            .disk
            .files
            .get_mut(&JournalFile::Superblock)
            .expect("it is there");
        // The older copy is lost, or only the room behind the newer one.
        let bytes = if copy == 0 {
            COPY_BYTES
        } else {
            COPY_BYTES + 2 * HEADER_BYTES.next_multiple_of(4096)
        };
        file.seen.truncate(bytes);
        file.durable.truncate(bytes);
        let entries = world.entries.len();
        for _ in 0..3 {
            world.open();
            assert_eq!(world.entries.len(), entries, "seed {seed}");
            world.crash();
            let file = &world.disk.files[&JournalFile::Superblock];
            assert_eq!(file.durable.len(), 2 * COPY_BYTES, "seed {seed}");
        }
    }
}

// J-4: a stray file with the greatest number there is leaves none for the next.
#[test]
fn files_with_numbers_that_no_journal_gives_are_left_alone() {
    let mut world = written(6, 70, 64 * 1024);
    let strangers = [
        JournalFile::Segment(u32::MAX),
        JournalFile::Footer(u32::MAX),
        JournalFile::Checkpoint(u64::MAX),
    ];
    for stranger in strangers {
        world.disk.create(stranger, 65_536).expect("there is room");
    }
    world.open();
    fill(&mut world, 200);
    world.open();
    for stranger in strangers {
        assert!(world.disk.files.contains_key(&stranger));
    }
}

// J-8: a life that lies in another file than the superblock says is no later life, whatever copy of it is lost.
#[test]
fn exchanged_segment_files_are_refused_when_a_copy_of_the_superblock_is_lost() {
    let mut refused = 0;
    for seed in 0..30 {
        let mut world = written(seed, 200, 64 * 1024);
        let copy = newest_copy(&mut world);
        let segments: Vec<u32> = chunks(&world).into_iter().map(|(file, ..)| file).collect();
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            panic!("there are segments");
        };
        let names = [first, last].map(|file| JournalFile::Segment(*file));
        let [one, other] = names.map(|name| world.disk.files[&name].clone());
        world.disk.files.insert(names[0], other);
        world.disk.files.insert(names[1], one);
        world.disk.flip(
            JournalFile::Superblock,
            (1 - copy) * COPY_BYTES as u64 + 100,
        );
        match world.try_open() {
            Err(OpenError::Damaged { .. }) => refused += 1,
            other => panic!("seed {seed}: {:?}", other.map(|_| "opened")),
        }
    }
    assert_eq!(refused, 30);
}

/// Whatever the bytes, opening says something and does not panic. J-4
#[test]
fn arbitrary_bytes_never_panic() {
    for seed in 0..150 {
        let mut world = written(seed % 10, 120, 64 * 1024);
        let mut prng = Prng::new(seed);
        let names: Vec<JournalFile> = world.disk.files.keys().copied().collect();
        for _ in 0..prng.range(1, 5) {
            let name = names[prng.below(names.len() as u64) as usize];
            let file = world.disk.files.get_mut(&name).expect("it is there");
            if file.seen.is_empty() {
                continue;
            }
            let at = prng.below(file.seen.len() as u64) as usize;
            let to = (at + prng.range(1, 9000) as usize).min(file.seen.len());
            match prng.below(4) {
                0 => file.seen.truncate(at),
                1 => file.seen[at..to].fill(0),
                2 => file.seen[at..to].fill(0xff),
                _ => prng.fill(&mut file.seen[at..to]),
            }
            file.durable.clone_from(&file.seen);
        }
        let opened: Result<Journal, OpenError> = open(
            &mut world.disk,
            settings(seed, 64 * 1024),
            Now::default(),
            &mut Anybody,
        );
        if let Err(error) = opened {
            assert!(!error.to_string().is_empty());
        }
    }
}
