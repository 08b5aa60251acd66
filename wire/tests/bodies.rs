//! Bodies: the hand-laid encoder writes the very bytes of the archive's own serializer, and the door refuses whatever the
//! header does not say.

use proptest::prelude::*;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{PartitionIndex, PartitionKey, ProducerId, StreamId};
use tiderace_base::limits::{BATCH_RECORDS_MAX, BODY_BYTES_MAX, KEY_BYTES_MAX};
use tiderace_base::position::{ProducerEpoch, ProducerSeq};
use tiderace_wire::batch::{Attributes, BatchHeader, Codec, ProducerPart};
use tiderace_wire::body::{
    self, BodyBuilder, BodyError, HAS_KEY, Header, PushError, RECORD_ROW_BYTES, ROOT_BYTES, Record,
    TOMBSTONE,
};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let header = (bytes(8), bytes(8)).prop_map(|(name, value)| Header { name, value });
    let record = (
        prop::option::of(bytes(12)),
        prop::option::of(bytes(40)),
        prop::collection::vec(header, 0..4),
        any::<u32>(),
    )
        .prop_map(|(key, value, headers, time_delta_us)| Record {
            flags: if key.is_some() { HAS_KEY } else { 0 }
                | if value.is_none() { TOMBSTONE } else { 0 },
            key: key.unwrap_or_default(),
            value: value.unwrap_or_default(),
            headers,
            time_delta_us,
        });
    prop::collection::vec(record, 1..20)
}

fn header(
    body: &[u8],
    record_count: u32,
    time_span_us: u32,
    attributes: Attributes,
) -> BatchHeader {
    BatchHeader::producer(ProducerPart {
        attributes,
        key: PartitionKey {
            stream: StreamId::new(1),
            partition: PartitionIndex::new(2),
        },
        record_count,
        body_bytes: body.len() as u32,
        body_crc: crc32c(body),
        producer_id: ProducerId::new(0),
        producer_seq: ProducerSeq::ZERO,
        producer_epoch: ProducerEpoch::ZERO,
        schema_id: 0,
        first_time_us: 1000,
        time_span_us,
    })
}

fn plain(value: &[u8]) -> Record {
    Record {
        value: value.to_vec(),
        ..Record::default()
    }
}

proptest! {
    // P-23
    #[test]
    fn the_hand_laid_encoder_writes_the_serializers_bytes(records in records()) {
        let ours = body::encode(&records);
        let theirs = rkyv::to_bytes::<rkyv::rancor::Error>(&body::Body { records: records.clone() }).expect("it fits");
        prop_assert_eq!(&ours[..], &theirs[..]);
        let read = body::validate(&ours, records.len() as u32).expect("what is written is read");
        let read: body::Body = rkyv::deserialize::<_, rkyv::rancor::Error>(read).expect("plain data");
        prop_assert_eq!(read.records, records);
    }

    #[test]
    fn the_builder_writes_the_same_bytes_behind_its_room(records in records(), front in 0_usize..300) {
        let mut builder = BodyBuilder::new(front, BODY_BYTES_MAX);
        // Twice, because the second body uses the first one's scratch memory.
        for _ in 0..2 {
            for record in &records {
                let headers: Vec<_> = record.headers.iter().map(|h| (h.name.as_slice(), h.value.as_slice())).collect();
                let key = (record.flags & HAS_KEY != 0).then_some(record.key.as_slice());
                let value = (record.flags & TOMBSTONE == 0).then_some(record.value.as_slice());
                let time_us = 5_000_000 + u64::from(record.time_delta_us);
                prop_assert_eq!(builder.push(key, value, &headers, time_us), Ok(()));
            }
            let promised = builder.body_bytes();
            let built = builder.finish();
            let oldest = records.iter().map(|record| record.time_delta_us).min().unwrap_or(0);
            let newest = records.iter().map(|record| record.time_delta_us).max().unwrap_or(0);
            let expected: Vec<Record> = records.iter().cloned().map(|mut record| {
                record.time_delta_us -= oldest;
                record
            }).collect();
            prop_assert_eq!(built.body(), &body::encode(&expected)[..]);
            prop_assert_eq!(built.body().len(), promised);
            prop_assert_eq!(&built.bytes[..front], &vec![0; front][..]);
            prop_assert_eq!(built.first_time_us, 5_000_000 + u64::from(oldest));
            prop_assert_eq!(built.time_span_us, newest - oldest);
            prop_assert_eq!(built.record_count as usize, records.len());
        }
    }
}

// P-14
#[test]
fn the_door_counts_the_records() {
    let bytes = body::encode(&[plain(b"a"), plain(b"b")]);
    assert!(body::validate(&bytes, 2).is_ok());
    assert_eq!(
        body::validate(&bytes, 1).err(),
        Some(BodyError::RecordCount)
    );
    assert_eq!(
        body::validate(&bytes, 3).err(),
        Some(BodyError::RecordCount)
    );
    assert_eq!(
        body::validate(&body::encode(&[]), 0).err(),
        Some(BodyError::RecordCount)
    );
}

