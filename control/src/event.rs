//! What happened to the catalogue, and its published bytes. An event is a conclusion: whoever wrote it had looked at the
//! state, the clock and the entropy, so that applying it needs none of them. Encoded events stand back to back in the body
//! of a control entry: a header of 16 bytes (kind u8, format u8, reserved u16, payload bytes u32, version u64), then the
//! payload, all little-endian. A kind's payload never changes its meaning: it gets a new format. Decoding takes arbitrary
//! bytes and never panics.

use crate::encoding::{ADDRESS_BYTES, DecodeError, Reader, Write};
use core::num::NonZeroU8;
use std::net::SocketAddr;
use std::sync::Arc;
use tiderace_base::catalogue::{Durability, Retention, Stream, path_is_valid};
use tiderace_base::ids::{BootId, DiskId, NodeId, StreamId, TenantId, ZoneId};
use tiderace_base::limits;
use tiderace_base::position::CatalogueVersion;

/// An event's header.
pub const EVENT_HEADER_BYTES: usize = 16;

/// The largest event: a boot of a node with the most shards.
pub const EVENT_BYTES_MAX: usize =
    EVENT_HEADER_BYTES + NODE_BOOTED_BYTES + ADDRESS_BYTES + limits::SHARDS_MAX * SHARD_BOOT_BYTES;

/// A boot before its shards: node, boot, boot number, step, reserved, shard count, reserved, shared address.
const NODE_BOOTED_BYTES: usize = 8 + 8 + 8 + 1 + 1 + 2 + 4 + ADDRESS_BYTES;
/// A shard of a boot: disk, boot count, address.
const SHARD_BOOT_BYTES: usize = 16 + 8 + ADDRESS_BYTES;
/// A stream before its path.
const STREAM_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 8 + 1 + 1 + 2 + 4;
/// The largest event that a client's change makes.
pub(crate) const CHANGE_EVENT_BYTES_MAX: usize =
    EVENT_HEADER_BYTES + STREAM_BYTES + limits::PATH_BYTES_MAX;

/// The format of every kind, but for a boot with a control address.
const FORMAT: u8 = 1;
/// The format of a boot with a control address, which follows the shared one.
const FORMAT_BOOTED_WITH_CONTROL: u8 = 2;

/// One change of the catalogue, and which one it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogueEvent {
    /// The catalogue's version once this is applied. The first is 1; none is left out.
    pub version: CatalogueVersion,
    /// What happened.
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// The zone begins: always the first event, never another.
    ZoneCreated {
        /// Its name for ever. Not zero.
        zone: ZoneId,
        /// How many slots it has, for ever.
        slots: u16,
    },
    /// A node belongs to the zone. The first one leads every slot; slot s lives on its journal s mod journals.
    NodeJoined {
        /// Its name for as long as the zone remembers it. Not zero.
        node: NodeId,
        /// The disk of each of its journals, by number: 1 to [`limits::SHARDS_MAX`]. Their count is fixed from here on.
        disks: Arc<[DiskId]>,
    },
    /// A node's process started: every slot that it leads takes a new epoch.
    NodeBooted {
        /// The node.
        node: NodeId,
        /// Its run.
        boot: BootId,
        /// Which of its runs this is. The first is 1; none is left out.
        boot_number: u64,
        /// How far the epochs move. Random: a run that the catalogue has forgotten had, most likely, another epoch.
        epoch_step: NonZeroU8,
        /// The address that all its shards share.
        shared: SocketAddr,
        /// Where its control thread lets other nodes in; none: nowhere.
        control: Option<SocketAddr>,
        /// Each shard, by number: as many as the node has journals.
        shards: Arc<[ShardBoot]>,
    },
    /// A stream exists.
    StreamCreated(Arc<Stream>),
    /// A stream is gone; its data may be dropped.
    StreamDeleted {
        /// Which.
        stream: StreamId,
    },
    /// No shard holds data of this deleted stream any more.
    TombstoneCleared {
        /// Which.
        stream: StreamId,
    },
}

