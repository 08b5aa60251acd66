//! One node's control machine in a small world: its disk, its clock and its shards, all decided by a seed. A shard here is
//! only what control can see of one: it applies snapshots when the test lets it, and collects answers.

use crate::disk::MemoryDisk;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiderace_base::catalogue::{Change, Durability, Outcome, Refusal, Retention, Snapshot};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{
    BootId, ConnectionId, DiskId, MessageId, NodeId, ShardId, StreamId, TenantId,
};
use tiderace_base::limits::{BLOCK_BYTES, KIB};
use tiderace_base::mesh::{Message, Origin, Peer};
use tiderace_base::operation::{Effect, Effects, Event, Fatal, Machine};
use tiderace_base::position::Epoch;
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_control::{Control, ControlConfig, ControlError, ControlRecovery, ShardJournal};
use tiderace_storage::Settings;

pub(crate) type Answer = Result<Outcome, Refusal>;

/// The world. What outlives a power loss is the disk and what the test remembers.
pub(crate) struct World {
    pub(crate) disk: MemoryDisk,
    pub(crate) prng: Prng,
    pub(crate) config: ControlConfig,
    pub(crate) control: Option<Control>,
    pub(crate) shards: Vec<ShardTwin>,
    /// Operations without their completion, in the order in which they were asked for.
    pub(crate) flying: Vec<Effect>,
    /// Answers by request.
    pub(crate) answers: BTreeMap<u64, Answer>,
    pub(crate) is_stopped: bool,
    /// Why the machine cannot go on.
    pub(crate) fatal: Option<Fatal>,
    /// Everything that the machine wanted, as text: two runs of a seed give the same.
    pub(crate) trace: Vec<String>,
    /// Every stream that was ever in a posted snapshot, by its path.
    pub(crate) published: BTreeMap<StreamId, Arc<str>>,
    asked_to_delete: BTreeSet<StreamId>,
    boots: u64,
    requests: u64,
    now: Now,
    wake: Option<Mono>,
}

/// What control sees of a shard.
#[derive(Default)]
pub(crate) struct ShardTwin {
    pub(crate) inbox: VecDeque<Arc<Snapshot>>,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
}

impl World {
    pub(crate) fn new(seed: u64, shard_count: usize) -> Self {
        let shards = (0..shard_count)
            .map(|shard| ShardJournal {
                address: ([127, 0, 0, 1], 7001 + shard as u16).into(),
                disk: DiskId::new(0xd0 + shard as u128),
                boot_count: 0,
                epoch_max: Epoch::ZERO,
            })
            .collect();
        let mut journal = Settings::serving(NodeId::new(1), BootId::new(1), 0, 1, 0);
        journal.segment_bytes = 64 * KIB as u64;
        journal.chunk_bytes_max = 8 * BLOCK_BYTES;
        journal.region_bytes = 16 * BLOCK_BYTES;
        journal.checkpoint_every_bytes = 64 * KIB as u64;
        Self {
            disk: MemoryDisk::default(),
            prng: Prng::new(seed),
            config: ControlConfig {
                node: None,
                boot: BootId::new(0),
                shared: ([127, 0, 0, 1], 7000).into(),
                shards,
                durability: Durability::Local,
                zone: None,
                links: None,
                seed: 0,
                journal,
            },
            control: None,
            shards: Vec::new(),
            flying: Vec::new(),
            answers: BTreeMap::new(),
            is_stopped: false,
            fatal: None,
            trace: Vec::new(),
            published: BTreeMap::new(),
            asked_to_delete: BTreeSet::new(),
            boots: 0,
            requests: 0,
            now: Now {
                mono: Mono::from_ns(1),
                wall: Wall::from_us(1_700_000_000_000_000),
            },
            wake: None,
        }
    }

    /// Starts the node's next run: its shard journals have counted it.
    pub(crate) fn start(&mut self) -> Result<(), ControlError> {
        assert!(self.control.is_none(), "one run at a time");
        self.boots += 1;
        self.config.boot = BootId::new(self.boots);
        self.config.seed = self.prng.next_u64();
        let mut config = self.config.clone();
        for shard in &mut config.shards {
            shard.boot_count += 1;
        }
        let found = ControlRecovery::read(&mut self.disk, config.clone(), self.now)?;
        self.config = config;
        self.control = Some(found.begin(&mut self.disk, self.now)?);
        self.shards = self
            .config
            .shards
            .iter()
            .map(|_| ShardTwin::default())
            .collect();
        self.wake = None;
        self.is_stopped = false;
        self.turn(Vec::new());
        Ok(())
    }

    /// A power loss.
    pub(crate) fn crash(&mut self) {
        self.control = None;
        for effect in core::mem::take(&mut self.flying) {
            if self.prng.chance(1, 2) {
                self.disk.execute_partly(&effect, &mut self.prng);
            }
        }
        self.disk.lose_power(&mut self.prng);
    }

    /// Whether the deletion of a stream was ever asked for.
    pub(crate) fn was_asked_to_delete(&self, stream: StreamId) -> bool {
        self.asked_to_delete.contains(&stream)
    }

    /// Gives the next run the id of the last one.
    pub(crate) fn repeat_boot(&mut self) {
        self.boots -= 1;
    }

    /// Takes the machine away without a power loss, after it stopped.
    pub(crate) fn take_stopped(&mut self) -> Control {
        assert!(self.is_stopped && self.flying.is_empty());
        self.control.take().expect("a machine")
    }

    pub(crate) fn control(&self) -> &Control {
        self.control.as_ref().expect("a machine")
    }

