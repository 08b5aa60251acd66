//! A real load on the real program in a build that records its disk: streams that keep everything, streams that trim, one
//! that is deleted, one in memory; small records that gather and large ones that fill chunks; producers that begin new sessions; segments that
//! roll, are released and used again; checkpoints; kills with starts behind them; an orderly stop.

use crate::check::Settings;
use crate::image::Files;
use integration::node::{Node, Setup};
use integration::scratch::Scratch;
use integration::{runtime, within};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;
use tiderace_base::limits::{KIB, MIB};
use tiderace_base::prng::Prng;
use tiderace_client::{
    Backoff, Client, Durability, Options, ProducerId, ProducerOptions, Record, Retention,
    SendError, SessionEpoch, StreamOptions,
};
use tokio::sync::watch;

/// The name of the file, beside the recordings, that says how the node was configured.
const SETTINGS: &str = "settings";
/// The file of a data directory that no recording tells of: written once, before the first journal is.
const LAYOUT: &str = "layout";
/// Acknowledgements that one producer waits for at most.
const WAITING_MAX: usize = 48;
/// Far longer than a load: what is not acknowledged in the end is a failure.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// How much load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Shards of the node.
    pub shards: u16,
    /// How often it is killed on the way and started again.
    pub kills: u64,
    /// Records of each producer of small ones.
    pub small_records: u64,
    /// Records of each producer of large ones.
    pub large_records: u64,
    /// Sessions of each producer, one behind the other.
    pub sessions: u16,
    /// Decides sizes and keys.
    pub seed: u64,
}

/// A stream and who writes to it.
struct Writer {
    path: &'static str,
    partitions: u32,
    durability: Durability,
    retention_bytes: u64,
    producers: u64,
    value_bytes: (u64, u64),
    is_large: bool,
    /// The stream is deleted when everything was acknowledged, while others go on.
    is_deleted: bool,
}

const WRITERS: [Writer; 5] = [
    Writer {
        path: "crash/kept",
        partitions: 3,
        durability: Durability::Local,
        retention_bytes: 0,
        producers: 3,
        value_bytes: (1, 900),
        is_large: false,
        is_deleted: false,
    },
    Writer {
        path: "crash/trimmed",
        partitions: 2,
        durability: Durability::Local,
        retention_bytes: MIB as u64,
        producers: 2,
        value_bytes: (200, 6_000),
        is_large: false,
        is_deleted: false,
    },
    Writer {
        path: "crash/large",
        partitions: 2,
        durability: Durability::Local,
        retention_bytes: 3 * MIB as u64,
        producers: 1,
        value_bytes: (20 * KIB as u64, 400 * KIB as u64),
        is_large: true,
        is_deleted: false,
    },
    Writer {
        path: "crash/deleted",
        partitions: 2,
        durability: Durability::Local,
        retention_bytes: 0,
        producers: 1,
        value_bytes: (1, 300),
        is_large: false,
        is_deleted: true,
    },
    Writer {
        path: "crash/volatile",
        partitions: 1,
        durability: Durability::Memory,
        retention_bytes: MIB as u64,
        producers: 1,
        value_bytes: (1, 500),
        is_large: false,
        is_deleted: false,
    },
];

/// Puts the load on a node in `scratch` and leaves its recording in `folder`.
///
/// # Panics
/// When the node does not serve it, or the folder cannot be written.
#[must_use]
pub fn record(plan: Plan, scratch: &Scratch, folder: &Path) -> Settings {
    let memory_bytes = 32 * MIB * usize::from(plan.shards);
    let settings = Settings {
        segment_bytes: 4 * MIB as u64,
        memory_bytes,
    };
    let setup = Setup::new(scratch)
        .with("shards", plan.shards)
        .with("segment", "4MiB")
        .with("prewrite", "4MiB")
        .with("memory", format!("{}MiB", memory_bytes / MIB))
        .recorded_in(folder.to_owned());
    let mut node = Node::start(&setup);
    let runtime = runtime();
    let (progress, mut acked) = watch::channel(0_u64);
    let (_client, tasks) = runtime.block_on(begin(&setup, plan, &progress));
    let total: u64 = WRITERS.iter().map(|writer| writer.records(plan)).sum();
    for kill in 1..=plan.kills {
        let until = total * kill / (plan.kills + 1);
        let reached = acked.wait_for(|acked| *acked >= until);
        let reached = runtime.block_on(within("acknowledgements before a kill", reached));
        drop(reached.expect("producers produce"));
        node.kill();
        node = Node::start(&setup);
    }
    for task in tasks {
        runtime
            .block_on(within("the rest of the load", task))
            .expect("a producer ends well");
    }
    node.stop();
    let text = format!("{} {}\n", settings.segment_bytes, settings.memory_bytes);
    std::fs::write(folder.join(SETTINGS), text).expect("a file beside the recordings");
    std::fs::copy(setup.data_dir.join(LAYOUT), folder.join(LAYOUT)).expect("a node has a layout");
    settings
}

