//! What a shard does beside its clients: takes a new catalogue, starts its epochs, moves starts by retention, feeds
//! checkpoints in slices, and drains.

use crate::partition::{cell_key, producers_cell_key};
use crate::partitions::Index;
use crate::reads::read_buffer_bytes_max;
use crate::replay::{CELL_PARTITION, CELL_PRODUCERS, CELL_SLOT};
use crate::retention::Reason;
use crate::shard::{Phase, Shard};
use std::ops::Bound;
use std::sync::Arc;
use tiderace_base::catalogue::{Retention, Snapshot};
use tiderace_base::ids::{PartitionKey, ShardId, SlotId, StreamId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, DRAIN_NS_MAX};
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Effect, Effects, Fatal};
use tiderace_base::planted::{Bug, is_planted};
use tiderace_base::position::{Offset, SlotSeq};
use tiderace_base::time::Now;
use tiderace_replica::SlotState;
use tiderace_storage::{Class, EntryMeta, Placed, Refused};
use tiderace_wire::batch::Placement;
use tiderace_wire::entry::{
    EntryKind, EpochStart, NO_PARTITION, ProducerExpire, StartOffset, StartReason, encode_entry,
};
use tiderace_wire::frame::GoodbyeReason;

/// How often retention is looked at while any partition has one.
pub(crate) const RETENTION_EVERY_NS: u64 = 1_000_000_000;
/// Partitions looked at in one turn of retention, and dropped in one turn.
pub(crate) const PARTITIONS_PER_TURN: usize = 1024;
/// Cells fed to a checkpoint in one turn.
const CELLS_PER_TURN: usize = 256;
/// Bytes of a checkpoint that may wait for the disk.
const CHECKPOINT_BACKLOG_BYTES_MAX: usize = 1 << 20;

/// Streams that are stepped over before one is looked up.
const STREAMS_NEAR: usize = 16;
/// Looks at the partitions that grew for every segment that is filled.
const LOOKS_PER_SEGMENT: u64 = 4;

/// Partitions that may keep more bytes than they must.
#[derive(Debug, Default)]
pub(crate) struct Grown {
    pub(crate) partitions: Vec<Index>,
    /// Appended since somebody looked at them.
    pub(crate) bytes: u64,
}

/// What a checkpoint still has to be fed.
#[derive(Debug)]
pub(crate) struct Capture {
    partitions: std::vec::IntoIter<Index>,
    dropped: std::vec::IntoIter<(PartitionKey, u16)>,
    slots: std::ops::Range<u16>,
    base: bool,
}

/// A look at retention that takes several turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetentionRound {
    /// The last partition that was looked at.
    done: PartitionKey,
    /// Whether another look will be due.
    again: bool,
}

impl Shard {
    /// Takes a newer catalogue: leads what it says this shard leads, and drops what it says is deleted.
    pub(crate) fn take_catalogue(
        &mut self,
        now: Now,
        snapshot: Arc<Snapshot>,
        effects: &mut Effects,
    ) {
        if self
            .catalogue
            .as_ref()
            .is_some_and(|held| held.version >= snapshot.version)
        {
            return;
        }
        let first = self.catalogue.is_none();
        for (id, place) in snapshot.slots.iter().enumerate() {
            if place.leader != snapshot.node || place.shard != self.config.id {
                continue;
            }
            let slot = &mut self.slots[id].slot;
            let leads_already = match slot.state() {
                SlotState::Idle => false,
                SlotState::Chosen(epoch) | SlotState::Leading(epoch) => epoch == place.epoch,
            };
            if !leads_already && let Err(refused) = slot.choose(place.epoch) {
                let what = format!(
                    "the catalogue gives slot {id} epoch {}, but the journal has seen {refused:?}: one of the two is an old image",
                    place.epoch
                );
                return self.fail(Fatal::Corruption(what), effects);
            }
        }
        self.catalogue = Some(Arc::clone(&snapshot));
        self.bind_partitions(&snapshot);
        // A shard that was told to stop before it knew anything starts nothing any more.
        if first && self.phase == Phase::Waiting {
            self.start_epochs(now, effects);
        }
        self.drop_deleted(now, effects);
    }

