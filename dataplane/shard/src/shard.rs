//! The shard machine: owns its journal, its partitions, its slots and its connections, and takes one event at a time.
//! Knows no socket, no file and no clock. What it does with each kind of event stands in the rooms beside; here is its
//! state, its life (wait for the catalogue, start its epochs, serve, drain) and the order of a turn.

use crate::connection::Connections;
use crate::maintenance::Grown;
use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::partitions::{Index, Partitions};
use crate::producer_room::{ProducerBounds, ProducerRoom};
use crate::reads::{Reads, read_buffer_bytes_max};
use crate::replay::{HeldSlot, Rebuilt};
use crate::retention::AgeClock;
use crate::sending::{HeldBytes, SendQueue};
use crate::tombstones::Tombstones;
use crate::undurable::Undurable;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiderace_base::catalogue::Snapshot;
use tiderace_base::ids::{BootId, ConnectionId, PartitionKey, ShardId};
use tiderace_base::mesh::{Message, Origin, Peer};
use tiderace_base::operation::{Door, Effect, Effects, Event, Fatal, Machine, OpIds};
use tiderace_base::position::Lsn;
use tiderace_base::time::{Mono, Now};
use tiderace_storage::{Alarm, Journal, Mark, OpenError, Output};

/// What a shard is told.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub id: ShardId,
    /// The node's run.
    pub boot: BootId,
    /// How many shards the node has.
    pub shards: u16,
    /// Connections served at once; one more is told so, and ended.
    pub connections_max: usize,
    /// Bytes of one cold read.
    pub read_bytes_max: usize,
    /// Cold reads under way at once, wanted or not: at least 2.
    pub reads_max: usize,
    /// Bytes of the buffers of all cold reads, those under way and those whose bytes are being sent: at least 2 of
    /// [`read_buffer_bytes_max`](crate::read_buffer_bytes_max).
    pub held_bytes_max: usize,
    /// Subscriptions of all connections together.
    pub subscriptions_max: usize,
    /// Bytes of one send to a subscriber.
    pub send_bytes_max: usize,
    /// What is remembered of producers.
    pub producers: ProducerBounds,
}

/// Why a shard could not be opened.
#[derive(Debug)]
pub enum ShardError {
    /// Its journal could not be.
    Journal(OpenError),
    /// Its journal's bytes are sound, but what they say contradicts itself.
    Contradiction(String),
}

impl core::fmt::Display for ShardError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Journal(error) => write!(f, "{error}"),
            Self::Contradiction(what) => {
                write!(
                    f,
                    "the journal contradicts itself: {what}; nothing is served from it; restore it from a copy and report this"
                )
            }
        }
    }
}

impl core::error::Error for ShardError {}

/// Where a shard is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It has recovered and waits for the first catalogue.
    Waiting,
    /// Its epoch-starts are on their way to the disk.
    Starting {
        /// It serves once the journal is durable up to here.
        until: Lsn,
    },
    /// It serves.
    Serving,
    /// It finishes what it promised.
    Draining {
        /// When it stops waiting, for slow readers above all.
        deadline: Mono,
    },
    /// It has stopped, or failed: it does nothing any more.
    Ended,
}

/// A produce that another shard forwarded and that has to wait.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) origin: Origin,
    pub(crate) control: Bytes,
    pub(crate) batch: Vec<Bytes>,
}

