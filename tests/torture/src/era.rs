//! A load that goes on through everything that is done to its node: producers with exact retries on a stream of its own, and a
//! subscriber that stays. It lasts an era of some hundreds of cycles; then everything is read once more, the history is closed
//! and the stream is deleted, so that neither the node's directory nor the judge grows with the number of cycles.
//!
//! What a cycle costs to verify is bounded: through the restarted process it reads what was acknowledged since the last
//! verification and a little before that; everything is read every so often and at the era's end. Invariant: producers send no
//! more than they were granted, so a cycle's records are bounded as well.

use crate::chronicle::Chronicle;
use history::{BatchName, Observation, Reader};
use integration::ledger::Event;
use integration::within;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::PartitionKey;
use tiderace_base::prng::Prng;
use tiderace_client::{
    AckFuture, Backoff, Batch, Client, Consumer, Durability, From, Item, Offset, Options,
    PartitionIndex, Producer, ProducerOptions, Record, Stream, StreamOptions,
};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

const SENDERS: u32 = 3;
/// Partitions of its stream.
pub const PARTITIONS: u32 = 3;
/// Acknowledgements that one sender waits for at most.
const WAITING_MAX: usize = 32;
/// Records beyond a target that may be sent, so that some are under way when it is reached.
const BEYOND: u64 = 128;
/// Offsets before the last verification that the next one reads again.
const AGAIN: u64 = 256;
/// Far longer than an era: a record that is not acknowledged in the end is a violation.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// How clients of a node that is treated badly wait: never for long.
fn options(name: &str) -> Options {
    Options {
        name: name.to_owned(),
        request_timeout: PATIENCE,
        backoff: Backoff {
            first_ns: 1_000_000,
            longest_ns: 20_000_000,
        },
        ..Options::default()
    }
}

/// The load.
#[derive(Debug)]
pub struct Era {
    /// What was seen.
    pub chronicle: Arc<Chronicle>,
    client: Client,
    path: String,
    stream: Stream,
    senders: Vec<JoinHandle<()>>,
    granted: u64,
    grants: Arc<Semaphore>,
    acked: watch::Receiver<u64>,
    live: JoinHandle<()>,
    positions: watch::Receiver<Vec<u64>>,
    /// One past the last offset that a verification has read, by partition.
    verified: Vec<u64>,
}

impl Era {
    /// Creates its stream on a node that runs, and begins. `history` is where its history goes.
    ///
    /// # Panics
    /// When the node does not serve.
    #[must_use]
    pub fn begin(runtime: &Runtime, server: SocketAddr, number: u64, history: PathBuf) -> Self {
        let path = format!("torture/era-{number}");
        let chronicle = Arc::new(Chronicle::begin(history, PARTITIONS));
        runtime.block_on(async {
            let connecting = Client::connect(server, options("torture"));
            let client = within("a connection", connecting).await.expect("a node");
            let wanted = StreamOptions {
                partitions: PARTITIONS,
                durability: Some(Durability::Local),
                ..StreamOptions::default()
            };
            let creating = client.create_stream(&path, wanted);
            let stream = within("a stream", creating).await.expect("created");
            chronicle.saw(&Observation::StreamKnown {
                stream: stream.id.get(),
                durability: Durability::Local,
                trims: false,
            });
            let (positions_seen, positions) = watch::channel(vec![0; PARTITIONS as usize]);
            let live = Live {
                chronicle: Arc::clone(&chronicle),
                readers: (0..PARTITIONS).map(|_| chronicle.reader()).collect(),
                stream: stream.id.get(),
            };
            let keys = (0..PARTITIONS).map(|partition| key(&stream, partition));
            for (reader, partition) in live.readers.iter().zip(keys) {
                asked(&chronicle, *reader, partition);
                positioned(&chronicle, *reader, partition, 0, 0);
            }
            let consumer = client.subscribe(&path, From::Earliest).start();
            let live = tokio::spawn(live.read(consumer, positions_seen));
            let (progress, acked) = watch::channel(0_u64);
            let grants = Arc::new(Semaphore::new(0));
            let senders = (0..SENDERS)
                .map(|sender| {
                    let patient = ProducerOptions {
                        timeout: PATIENCE,
                        ..ProducerOptions::default()
                    };
                    let sender = Sender {
                        number: u32::try_from(number).expect("few eras") * SENDERS + sender,
                        producer: client.producer(&path, patient),
                        stream: stream.clone(),
                        chronicle: Arc::clone(&chronicle),
                        grants: Arc::clone(&grants),
                        progress: progress.clone(),
                    };
                    tokio::spawn(sender.send())
                })
                .collect();
            Self {
                chronicle,
                client,
                path,
                stream,
                senders,
                granted: 0,
                grants,
                acked,
                live,
                positions,
                verified: vec![0; PARTITIONS as usize],
            }
        })
    }

