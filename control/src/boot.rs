//! A node's start, before any thread runs: opens the control journal, rebuilds the catalogue, checks that the shards'
//! journals are the ones that the catalogue knows, and prepares the boot that must be committed before anything is led. A node
//! founds a zone, belongs to one, or asks those that it is told of to be let into theirs. It
//! refuses to start on doubt: a disk that was exchanged or put back from an old image would make acknowledged records
//! vanish without a word.

use crate::catalogue::{ApplyError, Catalogue, Node};
use crate::checkpoint::{Captured, Found, LogFault, Rebuilt};
use crate::control::{Control, Opened};
use crate::event::{CatalogueEvent, Fact, ShardBoot};
use crate::letter::Hello;
use crate::raft::{Health, Members, Payload, Position, Restored, Timing};
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
    /// The zone that this node belongs to. `None`: that of the catalogue, or a random one when there is none yet.
    pub zone: Option<ZoneId>,
    /// How it is linked to other nodes. `None`: it is not, and its zone is itself.
    pub links: Option<LinksConfig>,
    /// Decides every random choice: the ids of a new zone and node, the step of the epochs, the journal's salts.
    pub seed: u64,
    /// How the control journal is kept. Its `node`, `boot` and `seed` are replaced by what stands above.
    pub journal: Settings,
}

/// How a node's control thread is linked to those of the others. Node and zone have to be named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinksConfig {
    /// Where its own peer door is reached.
    pub address: SocketAddr,
    /// Nodes of a zone to ask to be let in, as long as this one belongs to none. Whoever belongs to a zone knows its nodes, and reaches those that stand here where they stand here, until they have
    /// said better.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Whether an empty directory founds a zone. To be said once in the life of a zone: a founder whose directory was lost must not
    /// found it anew.
    pub founds: bool,
    /// How often consensus does what.
    pub timing: Timing,
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
    /// The catalogue knows several nodes, or this one is linked to others, and the configuration names none.
    NodeUnnamed,
    /// The catalogue is that of another zone than the configuration's.
    OtherZone {
        /// The catalogue's.
        known: ZoneId,
        /// The configuration's.
        configured: ZoneId,
    },
    /// The directory began to join a zone and nobody to join is named any more.
    JoinBegun,
    /// The directory is empty, nobody to join is named, and nobody said that it founds a zone.
    NoZone,
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
            Self::OtherZone { known, configured } => write!(
                f,
                "this control journal is of zone {:016x}, and the node is configured for zone {:016x}: correct its certificate, or the data directory",
                known.get(),
                configured.get()
            ),
            Self::NoZone => write!(
                f,
                "this data directory is empty: name nodes of the zone to join as its peers, or say that it founds a zone, once in the life of that zone"
            ),
            Self::JoinBegun => write!(
                f,
                "this data directory began to join a zone: name nodes of that zone as its peers, or empty the directory to found another"
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
    opening: Opening,
    journal: Recovery,
}

/// All that a machine begins with, but for its journal.
#[derive(Debug)]
struct Opening {
    catalogue: Catalogue,
    restored: Restored,
    node: NodeId,
    zone: ZoneId,
    facts: Vec<Fact>,
    is_new: bool,
    config: ControlConfig,
    chunk_bytes_max: usize,
}

/// What a node is to its zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// There is none yet, and this node begins it.
    Founds,
    Belongs,
    /// It asks others to be let in.
    Joins,
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
        let found = rebuilt.finish().map_err(ControlError::Log)?;
        // What is not committed may still go, and was said all the same: a disk has to be no older than that.
        let newest = found.newest().map_err(ControlError::Log)?;
        let (node, standing) = standing(&newest, &found, &config, &draws)?;
        let zone = match newest.zone().get() {
            0 => config.zone.unwrap_or(draws.zone),
            _ => newest.zone(),
        };
        if let Some(configured) = config.zone
            && configured != zone
        {
            return Err(ControlError::OtherZone {
                known: zone,
                configured,
            });
        }
        let facts = conclude_boot(&newest, &config, &draws, node, zone, standing)?;
        let founder = founder(&found);
        let is_founder = standing == Standing::Founds || founder == Some(node);
        let Captured {
            base,
            term,
            vote,
            members,
            tail,
            ..
        } = found.log;
        let is_new = standing == Standing::Joins && base == Position::ZERO && tail.is_empty();
        let alone = || match is_founder {
            true => Members::voters([node]),
            false => Members::default(),
        };
        Ok(Self {
            opening: Opening {
                catalogue: found.catalogue,
                restored: Restored {
                    term,
                    vote,
                    base,
                    members: members.unwrap_or_else(alone),
                    entries: tail,
                    health: Health::Whole,
                },
                node,
                zone,
                facts,
                is_new,
                config,
                chunk_bytes_max,
            },
            journal,
        })
    }

    /// What stands in for something in the journal that could not be read.
    #[must_use]
    pub fn stand_ins(&self) -> &[StandIn] {
        self.journal.stand_ins()
    }

    /// Begins the journal, after those of the shards: what the boot says of them must be true when it is committed. Blocks on
    /// the disk. Nothing is led yet: the first snapshot is posted once the boot is committed, which takes turns of the machine.
    /// Its first turn needs no event.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn begin(self, disk: &mut impl Disk, now: Now) -> Result<Control, ControlError> {
        let boot_count = self.journal.boot_count();
        let journal = self.journal.begin(disk).map_err(ControlError::Journal)?;
        let opening = self.opening;
        let config = opening.config;
        let hello = config.links.as_ref().map(|links| Hello {
            zone: opening.zone,
            node: opening.node,
            boot: config.boot,
            boot_count,
            address: links.address,
        });
        Ok(Control::new(
            Opened {
                journal,
                catalogue: opening.catalogue,
                restored: opening.restored,
                node: opening.node,
                facts: opening.facts,
                hello,
                is_new: opening.is_new,
                config,
                chunk_bytes_max: opening.chunk_bytes_max,
            },
            now,
        ))
    }
}

