//! Link and batch headers at their boundary: what is refused, in which order, and that what is written is read back.

use proptest::prelude::*;
use tiderace_base::checksum::crc32c;
use tiderace_base::ids::{MessageId, PartitionIndex, PartitionKey, ProducerId, SlotId, StreamId};
use tiderace_base::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BODY_BYTES_MAX};
use tiderace_base::position::{Epoch, Offset, ProducerEpoch, ProducerSeq, SlotSeq};
use tiderace_wire::batch::{Attributes, BatchHeader, Codec, HeaderError, Placement, ProducerPart};
use tiderace_wire::entry::EntryKind;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::link::{Batches, Flags, Kind, LinkHeader};

fn part() -> ProducerPart {
    ProducerPart {
        attributes: Attributes::NONE.with_idempotent(),
        key: PartitionKey {
            stream: StreamId::new(1),
            partition: PartitionIndex::new(2),
        },
        record_count: 3,
        body_bytes: 4,
        body_crc: crc32c(b"body"),
        producer_id: ProducerId::new(5),
        producer_seq: ProducerSeq::new(6),
        producer_epoch: ProducerEpoch::new(7),
        schema_id: 8,
        first_time_us: 9,
        time_span_us: 10,
    }
}

fn place() -> Placement {
    Placement {
        base_offset: Offset::new(11),
        slot_seq: SlotSeq::new(12),
        epoch: Epoch::new(13),
        slot: SlotId::new(14),
        entry_kind: EntryKind::Data,
        append_time_us: 15,
    }
}

/// A link header with these bytes changed and its checksum mended, as a hostile peer would send it.
fn forged(change: impl FnOnce(&mut [u8; 32])) -> Result<LinkHeader, ErrorCode> {
    let mut bytes =
        *LinkHeader::new(Kind::Ping, Flags::NONE, MessageId::new(1), &[0; 8], 0).bytes();
    change(&mut bytes);
    let crc = crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    LinkHeader::parse(&bytes)
}

// P-1
#[test]
fn a_link_header_is_believed_only_with_its_checksum() {
    let mut bytes =
        *LinkHeader::new(Kind::Ping, Flags::NONE, MessageId::new(1), &[0; 8], 0).bytes();
    bytes[3] = 0xee;
    assert_eq!(
        LinkHeader::parse(&bytes),
        Err(ErrorCode::BadChecksum),
        "before the kind is looked at"
    );
    assert_eq!(forged(|bytes| bytes[3] = 0xee), Err(ErrorCode::BadKind));
    assert_eq!(forged(|bytes| bytes[0] = b'G'), Err(ErrorCode::BadMagic));
    assert_eq!(forged(|bytes| bytes[2] = 2), Err(ErrorCode::BadVersion));
}

// P-2
#[test]
fn unknown_flags_and_reserved_bytes_are_refused() {
    for bit in 0..4 {
        assert!(forged(|bytes| bytes[4] = 1 << bit).is_ok());
    }
    for bit in 4..16 {
        let result = forged(|bytes| bytes[4..6].copy_from_slice(&(1_u16 << bit).to_le_bytes()));
        assert_eq!(result, Err(ErrorCode::BadFlags));
    }
    assert_eq!(forged(|bytes| bytes[6] = 1), Err(ErrorCode::BadFlags));
}

// P-3
#[test]
fn lengths_outside_the_bounds_of_the_kind_are_refused() {
    for kind in Kind::ALL {
        let (control_min, control_max) = kind.control_bounds();
        let (batch_min, batch_max) = kind.batch_bounds();
        let with = |control: usize, batch: usize| {
            forged(|bytes| {
                bytes[3] = kind.code();
                bytes[16..20].copy_from_slice(&(control as u32).to_le_bytes());
                bytes[20..24].copy_from_slice(&(batch as u32).to_le_bytes());
            })
            .map(|header| header.frame_len())
        };
        assert_eq!(
            with(control_min, batch_min),
            Ok(32 + control_min + batch_min)
        );
        assert_eq!(
            with(control_max, batch_max),
            Ok(32 + control_max + batch_max)
        );
        let refused = Err(ErrorCode::BadLength);
        assert_eq!(with(control_min - 1, batch_min), refused);
        assert_eq!(with(control_max + 1, batch_min), refused);
        assert_eq!(with(control_min, batch_max + 1), refused);
        assert_eq!(with(u32::MAX as usize, u32::MAX as usize), refused);
        if let Some(less) = batch_min.checked_sub(1) {
            assert_eq!(with(control_min, less), refused);
        }
    }
    assert_eq!(Kind::Produce.batches(), Batches::One);
    assert_eq!(Kind::Produce.batch_bounds().1, BATCH_BYTES_MAX);
}

