//! A node's start: every shard's journal is recovered, then the catalogue, which checks that they are the ones it knows.
//! Blocking; runs before any thread. What comes out are machines: whoever owns threads, or a simulated world, drives them.

use crate::config::{ConfigError, NodeConfig};
use core::fmt;
use tiderace_base::disk::{Disk, DiskError};
use tiderace_base::ids::{BootId, NodeId, ShardId};
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;
use tiderace_control::{Control, ControlConfig, ControlError, ControlRecovery, ShardJournal};
use tiderace_shard::{Shard, ShardConfig, ShardError, ShardRecovery};
use tiderace_storage::{OpenError, Settings, StandIn};

/// Bytes of one send to a subscriber: enough to keep a socket busy for a turn.
const SEND_BYTES_MAX: usize = 1 << 20;
/// Segments appended between two checkpoints.
const CHECKPOINT_SEGMENTS: u64 = 1;

/// Why a node does not start.
#[derive(Debug)]
pub enum BootError {
    /// The configuration is wrong.
    Config(ConfigError),
    /// A shard's journal could not be opened.
    Shard {
        /// Which.
        shard: ShardId,
        /// Why.
        error: ShardError,
    },
    /// The catalogue could not be opened, or does not know these journals.
    Control(ControlError),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::Shard { shard, error } => write!(f, "shard {shard}: {error}"),
            Self::Control(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for BootError {}

/// What kind of thing keeps a node from starting: what an operator does about it differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The configuration is wrong: correct it.
    Config,
    /// The directory belongs to another configuration, node or disk: correct the one that is wrong.
    Differs,
    /// The directory was written by a newer version: start that.
    NewerVersion,
    /// Bytes that were acknowledged are damaged: restore them from a copy.
    Damaged,
    /// No space is left: free some.
    NoSpace,
    /// The disk failed: look at it.
    Disk,
}

impl BootError {
    /// The kind of error.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Config(_) => Reason::Config,
            Self::Shard {
                error: ShardError::Journal(error),
                ..
            }
            | Self::Control(ControlError::Journal(error)) => reason_of(error),
            Self::Shard {
                error: ShardError::Contradiction(_),
                ..
            }
            | Self::Control(ControlError::Log(_)) => Reason::Damaged,
            Self::Control(
                ControlError::NodeUnknown(_)
                | ControlError::NodeUnnamed
                | ControlError::OtherZone { .. }
                | ControlError::JoinBegun
                | ControlError::NoZone
                | ControlError::SlotCount { .. }
                | ControlError::ShardCount { .. }
                | ControlError::DiskReplaced { .. }
                | ControlError::DiskOld { .. }
                | ControlError::CatalogueOld { .. }
                | ControlError::BootReused(_)
                | ControlError::Spent(_),
            ) => Reason::Differs,
        }
    }
}

fn reason_of(error: &OpenError) -> Reason {
    match error {
        OpenError::Disk {
            error: DiskError::NoSpace,
            ..
        }
        | OpenError::NoSpace { .. } => Reason::NoSpace,
        OpenError::Disk { .. } => Reason::Disk,
        OpenError::NewerVersion { .. } => Reason::NewerVersion,
        OpenError::SettingsMismatch { .. } => Reason::Differs,
        OpenError::NotEmptyNoSuperblock { .. }
        | OpenError::SuperblockDamaged
        | OpenError::Damaged { .. }
        | OpenError::CheckpointDamaged { .. } => Reason::Damaged,
    }
}

/// A node, ready to be driven.
#[derive(Debug)]
pub struct Node {
    /// The control machine.
    pub control: Control,
    /// The shard machines, by number.
    pub shards: Vec<Shard>,
    /// What stands in for something in a shard's journal that could not be read, or in control's where there is no shard.
    pub stand_ins: Vec<(Option<ShardId>, StandIn)>,
}

