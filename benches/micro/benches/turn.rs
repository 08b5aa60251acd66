//! A shard's turn without its disk and its network: what a batch costs the machine from the received bytes to the
//! acknowledgement, and to a subscriber's send. Beside it the least that any such machine does: reading the batch once for
//! its checksum and copying it once.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use micro::{Batches, Client, Node, Shape};
use std::hint::black_box;
use std::time::{Duration, Instant};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId};
use tiderace_base::position::Epoch;

/// Who produces how much in every turn.
#[derive(Clone, Copy)]
struct Load {
    connections: u32,
    batches: u32,
    shape: Shape,
    subscribed: bool,
}

impl Load {
    fn name(self) -> String {
        let subscribed = if self.subscribed { ", delivered" } else { "" };
        let shape = self.shape.name();
        format!(
            "{} x {} of {shape}{subscribed}",
            self.connections, self.batches
        )
    }
}

const SMALL: Shape = Shape {
    records: 1,
    value_bytes: 256,
};

const LARGE: Shape = Shape {
    records: 64,
    value_bytes: 1000,
};

const LOADS: [Load; 5] = [
    Load {
        connections: 1,
        batches: 1,
        shape: SMALL,
        subscribed: false,
    },
    Load {
        connections: 64,
        batches: 1,
        shape: SMALL,
        subscribed: false,
    },
    Load {
        connections: 64,
        batches: 16,
        shape: SMALL,
        subscribed: false,
    },
    Load {
        connections: 64,
        batches: 16,
        shape: SMALL,
        subscribed: true,
    },
    Load {
        connections: 8,
        batches: 1,
        shape: LARGE,
        subscribed: false,
    },
];

struct Rig {
    node: Node,
    load: Load,
    clients: Vec<(Client, Batches)>,
    epoch: Epoch,
}

impl Rig {
    fn new(load: Load) -> Self {
        let mut node = Node::new();
        let mut first = Client::connect(&mut node);
        let partitions = load.connections;
        let stream = first.create(&mut node, "bench/turn", partitions);
        let epoch = first.epoch(&mut node, "bench/turn", PartitionIndex::new(0));
        let mut clients = Vec::new();
        for index in 0..load.connections {
            let mut client = Client::connect(&mut node);
            let partition = PartitionIndex::new(index);
            let key = PartitionKey { stream, partition };
            if load.subscribed {
                client.subscribe(key, epoch);
            }
            let producer = ProducerId::new(u128::from(index) + 1);
            clients.push((client, Batches::new(load.shape, key, producer)));
        }
        Self {
            node,
            load,
            clients,
            epoch,
        }
    }

    /// Batches of one round.
    fn batches(&self) -> u64 {
        u64::from(self.load.connections) * u64::from(self.load.batches)
    }

    /// Every connection produces and is answered. Says how long the shard needed.
    fn round(&mut self) -> Duration {
        let wanted = self.batches();
        let node = &mut self.node;
        let before: u64 = self.clients.iter().map(|(client, _)| client.acked).sum();
        for (client, batches) in &mut self.clients {
            for _ in 0..self.load.batches {
                let sent = client.produce(&batches.take(), self.epoch);
                assert!(sent, "what is in flight stays within the first credit");
            }
            client.send(node);
        }
        let mut took = Duration::ZERO;
        for _ in 0..TURNS_MAX {
            took += node.turn();
            for (client, _) in &mut self.clients {
                client.receive(node);
            }
            let acked: u64 = self.clients.iter().map(|(client, _)| client.acked).sum();
            if acked - before == wanted {
                return took;
            }
            for (client, _) in &mut self.clients {
                client.send(node);
            }
        }
        panic!("not everything was acknowledged within {TURNS_MAX} turns");
    }
}

/// Turns within which a round must be done.
const TURNS_MAX: u32 = 1000;

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    for load in LOADS {
        let mut rig = Rig::new(load);
        let batches = rig.batches();
        group.throughput(Throughput::Elements(batches));
        group.bench_function(BenchmarkId::new("shard", load.name()), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| rig.round()).sum());
        });
        let key = PartitionKey {
            stream: tiderace_base::ids::StreamId::new(1),
            partition: PartitionIndex::new(0),
        };
        let mut source = Batches::new(load.shape, key, ProducerId::new(1));
        let each: Vec<Bytes> = (0..batches).map(|_| source.take()).collect();
        let mut chunk = vec![0; source.batch_bytes()];
        group.bench_function(
            BenchmarkId::new("limit: checksum and copy", load.name()),
            |b| {
                b.iter_custom(|rounds| {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        for batch in &each {
                            chunk.copy_from_slice(black_box(batch));
                            black_box(crc32c(black_box(&chunk)));
                        }
                    }
                    start.elapsed()
                });
            },
        );
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = turns
}
criterion_main!(benches);
