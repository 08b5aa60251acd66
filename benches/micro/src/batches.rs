//! Batches with random keys and values, numbered as a producer numbers them.

use bytes::Bytes;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionKey, ProducerId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BODY_BYTES_MAX};
use tiderace_base::position::{ProducerEpoch, ProducerSeq};
use tiderace_base::prng::Prng;
use tiderace_wire::batch::{Attributes, BatchHeader, ProducerPart};
use tiderace_wire::body::BodyBuilder;

/// What a batch is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Records of each batch.
    pub records: u32,
    /// Bytes of each record's value; its key has 16 more.
    pub value_bytes: usize,
}

impl Shape {
    /// How a benchmark names it.
    #[must_use]
    pub fn name(self) -> String {
        format!("{}x{}B", self.records, self.value_bytes)
    }
}

/// A producer's batches for one partition, one after the other.
#[derive(Clone, Debug)]
pub struct Batches {
    part: ProducerPart,
    body: Bytes,
}

impl Batches {
    /// Encodes the body that all of them carry.
    ///
    /// # Panics
    /// When the shape is larger than a body may be.
    #[must_use]
    pub fn new(shape: Shape, key: PartitionKey, producer: ProducerId) -> Self {
        let mut prng = Prng::new(producer.get() as u64);
        let mut builder = BodyBuilder::new(0, BODY_BYTES_MAX);
        let mut name = [0; 16];
        let mut value = vec![0; shape.value_bytes];
        for _ in 0..shape.records {
            prng.fill(&mut name);
            prng.fill(&mut value);
            builder
                .push(Some(&name), Some(&value), &[], 0)
                .expect("the shape fits a body");
        }
        let built = builder.finish();
        let body = Bytes::copy_from_slice(built.body());
        let part = ProducerPart {
            attributes: Attributes::NONE.with_idempotent(),
            key,
            record_count: shape.records,
            body_bytes: body.len() as u32,
            body_crc: crc32c(&body),
            producer_id: producer,
            producer_seq: ProducerSeq::ZERO,
            producer_epoch: ProducerEpoch::new(1),
            schema_id: 0,
            first_time_us: 1_000_000,
            time_span_us: 0,
        };
        Self { part, body }
    }

    /// Bytes of one batch.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body.len()
    }

    /// The next batch, header and body.
    pub fn take(&mut self) -> Bytes {
        let header = BatchHeader::producer(self.part);
        self.part.producer_seq = self.part.producer_seq.advance(1);
        let mut bytes = Vec::with_capacity(self.batch_bytes());
        bytes.extend_from_slice(header.bytes());
        bytes.extend_from_slice(&self.body);
        Bytes::from(bytes)
    }
}
