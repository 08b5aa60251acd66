//! Every frame, entry, header and body has golden bytes: today's encoder writes them and today's decoder reads them
//! back as the same value.

use bytes::Bytes;
use compat::golden;
use compat::samples;
use tiderace_wire::assembly::{Assembler, Receiver};
use tiderace_wire::batch::{BatchHeader, walk};
use tiderace_wire::body;
use tiderace_wire::entry::{self, EntryKind};
use tiderace_wire::frame::Control;
use tiderace_wire::link::Kind;

#[test]
fn every_kind_of_frame_has_golden_bytes() {
    let mut kinds = Vec::new();
    for (control, bytes) in samples::frames() {
        let kind = control.kind();
        kinds.push(kind);
        let golden = golden(&format!("frame-{:02}-{}", kind.code(), kind.name()), &bytes);
        assert_eq!(golden, bytes, "{kind:?}: the encoder writes other bytes");
        let mut assembler = Assembler::new(Receiver::Peer);
        assembler.open();
        assembler.push(Bytes::from(golden));
        let frame = assembler
            .next_frame()
            .expect("golden bytes are well formed")
            .expect("golden bytes are whole");
        assert_eq!(frame.front.header.kind(), kind);
        assert_eq!(frame.front.header.message_id(), samples::MESSAGE);
        let decoded =
            Control::decode(kind, &frame.front.control).expect("golden bytes are well formed");
        assert_eq!(decoded, control);
        assert_eq!(
            frame.batch.into_contiguous(),
            samples::batches_behind(&control)
        );
    }
    assert_eq!(kinds, Kind::ALL, "every kind has a sample, in order");
}

#[test]
fn every_kind_of_entry_has_golden_bytes() {
    let mut kinds = vec![EntryKind::Data];
    for (kind, bytes) in samples::entries() {
        kinds.push(kind);
        let golden = golden(&format!("entry-{:02}-{}", kind.code(), kind.name()), &bytes);
        assert_eq!(golden, bytes, "{kind:?}: the encoder writes other bytes");
        let header = BatchHeader::parse(&golden).expect("golden bytes are well formed");
        let body = &golden[128..];
        assert_eq!(header.check_producer(body.len()), Ok(()));
        assert_eq!(header.check_placement(), Ok(()));
        assert_eq!(header.check_body(body), Ok(()));
        assert_eq!(header.entry_kind(), Ok(kind));
        assert!(kind.body_bytes().is_none_or(|bytes| bytes == body.len()));
        assert_eq!(
            again(kind, body),
            body,
            "{kind:?}: the decoder reads something else"
        );
    }
    kinds.sort();
    assert_eq!(kinds, EntryKind::ALL, "every kind has a sample");
}

fn again(kind: EntryKind, body: &[u8]) -> Vec<u8> {
    const WHOLE: &str = "golden bytes are well formed";
    match kind {
        EntryKind::Data | EntryKind::Catalogue | EntryKind::Consensus => body.to_vec(),
        EntryKind::EpochStart => entry::EpochStart::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::StartOffset => entry::StartOffset::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::ProducerExpire => entry::ProducerExpire::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::GroupOffset => entry::GroupOffset::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::TaskTransition => entry::TaskTransition::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::Loss => entry::Loss::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::Truncate => entry::Truncate::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::Seal => entry::Seal::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
        EntryKind::PartitionDrop => entry::PartitionDrop::from_bytes(body)
            .expect(WHOLE)
            .to_bytes()
            .to_vec(),
    }
}

#[test]
fn batch_headers_have_golden_bytes() {
    let body = body::encode(&samples::records());
    let mut header = samples::producer_header(&body, 3);
    assert_eq!(
        golden("batch-header-from-producer", header.bytes()),
        header.bytes()
    );
    assert_eq!(header.check_door(body.len()), Ok(()));
    header.place(samples::placement(EntryKind::Data));
    assert_eq!(
        golden("batch-header-placed", header.bytes()),
        header.bytes()
    );
    assert_eq!(header.check_placement(), Ok(()));
    assert_eq!(header.slot(), samples::placement(EntryKind::Data).slot);
    assert_eq!(
        header.base_offset(),
        samples::placement(EntryKind::Data).base_offset
    );
}

#[test]
fn bodies_have_golden_bytes() {
    for (name, records) in [
        ("body-records", samples::records()),
        ("body-one-record", samples::one_record()),
    ] {
        let bytes = body::encode(&records);
        let golden = golden(name, &bytes);
        assert_eq!(golden, bytes, "{name}: the encoder writes other bytes");
        let archive =
            body::validate(&golden, records.len() as u32).expect("golden bytes are well formed");
        for (archived, record) in archive.records().iter().zip(&records) {
            assert_eq!(archived.key().unwrap_or_default(), record.key);
            assert_eq!(archived.value().unwrap_or_default(), record.value);
            assert_eq!(archived.time_delta_us.to_native(), record.time_delta_us);
            assert_eq!(archived.flags, record.flags);
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|header| (header.name.as_slice(), header.value.as_slice()))
                .collect();
            assert_eq!(archived.headers().collect::<Vec<_>>(), headers);
        }
    }
}

#[test]
fn entries_back_to_back_are_walked_one_by_one() {
    let bytes: Vec<u8> = samples::entries()
        .into_iter()
        .flat_map(|(_, bytes)| bytes)
        .collect();
    let mut at = 0;
    for (walked, (kind, entry)) in walk(&bytes).zip(samples::entries()) {
        let (header, range) = walked.expect("whole entries");
        assert_eq!(range, at..at + entry.len());
        assert_eq!(header.entry_kind(), Ok(kind));
        at = range.end;
    }
    assert_eq!(at, bytes.len());
    assert!(
        walk(&bytes[..bytes.len() - 1])
            .last()
            .is_some_and(|last| last.is_err())
    );
}
