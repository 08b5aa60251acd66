//! What is durable when, what may be lost, and that nothing else may: small sequences of operations and all the images that
//! many seeds draw from them.

use super::*;
use std::collections::BTreeSet;

const BLOCK: usize = 4096;
const FILE: JournalFile = JournalFile::Segment(1);

/// A directory that tells its next event's token by itself.
#[derive(Default)]
struct World {
    directory: Directory,
    token: u64,
}

impl World {
    fn begin(&mut self, operation: Operation) -> u64 {
        self.token += 1;
        self.directory.step(&Event::Began {
            token: self.token,
            operation,
        });
        self.token
    }

    fn end(&mut self, token: u64, result: i32) {
        self.directory.step(&Event::Ended { token, result });
    }

    fn all(&mut self, operation: Operation) {
        let result = match &operation {
            Operation::Write { data, .. } => data.len() as i32,
            Operation::Zero { bytes, .. } => *bytes as i32,
            _ => 0,
        };
        let token = self.begin(operation);
        self.end(token, result);
    }

    /// A file of zeros that no power cut takes away.
    fn with_file() -> Self {
        let mut world = Self::default();
        world.all(Operation::Create { file: FILE });
        world.all(Operation::Zero {
            file: FILE,
            at: 0,
            bytes: 2 * BLOCK as u64,
        });
        world.all(Operation::Sync { file: FILE });
        world.all(Operation::SyncDirectory);
        assert!(world.directory.is_settled());
        world
    }

    /// What many power cuts leave: how often each image came.
    fn images(&self) -> BTreeSet<Option<Vec<u8>>> {
        (0..2_000)
            .map(|seed| {
                let files = self.directory.draw(&mut Prng::new(seed), None);
                files.get(&FILE).map(|bytes| bytes.to_vec())
            })
            .collect()
    }
}

fn write(at: u64, byte: u8, durable: bool) -> Operation {
    Operation::Write {
        file: FILE,
        at,
        data: vec![byte; BLOCK].into(),
        durable,
    }
}

#[test]
fn a_durable_write_is_there_once_it_ended_and_in_any_part_before() {
    let mut world = World::with_file();
    let token = world.begin(write(0, 7, true));
    let before = world.images();
    let whole: Vec<u8> = [vec![7; BLOCK], vec![0; BLOCK]].concat();
    assert!(before.contains(&Some(whole.clone())));
    assert!(before.contains(&Some(vec![0; 2 * BLOCK])));
    let torn = |image: &Option<Vec<u8>>| {
        let image = image.as_ref().expect("the file is durable");
        image[..BLOCK]
            .chunks(SECTOR_BYTES)
            .any(|sector| sector[0] == 7)
            && image[..BLOCK]
                .chunks(SECTOR_BYTES)
                .any(|sector| sector[0] == 0)
    };
    assert!(before.iter().filter(|image| torn(image)).count() > 20);
    for image in before.iter().flatten() {
        for sector in image.chunks(SECTOR_BYTES) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "a sector is whole"
            );
        }
    }
    world.end(token, BLOCK as i32);
    assert_eq!(world.images(), BTreeSet::from([Some(whole)]));
}

