//! The control machine, driven turn by turn: when it publishes, when it answers, what it refuses, and how it stops.

use crate::world::{World, create, started};

use tiderace_base::catalogue::{Change, Durability, Outcome, Refusal};
use tiderace_base::ids::{BootId, ShardId, StreamId};
use tiderace_base::limits;
use tiderace_base::mesh::Peer;
use tiderace_base::operation::{Event, Fatal};

fn created(world: &World, request: u64) -> StreamId {
    match world.answers.get(&request) {
        Some(Ok(Outcome::Created(stream))) => stream.id,
        other => panic!("request {request}: {other:?}"),
    }
}

#[test]
fn nothing_is_published_before_the_boot_is_durable() {
    let mut world = World::new(1, 2);
    world.start().expect("a first start");
    while world.shards[0].inbox.is_empty() {
        // The boot's own write is among these: as long as it flies, shards know no epoch.
        assert!(world.shards.iter().all(|shard| shard.inbox.is_empty()));
        assert_eq!(world.control().stats().published.get(), 0);
        assert!(!world.flying.is_empty(), "the boot is on its way");
        world.complete(0);
    }
    world.settle();
    let snapshot = world.snapshot(1);
    assert_eq!(snapshot.version.get(), 3);
    assert_eq!(snapshot.slots.len(), usize::from(limits::SLOTS));
    let step = snapshot.slots[0].epoch.get();
    assert!((1..=255).contains(&step));
    assert!(snapshot.slots.iter().all(|slot| slot.epoch.get() == step));
}

#[test]
fn a_change_is_answered_when_it_is_durable_and_every_shard_has_applied_it() {
    let mut world = started(2, 3);
    let request = world.ask(1, create("shop/orders"));
    assert!(world.answers.is_empty(), "nothing is durable yet");
    while world.shards[0].inbox.is_empty() {
        assert!(world.answers.is_empty());
        world.complete(0);
    }
    world.apply(2);
    world.apply(0);
    assert!(world.answers.is_empty(), "one shard has not applied it");
    world.apply(1);
    let stream = created(&world, request);
    assert_eq!(
        world
            .snapshot(1)
            .stream_at("shop/orders")
            .map(|found| found.id),
        Some(stream)
    );
}

#[test]
fn one_snapshot_is_under_way_and_the_next_holds_all_that_became_durable_meanwhile() {
    let mut world = started(3, 2);
    let before = world.snapshot(0).version;
    for index in 0..5 {
        world.ask(0, create(&format!("a/{index}")));
        while !world.flying.is_empty() {
            world.complete(0);
        }
    }
    assert_eq!(world.shards[0].inbox.len(), 1);
    assert_eq!(world.shards[0].inbox[0].version, before.advance(1));
    world.apply(0);
    assert!(
        world.shards[0].inbox.is_empty(),
        "the other has to apply it"
    );
    world.apply(1);
    assert_eq!(world.shards[0].inbox[0].version, before.advance(5));
    world.settle();
    assert_eq!(world.answers.len(), 5);
}

#[test]
fn a_full_mesh_holds_snapshots_back() {
    let mut world = started(4, 2);
    let full = Peer::Shard(ShardId::new(1));
    world.turn(vec![Event::MeshFull(full)]);
    let request = world.ask(0, create("a"));
    world.settle();
    assert!(world.answers.is_empty());
    world.turn(vec![Event::MeshOpen(full)]);
    world.settle();
    created(&world, request);
}

#[test]
fn creating_the_same_stream_again_answers_the_same_stream() {
    let mut world = started(5, 1);
    // Both in one turn: the second sees the first, which is not durable yet, and waits for it.
    let (first, a) = world.question(0, create("a"));
    let (second, b) = world.question(0, create("a"));
    world.turn(vec![a, b]);
    assert!(world.answers.is_empty());
    world.settle();
    let stream = created(&world, first);
    assert_eq!(created(&world, second), stream);
    let version = world.snapshot(0).version;
    let third = world.ask(0, create("a"));
    assert_eq!(created(&world, third), stream, "answered at once");
    let other = match create("a") {
        Change::CreateStream {
            path,
            tenant,
            partitions,
            retention,
            ..
        } => Change::CreateStream {
            path,
            tenant,
            partitions,
            retention,
            durability: Some(Durability::Quorum),
        },
        Change::DeleteStream(_) => unreachable!("a creation"),
    };
    let refused = world.ask(0, other);
    assert_eq!(world.answers[&refused], Err(Refusal::Exists));
    assert_eq!(world.snapshot(0).version, version);
    assert!(world.flying.is_empty(), "nothing was written");
}

#[test]
fn a_deleted_stream_is_a_tombstone_and_its_path_is_free_for_another() {
    let mut world = started(6, 2);
    let first = world.ask(0, create("a"));
    world.settle();
    let old = created(&world, first);
    let delete = world.ask(1, Change::DeleteStream(old));
    let again = world.ask(1, Change::DeleteStream(old));
    let second = world.ask(1, create("a"));
    let absent = world.ask(1, Change::DeleteStream(StreamId::new(99)));
    world.settle();
    assert_eq!(world.answers[&delete], Ok(Outcome::Deleted(old)));
    assert_eq!(world.answers[&again], Ok(Outcome::Deleted(old)));
    assert_eq!(world.answers[&absent], Err(Refusal::Absent));
    assert!(created(&world, second) > old);
    let snapshot = world.snapshot(0);
    assert!(snapshot.tombstones.contains_key(&old));
    assert!(!snapshot.streams.contains_key(&old));
}

