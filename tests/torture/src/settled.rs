//! Directories of real nodes that have come to rest, to be damaged: made by a load in bursts over one to three starts, each
//! ended in order, by `kill -9` when nothing was under way, or by `kill -9` under load. Beside the last image stand some of its
//! past, each taken when nothing changed any more. Invariant: an image is what one moment left, and everything that was
//! acknowledged before it is in it.

use crate::cycles::let_pass;
use crate::directory::Directory;
use crate::oracle::{self, Committed, Expected, Log};
use integration::ledger::Event;
use integration::node::{Node, Setup};
use integration::scratch::Scratch;
use integration::{HANG, runtime, within};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tiderace_base::prng::Prng;
use tiderace_client::{
    Client, Options, PartitionIndex, Producer, ProducerOptions, Record, Stream, StreamOptions,
};
use tokio::runtime::Runtime;

/// Shards of its node.
pub const SHARDS: usize = 2;
/// Partitions of its stream.
pub const PARTITIONS: u32 = 3;
/// The stream that is kept.
pub const PATH: &str = "settled/kept";
/// A stream that may be deleted on the way, so that segments are released and used again.
const GIVEN_UP: &str = "settled/given-up";
const MIB: u64 = 1 << 20;
const VALUE_BYTES_MAX: u64 = 60_000;
/// Two looks so far apart that are the same: nothing is under way.
const APART: Duration = Duration::from_millis(60);

/// One moment.
#[derive(Clone, Debug)]
pub struct Image {
    /// The files.
    pub directory: Directory,
    /// What its catalogue has committed.
    pub committed: Committed,
    /// What each shard's log holds.
    pub shards: Vec<Log>,
    /// What control's log holds.
    pub control: Log,
}

impl Image {
    fn new(directory: Directory, boots: u64) -> Self {
        // Every epoch that it gave stands in a log already: nothing was under way.
        let mut committed = Committed {
            boots,
            epochs: vec![u32::MAX; SHARDS],
        };
        match oracle::expect(&directory, SHARDS, &committed) {
            Expected::Runs { shards, control } => {
                committed.epochs = shards.iter().map(Log::epoch_max).collect();
                Self {
                    directory,
                    committed,
                    shards,
                    control: *control,
                }
            }
            Expected::Refused { words, .. } => {
                panic!("nothing was damaged yet, and a start would be refused: {words:?}")
            }
        }
    }

    /// The journals with their folders, control last.
    pub fn journals(&self) -> impl Iterator<Item = (String, &Log)> {
        let shards = self.shards.iter().enumerate();
        shards
            .map(|(shard, log)| (oracle::shard_folder(shard), log))
            .chain([(oracle::CONTROL.to_owned(), &self.control)])
    }
}

/// A node that has come to rest.
#[derive(Debug)]
pub struct Settled {
    /// Oldest first. The last is what it left; the node's process had ended.
    pub images: Vec<Image>,
    /// The stream's id.
    pub stream: u64,
    /// What was acknowledged, by partition and offset.
    pub acked: BTreeMap<(u32, u64), Event>,
}

impl Settled {
    /// What it left.
    #[must_use]
    pub fn last(&self) -> &Image {
        &self.images[self.images.len() - 1]
    }
}

/// How a node is configured that starts from such a directory at `data_dir`.
#[must_use]
pub fn setup(scratch: &Scratch, data_dir: &Path) -> Setup {
    Setup::at(scratch, data_dir.to_owned())
        .with("shards", SHARDS)
        .with("segment", "4MiB")
        .with("memory", "48MiB")
}

/// Makes one.
///
/// # Panics
/// When its node does not serve, or when an image lacks what was acknowledged.
#[must_use]
pub fn make(prng: &mut Prng) -> Settled {
    let scratch = Scratch::new("torture-settled");
    let setup = setup(&scratch, &scratch.join("data")).with("scrub", "0");
    let runtime = runtime();
    let mut settled = Settled {
        images: Vec::new(),
        stream: 0,
        acked: BTreeMap::new(),
    };
    let boots = prng.range(1, 4);
    for boot in 1..=boots {
        let node = Node::start(&setup);
        let mut load = Load::begin(&runtime, &setup, boot);
        settled.stream = load.stream.id.get();
        if boot == 1 && prng.chance(1, 2) {
            load.give_up(prng);
        }
        for _ in 0..prng.range(1, 3) {
            load.burst(prng, &mut settled.acked);
            let directory = rest(&setup.data_dir, settled.images.last());
            settled.images.push(Image::new(directory, boot));
        }
        match prng.below(3) {
            0 => node.stop(),
            1 => node.kill(),
            _ => {
                load.leave_some(prng, &mut settled.acked);
                node.kill();
            }
        }
    }
    let like = settled.images.last().map(|image| &image.directory);
    let directory = Directory::read(&setup.data_dir, like);
    settled.images.push(Image::new(directory, boots));
    let held = |(partition, offset): &(u32, u64)| {
        let entries = settled.last().shards.iter().flat_map(|log| &log.segments);
        let mut entries = entries.flat_map(|segment| &segment.entries);
        entries.any(|entry| {
            (entry.stream, entry.partition) == (settled.stream, *partition)
                && (entry.base..entry.next).contains(offset)
        })
    };
    for place in settled.acked.keys() {
        assert!(held(place), "{place:?} was acknowledged and is in no log");
    }
    settled
}

