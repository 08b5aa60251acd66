//! Power losses at any moment, under a seed: what was published or answered is never lost, no stream id and no epoch is
//! ever given twice, and a run is decided by its seed.

use crate::world::{World, create};
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::catalogue::{Change, Outcome};
use tiderace_base::ids::{NodeId, StreamId, ZoneId};
use tiderace_base::position::{CatalogueVersion, Epoch};

/// What was seen outside, over all runs.
#[derive(Default)]
struct Seen {
    zone: Option<(ZoneId, NodeId)>,
    published: CatalogueVersion,
    epochs: BTreeSet<Epoch>,
    deleted: BTreeSet<StreamId>,
    answered: u64,
}

impl Seen {
    /// Looks at the first snapshot of a run, as soon as it is posted.
    fn begin(&mut self, world: &World) {
        let shard = &world.shards[0];
        let snapshot = shard
            .snapshot
            .as_ref()
            .or(shard.inbox.front())
            .expect("a published snapshot");
        assert!(
            snapshot.version > self.published,
            "what was published is there, and the new boot"
        );
        let epoch = snapshot.slots[0].epoch;
        assert!(
            self.epochs.iter().all(|before| *before < epoch),
            "an epoch is never resumed"
        );
        self.epochs.insert(epoch);
        let names = (snapshot.zone, snapshot.node);
        assert_eq!(*self.zone.get_or_insert(names), names);
    }

    fn look(&mut self, world: &World) {
        for shard in &world.shards {
            for snapshot in shard.inbox.iter().chain(&shard.snapshot) {
                self.published = self.published.max(snapshot.version);
                for stream in snapshot.streams.keys() {
                    assert!(!self.deleted.contains(stream), "gone is gone");
                }
            }
        }
        for answer in world.answers.values() {
            match answer {
                Ok(Outcome::Created(stream)) => match world.published.get(&stream.id) {
                    Some(path) => assert_eq!(*path, stream.path),
                    // Deleted by an entry that became durable with it.
                    None => assert!(world.was_asked_to_delete(stream.id)),
                },
                Ok(Outcome::Deleted(stream)) => {
                    self.deleted.insert(*stream);
                }
                Err(_) => {}
            }
        }
        self.answered = self.answered.max(world.answers.len() as u64);
    }

    /// All that was ever answered is still true.
    fn check(&self, world: &World) {
        let snapshot = world.snapshot(0);
        for answer in world.answers.values() {
            if let Ok(Outcome::Created(stream)) = answer {
                let is_there = snapshot.streams.contains_key(&stream.id);
                let is_tombstone = snapshot.tombstones.contains_key(&stream.id);
                assert!(is_there != is_tombstone, "stream {} is lost", stream.id);
                assert!(is_there || world.was_asked_to_delete(stream.id));
            }
        }
        for stream in &self.deleted {
            assert!(snapshot.tombstones.contains_key(stream));
        }
    }
}

fn random_step(world: &mut World) {
    let shard = world.prng.below(world.shards.len() as u64) as usize;
    match world.prng.below(12) {
        0..=2 => {
            let path = format!("p/{}", world.prng.below(30));
            world.ask(shard, create(&path));
        }
        3 => {
            let stream = StreamId::new(world.prng.range(1, 40));
            world.ask(shard, Change::DeleteStream(stream));
        }
        4 => world.apply(shard),
        5 => world.wake(),
        _ if !world.flying.is_empty() => {
            let index = world.prng.below(world.flying.len() as u64) as usize;
            world.complete(index);
        }
        _ => world.apply(shard),
    }
}

fn run(seed: u64) -> (World, Seen) {
    let mut world = World::new(seed, 2);
    let mut seen = Seen::default();
    for _ in 0..6 {
        world.start().expect("a lone node with good disks starts");
        for _ in 0..world.prng.below(400) {
            let is_first = !world.is_published();
            random_step(&mut world);
            if is_first && world.is_published() {
                seen.begin(&world);
            }
            seen.look(&world);
        }
        if world.prng.chance(1, 3) {
            let is_first = !world.is_published();
            world.settle();
            if is_first {
                seen.begin(&world);
            }
            seen.look(&world);
        }
        world.crash();
    }
    world.start().expect("a last start");
    world.settle();
    seen.begin(&world);
    seen.look(&world);
    seen.check(&world);
    (world, seen)
}

#[test]
fn nothing_published_or_answered_is_ever_lost() {
    let mut answered = 0;
    for seed in 0..150 {
        let (_, seen) = run(seed);
        answered += seen.answered;
    }
    assert!(answered > 1000, "the runs did something: {answered}");
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..3 {
        let (first, second) = (run(seed).0, run(seed).0);
        assert_eq!(first.trace, second.trace);
        assert_eq!(
            first.control().working().encode(),
            second.control().working().encode()
        );
    }
}

#[test]
fn a_long_history_is_checkpointed_and_survives() {
    let mut world = World::new(1, 1);
    let mut live = BTreeMap::new();
    let mut checkpoints = 0;
    let mut recycled = 0;
    for round in 0..5 {
        world.start().expect("a start");
        world.settle();
        for index in 0..20 {
            let requests: Vec<u64> = (0..20)
                .map(|each| {
                    let path = format!("{}/{round}/{index}/{each}", "x".repeat(100));
                    world.ask(0, create(&path))
                })
                .collect();
            world.settle();
            for request in requests {
                let Ok(Outcome::Created(stream)) = &world.answers[&request] else {
                    panic!("a new path");
                };
                live.insert(stream.id, stream.path.to_string());
            }
            let oldest = *live.keys().next().expect("streams");
            world.ask(0, Change::DeleteStream(oldest));
            live.remove(&oldest);
            world.settle();
        }
        let stats = world.control().stats();
        checkpoints += stats.journal.checkpoints;
        recycled += stats.journal.segments_recycled;
        assert!(
            stats.journal.segments <= 12,
            "{} segments are kept",
            stats.journal.segments
        );
        world.crash();
    }
    world.start().expect("a last start");
    world.settle();
    let found: BTreeMap<StreamId, String> = world
        .snapshot(0)
        .streams
        .values()
        .map(|stream| (stream.id, stream.path.to_string()))
        .collect();
    assert_eq!(found, live);
    assert!(checkpoints > 4, "{checkpoints} checkpoints");
    assert!(recycled > 4, "{recycled} segments were used again");
}
