//! Starts that are refused: each with the reason, the journal and what to do, and none that harms the next one.

use crate::disk::MemoryDisk;
use crate::world::{World, create, started};
use tiderace_base::catalogue::Outcome;
use tiderace_base::ids::{DiskId, NodeId, ShardId};
use tiderace_base::position::Epoch;
use tiderace_control::ControlError;

/// A node that ran once and lost power, and what its next start says after `change`.
fn refused(change: impl FnOnce(&mut World)) -> (ControlError, String) {
    let mut world = started(11, 3);
    world.crash();
    change(&mut world);
    let before = format!("{:?}", world.disk);
    let error = world.start().expect_err("a refusal");
    let text = error.to_string();
    // Whoever tries again is told the same, and finds what is there as it was.
    for _ in 0..3 {
        let again = world.start().expect_err("the same refusal").to_string();
        assert_eq!(again, text);
    }
    assert!(
        format!("{:?}", world.disk) == before,
        "a refused start changed the disk"
    );
    (error, text)
}

#[test]
fn another_number_of_shards_is_refused_and_the_fixed_one_named() {
    let (error, text) = refused(|world| {
        world.config.shards.pop();
    });
    assert!(matches!(
        error,
        ControlError::ShardCount {
            fixed: 3,
            configured: 2
        }
    ));
    assert!(text.contains("set it to 3"), "{text}");
}

#[test]
fn an_old_image_of_a_shards_disk_is_refused_and_named() {
    // Put back from before the run that was committed: opening counts it to the same number.
    let (error, text) = refused(|world| world.config.shards[1].boot_count = 0);
    assert!(matches!(
        error,
        ControlError::DiskOld {
            journal,
            committed: 1,
            found: 1
        } if journal == ShardId::new(1)
    ));
    assert!(
        text.contains("journal 1") && text.contains("an old image of this disk"),
        "{text}"
    );
}

#[test]
fn an_exchanged_disk_is_refused_and_named() {
    let (error, text) = refused(|world| world.config.shards[2].disk = DiskId::new(0xee));
    assert!(matches!(error, ControlError::DiskReplaced { journal, .. } if journal.get() == 2));
    assert!(text.contains("journal 2"), "{text}");
}

#[test]
fn a_lost_or_old_control_journal_is_refused() {
    let (error, _) = refused(|world| {
        world.config.shards[0].epoch_max = Epoch::new(256);
    });
    assert!(matches!(error, ControlError::CatalogueOld { journal, .. } if journal.get() == 0));
    let (error, text) = refused(|world| {
        world.disk = MemoryDisk::default();
        world.config.shards[0].epoch_max = Epoch::new(1);
    });
    assert!(matches!(error, ControlError::CatalogueOld { .. }), "{text}");
}

#[test]
fn a_node_that_the_catalogue_does_not_know_is_refused() {
    let (error, _) = refused(|world| world.config.node = Some(NodeId::new(12345)));
    assert!(matches!(error, ControlError::NodeUnknown(node) if node.get() == 12345));
}

#[test]
fn a_boot_id_that_was_used_is_refused() {
    let mut world = started(12, 1);
    world.crash();
    // The world counts boots; the first one again.
    world.repeat_boot();
    let error = world.start().expect_err("a refusal");
    assert!(matches!(error, ControlError::BootReused(_)), "{error}");
}

#[test]
fn a_refused_start_leaves_the_journal_as_good_as_it_was() {
    let mut world = started(13, 2);
    let request = world.ask(0, create("a"));
    world.settle();
    let Some(Ok(Outcome::Created(stream))) = world.answers.get(&request).cloned() else {
        panic!("a new stream");
    };
    let disks = world.config.shards.clone();
    for _ in 0..3 {
        world.crash();
        world.config.shards[0].disk = DiskId::new(0xee);
        assert!(world.start().is_err());
        world.config.shards[0].disk = disks[0].disk;
    }
    world.start().expect("a good start");
    world.settle();
    assert!(world.snapshot(0).streams.contains_key(&stream.id));
}
