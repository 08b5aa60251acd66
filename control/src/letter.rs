//! What the control threads of a zone say to each other, as the control section of a link frame: kind u8, reserved [u8; 3], bytes
//! that follow u32, then the letter's fields, little-endian. Reading takes arbitrary bytes and never panics; each letter has one encoding. Any of them
//! may be lost with its link: whoever waits for an answer asks again, or says that it does not know.

use crate::encoding::{ADDRESS_BYTES, DecodeError, Reader, Write};
use crate::event::{Fact, decode_boot, not_zero, put_count, put_stream, take_count, take_stream};
use crate::raft::codec::{put_message, put_position, take_message, take_position};
use crate::raft::{Message, Position};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use tiderace_base::catalogue::{Change, Durability, Outcome, Refusal, Retention, path_is_valid};
use tiderace_base::ids::{BootId, DiskId, NodeId, StreamId, TenantId, ZoneId};
use tiderace_base::position::CatalogueVersion;

/// The version of these letters. A node closes a link to one that speaks another.
pub(crate) const VERSION: u16 = 1;
/// A letter's kind and length.
const HEAD_BYTES: usize = 8;
/// Bytes of a state in one letter.
pub(crate) const STATE_PART_BYTES_MAX: usize = 128 << 10;

/// The first letter on a link, from both ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) zone: ZoneId,
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    /// How often its control journal was begun: which of two runs is the newer one.
    pub(crate) boot_count: u64,
    /// Where its own control thread lets nodes in.
    pub(crate) address: SocketAddr,
}

/// Why a node is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotAdmitted {
    /// The zone knows a node of this id with other disks.
    OtherDisks,
    /// A journal has run less often than the zone has counted, or its run's id is that of another.
    OldImage,
    /// It has another number of shards than it joined with.
    Shards,
    /// As many nodes as a zone may have.
    Full,
    /// A later run of the same node was committed: two processes think that they are it.
    Superseded,
}

impl NotAdmitted {
    const ALL: [Self; 5] = [
        Self::OtherDisks,
        Self::OldImage,
        Self::Shards,
        Self::Full,
        Self::Superseded,
    ];

    const fn code(self) -> u8 {
        match self {
            Self::OtherDisks => 1,
            Self::OldImage => 2,
            Self::Shards => 3,
            Self::Full => 4,
            Self::Superseded => 5,
        }
    }

    /// What whoever runs the node should know.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::OtherDisks => {
                "the zone knows a node of this id with other disks: give this one another id, or put its disks back"
            }
            Self::OldImage => {
                "a journal of this node is an old image: the zone has committed a later run of it; put the newest one back"
            }
            Self::Shards => "this node joined with another number of shards: set it to what it was",
            Self::Full => "the zone has as many nodes as it may have",
            Self::Superseded => {
                "the zone has committed a later start of this node: another process has its identity; stop one of them"
            }
        }
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Letter {
    Hello(Hello),
    /// Nothing: the sender is there.
    Ping,
    /// One of consensus' own.
    Raft(Message),
    /// The sender, whose disks these are, wants to belong to the zone.
    Join {
        disks: Arc<[DiskId]>,
    },
    /// The sender has started: a [`Fact::NodeBooted`], whose boot number is the receiver's to say.
    Boot(Box<Fact>),
    /// The sender cannot be let in as it is.
    Refused(NotAdmitted),
    /// Somebody else leads, and is reached there.
    Leader {
        node: NodeId,
        address: SocketAddr,
    },
    /// A client of the sender asks for a change.
    Forward {
        ticket: u64,
        change: Change,
    },
    /// What came of it, true from this version on.
    Outcome {
        ticket: u64,
        version: CatalogueVersion,
        outcome: Result<Outcome, Refusal>,
    },
    /// No shard of the sender, in this run, holds anything of a stream that is a tombstone at this version.
    Dropped {
        boot: BootId,
        version: CatalogueVersion,
    },
    /// A part of the state that holds everything up to `base`: members, then the catalogue's cells.
    State {
        base: Position,
        part: u32,
        parts: u32,
        bytes: Bytes,
    },
}

