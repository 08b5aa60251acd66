//! Batches as a producer makes them and as a reader checks them. Whatever identifies a batch's content goes into one
//! digest: the producer's checksum, which covers the body's.

use bytes::{Bytes, BytesMut};
use tiderace_base::catalogue::Stream;
use tiderace_base::checksum::crc32c;
use tiderace_base::hash::partition_of_key;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId};
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_base::position::{ProducerEpoch, ProducerSeq};
use tiderace_base::prng::Prng;
use tiderace_wire::batch::{Attributes, BatchHeader, ProducerPart};
use tiderace_wire::body::{self, HAS_KEY, Header, Record, TOMBSTONE};
use tiderace_wire::entry::EntryKind;

use crate::history::BatchName;

/// What a batch holds, before its producer names it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    body: Bytes,
    pub(super) records: u32,
    first_time_us: u64,
}

impl Content {
    /// Some records, about half of them with keys, which belong to this partition, of about so many bytes each.
    pub(super) fn draw(
        partition: u32,
        partitions: u32,
        value_bytes_max: u64,
        wall_us: u64,
        prng: &mut Prng,
    ) -> Self {
        let records = draw_records(partition, partitions, value_bytes_max, prng);
        Self::of(&records, wall_us)
    }

    /// The same, unlike every other: for batches that are told apart by nothing else.
    pub(super) fn draw_unlike_others(
        partition: u32,
        partitions: u32,
        value_bytes_max: u64,
        wall_us: u64,
        prng: &mut Prng,
    ) -> Self {
        let mut records = draw_records(partition, partitions, value_bytes_max, prng);
        records[0].headers.push(Header {
            name: b"nonce".to_vec(),
            value: prng.next_u128().to_le_bytes().to_vec(),
        });
        Self::of(&records, wall_us)
    }

    fn of(records: &[Record], wall_us: u64) -> Self {
        Self {
            body: body::encode(records).into(),
            records: records.len() as u32,
            first_time_us: wall_us,
        }
    }

    /// Header and body of the batch under this name, and its digest. A producer without an id has no name, and numbers
    /// nothing.
    pub(super) fn encode(&self, name: &BatchName) -> (BatchHeader, Bytes, u64) {
        let (attributes, seq, epoch) = if name.is_nameless() {
            (Attributes::NONE, 0, 0)
        } else {
            let attributes = Attributes::NONE.with_idempotent();
            (attributes, name.seq, name.producer_epoch)
        };
        let header = BatchHeader::producer(ProducerPart {
            attributes,
            key: name.partition,
            record_count: self.records,
            body_bytes: self.body.len() as u32,
            body_crc: crc32c(&self.body),
            producer_id: ProducerId::new(name.producer),
            producer_seq: ProducerSeq::new(seq),
            producer_epoch: ProducerEpoch::new(epoch),
            schema_id: 0,
            first_time_us: self.first_time_us,
            time_span_us: self.records,
        });
        let mut bytes = BytesMut::with_capacity(BATCH_HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(header.bytes());
        bytes.extend_from_slice(&self.body);
        (header, bytes.freeze(), digest(&header))
    }
}

fn draw_records(
    partition: u32,
    partitions: u32,
    value_bytes_max: u64,
    prng: &mut Prng,
) -> Vec<Record> {
    let count = prng.range(1, 6);
    (0..count)
        .map(|index| {
            let key = key_for(partition, partitions, prng);
            let is_tombstone = key.is_some() && prng.chance(1, 16);
            let value_bytes = if is_tombstone {
                0
            } else {
                prng.below(value_bytes_max + 1)
            };
            let mut value = vec![0; value_bytes as usize];
            prng.fill(&mut value);
            let headers = (0..prng.below(2))
                .map(|_| Header {
                    name: b"trace".to_vec(),
                    value: prng.next_u64().to_le_bytes().to_vec(),
                })
                .collect();
            Record {
                flags: key.as_ref().map_or(0, |_| HAS_KEY)
                    | if is_tombstone { TOMBSTONE } else { 0 },
                key: key.unwrap_or_default(),
                value,
                headers,
                time_delta_us: index as u32,
            }
        })
        .collect()
}

/// What identifies a batch's content.
pub(crate) fn digest(header: &BatchHeader) -> u64 {
    (u64::from(header.producer_crc()) << 32) | u64::from(header.body_crc())
}

/// A key that belongs to the partition, or none.
fn key_for(partition: u32, partitions: u32, prng: &mut Prng) -> Option<Vec<u8>> {
    if prng.chance(1, 2) {
        return None;
    }
    // A few tries suffice: a stream here has at most four partitions.
    (0..8).find_map(|_| {
        let key = prng.below(1000).to_le_bytes().to_vec();
        (partition_of_key(&key, partitions).get() == partition).then_some(key)
    })
}

/// A delivered batch, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) name: BatchName,
    pub(super) offset: u64,
    pub(super) next: u64,
    pub(super) records: u32,
    pub(super) digest: u64,
    pub(super) epoch: u32,
    pub(super) append_time_us: u64,
    pub(super) bytes: usize,
}

