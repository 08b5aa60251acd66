//! One node with one shard, driven by hand. Every operation completes in the next turn and nothing is stored, so the time
//! of a turn is the shard's own: parsing, checking, the copy into the chunk, the checksum, the index, and the answers.

use crate::disk::MemoryDisk;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::ids::{
    BootId, ConnectionId, PartitionIndex, PartitionKey, ShardId, StreamId, TenantId,
};
use tiderace_base::limits::{CONNECTIONS_PER_SHARD_MAX, MIB};
use tiderace_base::mesh::Peer;
use tiderace_base::operation::{Door, Effect, Effects, Event, Machine};
use tiderace_base::position::{Epoch, Offset};
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_client::core::connection::{Answer, Completion, Connection, Identity, Notice};
use tiderace_client::core::consumer::From;
use tiderace_client::core::engine::Request;
use tiderace_node::{NodeConfig, Scrubbing, boot};

/// Time that passes between two turns.
const TURN_NS: u64 = 50_000;

/// A machine and what will happen to it.
struct Driven {
    peer: Peer,
    machine: Box<dyn Machine>,
    events: VecDeque<Event>,
    wake_at: Mono,
    effects: Effects,
}

impl Driven {
    fn new(peer: Peer, machine: Box<dyn Machine>) -> Self {
        Self {
            peer,
            machine,
            events: VecDeque::new(),
            wake_at: Mono::from_ns(u64::MAX),
            effects: Effects::new(),
        }
    }

    fn step(&mut self, now: Now) {
        if now.mono >= self.wake_at {
            self.wake_at = Mono::from_ns(u64::MAX);
            self.machine.step(now, Event::Timer, &mut self.effects);
        }
        for event in self.events.drain(..) {
            self.machine.step(now, event, &mut self.effects);
        }
        self.machine.finish_turn(now, &mut self.effects);
    }
}

/// A node in memory.
pub struct Node {
    shard: Driven,
    control: Driven,
    now: Now,
    connections: u64,
    /// What was sent to each connection.
    sent: Vec<Vec<Bytes>>,
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// Boots a node.
    ///
    /// # Panics
    /// When it does not start: a bug.
    #[must_use]
    pub fn new() -> Self {
        let address = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let config = NodeConfig {
            shards: 1,
            shared: address(7000),
            shard_addrs: vec![address(7001)],
            default_durability: Durability::Local,
            segment_bytes: 64 << 20,
            prewrite_bytes: 0,
            memory_bytes: 64 * MIB,
            connections_max: CONNECTIONS_PER_SHARD_MAX,
            scrubbing: Scrubbing::daily(0),
            node_id: None,
            zone_id: None,
            links: None,
            small_chunks: false,
        };
        let now = Now {
            mono: Mono::from_ns(1),
            wall: Wall::from_us(1_000_000),
        };
        let mut disks = [MemoryDisk::default()];
        let mut control_disk = MemoryDisk::default();
        let booted = boot(
            &mut control_disk,
            &mut disks,
            &config,
            BootId::new(1),
            1,
            now,
        )
        .expect("an empty disk in memory takes a first start");
        let shard = booted.shards.into_iter().next().expect("it has a shard");
        let mut node = Self {
            shard: Driven::new(Peer::Shard(ShardId::new(0)), Box::new(shard)),
            control: Driven::new(Peer::Control, Box::new(booted.control)),
            now,
            connections: 0,
            sent: vec![Vec::new()],
        };
        for _ in 0..100 {
            node.turn();
        }
        node
    }

    /// One turn of both machines. Says how long the shard's took, its effects not included.
    pub fn turn(&mut self) -> Duration {
        self.now.mono = self.now.mono.after_ns(TURN_NS);
        self.now.wall = Wall::from_us(self.now.wall.as_us() + TURN_NS / 1000);
        self.control.step(self.now);
        let start = Instant::now();
        self.shard.step(self.now);
        let took = start.elapsed();
        self.execute();
        took
    }

    fn execute(&mut self) {
        let effects = core::mem::take(&mut self.shard.effects);
        for effect in effects {
            self.complete(effect, true);
        }
        let effects = core::mem::take(&mut self.control.effects);
        for effect in effects {
            self.complete(effect, false);
        }
    }

    /// What follows from an effect in the next turn.
    fn complete(&mut self, effect: Effect, is_shards: bool) {
        let (own, other) = if is_shards {
            (&mut self.shard, &mut self.control)
        } else {
            (&mut self.control, &mut self.shard)
        };
        match effect {
            Effect::Write { op, .. } => own.events.push_back(Event::Written { op, result: Ok(()) }),
            Effect::Read { op, len, .. } => own.events.push_back(Event::ReadDone {
                op,
                result: Ok(Bytes::from(vec![0; len as usize])),
            }),
            Effect::Sync { op, .. } => own.events.push_back(Event::Synced { op, result: Ok(()) }),
            Effect::Prepare { op, .. } => {
                own.events.push_back(Event::Prepared { op, result: Ok(()) });
            }
            Effect::Remove { op, .. } => {
                own.events.push_back(Event::Removed { op, result: Ok(()) });
            }
            Effect::Send { op, conn, parts } => {
                let sent_bytes = parts.iter().map(|part| part.len() as u64).sum();
                self.sent[conn.get() as usize].extend(parts);
                own.events.push_back(Event::Sent {
                    op,
                    conn,
                    sent_bytes,
                    alive: true,
                });
            }
            Effect::Post { message, .. } => {
                let from = own.peer;
                other.events.push_back(Event::Posted { from, message });
            }
            Effect::WakeAt(at) => own.wake_at = at,
            Effect::Connect { .. }
            | Effect::CancelSend { .. }
            | Effect::Finish { .. }
            | Effect::Receive { .. }
            | Effect::Serve
            | Effect::Refuse
            | Effect::ServeNodes(_)
            | Effect::Stopped => {}
            Effect::Close { conn } => panic!("{conn} was closed: the node saw a fault"),
            Effect::Fatal(reason) => panic!("the node ended: {reason:?}"),
        }
    }
}

