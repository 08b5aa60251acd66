//! A node's start, before any thread runs: opens the control journal, rebuilds the catalogue, checks that the shards'
//! journals are the ones that the catalogue knows, and prepares the boot that must be committed before anything is led. It
//! refuses to start on doubt: a disk that was exchanged or put back from an old image would make acknowledged records
//! vanish without a word.

use crate::catalogue::{ApplyError, Catalogue, Node};
use crate::checkpoint::{LogEnd, LogFault, Rebuilt};
use crate::control::{Control, Opened};
use crate::event::{Fact, ShardBoot};
use core::fmt;
use core::num::NonZeroU8;
use std::net::SocketAddr;
use std::sync::Arc;
use tiderace_base::catalogue::Durability;
use tiderace_base::disk::Disk;
use tiderace_base::ids::{BootId, DiskId, NodeId, ShardId, ZoneId};
use tiderace_base::limits;
use tiderace_base::position::Epoch;
use tiderace_base::prng::Prng;
use tiderace_base::time::Now;
use tiderace_storage::{OpenError, Recovery, Settings, StandIn};

/// What a start needs to know.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The node's id. `None`: the node of the catalogue, or a random one when there is none yet.
    pub node: Option<NodeId>,
    /// This run. Random, never used before.
    pub boot: BootId,
    /// The address that all shards share.
    pub shared: SocketAddr,
    /// Each shard and its journal, which was read already and is not begun: 1 to [`limits::SHARDS_MAX`].
    pub shards: Vec<ShardJournal>,
    /// The durability of streams whose creator names none.
    pub durability: Durability,
    /// Decides every random choice: the ids of a new zone and node, the step of the epochs, the journal's salts.
    pub seed: u64,
    /// How the control journal is kept. Its `node`, `boot` and `seed` are replaced by what stands above.
    pub journal: Settings,
}

/// A shard's journal, as it was found when it was read for this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardJournal {
    /// Where the shard is reached.
    pub address: SocketAddr,
    /// The disk's identity.
    pub disk: DiskId,
    /// How many runs its superblock has counted, this one among them.
    pub boot_count: u64,
    /// The greatest epoch of its entries: zero when it has none, or when its owner cannot tell.
    pub epoch_max: Epoch,
}

/// Why a node does not start.
#[derive(Debug)]
pub enum ControlError {
    /// The control journal cannot be opened.
    Journal(OpenError),
    /// The control journal's content does not add up.
    Log(LogFault),
    /// The catalogue does not know the configured node.
    NodeUnknown(NodeId),
    /// The catalogue knows several nodes and the configuration names none.
    NodeUnnamed,
    /// The zone has another number of slots than this program is made for.
    SlotCount {
        /// The zone's.
        zone: u16,
    },
    /// The number of shards differs from that of the first start.
    ShardCount {
        /// Fixed by the first start.
        fixed: usize,
        /// Configured now.
        configured: usize,
    },
    /// A shard's journal is on a disk that the catalogue does not know.
    DiskReplaced {
        /// Whose journal.
        journal: ShardId,
        /// The disk that the catalogue knows.
        known: DiskId,
        /// The disk that is there.
        found: DiskId,
    },
    /// A shard's journal has run less often than the catalogue has counted: it is an old image.
    DiskOld {
        /// Whose journal.
        journal: ShardId,
        /// The count at the last start that was committed.
        committed: u64,
        /// The count now, this start included: it would have to be greater.
        found: u64,
    },
    /// A shard's journal holds an epoch that the catalogue never gave: the control journal is an old image, or lost.
    CatalogueOld {
        /// Whose journal.
        journal: ShardId,
        /// The greatest epoch that the catalogue gave there.
        known: Epoch,
        /// The greatest epoch that the journal holds.
        found: Epoch,
    },
    /// This run's id is that of the run before: entropy is broken.
    BootReused(BootId),
    /// The epochs of a slot are spent.
    Spent(ApplyError),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal(error) => write!(f, "the control journal cannot be opened: {error}"),
            Self::Log(fault) => write!(
                f,
                "the control journal does not add up: {fault}; keep the disk as it is and restore the control journal from a copy"
            ),
            Self::NodeUnknown(node) => write!(
                f,
                "this control journal knows no node {:016x}: correct the node id of the configuration, or the data directory",
                node.get()
            ),
            Self::NodeUnnamed => write!(
                f,
                "the zone has several nodes: name this one's id in the configuration"
            ),
            Self::SlotCount { zone } => write!(
                f,
                "the zone has {zone} slots, this program is made for {}: start the version that created the zone",
                limits::SLOTS
            ),
            Self::ShardCount { fixed, configured } => write!(
                f,
                "the first start fixed the number of shards at {fixed}, but {configured} are configured: set it to {fixed}; with fewer cores several shards share a thread"
            ),
            Self::DiskReplaced {
                journal,
                known,
                found,
            } => write!(
                f,
                "journal {journal} is on disk {:032x}, but its records are on disk {:032x}: put that disk back",
                found.get(),
                known.get()
            ),
            Self::DiskOld {
                journal,
                committed,
                found,
            } => write!(
                f,
                "journal {journal} is an old image of this disk: it has counted {found} runs with this one, but run {committed} was committed already; put back the newest one"
            ),
            Self::CatalogueOld {
                journal,
                known,
                found,
            } => write!(
                f,
                "journal {journal} holds epoch {found}, but the control journal knows none above {known}: it is lost or an old image; put back the newest one"
            ),
            Self::BootReused(boot) => write!(
                f,
                "boot id {:016x} is that of the last run: the host's entropy is broken",
                boot.get()
            ),
            Self::Spent(error) => write!(f, "this node cannot start again: {error}"),
        }
    }
}

