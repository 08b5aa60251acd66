//! Batches that are encoded before the first is sent. Each place in flight owns one: when it is sent again only its
//! header is written anew, in place, so that sending costs neither an allocation nor a copy of the body. The keys differ
//! from place to place; only where a key decides the partition are they written anew as well.

use crate::keys::KEY_BYTES;
use bytes::{Bytes, BytesMut};
use tiderace_base::ids::{PartitionKey, ProducerId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BATCH_RECORDS_MAX, BODY_BYTES_MAX, KIB};
use tiderace_base::position::{ProducerEpoch, ProducerSeq};
use tiderace_base::prng::Prng;
use tiderace_wire::batch::{Attributes, BatchHeader, ProducerPart};
use tiderace_wire::body::{BodyBuilder, RECORD_ROW_BYTES, ROOT_BYTES};

/// What batches are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Records of each.
    pub(crate) records: u32,
    /// Bytes of each record's value.
    pub(crate) value_bytes: usize,
    /// Whether records have a key, of 16 bytes.
    pub(crate) keyed: bool,
}

impl Shape {
    const fn key_bytes(self) -> usize {
        if self.keyed { KEY_BYTES } else { 0 }
    }

    /// Bytes of the body.
    #[must_use]
    pub(crate) const fn body_bytes(self) -> usize {
        self.records as usize * (RECORD_ROW_BYTES + self.key_bytes() + self.value_bytes)
            + ROOT_BYTES
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub(crate) const fn batch_bytes(self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes()
    }

    /// Whether a node would take such a batch.
    ///
    /// # Errors
    /// What to change.
    pub(crate) fn check(self) -> Result<(), String> {
        if self.records == 0 || self.records > BATCH_RECORDS_MAX {
            return Err(format!(
                "a batch has 1 to {BATCH_RECORDS_MAX} records, not {}",
                self.records
            ));
        }
        if self.value_bytes > BODY_BYTES_MAX || self.body_bytes() > BODY_BYTES_MAX {
            return Err(format!(
                "a body of {} x {} bytes is {} KiB, more than the limit of {} KiB: take fewer or smaller records",
                self.records,
                self.value_bytes,
                self.body_bytes() / KIB,
                BODY_BYTES_MAX / KIB
            ));
        }
        Ok(())
    }
}

/// Who sends a batch, as which, and when it was meant to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Where to.
    pub(crate) key: PartitionKey,
    /// Who; zero: not deduplicated.
    pub(crate) producer: ProducerId,
    /// The producer's epoch.
    pub(crate) epoch: ProducerEpoch,
    /// The batch's number in it.
    pub(crate) seq: ProducerSeq,
    /// The time of all its records, in microseconds since 1970.
    pub(crate) time_us: u64,
}

/// One batch that is sent again and again.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    shape: Shape,
    body_crc: u32,
    bytes: Bytes,
}

impl Prepared {
    /// Encodes a batch with random keys and values.
    ///
    /// # Panics
    /// When the shape does not [`Shape::check`].
    #[must_use]
    pub(crate) fn new(shape: Shape, prng: &mut Prng) -> Self {
        let mut builder = BodyBuilder::new(BATCH_HEADER_BYTES, BODY_BYTES_MAX);
        let mut key = [0; KEY_BYTES];
        let mut value = vec![0; shape.value_bytes];
        for _ in 0..shape.records {
            prng.fill(&mut key);
            prng.fill(&mut value);
            builder
                .push(shape.keyed.then_some(&key[..]), Some(&value), &[], 0)
                .expect("the shape was checked");
        }
        let built = builder.finish();
        assert_eq!(built.body().len(), shape.body_bytes());
        Self {
            shape,
            body_crc: tiderace_base::checksum::crc32c(built.body()),
            // Exactly as large as it is: only then can it be taken back and frozen without an allocation.
            bytes: Bytes::from(Box::<[u8]>::from(&built.bytes[..])),
        }
    }

