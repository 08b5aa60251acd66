//! A client that means no good: garbage, damaged frames, kinds that are not for it, lengths that lie, requests before the
//! hello, half a frame and then silence, more than it was granted, batches that claim a place. Whatever it does costs it
//! its connection at most, and that it must cost wherever the framing or the credit is broken.

use bytes::{BufMut, Bytes, BytesMut};
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, StreamId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, LINK_WINDOW_BATCHES};
use tiderace_base::position::{Epoch, Offset};
use tiderace_base::prng::Prng;
use tiderace_wire::frame::{Hello, Ping, Pong, Produce};
use tiderace_wire::link::{Flags, LINK_VERSION};

use super::Zone;
use super::batch::Content;
use crate::history::BatchName;
use crate::world::{Actor, ActorEvent, LinkId, MachineId, Port};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trick {
    Garbage,
    BeforeHello,
    DamagedHeader,
    DamagedControl,
    LyingLength,
    ForeignKind,
    RepeatedId,
    TwoHellos,
    HalfAFrame,
    Overspend,
    ForgedPlace,
    DamagedBody,
    NotAnArchive,
}

const TRICKS: [Trick; 13] = [
    Trick::Garbage,
    Trick::BeforeHello,
    Trick::DamagedHeader,
    Trick::DamagedControl,
    Trick::LyingLength,
    Trick::ForeignKind,
    Trick::RepeatedId,
    Trick::TwoHellos,
    Trick::HalfAFrame,
    Trick::Overspend,
    Trick::ForgedPlace,
    Trick::DamagedBody,
    Trick::NotAnArchive,
];

impl Trick {
    /// Whether the node must end the connection.
    fn costs_the_connection(self) -> bool {
        !matches!(
            self,
            Self::Overspend | Self::ForgedPlace | Self::DamagedBody | Self::NotAnArchive
        )
    }
}

/// Tries one trick after another.
#[derive(Debug)]
pub(crate) struct Intruder {
    zone: Zone,
    link: Option<(LinkId, Trick, u64)>,
    connecting: bool,
    tries: u64,
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: LINK_VERSION,
        features: 0,
        client_id: 66,
        name: "intruder".to_owned(),
    }
}

/// A ping, of which something will be changed.
fn ping(id: u64) -> BytesMut {
    let mut out = BytesMut::new();
    Ping { nonce: id }.encode(&mut out, MessageId::new(id));
    out
}

/// Makes a changed header's own checksum right again.
fn reseal(frame: &mut [u8]) {
    let crc = crc32c(&frame[..28]);
    frame[28..32].copy_from_slice(&crc.to_le_bytes());
}

impl Intruder {
    pub(crate) fn new(zone: Zone, prng: &mut Prng) -> Self {
        Self {
            zone,
            link: None,
            connecting: false,
            tries: prng.range(1, 12),
        }
    }

    /// A batch for a stream that is not there, so that nothing of it can ever be taken.
    fn batch(prng: &mut Prng) -> BytesMut {
        let name = BatchName {
            partition: PartitionKey {
                stream: StreamId::new(u64::MAX),
                partition: PartitionIndex::new(0),
            },
            producer: 0,
            producer_epoch: 0,
            seq: 0,
        };
        let (_, bytes, _) = Content::draw(0, 1, 10, 0, prng).encode(&name);
        BytesMut::from(&bytes[..])
    }

    fn produce(batch: &[u8], id: u64, out: &mut BytesMut) {
        let produce = Produce {
            epoch: Epoch::ZERO,
            produce_slot: 0,
            since: Offset::ZERO,
        };
        produce.encode(out, MessageId::new(id), Flags::NONE, batch.len());
        out.put_slice(batch);
    }

