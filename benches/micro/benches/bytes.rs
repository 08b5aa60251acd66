//! What is done to the bytes of a batch, and beside each the least that the machine needs to touch so many bytes: reading
//! them once, or copying them once.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use micro::{Batches, Shape};
use std::hint::black_box;
use tiderace_base::checksum::{crc32c, crc32c_append};
use tiderace_base::hash;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId, StreamId};
use tiderace_base::limits::{BATCH_HEADER_BYTES, BODY_BYTES_MAX};
use tiderace_base::prng::Prng;
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::body::{self, BodyBuilder};

const SIZES: [usize; 4] = [256, 4 << 10, 64 << 10, 1 << 20];

const SHAPES: [Shape; 3] = [
    Shape {
        records: 1,
        value_bytes: 256,
    },
    Shape {
        records: 64,
        value_bytes: 1000,
    },
    Shape {
        records: 1000,
        value_bytes: 1000,
    },
];

fn random(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    Prng::new(1).fill(&mut data);
    data
}

/// Reads every byte once.
fn read(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(0, |sum: u64, word| sum ^ u64::from_le_bytes(*word));
    rest.iter().fold(sum, |sum, byte| sum ^ u64::from(*byte))
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for bytes in SIZES {
        let data = random(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("limit: read", bytes), &data, |b, data| {
            b.iter(|| read(black_box(data)));
        });
        group.bench_with_input(BenchmarkId::new("crc32c", bytes), &data, |b, data| {
            b.iter(|| crc32c(black_box(data)));
        });
        group.bench_with_input(
            BenchmarkId::new("crc32c_append", bytes),
            &data,
            |b, data| {
                b.iter(|| crc32c_append(black_box(7), black_box(data)));
            },
        );
    }
    group.finish();
    let mut group = c.benchmark_group("key");
    let key = random(16);
    group.bench_function("hash of 16 bytes", |b| {
        b.iter(|| hash::partition_of_key(black_box(&key), black_box(64)));
    });
    group.finish();
}

fn key() -> PartitionKey {
    PartitionKey {
        stream: StreamId::new(1),
        partition: PartitionIndex::new(0),
    }
}

fn door(c: &mut Criterion) {
    let mut group = c.benchmark_group("door");
    for shape in SHAPES {
        let batch = Batches::new(shape, key(), ProducerId::new(1)).take();
        let name = shape.name();
        let (head, body) = batch.split_at(BATCH_HEADER_BYTES);
        let header = BatchHeader::parse(head).expect("a header");
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(BenchmarkId::new("header", &name), |b| {
            b.iter(|| {
                let header = BatchHeader::parse(black_box(head)).expect("a header");
                header.check_door(body.len())
            });
        });
        group.bench_function(BenchmarkId::new("limit: read", &name), |b| {
            b.iter(|| read(black_box(body)));
        });
        group.bench_function(BenchmarkId::new("checksum", &name), |b| {
            b.iter(|| header.check_body(black_box(body)));
        });
        group.bench_function(BenchmarkId::new("archive", &name), |b| {
            b.iter(|| body::validate_batch(header, black_box(body)).is_ok());
        });
    }
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for shape in SHAPES {
        let name = shape.name();
        let value = random(shape.value_bytes);
        let bytes = shape.records as u64 * (shape.value_bytes as u64 + 16);
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(BenchmarkId::new("limit: copy", &name), |b| {
            let mut into = vec![0; shape.value_bytes];
            b.iter(|| {
                for _ in 0..shape.records {
                    into.copy_from_slice(black_box(&value));
                    black_box(&mut into);
                }
            });
        });
        group.bench_function(BenchmarkId::new("body", &name), |b| {
            let mut builder = BodyBuilder::new(BATCH_HEADER_BYTES, BODY_BYTES_MAX);
            b.iter(|| {
                for _ in 0..shape.records {
                    builder
                        .push(Some(&value[..16]), Some(black_box(&value)), &[], 0)
                        .expect("it fits");
                }
                builder.finish().bytes.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, checksums, door, encoding);
criterion_main!(benches);