    /// Tells every partition its stream and slot, and who of them has a retention.
    fn bind_partitions(&mut self, snapshot: &Snapshot) {
        let mut unbound = core::mem::take(&mut self.unbound);
        // Some may have been dropped since. In the catalogue's order, the next stream is near the last: a start binds all.
        unbound.retain(|index| self.partitions.get(*index).is_some());
        unbound.sort_by_cached_key(|index| self.partitions.at(*index).key);
        let mut streams = snapshot.streams.range(StreamId::new(0)..).peekable();
        let mut unknown = 0;
        for index in unbound {
            let partition = self.partitions.at(index);
            let id = partition.key.stream;
            for step in 0.. {
                if streams.peek().is_none_or(|(next, _)| **next >= id) {
                    break;
                }
                if step < STREAMS_NEAR {
                    streams.next();
                } else {
                    streams = snapshot.streams.range(id..).peekable();
                }
            }
            let stream = streams.peek().filter(|(next, _)| **next == id);
            match stream.map(|(_, stream)| *stream) {
                Some(stream) => {
                    partition.stream = Some(Arc::clone(stream));
                    partition.durable.slot =
                        tiderace_base::hash::slot_of(partition.key, stream.durability);
                    if stream.retention != Retention::default() {
                        self.retained.insert(partition.key);
                    }
                }
                None => {
                    // A tombstone's are dropped.
                    let deleted = snapshot.tombstones.contains_key(&id);
                    unknown += u64::from(!deleted);
                    self.unbound.push(index);
                }
            }
        }
        self.metrics.partitions_unknown.set(unknown);
    }

    /// Starts the epoch of every slot that holds anything. The others start with their first entry.
    fn start_epochs(&mut self, now: Now, effects: &mut Effects) {
        for id in 0..self.slots.len() {
            let slot = &self.slots[id].slot;
            if matches!(slot.state(), SlotState::Chosen(_)) && slot.end() > SlotSeq::ZERO {
                let id = SlotId::new(u16::try_from(id).expect("a slot's number fits its id"));
                if self.start_epoch(now, id).is_err() {
                    // No room yet: the slot stays fenced, and starts with its first entry.
                    break;
                }
            }
        }
        self.phase = Phase::Starting {
            until: self.journal.end_lsn(),
        };
        self.serve_when_started(now, effects);
    }

    /// Serves once every epoch-start is durable.
    pub(crate) fn serve_when_started(&mut self, now: Now, effects: &mut Effects) {
        if let Phase::Starting { until } = self.phase
            && self.journal.durable_lsn() >= until
        {
            self.phase = Phase::Serving;
            self.metrics.serving.set(1);
            effects.push(Effect::Serve);
            // Other shards may have begun to serve, and to forward, earlier.
            self.drive_forwarded(now, effects);
        }
    }

    /// Places the epoch-start entry of a slot that was given an epoch. Does nothing for a slot that leads already.
    ///
    /// # Errors
    /// When the journal cannot take it now.
    pub(crate) fn start_epoch(&mut self, now: Now, id: SlotId) -> Result<(), Refused> {
        let held = &mut self.slots[usize::from(id.get())];
        let SlotState::Chosen(_) = held.slot.state() else {
            return Ok(());
        };
        let node = self
            .catalogue
            .as_ref()
            .expect("an epoch comes with a catalogue")
            .node;
        let mut draft = self
            .journal
            .draft(Class::Control, BATCH_HEADER_BYTES + EpochStart::BYTES)?;
        let prior_epoch = held.slot.last_epoch();
        let (epoch, slot_seq) = held.slot.start_epoch();
        let body = EpochStart {
            epoch,
            boot: self.config.boot,
            node,
            prior_epoch,
            prior_end_seq: slot_seq,
        };
        let body = body.to_bytes();
        let mut header = encode_entry(EntryKind::EpochStart, NO_PARTITION, &body);
        let append_time_us = now.wall.as_us();
        header.place(Placement {
            base_offset: Offset::ZERO,
            slot_seq,
            epoch,
            slot: id,
            entry_kind: EntryKind::EpochStart,
            append_time_us,
        });
        draft.copy(header.bytes());
        draft.copy(&body);
        let meta = EntryMeta {
            key: None,
            slot: id,
            epoch,
            slot_seq,
            base_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            append_time_us,
        };
        held.applied = draft.commit(meta).end;
        held.dirty = true;
        Ok(())
    }

    /// Places a control entry of a partition's slot.
    pub(crate) fn control_entry(
        &mut self,
        now: Now,
        key: PartitionKey,
        slot: SlotId,
        kind: EntryKind,
        body: &[u8],
    ) -> Result<Placed, Refused> {
        self.start_epoch(now, slot)?;
        let held = &mut self.slots[usize::from(slot.get())];
        // A slot that this shard does not lead takes no entries: its leader decides.
        let Some((epoch, slot_seq)) = held.slot.next_place() else {
            return Err(Refused::Busy);
        };
        let mut draft = self
            .journal
            .draft(Class::Control, BATCH_HEADER_BYTES + body.len())?;
        let mut header = encode_entry(kind, key, body);
        let append_time_us = now.wall.as_us();
        header.place(Placement {
            base_offset: Offset::ZERO,
            slot_seq,
            epoch,
            slot,
            entry_kind: kind,
            append_time_us,
        });
        draft.copy(header.bytes());
        draft.copy(body);
        let meta = EntryMeta {
            key: None,
            slot,
            epoch,
            slot_seq,
            base_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            append_time_us,
        };
        let placed = draft.commit(meta);
        held.slot.placed(slot_seq);
        held.applied = placed.end;
        held.dirty = true;
        Ok(placed)
    }