impl Letter {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Ping => 2,
            Self::Raft(_) => 3,
            Self::Join { .. } => 4,
            Self::Boot(_) => 5,
            Self::Refused(_) => 6,
            Self::Leader { .. } => 7,
            Self::Forward { .. } => 8,
            Self::Outcome { .. } => 9,
            Self::Dropped { .. } => 10,
            Self::State { .. } => 11,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind(), 0, 0, 0, 0, 0, 0, 0];
        match self {
            Self::Hello(hello) => {
                out.put_u16(VERSION);
                out.put(&[0; 6]);
                out.put_u64(hello.zone.get());
                out.put_u64(hello.node.get());
                out.put_u64(hello.boot.get());
                out.put_u64(hello.boot_count);
                out.put_address(hello.address);
            }
            // Every frame has more than a letter's head.
            Self::Ping => out.put_u64(0),
            Self::Raft(message) => put_message(&mut out, message),
            Self::Join { disks } => {
                put_count(&mut out, disks.len());
                out.put(&[0; 6]);
                for disk in disks.iter() {
                    out.put_u128(disk.get());
                }
            }
            Self::Boot(fact) => {
                let has_control = matches!(
                    **fact,
                    Fact::NodeBooted {
                        control: Some(_),
                        ..
                    }
                );
                assert!(has_control, "who is linked to others has an address for it");
                fact.encode(&mut out);
            }
            Self::Refused(why) => out.put_u8(why.code()),
            Self::Leader { node, address } => {
                out.put_u64(node.get());
                out.put_address(*address);
            }
            Self::Forward { ticket, change } => {
                out.put_u64(*ticket);
                put_change(&mut out, change);
            }
            Self::Outcome {
                ticket,
                version,
                outcome,
            } => {
                out.put_u64(*ticket);
                out.put_u64(version.get());
                put_outcome(&mut out, outcome);
            }
            Self::Dropped { boot, version } => {
                out.put_u64(boot.get());
                out.put_u64(version.get());
            }
            Self::State {
                base,
                part,
                parts,
                bytes,
            } => {
                put_position(&mut out, *base);
                out.put_u32(*part);
                out.put_u32(*parts);
                out.put(bytes);
            }
        }
        let bytes = out.len() - HEAD_BYTES;
        // A frame is far shorter than 32 bits can say.
        out[4..HEAD_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
        out
    }

    /// Reads a letter.
    ///
    /// # Errors
    /// When the bytes are none that [`Letter::encode`] writes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        reader.reserved(3)?;
        let said = reader.u32()? as usize;
        match bytes.len().cmp(&(HEAD_BYTES + said)) {
            core::cmp::Ordering::Less => return Err(DecodeError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(DecodeError::Trailing),
        }
        let letter = match kind {
            1 => {
                if reader.u16()? != VERSION {
                    return Err(DecodeError::BadField("version"));
                }
                reader.reserved(6)?;
                Self::Hello(Hello {
                    zone: ZoneId::new(not_zero(reader.u64()?, "zone")?),
                    node: NodeId::new(not_zero(reader.u64()?, "node")?),
                    boot: BootId::new(reader.u64()?),
                    boot_count: reader.u64()?,
                    address: reader.address()?,
                })
            }
            2 => {
                reader.reserved(8)?;
                Self::Ping
            }
            3 => Self::Raft(take_message(&mut reader)?),
            4 => {
                let count = take_count(&mut reader)?;
                reader.reserved(6)?;
                let mut disks = Vec::with_capacity(count);
                for _ in 0..count {
                    disks.push(DiskId::new(reader.u128()?));
                }
                Self::Join {
                    disks: disks.into(),
                }
            }
            5 => Self::Boot(Box::new(decode_boot(&mut reader, true)?)),
            6 => {
                let code = reader.u8()?;
                let why = NotAdmitted::ALL.into_iter().find(|why| why.code() == code);
                Self::Refused(why.ok_or(DecodeError::BadField("reason"))?)
            }
            7 => Self::Leader {
                node: NodeId::new(not_zero(reader.u64()?, "node")?),
                address: reader.address()?,
            },
            8 => Self::Forward {
                ticket: reader.u64()?,
                change: take_change(&mut reader)?,
            },
            9 => Self::Outcome {
                ticket: reader.u64()?,
                version: CatalogueVersion::new(reader.u64()?),
                outcome: take_outcome(&mut reader)?,
            },
            10 => Self::Dropped {
                boot: BootId::new(reader.u64()?),
                version: CatalogueVersion::new(reader.u64()?),
            },
            11 => take_state(&mut reader)?,
            _ => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.end()?;
        Ok(letter)
    }
}