impl core::error::Error for ControlError {}

/// Every random choice of a start, drawn whether it is needed or not, so that one does not shift the next.
struct Draws {
    node: NodeId,
    zone: ZoneId,
    epoch_step: NonZeroU8,
    journal_seed: u64,
}

impl Draws {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let steps = limits::EPOCH_STEP_MAX.min(u64::from(u8::MAX));
        Self {
            // Zero names nothing.
            node: NodeId::new(prng.next_u64().max(1)),
            zone: ZoneId::new(prng.next_u64().max(1)),
            epoch_step: NonZeroU8::MIN.saturating_add(prng.below(steps) as u8),
            journal_seed: prng.next_u64(),
        }
    }
}

/// A control machine that was read and not begun: its log adds up, the shards' journals are the ones that it knows, and nothing
/// on the disk has changed.
#[derive(Debug)]
pub struct ControlRecovery {
    catalogue: Catalogue,
    log: LogEnd,
    node: NodeId,
    facts: Vec<Fact>,
    shard_count: usize,
    durability: Durability,
    chunk_bytes_max: usize,
    journal: Recovery,
}

impl ControlRecovery {
    /// Reads the control journal of a node whose shard journals were read, and concludes this run's boot. Changes nothing.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// Why the node must not start, and what to do.
    ///
    /// # Panics
    /// When the configuration has no shard or more than [`limits::SHARDS_MAX`].
    pub fn read(
        disk: &mut impl Disk,
        config: ControlConfig,
        now: Now,
    ) -> Result<Self, ControlError> {
        assert!(
            (1..=limits::SHARDS_MAX).contains(&config.shards.len()),
            "a node has a shard and no more than the limit"
        );
        let draws = Draws::new(config.seed);
        let settings = Settings {
            node: config.node.unwrap_or(draws.node),
            boot: config.boot,
            seed: draws.journal_seed,
            ..config.journal.clone()
        };
        let chunk_bytes_max = settings.chunk_bytes_max;
        let mut rebuilt = Rebuilt::new();
        let journal = tiderace_storage::recover(disk, settings, now, &mut rebuilt)
            .map_err(ControlError::Journal)?;
        let (catalogue, log) = rebuilt.finish().map_err(ControlError::Log)?;
        let (node, facts) = conclude_boot(&catalogue, &config, &draws)?;
        Ok(Self {
            catalogue,
            log,
            node,
            facts,
            shard_count: config.shards.len(),
            durability: config.durability,
            chunk_bytes_max,
            journal,
        })
    }

    /// What stands in for something in the journal that could not be read.
    #[must_use]
    pub fn stand_ins(&self) -> &[StandIn] {
        self.journal.stand_ins()
    }