/// Who founded the zone, as far as this log reaches back: its first node.
fn founder(found: &Found) -> Option<NodeId> {
    if let Some(first) = found.catalogue.nodes().next() {
        // With more of them the members are known.
        return Some(first);
    }
    let bodies = found
        .log
        .tail
        .iter()
        .filter_map(|entry| match &entry.payload {
            Payload::Command(body) => CatalogueEvent::decode_all(body).ok(),
            Payload::Term | Payload::Members(_) => None,
        });
    bodies.flatten().find_map(|event| match event.fact {
        Fact::NodeJoined { node, .. } => Some(node),
        _ => None,
    })
}

fn standing(
    catalogue: &Catalogue,
    found: &Found,
    config: &ControlConfig,
    draws: &Draws,
) -> Result<(NodeId, Standing), ControlError> {
    let links = config.links.as_ref();
    if links.is_some() && config.node.is_none() {
        return Err(ControlError::NodeUnnamed);
    }
    let has_peers = links.is_some_and(|links| !links.peers.is_empty());
    if catalogue.nodes.is_empty() {
        let node = config.node.unwrap_or(draws.node);
        if has_peers {
            return Ok((node, Standing::Joins));
        }
        // Who founds a zone votes for itself first. A node by itself, without a name, may have had another one then.
        let voted = found.log.vote;
        if found.is_voted && (voted.is_none() || (links.is_some() && voted != Some(node))) {
            return Err(ControlError::JoinBegun);
        }
        if links.is_some_and(|links| !links.founds) {
            return Err(ControlError::NoZone);
        }
        return Ok((node, Standing::Founds));
    }
    if catalogue.slot_count != limits::SLOTS {
        return Err(ControlError::SlotCount {
            zone: catalogue.slot_count,
        });
    }
    match own_record(catalogue, config.node) {
        Ok((node, _)) => Ok((node, Standing::Belongs)),
        // It has heard of the zone and not been let in yet.
        Err(ControlError::NodeUnknown(node)) if links.is_some() => Ok((node, Standing::Joins)),
        Err(error) => Err(error),
    }
}

/// Checks a start against the catalogue and concludes what it adds.
fn conclude_boot(
    catalogue: &Catalogue,
    config: &ControlConfig,
    draws: &Draws,
    node: NodeId,
    zone: ZoneId,
    standing: Standing,
) -> Result<Vec<Fact>, ControlError> {
    let mut facts = Vec::new();
    let boots = match standing {
        Standing::Founds => {
            facts.push(Fact::ZoneCreated {
                zone,
                slots: limits::SLOTS,
            });
            facts.push(Fact::NodeJoined {
                node,
                disks: config.shards.iter().map(|shard| shard.disk).collect(),
            });
            0
        }
        Standing::Joins => 0,
        Standing::Belongs => {
            let (_, record) = own_record(catalogue, Some(node))?;
            check_journals(record, &config.shards)?;
            let place = record.place.as_ref();
            if place.is_some_and(|place| place.boot == config.boot) {
                return Err(ControlError::BootReused(config.boot));
            }
            record.boot_number
        }
    };
    check_epochs(catalogue, node, &config.shards)?;
    facts.push(Fact::NodeBooted {
        node,
        boot: config.boot,
        boot_number: boots + 1,
        epoch_step: draws.epoch_step,
        shared: config.shared,
        control: config.links.as_ref().map(|links| links.address),
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
    if standing != Standing::Joins {
        let mut trial = catalogue.clone();
        for fact in &facts {
            trial
                .apply(&trial.event(fact.clone()))
                .map_err(ControlError::Spent)?;
        }
    }
    Ok(facts)
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
