//! Slots that are copied, cut and written again, against a model that remembers every entry: whatever crashes between, what
//! lives is what the model says, by offset, by time and by sequence, from memory, from the disk, from an index that was
//! loaded and from one that was built again; and what was cut is given to nobody. J-60 to J-66

mod zone;

use crate::index::NoteError;
use crate::planted::{Bug, plant};
use crate::{EntryRefused, MarkKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tiderace_base::checksum::crc32c;
use tiderace_base::disk::JournalFile;
use tiderace_base::ids::SlotId;
use tiderace_base::operation::Effect;
use tiderace_base::position::{Epoch, Lsn, Offset, SlotSeq};
use tiderace_wire::batch::Placement;
use tiderace_wire::entry::{EntryKind, NO_PARTITION, Seal, Truncate, encode_entry};
use zone::{Counts, Record, Zone};

fn run(seed: u64) -> Counts {
    let mut zone = Zone::new(seed);
    let crashes = 1 + zone.prng().below(4);
    for _ in 0..crashes {
        zone.open_through_crashes();
        let turns = zone.prng().below(80);
        for _ in 0..turns {
            zone.turn();
        }
        if zone.prng().chance(1, 3) {
            zone.read_everything();
        }
        zone.stop();
    }
    zone.open_through_crashes();
    zone.read_everything();
    zone.counts
}

// J-60 to J-63, J-65, J-66
#[test]
fn what_lives_is_read_and_what_was_cut_never_is_whatever_crashes_between() {
    let mut all = Counts::default();
    for seed in 0..300 {
        let counts = catch_unwind(|| run(seed)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(cause);
        });
        all.reads += counts.reads;
        all.slot_reads += counts.slot_reads;
        all.tails += counts.tails;
        all.cuts += counts.cuts;
        all.dead += counts.dead;
        all.recycled += counts.recycled;
        all.checkpoints += counts.checkpoints;
        all.rebuilt += counts.rebuilt;
        all.kept_cuts += counts.kept_cuts;
    }
    println!("{all:?}");
    assert!(all.reads > 50_000 && all.slot_reads > 20_000 && all.tails > 1000);
    assert!(all.cuts > 2000 && all.dead > 10_000 && all.kept_cuts > 2000);
    assert!(all.recycled > 400 && all.checkpoints > 500 && all.rebuilt > 50);
}

