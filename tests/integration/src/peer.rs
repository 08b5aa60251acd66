//! A peer that speaks the protocol over a bare socket and keeps only the rules that it wants to.

use crate::HANG;
use crate::batches::{self, LINK_BYTES};
use crate::node::Setup;
use bytes::BytesMut;
use core::time::Duration;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, StreamId};
use tiderace_base::position::Epoch;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    Ack, Control, Error, Hello, Metadata, MetadataRequest, MetadataWhat, Ping, Produced,
    StreamCreate, StreamCreated, Subscribe, SubscribeFrom, Subscribed, Welcome,
};
use tiderace_wire::link::{Kind, LinkHeader};

/// What a node said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Its link header.
    pub header: LinkHeader,
    control: Vec<u8>,
    /// The batches behind the control section.
    pub batches: Vec<u8>,
}

impl Answer {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.header.kind()
    }

    /// Its control section.
    #[must_use]
    pub fn control(&self) -> Control<'_> {
        Control::decode(self.kind(), &self.control).expect("a node writes what can be read")
    }
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    last_id: u64,
    /// Acknowledgements of a frame that were not asked for yet, the last one first.
    acks: Vec<Ack>,
}

impl Peer {
    /// Connects and says nothing.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(HANG)).expect("a socket");
        stream.set_write_timeout(Some(HANG)).expect("a socket");
        Self {
            stream,
            last_id: 0,
            acks: Vec::new(),
        }
    }

    /// Connects and shakes hands.
    #[must_use]
    pub fn open(address: SocketAddr) -> (Self, Welcome) {
        let mut peer = Self::connect(address);
        peer.ask(hello());
        let answer = peer.next_frame().expect("a welcome");
        let Control::Welcome(welcome) = answer.control() else {
            panic!("a welcome answers a hello, not {answer:?}");
        };
        (peer, welcome)
    }

    /// A connection to the shard that leads a partition, the partition, and its epoch.
    #[must_use]
    pub fn at_leader(setup: &Setup, path: &str, partition: u32) -> (Self, PartitionKey, Epoch) {
        let (mut asking, _) = Self::open(setup.server);
        let metadata = asking.metadata(path);
        let key = PartitionKey {
            stream: metadata.stream.expect("it was asked for").id,
            partition: PartitionIndex::new(partition),
        };
        let place = metadata.partitions[partition as usize];
        let (peer, welcome) = Self::open(setup.shard(place.shard.get()));
        assert_eq!(welcome.shard, place.shard, "a shard has its own port");
        (peer, key, place.epoch)
    }

    /// The next message id.
    pub fn id(&mut self) -> MessageId {
        self.last_id += 1;
        MessageId::new(self.last_id)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the node takes it");
    }

    /// Sends bytes to a node that may hang up before it has them all.
    ///
    /// # Errors
    /// It hung up.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes pieces until the node takes no more of them, or there are none left. How many it took whole.
    pub fn flood(&mut self, pieces: impl IntoIterator<Item = Vec<u8>>) -> u64 {
        // Long enough for any node that still reads; a shorter flood would be no failure either.
        const PATIENCE: Duration = Duration::from_secs(2);
        self.stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a socket");
        let mut taken = 0;
        for piece in pieces {
            if self.try_send(&piece).is_err() {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// Sends bytes one at a time, each in a packet of its own.
    pub fn dribble(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.send(core::slice::from_ref(byte));
        }
    }

    /// Sends a frame under the next message id. That id.
    pub fn ask(&mut self, mut frame: Vec<u8>) -> MessageId {
        let id = self.id();
        batches::put_u64(&mut frame, 8, id.get());
        batches::seal_link(&mut frame);
        self.send(&frame);
        id
    }

    /// Sends a batch without an epoch. The frame's id.
    pub fn produce(&mut self, batch: &[u8]) -> MessageId {
        let id = self.id();
        let frame = batches::produce(id, 0, batch);
        self.send(&frame);
        id
    }

    /// Sends a batch to a node that may hang up before it has it.
    ///
    /// # Errors
    /// It hung up.
    pub fn try_produce(&mut self, batch: &[u8]) -> io::Result<()> {
        let id = self.id();
        self.try_send(&batches::produce(id, 0, batch))
    }

    /// The next frame; `None` when the node has closed the connection.
    pub fn next_frame(&mut self) -> Option<Answer> {
        let mut header = [0; LINK_BYTES];
        if let Err(error) = self.stream.read_exact(&mut header) {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ),
                "the node neither answers nor hangs up: {error}"
            );
            return None;
        }
        let header = LinkHeader::parse(&header).expect("a node's header holds");
        let mut control = vec![0; header.control_len()];
        let mut batches = vec![0; header.batch_len()];
        self.stream.read_exact(&mut control).expect("a whole frame");
        self.stream.read_exact(&mut batches).expect("a whole frame");
        header
            .check_control(&control)
            .expect("a node's control section holds");
        Some(Answer {
            header,
            control,
            batches,
        })
    }

    /// The next frame that is not a grant.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        loop {
            let answer = self.next_frame().expect("the connection goes on");
            if answer.kind() != Kind::Credit {
                return answer;
            }
        }
    }

    /// The next frame, which refuses a request.
    #[track_caller]
    pub fn refusal(&mut self) -> Error {
        let answer = self.answer();
        match answer.control() {
            Control::Error(error) => error,
            other => panic!("an error was due, not {other:?}"),
        }
    }

    /// The next acknowledgement.
    #[track_caller]
    pub fn ack(&mut self) -> Ack {
        if self.acks.is_empty() {
            let answer = self.answer();
            let Control::Produced(produced) = answer.control() else {
                panic!("an acknowledgement was due, not {:?}", answer.control());
            };
            self.acks.extend(Produced::acks(&produced));
            self.acks.reverse();
        }
        self.acks.pop().expect("a produced frame has some")
    }

    /// Asserts that the connection ends now, with this code as the last thing that is said.
    #[track_caller]
    pub fn ends_with(&mut self, code: ErrorCode) {
        let error = self.refusal();
        assert_eq!(error.code, code);
        assert!(error.fatal, "{code:?} ends a connection");
        assert_eq!(error.retry, code.retry());
        if let Some(answer) = self.next_frame() {
            panic!("nothing follows {code:?}, but {answer:?} did");
        }
    }

    /// Asserts that the connection still serves.
    #[track_caller]
    pub fn still_serves(&mut self) {
        const NONCE: u64 = 77;
        self.ask(ping(NONCE));
        let answer = self.answer();
        let Control::Pong(pong) = answer.control() else {
            panic!("a pong was due, not {:?}", answer.control());
        };
        assert_eq!(pong.nonce, NONCE);
    }

    /// Where a stream is led.
    #[track_caller]
    pub fn metadata(&mut self, path: &str) -> Metadata {
        let asked = metadata_of(path);
        self.ask(encoded(|out, id| asked.encode(out, id)));
        let answer = self.answer();
        match answer.control() {
            Control::Metadata(metadata) => metadata,
            other => panic!("metadata was due, not {other:?}"),
        }
    }

    /// Creates a stream.
    #[track_caller]
    pub fn create(&mut self, asked: &StreamCreate) -> StreamCreated {
        self.ask(encoded(|out, id| asked.encode(out, id)));
        let answer = self.answer();
        match answer.control() {
            Control::StreamCreated(created) => created,
            other => panic!("a stream was due, not {other:?}"),
        }
    }

    /// Begins a subscription.
    #[track_caller]
    pub fn subscribe(&mut self, asked: &Subscribe) -> Subscribed {
        self.ask(encoded(|out, id| asked.encode(out, id)));
        let answer = self.answer();
        match answer.control() {
            Control::Subscribed(subscribed) => subscribed,
            other => panic!("a subscription was due, not {other:?}"),
        }
    }

    /// Ends its half of the connection: no byte follows.
    pub fn hang_up(&self) {
        // A node that closed first has won.
        drop(self.stream.shutdown(std::net::Shutdown::Write));
    }
}