// P-20: two rows that point at the same bytes, a row that points at itself, a pointer before the first byte.
#[test]
fn overlapping_and_outlying_pointers_are_refused() {
    let good = body::encode(&[plain(b"aaaa"), plain(b"bbbb")]);
    let rows = good.len() - ROOT_BYTES - 2 * RECORD_ROW_BYTES;
    let second_value = rows + RECORD_ROW_BYTES + 8;
    let with_pointer = |at: usize, target: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&(target - at as i32).to_le_bytes());
        body::validate(&bytes, 2).err()
    };
    assert_eq!(with_pointer(second_value, 4), None, "where it was");
    assert_eq!(
        with_pointer(second_value, 0),
        Some(BodyError::Archive),
        "the first record's value"
    );
    assert_eq!(
        with_pointer(second_value, 2),
        Some(BodyError::Archive),
        "half of it"
    );
    assert_eq!(
        with_pointer(second_value, rows as i32),
        Some(BodyError::Archive),
        "the rows"
    );
    assert_eq!(
        with_pointer(second_value, -4),
        Some(BodyError::Archive),
        "before the body"
    );
    assert_eq!(
        with_pointer(second_value, i32::MAX),
        Some(BodyError::Archive),
        "behind the body"
    );
    let mut many = good.clone();
    let count = many.len() - 4;
    many[count..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        body::validate(&many, u32::MAX).err(),
        Some(BodyError::Archive),
        "more rows than bytes"
    );
}

// P-21
#[test]
fn flags_that_deny_what_the_record_holds_are_refused() {
    let with = |record: Record| body::validate(&body::encode(&[record]), 1).err();
    let full = Record {
        key: b"k".to_vec(),
        ..plain(b"v")
    };
    assert_eq!(
        with(Record {
            flags: HAS_KEY,
            ..full.clone()
        }),
        None
    );
    assert_eq!(
        with(full.clone()),
        Some(BodyError::Flags),
        "a key without its flag"
    );
    assert_eq!(
        with(Record {
            flags: HAS_KEY | TOMBSTONE,
            ..full.clone()
        }),
        Some(BodyError::Flags),
        "a tombstone's value"
    );
    assert_eq!(
        with(Record {
            flags: HAS_KEY | 4,
            ..full.clone()
        }),
        Some(BodyError::Flags),
        "an unknown flag"
    );
    let long = Record {
        key: vec![0; KEY_BYTES_MAX + 1],
        flags: HAS_KEY,
        ..full
    };
    assert_eq!(with(long), Some(BodyError::KeyTooLong));
}

// P-22
#[test]
fn a_record_newer_than_the_header_says_is_refused() {
    let bytes = body::encode(&[Record {
        time_delta_us: 500,
        ..plain(b"v")
    }]);
    let late = header(&bytes, 1, 499, Attributes::NONE);
    assert_eq!(
        body::validate_batch(&late, &bytes).err(),
        Some(BodyError::Time)
    );
    let good = header(&bytes, 1, 500, Attributes::NONE);
    let archive = body::validate_batch(&good, &bytes).expect("it is well formed");
    assert_eq!(archive.records()[0].time_us(&good), 1500);
    let coded = header(&bytes, 1, 500, Attributes::NONE.with_codec(Codec::Lz4));
    assert_eq!(
        body::validate_batch(&coded, &bytes).err(),
        Some(BodyError::Coded)
    );
}

#[test]
fn a_full_builder_takes_nothing_more_and_stays_as_it_was() {
    let mut builder = BodyBuilder::new(0, 100);
    assert_eq!(
        builder.push(None, Some(&[0; 100]), &[], 0),
        Err(PushError::TooLarge)
    );
    assert_eq!(builder.push(None, Some(&[1; 40]), &[], 0), Ok(()));
    let before = builder.body_bytes();
    assert_eq!(
        builder.push(None, Some(&[2; 40]), &[], 0),
        Err(PushError::Full)
    );
    assert_eq!(
        builder.push(None, Some(&[]), &[], u64::MAX),
        Err(PushError::Full),
        "too far apart in time"
    );
    assert_eq!(
        builder.push(Some(&vec![0; KEY_BYTES_MAX + 1]), None, &[], 0),
        Err(PushError::KeyTooLong)
    );
    assert_eq!(builder.body_bytes(), before);
    assert!(body::validate(builder.finish().body(), 1).is_ok());
    assert!(builder.is_empty());
}

#[test]
fn the_most_records_fit_a_body() {
    let mut builder = BodyBuilder::new(0, BODY_BYTES_MAX);
    for _ in 0..BATCH_RECORDS_MAX {
        assert_eq!(builder.push(None, Some(b""), &[], 0), Ok(()));
    }
    assert_eq!(builder.push(None, Some(b""), &[], 0), Err(PushError::Full));
    assert!(body::validate(builder.finish().body(), BATCH_RECORDS_MAX).is_ok());
}

#[test]
fn the_largest_body_is_exactly_the_limit() {
    let mut builder = BodyBuilder::new(168, BODY_BYTES_MAX);
    let value = vec![7; BODY_BYTES_MAX - RECORD_ROW_BYTES - ROOT_BYTES];
    assert_eq!(builder.push(None, Some(&value), &[], 0), Ok(()));
    let built = builder.finish();
    assert_eq!(built.body().len(), BODY_BYTES_MAX);
    assert!(body::validate(built.body(), 1).is_ok());
}
