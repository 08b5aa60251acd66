//! A small log that keeps the rules of the big one: durable before acknowledged, dense offsets, idempotent producers, an
//! epoch for each run, credit in both directions. It has a protocol of its own and one file. Each rule can be broken on
//! purpose, and the tests show that the simulator notices every one of these breaches, and none without them.

mod client;
mod codec;
mod log;

use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};
use tiderace_base::mesh::Peer;
use tiderace_base::operation::Machine;
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;

use crate::run::Scenario;
use crate::world::disk::SimDisk;
use crate::world::{BootError, Program, World};
use tiderace_base::ids::ShardId;

/// The toy's only partition.
pub(crate) const PARTITION: PartitionKey = PartitionKey {
    stream: StreamId::new(1),
    partition: PartitionIndex::new(0),
};

/// A rule that the toy breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Acknowledges what was submitted to the disk and has not completed.
    AcknowledgesBeforeDurable,
    /// Acknowledges a completed write while an earlier one is in flight.
    AcknowledgesOutOfOrder,
    /// Writes without durability and without a sync.
    NeverSyncs,
    /// Syncs while the write is still in flight.
    SyncsTooEarly,
    /// Relies on what recovery found without making it durable.
    RecoveryTrustsTheCache,
    /// Does not check that a block follows the one before it.
    RecoveryIgnoresTheChain,
    /// Does not rebuild the producers' windows.
    ForgetsProducers,
    /// Goes on in the epoch of the last run.
    ResumesItsEpoch,
    /// Delivers what is not durable yet.
    DeliversBeforeDurable,
    /// Leaves out an offset now and then.
    SkipsAnOffset,
    /// Grants less than was spent, now and then.
    LeaksCredit,
    /// Delivers more than was granted.
    Overspends,
    /// Stops receiving when it is busy and does not start again.
    ForgetsToReceive,
    /// Takes the wall clock as it is.
    TrustsTheWall,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 14] = [
        Self::AcknowledgesBeforeDurable,
        Self::AcknowledgesOutOfOrder,
        Self::NeverSyncs,
        Self::SyncsTooEarly,
        Self::RecoveryTrustsTheCache,
        Self::RecoveryIgnoresTheChain,
        Self::ForgetsProducers,
        Self::ResumesItsEpoch,
        Self::DeliversBeforeDurable,
        Self::SkipsAnOffset,
        Self::LeaksCredit,
        Self::Overspends,
        Self::ForgetsToReceive,
        Self::TrustsTheWall,
    ];
}

/// The toy as a scenario, with or without a bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Toy {
    /// The rule that it breaks.
    pub bug: Option<Bug>,
}

impl Program for Toy {
    fn machines(&self) -> Vec<Peer> {
        vec![Peer::Shard(ShardId::new(0))]
    }

    fn boot(
        &mut self,
        disks: &[SimDisk],
        now: Now,
        seed: u64,
    ) -> Result<Vec<Box<dyn Machine>>, BootError> {
        let log = log::Log::open(disks[0].clone(), self.bug, now, seed)?;
        Ok(vec![Box::new(log)])
    }
}

impl Scenario for Toy {
    fn populate(&self, world: &mut World, seed: u64) {
        let prng = &mut Prng::new(seed);
        let node = world.add_node(Box::new(*self));
        for _ in 0..prng.range(1, 4) {
            let producer = client::Producer::new(node, prng);
            world.add_actor(Box::new(producer));
        }
        for _ in 0..prng.range(1, 4) {
            world.add_actor(Box::new(client::Reader::new(node, false, prng)));
        }
    }

    fn audit(&self, world: &mut World, seed: u64) {
        let prng = &mut Prng::new(!seed);
        world.add_actor(Box::new(client::Reader::new(0, true, prng)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Options, run};

    #[test]
    fn a_log_that_keeps_the_rules_breaks_no_property() {
        for seed in 0..200 {
            let report = run(&Toy::default(), seed, Options::default());
            assert_eq!(report.violation, None, "seed {seed}");
        }
    }

    #[test]
    fn a_seed_run_twice_is_the_same_run() {
        for seed in 0..30 {
            let once = run(&Toy::default(), seed, Options::default());
            assert_eq!(
                once,
                run(&Toy::default(), seed, Options::default()),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn every_planted_bug_breaks_a_property() {
        for bug in Bug::ALL {
            let toy = Toy { bug: Some(bug) };
            let caught = (0..400).find_map(|seed| run(&toy, seed, Options::default()).violation);
            assert!(caught.is_some(), "{bug:?} went unnoticed for 400 seeds");
        }
    }
}
