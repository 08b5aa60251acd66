//! A node that starts from files that somebody found, such as an image of what a power cut may have left of a real disk. The
//! same start, the same readers and the same properties as in every other run: the start may refuse nothing, every record
//! of the history that was acknowledged is read, twice, with another power cut between, and sometimes one in the middle of
//! the first start. Invariant: the verdict depends on the files, the history and the seed alone.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::disk::JournalFile;
use tiderace_base::prng::Prng;
use tiderace_wire::batch::BatchHeader;

use crate::history::{Judge, Observation, Violation};
use crate::node::Tiderace;
use crate::run::{panic_text, settle};
use crate::workload::{StreamPlan, Zone, audit_batches_of};
use crate::world::faults::{Fault, Faults};
use crate::world::trace::Lines;
use crate::world::{MachineId, Setup, World};

/// The time that a start has, with every power cut in the middle of it.
const START_WITHIN_NS: u64 = 1_000_000_000;

/// The files of one journal.
pub type Files = BTreeMap<JournalFile, Arc<Vec<u8>>>;

/// A stream that the node must know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundStream {
    /// Its path.
    pub path: Arc<str>,
    /// How many partitions it has.
    pub partitions: u32,
    /// What its acknowledgements promise.
    pub durability: Durability,
    /// What may go away.
    pub retention: Retention,
}

/// What was found, and what it must hold.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The files of each shard's journal.
    pub shards: Vec<Files>,
    /// The files of control's journal.
    pub control: Files,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// Memory of the node that wrote it.
    pub memory_bytes: usize,
    /// The streams whose creation was acknowledged.
    pub streams: Vec<FoundStream>,
    /// What was seen before, in order.
    pub history: &'a [Observation],
    /// The largest batch that was ever sent.
    pub batch_bytes_max: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
    /// Batches of the history that were acknowledged.
    pub acknowledged: u64,
    /// Batches that the readers were given.
    pub delivered: u64,
    /// Power cuts in the middle of a start.
    pub starts_cut: u64,
}

/// What identifies a batch's content in a history.
#[must_use]
pub fn digest(header: &BatchHeader) -> u64 {
    crate::workload::digest(header)
}

/// Starts a node from what was found and holds what it serves against the history. A panic is a violation like any other.
#[must_use]
pub fn judge(found: &Found<'_>, seed: u64, prints: bool) -> Verdict {
    let mut prng = Prng::new(seed);
    let mut faults = Faults::none();
    if prng.chance(1, 2) {
        faults.set(Fault::PowerLossInRecovery, 500_000);
    }
    let setup = Setup {
        seed: prng.next_u64(),
        faults,
        lines: if prints { Lines::Printed } else { Lines::None },
        mesh_limit: 64,
        receive_buffers: 128,
    };
    let mut judge = Judge::default();
    for observation in found.history {
        judge.observe(0, observation);
    }
    let mut world = World::new(setup, judge);
    let outcome = catch_unwind(AssertUnwindSafe(|| course(found, &mut world, &mut prng)));
    if let Err(panic) = outcome {
        let now_ns = world.now_ns();
        world
            .judge
            .refuse("nothing_panics", panic_text(&*panic), now_ns);
    }
    Verdict {
        violation: world.judge.violation().cloned(),
        acknowledged: world.judge.acknowledged(),
        delivered: world.judge.delivered(),
        starts_cut: world.faults.fired().count(Fault::PowerLossInRecovery),
    }
}

fn course(found: &Found<'_>, world: &mut World, prng: &mut Prng) {
    let shards = u16::try_from(found.shards.len()).expect("shards are few");
    let program = Tiderace::of_program(shards, found.segment_bytes, found.memory_bytes);
    let node = world.add_node(Box::new(program));
    let journals = found.shards.iter().chain([&found.control]);
    for (machine, files) in (0..).zip(journals) {
        let disk = world.disk(MachineId { node, machine });
        for (file, bytes) in files {
            disk.place(*file, Arc::clone(bytes));
        }
    }
    world.observe(&Observation::NodeDied {
        node,
        power: true,
        stopped: false,
    });
    world.run(START_WITHIN_NS, |world| world.is_up(node));
    world.heal();
    let zone = Zone {
        node,
        shards,
        streams: found.streams.iter().map(plan).collect(),
        crowded: false,
    };
    // Once more after another power cut: what the first start wrote, and how, must stand the second.
    for cuts_power in [true, false] {
        audit_batches_of(world, &zone, found.batch_bytes_max, prng);
        settle(world);
        if cuts_power {
            world.cut_power(node);
        }
    }
    let until_ns = world.now_ns() + START_WITHIN_NS;
    if !world.run(until_ns, |world| world.is_up(node)) && !world.judge.is_broken() {
        world.judge.refuse(
            "a_node_starts",
            "it has not started in a second".to_owned(),
            until_ns,
        );
    }
}

fn plan(stream: &FoundStream) -> StreamPlan {
    StreamPlan {
        path: Arc::clone(&stream.path),
        partitions: stream.partitions,
        durability: stream.durability,
        retention: stream.retention,
    }
}
