//! The control machine of one node: keeps the catalogue in a journal of its own, concludes what clients ask for, and
//! publishes snapshots. A change is applied to the working state when its entry is written into the journal's buffer; it is
//! published when the entry is durable, and answered when every shard has applied the snapshot that holds it. Only one
//! snapshot is under way at a time: what becomes durable meanwhile is in the next. A tombstone is cleared when every shard
//! has said, in this run, that it holds nothing of what was deleted up to a version that is as young.
//!
//! Invariants: the working state is exactly what has been appended, so that a checkpoint of it is covered by the journal's
//! end. Nothing is published before this run's boot is durable: an epoch is never resumed. Answers leave in the order of
//! their versions. Changes that wait, at whatever stage, are at most [`CHANGES_WAITING_MAX`]; beyond it they are refused
//! as busy.

use crate::catalogue::{Catalogue, Proposal, check_form};
use crate::checkpoint::{Checkpoint, LogEnd};
use crate::event::{CHANGE_EVENT_BYTES_MAX, EVENT_BYTES_MAX, Fact};
use std::collections::VecDeque;
use std::sync::Arc;
use tiderace_base::catalogue::{Change, Durability, Outcome, Refusal};
use tiderace_base::ids::{NodeId, PartitionKey, ShardId, SlotId, StreamId};
use tiderace_base::limits;
use tiderace_base::mesh::{Message, Origin, Peer};
use tiderace_base::operation::{Effect, Effects, Event, Machine};
use tiderace_base::position::{CatalogueVersion, Epoch, Lsn, Offset};
use tiderace_base::time::{Mono, Now};
use tiderace_storage::{Alarm, Class, EntryMeta, Journal, Output, Refused, Starts};
use tiderace_wire::batch::{BatchHeader, Placement};
use tiderace_wire::entry::{EntryKind, NO_PARTITION, encode_entry};

/// The slot of the control log's entries, in its own journal.
pub(crate) const SLOT: SlotId = SlotId::new(0);
/// Changes that may wait for their answer: a few commits' worth.
const CHANGES_WAITING_MAX: usize = 4 * limits::CATALOGUE_BATCH_MAX;
/// The body of an entry with clients' changes.
const ENTRY_BODY_BYTES_MAX: usize = 64 * limits::KIB;
/// What the largest entry leaves free in a chunk.
const CHUNK_SPARE_BYTES: usize = 2 * limits::BLOCK_BYTES;

const _: () = {
    assert!(
        ENTRY_BODY_BYTES_MAX <= limits::BODY_BYTES_MAX,
        "an entry of changes is an entry"
    );
    assert!(
        EVENT_BYTES_MAX * 2 <= limits::BODY_BYTES_MAX,
        "a zone, a node and its boot fit one entry"
    );
    assert!(
        CHANGE_EVENT_BYTES_MAX <= ENTRY_BODY_BYTES_MAX,
        "an entry holds at least one change"
    );
};

/// The control machine. Driven like a shard: events in, effects out, one turn after the other. Its driver ends a first turn
/// without any event, and delivers the timer that it asks for.
#[derive(Debug)]
pub struct Control {
    journal: Journal,
    node: NodeId,
    durability: Durability,
    entry_body_bytes_max: usize,
    phase: Phase,
    /// This run's boot, until it is appended.
    boot: Vec<Fact>,
    working: Catalogue,
    log: LogEnd,
    waiting: VecDeque<(Origin, Change)>,
    appended: VecDeque<Appended>,
    durable: CatalogueVersion,
    /// The newest durable state, until it is posted.
    unposted: Option<Catalogue>,
    posted: CatalogueVersion,
    shards: Vec<ShardLink>,
    /// The working state's tombstones, oldest first, with a version that has each.
    tombstones: VecDeque<(CatalogueVersion, StreamId)>,
    answers: VecDeque<Answer>,
    checkpoint: Checkpoint,
    is_read_only: bool,
    alarm: Alarm,
    wake: Option<Mono>,
    outputs: Vec<Output>,
}

/// What a start hands over.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) catalogue: Catalogue,
    pub(crate) log: LogEnd,
    pub(crate) node: NodeId,
    pub(crate) facts: Vec<Fact>,
    pub(crate) shard_count: usize,
    pub(crate) durability: Durability,
    pub(crate) chunk_bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// Asked to stop: takes no change, finishes those it took.
    Stopping,
    Stopped,
    /// The journal failed.
    Failed,
}

/// An entry that is not durable yet, and the state with it.
#[derive(Debug)]
struct Appended {
    end: Lsn,
    state: Catalogue,
}