    /// Writes the header and gives the batch. What was sent before should be gone; if it is not, it is copied. The keys
    /// are written into its records, one each; where there are none the records keep theirs.
    ///
    /// # Panics
    /// When there are keys and the records have none.
    pub(crate) fn stamp(
        &mut self,
        stamp: Stamp,
        keys: impl IntoIterator<Item = [u8; KEY_BYTES]>,
    ) -> &Bytes {
        let mut bytes = match std::mem::take(&mut self.bytes).try_into_mut() {
            Ok(bytes) => bytes,
            Err(shared) => BytesMut::from(&shared[..]),
        };
        // P-23: without headers, key and value of each record follow each other from the body's first byte on.
        let step = KEY_BYTES + self.shape.value_bytes;
        let mut rekeyed = false;
        for (index, key) in (0..self.shape.records as usize).zip(keys) {
            assert!(self.shape.keyed, "a key has its place");
            let at = BATCH_HEADER_BYTES + index * step;
            bytes[at..at + KEY_BYTES].copy_from_slice(&key);
            rekeyed = true;
        }
        if rekeyed {
            self.body_crc = tiderace_base::checksum::crc32c(&bytes[BATCH_HEADER_BYTES..]);
        }
        let attributes = if stamp.producer.get() == 0 {
            Attributes::NONE
        } else {
            Attributes::NONE.with_idempotent()
        };
        let header = BatchHeader::producer(ProducerPart {
            attributes,
            key: stamp.key,
            record_count: self.shape.records,
            body_bytes: self.shape.body_bytes() as u32,
            body_crc: self.body_crc,
            producer_id: stamp.producer,
            producer_seq: stamp.seq,
            producer_epoch: stamp.epoch,
            schema_id: 0,
            first_time_us: stamp.time_us,
            time_span_us: 0,
        });
        bytes[..BATCH_HEADER_BYTES].copy_from_slice(header.bytes());
        self.bytes = bytes.freeze();
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::ids::{PartitionIndex, StreamId};
    use tiderace_wire::body;

    fn stamp(seq: u64) -> Stamp {
        Stamp {
            key: PartitionKey {
                stream: StreamId::new(3),
                partition: PartitionIndex::new(1),
            },
            producer: ProducerId::new(9),
            epoch: ProducerEpoch::new(1),
            seq: ProducerSeq::new(seq),
            time_us: 1_000_000 + seq,
        }
    }

    #[test]
    fn a_stamped_batch_passes_the_door_and_is_not_copied() {
        for shape in [
            Shape {
                records: 1,
                value_bytes: 256,
                keyed: true,
            },
            Shape {
                records: 64,
                value_bytes: 960,
                keyed: true,
            },
        ] {
            let mut prepared = Prepared::new(shape, &mut Prng::new(1));
            let place = prepared.bytes.as_ptr();
            for seq in 0..3 {
                let bytes = prepared.stamp(stamp(seq), []).clone();
                assert_eq!(bytes.len(), shape.batch_bytes());
                assert_eq!(bytes.as_ptr(), place);
                let header = BatchHeader::parse(&bytes).expect("a header");
                let body = &bytes[BATCH_HEADER_BYTES..];
                header.check_door(body.len()).expect("the door opens");
                header.check_body(body).expect("the checksum holds");
                let records = body::validate_batch(header, body).expect("an archive");
                assert_eq!(records.records().len(), shape.records as usize);
                assert_eq!(header.producer_seq().get(), seq);
                assert_eq!(records.records()[0].time_us(header), 1_000_000 + seq);
            }
        }
    }

    #[test]
    fn keys_are_written_into_the_records_that_have_room_for_them() {
        for keyed in [true, false] {
            let shape = Shape {
                records: 3,
                value_bytes: 50,
                keyed,
            };
            let mut prepared = Prepared::new(shape, &mut Prng::new(1));
            let keys = (1..=3).map(|byte| [byte; KEY_BYTES]).filter(|_| keyed);
            let bytes = prepared.stamp(stamp(1), keys).clone();
            assert_eq!(bytes.len(), shape.batch_bytes());
            let header = BatchHeader::parse(&bytes).expect("a header");
            let body = &bytes[BATCH_HEADER_BYTES..];
            header.check_body(body).expect("the checksum holds");
            let records = body::validate_batch(header, body).expect("an archive");
            for (byte, record) in (1..).zip(records.records()) {
                let expected = [byte; KEY_BYTES];
                assert_eq!(record.key(), keyed.then_some(&expected[..]));
                assert_eq!(record.value().map(<[u8]>::len), Some(50));
            }
        }
    }

    #[test]
    fn a_batch_still_held_by_its_send_is_left_as_it_was() {
        let shape = Shape {
            records: 1,
            value_bytes: 8,
            keyed: true,
        };
        let mut prepared = Prepared::new(shape, &mut Prng::new(1));
        let held = prepared.stamp(stamp(1), []).clone();
        let copy = held.to_vec();
        prepared.stamp(stamp(2), []);
        assert_eq!(held, copy);
    }

    #[test]
    fn shapes_beyond_the_limits_say_what_to_change() {
        let wrong = |records, value_bytes| {
            Shape {
                records,
                value_bytes,
                keyed: true,
            }
            .check()
            .expect_err("too much")
        };
        assert!(wrong(0, 1).contains("records"));
        assert!(wrong(2, BODY_BYTES_MAX).contains("fewer or smaller"));
    }
}
