//! How far each peer is, as the leader sees it, and what is on its way there. One message is under way while the leader looks
//! for the place where the logs part; behind that, several.

use super::entries::Position;
use std::collections::BTreeMap;
use tiderace_base::ids::{BootId, NodeId};
use tiderace_base::position::RaftIndex;
use tiderace_base::time::Mono;

/// Messages with entries under way to one peer.
pub(super) const UNDER_WAY_MAX: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    /// The next entry to send.
    pub(super) next: RaftIndex,
    /// Whether everything before `next` is known to be there.
    pub(super) is_matched: bool,
    pub(super) under_way: u32,
    /// When something last came or went.
    pub(super) moved: Mono,
    /// The commit index that it was last sent.
    pub(super) told: RaftIndex,
    /// It wants what the log no longer has.
    pub(super) wants_snapshot: bool,
    /// It said in this term that its log was damaged, in this run, and first at this time.
    pub(super) damaged: Option<(BootId, Mono)>,
    /// An answer that waits until the leader itself is as far.
    pub(super) held: Option<Position>,
}

impl Peer {
    fn new(next: RaftIndex, now: Mono) -> Self {
        Self {
            next,
            is_matched: false,
            under_way: 0,
            moved: now,
            told: RaftIndex::ZERO,
            wants_snapshot: false,
            damaged: None,
            held: None,
        }
    }

    /// Begins again at this entry, as if nothing were under way.
    pub(super) fn restart(&mut self, next: RaftIndex) {
        self.next = next;
        self.is_matched = false;
        self.under_way = 0;
    }

    pub(super) fn has_room(&self) -> bool {
        self.under_way < if self.is_matched { UNDER_WAY_MAX } else { 1 }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Peer>);

impl Peers {
    /// These and no others, those that stay as they are.
    pub(super) fn keep(&mut self, nodes: &[NodeId], next: RaftIndex, now: Mono) {
        self.0.retain(|node, _| nodes.contains(node));
        for node in nodes {
            self.0.entry(*node).or_insert_with(|| Peer::new(next, now));
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.0.get_mut(&node)
    }

    pub(super) fn iter(&mut self) -> impl Iterator<Item = (NodeId, &mut Peer)> {
        self.0.iter_mut().map(|(node, peer)| (*node, peer))
    }
}