    /// Expires a producer that must be forgotten before another can be remembered.
    ///
    /// # Errors
    /// When the journal cannot take the entry now.
    pub(crate) fn expire_producer(
        &mut self,
        now: Now,
        index: Index,
        body: ProducerExpire,
    ) -> Result<(), Refused> {
        let (key, slot) = {
            let partition = self.partitions.at(index);
            (partition.key, partition.durable.slot)
        };
        let placed =
            self.control_entry(now, key, slot, EntryKind::ProducerExpire, &body.to_bytes())?;
        let partition = self.partitions.at(index);
        let mut room = self.producer_room.of(index);
        partition
            .durable
            .producers
            .expire(body.producer_id, &mut room);
        partition.durable.applied = placed.end;
        self.touch(index);
        self.metrics.producers_expired_total.add(1);
        Ok(())
    }

    /// Notes that the next checkpoint must hold a partition.
    pub(crate) fn touch(&mut self, index: Index) {
        let partition = self.partitions.at(index);
        if !partition.dirty {
            partition.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Asks for a look at retention, unless one is asked for.
    pub(crate) fn want_retention(&mut self, now: Now) {
        if self.retention_due.is_none() {
            self.retention_due = Some(now.mono.after_ns(RETENTION_EVERY_NS));
        }
    }

    /// Moves the starts of partitions that keep more than they must, and lets segments go that nothing keeps.
    pub(crate) fn retention(&mut self, now: Now, effects: &mut Effects) {
        if self.retention_due.is_none_or(|due| due > now.mono) {
            return;
        }
        let round = self.retention_round.take();
        if round.is_none() && (self.reclaim_at.is_some() || !self.serving()) {
            self.retention_due = Some(now.mono.after_ns(RETENTION_EVERY_NS));
            return;
        }
        self.retention_due = None;
        let mut again = match round {
            Some(round) => round.again,
            None => {
                self.drop_deleted(now, effects);
                self.retention_due.is_some()
            }
        };
        let behind = round.map_or(Bound::Unbounded, |round| Bound::Excluded(round.done));
        let retained: Vec<PartitionKey> = self
            .retained
            .range((behind, Bound::Unbounded))
            .take(PARTITIONS_PER_TURN)
            .copied()
            .collect();
        let more = retained
            .last()
            .filter(|_| retained.len() == PARTITIONS_PER_TURN);
        let mut next = more.map(|done| RetentionRound { done: *done, again });
        let age_now_us = self.age_clock.now_us(now);
        for key in retained {
            let Some(index) = self.partitions.find(key) else {
                continue;
            };
            match self.retain(now, index, age_now_us) {
                Ok(another) => again |= another,
                Err(refused) if is_planted(Bug::ExitForNothing) => {
                    self.fail(Fatal::Corruption(format!("{refused:?}")), effects);
                    break;
                }
                // No room: the rest waits for the next time.
                Err(_) => {
                    again = true;
                    next = None;
                    break;
                }
            }
        }
        self.reclaim_when_durable(effects);
        self.retention_round = next.map(|round| RetentionRound { again, ..round });
        if self.retention_round.is_some() {
            self.retention_due = Some(now.mono);
        } else if again {
            self.want_retention(now);
        }
    }

    /// Moves one partition's start. True: another look will be due.
    ///
    /// # Errors
    /// When the journal cannot take the entry now.
    fn retain(&mut self, now: Now, index: Index, age_now_us: u64) -> Result<bool, Refused> {
        let partition = self.partitions.at(index);
        let Some(stream) = partition.stream.as_deref() else {
            return Ok(false);
        };
        let retention = stream.retention;
        let durable = &partition.durable;
        let kept = match retention {
            half if is_planted(Bug::TrimTooMuch) => Retention {
                bytes: half.bytes.div_ceil(2),
                age_ms: half.age_ms.div_ceil(2),
            },
            kept => kept,
        };
        let expired = durable.marks.expired(age_now_us, durable.bytes, kept);
        let Some((to, reason)) = expired else {
            return Ok(durable.marks.next_age_us(retention).is_some());
        };
        // What is not durable yet is never dropped: the marks that lie there wait.
        if to > partition.visible {
            return Ok(true);
        }
        let reason = match reason {
            Reason::Age => StartReason::Age,
            Reason::Bytes => StartReason::Bytes,
        };
        let (key, slot) = (partition.key, durable.slot);
        let body = StartOffset { offset: to, reason }.to_bytes();
        let placed = self.control_entry(now, key, slot, EntryKind::StartOffset, &body)?;
        self.reclaim_at = Some(placed.end);
        let partition = self.partitions.at(index);
        partition.durable.marks.forget_below(to);
        partition.durable.start = partition.durable.start.max(to);
        partition.durable.applied = placed.end;
        self.touch(index);
        Ok(true)
    }

    /// Looks at those that grew, once enough was appended: at full speed a disk takes several segments in the time between two
    /// looks at everything, and what is let go in lumps comes too late to be used again.
    pub(crate) fn retain_grown(&mut self, now: Now, effects: &mut Effects) {
        let enough = self.journal.segment_bytes() / LOOKS_PER_SEGMENT;
        if self.grown.bytes < enough || self.reclaim_at.is_some() || !self.serving() {
            return;
        }
        let age_now_us = self.age_clock.now_us(now);
        for _ in 0..PARTITIONS_PER_TURN {
            let Some(index) = self.grown.partitions.pop() else {
                self.grown.bytes = 0;
                break;
            };
            let Some(partition) = self.partitions.get_mut(index) else {
                continue;
            };
            partition.grown = false;
            // The look at everything comes to it, too, in its time.
            if self.retain(now, index, age_now_us).is_err() {
                self.grown.bytes = 0;
                break;
            }
        }
        self.reclaim_when_durable(effects);
    }

    /// Lets segments go that nothing keeps, once every start and drop that says so is durable: before that, a crash would
    /// bring the old start back over data that is gone.
    pub(crate) fn reclaim_when_durable(&mut self, effects: &mut Effects) {
        if self
            .reclaim_at
            .is_some_and(|end| end <= self.journal.durable_lsn())
        {
            self.reclaim_at = None;
            self.journal.reclaim(&self.partitions, effects);
        }
    }

    /// Begins to feed a checkpoint: everything when `base`, else what changed since the last one began.
    pub(crate) fn start_capture(&mut self, base: bool) {
        let dirty = core::mem::take(&mut self.dirty);
        let partitions = if base {
            self.partitions.iter().map(|(index, _)| index).collect()
        } else {
            dirty
        };
        let dropped = core::mem::take(&mut self.dropped);
        self.capture = Some(Capture {
            partitions: partitions.into_iter(),
            dropped: dropped.into_iter(),
            slots: 0..self.slots.len() as u16,
            base,
        });
    }

    /// Feeds the checkpoint under way a slice.
    pub(crate) fn feed_checkpoint(&mut self, effects: &mut Effects) {
        let Some(mut capture) = self.capture.take() else {
            return;
        };
        for _ in 0..CELLS_PER_TURN {
            if self.journal.checkpoint_backlog_bytes() >= CHECKPOINT_BACKLOG_BYTES_MAX {
                break;
            }
            self.scratch.clear();
            if let Some((key, groups)) = capture.dropped.next() {
                self.feed_drop(key, groups, effects);
            } else if let Some(index) = capture.partitions.next() {
                // One that only has subscribers is no state yet.
                let held = self.partitions.get(index);
                let Some(partition) = held.filter(|held| !held.durable.is_untouched()) else {
                    continue;
                };
                let (key, fed) = (partition.key, partition.producer_cells);
                partition.durable.encode(&mut self.scratch);
                self.journal.checkpoint_cell(
                    CELL_PARTITION,
                    &cell_key(key),
                    Some(&self.scratch),
                    effects,
                );
                // All cells of a partition in one step: together they are one state.
                let groups = partition.durable.producers.groups();
                for group in 0..groups.max(fed) {
                    self.scratch.clear();
                    let value = (group < groups).then(|| {
                        partition.durable.encode_producers(group, &mut self.scratch);
                        self.scratch.as_slice()
                    });
                    self.journal.checkpoint_cell(
                        CELL_PRODUCERS,
                        &producers_cell_key(key, group),
                        value,
                        effects,
                    );
                }
                let partition = self.partitions.at(index);
                partition.producer_cells = groups;
                partition.dirty = false;
            } else if let Some(id) = capture.slots.next() {
                let held = &mut self.slots[usize::from(id)];
                if held.dirty || (capture.base && held.slot.end() > SlotSeq::ZERO) {
                    held.dirty = false;
                    held.encode(&mut self.scratch);
                    self.journal.checkpoint_cell(
                        CELL_SLOT,
                        &id.to_be_bytes(),
                        Some(&self.scratch),
                        effects,
                    );
                }
            } else {
                // What was dropped while this was fed: its entries may lie on both sides of where replay begins.
                for (key, groups) in core::mem::take(&mut self.dropped) {
                    self.feed_drop(key, groups, effects);
                }
                self.journal.checkpoint_finish(effects);
                return;
            }
        }
        self.capture = Some(capture);
    }

    /// Removes the cells of a partition. A stream's id is never used again, so neither is a partition's key.
    fn feed_drop(&mut self, key: PartitionKey, groups: u16, effects: &mut Effects) {
        self.journal
            .checkpoint_cell(CELL_PARTITION, &cell_key(key), None, effects);
        for group in 0..groups {
            let key = producers_cell_key(key, group);
            self.journal
                .checkpoint_cell(CELL_PRODUCERS, &key, None, effects);
        }
    }

    /// Starts to end: nothing new is accepted, what was promised is finished: P-52.
    pub(crate) fn drain(&mut self, now: Now, effects: &mut Effects) {
        if matches!(self.phase, Phase::Draining { .. } | Phase::Ended) {
            return;
        }
        self.phase = Phase::Draining {
            deadline: now.mono.after_ns(DRAIN_NS_MAX),
        };
        self.metrics.serving.set(0);
        effects.push(Effect::Refuse);
        for id in self.connections.ids() {
            self.goodbye(now, id, GoodbyeReason::Drain, effects);
        }
    }

    /// Ends once nothing that was promised is left, to clients and to the other shards, or its readers took too long.
    pub(crate) fn finish_drain(&mut self, now: Now, effects: &mut Effects) {
        let Phase::Draining { deadline } = self.phase else {
            return;
        };
        let others = || {
            let all = (0..self.config.shards).map(ShardId::new);
            all.filter(|shard| *shard != self.config.id)
        };
        // The others still forward what their clients had sent, and wait for this shard to apply what they changed.
        if self.connections.is_empty() && !self.told_finished {
            effects.extend(others().map(|shard| Effect::Post {
                to: Peer::Shard(shard),
                message: Message::Finished,
            }));
            self.told_finished = true;
        }
        let kept = self.undurable.is_empty()
            && self.forwarded.is_empty()
            && self.journal.drained()
            && (self.connections.is_empty() || is_planted(Bug::ForgetReaders))
            && others().all(|shard| self.finished.contains(&shard));
        if kept || now.mono >= deadline {
            self.phase = Phase::Ended;
            effects.push(Effect::Stopped);
        }
    }

    /// Copies what the journal counts to where the admin port reads it.
    pub(crate) fn publish_gauges(&self) {
        let stats = self.journal.stats();
        let metrics = &self.metrics;
        metrics.batches_undurable.set(self.undurable.len() as u64);
        self.producer_room.publish(metrics);
        metrics.connections.set(self.connections.len() as u64);
        metrics
            .connections_waiting
            .set((self.waiting_for_room.len() + self.waiting_for_mesh.len()) as u64);
        let held = self.held.get();
        let under_way = self.journal.reads_under_way();
        assert!(
            held + under_way * read_buffer_bytes_max(self.config.read_bytes_max)
                <= self.config.held_bytes_max,
            "what was read is sent within the budget: {held} bytes beside {under_way} reads"
        );
        metrics.send_held_bytes.set(held as u64);
        metrics.journal_chunks_total.set(stats.chunks);
        metrics.journal_bytes_total.set(stats.chunk_bytes);
        metrics.journal_segments.set(stats.segments);
        metrics.journal_spares.set(stats.spares);
        metrics
            .journal_segments_recycled_total
            .set(stats.segments_recycled);
        metrics
            .journal_prewritten_bytes_total
            .set(stats.prewritten_bytes);
        metrics.journal_spares_failed_total.set(stats.spares_failed);
        metrics.journal_checkpoints_total.set(stats.checkpoints);
        metrics
            .journal_checkpoints_failed_total
            .set(stats.checkpoints_failed);
        metrics
            .journal_scrubbed_bytes_total
            .set(stats.scrubbed_bytes);
        metrics.journal_scrubs_total.set(stats.scrubs);
        metrics
            .journal_scrub_repairs_total
            .set(stats.scrub_repairs + stats.footers_rebuilt);
        metrics.journal_damaged.set(stats.damaged);
    }
}
