//! A whole node as a scenario: its shards and its control, each on a journal of its own, booted by the same function that
//! the program calls, with segments and buffers so small that they roll, fill up and are recycled all the time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::ids::{BootId, ShardId};
use tiderace_base::limits::{CONNECTIONS_PER_SHARD_MAX, KIB, SEGMENT_BYTES_MIN};
use tiderace_base::mesh::Peer;
use tiderace_base::operation::Machine;
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;
use tiderace_node::{Mark, NodeConfig, Scrubbing, boot};
use tiderace_shard::{Kind, Metrics, Shard};

use crate::rot::Told;
use crate::run::{NOTHING_IS_DAMAGED, Scenario};
pub use crate::workload::Habit;
use crate::workload::{StreamPlan, Zone, audit, populate, populate_drain, populate_stalls};
use crate::world::disk::SimDisk;
use crate::world::{BootError, Counted, Program, Share, World};
use crate::zone::Member;

/// The program: one node with some shards.
#[derive(Clone, Debug)]
pub(crate) struct Tiderace {
    config: NodeConfig,
    /// What the shards of earlier starts counted.
    counted: Counted,
    /// What the shards of this start count.
    metrics: Vec<Arc<Metrics>>,
    /// Where its alarms are heard; none: nothing may be damaged.
    told: Option<Told>,
    /// What earlier recoveries marked, by shard.
    marks: Vec<Vec<Mark>>,
    /// Where whoever runs the scenario finds that.
    shared: Option<SharedMetrics>,
    /// Its place in a zone of several.
    member: Option<Member>,
}

/// What the shards of the last start count.
pub type SharedMetrics = Arc<Mutex<Vec<Arc<Metrics>>>>;

impl Tiderace {
    fn new(shards: u16, segment_bytes: u64) -> Self {
        let address = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            config: NodeConfig {
                shards,
                shared: address(7000),
                shard_addrs: (0..shards).map(|shard| address(7001 + shard)).collect(),
                default_durability: Durability::Local,
                segment_bytes,
                prewrite_bytes: 0,
                memory_bytes: 1 << 20,
                connections_max: CONNECTIONS_PER_SHARD_MAX,
                // A pass every few moments: what searches for damage meets every fault, and finds none on a whole disk.
                scrubbing: Scrubbing {
                    bytes_per_second: 32 << 20,
                    first_after_ns: 20_000_000,
                    every_ns: 300_000_000,
                },
                node_id: None,
                zone_id: None,
                links: None,
                small_chunks: true,
            },
            counted: Counted::new(),
            metrics: Vec::new(),
            told: None,
            marks: Vec::new(),
            shared: None,
            member: None,
        }
    }
}

impl Tiderace {
    /// One node of several.
    pub(crate) fn of_zone(shards: u16, segment_bytes: u64, member: Member) -> Self {
        let mut program = Self::new(shards, segment_bytes);
        program.config.node_id = Some(member.node);
        program.config.zone_id = Some(member.zone());
        program.config.links = Some(member.links.clone());
        program.member = Some(member);
        program
    }

    /// With the buffers of a real program, which is given so much memory.
    pub(crate) fn of_program(shards: u16, segment_bytes: u64, memory_bytes: usize) -> Self {
        let mut program = Self::new(shards, segment_bytes);
        program.config.memory_bytes = memory_bytes;
        program.config.small_chunks = false;
        program
    }
}

impl Program for Tiderace {
    fn machines(&self) -> Vec<Peer> {
        let shards = (0..self.config.shards).map(|shard| Peer::Shard(ShardId::new(shard)));
        shards.chain([Peer::Control]).collect()
    }

    fn boot(
        &mut self,
        disks: &[SimDisk],
        now: Now,
        seed: u64,
    ) -> Result<Vec<Box<dyn Machine>>, BootError> {
        let mut disks = disks.to_vec();
        let (control_disk, shard_disks) = disks
            .split_last_mut()
            .expect("a node has a control journal");
        let boot_id = BootId::new(Prng::new(seed).next_u64());
        let node = boot(control_disk, shard_disks, &self.config, boot_id, seed, now)
            .map_err(|error| BootError::Refused(error.to_string()))?;
        let control = node.control.alarm();
        for alarm in node.shards.iter().map(Shard::alarm).chain([control]) {
            match self.told.clone() {
                Some(told) => alarm.listen(move |damage| {
                    let mut told = told.lock().expect("nobody panics with it");
                    told.push(damage.to_string());
                }),
                None => {
                    alarm.listen(|damage| panic!("{NOTHING_IS_DAMAGED}: {damage}"));
                }
            }
        }
        // J-10: a mark is cleared by a peer's word, and there is none.
        for (shard, before) in node.shards.iter().zip(&self.marks) {
            let is_there = |mark: &&Mark| {
                let mut now = shard.marks().iter();
                now.any(|it| it.slot == mark.slot && it.kind == mark.kind)
            };
            if let Some(lost) = before.iter().find(|mark| !is_there(mark)) {
                return Err(BootError::Refused(format!("the start forgets {lost:?}")));
            }
        }
        self.marks = node.shards.iter().map(|it| it.marks().to_vec()).collect();
        self.counted = self.counted();
        self.metrics = node.shards.iter().map(Shard::metrics).collect();
        if let Some(shared) = &self.shared {
            shared
                .lock()
                .expect("nobody panics with it")
                .clone_from(&self.metrics);
        }
        let mut machines: Vec<Box<dyn Machine>> = Vec::with_capacity(disks.len());
        for shard in node.shards {
            machines.push(Box::new(shard));
        }
        match &self.member {
            Some(member) => machines.push(Box::new(member.watched(node.control))),
            None => machines.push(Box::new(node.control)),
        }
        Ok(machines)
    }

