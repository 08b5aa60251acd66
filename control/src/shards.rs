//! What control's shards have of the catalogue: the snapshot that they were posted last, and how far each has come with it. One
//! snapshot is under way at a time; what is committed meanwhile is in the next.

use crate::catalogue::Catalogue;
use std::sync::Arc;
use tiderace_base::ids::{NodeId, ShardId};
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::position::CatalogueVersion;

#[derive(Clone, Copy, Debug, Default)]
struct ShardLink {
    applied: CatalogueVersion,
    /// It holds nothing of what was deleted up to here.
    dropped: CatalogueVersion,
    is_full: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shards {
    links: Vec<ShardLink>,
    posted: CatalogueVersion,
}

impl Shards {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            links: vec![ShardLink::default(); count],
            posted: CatalogueVersion::ZERO,
        }
    }

    pub(crate) const fn posted(&self) -> CatalogueVersion {
        self.posted
    }

    /// What every shard has applied.
    pub(crate) fn applied(&self) -> CatalogueVersion {
        let applied = self.links.iter().map(|shard| shard.applied).min();
        applied.unwrap_or(CatalogueVersion::ZERO)
    }

    /// Up to where no shard holds anything of what was deleted.
    pub(crate) fn dropped(&self) -> CatalogueVersion {
        let dropped = self.links.iter().map(|shard| shard.dropped).min();
        dropped.unwrap_or(CatalogueVersion::ZERO)
    }

    pub(crate) fn has_applied(&mut self, shard: ShardId, version: CatalogueVersion) {
        assert!(version <= self.posted, "a shard applies what was posted");
        let link = &mut self.links[usize::from(shard.get())];
        link.applied = link.applied.max(version);
    }

    pub(crate) fn has_dropped(&mut self, shard: ShardId, version: CatalogueVersion) {
        assert!(version <= self.posted, "a shard works off what was posted");
        let link = &mut self.links[usize::from(shard.get())];
        link.dropped = link.dropped.max(version);
    }

    pub(crate) fn set_full(&mut self, shard: ShardId, is_full: bool) {
        self.links[usize::from(shard.get())].is_full = is_full;
    }

    /// Posts this state if it is a newer one, once the one before has been applied everywhere. A full mesh makes it wait.
    pub(crate) fn publish(&mut self, state: &Catalogue, node: NodeId, effects: &mut Effects) {
        let is_ready = |shard: &ShardLink| shard.applied == self.posted && !shard.is_full;
        if state.version() <= self.posted || !self.links.iter().all(is_ready) {
            return;
        }
        self.posted = state.version();
        let snapshot = Arc::new(state.snapshot(node));
        for (_, shard) in self.links.iter().zip(0..) {
            effects.push(Effect::Post {
                to: Peer::Shard(ShardId::new(shard)),
                message: Message::Snapshot(Arc::clone(&snapshot)),
            });
        }
    }
}