/// An outcome that is true from this version on.
#[derive(Debug)]
struct Answer {
    version: CatalogueVersion,
    origin: Origin,
    outcome: Result<Outcome, Refusal>,
}

#[derive(Clone, Copy, Debug)]
struct ShardLink {
    applied: CatalogueVersion,
    /// It holds nothing of what was deleted up to here.
    dropped: CatalogueVersion,
    is_full: bool,
}

/// Counters and gauges of the control machine.
#[derive(Clone, Debug)]
pub struct Stats {
    /// The newest durable version.
    pub version: CatalogueVersion,
    /// The version that shards were last told.
    pub published: CatalogueVersion,
    /// Streams, with those that are not durable yet.
    pub streams: usize,
    /// Deleted streams whose data may still be on disk.
    pub tombstones: usize,
    /// Changes that are not appended yet.
    pub waiting: usize,
    /// Changes that are concluded and not answered yet.
    pub unanswered: usize,
    /// Whether changes are refused because the disk is full.
    pub is_read_only: bool,
    /// The control journal's own.
    pub journal: tiderace_storage::Stats,
}

/// A run of changes, concluded on a copy of the working state.
struct Batch {
    class: Class,
    taken: usize,
    state: Catalogue,
    facts: Vec<Fact>,
    body: Vec<u8>,
    answers: Vec<Answer>,
}

/// The control log is no partition's data.
struct NoPartitions;

impl Starts for NoPartitions {
    fn start_of(&self, _: PartitionKey) -> Option<Offset> {
        None
    }
}

impl Control {
    pub(crate) fn new(opened: Opened) -> Self {
        // In the smallest simulated journals a chunk is smaller than what an entry may be.
        let room = opened
            .chunk_bytes_max
            .saturating_sub(CHUNK_SPARE_BYTES + limits::BATCH_HEADER_BYTES);
        let link = ShardLink {
            applied: CatalogueVersion::ZERO,
            dropped: CatalogueVersion::ZERO,
            is_full: false,
        };
        let found = opened.catalogue.version();
        let tombstones = opened.catalogue.tombstones();
        let tombstones = tombstones.map(|stream| (found, stream)).collect();
        Self {
            journal: opened.journal,
            node: opened.node,
            durability: opened.durability,
            entry_body_bytes_max: room.clamp(CHANGE_EVENT_BYTES_MAX, ENTRY_BODY_BYTES_MAX),
            phase: Phase::Open,
            boot: opened.facts,
            durable: found,
            tombstones,
            working: opened.catalogue,
            log: opened.log,
            waiting: VecDeque::new(),
            appended: VecDeque::new(),
            unposted: None,
            posted: CatalogueVersion::ZERO,
            shards: vec![link; opened.shard_count],
            answers: VecDeque::new(),
            checkpoint: Checkpoint::default(),
            is_read_only: false,
            alarm: Alarm::default(),
            wake: None,
            outputs: Vec::new(),
        }
    }

    /// This node, as the zone knows it.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The catalogue with everything appended, durable or not. For inspection: shards read published snapshots.
    #[must_use]
    pub const fn working(&self) -> &Catalogue {
        &self.working
    }

