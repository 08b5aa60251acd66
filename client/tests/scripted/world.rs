//! An engine wired to a scripted zone in memory, under a chosen clock: carries bytes both ways, in one piece or dribbled,
//! executes what the engine asks for, and keeps what it tells.

use super::{PATH, Zone};
use bytes::Bytes;
use std::collections::BTreeMap;
use tiderace_base::ids::{PartitionIndex, ProducerId};
use tiderace_base::prng::Prng;
use tiderace_base::time::{Mono, Now, Wall};
use tiderace_client::core::connection::Identity;
use tiderace_client::core::engine::{
    ConsumerKey, ConsumerSettings, Engine, Event, LinkId, ProducerKey, Settings,
};
use tiderace_client::core::producer::{self, PushError, Settled, Ticket};
use tiderace_client::{ConsumeError, Item, Record, RequestError};

pub struct World {
    pub engine: Engine,
    pub zone: Zone,
    pub now: u64,
    /// Link to session.
    pub wires: BTreeMap<LinkId, u64>,
    pub settled: BTreeMap<u32, Vec<Settled>>,
    pub log: Vec<Settled>,
    pub answers: Vec<(u64, Result<(), RequestError>)>,
    /// Bytes of one step, in either direction; 0: all.
    pub dribble: usize,
    pub prng: Prng,
    pub refuse_connections: bool,
}

impl World {
    pub fn new(zone: Zone) -> Self {
        let identity = Identity {
            client_id: 1,
            name: "test".to_owned(),
        };
        let settings = Settings::new(identity, vec![zone.addresses[0]]);
        Self {
            engine: Engine::new(settings, 5),
            zone,
            now: 1,
            wires: BTreeMap::new(),
            settled: BTreeMap::new(),
            log: Vec::new(),
            answers: Vec::new(),
            dribble: 0,
            prng: Prng::new(17),
            refuse_connections: false,
        }
    }

    pub fn now(&self) -> Now {
        Now {
            mono: Mono::from_ns(self.now),
            wall: Wall::from_us(1_000_000 + self.now / 1000),
        }
    }

    pub fn pieces(&mut self, bytes: Bytes) -> Vec<Bytes> {
        let mut bytes = bytes;
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let step = match self.dribble {
                0 => bytes.len(),
                bound => 1 + self.prng.below(bound as u64) as usize,
            };
            pieces.push(bytes.split_to(step.min(bytes.len())));
        }
        pieces
    }

    /// Carries bytes and events until nothing moves; whether anything did.
    pub fn settle(&mut self) -> bool {
        let mut moved = false;
        loop {
            let mut idle = true;
            while let Some(event) = self.engine.next_event() {
                idle = false;
                let now = self.now();
                match event {
                    Event::Connect { link, address } => {
                        let node = self
                            .zone
                            .addresses
                            .iter()
                            .position(|known| *known == address)
                            .expect("a known address");
                        if self.refuse_connections {
                            self.engine.disconnected(now, link);
                        } else {
                            let session = self.zone.accept(node);
                            self.wires.insert(link, session);
                            self.engine.connected(now, link);
                        }
                    }
                    Event::Disconnect { link } => {
                        if let Some(session) = self.wires.remove(&link) {
                            self.zone.sessions.remove(&session);
                        }
                    }
                    Event::Settled { settled, .. } => {
                        self.log.push(settled);
                        self.settled.entry(settled.batch).or_default().push(settled);
                    }
                    Event::Answered { request, result } => {
                        self.answers.push((request, result.map(|_| ())));
                    }
                    Event::Room { .. } | Event::Ready { .. } => {}
                }
            }
            while let Some(link) = self.engine.next_transmit() {
                let mut out = Vec::new();
                self.engine.transmit(link, &mut out);
                if let Some(session) = self.wires.get(&link).copied() {
                    for bytes in out {
                        for piece in self.pieces(bytes) {
                            idle = false;
                            self.zone.receive(session, piece);
                        }
                    }
                }
            }
            for (link, session) in self.wires.clone() {
                let state = self.zone.sessions.get_mut(&session).expect("wired");
                let bytes = state.out.split().freeze();
                let closed = state.closed;
                let now = self.now();
                for piece in self.pieces(bytes) {
                    idle = false;
                    if self.wires.get(&link) == Some(&session) {
                        self.engine.received(now, link, piece);
                    }
                }
                if closed && self.wires.remove(&link).is_some() {
                    idle = false;
                    self.zone.sessions.remove(&session);
                    self.engine.disconnected(now, link);
                }
            }
            if idle {
                return moved;
            }
            moved = true;
        }
    }

    /// Settles, lets the next timer fire, and so on, for at most this long.
    pub fn run_ns(&mut self, ns: u64) {
        let until = self.now + ns;
        self.settle();
        while let Some(at) = self.engine.wake_at() {
            if at.as_ns() > until {
                break;
            }
            self.now = self.now.max(at.as_ns());
            let now = self.now();
            self.engine.tick(now);
            self.settle();
        }
        self.now = until;
        let now = self.now();
        self.engine.tick(now);
        self.settle();
    }

    pub fn producer(&mut self, change: impl FnOnce(&mut producer::Settings)) -> ProducerKey {
        let mut settings = producer::Settings::new(ProducerId::new(99));
        change(&mut settings);
        let now = self.now();
        let key = self.engine.producer(now, PATH, settings);
        self.settle();
        key
    }

    pub fn push(
        &mut self,
        key: ProducerKey,
        value: &str,
        partition: Option<u32>,
    ) -> Result<Ticket, PushError> {
        let now = self.now();
        self.engine.push(
            now,
            key,
            &Record::new(value.to_owned()),
            partition.map(PartitionIndex::new),
        )
    }

    pub fn consumer(&mut self, settings: ConsumerSettings) -> ConsumerKey {
        let now = self.now();
        let key = self.engine.consumer(now, PATH, settings);
        self.settle();
        key
    }

    pub fn take(&mut self, key: ConsumerKey) -> Option<Result<Item, ConsumeError>> {
        let now = self.now();
        let item = self.engine.take(now, key);
        self.settle();
        item
    }

    pub fn values(&mut self, key: ConsumerKey) -> Vec<(u64, String)> {
        let mut values = Vec::new();
        while let Some(item) = self.take(key) {
            if let Item::Batch(batch) = item.expect("no error") {
                for record in batch.records().expect("a sound body") {
                    let value = record.value().expect("a value").to_vec();
                    values.push((
                        record.offset().get(),
                        String::from_utf8(value).expect("text"),
                    ));
                }
            }
        }
        values
    }
}

pub const SECOND: u64 = 1_000_000_000;

pub fn expected(count: u64) -> Vec<(u64, String)> {
    (0..count).map(|n| (n, n.to_string())).collect()
}
