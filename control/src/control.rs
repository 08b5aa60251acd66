//! The control machine of one node: keeps its part of the zone's consensus in a journal of its own, applies what is committed to
//! the catalogue, and publishes snapshots of it. Whoever leads concludes what clients ask for, anywhere in the zone: a change is
//! applied to the leader's working state when it is proposed, to every node's catalogue when it is committed, and answered when
//! every shard of the node that was asked has applied a snapshot that holds it. A node by itself leads itself.
//!
//! Invariants: the catalogue is what the committed log makes, and no checkpoint holds more of it. Nothing is published before
//! this run's boot is committed: an epoch is never resumed. Nothing that was promised to another node leaves before it is
//! durable. A tombstone is cleared when every node has said, in its present run, that no shard of it holds anything of what was
//! deleted up to a version that is as young.

use crate::boot::ControlConfig;
use crate::catalogue::Catalogue;
use crate::catalogue::check_form;
use crate::checkpoint::{Captured, Checkpoint, Parts, apply};
use crate::desk::{Asker, Desk};
use crate::event::{CHANGE_EVENT_BYTES_MAX, EVENT_BYTES_MAX, Fact};
use crate::leading::{Batch, Concluded, Leading};
use crate::letter::{Hello, Letter, NotAdmitted};
use crate::links::Links;
use crate::log::{Ends, Log};
use crate::mail::Sending;
use crate::metrics::{Metrics, Values};
use crate::raft::{self, Members, Position, Raft, Restored, Role};
use crate::shards::Shards;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiderace_base::catalogue::{Change, Durability, Refusal};
use tiderace_base::ids::{BootId, DiskId, NodeId, PartitionKey, SlotId};
use tiderace_base::limits;
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Door, Effect, Effects, Event, Fatal, Machine};
use tiderace_base::position::{CatalogueVersion, Lsn, Offset, RaftIndex, Term};
use tiderace_base::time::{Mono, Now};
use tiderace_storage::{Alarm, Journal, Output, Refused, Starts};

/// The slot of the control log's entries, in its own journal.
pub(crate) const SLOT: SlotId = SlotId::new(0);
/// The body of an entry with clients' changes.
const ENTRY_BODY_BYTES_MAX: usize = 64 * limits::KIB;
/// What the largest entry leaves free in a chunk.
const CHUNK_SPARE_BYTES: usize = 2 * limits::BLOCK_BYTES;
/// Committed entries that are kept in memory, for those who lack them.
const ENTRIES_KEPT: u64 = 1024;

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
    pub(crate) node: NodeId,
    pub(crate) boot_id: BootId,
    durability: Durability,
    pub(crate) disks: Arc<[DiskId]>,
    pub(crate) entry_body_bytes_max: usize,
    pub(crate) phase: Phase,
    /// What this run's boot says.
    pub(crate) boot: Vec<Fact>,
    /// And it is committed.
    pub(crate) is_booted: bool,
    pub(crate) log: Log,
    pub(crate) raft: Raft,
    /// What the committed log makes, and how far that is.
    pub(crate) applied: Catalogue,
    pub(crate) applied_at: RaftIndex,
    pub(crate) leading: Option<Leading>,
    pub(crate) desk: Desk,
    pub(crate) shards: Shards,
    pub(crate) links: Links,
    serves_nodes: bool,
    /// Nodes that this one asks to be let in.
    pub(crate) asked: BTreeSet<NodeId>,
    pub(crate) ask_at: Mono,
    /// What other nodes' shards have dropped, each in a run of its node.
    pub(crate) dropped: BTreeMap<NodeId, (BootId, CatalogueVersion)>,
    /// What the leader was told that this node's have.
    pub(crate) dropped_told: Option<(NodeId, CatalogueVersion)>,
    /// States on their way to nodes that lack what the log no longer has.
    pub(crate) sending: BTreeMap<NodeId, Sending>,
    /// Who asked for one in this turn.
    pub(crate) states_wanted: Vec<NodeId>,
    /// A state that comes in.
    pub(crate) coming: Parts,
    /// One that is on its way to the disk.
    pub(crate) installing: Option<(Position, Members, Catalogue)>,
    /// A checkpoint that waits until no state is on its way to the disk: one in the middle of its parts would lose those before.
    checkpoint_wanted: Option<bool>,
    pub(crate) checkpoint: Checkpoint,
    is_read_only: bool,
    alarm: Alarm,
    metrics: Arc<Metrics>,
    wake: Option<Mono>,
    outputs: Vec<Output>,
}