/// One connection of a node.
pub struct Client {
    conn: ConnectionId,
    session: Connection,
    completions: Vec<Completion>,
    /// Batches acknowledged.
    pub acked: u64,
    /// Batches delivered.
    pub delivered: u64,
}

impl Client {
    /// Connects and waits for the welcome.
    ///
    /// # Panics
    /// When the node does not answer: a bug.
    #[must_use]
    pub fn connect(node: &mut Node) -> Self {
        node.connections += 1;
        let conn = ConnectionId::new(node.connections);
        node.sent.push(Vec::new());
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
        let from = Door::Client;
        let accepted = Event::Accepted { conn, peer, from };
        node.shard.events.push_back(accepted);
        let identity = Identity {
            client_id: u128::from(node.connections),
            name: "micro".to_owned(),
        };
        let mut client = Self {
            conn,
            session: Connection::new(&identity),
            completions: Vec::new(),
            acked: 0,
            delivered: 0,
        };
        for _ in 0..10 {
            client.send(node);
            node.turn();
            client.receive(node);
        }
        assert!(client.session.is_open(), "the node welcomes");
        client
    }

    /// Makes a stream.
    ///
    /// # Panics
    /// When it is refused: a bug.
    pub fn create(&mut self, node: &mut Node, path: &str, partitions: u32) -> StreamId {
        let request = Request::Create {
            path: path.into(),
            partitions,
            durability: None,
            tenant: TenantId::new(0),
            retention: Retention {
                bytes: 64 << 20,
                ..Retention::default()
            },
        };
        self.ask(node, &request, |answer| match answer {
            Answer::Created(stream) => Some(stream.id),
            _ => None,
        })
    }

    /// The epoch that leads a stream's partition.
    ///
    /// # Panics
    /// When the node does not say: a bug.
    pub fn epoch(&mut self, node: &mut Node, path: &str, partition: PartitionIndex) -> Epoch {
        let request = Request::Metadata {
            path: path.into(),
            first_partition: partition,
        };
        self.ask(node, &request, |answer| match answer {
            Answer::Metadata(page) => Some(page.partitions[0].epoch),
            _ => None,
        })
    }

    fn ask<T>(
        &mut self,
        node: &mut Node,
        request: &Request,
        wanted: impl Fn(Answer) -> Option<T>,
    ) -> T {
        self.session.ask(1, request).expect("one may be asked");
        for _ in 0..100 {
            self.send(node);
            node.turn();
            self.receive(node);
            for completion in self.completions.drain(..) {
                if let Completion::Answered { answer, .. } = completion
                    && let Some(found) = wanted(answer)
                {
                    return found;
                }
            }
        }
        panic!("{request:?} was not answered");
    }

    /// Subscribes to what comes, with credit for as much as a benchmark lasts.
    ///
    /// # Panics
    /// When the session takes no more: a bug.
    pub fn subscribe(&mut self, key: PartitionKey, epoch: Epoch) {
        self.session
            .subscribe(0, key, From::Latest, epoch, u64::MAX / 2, u64::MAX / 2)
            .expect("one may subscribe");
    }

    /// Hands a batch to the session. False when there is no credit.
    pub fn produce(&mut self, batch: &Bytes, epoch: Epoch) -> bool {
        self.session
            .produce(0, 0, batch, epoch, Offset::ZERO)
            .is_ok()
    }

    /// What was produced reaches the node with its next turn.
    pub fn send(&mut self, node: &mut Node) {
        let mut parts = Vec::new();
        self.session.transmit(&mut parts);
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        if bytes == 0 {
            return;
        }
        // As a socket would hand it over: in one piece, cut where a receive buffer ends.
        let mut joined = Vec::with_capacity(bytes);
        for part in parts {
            joined.extend_from_slice(&part);
        }
        let mut joined = Bytes::from(joined);
        while !joined.is_empty() {
            let data = joined.split_to(joined.len().min(RECEIVE_BYTES));
            let conn = self.conn;
            node.shard.events.push_back(Event::Received { conn, data });
        }
    }

    /// Takes what the node sent, and counts it.
    ///
    /// # Panics
    /// When the node broke the protocol, or refused something: a bug.
    pub fn receive(&mut self, node: &mut Node) {
        let mut parts = core::mem::take(&mut node.sent[self.conn.get() as usize]);
        for part in parts.drain(..) {
            self.session
                .receive(part, &mut self.completions)
                .expect("the node keeps to the protocol");
        }
        node.sent[self.conn.get() as usize] = parts;
        let (acked, delivered) = (&mut self.acked, &mut self.delivered);
        self.completions.retain(|completion| match completion {
            Completion::Acked { .. } => {
                *acked += 1;
                false
            }
            Completion::Subscription {
                notice: Notice::Delivered { batches, .. },
                ..
            } => {
                *delivered += batches.len() as u64;
                false
            }
            Completion::ProduceRefused { refusal, .. } => panic!("refused: {refusal}"),
            _ => true,
        });
    }
}

/// Bytes of one receive buffer.
const RECEIVE_BYTES: usize = 64 * 1024;
