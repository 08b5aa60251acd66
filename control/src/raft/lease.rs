//! Leases of leadership. A voter that answers a heartbeat promises to vote for nobody for the length of a lease; the leader
//! leads for that long from when it *sent* a heartbeat that a majority answered. Both clocks may run at different speeds: the
//! leader takes a fiftieth off, the voter puts one on. docs/replication.md, R-8

use super::entries::Members;
use std::collections::{BTreeMap, BTreeSet};
use tiderace_base::ids::NodeId;
use tiderace_base::time::Mono;

/// How far two clocks may drift apart within a lease: one part of so many.
const DRIFT_PART: u64 = 50;

/// How often things happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two heartbeats of a leader, in nanoseconds.
    pub heartbeat_ns: u64,
    /// How long a voter that answered a heartbeat votes for nobody, in nanoseconds: several heartbeats.
    pub lease_ns: u64,
    /// Behind that, voters stand for election at a time drawn from so many nanoseconds.
    pub spread_ns: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ns: 20_000_000,
            lease_ns: 60_000_000,
            spread_ns: 60_000_000,
        }
    }
}

impl Timing {
    /// How long a voter keeps its word.
    pub(super) const fn granted_ns(&self) -> u64 {
        self.lease_ns + self.lease_ns / DRIFT_PART
    }

    /// How long a leader relies on it.
    pub(super) const fn relied_on_ns(&self) -> u64 {
        self.lease_ns - self.lease_ns / DRIFT_PART
    }
}

/// The leader's side of one term.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// The newest heartbeat that each peer has answered, by when it was sent.
    answered: BTreeMap<NodeId, Mono>,
    /// It handed leadership over: in this term it never relies on a lease again.
    pub(super) is_renounced: bool,
}

impl Lease {
    pub(super) fn answered(&mut self, from: NodeId, sent: Mono) {
        let newest = self.answered.entry(from).or_insert(sent);
        *newest = (*newest).max(sent);
    }

    /// Whether a peer has answered a heartbeat that was sent then or later.
    pub(super) fn has_answered(&self, node: NodeId, since: Mono) -> bool {
        self.answered.get(&node).is_some_and(|sent| *sent >= since)
    }

    /// The time such that a majority has answered a heartbeat that was sent then or later. Its own answer is always new.
    pub(super) fn confirmed(&self, members: &Members, own: NodeId, now: Mono) -> Option<Mono> {
        let of = |voters: &BTreeSet<NodeId>| -> Option<Mono> {
            let mut answered: Vec<Option<Mono>> = voters
                .iter()
                .map(|voter| match voter {
                    voter if *voter == own => Some(now),
                    voter => self.answered.get(voter).copied(),
                })
                .collect();
            answered.sort_unstable_by(|a, b| b.cmp(a));
            // The one that completes a majority.
            answered.get(answered.len() / 2).copied().flatten()
        };
        let voters = of(&members.voters)?;
        if members.incoming.is_empty() {
            return Some(voters);
        }
        Some(voters.min(of(&members.incoming)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId::new).collect()
    }

    #[test]
    fn a_majority_of_each_set_confirms() {
        let own = NodeId::new(1);
        let now = Mono::from_ns(100);
        let mut members = Members {
            voters: nodes(&[1, 2, 3]),
            ..Members::default()
        };
        let mut lease = Lease::default();
        assert_eq!(lease.confirmed(&members, own, now), None);
        lease.answered(NodeId::new(3), Mono::from_ns(40));
        lease.answered(NodeId::new(3), Mono::from_ns(30));
        assert_eq!(lease.confirmed(&members, own, now), Some(Mono::from_ns(40)));
        members.incoming = nodes(&[1, 3, 4, 5]);
        assert_eq!(
            lease.confirmed(&members, own, now),
            None,
            "two of four are no majority"
        );
        lease.answered(NodeId::new(4), Mono::from_ns(10));
        assert_eq!(lease.confirmed(&members, own, now), Some(Mono::from_ns(10)));
        members = Members::voters([own]);
        assert_eq!(lease.confirmed(&members, own, now), Some(now));
    }
}