/// What a start hands over.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) catalogue: Catalogue,
    pub(crate) restored: Restored,
    pub(crate) node: NodeId,
    pub(crate) facts: Vec<Fact>,
    pub(crate) hello: Option<Hello>,
    /// It is to be let into a zone and has nothing of it.
    pub(crate) is_new: bool,
    pub(crate) config: ControlConfig,
    pub(crate) chunk_bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Open,
    /// Asked to stop: takes no change, finishes those it took.
    Stopping,
    Stopped,
    /// The journal failed, or the zone refuses this node.
    Failed,
}

/// Counters and gauges of the control machine.
#[derive(Clone, Debug)]
pub struct Stats {
    /// The newest committed version.
    pub version: CatalogueVersion,
    /// The version that shards were last told.
    pub published: CatalogueVersion,
    /// Streams, with those that are not committed yet.
    pub streams: usize,
    /// Deleted streams whose data may still be on disk.
    pub tombstones: usize,
    /// Changes that are not concluded yet.
    pub waiting: usize,
    /// Changes that are concluded and not answered yet.
    pub unanswered: usize,
    /// Whether changes are refused because the disk is full.
    pub is_read_only: bool,
    /// Consensus' term.
    pub term: Term,
    /// Who leads the zone's catalogue, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Who votes, and who learns.
    pub members: Members,
    /// The control journal's own.
    pub journal: tiderace_storage::Stats,
}

/// The control log is no partition's data.
struct NoPartitions;

impl Starts for NoPartitions {
    fn start_of(&self, _: PartitionKey) -> Option<Offset> {
        None
    }
}

impl Control {
    pub(crate) fn new(opened: Opened, now: Now) -> Self {
        let config = opened.config;
        // In the smallest simulated journals a chunk is smaller than what an entry may be.
        let room = opened
            .chunk_bytes_max
            .saturating_sub(CHUNK_SPARE_BYTES + limits::BATCH_HEADER_BYTES);
        let links_config = config.links.as_ref();
        let mut links = Links::new(opened.hello, config.seed.rotate_left(17));
        let mut asked = BTreeSet::new();
        for (node, address) in links_config.iter().flat_map(|links| &links.peers) {
            links.learn(*node, *address);
            asked.insert(*node);
        }
        let raft_config = raft::Config {
            node: opened.node,
            boot: config.boot,
            timing: links_config.map_or_else(Default::default, |links| links.timing),
            seed: config.seed.rotate_left(31),
            is_new: opened.is_new,
        };
        let term = opened.restored.term;
        let applied_at = opened.restored.base.index;
        let raft = Raft::new(raft_config, opened.restored, now.mono);
        let mut this = Self {
            node: opened.node,
            boot_id: config.boot,
            durability: config.durability,
            disks: config.shards.iter().map(|shard| shard.disk).collect(),
            entry_body_bytes_max: room.clamp(CHANGE_EVENT_BYTES_MAX, ENTRY_BODY_BYTES_MAX),
            phase: Phase::Open,
            boot: opened.facts,
            is_booted: false,
            log: Log::new(opened.journal, term),
            raft,
            applied: opened.catalogue,
            applied_at,
            leading: None,
            desk: Desk::new(config.seed.rotate_left(43)),
            shards: Shards::new(config.shards.len()),
            links,
            serves_nodes: false,
            asked,
            ask_at: Mono::default(),
            dropped: BTreeMap::new(),
            dropped_told: None,
            sending: BTreeMap::new(),
            states_wanted: Vec::new(),
            coming: Parts::default(),
            installing: None,
            checkpoint_wanted: None,
            checkpoint: Checkpoint::default(),
            is_read_only: false,
            alarm: Alarm::default(),
            metrics: Arc::default(),
            wake: None,
            outputs: Vec::new(),
        };
        this.learn_addresses();
        this
    }