/// One shard of a node at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardBoot {
    /// The disk that its journal is on.
    pub disk: DiskId,
    /// How many runs the journal's superblock has counted, this one among them.
    pub boot_count: u64,
    /// The shard's own address.
    pub address: SocketAddr,
}

impl Fact {
    const fn kind(&self) -> u8 {
        match self {
            Self::ZoneCreated { .. } => 1,
            Self::NodeJoined { .. } => 2,
            Self::NodeBooted { .. } => 3,
            Self::StreamCreated(_) => 4,
            Self::StreamDeleted { .. } => 5,
            Self::TombstoneCleared { .. } => 6,
        }
    }

    const fn format(&self) -> u8 {
        match self {
            Self::NodeBooted {
                control: Some(_), ..
            } => FORMAT_BOOTED_WITH_CONTROL,
            _ => FORMAT,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::ZoneCreated { zone, slots } => {
                out.put_u64(zone.get());
                out.put_u16(*slots);
                out.put(&[0; 6]);
            }
            Self::NodeJoined { node, disks } => {
                out.put_u64(node.get());
                put_count(out, disks.len());
                out.put(&[0; 6]);
                for disk in disks.iter() {
                    out.put_u128(disk.get());
                }
            }
            Self::NodeBooted {
                node,
                boot,
                boot_number,
                epoch_step,
                shared,
                control,
                shards,
            } => {
                out.put_u64(node.get());
                out.put_u64(boot.get());
                out.put_u64(*boot_number);
                out.put_u8(epoch_step.get());
                out.put_u8(0);
                put_count(out, shards.len());
                out.put_u32(0);
                out.put_address(*shared);
                if let Some(control) = control {
                    out.put_address(*control);
                }
                for shard in shards.iter() {
                    out.put_u128(shard.disk.get());
                    out.put_u64(shard.boot_count);
                    out.put_address(shard.address);
                }
            }
            Self::StreamCreated(stream) => put_stream(out, stream),
            Self::StreamDeleted { stream } | Self::TombstoneCleared { stream } => {
                out.put_u64(stream.get());
            }
        }
    }

    fn decode(kind: u8, format: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match kind {
            1 => {
                let zone = ZoneId::new(not_zero(reader.u64()?, "zone")?);
                let slots = reader.u16()?;
                reader.reserved(6)?;
                if slots == 0 {
                    return Err(DecodeError::BadField("slots"));
                }
                Ok(Self::ZoneCreated { zone, slots })
            }
            2 => {
                let node = NodeId::new(not_zero(reader.u64()?, "node")?);
                let count = take_count(reader)?;
                reader.reserved(6)?;
                let mut disks = Vec::with_capacity(count);
                for _ in 0..count {
                    disks.push(DiskId::new(reader.u128()?));
                }
                Ok(Self::NodeJoined {
                    node,
                    disks: disks.into(),
                })
            }
            3 => decode_boot(reader, format == FORMAT_BOOTED_WITH_CONTROL),
            4 => Ok(Self::StreamCreated(Arc::new(take_stream(reader)?))),
            5 => Ok(Self::StreamDeleted {
                stream: StreamId::new(not_zero(reader.u64()?, "stream")?),
            }),
            6 => Ok(Self::TombstoneCleared {
                stream: StreamId::new(not_zero(reader.u64()?, "stream")?),
            }),
            _ => Err(DecodeError::UnknownKind(kind)),
        }
    }
}