impl Forwarded {
    /// What it takes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.iter().map(Bytes::len).sum()
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) metrics: Arc<Metrics>,
    alarm: Alarm,
    pub(crate) phase: Phase,
    pub(crate) catalogue: Option<Arc<Snapshot>>,
    pub(crate) journal: Journal,
    pub(crate) slots: Vec<HeldSlot>,
    pub(crate) partitions: Partitions,
    pub(crate) producer_room: ProducerRoom,
    pub(crate) connections: Connections,
    pub(crate) undurable: Undurable,
    pub(crate) reads: Reads,
    /// Connections whose next frame waits for room in the journal, in order.
    pub(crate) waiting_for_room: VecDeque<ConnectionId>,
    /// Connections whose next frame waits for room in the mesh.
    pub(crate) waiting_for_mesh: VecDeque<ConnectionId>,
    /// Produces of other shards that wait for room in the journal.
    pub(crate) forwarded: VecDeque<Forwarded>,
    /// Batches that were forwarded to other shards, with the credit that each spent.
    pub(crate) forwarded_out: BTreeMap<Origin, u64>,
    /// Sends of slices of write buffers.
    pub(crate) pinning: SendQueue,
    /// Sends of what was read.
    pub(crate) holding: SendQueue,
    /// What was read and is about to be sent, or being sent.
    pub(crate) held: HeldBytes,
    /// Partitions whose stream no catalogue has named yet.
    pub(crate) unbound: Vec<Index>,
    pub(crate) tombstones: Tombstones,
    /// Partitions whose subscribers are about to be woken.
    pub(crate) woken: Vec<Index>,
    /// Bytes of what stands in `forwarded`.
    pub(crate) forwarded_bytes: usize,
    /// Peers to which the mesh is full.
    pub(crate) mesh_full: BTreeSet<Peer>,
    /// Shards of this node that ask nothing of this one any more.
    pub(crate) finished: BTreeSet<ShardId>,
    /// Whether the others were told that this one asks nothing any more.
    pub(crate) told_finished: bool,
    /// Partitions that the next checkpoint must hold.
    pub(crate) dirty: Vec<Index>,
    /// Partitions dropped since the last checkpoint.
    pub(crate) dropped: Vec<(PartitionKey, u16)>,
    /// What the checkpoint under way still has to be fed.
    pub(crate) capture: Option<crate::maintenance::Capture>,
    /// When retention is looked at next.
    pub(crate) retention_due: Option<Mono>,
    /// The look at retention that goes on in the next turn.
    pub(crate) retention_round: Option<crate::maintenance::RetentionRound>,
    pub(crate) age_clock: AgeClock,
    /// Segments may be let go once the journal is durable up to here.
    pub(crate) reclaim_at: Option<Lsn>,
    /// Partitions whose stream bounds what is kept.
    pub(crate) retained: BTreeSet<PartitionKey>,
    /// Those of them that were appended to since somebody looked.
    pub(crate) grown: Grown,
    pub(crate) ops: OpIds,
    wake_at: Option<Mono>,
    outputs: Vec<Output>,
    /// Reused for encoding cells.
    pub(crate) scratch: Vec<u8>,
}

impl Shard {
    /// A shard over a journal that was begun, with what was rebuilt from it.
    ///
    /// # Panics
    /// When there is no room for two cold reads.
    pub(crate) fn new(config: ShardConfig, rebuilt: Rebuilt, journal: Journal) -> Self {
        assert!(
            config.held_bytes_max >= 2 * read_buffer_bytes_max(config.read_bytes_max),
            "a read may be under way while another is being sent"
        );
        let metrics = Arc::new(Metrics::default());
        metrics.partitions.set(rebuilt.partitions.len() as u64);
        rebuilt.producer_room.publish(&metrics);
        // What was replayed is newer than the checkpoint that was found.
        let dirty = rebuilt
            .partitions
            .iter()
            .filter(|(_, partition)| partition.dirty)
            .map(|(index, _)| index)
            .collect();
        let unbound = rebuilt.partitions.iter().map(|(index, _)| index).collect();
        Self {
            metrics,
            alarm: Alarm::default(),
            phase: Phase::Waiting,
            catalogue: None,
            journal,
            slots: rebuilt.slots,
            partitions: rebuilt.partitions,
            producer_room: rebuilt.producer_room,
            connections: Connections::default(),
            undurable: Undurable::default(),
            reads: Reads::new(config.reads_max),
            config,
            waiting_for_room: VecDeque::new(),
            waiting_for_mesh: VecDeque::new(),
            forwarded: VecDeque::new(),
            forwarded_out: BTreeMap::new(),
            pinning: SendQueue::default(),
            holding: SendQueue::default(),
            held: HeldBytes::default(),
            unbound,
            tombstones: Tombstones::default(),
            woken: Vec::new(),
            forwarded_bytes: 0,
            mesh_full: BTreeSet::new(),
            finished: BTreeSet::new(),
            told_finished: false,
            dirty,
            dropped: Vec::new(),
            capture: None,
            retention_due: None,
            retention_round: None,
            age_clock: AgeClock::default(),
            reclaim_at: None,
            retained: BTreeSet::new(),
            grown: Grown::default(),
            ops: OpIds::default(),
            wake_at: None,
            outputs: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// What the shard counts; may be read from any thread.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// What recoveries found out that peers must know.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        self.journal.marks()
    }

    /// Rings when damage is found in what the shard keeps.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        self.alarm.clone()
    }