    /// Waits until so many more records were acknowledged, and lets some more be sent.
    ///
    /// # Panics
    /// When they do not come, or when what came breaks a property.
    pub fn work(&mut self, runtime: &Runtime, acks: u64) {
        let target = *self.acked.borrow() + acks;
        let granted = target + BEYOND;
        if let Some(more) = granted.checked_sub(self.granted) {
            self.grants.add_permits(usize::try_from(more).expect("few"));
            self.granted = granted;
        }
        let reached = self.acked.wait_for(|acked| *acked >= target);
        let reached = runtime.block_on(within("acknowledgements", reached));
        self.chronicle.holds();
        drop(reached.expect("senders send"));
    }

    /// The node has died.
    pub fn died(&self) {
        self.chronicle.saw(&Observation::NodeDied {
            node: 0,
            power: false,
            stopped: false,
        });
    }

    /// The node runs again.
    pub fn started(&self) {
        self.chronicle.saw(&Observation::NodeStarted { node: 0 });
    }

    /// Reads what was acknowledged since the last time, and the live subscriber's part of it, as the node serves it now.
    /// Everything, if `all`. Says how many records it read.
    ///
    /// # Panics
    /// When something is not there, or when what came breaks a property.
    pub fn verify(&mut self, runtime: &Runtime, all: bool) -> u64 {
        let tops = self.chronicle.acked();
        let starts: Vec<u64> = self.verified.iter().copied().map(at_or_before).collect();
        let starts = if all { vec![0; starts.len()] } else { starts };
        let reading = read(
            &self.chronicle,
            &self.client,
            &self.stream,
            &self.path,
            &starts,
            all,
        );
        let ends = runtime.block_on(within("what was acknowledged", reading));
        self.chronicle.holds();
        for (partition, (end, top)) in ends.iter().zip(&tops).enumerate() {
            assert!(
                end >= top,
                "partition {partition} ends at {end}, and everything below {top} was acknowledged"
            );
        }
        let live = self.positions.wait_for(|positions| {
            let mut pairs = positions.iter().zip(&tops);
            pairs.all(|(position, top)| position >= top)
        });
        let live = runtime.block_on(within("the live subscriber", live));
        self.chronicle.holds();
        drop(live.expect("the subscriber reads"));
        let read = ends.iter().zip(&starts).map(|(end, start)| end - start);
        let read = read.sum();
        self.verified = ends;
        read
    }

    /// Lets every record be acknowledged, reads everything, and deletes the stream and the history. Says how many were
    /// acknowledged and how many were delivered.
    ///
    /// # Panics
    /// When a record is not acknowledged, or when what came breaks a property.
    pub fn end(mut self, runtime: &Runtime) -> (u64, u64) {
        self.grants.close();
        for sender in std::mem::take(&mut self.senders) {
            let ended = runtime.block_on(within("the last acknowledgements", sender));
            self.chronicle.holds();
            ended.expect("a sender ends well");
        }
        self.verify(runtime, true);
        self.live.abort();
        runtime.block_on(async {
            let deleting = self.client.delete_stream(self.stream.id);
            let deleted = within("the stream's end", deleting).await;
            deleted.expect("it is ours");
        });
        self.client.close();
        self.chronicle.holds();
        drop(std::fs::remove_file(self.chronicle.path()));
        self.chronicle.counts()
    }
}