fn take_state(reader: &mut Reader<'_>) -> Result<Letter, DecodeError> {
    let base = take_position(reader)?;
    let (part, parts) = (reader.u32()?, reader.u32()?);
    let bytes = Bytes::copy_from_slice(reader.rest());
    if part >= parts || bytes.is_empty() || bytes.len() > STATE_PART_BYTES_MAX {
        return Err(DecodeError::BadField("part"));
    }
    Ok(Letter::State {
        base,
        part,
        parts,
        bytes,
    })
}

/// A change: kind u8, durability u8 (255: the zone's default), path bytes u16, tenant u32, partitions u32, reserved u32, retention
/// bytes u64 and age u64 (ms), stream u64, path. What a kind does not have is zero.
fn put_change(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::CreateStream {
            path,
            tenant,
            partitions,
            durability,
            retention,
        } => {
            out.put_u8(1);
            out.put_u8(durability.map_or(u8::MAX, Durability::code));
            // The form of a change is checked where it is asked for.
            out.put_u16(path.len() as u16);
            out.put_u32(tenant.get());
            out.put_u32(*partitions);
            out.put_u32(0);
            out.put_u64(retention.bytes);
            out.put_u64(retention.age_ms);
            out.put_u64(0);
            out.put(path.as_bytes());
        }
        Change::DeleteStream(stream) => {
            out.put_u8(2);
            out.put(&[0; 31]);
            out.put_u64(stream.get());
        }
    }
}

