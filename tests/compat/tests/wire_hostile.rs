//! Damaged and hostile bytes: cut at every byte, flipped at every bit, filled with arbitrary numbers. Nothing panics, what
//! is refused has a code, what is taken means what its bytes say.

use bytes::Bytes;
use compat::samples;
use proptest::prelude::*;
use tiderace_base::limits::{BATCH_HEADER_BYTES, LINK_HEADER_BYTES};
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::body;
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::Control;

fn assemble(bytes: &[u8]) -> Result<Option<Frame>, ErrorCode> {
    let mut assembler = Assembler::new(Receiver::Peer);
    assembler.open();
    assembler.push(Bytes::copy_from_slice(bytes));
    assembler.next_frame()
}

#[test]
fn a_frame_cut_at_any_byte_is_awaited_and_never_taken() {
    for (control, bytes) in samples::frames() {
        for cut in 0..bytes.len() {
            assert_eq!(
                assemble(&bytes[..cut]),
                Ok(None),
                "{:?} cut at {cut}",
                control.kind()
            );
        }
    }
}

#[test]
fn a_control_section_cut_or_lengthened_anywhere_is_refused() {
    for (control, bytes) in samples::frames() {
        let kind = control.kind();
        let section =
            &bytes[LINK_HEADER_BYTES..bytes.len() - samples::batches_behind(&control).len()];
        for cut in 0..section.len() {
            assert!(
                Control::decode(kind, &section[..cut]).is_err(),
                "{kind:?} cut at {cut}"
            );
        }
        let longer = [section, &[0]].concat();
        assert!(
            Control::decode(kind, &longer).is_err(),
            "{kind:?} with a byte more"
        );
    }
}

// P-1, P-2, P-3, P-4: a flipped bit anywhere before the batches never passes.
#[test]
fn a_bit_flipped_anywhere_is_refused_with_a_code() {
    for (control, bytes) in samples::frames() {
        let batches = samples::batches_behind(&control);
        for bit in 0..(bytes.len() - batches.len()) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let result = assemble(&damaged);
            let kind = control.kind();
            assert!(
                matches!(
                    result,
                    Err(ErrorCode::BadMagic | ErrorCode::BadVersion | ErrorCode::BadChecksum)
                ),
                "{kind:?}, bit {bit}: {result:?}"
            );
        }
    }
}

// P-10, P-15, P-16: a flipped bit of a batch never passes its three checksums.
#[test]
fn a_bit_flipped_anywhere_in_a_placed_batch_is_found() {
    let batch = samples::placed_batch();
    for bit in 0..batch.len() * 8 {
        let mut damaged = batch.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (_, body) = damaged.split_at(BATCH_HEADER_BYTES);
        let found = BatchHeader::parse(&damaged).and_then(|header| {
            header.check_producer(body.len())?;
            header.check_placement()?;
            header.check_body(body)
        });
        assert!(found.is_err(), "bit {bit}");
    }
}

// P-20: no damaged pointer or length leads anywhere.
#[test]
fn a_body_cut_or_damaged_anywhere_is_refused_or_read_without_harm() {
    let bytes = body::encode(&samples::records());
    for cut in 0..bytes.len() {
        assert!(body::validate(&bytes[..cut], 3).is_err(), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(archive) = body::validate(&damaged, 3) {
            read_all(archive, damaged.len());
        }
    }
}

/// Reads every byte of an archive, which together cannot be more than the body.
fn read_all(archive: &body::ArchivedBody, body_bytes: usize) {
    let mut total = 0;
    for record in archive.records() {
        total += record.key.len() + record.value.len();
        let _ = record
            .key
            .iter()
            .chain(record.value.iter())
            .fold(0_u8, |sum, byte| sum ^ byte);
        for (name, value) in record.headers() {
            total += name.len() + value.len();
            let _ = name.iter().chain(value).fold(0_u8, |sum, byte| sum ^ byte);
        }
    }
    assert!(
        total <= body_bytes,
        "parts overlap: {total} bytes in a body of {body_bytes}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // P-5, P-6, P-7: whatever is taken is written again as the same bytes, so nothing was ignored or made up.
    #[test]
    fn a_section_with_other_numbers_is_refused_or_means_its_bytes(
        which in any::<prop::sample::Index>(),
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let frames = samples::frames();
        let (control, bytes) = which.get(&frames);
        let batches = samples::batches_behind(control);
        let mut section = bytes[LINK_HEADER_BYTES..bytes.len() - batches.len()].to_vec();
        for (at, byte) in patches {
            *at.get_mut(&mut section) = byte;
        }
        if let Ok(decoded) = Control::decode(control.kind(), &section)
            && is_writable(&decoded)
        {
            let again = samples::encode(&decoded, samples::MESSAGE, &batches);
            prop_assert_eq!(&again[LINK_HEADER_BYTES..again.len() - batches.len()], &section[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_section(
        which in any::<prop::sample::Index>(),
        section in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let frames = samples::frames();
        let (control, _) = which.get(&frames);
        let _ = Control::decode(control.kind(), &section);
    }

    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(!matches!(assemble(&bytes), Ok(Some(_))));
    }

    #[test]
    fn arbitrary_bytes_are_no_body_or_stay_inside_it(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(archive) = body::access(&bytes) {
            read_all(archive, bytes.len());
        }
    }

    // P-20: overlapping and far pointers, written over a real archive.
    #[test]
    fn a_body_with_other_pointers_is_refused_or_stays_inside_it(
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<i32>(), 0_u8..3), 1..4),
    ) {
        let mut bytes = body::encode(&samples::records());
        let places = bytes.len() - 4;
        for (at, number, scale) in patches {
            let at = at.index(places);
            // Small numbers too: they are the ones that lead back into the body.
            let number = match scale { 0 => number, 1 => number % 256, _ => -(number % 256).abs() };
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        if let Ok(archive) = body::access(&bytes) {
            read_all(archive, bytes.len());
        }
    }
}

/// Lists may be emptied by a patch; what must hold one row cannot be written without it.
fn is_writable(control: &Control<'_>) -> bool {
    match control {
        Control::Produced(frame) => frame.acks().len() > 0,
        Control::TaskGive(frame) => !frame.tasks.is_empty(),
        _ => true,
    }
}