    /// Begins the journal, after those of the shards: what the boot says of them must be true when it is committed. Blocks on
    /// the disk. Nothing is led yet: the first snapshot is posted once the boot is durable, which takes turns of the machine.
    /// Its first turn needs no event.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn begin(self, disk: &mut impl Disk) -> Result<Control, ControlError> {
        let journal = self.journal.begin(disk).map_err(ControlError::Journal)?;
        Ok(Control::new(Opened {
            journal,
            catalogue: self.catalogue,
            log: self.log,
            node: self.node,
            facts: self.facts,
            shard_count: self.shard_count,
            durability: self.durability,
            chunk_bytes_max: self.chunk_bytes_max,
        }))
    }
}

/// Checks a start against the catalogue and concludes what it adds.
fn conclude_boot(
    catalogue: &Catalogue,
    config: &ControlConfig,
    draws: &Draws,
) -> Result<(NodeId, Vec<Fact>), ControlError> {
    let mut facts = Vec::new();
    let (node, boots) = if catalogue.nodes.is_empty() {
        let node = config.node.unwrap_or(draws.node);
        facts.push(Fact::ZoneCreated {
            zone: draws.zone,
            slots: limits::SLOTS,
        });
        facts.push(Fact::NodeJoined {
            node,
            disks: config.shards.iter().map(|shard| shard.disk).collect(),
        });
        (node, 0)
    } else {
        if catalogue.slot_count != limits::SLOTS {
            return Err(ControlError::SlotCount {
                zone: catalogue.slot_count,
            });
        }
        let (node, record) = own_record(catalogue, config.node)?;
        check_journals(record, &config.shards)?;
        if record
            .place
            .as_ref()
            .is_some_and(|place| place.boot == config.boot)
        {
            return Err(ControlError::BootReused(config.boot));
        }
        (node, record.boot_number)
    };
    check_epochs(catalogue, node, &config.shards)?;
    facts.push(Fact::NodeBooted {
        node,
        boot: config.boot,
        boot_number: boots + 1,
        epoch_step: draws.epoch_step,
        shared: config.shared,
        shards: config
            .shards
            .iter()
            .map(|shard| ShardBoot {
                disk: shard.disk,
                boot_count: shard.boot_count,
                address: shard.address,
            })
            .collect(),
    });
    let mut trial = catalogue.clone();
    for fact in &facts {
        trial
            .apply(&trial.event(fact.clone()))
            .map_err(ControlError::Spent)?;
    }
    Ok((node, facts))
}

fn own_record(
    catalogue: &Catalogue,
    named: Option<NodeId>,
) -> Result<(NodeId, &Arc<Node>), ControlError> {
    let node = match named {
        Some(node) => node,
        None if catalogue.nodes.size() == 1 => catalogue.nodes().next().expect("there is one node"),
        None => return Err(ControlError::NodeUnnamed),
    };
    let record = catalogue
        .node(node)
        .ok_or(ControlError::NodeUnknown(node))?;
    Ok((node, record))
}

fn check_journals(record: &Node, shards: &[ShardJournal]) -> Result<(), ControlError> {
    if record.journals.len() != shards.len() {
        return Err(ControlError::ShardCount {
            fixed: record.journals.len(),
            configured: shards.len(),
        });
    }
    for ((known, found), index) in record.journals.iter().zip(shards).zip(0..) {
        let journal = ShardId::new(index);
        if known.disk != found.disk {
            return Err(ControlError::DiskReplaced {
                journal,
                known: known.disk,
                found: found.disk,
            });
        }
        // Opening the journal has counted this run: equal means that a run is missing.
        if found.boot_count <= known.boot_count {
            return Err(ControlError::DiskOld {
                journal,
                committed: known.boot_count,
                found: found.boot_count,
            });
        }
    }
    Ok(())
}

/// No entry is written before its epoch is committed: a greater one means that the catalogue has forgotten something, and
/// might give that epoch again.
fn check_epochs(
    catalogue: &Catalogue,
    node: NodeId,
    shards: &[ShardJournal],
) -> Result<(), ControlError> {
    for (shard, index) in shards.iter().zip(0..) {
        let journal = ShardId::new(index);
        let known = catalogue.epoch_max(node, journal);
        if shard.epoch_max > known {
            return Err(ControlError::CatalogueOld {
                journal,
                known,
                found: shard.epoch_max,
            });
        }
    }
    Ok(())
}