    /// Every partition held, for whoever inspects a shard from outside: key, start, visible end, end.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().map(|(_, partition)| partition)
    }

    /// Ends the shard's life: nothing is acknowledged any more.
    pub(crate) fn fail(&mut self, reason: Fatal, effects: &mut Effects) {
        self.phase = Phase::Ended;
        self.metrics.serving.set(0);
        effects.push(Effect::Fatal(reason));
    }

    pub(crate) fn serving(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Draining { .. })
    }

    fn take_outputs(&mut self, now: Now, effects: &mut Effects) {
        let mut outputs = core::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Durable(lsn) => self.became_durable(now, lsn, effects),
                Output::Read { id, result } => self.read_done(id, result, effects),
                Output::Time { id, result } => self.time_found(id, result),
                Output::CheckpointWanted { base } => self.start_capture(base),
                Output::CheckpointDone => {}
                Output::ReadOnly(read_only) => {
                    self.metrics.read_only.set(u64::from(read_only));
                    if !read_only {
                        self.room(now, effects);
                    }
                }
                Output::Room => self.room(now, effects),
                Output::Damaged(damage) => {
                    // Whoever hears of it may ask at once how much there is.
                    self.metrics
                        .journal_damaged
                        .set(self.journal.stats().damaged);
                    self.alarm.ring(&damage);
                }
                Output::ReclaimMore => {
                    self.reclaim_at.get_or_insert(self.journal.durable_lsn());
                    self.reclaim_when_durable(effects);
                }
                Output::Fatal(reason) => self.fail(reason, effects),
            }
        }
        self.outputs = outputs;
    }

    fn posted(&mut self, now: Now, from: Peer, message: Message, effects: &mut Effects) {
        match message {
            Message::Snapshot(snapshot) => {
                let version = snapshot.version;
                self.take_catalogue(now, snapshot, effects);
                effects.push(Effect::Post {
                    to: from,
                    message: Message::Applied(version),
                });
            }
            Message::Produce {
                origin,
                control,
                batch,
            } => {
                self.take_forwarded(
                    now,
                    Forwarded {
                        origin,
                        control,
                        batch,
                    },
                    effects,
                );
            }
            Message::Produced { origin, ack } => self.forwarded_ack(origin, &ack),
            Message::Changed { origin, outcome } => self.changed(origin, outcome),
            Message::Finished => match from {
                Peer::Shard(shard) => {
                    self.finished.insert(shard);
                }
                Peer::Control => unreachable!("control asks nothing of a shard"),
            },
            // Only control takes these; a shard that got one would have been posted another's mail.
            Message::Change { .. } | Message::Applied(_) | Message::Dropped(_) => {
                unreachable!("these go to control only")
            }
        }
    }

    /// Asks for the next time that anything is due, if it changed.
    fn ask_wake(&mut self, effects: &mut Effects) {
        let drain = match self.phase {
            Phase::Draining { deadline } => Some(deadline),
            Phase::Waiting | Phase::Starting { .. } | Phase::Serving | Phase::Ended => None,
        };
        let due = [
            self.journal.next_wake(),
            self.connections.next_deadline(),
            self.connections.next_finish(),
            self.retention_due,
            self.next_slow_send(),
            drain,
        ];
        let wake_at = due.into_iter().flatten().min();
        if wake_at != self.wake_at {
            self.wake_at = wake_at;
            effects.push(Effect::WakeAt(wake_at.unwrap_or(Mono::from_ns(u64::MAX))));
        }
    }
}

impl Machine for Shard {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        if self.phase == Phase::Ended {
            return;
        }
        match event {
            Event::Written { .. }
            | Event::ReadDone { .. }
            | Event::Synced { .. }
            | Event::Prepared { .. }
            | Event::Removed { .. } => {
                let mut outputs = core::mem::take(&mut self.outputs);
                self.journal.step(now, event, effects, &mut outputs);
                self.outputs = outputs;
                self.take_outputs(now, effects);
            }
            Event::Accepted {
                conn,
                peer,
                from: Door::Client,
            } => self.accepted(now, conn, peer, effects),
            Event::Accepted {
                from: Door::Peer(_),
                ..
            }
            | Event::Connected { .. } => {
                panic!("a shard lets no node in and connects to none")
            }
            Event::Received { conn, data } => self.received(now, conn, data, effects),
            Event::Hangup { conn } => self.hung_up(conn, effects),
            Event::Sent {
                op,
                conn,
                sent_bytes,
                alive,
            } => self.sent(now, conn, op, sent_bytes, alive, effects),
            Event::Closed { conn } => self.closed(conn),
            Event::Posted { from, message } => self.posted(now, from, message, effects),
            Event::MeshFull(peer) => {
                self.mesh_full.insert(peer);
            }
            Event::MeshOpen(peer) => {
                self.mesh_full.remove(&peer);
                self.mesh_room(now, effects);
            }
            Event::Catalogue(snapshot) => self.take_catalogue(now, snapshot, effects),
            Event::Timer => {
                self.wake_at = None;
                self.journal.tick(now, effects);
                self.handshakes_due(now, effects);
                self.finishes_due(now, effects);
                self.retention(now, effects);
            }
            Event::Stop => self.drain(now, effects),
        }
    }

    fn finish_turn(&mut self, now: Now, effects: &mut Effects) {
        if self.phase == Phase::Ended {
            return;
        }
        self.metrics.turns_total.add(1);
        self.feed_checkpoint(effects);
        self.end_slow_sends(now, effects);
        self.read_waiting(effects);
        self.retain_grown(now, effects);
        // The disk first: it takes longest. Then whoever has something to be told.
        self.journal.flush(now, effects);
        self.send_ready(now, effects);
        self.finish_drain(now, effects);
        self.publish_gauges();
        self.ask_wake(effects);
    }
}