/// The layout of the node of a recording.
///
/// # Errors
/// The folder has none.
pub fn layout(folder: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(folder.join(LAYOUT))
}

/// Makes an image a data directory that the program starts from.
///
/// # Errors
/// It cannot be written.
pub fn write(directories: &[(String, Files)], layout: &[u8], data_dir: &Path) -> io::Result<()> {
    for (name, files) in directories {
        let journal = data_dir.join(name);
        std::fs::create_dir_all(&journal)?;
        for (file, bytes) in files {
            std::fs::write(journal.join(file.to_string()), bytes.as_slice())?;
        }
    }
    std::fs::write(data_dir.join(LAYOUT), layout)
}

/// How the node of a recording was configured; none when the folder does not say.
#[must_use]
pub fn settings(folder: &Path) -> Option<Settings> {
    let text = std::fs::read_to_string(folder.join(SETTINGS)).ok()?;
    let (segment_bytes, memory_bytes) = text.trim().split_once(' ')?;
    Some(Settings {
        segment_bytes: segment_bytes.parse().ok()?,
        memory_bytes: memory_bytes.parse().ok()?,
    })
}

async fn begin(
    setup: &Setup,
    plan: Plan,
    progress: &watch::Sender<u64>,
) -> (Client, Vec<tokio::task::JoinHandle<()>>) {
    let options = Options {
        request_timeout: PATIENCE,
        backoff: Backoff {
            first_ns: 1_000_000,
            longest_ns: 20_000_000,
        },
        ..Options::default()
    };
    let client = Client::connect(setup.server, options)
        .await
        .expect("a node");
    let mut tasks = Vec::new();
    let mut id = 0;
    for writer in &WRITERS {
        let stream = StreamOptions {
            partitions: writer.partitions,
            durability: Some(writer.durability),
            retention: Retention {
                bytes: writer.retention_bytes,
                age_ms: 0,
            },
            ..StreamOptions::default()
        };
        let creating = client.create_stream(writer.path, stream);
        let made = within("a stream", creating).await.expect("created");
        for _ in 0..writer.producers {
            id += 1;
            let (client, progress) = (client.clone(), progress.clone());
            let stream = made.id;
            tasks.push(tokio::spawn(async move {
                produce(&client, writer, id, plan, progress).await;
                if writer.is_deleted {
                    let deleting = client.delete_stream(stream);
                    within("a deletion", deleting).await.expect("deleted");
                }
            }));
        }
    }
    (client, tasks)
}

impl Writer {
    /// Records of all its producers.
    fn records(&self, plan: Plan) -> u64 {
        self.producers * self.records_of_each(plan)
    }

    fn records_of_each(&self, plan: Plan) -> u64 {
        if self.is_large {
            plan.large_records
        } else {
            plan.small_records
        }
    }
}

/// One producer: its sessions one behind the other, each of which waits for everything that it sent.
async fn produce(
    client: &Client,
    writer: &'static Writer,
    id: u128,
    plan: Plan,
    progress: watch::Sender<u64>,
) {
    let mut prng = Prng::new(plan.seed ^ (id as u64) << 32);
    let records = writer.records_of_each(plan);
    // A kill takes what a stream in memory had acknowledged, and its producer is told so.
    let may_lose = writer.durability == Durability::Memory;
    let settled = |result: Result<(), SendError>| {
        assert!(
            result.is_ok() || may_lose,
            "everything is acknowledged in the end, but: {result:?}"
        );
        progress.send_modify(|acked| *acked += 1);
    };
    let mut sent = 0;
    for session in 1..=plan.sessions {
        let until = records * u64::from(session) / u64::from(plan.sessions);
        let options = ProducerOptions {
            id: Some((ProducerId::new(id), SessionEpoch::new(session))),
            timeout: PATIENCE,
            ..ProducerOptions::default()
        };
        let producer = client.producer(writer.path, options);
        let mut waiting = VecDeque::new();
        while sent < until || !waiting.is_empty() {
            // Now and then one waits for everything: then there are pauses, and closing chunks.
            let most = if prng.chance(1, 64) { 1 } else { WAITING_MAX };
            if waiting.len() < most && sent < until {
                let (low, high) = writer.value_bytes;
                let mut value = vec![0; prng.range(low, high) as usize];
                prng.fill(&mut value);
                let key = prng.below(100).to_le_bytes().to_vec();
                let record = Record::new(value).key(key);
                sent += 1;
                match producer.enqueue(record).await {
                    Ok(ack) => waiting.push_back(ack),
                    Err(error) => settled(Err(error)),
                }
            } else if let Some(ack) = waiting.pop_front() {
                settled(ack.await.map(drop));
            }
        }
    }
}