#[test]
fn a_short_durable_write_promises_what_it_wrote() {
    let mut world = World::with_file();
    let token = world.begin(write(0, 7, true));
    world.end(token, SECTOR_BYTES as i32);
    let images = world.images();
    assert!(images.len() > 10, "the rest may be there or not");
    for image in images.iter().flatten() {
        assert!(image[..SECTOR_BYTES].iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_sync_covers_what_had_ended_when_it_began_and_nothing_else() {
    let mut world = World::with_file();
    world.all(write(0, 1, false));
    let late = world.begin(write(BLOCK as u64, 2, false));
    let sync = world.begin(Operation::Sync { file: FILE });
    world.end(late, BLOCK as i32);
    world.end(sync, 0);
    let images = world.images();
    assert!(
        images
            .iter()
            .flatten()
            .all(|image| image[..BLOCK] == [1; BLOCK])
    );
    assert!(
        images
            .iter()
            .flatten()
            .any(|image| image[BLOCK..] == [0; BLOCK])
    );
    assert!(
        images
            .iter()
            .flatten()
            .any(|image| image[BLOCK..] == [2; BLOCK])
    );
}

#[test]
fn a_failed_sync_and_a_failed_write_promise_nothing() {
    let mut world = World::with_file();
    world.all(write(0, 1, false));
    let sync = world.begin(Operation::Sync { file: FILE });
    world.end(sync, -5);
    let failed = world.begin(write(BLOCK as u64, 2, true));
    world.end(failed, -5);
    let images = world.images();
    assert!(images.contains(&Some(vec![0; 2 * BLOCK])));
    assert!(images.contains(&Some([vec![1; BLOCK], vec![2; BLOCK]].concat())));
}

#[test]
fn an_older_write_does_not_come_back_over_a_durable_one() {
    let mut world = World::with_file();
    world.all(write(0, 1, false));
    world.all(write(0, 2, true));
    assert!(
        world
            .images()
            .iter()
            .flatten()
            .all(|image| image[..BLOCK] == [2; BLOCK])
    );
}

#[test]
fn an_entry_is_there_once_the_directory_was_synced() {
    let mut world = World::default();
    world.all(Operation::Create { file: FILE });
    world.all(write(0, 3, true));
    world.all(Operation::Sync { file: FILE });
    let images = world.images();
    assert_eq!(images, BTreeSet::from([None, Some(vec![3; BLOCK])]));
    world.all(Operation::SyncDirectory);
    assert_eq!(world.images(), BTreeSet::from([Some(vec![3; BLOCK])]));
}

#[test]
fn a_removal_and_a_new_file_of_the_name_may_each_have_happened() {
    let mut world = World::with_file();
    world.all(write(0, 1, true));
    let old: Vec<u8> = [vec![1; BLOCK], vec![0; BLOCK]].concat();
    world.all(Operation::Unlink { file: FILE });
    assert_eq!(world.images(), BTreeSet::from([None, Some(old.clone())]));
    world.all(Operation::Create { file: FILE });
    world.all(write(0, 9, true));
    let new = vec![9; BLOCK];
    let expected = BTreeSet::from([None, Some(old), Some(new.clone())]);
    assert_eq!(world.images(), expected);
    world.all(Operation::SyncDirectory);
    assert_eq!(world.images(), BTreeSet::from([Some(new)]));
}

#[test]
fn an_emptied_file_may_keep_its_bytes_until_it_is_synced() {
    let mut world = World::with_file();
    world.all(write(0, 1, true));
    world.all(Operation::Create { file: FILE });
    let old: Vec<u8> = [vec![1; BLOCK], vec![0; BLOCK]].concat();
    assert_eq!(
        world.images(),
        BTreeSet::from([Some(Vec::new()), Some(old)])
    );
    world.all(Operation::Sync { file: FILE });
    assert_eq!(world.images(), BTreeSet::from([Some(Vec::new())]));
}

#[test]
fn what_a_killed_process_had_in_flight_is_durable_after_the_next_ones_sync() {
    let mut world = World::with_file();
    world.begin(write(0, 4, true));
    world.directory.step(&Event::Opened {
        name: "shard-0000".to_owned(),
    });
    assert!(world.images().len() > 10, "nobody knows how it ended");
    world.all(Operation::Sync { file: FILE });
    assert_eq!(
        world.images(),
        BTreeSet::from([Some([vec![4; BLOCK], vec![0; BLOCK]].concat())])
    );
}

#[test]
fn a_seed_decides_the_image_and_what_is_told_of_it() {
    let mut world = World::with_file();
    world.begin(write(0, 7, true));
    let draw = |told: &mut String| world.directory.draw(&mut Prng::new(5), Some(told));
    let (mut first, mut second) = (String::new(), String::new());
    assert_eq!(draw(&mut first), draw(&mut second));
    assert_eq!(first, second);
    assert!(first.contains("write of 4096 at 0"), "{first}");
}