/// The frame that `encode` writes, as the first of a connection.
#[must_use]
pub fn encoded(encode: impl FnOnce(&mut BytesMut, MessageId)) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(&mut out, MessageId::new(1));
    out.to_vec()
}

/// A good hello.
#[must_use]
pub fn hello() -> Vec<u8> {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        client_id: 7,
        name: "torture".to_owned(),
    };
    encoded(|out, id| hello.encode(out, id))
}

/// A good ping.
#[must_use]
pub fn ping(nonce: u64) -> Vec<u8> {
    encoded(|out, id| Ping { nonce }.encode(out, id))
}

/// Asks for a stream by its path.
#[must_use]
pub fn metadata_of(path: &str) -> MetadataRequest {
    MetadataRequest {
        what: MetadataWhat::ByPath,
        first_partition: PartitionIndex::new(0),
        stream: StreamId::new(0),
        path: path.into(),
    }
}

/// A subscription to a partition with this number, place, and credit for as much as may be granted at once.
#[must_use]
pub fn subscription(number: u32, key: PartitionKey, from: SubscribeFrom, at: u64) -> Subscribe {
    Subscribe {
        subscription: tiderace_base::ids::SubscriptionId::new(number),
        partition: key.partition,
        stream: key.stream,
        from,
        epoch: Epoch::ZERO,
        position: at,
        credit_bytes: 64 << 20,
        credit_batches: 65_536,
    }
}

/// A stream with this many partitions, as the node's defaults have it otherwise.
#[must_use]
pub fn stream(path: &str, partitions: u32) -> StreamCreate {
    StreamCreate {
        partitions,
        durability: None,
        tenant: tiderace_base::ids::TenantId::new(0),
        retention: tiderace_base::catalogue::Retention::default(),
        path: path.into(),
    }
}