/// Waits until nothing changes in a directory, and reads it.
fn rest(data_dir: &Path, like: Option<&Image>) -> Directory {
    let begun = Instant::now();
    let mut before = Directory::read(data_dir, like.map(|image| &image.directory));
    loop {
        let_pass(APART);
        let now = Directory::read(data_dir, Some(&before));
        if now == before {
            return now;
        }
        assert!(begun.elapsed() < HANG, "hangs: the node never rests");
        before = now;
    }
}

struct Load<'a> {
    runtime: &'a Runtime,
    client: Client,
    stream: Stream,
    producer: Producer,
    sender: u32,
    sent: u64,
}

impl<'a> Load<'a> {
    fn begin(runtime: &'a Runtime, setup: &Setup, boot: u64) -> Self {
        let (client, stream, producer) = runtime.block_on(async {
            let connecting = Client::connect(setup.server, Options::default());
            let client = within("a connection", connecting).await.expect("a node");
            let wanted = StreamOptions {
                partitions: PARTITIONS,
                ..StreamOptions::default()
            };
            let creating = client.create_stream(PATH, wanted);
            let stream = within("a stream", creating).await.expect("created");
            let producer = client.producer(PATH, ProducerOptions::default());
            (client, stream, producer)
        });
        Self {
            runtime,
            client,
            stream,
            producer,
            sender: u32::try_from(boot).expect("few"),
            sent: 0,
        }
    }

    /// Writes to another stream, and deletes it.
    fn give_up(&self, prng: &mut Prng) {
        let bytes = prng.range(4 * MIB, 9 * MIB);
        self.runtime.block_on(async {
            let creating = self
                .client
                .create_stream(GIVEN_UP, StreamOptions::default());
            let stream = within("a stream", creating).await.expect("created");
            let producer = self.client.producer(GIVEN_UP, ProducerOptions::default());
            for _ in 0..bytes / VALUE_BYTES_MAX {
                let value = vec![7; usize::try_from(VALUE_BYTES_MAX).expect("small")];
                let sending = producer.send(Record::new(value));
                within("an acknowledgement", sending).await.expect("stored");
            }
            let deleting = self.client.delete_stream(stream.id);
            within("the stream's end", deleting).await.expect("deleted");
        });
    }

    /// Sends some megabytes and waits for their acknowledgements.
    fn burst(&mut self, prng: &mut Prng, acked: &mut BTreeMap<(u32, u64), Event>) {
        let bytes = prng.range(MIB / 4, 6 * MIB);
        let mut left = bytes;
        while left > 0 {
            left = left.saturating_sub(self.group(prng, acked));
        }
    }

    /// Sends a few records at once and waits for their acknowledgements. Says how many bytes they had.
    fn group(&mut self, prng: &mut Prng, acked: &mut BTreeMap<(u32, u64), Event>) -> u64 {
        let mut bytes = 0;
        self.runtime.block_on(async {
            let mut waiting = Vec::new();
            for _ in 0..prng.range(1, 12) {
                let is_small = prng.chance(1, 3);
                let size = prng.range(16, if is_small { 600 } else { VALUE_BYTES_MAX });
                let (event, value) = self.next(size);
                let partition = PartitionIndex::new(prng.below(u64::from(PARTITIONS)) as u32);
                let accepting = self
                    .producer
                    .enqueue_to(Record::new(value), Some(partition));
                let ack = within("credit", accepting).await.expect("accepted");
                waiting.push((event, ack));
                bytes += size;
            }
            for (event, ack) in waiting {
                let ack = within("an acknowledgement", ack).await.expect("stored");
                let place = (ack.partition.get(), ack.offset.get());
                assert_eq!(acked.insert(place, event), None, "{place:?} is given once");
            }
        });
        bytes
    }

    /// Sends records of which some are still under way when this returns; those that are acknowledged are noted.
    fn leave_some(&mut self, prng: &mut Prng, acked: &mut BTreeMap<(u32, u64), Event>) {
        for _ in 0..prng.below(6) {
            self.group(prng, acked);
        }
        self.runtime.block_on(async {
            for _ in 0..prng.below(8) {
                let (_, value) = self.next(prng.range(16, VALUE_BYTES_MAX));
                let accepting = self.producer.enqueue(Record::new(value));
                drop(within("credit", accepting).await.expect("accepted"));
            }
        });
    }

    fn next(&mut self, bytes: u64) -> (Event, Vec<u8>) {
        let event = Event {
            sender: self.sender,
            number: self.sent,
        };
        self.sent += 1;
        (event, event.value(usize::try_from(bytes).expect("small")))
    }
}
