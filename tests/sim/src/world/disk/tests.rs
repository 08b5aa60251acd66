//! What the simulated disk promises and what it takes away, shown over many seeds: a promise holds in all of them, a
//! loss happens in some.

use super::*;

const FILE: JournalFile = JournalFile::Segment(0);

fn block(byte: u8) -> Bytes {
    let mut block = aligned_zeroed(BLOCK_BYTES);
    block.fill(byte);
    block.freeze()
}

fn disk(seed: u64) -> SimDisk {
    let mut disk = SimDisk::new(seed, &Power::default());
    disk.create(FILE, 4 * BLOCK_BYTES as u64)
        .expect("there is room");
    disk
}

fn submit(disk: &SimDisk, op: u64, at_block: u64, byte: u8, durable: bool) -> OpId {
    let op = OpId::new(op);
    disk.submit(
        op,
        Operation::Write {
            file: FILE,
            at: at_block * BLOCK_BYTES as u64,
            data: block(byte),
            durable,
        },
    );
    op
}

fn read(disk: &mut SimDisk, at_block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    disk.read(FILE, at_block * BLOCK_BYTES as u64, &mut bytes)
        .expect("the block is there");
    bytes
}

/// Runs for many seeds and says which outcomes there were.
fn outcomes(run: impl Fn(u64) -> Vec<u8>) -> std::collections::BTreeSet<Vec<u8>> {
    (0..300).map(run).collect()
}

#[test]
fn a_durable_write_survives_once_it_completed() {
    let outcomes = outcomes(|seed| {
        let mut disk = disk(seed);
        let old = submit(&disk, 1, 0, 1, false);
        disk.complete(old, Ending::Done);
        let new = submit(&disk, 2, 0, 2, true);
        disk.complete(new, Ending::Done);
        disk.lose_power(&mut Prng::new(seed));
        read(&mut disk, 0)
    });
    assert_eq!(outcomes, [vec![2; BLOCK_BYTES]].into());
}

#[test]
fn a_write_in_flight_tears_at_sectors() {
    let outcomes = outcomes(|seed| {
        let mut disk = disk(seed);
        submit(&disk, 1, 1, 7, true);
        disk.lose_power(&mut Prng::new(seed));
        read(&mut disk, 1)
    });
    assert!(outcomes.contains(&vec![0; BLOCK_BYTES]) && outcomes.contains(&vec![7; BLOCK_BYTES]));
    assert!(outcomes.len() > 20);
    for bytes in outcomes {
        for sector in bytes.chunks(SECTOR_BYTES) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "torn within a sector"
            );
        }
    }
}

#[test]
fn a_completed_write_without_a_sync_is_seen_and_may_be_lost() {
    let outcomes = outcomes(|seed| {
        let mut disk = disk(seed);
        let op = submit(&disk, 1, 0, 5, false);
        disk.complete(op, Ending::Done);
        assert_eq!(read(&mut disk, 0), vec![5; BLOCK_BYTES]);
        disk.lose_power(&mut Prng::new(seed));
        read(&mut disk, 0)
    });
    assert!(outcomes.contains(&vec![0; BLOCK_BYTES]) && outcomes.contains(&vec![5; BLOCK_BYTES]));
}

#[test]
fn a_sync_is_for_what_completed_before_it_and_for_nothing_else() {
    let outcomes = outcomes(|seed| {
        let mut disk = disk(seed);
        let before = submit(&disk, 1, 0, 1, false);
        disk.complete(before, Ending::Done);
        let late = submit(&disk, 2, 1, 2, false);
        let sync = OpId::new(3);
        disk.submit(sync, Operation::Sync { file: FILE });
        disk.complete(late, Ending::Done);
        disk.complete(sync, Ending::Done);
        disk.lose_power(&mut Prng::new(seed));
        assert_eq!(read(&mut disk, 0), vec![1; BLOCK_BYTES]);
        read(&mut disk, 1)
    });
    assert!(outcomes.contains(&vec![0; BLOCK_BYTES]) && outcomes.contains(&vec![2; BLOCK_BYTES]));
}