/// Recovers a node from its journals' directories, or creates it there.
///
/// # Errors
/// What keeps it from starting, and what to do about it. Where the journals are damaged or do not belong together nothing was
/// changed; where a disk cannot be written, starting again is safe.
///
/// # Panics
/// When there is not one disk per configured shard.
pub fn boot<D: Disk>(
    control_disk: &mut D,
    shard_disks: &mut [D],
    config: &NodeConfig,
    boot: BootId,
    seed: u64,
    now: Now,
) -> Result<Node, BootError> {
    config.check().map_err(BootError::Config)?;
    assert_eq!(
        shard_disks.len(),
        usize::from(config.shards),
        "one disk per shard"
    );
    let memory = config.shard_memory();
    let mut seeds = Prng::new(seed);
    let mut found = Vec::with_capacity(shard_disks.len());
    for (index, disk) in shard_disks.iter_mut().enumerate() {
        let id = ShardId::new(u16::try_from(index).expect("the configuration bounds the shards"));
        let settings = shard_settings(config, id, boot, seeds.next_u64());
        let shard_config = ShardConfig {
            id,
            boot,
            shards: config.shards,
            connections_max: config.connections_max,
            read_bytes_max: settings.read_bytes_max,
            reads_max: memory.reads_max,
            held_bytes_max: memory.held_bytes_max,
            subscriptions_max: memory.subscriptions_max,
            send_bytes_max: SEND_BYTES_MAX,
            producers: memory.producers,
        };
        let shard = ShardRecovery::read(disk, shard_config, settings, now)
            .map_err(|error| BootError::Shard { shard: id, error })?;
        found.push(shard);
    }
    let journals = found
        .iter()
        .zip(&config.shard_addrs)
        .map(|(shard, address)| ShardJournal {
            address: *address,
            disk: shard.disk(),
            boot_count: shard.boot_count(),
            epoch_max: shard.epoch_max(),
        })
        .collect();
    let control_config = ControlConfig {
        node: config.node_id,
        boot,
        shared: config.shared,
        shards: journals,
        durability: config.default_durability,
        zone: config.zone_id,
        links: config.links.clone(),
        seed: seeds.next_u64(),
        journal: control_settings(config, boot),
    };
    let control =
        ControlRecovery::read(control_disk, control_config, now).map_err(BootError::Control)?;
    let of_shards = found.iter().zip(0..).flat_map(|(shard, index)| {
        let id = Some(ShardId::new(index));
        shard.stand_ins().iter().map(move |it| (id, *it))
    });
    let of_control = control.stand_ins().iter().map(|it| (None, *it));
    let stand_ins = of_shards.chain(of_control).collect();
    // All of them belong together: only now does anything change.
    let mut shards = Vec::with_capacity(found.len());
    for ((shard, disk), index) in found.into_iter().zip(shard_disks).zip(0..) {
        let id = ShardId::new(index);
        let shard = shard
            .begin(disk)
            .map_err(|error| BootError::Shard { shard: id, error })?;
        shards.push(shard);
    }
    let control = control
        .begin(control_disk, now)
        .map_err(BootError::Control)?;
    Ok(Node {
        control,
        shards,
        stand_ins,
    })
}

fn shard_settings(config: &NodeConfig, shard: ShardId, boot: BootId, seed: u64) -> Settings {
    let memory = config.shard_memory();
    // A node that was not given an id is named by its catalogue, which knows its disks; zero stands for that here.
    let node = config.node_id.unwrap_or(NodeId::new(0));
    Settings {
        segment_bytes: config.segment_bytes,
        chunk_bytes_max: memory.chunk_bytes_max,
        region_bytes: memory.region_bytes,
        regions_max: memory.regions_max,
        tail_bytes_max: memory.tail_bytes_max,
        footer_cache_bytes: memory.footer_cache_bytes,
        read_bytes_max: memory.read_bytes_max,
        spares_wanted: config.spares_wanted(),
        checkpoint_every_bytes: CHECKPOINT_SEGMENTS * config.segment_bytes,
        scrubbing: config.scrubbing,
        ..Settings::serving(node, boot, shard.get(), config.shards, seed)
    }
}

/// The control journal is small: one change is a few hundred bytes, and a checkpoint holds the rest.
fn control_settings(config: &NodeConfig, boot: BootId) -> Settings {
    let small = NodeConfig {
        small_chunks: true,
        ..config.clone()
    }
    .shard_memory();
    let segment_bytes = config.segment_bytes.min(CONTROL_SEGMENT_BYTES);
    Settings {
        segment_bytes,
        chunk_bytes_max: small.chunk_bytes_max,
        region_bytes: small.region_bytes,
        regions_max: small.regions_max,
        tail_bytes_max: small.tail_bytes_max,
        footer_cache_bytes: small.footer_cache_bytes,
        read_bytes_max: small.read_bytes_max,
        checkpoint_every_bytes: segment_bytes,
        scrubbing: config.scrubbing,
        // Its node, boot and seed are control's business; it is one journal of one.
        ..Settings::serving(NodeId::new(0), boot, 0, 1, 0)
    }
}

/// A segment of the control journal.
const CONTROL_SEGMENT_BYTES: u64 = 4 << 20;