const fn at_or_before(verified: u64) -> u64 {
    verified.saturating_sub(AGAIN)
}

fn key(stream: &Stream, partition: u32) -> PartitionKey {
    PartitionKey {
        stream: stream.id,
        partition: PartitionIndex::new(partition),
    }
}

fn asked(chronicle: &Chronicle, reader: Reader, partition: PartitionKey) {
    chronicle.saw(&Observation::Asked { reader, partition });
}

fn positioned(chronicle: &Chronicle, reader: Reader, partition: PartitionKey, next: u64, end: u64) {
    chronicle.saw(&Observation::Positioned {
        reader,
        partition,
        next,
        start: 0,
        end,
    });
}

/// Reads every partition from its place in `starts` to the end that the node tells. Says where that is.
async fn read(
    chronicle: &Chronicle,
    client: &Client,
    stream: &Stream,
    path: &str,
    starts: &[u64],
    all: bool,
) -> Vec<u64> {
    let readers: Vec<Reader> = starts.iter().map(|_| chronicle.reader()).collect();
    let ends = loop {
        for (reader, partition) in readers.iter().zip(0..) {
            asked(chronicle, *reader, key(stream, partition));
        }
        let described = client.describe_stream(path).await;
        let described = described.expect("the stream is there");
        // A leader that was just lost leaves its partitions out: they are asked again.
        let ends = described.partitions.iter();
        let ends: Option<Vec<u64>> = ends
            .map(|partition| Some(partition.offsets?.1.get()))
            .collect();
        if let Some(ends) = ends {
            break ends;
        }
    };
    for ((reader, partition), (start, end)) in readers.iter().zip(0..).zip(starts.iter().zip(&ends))
    {
        let key = key(stream, partition);
        positioned(chronicle, *reader, key, *start, *end);
        let begin = client.subscribe(path, From::Offset(Offset::new(*start)));
        let mut consumer = begin.partition(key.partition).start();
        let mut next = *start;
        // Everything is read when nothing behind it was acknowledged meanwhile.
        while next < *end || (all && !chronicle.read_through(*reader, key, next)) {
            let item = consumer.next().await.expect("the client is open");
            let Some(batch) = wanted(chronicle, item) else {
                return ends;
            };
            next = delivered(chronicle, *reader, key, &batch, next);
        }
    }
    ends
}

/// A batch; everything else is written down as broken.
fn wanted(
    chronicle: &Chronicle,
    item: Result<Item, tiderace_client::ConsumeError>,
) -> Option<Batch> {
    match item {
        Ok(Item::Batch(batch)) => return Some(batch),
        Ok(other) => chronicle.broken(format!(
            "nothing was dropped or lost, but there came {other:?}"
        )),
        Err(error) => chronicle.broken(error.to_string()),
    }
    None
}

/// Writes down the records of a batch from `next` on, and says where the next ones begin.
fn delivered(
    chronicle: &Chronicle,
    reader: Reader,
    partition: PartitionKey,
    batch: &Batch,
    mut next: u64,
) -> u64 {
    let records = match batch.records() {
        Ok(records) => records,
        Err(error) => {
            chronicle.broken(format!("a batch's body does not hold: {error:?}"));
            return next;
        }
    };
    let from = next;
    for record in records.filter(|record| record.offset().get() >= from) {
        let value = record.value().unwrap_or_default();
        if !is_whole(value) {
            let offset = record.offset();
            chronicle.broken(format!(
                "{partition} holds at {offset} what nobody sent: {value:?}"
            ));
            return next;
        }
        let event = Event::of(value);
        chronicle.saw(&Observation::Delivered {
            reader,
            partition,
            batch: Some(name(partition, event)),
            offset: record.offset().get(),
            records: 1,
            digest: u64::from(crc32c(value)),
            epoch: batch.epoch().get(),
            append_time_us: batch.append_time_us(),
        });
        next = record.offset().get() + 1;
    }
    next
}