#[test]
fn a_failed_sync_loses_bytes_that_a_later_sync_does_not_bring_back() {
    let outcomes = outcomes(|seed| {
        let mut disk = disk(seed);
        let op = submit(&disk, 1, 0, 9, false);
        disk.complete(op, Ending::Done);
        let sync = OpId::new(2);
        disk.submit(sync, Operation::Sync { file: FILE });
        disk.complete(sync, Ending::Failed);
        Disk::sync(&mut disk, FILE).expect("the device answers again");
        disk.lose_power(&mut Prng::new(seed));
        read(&mut disk, 0)
    });
    assert!(outcomes.contains(&vec![0; BLOCK_BYTES]));
}

#[test]
fn a_killed_process_leaves_writes_that_are_seen_and_not_durable() {
    let mut lost_later = false;
    for seed in 0..300 {
        let mut disk = disk(seed);
        submit(&disk, 1, 0, 3, true);
        disk.kill(&mut Prng::new(seed));
        let seen = read(&mut disk, 0);
        disk.lose_power(&mut Prng::new(seed + 1));
        lost_later |= seen != read(&mut disk, 0);
    }
    assert!(lost_later);
}

#[test]
fn a_full_disk_refuses_and_leaves_no_file() {
    let mut disk = disk(1);
    disk.set_capacity(disk.used_bytes() + 100);
    let other = JournalFile::Segment(1);
    let op = OpId::new(1);
    disk.submit(
        op,
        Operation::Prepare {
            file: other,
            bytes: 8192,
        },
    );
    let event = disk.complete(op, Ending::Done);
    assert!(matches!(
        event,
        Some(Event::Prepared {
            result: Err(DiskError::NoSpace),
            ..
        })
    ));
    assert_eq!(disk.list(), Ok(vec![FILE]));
    let inside = submit(&disk, 2, 0, 1, true);
    let event = disk.complete(inside, Ending::Done);
    assert!(matches!(event, Some(Event::Written { result: Ok(()), .. })));
}

#[test]
fn power_is_lost_in_the_middle_of_an_operation_and_stays_lost() {
    let power = Power::default();
    let mut disk = SimDisk::new(1, &power);
    power.fail_after(Some(1));
    assert_eq!(disk.create(FILE, 4096), Ok(()));
    assert_eq!(
        Disk::write(&mut disk, FILE, 0, &block(1)),
        Err(DiskError::PowerLost)
    );
    assert_eq!(Disk::sync(&mut disk, FILE), Err(DiskError::PowerLost));
    assert_eq!(disk.list(), Err(DiskError::PowerLost));
    assert!(power.is_lost());
    power.fail_after(None);
    assert!(disk.list().is_ok());
}

#[test]
fn a_truncated_file_has_no_bytes_behind_its_end() {
    let mut disk = disk(1);
    Disk::write(&mut disk, FILE, 2 * BLOCK_BYTES as u64, &block(4)).expect("it is a file");
    disk.truncate(FILE, BLOCK_BYTES as u64)
        .expect("it is a file");
    assert_eq!(disk.size(FILE), Ok(BLOCK_BYTES as u64));
    Disk::sync(&mut disk, FILE).expect("it is a file");
    disk.lose_power(&mut Prng::new(1));
    assert_eq!(disk.size(FILE), Ok(BLOCK_BYTES as u64));
}

#[test]
#[should_panic(expected = "two writes in flight overlap")]
fn overlapping_writes_in_flight_are_refused() {
    let disk = disk(1);
    submit(&disk, 1, 0, 1, true);
    submit(&disk, 2, 0, 2, true);
}

#[test]
#[should_panic(expected = "not aligned")]
fn a_buffer_that_is_not_aligned_is_refused() {
    let disk = disk(1);
    let data = aligned_zeroed(2 * BLOCK_BYTES)
        .freeze()
        .slice(8..8 + BLOCK_BYTES);
    disk.submit(
        OpId::new(1),
        Operation::Write {
            file: FILE,
            at: 0,
            data,
            durable: true,
        },
    );
}

#[test]
fn bytes_that_rot_are_read_as_they_are() {
    let mut disk = disk(1);
    disk.rot(FILE, 5, 0);
    assert_eq!(read(&mut disk, 0)[5], 1);
}