    /// Rings when damage is found in the control journal.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        self.alarm.clone()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            version: self.durable,
            published: self.posted,
            streams: self.working.stream_count(),
            tombstones: self.working.tombstone_count(),
            waiting: self.waiting.len(),
            unanswered: self.answers.len(),
            is_read_only: self.is_read_only,
            journal: self.journal.stats(),
        }
    }

    // --- Taking changes ---------------------------------------------------------------------------------------------

    fn ask(&mut self, origin: Origin, change: Change, effects: &mut Effects) {
        let room = self.phase == Phase::Open
            && self.waiting.len() + self.answers.len() < CHANGES_WAITING_MAX;
        // Form is checked here, before the change takes a place: it depends on no state that might be lost.
        match check_form(&change) {
            Ok(()) if room => self.waiting.push_back((origin, change)),
            Ok(()) => answer(origin, Err(Refusal::Busy), effects),
            Err(refusal) => answer(origin, Err(refusal), effects),
        }
    }

    /// Appends the boot, then the waiting changes, for as long as the journal takes them.
    fn append(&mut self, now: Now) {
        if !self.boot.is_empty() && !self.append_boot(now) {
            return;
        }
        while !self.waiting.is_empty() {
            let batch = self.conclude(now);
            let taken = batch.taken;
            let appended = if batch.facts.is_empty() {
                Ok(())
            } else {
                let epoch = self.log.epoch;
                self.write(
                    batch.class,
                    epoch,
                    batch.state,
                    &batch.facts,
                    &batch.body,
                    now,
                )
            };
            match appended {
                Ok(()) => {
                    self.waiting.drain(..taken);
                    self.answers.extend(batch.answers);
                }
                Err(Refused::ReadOnly) => self.refuse_full(taken, now),
                // Room, or the reason why there will be none, follows.
                Err(Refused::Busy | Refused::Poisoned) => return,
            }
        }
        if self.phase == Phase::Open {
            self.clear_tombstones(now);
        }
    }

    /// Clears tombstones of which no shard holds anything, one entry's worth: the write of it brings the next turn. What
    /// there is no room for waits, and costs nothing but its place.
    fn clear_tombstones(&mut self, now: Now) {
        let dropped = self.shards.iter().map(|shard| shard.dropped).min();
        let dropped = dropped.unwrap_or(CatalogueVersion::ZERO);
        let oldest = self.tombstones.front();
        if self.is_read_only || oldest.is_none_or(|(version, _)| *version > dropped) {
            return;
        }
        let mut state = self.working.clone();
        let mut facts = Vec::new();
        let mut body = Vec::new();
        for (version, stream) in &self.tombstones {
            let is_full = facts.len() == limits::CATALOGUE_BATCH_MAX
                || body.len() + CHANGE_EVENT_BYTES_MAX > self.entry_body_bytes_max;
            if is_full || *version > dropped {
                break;
            }
            let fact = state
                .propose_cleared(*stream)
                .expect("what is queued here is a tombstone");
            conclude_fact(&mut state, fact.clone(), &mut body);
            facts.push(fact);
        }
        let epoch = self.log.epoch;
        let written = self.write(Class::Data, epoch, state, &facts, &body, now);
        if written.is_ok() {
            self.tombstones.drain(..facts.len());
        }
    }

    /// False: it has to wait.
    fn append_boot(&mut self, now: Now) -> bool {
        let mut state = self.working.clone();
        let mut body = Vec::new();
        for fact in &self.boot {
            conclude_fact(&mut state, fact.clone(), &mut body);
        }
        // A lone node elects itself at each start. Each boot moves each epoch by one at least, and those fit 32 bits.
        let epoch = self.log.epoch.advance(1);
        let facts = core::mem::take(&mut self.boot);
        match self.write(Class::Control, epoch, state, &facts, &body, now) {
            Ok(()) => true,
            Err(Refused::ReadOnly | Refused::Busy | Refused::Poisoned) => {
                self.boot = facts;
                false
            }
        }
    }

    /// Concludes a run of waiting changes that go into one entry. Deletions may use the space reserved for control
    /// entries, since they free some; creations may not. So a run holds one kind.
    fn conclude(&self, now: Now) -> Batch {
        let (_, first) = &self.waiting[0];
        let mut batch = Batch {
            class: class_of(first),
            taken: 0,
            state: self.working.clone(),
            facts: Vec::new(),
            body: Vec::new(),
            answers: Vec::new(),
        };
        for (origin, change) in &self.waiting {
            let is_full = batch.facts.len() == limits::CATALOGUE_BATCH_MAX
                || batch.body.len() + CHANGE_EVENT_BYTES_MAX > self.entry_body_bytes_max;
            if is_full || class_of(change) != batch.class {
                break;
            }
            let outcome = match batch.state.propose(change, self.durability, now.wall) {
                Ok(Proposal::Conclude(fact, outcome)) => {
                    conclude_fact(&mut batch.state, fact.clone(), &mut batch.body);
                    batch.facts.push(fact);
                    Ok(outcome)
                }
                Ok(Proposal::Already(outcome)) => Ok(outcome),
                Err(refusal) => Err(refusal),
            };
            // Also a refusal is true only of a state that lasts: it waits for its version like every other answer.
            batch.answers.push(Answer {
                version: batch.state.version(),
                origin: *origin,
                outcome,
            });
            batch.taken += 1;
        }
        assert!(batch.taken > 0, "the first change always fits");
        batch
    }

    /// Refuses the first waiting changes for want of space, but for those that need none.
    fn refuse_full(&mut self, count: usize, now: Now) {
        for (origin, change) in self.waiting.drain(..count) {
            let outcome = match self.working.propose(&change, self.durability, now.wall) {
                Ok(Proposal::Conclude(..)) => Err(Refusal::DiskFull),
                Ok(Proposal::Already(outcome)) => Ok(outcome),
                Err(refusal) => Err(refusal),
            };
            self.answers.push_back(Answer {
                version: self.working.version(),
                origin,
                outcome,
            });
        }
    }

    /// Appends one entry. Refused: nothing has changed.
    fn write(
        &mut self,
        class: Class,
        epoch: Epoch,
        state: Catalogue,
        facts: &[Fact],
        body: &[u8],
        now: Now,
    ) -> Result<(), Refused> {
        let sequence = self.log.sequence.advance(1);
        let append_time_us = now.wall.as_us();
        let header = entry_header(LogEnd { sequence, epoch }, body, append_time_us);
        let mut draft = self
            .journal
            .draft(class, limits::BATCH_HEADER_BYTES + body.len())?;
        draft.copy(header.bytes());
        draft.copy(body);
        let placed = draft.commit(EntryMeta {
            key: None,
            slot: SLOT,
            epoch,
            slot_seq: sequence,
            base_offset: Offset::ZERO,
            next_offset: Offset::ZERO,
            append_time_us,
        });
        self.log = LogEnd { sequence, epoch };
        self.working = state.clone();
        for fact in facts {
            self.checkpoint.note(&self.working, fact);
            if let Fact::StreamDeleted { stream } = fact {
                self.tombstones.push_back((self.working.version(), *stream));
            }
        }
        self.appended.push_back(Appended {
            end: placed.end,
            state,
        });
        Ok(())
    }

    // --- Publishing -------------------------------------------------------------------------------------------------

    fn take_durable(&mut self, durable: Lsn) {
        while self
            .appended
            .front()
            .is_some_and(|entry| entry.end <= durable)
        {
            let entry = self.appended.pop_front().expect("there is a front");
            assert!(
                entry.state.version() > self.durable,
                "entries become durable in order"
            );
            self.durable = entry.state.version();
            self.unposted = Some(entry.state);
        }
    }

    /// Posts the newest durable state, once the one before has been applied everywhere. A full mesh makes it wait; what
    /// becomes durable meanwhile goes with it.
    fn publish(&mut self, effects: &mut Effects) {
        let ready = self
            .shards
            .iter()
            .all(|shard| shard.applied == self.posted && !shard.is_full);
        if !ready {
            return;
        }
        let Some(state) = self.unposted.take() else {
            return;
        };
        self.posted = state.version();
        let snapshot = Arc::new(state.snapshot(self.node));
        for (_, shard) in self.shards.iter().zip(0..) {
            effects.push(Effect::Post {
                to: Peer::Shard(ShardId::new(shard)),
                message: Message::Snapshot(Arc::clone(&snapshot)),
            });
        }
    }

    /// Answers what every shard has applied. When the node stops, shards may be gone: then durable is enough.
    fn release(&mut self, effects: &mut Effects) {
        let applied = self.shards.iter().map(|shard| shard.applied).min();
        let reached = match self.phase {
            Phase::Open => applied.unwrap_or(CatalogueVersion::ZERO),
            Phase::Stopping => self.durable,
            Phase::Stopped | Phase::Failed => return,
        };
        while self
            .answers
            .front()
            .is_some_and(|answer| answer.version <= reached)
        {
            let ready = self.answers.pop_front().expect("there is a front");
            answer(ready.origin, ready.outcome, effects);
        }
    }

    // --- Events -----------------------------------------------------------------------------------------------------

    fn take_message(&mut self, from: Peer, message: Message, effects: &mut Effects) {
        match (from, message) {
            (Peer::Shard(_), Message::Change { origin, change }) => {
                self.ask(origin, change, effects);
            }
            (Peer::Shard(shard), Message::Applied(version)) => {
                assert!(version <= self.posted, "a shard applies what was posted");
                let link = &mut self.shards[usize::from(shard.get())];
                link.applied = link.applied.max(version);
            }
            (Peer::Shard(shard), Message::Dropped(version)) => {
                assert!(version <= self.posted, "a shard works off what was posted");
                let link = &mut self.shards[usize::from(shard.get())];
                link.dropped = link.dropped.max(version);
            }
            (Peer::Control, Message::Change { .. } | Message::Applied(_) | Message::Dropped(_))
            | (
                _,
                Message::Produce { .. }
                | Message::Produced { .. }
                | Message::Finished
                | Message::Changed { .. }
                | Message::Snapshot(_),
            ) => panic!("this message from {from:?} is not for control"),
        }
    }

    fn set_full(&mut self, peer: Peer, is_full: bool) {
        if let Peer::Shard(shard) = peer {
            self.shards[usize::from(shard.get())].is_full = is_full;
        }
    }

    fn take_outputs(&mut self, effects: &mut Effects) {
        let mut outputs = core::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Durable(lsn) => self.take_durable(lsn),
                Output::CheckpointWanted { base } => {
                    if self.phase == Phase::Open {
                        self.checkpoint.begin(&self.working, self.log, base);
                    }
                }
                Output::CheckpointDone => self.checkpoint.done(),
                Output::ReadOnly(is_read_only) => self.is_read_only = is_read_only,
                Output::Damaged(damage) => self.alarm.ring(&damage),
                // The end of the turn tries again.
                Output::Room => {}
                // Every completion is followed by a call.
                Output::ReclaimMore => {}
                Output::Fatal(fatal) => {
                    self.phase = Phase::Failed;
                    effects.push(Effect::Fatal(fatal));
                }
                Output::Read { .. } | Output::Time { .. } => {
                    unreachable!("control reads its journal at the start only")
                }
            }
        }
        self.outputs = outputs;
    }

    fn stop(&mut self, effects: &mut Effects) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Stopping;
        self.checkpoint.give_up();
        if !self.boot.is_empty() {
            // Nothing was published in this run: there is nothing that a change could follow.
            self.boot.clear();
            for (origin, _) in self.waiting.drain(..) {
                answer(origin, Err(Refusal::Busy), effects);
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Stopping
            && self.waiting.is_empty()
            && self.appended.is_empty()
            && self.answers.is_empty()
            && self.journal.drained()
    }
}