#[test]
fn a_malformed_change_is_refused_at_once() {
    let mut world = World::new(7, 1);
    world.start().expect("a first start");
    let request = world.ask(0, create("a//b"));
    assert_eq!(world.answers[&request], Err(Refusal::BadPath));
}

#[test]
fn changes_beyond_the_bound_are_refused_as_busy_and_those_within_are_made() {
    let mut world = started(8, 1);
    let bound = 4 * limits::CATALOGUE_BATCH_MAX;
    let mut events = Vec::new();
    for index in 0..bound + 10 {
        events.push(world.question(0, create(&format!("s/{index}"))).1);
    }
    world.turn(events);
    assert_eq!(world.answers.len(), 10);
    assert!(
        world
            .answers
            .values()
            .all(|answer| *answer == Err(Refusal::Busy))
    );
    world.settle();
    assert_eq!(world.answers.len(), bound + 10);
    assert_eq!(world.snapshot(0).streams.size(), bound);
}

#[test]
fn a_stop_finishes_what_was_taken_and_takes_no_more() {
    let mut world = started(9, 2);
    let request = world.ask(0, create("a"));
    world.turn(vec![Event::Stop]);
    assert!(!world.is_stopped);
    let late = world.ask(0, create("b"));
    assert_eq!(world.answers[&late], Err(Refusal::Busy));
    // The shards are gone: only operations complete.
    while !world.flying.is_empty() {
        world.complete(0);
    }
    assert!(world.is_stopped);
    let stream = created(&world, request);
    drop(world.take_stopped());
    world.start().expect("a second start");
    world.settle();
    assert!(world.snapshot(0).streams.contains_key(&stream));
}

#[test]
fn an_idle_node_stops_and_the_next_run_has_another_epoch() {
    let mut world = started(10, 2);
    let before = world.snapshot(0);
    world.turn(vec![Event::Stop]);
    while !world.flying.is_empty() {
        world.complete(0);
    }
    drop(world.take_stopped());
    world.start().expect("a second start");
    world.settle();
    let after = world.snapshot(0);
    assert_eq!(after.zone, before.zone);
    assert_eq!(after.node, before.node);
    assert!(after.slots[0].epoch > before.slots[0].epoch);
    assert_eq!(after.slots[0].shard, before.slots[0].shard);
    assert_eq!(
        after.nodes.get(&after.node).map(|place| place.boot),
        Some(BootId::new(2))
    );
}

#[test]
fn changes_of_one_turn_share_entries() {
    let mut world = started(14, 1);
    let before = world.control().stats().journal.entries;
    let events = (0..300)
        .map(|index| world.question(0, create(&format!("s/{index}"))).1)
        .collect();
    world.turn(events);
    let entries = world.control().stats().journal.entries - before;
    assert_eq!(entries, 2, "256 and 44");
    world.settle();
    assert_eq!(world.snapshot(0).streams.size(), 300);
}

#[test]
fn a_failed_write_ends_the_machine_and_answers_nothing_that_was_in_it() {
    let mut world = started(15, 1);
    world.disk.is_broken = true;
    world.ask(0, create("a"));
    world.settle();
    assert!(matches!(world.fatal, Some(Fatal::JournalWrite(_))));
    world.ask(0, create("b"));
    world.turn(vec![Event::Stop, Event::Timer]);
    assert!(world.answers.is_empty());
    assert!(!world.is_stopped);
}

#[test]
fn a_full_disk_refuses_creations_and_takes_them_again_by_itself() {
    let mut world = started(16, 1);
    let first = world.ask(0, create("first"));
    world.settle();
    let stream = created(&world, first);
    world.disk.is_full = true;
    let mut refused = None;
    for index in 0..2000 {
        let request = world.ask(0, create(&format!("{}/{index}", "x".repeat(200))));
        world.settle();
        match &world.answers[&request] {
            Ok(Outcome::Created(_)) => {}
            Err(Refusal::DiskFull) => {
                refused = Some(request);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused.is_some(), "the disk fills up");
    assert!(world.control().stats().is_read_only);
    // What needs no space is answered, and what frees some may use what is reserved.
    let again = world.ask(0, create("first"));
    world.settle();
    assert_eq!(created(&world, again), stream);
    let delete = world.ask(0, Change::DeleteStream(stream));
    world.settle();
    assert_eq!(world.answers[&delete], Ok(Outcome::Deleted(stream)));

    world.disk.is_full = false;
    for _ in 0..10 {
        world.wake();
        world.settle();
    }
    assert!(!world.control().stats().is_read_only);
    let request = world.ask(0, create("later"));
    world.settle();
    created(&world, request);
}