    fn bytes(trick: Trick, prng: &mut Prng) -> Bytes {
        let mut out = BytesMut::new();
        if !matches!(
            trick,
            Trick::Garbage | Trick::BeforeHello | Trick::HalfAFrame
        ) {
            hello().encode(&mut out, MessageId::new(1));
        }
        match trick {
            Trick::Garbage => {
                let mut garbage = vec![0; prng.range(32, 300) as usize];
                prng.fill(&mut garbage);
                out.put_slice(&garbage);
            }
            Trick::BeforeHello => out.put_slice(&ping(1)),
            Trick::DamagedHeader => {
                let mut frame = ping(2);
                let bit = prng.below(32 * 8) as usize;
                frame[bit / 8] ^= 1 << (bit % 8);
                out.put_slice(&frame);
            }
            Trick::DamagedControl => {
                let mut frame = ping(2);
                let bit = prng.below(8 * 8) as usize;
                frame[32 + bit / 8] ^= 1 << (bit % 8);
                out.put_slice(&frame);
            }
            Trick::LyingLength => {
                let mut frame = ping(2);
                let at = if prng.chance(1, 2) { 16 } else { 20 };
                frame[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
                reseal(&mut frame);
                out.put_slice(&frame);
            }
            Trick::ForeignKind => {
                let mut frame = ping(2);
                frame[3] = [2, 33, 42, 64, 200][prng.below(5) as usize];
                reseal(&mut frame);
                out.put_slice(&frame);
            }
            Trick::RepeatedId => {
                out.put_slice(&ping(2));
                Pong { nonce: 0 }.encode(&mut out, MessageId::new(2));
            }
            Trick::TwoHellos => hello().encode(&mut out, MessageId::new(2)),
            Trick::HalfAFrame => {
                hello().encode(&mut out, MessageId::new(1));
                out.truncate(prng.range(1, out.len() as u64) as usize);
            }
            Trick::Overspend => {
                let batch = Self::batch(prng);
                // Credit comes back for what was refused: whether the rest of it is more than was granted, depends.
                for id in 0..u64::from(LINK_WINDOW_BATCHES) * 4 {
                    Self::produce(&batch, 2 + id, &mut out);
                }
            }
            Trick::ForgedPlace => {
                let mut batch = Self::batch(prng);
                let at = prng.range(80, 128) as usize;
                batch[at] ^= 1;
                Self::produce(&batch, 2, &mut out);
            }
            Trick::DamagedBody => {
                let mut batch = Self::batch(prng);
                let at = prng.range(0, batch.len() as u64) as usize;
                batch[at] ^= 1;
                Self::produce(&batch, 2, &mut out);
            }
            Trick::NotAnArchive => {
                let mut batch = Self::batch(prng);
                let tail = batch.len() - 8;
                batch[tail..].fill(0xff);
                let body_crc = crc32c(&batch[BATCH_HEADER_BYTES..]);
                batch[28..32].copy_from_slice(&body_crc.to_le_bytes());
                let crc = crc32c(&batch[..76]);
                batch[76..80].copy_from_slice(&crc.to_le_bytes());
                Self::produce(&batch, 2, &mut out);
            }
        }
        out.freeze()
    }
}

impl Actor for Intruder {
    fn step(&mut self, event: ActorEvent, port: &mut Port<'_>) {
        match event {
            ActorEvent::Wake => {
                if let Some((link, trick, since_ns)) = self.link
                    && !trick.costs_the_connection()
                    && since_ns + 50_000_000 < port.now_ns
                {
                    port.close(link);
                    self.link = None;
                }
                if self.link.is_none() && !self.connecting && self.tries > 0 {
                    self.connecting = true;
                    let machine: MachineId = self.zone.any_shard(port);
                    port.connect(machine);
                }
                let wait_ns = port.prng.range(10_000_000, 300_000_000);
                port.wake_in(wait_ns);
            }
            ActorEvent::Connected(link) => {
                self.connecting = false;
                // Faults may have ended while it was connecting: this one is still tried.
                self.tries = self.tries.saturating_sub(1);
                let mut trick = TRICKS[port.prng.below(TRICKS.len() as u64) as usize];
                // A thousand frames cost more than they show each time.
                if trick == Trick::Overspend && !port.prng.chance(1, 4) {
                    trick = Trick::Garbage;
                }
                self.link = Some((link, trick, port.now_ns));
                let bytes = Self::bytes(trick, port.prng);
                port.send(link, bytes);
            }
            ActorEvent::Received(..) => {}
            ActorEvent::Closed(link) => {
                if self.link.is_none_or(|(open, ..)| open == link) {
                    self.link = None;
                    self.connecting = false;
                }
            }
        }
    }

    fn waits(&self) -> bool {
        self.link
            .is_some_and(|(_, trick, _)| trick.costs_the_connection())
    }

    fn waits_for(&self) -> String {
        format!(
            "an intruder that did this and is still connected: {:?}",
            self.link
        )
    }

    fn heal(&mut self, _port: &mut Port<'_>) {
        self.tries = 0;
    }
}