pub(crate) fn decode_boot(reader: &mut Reader<'_>, has_control: bool) -> Result<Fact, DecodeError> {
    let node = NodeId::new(not_zero(reader.u64()?, "node")?);
    let boot = BootId::new(reader.u64()?);
    let boot_number = not_zero(reader.u64()?, "boot number")?;
    let epoch_step = NonZeroU8::new(reader.u8()?).ok_or(DecodeError::BadField("epoch step"))?;
    reader.reserved(1)?;
    let count = take_count(reader)?;
    reader.reserved(4)?;
    let shared = reader.address()?;
    let control = has_control.then(|| reader.address()).transpose()?;
    let mut shards = Vec::with_capacity(count);
    for _ in 0..count {
        shards.push(ShardBoot {
            disk: DiskId::new(reader.u128()?),
            boot_count: reader.u64()?,
            address: reader.address()?,
        });
    }
    Ok(Fact::NodeBooted {
        node,
        boot,
        boot_number,
        epoch_step,
        shared,
        control,
        shards: shards.into(),
    })
}

impl CatalogueEvent {
    /// Appends the event's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u8(self.fact.kind());
        out.put_u8(self.fact.format());
        out.put_u16(0);
        out.put_u32(0);
        out.put_u64(self.version.get());
        self.fact.encode(out);
        let payload = out.len() - start - EVENT_HEADER_BYTES;
        assert!(
            payload <= EVENT_BYTES_MAX - EVENT_HEADER_BYTES,
            "an event keeps to its limit"
        );
        // The assertion above bounds it far below 32 bits.
        out[start + 4..start + 8].copy_from_slice(&(payload as u32).to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u8()?;
        let format = reader.u8()?;
        reader.reserved(2)?;
        let payload = reader.u32()? as usize;
        let version = CatalogueVersion::new(reader.u64()?);
        let mut payload = Reader::new(reader.bytes(payload)?);
        if !(1..=6).contains(&kind) {
            return Err(DecodeError::UnknownKind(kind));
        }
        let is_known = format == FORMAT || (kind == 3 && format == FORMAT_BOOTED_WITH_CONTROL);
        if !is_known {
            return Err(DecodeError::UnknownFormat { kind, format });
        }
        let fact = Fact::decode(kind, format, &mut payload)?;
        payload.end()?;
        Ok(Self { version, fact })
    }

