//! Clients that speak the real protocol: a second implementation of it, small and plain, on top of `tiderace-wire`'s
//! frames alone, so that a misunderstanding inside the product's own client cannot hide one inside the node. Each tells
//! the history what it sees and has a goal, which it must reach once faults have ended.

mod batch;
mod creator;
mod crowd;
mod intruder;
mod producer;
mod session;
mod subscriber;

use std::sync::Arc;

use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::prng::Prng;
use tiderace_wire::error::ErrorCode;

use crate::history::{BatchName, Observation};
use crate::world::{MachineId, Port, World};
pub(crate) use batch::digest;
pub(crate) use creator::Creator;
pub(crate) use crowd::Crowd;
pub(crate) use intruder::Intruder;
pub(crate) use producer::Producer;
pub use subscriber::Habit;
pub(crate) use subscriber::Subscriber;

/// A stream that the run will have.
#[derive(Clone, Debug)]
pub(crate) struct StreamPlan {
    pub(crate) path: Arc<str>,
    pub(crate) partitions: u32,
    pub(crate) durability: Durability,
    pub(crate) retention: Retention,
}

impl StreamPlan {
    pub(crate) fn draw(number: u64, prng: &mut Prng) -> Self {
        let durability = if prng.chance(1, 5) {
            Durability::Memory
        } else {
            Durability::Local
        };
        let retention = match prng.below(5) {
            0 => Retention {
                bytes: prng.range(8, 128) * 1024,
                age_ms: 0,
            },
            1 => Retention {
                bytes: 0,
                age_ms: prng.range(100, 2000),
            },
            _ => Retention::default(),
        };
        Self {
            path: format!("sim/stream-{number}").into(),
            partitions: prng.range(1, 5) as u32,
            durability,
            retention,
        }
    }

    fn trims(&self) -> bool {
        self.retention != Retention::default()
    }

    /// Tells the history what the stream promises.
    fn tell(&self, stream: u64, port: &mut Port<'_>) {
        port.observe(Observation::StreamKnown {
            stream,
            durability: self.durability,
            trims: self.trims(),
        });
        port.observe(Observation::RetentionDeclared {
            stream,
            bytes: self.retention.bytes,
            age_ms: self.retention.age_ms,
        });
    }
}

/// What all clients of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub(crate) node: u16,
    /// Machines of the node that take connections; they are its first.
    pub(crate) shards: u16,
    pub(crate) streams: Vec<StreamPlan>,
    /// Whether so many produce that a shard may have to forget anybody.
    pub(crate) crowded: bool,
}

impl Zone {
    /// A shard to begin with.
    fn any_shard(&self, port: &mut Port<'_>) -> MachineId {
        MachineId {
            node: self.node,
            machine: port.prng.below(u64::from(self.shards)) as u16,
        }
    }
}

/// What a refusal says of one sending of a batch: that it was not appended, unless the code says otherwise.
fn refusal(batch: BatchName, code: ErrorCode) -> Option<Observation> {
    match code {
        // A batch of this number is there: this one, or another that somebody gave the same name.
        ErrorCode::DuplicateForgotten | ErrorCode::SequenceReused => None,
        _ => Some(Observation::Refused { batch }),
    }
}

/// Adds the clients of a run.
pub(crate) fn populate(world: &mut World, zone: &Zone, prng: &mut Prng) {
    let zone = &Zone {
        crowded: prng.chance(1, 6),
        ..zone.clone()
    };
    world.add_actor(Box::new(Creator::new(zone.clone(), prng)));
    for _ in 0..prng.range(1, 5) {
        world.add_actor(Box::new(Producer::new(zone.clone(), prng)));
    }
    for _ in 0..prng.range(1, 5) {
        world.add_actor(Box::new(Subscriber::new(zone.clone(), prng)));
    }
    if prng.chance(1, 2) {
        world.add_actor(Box::new(Intruder::new(zone.clone(), prng)));
    }
    if zone.crowded {
        world.add_actor(Box::new(Crowd::new(zone.clone(), prng)));
    }
}

/// Adds the clients of a run that is about its drains: producers, and subscribers with these habits that stay.
pub(crate) fn populate_drain(world: &mut World, zone: &Zone, habits: &[Habit], prng: &mut Prng) {
    world.add_actor(Box::new(Creator::new(zone.clone(), prng)));
    for _ in 0..3 {
        world.add_actor(Box::new(Producer::new(zone.clone(), prng)));
    }
    for _ in 0..3 {
        for habit in habits {
            let subscriber = Subscriber::staying(zone.clone(), *habit, prng);
            world.add_actor(Box::new(subscriber));
        }
    }
}

/// Adds the clients of a run that is about readers that stall: producers, and many subscribers that cease to read again and
/// again; some more leave and come back.
pub(crate) fn populate_stalls(world: &mut World, zone: &Zone, dozing: usize, prng: &mut Prng) {
    world.add_actor(Box::new(Creator::new(zone.clone(), prng)));
    for _ in 0..6 {
        world.add_actor(Box::new(Producer::new(zone.clone(), prng)));
    }
    for _ in 0..dozing {
        world.add_actor(Box::new(Subscriber::dozing(zone.clone(), prng)));
    }
    for _ in 0..dozing / 8 {
        world.add_actor(Box::new(Subscriber::new(zone.clone(), prng)));
    }
}

/// Adds one reader for each partition that there is.
pub(crate) fn audit(world: &mut World, zone: &Zone, prng: &mut Prng) {
    audit_batches_of(world, zone, 0, prng);
}

/// The same, where batches may have up to this many bytes.
pub(crate) fn audit_batches_of(world: &mut World, zone: &Zone, bytes: u64, prng: &mut Prng) {
    for stream in 0..zone.streams.len() {
        for partition in 0..zone.streams[stream].partitions {
            let auditor = Subscriber::auditor(zone.clone(), stream, partition, prng);
            world.add_actor(Box::new(auditor.for_batches_of(bytes)));
        }
    }
}