/// Whether some event has this value.
fn is_whole(value: &[u8]) -> bool {
    let Some((sender, rest)) = value.split_first_chunk() else {
        return false;
    };
    let Some(number) = rest.first_chunk() else {
        return false;
    };
    let event = Event {
        sender: u32::from_le_bytes(*sender),
        number: u64::from_le_bytes(*number),
    };
    event.value(value.len()) == value
}

/// Records go by the names of their events: each is a batch of one.
fn name(partition: PartitionKey, event: Event) -> BatchName {
    BatchName {
        partition,
        producer: u128::from(event.sender) + 1,
        producer_epoch: 0,
        seq: event.number,
    }
}

/// The subscriber that stays.
struct Live {
    chronicle: Arc<Chronicle>,
    readers: Vec<Reader>,
    stream: u64,
}

impl Live {
    async fn read(self, mut consumer: Consumer, positions: watch::Sender<Vec<u64>>) {
        let mut next = vec![0; self.readers.len()];
        while let Some(item) = consumer.next().await {
            let Some(batch) = wanted(&self.chronicle, item) else {
                return;
            };
            let partition = batch.partition();
            let key = PartitionKey {
                stream: tiderace_client::StreamId::new(self.stream),
                partition,
            };
            let place = partition.get() as usize;
            next[place] = delivered(
                &self.chronicle,
                self.readers[place],
                key,
                &batch,
                next[place],
            );
            positions.send_modify(|positions| positions.clone_from(&next));
        }
    }
}

/// A producer that keeps some records under way.
struct Sender {
    number: u32,
    producer: Producer,
    stream: Stream,
    chronicle: Arc<Chronicle>,
    grants: Arc<Semaphore>,
    progress: watch::Sender<u64>,
}

impl Sender {
    /// Sends what it is granted, until nothing more is; then waits for every acknowledgement.
    async fn send(self) {
        let mut waiting = VecDeque::new();
        let mut prng = Prng::new(u64::from(self.number));
        let mut number = 0;
        loop {
            // What is acknowledged goes before what is sent, so that a sender without a grant hears of it.
            while waiting.len() >= WAITING_MAX || (self.is_out_of_grants() && !waiting.is_empty()) {
                let (name, ack) = waiting.pop_front().expect("it is not empty");
                if !self.hear(name, ack).await {
                    return;
                }
            }
            let Ok(grant) = self.grants.acquire().await else {
                break;
            };
            grant.forget();
            let event = Event {
                sender: self.number,
                number,
            };
            number += 1;
            let bytes = 16 + usize::try_from(prng.below(1_500)).expect("small");
            let partition = u32::try_from(prng.below(u64::from(PARTITIONS))).expect("few");
            let key = key(&self.stream, partition);
            let (name, value) = (name(key, event), event.value(bytes));
            self.chronicle.saw(&Observation::Submitted {
                batch: name,
                epoch: 0,
                records: 1,
                digest: u64::from(crc32c(&value)),
            });
            let accepting = self
                .producer
                .enqueue_to(Record::new(value), Some(key.partition));
            match accepting.await {
                Ok(ack) => waiting.push_back((name, ack)),
                Err(error) => {
                    self.chronicle.broken(format!("{name:?}: {error}"));
                    return;
                }
            }
        }
        for (name, ack) in waiting {
            if !self.hear(name, ack).await {
                return;
            }
        }
    }

    fn is_out_of_grants(&self) -> bool {
        self.grants.available_permits() == 0
    }

    /// False: it will never be acknowledged, which is written down.
    async fn hear(&self, name: BatchName, ack: AckFuture) -> bool {
        match ack.await {
            Ok(ack) => {
                self.chronicle.acknowledged(name, &ack);
                self.progress.send_modify(|acked| *acked += 1);
                true
            }
            Err(error) => {
                self.chronicle.broken(format!("{name:?}: {error}"));
                false
            }
        }
    }
}