    /// Every event of an entry's body, which holds at least one.
    ///
    /// # Errors
    /// When the bytes are not what [`CatalogueEvent::encode`] writes.
    pub fn decode_all(body: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let mut reader = Reader::new(body);
        let mut events = Vec::new();
        loop {
            events.push(Self::decode(&mut reader)?);
            if reader.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// Appends a stream: id u64, tenant u32, partitions u32, retention bytes u64 and age u64 (ms), created u64 (us),
/// durability u8, reserved u8, path bytes u16, reserved u32, path.
pub(crate) fn put_stream(out: &mut Vec<u8>, stream: &Stream) {
    assert!(
        stream.path.len() <= limits::PATH_BYTES_MAX,
        "a stream's path was checked when it was proposed"
    );
    out.put_u64(stream.id.get());
    out.put_u32(stream.tenant.get());
    out.put_u32(stream.partitions);
    out.put_u64(stream.retention.bytes);
    out.put_u64(stream.retention.age_ms);
    out.put_u64(stream.created_us);
    out.put_u8(stream.durability.code());
    out.put_u8(0);
    out.put_u16(stream.path.len() as u16);
    out.put_u32(0);
    out.put(stream.path.as_bytes());
}

/// Takes what [`put_stream`] appended.
pub(crate) fn take_stream(reader: &mut Reader<'_>) -> Result<Stream, DecodeError> {
    let id = StreamId::new(not_zero(reader.u64()?, "stream")?);
    let tenant = TenantId::new(reader.u32()?);
    let partitions = reader.u32()?;
    if partitions == 0 || partitions > limits::PARTITIONS_MAX {
        return Err(DecodeError::BadField("partitions"));
    }
    let retention = Retention {
        bytes: reader.u64()?,
        age_ms: reader.u64()?,
    };
    let created_us = reader.u64()?;
    let durability =
        Durability::from_code(reader.u8()?).ok_or(DecodeError::BadField("durability"))?;
    reader.reserved(1)?;
    let path_bytes = usize::from(reader.u16()?);
    reader.reserved(4)?;
    let path = core::str::from_utf8(reader.bytes(path_bytes)?)
        .ok()
        .filter(|path| path_is_valid(path))
        .ok_or(DecodeError::BadField("path"))?;
    Ok(Stream {
        id,
        path: path.into(),
        tenant,
        partitions,
        durability,
        retention,
        created_us,
    })
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    assert!(
        (1..=limits::SHARDS_MAX).contains(&count),
        "a node has a journal and no more than the limit"
    );
    out.put_u16(count as u16);
}

pub(crate) fn take_count(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let count = usize::from(reader.u16()?);
    if (1..=limits::SHARDS_MAX).contains(&count) {
        Ok(count)
    } else {
        Err(DecodeError::BadField("shards"))
    }
}

pub(crate) const fn not_zero(value: u64, name: &'static str) -> Result<u64, DecodeError> {
    if value == 0 {
        Err(DecodeError::BadField(name))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn facts() -> Vec<Fact> {
        vec![
            Fact::ZoneCreated {
                zone: ZoneId::new(0x0102),
                slots: 1024,
            },
            Fact::NodeJoined {
                node: NodeId::new(7),
                disks: [DiskId::new(0xa1), DiskId::new(0xa2)].into(),
            },
            Fact::NodeBooted {
                node: NodeId::new(7),
                boot: BootId::new(0xb0),
                boot_number: 3,
                epoch_step: NonZeroU8::MAX,
                shared: address(0x1b9e),
                control: None,
                shards: [ShardBoot {
                    disk: DiskId::new(0xa1),
                    boot_count: 4,
                    address: address(1),
                }]
                .into(),
            },
            Fact::StreamCreated(Arc::new(Stream {
                id: StreamId::new(5),
                path: "a/b".into(),
                tenant: TenantId::new(6),
                partitions: 8,
                durability: Durability::Quorum,
                retention: Retention {
                    bytes: 9,
                    age_ms: 10,
                },
                created_us: 11,
            })),
            Fact::StreamDeleted {
                stream: StreamId::new(5),
            },
            Fact::TombstoneCleared {
                stream: StreamId::new(5),
            },
            Fact::NodeBooted {
                node: NodeId::new(7),
                boot: BootId::new(0xb0),
                boot_number: 3,
                epoch_step: NonZeroU8::MAX,
                shared: address(0x1b9e),
                control: Some(address(0x1b9f)),
                shards: [ShardBoot {
                    disk: DiskId::new(0xa1),
                    boot_count: 4,
                    address: address(1),
                }]
                .into(),
            },
        ]
    }

    fn encoded(version: u64, fact: Fact) -> Vec<u8> {
        let mut bytes = Vec::new();
        CatalogueEvent {
            version: CatalogueVersion::new(version),
            fact,
        }
        .encode(&mut bytes);
        bytes
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| {
                let pair = core::str::from_utf8(pair).expect("digits");
                u8::from_str_radix(pair, 16).expect("digits")
            })
            .collect()
    }

    /// These bytes are on disks: they may be added to, never changed.
    const GOLDEN: [&str; 7] = [
        "01 01 0000 10000000 2a00000000000000  0201000000000000 0004 000000000000",
        "02 01 0000 30000000 2a00000000000000  0700000000000000 0200 000000000000
         a1000000000000000000000000000000 a2000000000000000000000000000000",
        "03 01 0000 70000000 2a00000000000000  0700000000000000 b000000000000000 0300000000000000
         ff 00 0100 00000000
         04 00 9e1b 00000000 00000000 7f000001 000000000000000000000000
         a1000000000000000000000000000000 0400000000000000
         04 00 0100 00000000 00000000 7f000001 000000000000000000000000",
        "04 01 0000 33000000 2a00000000000000  0500000000000000 06000000 08000000
         0900000000000000 0a00000000000000 0b00000000000000 02 00 0300 00000000 612f62",
        "05 01 0000 08000000 2a00000000000000  0500000000000000",
        "06 01 0000 08000000 2a00000000000000  0500000000000000",
        "03 02 0000 8c000000 2a00000000000000  0700000000000000 b000000000000000 0300000000000000
         ff 00 0100 00000000
         04 00 9e1b 00000000 00000000 7f000001 000000000000000000000000
         04 00 9f1b 00000000 00000000 7f000001 000000000000000000000000
         a1000000000000000000000000000000 0400000000000000
         04 00 0100 00000000 00000000 7f000001 000000000000000000000000",
    ];

    #[test]
    fn golden_bytes() {
        for (fact, golden) in facts().into_iter().zip(GOLDEN) {
            assert_eq!(encoded(42, fact.clone()), hex(golden), "{fact:?}");
        }
    }

    #[test]
    fn events_stand_back_to_back_and_come_back_in_order() {
        let events: Vec<CatalogueEvent> = facts()
            .into_iter()
            .zip(1..)
            .map(|(fact, version)| CatalogueEvent {
                version: CatalogueVersion::new(version),
                fact,
            })
            .collect();
        let mut body = Vec::new();
        for event in &events {
            event.encode(&mut body);
        }
        assert_eq!(CatalogueEvent::decode_all(&body), Ok(events));
    }

    #[test]
    fn the_largest_event_is_as_large_as_stated() {
        let shard = ShardBoot {
            disk: DiskId::new(1),
            boot_count: 1,
            address: address(1),
        };
        let fact = Fact::NodeBooted {
            node: NodeId::new(1),
            boot: BootId::new(1),
            boot_number: 1,
            epoch_step: NonZeroU8::MIN,
            shared: address(1),
            control: Some(address(2)),
            shards: vec![shard; limits::SHARDS_MAX].into(),
        };
        assert_eq!(encoded(1, fact).len(), EVENT_BYTES_MAX);
    }

    #[test]
    fn every_cut_is_refused() {
        for fact in facts() {
            let bytes = encoded(1, fact);
            for cut in 0..bytes.len() {
                assert!(CatalogueEvent::decode_all(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn any_damaged_byte_is_refused_or_means_something_else() {
        let mut prng = Prng::new(1);
        for fact in facts() {
            let bytes = encoded(1, fact);
            let good = CatalogueEvent::decode_all(&bytes);
            for at in 0..bytes.len() {
                for _ in 0..8 {
                    let mut bad = bytes.clone();
                    bad[at] ^= prng.range(1, 256) as u8;
                    let decoded = CatalogueEvent::decode_all(&bad);
                    assert_ne!(decoded, good);
                    // One encoding for each value: what is accepted is what would be written.
                    if let Ok(events) = decoded {
                        let mut again = Vec::new();
                        for event in &events {
                            event.encode(&mut again);
                        }
                        assert_eq!(again, bad);
                    }
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut prng = Prng::new(2);
        for _ in 0..20_000 {
            let mut bytes = vec![0; prng.below(200) as usize];
            prng.fill(&mut bytes);
            // Half of them look like a header, so that payloads are reached too.
            if bytes.len() >= EVENT_HEADER_BYTES && prng.chance(1, 2) {
                let payload = (bytes.len() - EVENT_HEADER_BYTES) as u32;
                bytes[..4].copy_from_slice(&[prng.range(0, 8) as u8, FORMAT, 0, 0]);
                bytes[4..8].copy_from_slice(&payload.to_le_bytes());
            }
            drop(CatalogueEvent::decode_all(&bytes));
        }
    }

    #[test]
    fn a_newer_writer_is_named() {
        let mut bytes = encoded(
            1,
            Fact::StreamDeleted {
                stream: StreamId::new(5),
            },
        );
        bytes[1] = 2;
        assert_eq!(
            CatalogueEvent::decode_all(&bytes),
            Err(DecodeError::UnknownFormat { kind: 5, format: 2 })
        );
        bytes[0] = 7;
        assert_eq!(
            CatalogueEvent::decode_all(&bytes),
            Err(DecodeError::UnknownKind(7))
        );
    }
}