impl Machine for Control {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if matches!(self.phase, Phase::Stopped | Phase::Failed) {
            return;
        }
        match event {
            Event::Written { .. }
            | Event::ReadDone { .. }
            | Event::Synced { .. }
            | Event::Prepared { .. }
            | Event::Removed { .. } => {
                self.journal.step(now, event, effects, &mut self.outputs);
                self.take_outputs(effects);
                // A call looks at a few segments, and each may need a read first: its completion comes here again.
                self.journal.reclaim(&NoPartitions, effects);
            }
            Event::Posted { from, message } => self.take_message(from, message, effects),
            Event::MeshFull(peer) => self.set_full(peer, true),
            Event::MeshOpen(peer) => self.set_full(peer, false),
            Event::Timer => {
                self.wake = None;
                self.journal.tick(now, effects);
            }
            Event::Stop => self.stop(effects),
            Event::Accepted { .. }
            | Event::Connected { .. }
            | Event::Received { .. }
            | Event::Hangup { .. }
            | Event::Sent { .. }
            | Event::Closed { .. }
            | Event::Catalogue(_) => panic!("control has no connection and makes the catalogue"),
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        if matches!(self.phase, Phase::Stopped | Phase::Failed) {
            return;
        }
        self.append(now);
        self.checkpoint.feed(&mut self.journal, effects);
        self.journal.flush(now, effects);
        if self.phase == Phase::Open {
            self.publish(effects);
        }
        self.release(effects);
        if self.is_finished() {
            self.phase = Phase::Stopped;
            effects.push(Effect::Stopped);
            return;
        }
        let wanted = self.journal.next_wake();
        if wanted != self.wake
            && let Some(at) = wanted
        {
            self.wake = wanted;
            effects.push(Effect::WakeAt(at));
        }
    }
}

/// The header of the control log's entry at this place.
pub(crate) fn entry_header(place: LogEnd, body: &[u8], append_time_us: u64) -> BatchHeader {
    let mut header = encode_entry(EntryKind::Catalogue, NO_PARTITION, body);
    header.place(Placement {
        base_offset: Offset::ZERO,
        slot_seq: place.sequence,
        epoch: place.epoch,
        slot: SLOT,
        entry_kind: EntryKind::Catalogue,
        append_time_us,
    });
    header
}

/// Applies a fact that was concluded on `state`, and appends its event.
fn conclude_fact(state: &mut Catalogue, fact: Fact, body: &mut Vec<u8>) {
    let event = state.event(fact);
    state
        .apply(&event)
        .expect("what was concluded on a state fits it");
    event.encode(body);
}

/// Deletions free space and may use what is reserved for that.
const fn class_of(change: &Change) -> Class {
    match change {
        Change::CreateStream { .. } => Class::Data,
        Change::DeleteStream(_) => Class::Control,
    }
}

fn answer(origin: Origin, outcome: Result<Outcome, Refusal>, effects: &mut Effects) {
    effects.push(Effect::Post {
        to: Peer::Shard(origin.shard),
        message: Message::Changed { origin, outcome },
    });
}