/// Each bug is noticed by the same world.
#[test]
fn every_planted_bug_is_noticed() {
    let mut missed = Vec::new();
    for bug in [
        Bug::ServeDead,
        Bug::BelieveOldIndex,
        Bug::ForgetCutAtStart,
        Bug::ForgetCutEarly,
        Bug::ReleaseAboveBase,
        Bug::CoverUncaptured,
    ] {
        plant(Some(bug));
        let noticed = (0..300).find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err());
        plant(None);
        println!("{bug:?}: {noticed:?}");
        if noticed.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

fn settled(seed: u64, turns: u64) -> Zone {
    let mut zone = Zone::new(seed);
    zone.open().expect("it is new");
    for _ in 0..turns {
        zone.turn();
    }
    zone.settle();
    zone.world.pass(20_000_000);
    zone.world.tick();
    zone.settle();
    zone
}

fn a_seal(slot: u16, epoch: u32) -> Seal {
    Seal {
        slot: SlotId::new(slot),
        epoch: Epoch::new(epoch),
        last_epoch: Epoch::new(1),
        last_seq: SlotSeq::new(5),
        flushed_seq: SlotSeq::new(4),
        cut: true,
    }
}

fn told(zone: &mut Zone) -> Vec<Epoch> {
    let told = core::mem::take(&mut zone.told);
    told.into_iter().map(|(_, epoch)| epoch).collect()
}

/// Completes the operations in flight on one file.
fn complete_on(zone: &mut Zone, is_it: impl Fn(JournalFile) -> bool) {
    let is_on = |effect: &Effect| match effect {
        Effect::Write { file, .. } => is_it(*file),
        _ => false,
    };
    while let Some(index) = zone.world.flying.iter().position(is_on) {
        zone.world.flying.swap(0, index);
        let held = zone.world.flying.split_off(1);
        zone.complete_one();
        zone.world.flying.extend(held);
    }
}

// J-64
fn a_seal_is_told_when_entry_and_superblock_have_it() {
    for superblock_first in [false, true] {
        let mut zone = settled(1, 0);
        zone.journal()
            .seal_slot(&a_seal(2, 7))
            .expect("there is room");
        zone.records
            .push(Record::Seal(zone.world.acked, a_seal(2, 7)));
        zone.world.flush();
        let is_segment = |file| matches!(file, JournalFile::Segment(_));
        let is_superblock = |file| file == JournalFile::Superblock;
        if superblock_first {
            complete_on(&mut zone, is_superblock);
        } else {
            complete_on(&mut zone, is_segment);
        }
        assert_eq!(told(&mut zone), [], "one of the two is missing");
        complete_on(&mut zone, is_superblock);
        complete_on(&mut zone, is_segment);
        assert_eq!(told(&mut zone), [Epoch::new(7)]);
        zone.settle();
        assert_eq!(told(&mut zone), [], "once");
    }
}

// J-64: what was answered is remembered although the journal's tail rots, which looks as if it had never been written.
fn a_seal_outlives_the_rot_of_the_last_chunk() {
    let mut zone = settled(2, 0);
    let seal = a_seal(1, 9);
    zone.journal().seal_slot(&seal).expect("there is room");
    zone.records.push(Record::Seal(zone.world.acked, seal));
    zone.settle();
    assert_eq!(told(&mut zone), [Epoch::new(9)]);
    zone.world.crash();
    let chunks = super::damage::chunks(&zone.world);
    let (file, at, _) = chunks.last().expect("a seal was written");
    zone.world.disk.flip(JournalFile::Segment(*file), at + 700);
    zone.records.clear();
    zone.world.acked = Lsn::ZERO;
    zone.open().expect("it looks like a torn tail");
    let kept: Vec<Seal> = zone.journal().seals().collect();
    assert_eq!(kept, [seal], "the answer that was given, unchanged");
}

#[test]
fn a_promise_is_told_when_it_is_durable_and_never_forgotten() {
    a_seal_is_told_when_entry_and_superblock_have_it();
    a_seal_outlives_the_rot_of_the_last_chunk();
    for bug in [Bug::TellSealEarly, Bug::ForgetSeal] {
        plant(Some(bug));
        let is_noticed = catch_unwind(|| {
            a_seal_is_told_when_entry_and_superblock_have_it();
            a_seal_outlives_the_rot_of_the_last_chunk();
        })
        .is_err();
        plant(None);
        assert!(is_noticed, "{bug:?}");
    }
}

// J-67
fn a_mark_is_told_when_a_superblock_has_it_and_goes_for_its_slot_alone() {
    let slot = SlotId::new(2);
    let marks = |zone: &mut Zone| -> Vec<(Option<SlotId>, MarkKind)> {
        let marks = zone.journal().marks().iter();
        marks.map(|mark| (mark.slot, mark.kind)).collect()
    };
    let mut zone = settled(6, 10);
    zone.journal().mark_suspect(slot);
    zone.world.flush();
    complete_on(&mut zone, |file| file != JournalFile::Superblock);
    zone.hear();
    assert!(zone.marked.is_empty(), "a crash forgets it");
    complete_on(&mut zone, |file| file == JournalFile::Superblock);
    assert!(zone.marked.contains(&slot));
    zone.world.crash();
    zone.open().expect("nothing is damaged");
    assert_eq!(marks(&mut zone), [(Some(slot), MarkKind::Suspect)]);
    zone.journal().clear_marks_of(SlotId::new(1));
    assert_eq!(marks(&mut zone), [(Some(slot), MarkKind::Suspect)]);
    zone.journal().clear_marks_of(slot);
    zone.settle();
    zone.world.pass(20_000_000);
    zone.world.tick();
    zone.settle();
    zone.world.crash();
    zone.open().expect("nothing is damaged");
    assert_eq!(marks(&mut zone), []);
}

#[test]
fn a_copy_is_suspect_from_when_it_is_said() {
    a_mark_is_told_when_a_superblock_has_it_and_goes_for_its_slot_alone();
    plant(Some(Bug::TellMarkEarly));
    let told_early =
        catch_unwind(a_mark_is_told_when_a_superblock_has_it_and_goes_for_its_slot_alone);
    plant(None);
    assert!(told_early.is_err());
}

// J-41: directories of releases whose footers knew no slots open, and everything in them is found.
#[test]
fn footers_of_version_1_are_built_again() {
    let mut zone = settled(3, 150);
    zone.stop();
    for (name, file) in &mut zone.world.disk.files {
        if let JournalFile::Footer(_) = name {
            for bytes in [&mut file.durable, &mut file.seen] {
                bytes[8] = 1;
                let crc = crc32c(&bytes[..124]);
                bytes[124..128].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
    zone.open().expect("a footer is a shortcut");
    zone.read_everything();
    assert!(zone.journal().stats().footers_rebuilt > 0);
}

#[test]
fn what_another_node_placed_is_judged_before_it_is_taken() {
    let mut zone = settled(4, 0);
    while zone.records.len() < 3 {
        assert!(zone.append());
    }
    let Some(Record::Entry(entry)) = zone.records.last().cloned() else {
        panic!("an entry was appended");
    };
    let end = zone.journal().end_lsn();
    for at in [0, 40, 90, 127, 130] {
        let mut damaged = entry.bytes.to_vec();
        damaged[at] ^= 1;
        let found = zone.journal().append_entry(&damaged);
        assert!(matches!(found, Err(EntryRefused::Header(_))), "byte {at}");
    }
    let found = zone.journal().append_entry(&entry.bytes[..100]);
    assert!(matches!(found, Err(EntryRefused::Header(_))));
    // J-60
    let found = zone.journal().append_entry(&entry.bytes);
    assert!(matches!(found, Err(EntryRefused::Order(_))));
    // Whole in themselves, and yet no entries: of this replica alone, of another size than their kind, of no slot, and of a
    // sequence beyond all.
    let placed = |kind, slot, seq| {
        let body = a_seal(1, 1).to_bytes();
        let mut header = encode_entry(EntryKind::Seal, NO_PARTITION, &body);
        header.place(Placement {
            base_offset: Offset::ZERO,
            slot_seq: SlotSeq::new(seq),
            epoch: Epoch::new(1),
            slot: SlotId::new(slot),
            entry_kind: kind,
            append_time_us: 1,
        });
        [&header.bytes()[..], &body].concat()
    };
    assert_eq!(EntryKind::EpochStart.body_bytes(), Some(Seal::BYTES));
    for (entry, expected) in [
        (placed(EntryKind::Seal, 1, 0), EntryRefused::Kind),
        (placed(EntryKind::Truncate, 1, 9), EntryRefused::Kind),
        (placed(EntryKind::StartOffset, 1, 9), EntryRefused::Kind),
        (placed(EntryKind::EpochStart, 1024, 9), EntryRefused::Number),
        (
            placed(EntryKind::EpochStart, 1, (1 << 62) + 1),
            EntryRefused::Number,
        ),
        (
            placed(EntryKind::EpochStart, 1, 0),
            EntryRefused::Order(NoteError::Sequence),
        ),
    ] {
        let found = zone.journal().append_entry(&entry);
        assert_eq!(found, Err(expected));
    }
    let found = zone.journal().append_entry(&vec![0; 17 << 10]);
    assert_eq!(found, Err(EntryRefused::Size));
    assert_eq!(zone.journal().end_lsn(), end, "nothing was written");
}

#[test]
fn a_slot_is_cut_so_often_and_no_more() {
    let mut zone = settled(5, 0);
    let cut = |zone: &mut Zone, from: u64| {
        zone.journal().truncate_slot(&Truncate {
            slot: SlotId::new(1),
            epoch: Epoch::new(1),
            from_seq: SlotSeq::new(from),
        })
    };
    for from in 1..=crate::cuts::CUTS_PER_SLOT_MAX as u64 {
        while cut(&mut zone, from).is_err() {
            zone.settle();
        }
    }
    let found = cut(&mut zone, 10_000);
    assert_eq!(found, Err(crate::CutRefused::TooMany));
    assert!(!zone.journal().cuts.is_empty());
}