// P-4
#[test]
fn a_control_section_is_held_by_its_checksum() {
    let header = LinkHeader::new(Kind::Ping, Flags::NONE, MessageId::new(1), &[7; 8], 0);
    assert_eq!(header.check_control(&[7; 8]), Ok(()));
    assert_eq!(header.check_control(&[8; 8]), Err(ErrorCode::BadChecksum));
    assert_eq!(header.check_control(&[7; 9]), Err(ErrorCode::BadChecksum));
}

// P-10
#[test]
fn the_producers_checksum_comes_before_its_lengths() {
    let mut bytes = *BatchHeader::producer(part()).bytes();
    bytes[24] ^= 0xff;
    let header = BatchHeader::parse(&bytes).expect("magic and version are whole");
    assert_eq!(header.check_producer(4), Err(HeaderError::ProducerChecksum));
}

// P-11
#[test]
fn a_client_cannot_claim_a_place() {
    let unplaced = BatchHeader::producer(part());
    assert_eq!(unplaced.check_door(4), Ok(()));
    let mut header = unplaced;
    header.place(Placement {
        entry_kind: EntryKind::EpochStart,
        ..place()
    });
    assert_eq!(header.check_door(4), Err(HeaderError::Placed));
    for at in 80..128 {
        let mut bytes = *unplaced.bytes();
        bytes[at] = 1;
        let header = BatchHeader::parse(&bytes).expect("magic and version are whole");
        assert_eq!(header.check_door(4), Err(HeaderError::Placed), "byte {at}");
    }
}

// P-12
#[test]
fn unknown_attributes_are_refused() {
    for bits in 0..=u16::MAX {
        let is_known = bits & !0x7f == 0 && bits & 0xf <= 1;
        assert_eq!(Attributes::from_bits(bits).is_some(), is_known, "{bits:#x}");
    }
    assert_eq!(Attributes::NONE.with_codec(Codec::Lz4).codec(), Codec::Lz4);
}

// P-13
#[test]
fn idempotence_and_a_producer_come_together() {
    let nobody = ProducerPart {
        producer_id: ProducerId::new(0),
        ..part()
    };
    assert_eq!(
        BatchHeader::producer(nobody).check_producer(4),
        Err(HeaderError::Attributes)
    );
    let somebody = ProducerPart {
        attributes: Attributes::NONE,
        ..part()
    };
    assert_eq!(
        BatchHeader::producer(somebody).check_producer(4),
        Err(HeaderError::Attributes)
    );
}

// P-14
#[test]
fn a_batch_has_at_least_one_record_and_at_most_the_limit() {
    let check = |record_count| {
        BatchHeader::producer(ProducerPart {
            record_count,
            ..part()
        })
        .check_door(4)
    };
    assert_eq!(check(0), Err(HeaderError::RecordCount));
    assert_eq!(check(1), Ok(()));
    assert_eq!(check(BATCH_RECORDS_MAX), Ok(()));
    assert_eq!(check(BATCH_RECORDS_MAX + 1), Err(HeaderError::RecordCount));
}

// P-15
#[test]
fn a_place_is_held_by_a_checksum_that_covers_the_producers() {
    let mut header = BatchHeader::producer(part());
    header.place(place());
    assert_eq!(header.check_placement(), Ok(()));
    assert_eq!(
        header.check_producer(4),
        Ok(()),
        "placing changes nothing of the producer's"
    );
    for at in 76..128 {
        let mut bytes = *header.bytes();
        bytes[at] ^= 1;
        let damaged = BatchHeader::parse(&bytes).expect("magic and version are whole");
        assert_eq!(
            damaged.check_placement(),
            Err(HeaderError::PlacementChecksum),
            "byte {at}"
        );
    }
    header.place(Placement {
        base_offset: Offset::new(u64::MAX - 2),
        ..place()
    });
    assert_eq!(
        header.check_placement(),
        Err(HeaderError::Placement),
        "an end that no offset names"
    );
    assert_eq!(header.next_offset(), Offset::MAX);
}

// P-16
#[test]
fn a_body_is_held_by_its_checksum() {
    let header = BatchHeader::producer(part());
    assert_eq!(header.check_body(b"body"), Ok(()));
    assert_eq!(header.check_body(b"bodx"), Err(HeaderError::BodyChecksum));
    assert_eq!(header.check_body(b"bod"), Err(HeaderError::Short));
}