    /// This node, as the zone knows it.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The catalogue with everything that this node knows of: as a leader with what it proposed, committed or not. For
    /// inspection: shards read published snapshots.
    #[must_use]
    pub fn working(&self) -> &Catalogue {
        self.leading
            .as_ref()
            .map_or(&self.applied, Leading::working)
    }

    /// The catalogue that the committed log makes. For inspection.
    #[must_use]
    pub const fn committed(&self) -> &Catalogue {
        &self.applied
    }

    /// Who takes part in consensus, as far as this node knows.
    #[must_use]
    pub const fn members(&self) -> &Members {
        self.raft.members()
    }

    /// The term that this node leads, if it does.
    #[must_use]
    pub fn leads_term(&self) -> Option<Term> {
        (self.raft.role() == Role::Leader).then(|| self.raft.term())
    }

    /// What it counts about itself.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
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
            version: self.applied.version(),
            published: self.shards.posted(),
            streams: self.working().stream_count(),
            tombstones: self.working().tombstone_count(),
            waiting: self.desk.waiting.len(),
            unanswered: self.desk.unanswered(),
            is_read_only: self.is_read_only,
            term: self.raft.term(),
            leader: self.raft.leader(),
            members: self.raft.members().clone(),
            journal: self.log.journal.stats(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(crate) const fn leads(&self) -> bool {
        self.leading.is_some()
    }

    pub(crate) fn fail(&mut self, fatal: Fatal, effects: &mut Effects) {
        if self.phase != Phase::Failed {
            self.phase = Phase::Failed;
            effects.push(Effect::Fatal(fatal));
        }
    }

    /// Where the nodes of the catalogue are reached.
    pub(crate) fn learn_addresses(&mut self) {
        let nodes: Vec<NodeId> = self.applied.nodes().collect();
        for node in nodes {
            let place = self.applied.node(node).and_then(|it| it.place.as_ref());
            if let Some(control) = place.and_then(|place| place.control) {
                self.links.learn(node, control);
            }
        }
    }

    // --- Taking changes ---------------------------------------------------------------------------------------------

    pub(crate) fn ask(&mut self, asker: Asker, change: Change, effects: &mut Effects) {
        let room = self.is_open() && self.desk.has_room();
        // Form is checked here, before the change takes a place: it depends on no state that might be lost.
        let refusal = match check_form(&change) {
            Ok(()) if room => {
                self.desk.waiting.push_back((asker, change));
                return;
            }
            Ok(()) => Refusal::Busy,
            Err(refusal) => refusal,
        };
        let version = CatalogueVersion::ZERO;
        Desk::tell(asker, version, Err(refusal), &mut self.links, effects);
    }

    /// Proposes what can be: this run's boot, the waiting changes, tombstones to clear, new voters. True: something was.
    fn propose(&mut self, now: Now, effects: &mut Effects) -> bool {
        let before = self.raft.last();
        let boot = match self.boot_batch() {
            Ok(boot) => boot,
            Err(why) => {
                self.fail(Fatal::NotAdmitted(why.text()), effects);
                return false;
            }
        };
        if let Some(batch) = boot {
            if self.offer(batch, now).is_err() {
                return self.raft.last() != before;
            }
            if let Some(leading) = &mut self.leading {
                leading.has_booted = true;
            }
        }
        self.conclude_waiting(now, effects);
        if self.is_open() {
            self.clear_tombstones(now);
            self.promote(now);
        }
        self.raft.last() != before
    }

    fn conclude_waiting(&mut self, now: Now, effects: &mut Effects) {
        let is_led = self.leads() && self.raft.has_lease(now.mono);
        while is_led && !self.desk.waiting.is_empty() {
            let Some(leading) = &self.leading else { return };
            let last = self.raft.last().index;
            let Concluded {
                batch,
                taken,
                mut answers,
            } = leading.conclude(
                &self.desk.waiting,
                self.durability,
                self.entry_body_bytes_max,
                now.wall,
                last,
            );
            if !batch.facts.is_empty() {
                match self.offer(batch, now) {
                    Ok(index) => {
                        for answer in &mut answers {
                            answer.index = index;
                        }
                    }
                    Err(Refused::ReadOnly) => {
                        self.refuse_full(taken, now);
                        continue;
                    }
                    // Room, or the reason why there will be none, follows.
                    Err(Refused::Busy | Refused::Poisoned) => break,
                }
            }
            self.desk.waiting.drain(..taken);
            for answer in answers {
                self.desk.concluded(answer);
            }
        }
        if !self.leads() {
            let leader = self.raft.leader().filter(|it| self.links.is_up(*it));
            self.desk
                .forward(leader, now.mono, &mut self.links, effects);
        }
        if self.phase == Phase::Stopping && !is_led {
            self.desk.refuse_waiting(&mut self.links, effects);
        }
        self.desk
            .refuse_when_leaderless(is_led, now.mono, &mut self.links, effects);
    }

    /// Refuses the first waiting changes for want of space, but for those that need none.
    fn refuse_full(&mut self, count: usize, now: Now) {
        let Some(leading) = &self.leading else { return };
        let last = self.raft.last().index;
        for (asker, change) in self.desk.waiting.drain(..count).collect::<Vec<_>>() {
            let answer = leading.refuse_full(asker, &change, self.durability, now.wall, last);
            self.desk.concluded(answer);
        }
    }

    /// Clears tombstones of which nobody holds anything, one entry's worth: the write of it brings the next turn. What there
    /// is no room for waits, and costs nothing but its place.
    fn clear_tombstones(&mut self, now: Now) {
        let Some(leading) = self.leading.as_ref().filter(|_| !self.is_read_only) else {
            return;
        };
        let mut dropped = self.shards.dropped();
        let working = leading.working();
        for node in working.nodes().filter(|node| *node != self.node) {
            let place = working.node(node).and_then(|record| record.place.as_ref());
            // Who never started holds nothing.
            let Some(place) = place else { continue };
            let said = self.dropped.get(&node);
            let said = said.filter(|(boot, _)| *boot == place.boot);
            dropped = dropped.min(said.map_or(CatalogueVersion::ZERO, |(_, version)| *version));
        }
        if let Some(batch) = leading.clear(dropped, self.entry_body_bytes_max) {
            // What there is no room for is offered again.
            let _ = self.offer(batch, now);
        }
    }

    /// Proposes a batch that was concluded on the working state.
    ///
    /// # Errors
    /// Nothing has changed, and the batch can be concluded anew later.
    pub(crate) fn offer(&mut self, batch: Batch, now: Now) -> Result<RaftIndex, Refused> {
        self.log.would_take(batch.class, batch.body.len())?;
        let body = Bytes::copy_from_slice(&batch.body);
        let position = self
            .raft
            .propose(body, now.mono)
            .map_err(|_| Refused::Busy)?;
        if let Some(leading) = &mut self.leading {
            leading.proposed(batch, position);
        }
        Ok(position.index)
    }

    // --- Consensus --------------------------------------------------------------------------------------------------

    /// Does what consensus wants.
    pub(crate) fn drain_raft(&mut self, effects: &mut Effects) {
        for output in self.raft.take_outputs() {
            match output {
                raft::Output::Persist(record) => self.log.record(record),
                raft::Output::Send { to, message } => {
                    // Nothing that is short waits behind entries: a heartbeat least of all.
                    let is_urgent = !matches!(message, raft::Message::Append { .. });
                    self.links.say(to, &Letter::Raft(message), is_urgent);
                }
                raft::Output::Committed(end) => self.apply(end, effects),
                raft::Output::SnapshotWanted { to } => self.states_wanted.push(to),
                raft::Output::Became(role) => self.became(role, effects),
                raft::Output::Read { .. } => {}
            }
        }
    }

    fn became(&mut self, role: Role, effects: &mut Effects) {
        if role != Role::Leader {
            if self.leading.take().is_some() {
                self.desk
                    .stopped_leading(self.applied_at, &mut self.links, effects);
                self.sending.clear();
            }
            return;
        }
        self.desk.lose_forwarded(effects);
        self.dropped_told = None;
        let first = self.applied_at.get() + 1;
        let entries = (first..=self.raft.last().index.get())
            .filter_map(|index| self.raft.entry(RaftIndex::new(index)));
        match Leading::new(&self.applied, entries) {
            Ok(leading) => self.leading = Some(leading),
            Err(fault) => self.fail(Fatal::Corruption(fault.to_string()), effects),
        }
    }

    /// Applies what is committed.
    fn apply(&mut self, end: RaftIndex, effects: &mut Effects) {
        while self.applied_at < end {
            let index = self.applied_at.advance(1);
            let proposed = self.leading.as_mut().and_then(|it| it.committed(index));
            let mut booted = Vec::new();
            if let Some((state, facts)) = proposed {
                self.applied = state;
                for fact in &facts {
                    self.checkpoint.note(&self.applied, fact);
                    booted.extend(address_in(fact));
                }
            } else {
                let entry = self
                    .raft
                    .entry(index)
                    .expect("it is behind what is applied");
                let checkpoint = &mut self.checkpoint;
                let applied = apply(&mut self.applied, entry, |state, fact| {
                    checkpoint.note(state, fact);
                    booted.extend(address_in(fact));
                });
                if let Err(fault) = applied {
                    self.fail(Fatal::Corruption(fault.to_string()), effects);
                    return;
                }
            }
            for (node, address) in booted {
                self.links.learn(node, address);
            }
            self.applied_at = index;
        }
        self.notice_boot();
        if self.is_booted && !self.is_this_run() {
            self.fail(Fatal::NotAdmitted(NotAdmitted::Superseded.text()), effects);
            return;
        }
        if let Some(to) = end.get().checked_sub(ENTRIES_KEPT) {
            self.raft.compact(RaftIndex::new(to));
        }
    }

    pub(crate) fn notice_boot(&mut self) {
        self.is_booted |= self.is_this_run();
    }

    /// Whether the newest start of this node that is committed is this one.
    fn is_this_run(&self) -> bool {
        let record = self.applied.node(self.node);
        let place = record.and_then(|record| record.place.as_ref());
        place.is_some_and(|place| place.boot == self.boot_id)
    }

    // --- Events -----------------------------------------------------------------------------------------------------

    fn take_message(&mut self, from: Peer, message: Message, effects: &mut Effects) {
        match (from, message) {
            (Peer::Shard(_), Message::Change { origin, change }) => {
                self.ask(Asker::Here(origin), change, effects);
            }
            (Peer::Shard(shard), Message::Applied(version)) => {
                self.shards.has_applied(shard, version);
            }
            (Peer::Shard(shard), Message::Dropped(version)) => {
                self.shards.has_dropped(shard, version);
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
            self.shards.set_full(shard, is_full);
        }
    }

    fn take_durable(&mut self, durable: Lsn, now: Now) {
        for ends in self.log.take_durable(durable) {
            match ends {
                Ends::Record(seq) => self.raft.persisted(seq, now.mono),
                Ends::State(base) => self.install(base, now),
            }
        }
    }

    /// What consensus has now, for a checkpoint of the catalogue.
    fn captured(&self) -> Captured {
        let (base, members) = self
            .raft
            .members_at(self.applied_at)
            .expect("what is applied is not forgotten");
        let first = self.applied_at.get() + 1;
        let tail = (first..=self.raft.last().index.get())
            .filter_map(|index| self.raft.entry(RaftIndex::new(index)).cloned())
            .collect();
        Captured {
            base,
            term: self.raft.term(),
            vote: self.raft.voted_for(),
            members: Some(members),
            tail,
            lsn: self.log.journal.end_lsn(),
        }
    }

    fn begin_checkpoint(&mut self) {
        if self.phase != Phase::Open || self.installing.is_some() {
            return;
        }
        if let Some(is_base) = self.checkpoint_wanted.take() {
            let captured = self.captured();
            self.checkpoint.begin(&self.applied, &captured, is_base);
        }
    }

    fn take_outputs(&mut self, now: Now, effects: &mut Effects) {
        let mut outputs = core::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Durable(lsn) => self.take_durable(lsn, now),
                Output::CheckpointWanted { base } => self.checkpoint_wanted = Some(base),
                Output::CheckpointDone => self.checkpoint.done(),
                Output::ReadOnly(is_read_only) => self.is_read_only = is_read_only,
                Output::Damaged(damage) => self.alarm.ring(&damage),
                // The end of the turn tries again.
                Output::Room => {}
                // Every completion is followed by a call.
                Output::ReclaimMore => {}
                Output::Fatal(fatal) => self.fail(fatal, effects),
                Output::Read { .. } | Output::Time { .. } => {
                    unreachable!("control reads its journal at the start only")
                }
            }
        }
        self.outputs = outputs;
    }

