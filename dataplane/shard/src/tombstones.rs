//! What a shard owes the catalogue's tombstones: it drops the partitions of deleted streams, and tells control once nothing
//! of them can come back, so that their tombstones may go. Only a committed tombstone deletes.
//!
//! What is said is a version: nothing is held of any stream that was deleted up to it. Invariants: it is said when the
//! entries that dropped the last partitions are on the disk and something behind them there says so, for a tail that a
//! damaged disk tears off would bring a partition back whose stream nobody knows any more; a run begins by having said
//! nothing, so that a restart says it again; no more than one version waits to be said, and it does not wait for later
//! drops.

use crate::maintenance::{PARTITIONS_PER_TURN, RETENTION_EVERY_NS};
use crate::shard::Shard;
use tiderace_base::ids::{PartitionKey, SlotId};
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Effect, Effects};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{CatalogueVersion, Lsn};
use tiderace_base::time::Now;
use tiderace_wire::entry::{DropReason, EntryKind, PartitionDrop};
use tiderace_wire::error::ErrorCode;

/// How far the tombstones are worked off.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    /// Whatever was deleted up to here has no partition here.
    seen: CatalogueVersion,
    /// The end of the last entry that dropped a partition in this run.
    drops_end: Lsn,
    /// Control is told this version once the journal is proven up to the place beside it.
    unsaid: Option<(CatalogueVersion, Lsn)>,
    /// Control was told this one.
    said: CatalogueVersion,
}

impl Shard {
    /// Drops the partitions of deleted streams, a bounded number at a time.
    pub(crate) fn drop_deleted(&mut self, now: Now, effects: &mut Effects) {
        let Some(catalogue) = self.catalogue.clone() else {
            return;
        };
        // A tombstone that was cleared since is no matter: it was worked off before.
        if catalogue.deleted <= self.tombstones.seen || is_planted(Bug::KeepDeleted) {
            return;
        }
        let gone: Vec<(PartitionKey, SlotId)> = self
            .partitions
            .iter()
            .filter(|(_, partition)| catalogue.tombstones.contains_key(&partition.key.stream))
            .map(|(_, partition)| (partition.key, partition.durable.slot))
            .take(PARTITIONS_PER_TURN)
            .collect();
        let is_all = gone.len() < PARTITIONS_PER_TURN;
        if !gone.is_empty() {
            // There may be more, and what is dropped now frees segments: come back.
            self.retention_due = Some(now.mono.after_ns(RETENTION_EVERY_NS));
        }
        for (key, slot) in gone {
            if is_planted(Bug::SayDropped) {
                continue;
            }
            if !self.drop_partition(now, key, slot) {
                return;
            }
        }
        if is_all {
            self.tombstones.seen = catalogue.version;
            self.say_dropped(effects);
        }
    }

    /// False: the journal cannot take it now.
    fn drop_partition(&mut self, now: Now, key: PartitionKey, slot: SlotId) -> bool {
        let body = PartitionDrop {
            reason: DropReason::StreamDeleted,
        };
        let placed = self.control_entry(now, key, slot, EntryKind::PartitionDrop, &body.to_bytes());
        let Ok(placed) = placed else {
            return false;
        };
        self.reclaim_at = Some(placed.end);
        self.tombstones.drops_end = placed.end;
        let mut groups = 0;
        if let Some(index) = self.partitions.find(key) {
            let producers = &mut self.partitions.at(index).durable.producers;
            let groups_now = producers.groups();
            producers.dropped(&mut self.producer_room.of(index));
            let partition = self.partitions.remove(key).expect("it was just found");
            // A checkpoint under way may have taken more of them than the last one that it knows of.
            groups = partition.producer_cells.max(groups_now);
            self.end_subscriptions(&partition, ErrorCode::UnknownStream);
        }
        self.retained.remove(&key);
        self.dropped.push((key, groups));
        self.metrics.partitions.set(self.partitions.len() as u64);
        true
    }

    /// Tells control what cannot come back any more. Called whenever more is worked off or proven.
    pub(crate) fn say_dropped(&mut self, effects: &mut Effects) {
        let proven = self.journal.proven_lsn();
        let tombstones = &mut self.tombstones;
        loop {
            if tombstones.seen > tombstones.said {
                tombstones
                    .unsaid
                    .get_or_insert((tombstones.seen, tombstones.drops_end));
            }
            let Some((version, _)) = tombstones.unsaid.take_if(|(_, end)| *end <= proven) else {
                return;
            };
            tombstones.said = version;
            effects.push(Effect::Post {
                to: Peer::Control,
                message: Message::Dropped(version),
            });
        }
    }
}