    /// One turn with these events.
    pub(crate) fn turn(&mut self, events: Vec<Event>) {
        self.now.mono = self.now.mono.after_ns(1000);
        self.now.wall = Wall::from_us(self.now.wall.as_us() + 1);
        let control = self.control.as_mut().expect("a machine");
        let mut effects = Effects::new();
        for event in events {
            control.step(self.now, event, &mut effects);
        }
        control.finish_turn(self.now, &mut effects);
        for effect in effects {
            self.take(effect);
        }
    }

    fn take(&mut self, effect: Effect) {
        self.trace.push(line(&effect));
        match effect {
            Effect::Write { .. }
            | Effect::Read { .. }
            | Effect::Sync { .. }
            | Effect::Prepare { .. }
            | Effect::Remove { .. } => self.flying.push(effect),
            Effect::Post {
                to: Peer::Shard(shard),
                message,
            } => self.deliver(shard, message),
            Effect::WakeAt(at) => self.wake = Some(at),
            Effect::Stopped => {
                assert!(!self.is_stopped, "a machine stops once");
                self.is_stopped = true;
            }
            Effect::Fatal(fatal) => {
                assert!(self.fatal.is_none(), "a machine fails once");
                self.fatal = Some(fatal);
            }
            other => panic!("control does not want {other:?}"),
        }
    }

    fn deliver(&mut self, shard: ShardId, message: Message) {
        let twin = &mut self.shards[usize::from(shard.get())];
        match message {
            Message::Snapshot(snapshot) => {
                assert_eq!(
                    snapshot.node,
                    self.control.as_ref().expect("a machine").node()
                );
                for stream in snapshot.streams.values() {
                    let path = Arc::clone(&stream.path);
                    let known = self.published.entry(stream.id).or_insert(path);
                    assert_eq!(*known, stream.path, "an id is given once");
                }
                twin.inbox.push_back(snapshot);
            }
            Message::Changed { origin, outcome } => {
                assert_eq!(origin.shard, shard, "an answer goes where the question was");
                let before = self.answers.insert(origin.request.get(), outcome);
                assert!(before.is_none(), "a request is answered once");
            }
            other => panic!("a shard does not expect {other:?}"),
        }
    }

    /// Asks from a shard; the request's number.
    pub(crate) fn ask(&mut self, shard: usize, change: Change) -> u64 {
        let (request, event) = self.question(shard, change);
        self.turn(vec![event]);
        request
    }

    /// A question, to be put with others into one turn.
    pub(crate) fn question(&mut self, shard: usize, change: Change) -> (u64, Event) {
        self.requests += 1;
        if let Change::DeleteStream(stream) = &change {
            self.asked_to_delete.insert(*stream);
        }
        let shard = ShardId::new(shard as u16);
        let origin = Origin {
            shard,
            conn: ConnectionId::new(1),
            request: MessageId::new(self.requests),
        };
        let message = Message::Change { origin, change };
        let from = Peer::Shard(shard);
        (self.requests, Event::Posted { from, message })
    }

    /// Completes the operation in flight with this index.
    pub(crate) fn complete(&mut self, index: usize) {
        let effect = self.flying.remove(index);
        let event = self.disk.execute(&effect).expect("an operation on a file");
        self.turn(vec![event]);
    }

    /// Lets a shard apply the snapshots that it has, and say so.
    pub(crate) fn apply(&mut self, shard: usize) {
        while let Some(snapshot) = self.shards[shard].inbox.pop_front() {
            let twin = &mut self.shards[shard];
            if let Some(before) = &twin.snapshot {
                assert!(before.version < snapshot.version, "versions only grow");
            }
            let version = snapshot.version;
            twin.snapshot = Some(snapshot);
            self.turn(vec![Event::Posted {
                from: Peer::Shard(ShardId::new(shard as u16)),
                message: Message::Applied(version),
            }]);
        }
    }

    /// Moves the clock to the timer that is wanted, if there is one.
    pub(crate) fn wake(&mut self) {
        if let Some(at) = self.wake.take() {
            self.now.mono = self.now.mono.max(at);
            self.turn(vec![Event::Timer]);
        }
    }

    /// Lets everything happen that is under way, in a random order.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if let Some(count) = (!self.flying.is_empty()).then_some(self.flying.len()) {
                let index = self.prng.below(count as u64) as usize;
                self.complete(index);
            } else if let Some(shard) = self.shards.iter().position(|shard| !shard.inbox.is_empty())
            {
                self.apply(shard);
            } else {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// The snapshot that a shard applied last.
    pub(crate) fn snapshot(&self, shard: usize) -> Arc<Snapshot> {
        Arc::clone(
            self.shards[shard]
                .snapshot
                .as_ref()
                .expect("a published snapshot"),
        )
    }

    /// Whether this run has published anything.
    pub(crate) fn is_published(&self) -> bool {
        let first = &self.shards[0];
        first.snapshot.is_some() || !first.inbox.is_empty()
    }
}

/// An effect as a line, its bytes as their checksum.
fn line(effect: &Effect) -> String {
    match effect {
        Effect::Write {
            op, file, at, data, ..
        } => format!("write {op:?} {file} {at} {:08x}", crc32c(data)),
        Effect::Post {
            to,
            message: Message::Snapshot(snapshot),
        } => format!("snapshot {} to {to:?}", snapshot.version),
        other => format!("{other:?}"),
    }
}

/// A node after its first start, at rest.
pub(crate) fn started(seed: u64, shards: usize) -> World {
    let mut world = World::new(seed, shards);
    world.start().expect("a first start");
    world.settle();
    world
}

/// A stream of two partitions that keeps everything.
pub(crate) fn create(path: &str) -> Change {
    Change::CreateStream {
        path: path.into(),
        tenant: TenantId::new(1),
        partitions: 2,
        durability: None,
        retention: Retention::default(),
    }
}