// P-17
#[test]
fn a_produce_frame_carries_exactly_one_whole_batch() {
    let header = BatchHeader::producer(part());
    assert_eq!(header.check_door(3), Err(HeaderError::Short));
    assert_eq!(header.check_door(5), Err(HeaderError::Long));
    for body_bytes in [0, BODY_BYTES_MAX as u32 + 1] {
        let header = BatchHeader::producer(ProducerPart {
            body_bytes,
            ..part()
        });
        assert_eq!(
            header.check_door(body_bytes as usize),
            Err(HeaderError::BodySize)
        );
    }
}

proptest! {
    #[test]
    fn a_link_header_is_read_back(
        kind in prop::sample::select(Kind::ALL),
        flags in 0_u16..16,
        id in 1_u64..,
        (control, batch) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let (control_min, control_max) = kind.control_bounds();
        let (batch_min, batch_max) = kind.batch_bounds();
        let control = vec![7; control_min + control.index(control_max - control_min + 1)];
        let batch_bytes = batch_min + batch.index(batch_max - batch_min + 1);
        let flags = Flags::from_bits(flags).expect("four flags are known");
        let header = LinkHeader::new(kind, flags, MessageId::new(id), &control, batch_bytes);
        let read = LinkHeader::parse(header.bytes()).expect("what is written is read");
        prop_assert_eq!(read, header);
        prop_assert_eq!((read.kind(), read.flags(), read.message_id().get()), (kind, flags, id));
        prop_assert_eq!((read.control_len(), read.batch_len()), (control.len(), batch_bytes));
        prop_assert_eq!(read.check_control(&control), Ok(()));
    }

    #[test]
    fn a_batch_header_is_read_back(
        numbers in any::<[u64; 6]>(),
        (partition, producer_epoch, schema_id, time_span_us, epoch) in any::<(u32, u32, u32, u32, u32)>(),
        producer_id in 1_u128..,
        record_count in 1..=BATCH_RECORDS_MAX,
        body in prop::collection::vec(any::<u8>(), 1..200),
        slot in any::<u16>(),
        entry_kind in prop::sample::select(EntryKind::ALL),
    ) {
        let part = ProducerPart {
            attributes: Attributes::NONE.with_idempotent(),
            key: PartitionKey { stream: StreamId::new(numbers[0]), partition: PartitionIndex::new(partition) },
            record_count,
            body_bytes: body.len() as u32,
            body_crc: crc32c(&body),
            producer_id: ProducerId::new(producer_id),
            producer_seq: ProducerSeq::new(numbers[1]),
            producer_epoch: ProducerEpoch::new(producer_epoch),
            schema_id,
            first_time_us: numbers[2],
            time_span_us,
        };
        let placement = Placement {
            base_offset: Offset::new(numbers[3] >> 1),
            slot_seq: SlotSeq::new(numbers[4]),
            epoch: Epoch::new(epoch),
            slot: SlotId::new(slot),
            entry_kind,
            append_time_us: numbers[5],
        };
        let mut header = BatchHeader::producer(part);
        prop_assert_eq!(header.check_door(body.len()), Ok(()));
        header.place(placement);
        let read = BatchHeader::parse(header.bytes()).expect("what is written is read");
        prop_assert_eq!(read.check_producer(body.len()), Ok(()));
        prop_assert_eq!(read.check_placement(), Ok(()));
        prop_assert_eq!(read.check_body(&body), Ok(()));
        prop_assert_eq!(ProducerPart {
            attributes: read.attributes(), key: read.key(), record_count: read.record_count(),
            body_bytes: read.body_bytes(), body_crc: read.body_crc(), producer_id: read.producer_id(),
            producer_seq: read.producer_seq(), producer_epoch: read.producer_epoch(), schema_id: read.schema_id(),
            first_time_us: read.first_time_us(), time_span_us: read.time_span_us(),
        }, part);
        prop_assert_eq!(Placement {
            base_offset: read.base_offset(), slot_seq: read.slot_seq(), epoch: read.epoch(), slot: read.slot(),
            entry_kind: read.entry_kind().expect("a known kind"), append_time_us: read.append_time_us(),
        }, placement);
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_header(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(link) = bytes.first_chunk() {
            let _ = LinkHeader::parse(link);
        }
        if let Ok(header) = BatchHeader::parse(&bytes) {
            let _ = (header.check_producer(bytes.len()), header.check_placement(), header.check_unplaced());
            let _ = (header.next_offset(), header.entry_kind(), format!("{header:?}"));
        }
        for entry in tiderace_wire::batch::walk(&bytes) {
            let _ = entry;
        }
    }
}