fn take_change(reader: &mut Reader<'_>) -> Result<Change, DecodeError> {
    match reader.u8()? {
        1 => {
            let durability = match reader.u8()? {
                u8::MAX => None,
                code => {
                    Some(Durability::from_code(code).ok_or(DecodeError::BadField("durability"))?)
                }
            };
            let path_bytes = usize::from(reader.u16()?);
            let tenant = TenantId::new(reader.u32()?);
            let partitions = reader.u32()?;
            reader.reserved(4)?;
            let retention = Retention {
                bytes: reader.u64()?,
                age_ms: reader.u64()?,
            };
            reader.reserved(8)?;
            let path = core::str::from_utf8(reader.bytes(path_bytes)?)
                .ok()
                .filter(|path| path_is_valid(path))
                .ok_or(DecodeError::BadField("path"))?;
            Ok(Change::CreateStream {
                path: path.into(),
                tenant,
                partitions,
                durability,
                retention,
            })
        }
        2 => {
            reader.reserved(31)?;
            let stream = not_zero(reader.u64()?, "stream")?;
            Ok(Change::DeleteStream(StreamId::new(stream)))
        }
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

const REFUSALS: [(Refusal, u8); 8] = [
    (Refusal::Exists, 1),
    (Refusal::Absent, 2),
    (Refusal::BadPath, 3),
    (Refusal::BadPartitions, 4),
    (Refusal::TooManyStreams, 5),
    (Refusal::Busy, 6),
    (Refusal::DiskFull, 7),
    (Refusal::Unavailable, 8),
];

/// An outcome: kind u8 (1 created, 2 deleted, 3 refused), refusal u8, reserved [u8; 6], then the stream as in its event, or its id.
fn put_outcome(out: &mut Vec<u8>, outcome: &Result<Outcome, Refusal>) {
    let refusal = match outcome {
        Ok(_) => 0,
        Err(refusal) => {
            let mut known = REFUSALS.into_iter();
            known
                .find_map(|(it, code)| (it == *refusal).then_some(code))
                .expect("every refusal has a code")
        }
    };
    out.put_u8(match outcome {
        Ok(Outcome::Created(_)) => 1,
        Ok(Outcome::Deleted(_)) => 2,
        Err(_) => 3,
    });
    out.put_u8(refusal);
    out.put(&[0; 6]);
    match outcome {
        Ok(Outcome::Created(stream)) => put_stream(out, stream),
        Ok(Outcome::Deleted(stream)) => out.put_u64(stream.get()),
        Err(_) => {}
    }
}

fn take_outcome(reader: &mut Reader<'_>) -> Result<Result<Outcome, Refusal>, DecodeError> {
    let kind = reader.u8()?;
    let code = reader.u8()?;
    reader.reserved(6)?;
    if kind != 3 && code != 0 {
        return Err(DecodeError::BadField("refusal"));
    }
    match kind {
        1 => Ok(Ok(Outcome::Created(Arc::new(take_stream(reader)?)))),
        2 => {
            let stream = not_zero(reader.u64()?, "stream")?;
            Ok(Ok(Outcome::Deleted(StreamId::new(stream))))
        }
        3 => {
            let mut known = REFUSALS.into_iter();
            let refusal = known.find_map(|(it, its)| (its == code).then_some(it));
            Ok(Err(refusal.ok_or(DecodeError::BadField("refusal"))?))
        }
        _ => Err(DecodeError::UnknownKind(kind)),
    }
}

const _: () = assert!(ADDRESS_BYTES == 28, "an address has its published size");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ShardBoot;
    use core::num::NonZeroU8;
    use tiderace_base::catalogue::Stream;
    use tiderace_base::position::{RaftIndex, Term};
    use tiderace_base::prng::Prng;
    use tiderace_base::time::Mono;

    fn letters() -> Vec<Letter> {
        let address: SocketAddr = ([10, 1, 2, 3], 7172).into();
        let stream = Stream {
            id: StreamId::new(5),
            path: "a/b".into(),
            tenant: TenantId::new(6),
            partitions: 8,
            durability: Durability::Quorum,
            retention: Retention::default(),
            created_us: 11,
        };
        let outcome = |outcome| Letter::Outcome {
            ticket: 4,
            version: CatalogueVersion::new(9),
            outcome,
        };
        let mut letters = vec![
            Letter::Hello(Hello {
                zone: ZoneId::new(1),
                node: NodeId::new(2),
                boot: BootId::new(3),
                boot_count: 4,
                address,
            }),
            Letter::Ping,
            Letter::Raft(Message::Heartbeat {
                term: Term::new(3),
                sent: Mono::from_ns(7),
            }),
            Letter::Join {
                disks: [DiskId::new(1), DiskId::new(2)].into(),
            },
            Letter::Boot(Box::new(Fact::NodeBooted {
                node: NodeId::new(7),
                boot: BootId::new(8),
                boot_number: 1,
                epoch_step: NonZeroU8::MIN,
                shared: address,
                control: Some(address),
                shards: [ShardBoot {
                    disk: DiskId::new(1),
                    boot_count: 2,
                    address,
                }]
                .into(),
            })),
            Letter::Leader {
                node: NodeId::new(3),
                address,
            },
            Letter::Forward {
                ticket: 2,
                change: Change::DeleteStream(StreamId::new(4)),
            },
            Letter::Forward {
                ticket: 3,
                change: Change::CreateStream {
                    path: "a/b".into(),
                    tenant: TenantId::new(1),
                    partitions: 3,
                    durability: None,
                    retention: Retention::default(),
                },
            },
            outcome(Ok(Outcome::Created(Arc::new(stream)))),
            outcome(Ok(Outcome::Deleted(StreamId::new(4)))),
            Letter::Dropped {
                boot: BootId::new(8),
                version: CatalogueVersion::new(9),
            },
            Letter::State {
                base: Position {
                    term: Term::new(1),
                    index: RaftIndex::new(2),
                },
                part: 0,
                parts: 2,
                bytes: Bytes::from_static(b"cells"),
            },
        ];
        letters.extend(NotAdmitted::ALL.map(Letter::Refused));
        letters.extend(REFUSALS.map(|(refusal, _)| outcome(Err(refusal))));
        letters
    }

    #[test]
    fn what_was_written_is_read_and_a_changed_byte_is_refused_or_means_something_else() {
        let mut prng = Prng::new(1);
        for letter in letters() {
            let bytes = letter.encode();
            assert!(bytes.len() >= 9, "a frame has a letter and something in it");
            assert_eq!(Letter::decode(&bytes).as_ref(), Ok(&letter));
            for cut in 0..bytes.len() {
                assert_ne!(Letter::decode(&bytes[..cut]).as_ref(), Ok(&letter));
            }
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= prng.range(1, 256) as u8;
                if let Ok(other) = Letter::decode(&changed) {
                    assert_ne!(other, letter);
                    assert_eq!(other.encode(), changed, "each letter has one encoding");
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut prng = Prng::new(2);
        for _ in 0..20_000 {
            let mut bytes = vec![0; prng.below(160) as usize];
            prng.fill(&mut bytes);
            if bytes.len() > 8 && prng.chance(3, 4) {
                bytes[0] = prng.range(1, 12) as u8;
                bytes[1..4].fill(0);
                let said = bytes.len() as u32 - 8;
                bytes[4..8].copy_from_slice(&said.to_le_bytes());
            }
            drop(Letter::decode(&bytes));
        }
    }
}
