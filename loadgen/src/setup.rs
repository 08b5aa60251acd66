//! Before the load: creates the stream, learns where its partitions are led, and connects. Blocking, with the client
//! core's own session over one socket, because nothing is measured yet.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::ids::{PartitionIndex, TenantId};
use tiderace_base::position::Epoch;
use tiderace_client::core::connection::{Answer, Completion, Connection, Identity};
use tiderace_client::core::engine::Request;

/// How long the node may be silent, and how long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a partition is led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Which.
    pub(crate) partition: PartitionIndex,
    /// The shard's own address.
    pub(crate) address: SocketAddr,
    /// The slot's epoch.
    pub(crate) epoch: Epoch,
}

/// A stream that is ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The stream.
    pub(crate) stream: Stream,
    /// Its partitions, in order.
    pub(crate) places: Vec<Place>,
}

/// A stream to be made.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Its path.
    pub(crate) path: Arc<str>,
    /// How many partitions.
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
}

/// Who we say we are.
#[must_use]
pub(crate) fn identity() -> Identity {
    Identity {
        client_id: tiderace_io::entropy::random_u128(),
        name: "loadgen".to_owned(),
    }
}

/// Connects.
///
/// # Errors
/// A sentence for people.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| format!("cannot connect to {address}: {error}"))
}

/// Makes sure that the stream is there and says where it is led.
///
/// # Errors
/// A sentence for people: not reachable, refused, or no Tiderace node.
pub(crate) fn prepare(server: SocketAddr, wanted: &Wanted) -> Result<Target, String> {
    let mut session = Session::open(server)?;
    let created = session.ask(&Request::Create {
        path: wanted.path.clone(),
        partitions: wanted.partitions,
        durability: wanted.durability,
        tenant: TenantId::new(0),
        retention: wanted.retention(),
    })?;
    let Answer::Created(stream) = created else {
        return Err(format!("{server} answered a create with {created:?}"));
    };
    let mut places = Vec::new();
    while places.len() < stream.partitions as usize {
        let answer = session.ask(&Request::Metadata {
            path: wanted.path.clone(),
            first_partition: PartitionIndex::new(places.len() as u32),
        })?;
        let Answer::Metadata(page) = answer else {
            return Err(format!(
                "{server} answered a metadata request with {answer:?}"
            ));
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
                partition: partition.partition,
                address,
                epoch: partition.epoch,
            });
        }
    }
    Ok(Target {
        stream: *stream,
        places,
    })
}

/// One session over one blocking socket.
struct Session {
    server: SocketAddr,
    socket: TcpStream,
    connection: Connection,
    completions: VecDeque<Completion>,
}

impl Session {
    fn open(server: SocketAddr) -> Result<Self, String> {
        let socket = connect(server)?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.set_nodelay(true))
            .map_err(|error| error.to_string())?;
        let mut session = Self {
            server,
            socket,
            connection: Connection::new(&identity()),
            completions: VecDeque::new(),
        };
        while !session.connection.is_open() {
            session.exchange()?;
        }
        Ok(session)
    }

    /// Sends what waits and receives once.
    fn exchange(&mut self) -> Result<(), String> {
        let mut parts = Vec::new();
        self.connection.transmit(&mut parts);
        let lost = |error: std::io::Error| format!("{}: {error}", self.server);
        for part in parts {
            self.socket.write_all(&part).map_err(lost)?;
        }
        let mut piece = vec![0; 64 * 1024];
        let count = self.socket.read(&mut piece).map_err(lost)?;
        if count == 0 {
            return Err(format!("{} closed the connection", self.server));
        }
        piece.truncate(count);
        let mut completions = Vec::new();
        self.connection
            .receive(piece.into(), &mut completions)
            .map_err(|violation| format!("{}: {violation}", self.server))?;
        self.completions.extend(completions);
        Ok(())
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        self.connection
            .ask(1, request)
            .map_err(|refused| format!("{request:?} cannot be sent: {refused:?}"))?;
        loop {
            while let Some(completion) = self.completions.pop_front() {
                match completion {
                    Completion::Answered { answer, .. } => return Ok(answer),
                    Completion::Refused { refusal, .. } | Completion::Ended(refusal) => {
                        return Err(format!("{}: {refusal}: {}", self.server, refusal.code));
                    }
                    _ => {}
                }
            }
            self.exchange()?;
        }
    }
}

/// Whether a node answers a hello at this address.
#[must_use]
pub(crate) fn answers(server: SocketAddr) -> bool {
    Session::open(server).is_ok()
}