    fn stop(&mut self, now: Now, effects: &mut Effects) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Stopping;
        self.checkpoint.give_up();
        self.checkpoint_wanted = None;
        if !self.is_booted {
            // Nothing was published in this run: there is nothing that a change could follow.
            let busy = Err(Refusal::Busy);
            for (asker, _) in core::mem::take(&mut self.desk.waiting) {
                let version = CatalogueVersion::ZERO;
                Desk::tell(asker, version, busy.clone(), &mut self.links, effects);
            }
        }
        self.desk.stop(effects);
        self.hand_over(now);
    }

    /// Leaves no gap behind: whoever is as far leads at once.
    fn hand_over(&mut self, now: Now) {
        if !self.leads() {
            return;
        }
        let voters = self.raft.members().voters.iter();
        let others = voters.filter(|node| **node != self.node && self.links.is_up(**node));
        let furthest = others.max_by_key(|node| self.raft.matched(**node)).copied();
        if let Some(furthest) = furthest {
            self.raft.transfer(furthest, now.mono);
        }
    }

    /// Whether consensus is told of the time: while it stops only as long as somebody waits for what comes of it.
    fn is_timed(&self) -> bool {
        self.is_open() || self.raft.is_handing_over() || !self.desk.is_empty()
    }

    fn is_finished(&self) -> bool {
        self.phase == Phase::Stopping
            && self.desk.is_empty()
            && self.log.is_idle()
            && !self.raft.is_handing_over()
            && self.links.is_quiet()
    }

    fn count(&self) {
        let members = self.raft.members();
        self.metrics.set(Values {
            leads: u64::from(self.leads()),
            has_leader: u64::from(self.raft.leader().is_some()),
            term: self.raft.term().get(),
            voters: members.voters.len() as u64,
            learners: members.learners.len() as u64,
            catalogue_version: self.applied.version().get(),
            catalogue_published: self.shards.posted().get(),
            links: self.links.count_up() as u64,
            changes_waiting: (self.desk.waiting.len() + self.desk.unanswered()) as u64,
        });
    }

    /// What the clock alone brings.
    fn next_wake(&self) -> Option<Mono> {
        let raft = self.raft.next_wake();
        let raft = raft.filter(|_| self.is_timed());
        [
            self.log.journal.next_wake(),
            raft,
            self.links.next_wake(),
            self.desk.next_wake(),
            self.asks_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Where a node is reached, if this says so.
const fn address_in(fact: &Fact) -> Option<(NodeId, std::net::SocketAddr)> {
    match fact {
        Fact::NodeBooted {
            node,
            control: Some(control),
            ..
        } => Some((*node, *control)),
        _ => None,
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
                self.log
                    .journal
                    .step(now, event, effects, &mut self.outputs);
                self.take_outputs(now, effects);
                // A call looks at a few segments, and each may need a read first: its completion comes here again.
                self.log.journal.reclaim(&NoPartitions, effects);
            }
            Event::Posted { from, message } => self.take_message(from, message, effects),
            Event::MeshFull(peer) => self.set_full(peer, true),
            Event::MeshOpen(peer) => self.set_full(peer, false),
            Event::Timer => {
                self.wake = None;
                self.log.journal.tick(now, effects);
            }
            Event::Stop => self.stop(now, effects),
            Event::Accepted {
                conn,
                from: Door::Peer(node),
                ..
            } => self.links.accepted(conn, node, now.mono, effects),
            Event::Connected { op, result } => {
                self.links.connected(op, result, now.mono, effects);
            }
            Event::Received { conn, data } => {
                self.links.received(conn, &data, now.mono, effects);
                self.hear(now, effects);
            }
            Event::Hangup { conn } => self.links.hung_up(conn, effects),
            Event::Sent {
                op, conn, alive, ..
            } => self.links.sent(op, conn, alive, effects),
            Event::Closed { conn } => self.links.closed(conn, now.mono),
            Event::Accepted {
                from: Door::Client, ..
            }
            | Event::Catalogue(_) => panic!("control has no clients and makes the catalogue"),
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        if matches!(self.phase, Phase::Stopped | Phase::Failed) {
            return;
        }
        if !self.serves_nodes && self.links.own().is_some() && self.is_open() {
            self.serves_nodes = true;
            effects.push(Effect::ServeNodes(true));
        }
        self.hear(now, effects);
        let is_due = self.raft.next_wake().is_some_and(|at| at <= now.mono);
        if is_due && self.is_timed() {
            self.raft.tick(now.mono);
        }
        self.drain_raft(effects);
        while self.propose(now, effects) {
            self.drain_raft(effects);
        }
        self.log.write(now);
        self.begin_checkpoint();
        self.checkpoint.feed(&mut self.log.journal, effects);
        self.log.journal.flush(now, effects);
        if self.phase == Phase::Open && self.is_booted {
            self.shards.publish(&self.applied, self.node, effects);
        }
        // When the node stops, shards may be gone: then committed is enough.
        let reached = match self.phase {
            Phase::Open => self.shards.applied(),
            Phase::Stopping => self.applied.version(),
            Phase::Stopped | Phase::Failed => return,
        };
        self.desk
            .release(self.applied_at, reached, now.mono, &mut self.links, effects);
        self.say_states(now);
        self.say_dropped();
        self.ask_zone(now);
        self.want_links(now);
        if self.phase == Phase::Stopping && self.desk.is_empty() && !self.raft.is_handing_over() {
            self.links.stop(effects);
        }
        self.links.finish_turn(now.mono, effects);
        self.count();
        if self.is_finished() {
            self.phase = Phase::Stopped;
            effects.push(Effect::Stopped);
            return;
        }
        let wanted = self.next_wake();
        if wanted != self.wake
            && let Some(at) = wanted
        {
            self.wake = wanted;
            effects.push(Effect::WakeAt(at));
        }
    }
}