    fn holds_data(&self) -> bool {
        // The founder leads every slot.
        let founds = |member: &Member| member.links.peers.is_empty();
        self.member.as_ref().is_none_or(founds)
    }

    fn strangers(&self) -> u64 {
        let each = self.metrics.iter();
        each.map(|metrics| metrics.partitions_unknown.get()).sum()
    }

    fn memory(&self) -> Vec<Share> {
        let budget = self.config.shard_memory();
        let shares = |(shard, metrics): (u16, &Arc<Metrics>)| {
            let share = |part, held: u64, budget: usize| Share {
                shard,
                part,
                held,
                budget: budget as u64,
            };
            let producers = budget.producers;
            [
                share(
                    "send_held_bytes",
                    metrics.send_held_bytes.get(),
                    budget.held_bytes_max,
                ),
                share(
                    "producers_count",
                    metrics.producers.get(),
                    producers.producers_max,
                ),
                share(
                    "producer_places_count",
                    metrics.producer_places.get(),
                    producers.places_max,
                ),
                share(
                    "subscriptions_count",
                    metrics.subscriptions.get(),
                    budget.subscriptions_max,
                ),
            ]
        };
        (0..).zip(&self.metrics).flat_map(shares).collect()
    }

    fn counted(&self) -> Counted {
        let mut counted = self.counted.clone();
        for metrics in &self.metrics {
            metrics.each(|name, _, kind, value| {
                if kind == Kind::Counter {
                    *counted.entry(name).or_default() += value;
                }
            });
        }
        counted
    }
}

/// One node, its streams and its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OneNode;

impl OneNode {
    /// What the run's clients know; the same for the run and its audit.
    fn zone(seed: u64) -> Zone {
        let prng = &mut Prng::new(seed);
        let streams = prng.range(1, 4);
        Zone {
            node: 0,
            shards: prng.range(1, 4) as u16,
            streams: (0..streams)
                .map(|number| StreamPlan::draw(number, prng))
                .collect(),
            crowded: false,
        }
    }
}

impl OneNode {
    /// As [`Scenario::populate`], where the node may have damage to tell of.
    pub(crate) fn populate_telling(world: &mut World, seed: u64, told: &Told) {
        Self::populate_as(world, seed, Some(told.clone()));
    }

    fn populate_as(world: &mut World, seed: u64, told: Option<Told>) {
        let zone = Self::zone(seed);
        let prng = &mut Prng::new(!seed);
        let segment_bytes = SEGMENT_BYTES_MIN << prng.below(3);
        let mut program = Tiderace::new(zone.shards, segment_bytes);
        // From room for half a window of places to room for more than there are.
        program.config.memory_bytes = usize::from(zone.shards) * ((64 * KIB) << prng.below(6));
        program.told = told;
        world.add_node(Box::new(program));
        populate(world, &zone, prng);
    }
}

impl Scenario for OneNode {
    fn populate(&self, world: &mut World, seed: u64) {
        Self::populate_as(world, seed, None);
    }

    fn describe(&self, seed: u64) -> String {
        format!("{:?}", Self::zone(seed))
    }

    fn audit(&self, world: &mut World, seed: u64) {
        audit(
            world,
            &Self::zone(seed),
            &mut Prng::new(seed.rotate_left(7)),
        );
    }
}

/// One node whose subscribers stay until its drain has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainedNode {
    /// How they read: three of each.
    pub habits: &'static [Habit],
}

impl Scenario for DrainedNode {
    fn populate(&self, world: &mut World, seed: u64) {
        let zone = OneNode::zone(seed);
        let prng = &mut Prng::new(!seed);
        let segment_bytes = SEGMENT_BYTES_MIN << prng.below(3);
        world.add_node(Box::new(Tiderace::new(zone.shards, segment_bytes)));
        populate_drain(world, &zone, self.habits, prng);
    }

    fn audit(&self, world: &mut World, seed: u64) {
        OneNode.audit(world, seed);
    }
}

/// One node with many subscribers that cease to read again and again.
#[derive(Clone, Debug, Default)]
pub struct StalledNode {
    /// How many.
    pub subscribers: usize,
    /// Whether its streams keep everything.
    pub keeps: bool,
    /// What its shards count.
    pub metrics: SharedMetrics,
}

impl Scenario for StalledNode {
    fn populate(&self, world: &mut World, seed: u64) {
        let mut zone = OneNode::zone(seed);
        if self.keeps {
            for plan in &mut zone.streams {
                plan.retention = Retention::default();
            }
        }
        let prng = &mut Prng::new(!seed);
        let segment_bytes = SEGMENT_BYTES_MIN << prng.below(3);
        let mut program = Tiderace::new(zone.shards, segment_bytes);
        program.shared = Some(Arc::clone(&self.metrics));
        world.add_node(Box::new(program));
        populate_stalls(world, &zone, self.subscribers, prng);
    }

    fn audit(&self, world: &mut World, seed: u64) {
        OneNode.audit(world, seed);
    }
}