/// Checks the first batch of `bytes` as a reader of this partition does; the rest.
pub(super) fn check(
    bytes: &Bytes,
    stream: &Stream,
    partition: PartitionKey,
) -> Result<(Checked, Bytes), String> {
    let header =
        *BatchHeader::parse(bytes).map_err(|error| format!("a delivered batch: {error}"))?;
    if bytes.len() < header.batch_len() {
        return Err("a delivered batch is not whole".to_owned());
    }
    let payload = &bytes[BATCH_HEADER_BYTES..header.batch_len()];
    header
        .check_producer(payload.len())
        .and_then(|()| header.check_placement())
        .and_then(|()| header.check_body(payload))
        .map_err(|error| format!("a delivered batch: {error}: {header:?}"))?;
    if header.entry_kind() != Ok(EntryKind::Data) || header.key() != partition {
        return Err(format!("{partition} is wanted and {header:?} is delivered"));
    }
    let archive = body::validate_batch(&header, payload)
        .map_err(|error| format!("a delivered body: {error}"))?;
    for record in archive.records() {
        if let Some(key) = record.key()
            && partition_of_key(key, stream.partitions) != partition.partition
        {
            return Err(format!(
                "a key of another partition is delivered in {partition}"
            ));
        }
    }
    let producer = header.producer_id().get();
    let name = BatchName {
        partition,
        producer,
        producer_epoch: header.producer_epoch().get(),
        seq: match producer {
            0 => digest(&header),
            _ => header.producer_seq().get(),
        },
    };
    let checked = Checked {
        name,
        offset: header.base_offset().get(),
        next: header.next_offset().get(),
        records: header.record_count(),
        digest: digest(&header),
        epoch: header.epoch().get(),
        append_time_us: header.append_time_us(),
        bytes: header.batch_len(),
    };
    Ok((checked, bytes.slice(header.batch_len()..)))
}

/// The partition of this number.
pub(super) fn key(stream: &Stream, partition: u32) -> PartitionKey {
    PartitionKey {
        stream: stream.id,
        partition: PartitionIndex::new(partition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::catalogue::{Durability, Retention};
    use tiderace_base::ids::{SlotId, StreamId, TenantId};
    use tiderace_base::position::{Epoch, Offset, SlotSeq};
    use tiderace_wire::batch::Placement;

    #[test]
    fn what_is_made_is_what_is_checked_and_a_flipped_bit_is_noticed() {
        let stream = Stream {
            id: StreamId::new(3),
            path: "a".into(),
            tenant: TenantId::new(0),
            partitions: 4,
            durability: Durability::Local,
            retention: Retention::default(),
            created_us: 0,
        };
        let partition = key(&stream, 2);
        let name = BatchName {
            partition,
            producer: 5,
            producer_epoch: 1,
            seq: 7,
        };
        let content = Content::draw(2, 4, 100, 1_000, &mut Prng::new(1));
        let (mut header, bytes, digest) = content.encode(&name);
        assert_eq!(header.check_door(bytes.len() - BATCH_HEADER_BYTES), Ok(()));
        header.place(Placement {
            base_offset: Offset::new(10),
            slot_seq: SlotSeq::new(1),
            epoch: Epoch::new(2),
            slot: SlotId::new(200),
            entry_kind: EntryKind::Data,
            append_time_us: 9,
        });
        let mut placed = bytes.to_vec();
        placed[..BATCH_HEADER_BYTES].copy_from_slice(header.bytes());
        let (checked, rest) =
            check(&Bytes::from(placed.clone()), &stream, partition).expect("it is sound");
        assert!(rest.is_empty());
        assert_eq!(
            (checked.name, checked.digest, checked.offset),
            (name, digest, 10)
        );
        for at in [40, 90, 126, placed.len() - 1] {
            let mut damaged = placed.clone();
            damaged[at] ^= 1;
            assert!(
                check(&damaged.into(), &stream, partition).is_err(),
                "byte {at}"
            );
        }
    }
}
