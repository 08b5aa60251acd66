//! Before the load: creates the streams and learns where their partitions are led. Blocking, because nothing is measured
//! yet. Many streams are made over a few connections, each with as many requests waiting as the node allows.

use crate::progress::{Line, Progress};
use crate::session::Session;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::ids::{PartitionIndex, PartitionKey, TenantId};
use tiderace_base::limits::PATH_BYTES_MAX;
use tiderace_base::position::Epoch;
use tiderace_client::core::connection::{Answer, Identity};
use tiderace_client::core::engine::Request;
use tiderace_io::Connector;

/// Streams of one run.
pub(crate) const STREAMS_MAX: u64 = 1_000_000;
/// Partitions of all streams of one run: each costs the generator about 50 bytes.
pub(crate) const PLACES_MAX: u64 = 4_000_000;
/// Connections that many streams are made over.
const MAKERS_MAX: u64 = 16;
/// Streams that are worth a connection of their own.
const STREAMS_PER_MAKER: u64 = 64;

/// Where a partition is led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Which.
    pub(crate) key: PartitionKey,
    /// The shard's own address.
    pub(crate) address: SocketAddr,
    /// The slot's epoch.
    pub(crate) epoch: Epoch,
}

/// Streams that are ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// How it is spoken to, if by TLS.
    pub(crate) tls: Option<Connector>,
    /// What their acknowledgements promise.
    pub(crate) durability: Durability,
    /// Of each stream.
    pub(crate) partitions: u32,
    /// All partitions, in order, stream by stream.
    pub(crate) places: Vec<Place>,
}

/// Streams to be made.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The path of the only one; of several, what their paths begin with.
    pub(crate) path: Arc<str>,
    /// How many streams.
    pub(crate) streams: u64,
    /// How many partitions of each.
    pub(crate) partitions: u32,
    /// `None`: the node's default.
    pub(crate) durability: Option<Durability>,
    /// Bytes of each partition that are kept; zero: all.
    pub(crate) retention_bytes: u64,
}

impl Wanted {
    /// How much is kept.
    pub(crate) fn retention(&self) -> Retention {
        Retention {
            bytes: self.retention_bytes,
            ..Retention::default()
        }
    }

    /// The path of a stream, from 0.
    #[must_use]
    pub(crate) fn path_of(&self, index: u64) -> Arc<str> {
        if self.streams == 1 {
            self.path.clone()
        } else {
            format!("{}/{index}", self.path).into()
        }
    }

    /// Whether a node could make them.
    ///
    /// # Errors
    /// What to change.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.streams == 0 || self.streams > STREAMS_MAX {
            return Err(format!("a run has 1 to {STREAMS_MAX} streams"));
        }
        if self.partitions == 0 || self.streams * u64::from(self.partitions) > PLACES_MAX {
            return Err(format!(
                "a run has 1 to {PLACES_MAX} partitions, those of all streams together"
            ));
        }
        if self.path_of(self.streams - 1).len() > PATH_BYTES_MAX {
            return Err(format!("a path has at most {PATH_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn create(&self, index: u64) -> Request {
        Request::Create {
            path: self.path_of(index),
            partitions: self.partitions,
            durability: self.durability,
            tenant: TenantId::new(0),
            retention: self.retention(),
        }
    }
}

/// Who we say we are.
#[must_use]
pub(crate) fn identity() -> Identity {
    Identity {
        client_id: tiderace_io::entropy::random_u128(),
        name: "loadgen".to_owned(),
    }
}

/// Makes sure that the streams are there and says where they are led.
///
/// # Errors
/// A sentence for people: not reachable, refused, or no Tiderace node.
pub(crate) fn prepare(
    server: SocketAddr,
    tls: Option<&Connector>,
    wanted: &Wanted,
) -> Result<Target, String> {
    wanted.check()?;
    let makers = wanted.streams.div_ceil(STREAMS_PER_MAKER).min(MAKERS_MAX);
    let progress = Arc::new(Progress::default());
    let line = (makers > 1).then(|| Line::draw(&progress, "streams"));
    let made = AtomicU64::new(0);
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..makers)
            .map(|maker| {
                let first = wanted.streams * maker / makers;
                let end = wanted.streams * (maker + 1) / makers;
                let (made, progress) = (&made, &progress);
                scope.spawn(move || {
                    make((server, tls), wanted, first, end, &|| {
                        let made = made.fetch_add(1, Ordering::Relaxed) + 1;
                        progress.update(made, made, made);
                    })
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err("a thread that makes streams panicked".to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    drop(line);
    let mut durability = Durability::Local;
    let mut places = Vec::with_capacity((wanted.streams * u64::from(wanted.partitions)) as usize);
    for (of, part) in parts {
        durability = of;
        places.extend(part);
    }
    Ok(Target {
        tls: tls.cloned(),
        durability,
        partitions: wanted.partitions,
        places,
    })
}

/// Makes the streams of these numbers over one connection.
fn make(
    (server, tls): (SocketAddr, Option<&Connector>),
    wanted: &Wanted,
    first: u64,
    end: u64,
    made: &dyn Fn(),
) -> Result<(Durability, Vec<Place>), String> {
    let count = end - first;
    let mut session = Session::open(server, tls)?;
    let mut durability = Durability::Local;
    session.ask_all(
        count,
        |index| wanted.create(first + index),
        |_, answer| {
            let Answer::Created(stream) = answer else {
                return Err(format!("{server} answered a create with {answer:?}"));
            };
            durability = stream.durability;
            made();
            Ok(())
        },
    )?;
    // The first page of each at once; the other pages of large streams one after the other.
    let ask = |index: u64, first_partition: usize| Request::Metadata {
        path: wanted.path_of(first + index),
        first_partition: PartitionIndex::new(first_partition as u32),
    };
    let mut led: Vec<Vec<Place>> = vec![Vec::new(); count as usize];
    session.ask_all(
        count,
        |index| ask(index, 0),
        |index, answer| page(server, answer, &mut led[index as usize]),
    )?;
    for (index, places) in led.iter_mut().enumerate() {
        while places.len() < wanted.partitions as usize {
            let answer = session.ask(&ask(index as u64, places.len()))?;
            page(server, answer, places)?;
        }
    }
    Ok((durability, led.into_iter().flatten().collect()))
}

/// Takes a page of metadata.
fn page(server: SocketAddr, answer: Answer, places: &mut Vec<Place>) -> Result<(), String> {
    let Answer::Metadata(page) = answer else {
        return Err(format!(
            "{server} answered a metadata request with {answer:?}"
        ));
    };
    let Some(stream) = &page.stream else {
        return Err(format!("{server} does not know a stream that it made"));
    };
    if page.partitions.is_empty() {
        return Err(format!("{server} names no leader for some partitions"));
    }
    for partition in &page.partitions {
        let text = page
            .nodes
            .iter()
            .find(|node| node.id == partition.node)
            .and_then(|node| node.shards.get(usize::from(partition.shard.get())))
            .ok_or_else(|| format!("{server} names a leader without an address"))?;
        let address = text
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .ok_or_else(|| format!("{server} names the address {text:?}, which is none"))?;
        places.push(Place {
            key: PartitionKey {
                stream: stream.id,
                partition: partition.partition,
            },
            address,
            epoch: partition.epoch,
        });
    }
    Ok(())
}
