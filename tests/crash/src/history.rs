//! What clients had been told at each point of a recording, read from the bytes of their connections: what was sent to the
//! node, what it acknowledged, which streams it said to have made. Nothing here looks at the disk, so that a node that
//! acknowledges too early is found out by it.
//!
//! An acknowledgement counts from the moment at which the node hands it to its socket: no client can have read it sooner.

use crate::recording::Recording;
use bytes::{Buf, Bytes, BytesMut};
use sim::found::{FoundStream, digest};
use sim::history::{BatchName, Observation};
use std::collections::BTreeMap;
use tiderace_base::catalogue::{Durability, Retention};
use tiderace_base::ids::StreamId;
use tiderace_base::limits::LINK_HEADER_BYTES;
use tiderace_io::recording::Event;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::frame::{Control, Produce};
use tiderace_wire::link::{Kind, LinkHeader};

/// What was seen, in the order of the recording.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was seen.
    pub observations: Vec<Observation>,
    /// For each observation the step behind which it had been seen.
    steps: Vec<usize>,
    /// Streams in the order in which their creation was acknowledged.
    streams: Vec<Made>,
    /// Steps at which something was acknowledged.
    pub acknowledging: Vec<usize>,
    /// The largest batch, in bytes.
    pub batch_bytes_max: u64,
}

/// A stream that clients were told of.
#[derive(Clone, Debug)]
struct Made {
    id: StreamId,
    stream: FoundStream,
    /// The step at which its creation was acknowledged.
    at: usize,
    /// The step at which somebody asked for its end: from there on nothing is promised of it.
    until: usize,
}

/// The two directions of one connection.
#[derive(Default)]
struct Connection {
    received: BytesMut,
    sent: BytesMut,
    /// Batches that were not answered yet, by message id.
    asked: BTreeMap<u64, BatchName>,
}

impl History {
    /// Reads the connections of a recording.
    ///
    /// # Panics
    /// When a frame is none: the node would have refused it, or sent nonsense.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let mut history = Self::default();
        let mut connections: BTreeMap<(usize, usize, u64), Connection> = BTreeMap::new();
        let mut start = 0;
        for (at, step) in recording.steps.iter().enumerate() {
            if step.start != start {
                start = step.start;
                history.note(at, died());
            }
            match &step.event {
                Event::Received { connection, bytes } => {
                    let key = (step.start, step.journal, *connection);
                    let connection = connections.entry(key).or_default();
                    connection.received.extend_from_slice(bytes);
                    while let Some((kind, id, control, batch)) = frame(&mut connection.received) {
                        if let Some(name) = history.received(at, kind, &control, &batch) {
                            connection.asked.insert(id, name);
                        }
                    }
                }
                Event::Sending { connection, bytes } => {
                    let key = (step.start, step.journal, *connection);
                    let connection = connections.entry(key).or_default();
                    connection.sent.extend_from_slice(bytes);
                    while let Some((kind, _, control, _)) = frame(&mut connection.sent) {
                        history.sent(at, kind, &control, &mut connection.asked);
                    }
                }
                Event::Opened { .. } | Event::Began { .. } | Event::Ended { .. } => {}
            }
        }
        history
    }

    /// What had been seen when the first `steps` steps had happened.
    #[must_use]
    pub fn until(&self, steps: usize) -> &[Observation] {
        let count = self.steps.partition_point(|step| *step < steps);
        &self.observations[..count]
    }

    /// The streams whose creation had been acknowledged by then, and whose deletion had not been asked for.
    #[must_use]
    pub fn streams(&self, steps: usize) -> Vec<FoundStream> {
        let known = self.streams.iter();
        known
            .filter(|made| made.at < steps && steps <= made.until)
            .map(|made| made.stream.clone())
            .collect()
    }

    fn note(&mut self, at: usize, observation: Observation) {
        self.steps.push(at);
        self.observations.push(observation);
    }

    fn received(
        &mut self,
        at: usize,
        kind: Kind,
        control: &[u8],
        batch: &[u8],
    ) -> Option<BatchName> {
        let epoch = match Control::decode(kind, control).expect("a client sends what holds") {
            Control::Produce(Produce { epoch, .. }) => epoch,
            Control::StreamDelete(delete) => {
                let ends = self.streams.iter_mut();
                for made in ends.filter(|made| made.id == delete.stream) {
                    made.until = made.until.min(at);
                }
                return None;
            }
            _ => return None,
        };
        let header = BatchHeader::parse(batch).expect("a client sends batches that hold");
        let producer = header.producer_id().get();
        assert!(producer != 0, "the load names its producers");
        let name = BatchName {
            partition: header.key(),
            producer,
            producer_epoch: header.producer_epoch().get(),
            seq: header.producer_seq().get(),
        };
        self.batch_bytes_max = self.batch_bytes_max.max(batch.len() as u64);
        self.note(
            at,
            Observation::Submitted {
                batch: name,
                epoch: epoch.get(),
                records: header.record_count(),
                digest: digest(header),
            },
        );
        Some(name)
    }

    fn sent(
        &mut self,
        at: usize,
        kind: Kind,
        control: &[u8],
        asked: &mut BTreeMap<u64, BatchName>,
    ) {
        match Control::decode(kind, control) {
            Ok(Control::Produced(produced)) => {
                for ack in produced.acks() {
                    let batch = asked.remove(&ack.request.get());
                    if ack.code.is_none() {
                        self.acknowledging.push(at);
                        self.note(
                            at,
                            Observation::Acknowledged {
                                batch: batch.expect("what is acknowledged was sent"),
                                offset: ack.base_offset.get(),
                                epoch: ack.epoch.get(),
                                duplicate: ack.flags.is_duplicate(),
                            },
                        );
                    }
                }
            }
            Ok(Control::StreamCreated(created)) => {
                let stream = created.stream;
                self.note(
                    at,
                    Observation::StreamKnown {
                        stream: stream.id.get(),
                        durability: stream.durability,
                        trims: stream.retention != Retention::default(),
                    },
                );
                // Asked for again, it is the same one.
                if self.streams.iter().all(|made| made.id != stream.id) {
                    self.streams.push(Made {
                        id: stream.id,
                        stream: FoundStream {
                            path: stream.path,
                            partitions: stream.partitions,
                            durability: stream.durability,
                            retention: stream.retention,
                        },
                        at,
                        until: usize::MAX,
                    });
                }
            }
            Ok(_) => {}
            Err(error) => panic!("the node sent a {kind:?} at step {at} that is none: {error:?}"),
        }
    }

    /// Whether acknowledgements promise anything: a recording that checks nothing is no check.
    #[must_use]
    pub fn promises(&self) -> bool {
        let durable = |made: &Made| made.stream.durability != Durability::Memory;
        !self.acknowledging.is_empty() && self.streams.iter().any(durable)
    }
}

fn died() -> Observation {
    Observation::NodeDied {
        node: 0,
        power: false,
        stopped: false,
    }
}

/// Takes the next whole frame off the front: kind, message id, control section, batches.
fn frame(input: &mut BytesMut) -> Option<(Kind, u64, Bytes, Bytes)> {
    let front = input.first_chunk::<LINK_HEADER_BYTES>()?;
    let header = LinkHeader::parse(front).expect("a link header that holds");
    if input.len() < header.frame_len() {
        return None;
    }
    let (kind, id) = (header.kind(), header.message_id().get());
    let (control_len, batch_len) = (header.control_len(), header.batch_len());
    input.advance(LINK_HEADER_BYTES);
    let control = input.split_to(control_len).freeze();
    let batches = input.split_to(batch_len).freeze();
    Some((kind, id, control, batches))
}
