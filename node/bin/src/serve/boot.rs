//! From the configuration to recovered machines: what `node` is told, and its refusals as sentences with exit codes.

use super::descriptors::Share;
use super::memory_bytes_default;
use crate::config::Config;
use crate::directory::{DataDirectory, Layout};
use crate::exit::{Exit, Failure};
use crate::health::Counted;
use crate::listen::Sockets;
use crate::tls;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tiderace_base::ids::BootId;
use tiderace_io::{BlockingDisk, Clock, CurrentIdentity, NodeIdentity, entropy};
use tiderace_node::{BootError, Damage, LinksConfig, Node, NodeConfig, Reason, Scrubbing, Timing};

/// What a node is told before it boots.
#[derive(Debug)]
pub(crate) struct NodeSettings {
    config: NodeConfig,
    data_dir: PathBuf,
    /// What each shard and each journal may have open.
    pub(crate) share: Share,
    /// Who it is to other nodes.
    pub(crate) identity: Option<CurrentIdentity>,
}

impl NodeSettings {
    /// The configuration, as far as the directory and the sockets leave it open.
    pub(crate) fn of(
        config: &Config,
        directory: &DataDirectory,
        sockets: &Sockets,
        share: Share,
    ) -> Result<Self, Failure> {
        let Layout {
            shards,
            segment_bytes,
        } = directory.layout;
        let identity = config.peers.as_ref().map(tls::of_node).transpose()?;
        let links = config.peers.as_ref().zip(sockets.peers.as_ref());
        let links = links.map(|(peers, (_, address))| LinksConfig {
            address: *address,
            peers: peers.join.clone(),
            founds: peers.founds,
            timing: Timing::default(),
        });
        let config_of_node = NodeConfig {
            shards,
            shared: sockets.shared,
            shard_addrs: sockets.shard_addresses.clone(),
            default_durability: config.durability,
            segment_bytes,
            prewrite_bytes: config.prewrite_bytes,
            memory_bytes: config
                .memory_bytes
                .unwrap_or_else(|| memory_bytes_default(shards)),
            connections_max: share.connections_served,
            scrubbing: Scrubbing::daily(config.scrub_bytes_per_second),
            node_id: identity.as_ref().map(NodeIdentity::node),
            zone_id: identity.as_ref().map(NodeIdentity::zone),
            links,
            small_chunks: false,
        };
        Ok(Self {
            config: config_of_node,
            data_dir: config.data_dir.clone(),
            share,
            identity: identity.map(CurrentIdentity::new),
        })
    }

    pub(crate) const fn shards(&self) -> u16 {
        self.config.shards
    }

    /// Receive buffers of one shard, and the bytes of each.
    pub(crate) fn receive_buffers(&self) -> (u16, usize) {
        let memory = self.config.shard_memory();
        (
            u16::try_from(memory.receive_buffers).unwrap_or(u16::MAX),
            memory.receive_buffer_bytes,
        )
    }

    /// Checks what could not be checked before the number of shards was known.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.config.check().map_err(|error| {
            Failure::new(Exit::Config, error.to_string())
                .hint("`tiderace serve --print-config` shows what counts and where it comes from")
        })
    }
}

/// Recovered machines, and what they count.
pub(crate) struct Machines {
    pub(crate) node: Node,
    pub(crate) counted: Vec<Counted>,
}

/// Recovers every journal, or makes it at a first start. Blocking.
pub(crate) fn recover(
    settings: &NodeSettings,
    directory: &DataDirectory,
) -> Result<Machines, Failure> {
    let boot = BootId::new(entropy::random_u64());
    let mut control = BlockingDisk::new(&directory.control);
    let mut shards: Vec<BlockingDisk> = directory.shards.iter().map(BlockingDisk::new).collect();
    let node = tiderace_node::boot(
        &mut control,
        &mut shards,
        &settings.config,
        boot,
        entropy::random_u64(),
        Clock::now(),
    )
    .map_err(|error| refused(&settings.data_dir, &error))?;
    for (shard, stand_in) in &node.stand_ins {
        let journal = shard.map_or("control".to_owned(), |shard| format!("shard {shard}"));
        tracing::warn!(
            journal,
            "{stand_in}: nothing is lost; if neither a power cut nor a first start that was cut short explains it, look at the disk before more of it fails"
        );
    }
    let mut counted = Vec::with_capacity(node.shards.len() + 1);
    let found = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&found);
    let metrics = node.control.metrics();
    node.control.alarm().listen(move |damage| {
        found.fetch_add(1, Ordering::Relaxed);
        log_damage("control", damage);
    });
    counted.push(Counted {
        family: "control",
        label: "0".to_owned(),
        source: Box::new(move |take| {
            let help = "Damaged places found in control's journal since the start.";
            take("damage_found_total", help, seen.load(Ordering::Relaxed));
            metrics.each(&mut *take);
        }),
        serves: None,
    });
    for (index, shard) in node.shards.iter().enumerate() {
        let journal = format!("shard {index}");
        shard
            .alarm()
            .listen(move |damage| log_damage(&journal, damage));
        let metrics = shard.metrics();
        let serving = Arc::clone(&metrics);
        counted.push(Counted {
            family: "shard",
            label: index.to_string(),
            source: Box::new(move |take| {
                metrics.each(|name, help, _, value| take(name, help, value));
            }),
            serves: Some(Box::new(move || serving.serving.get() == 1)),
        });
    }
    Ok(Machines { node, counted })
}

/// What cannot be read any more has to be known before somebody needs it.
fn log_damage(journal: &str, damage: &Damage) {
    tracing::error!(
        journal,
        file = %damage.file,
        at = damage.at,
        bytes = damage.bytes,
        "{damage}; reads of them are refused, everything else is served: restore the file from a copy, or let retention release it"
    );
}

/// A refusal as a sentence with its exit code. The sentence is `node`'s own and says what to do.
fn refused(data_dir: &Path, error: &BootError) -> Failure {
    let exit = match error.reason() {
        Reason::Config => Exit::Config,
        Reason::Differs => Exit::DirectoryDiffers,
        Reason::NewerVersion => Exit::DirectoryNewer,
        Reason::Damaged => Exit::DirectoryDamaged,
        Reason::NoSpace => Exit::NoSpace,
        Reason::Disk => Exit::DirectoryUnusable,
    };
    let failure = Failure::new(
        exit,
        format!(
            "the node does not start from {}: {error}",
            data_dir.display()
        ),
    );
    match exit {
        // Whatever is tried next may destroy what could still be saved.
        Exit::DirectoryDamaged => failure.hint(
            "nothing was changed; copy the directory away before anything else, then bring the damaged file back from a backup",
        ),
        _ => failure,
    }
}
