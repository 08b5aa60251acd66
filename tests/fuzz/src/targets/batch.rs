//! One batch: the header at the door and from the disk, its three checksums, and the body behind them.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, body, reasons, seals};
use compat::samples;
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_wire::batch::{self, Attributes, BatchHeader, HeaderError, Placement, ProducerPart};
use tiderace_wire::body::validate_batch;
use tiderace_wire::entry::EntryKind;

/// See the module.
pub const TARGET: Target = Target {
    name: "batch",
    reads: "`BatchHeader` and `validate_batch`: a batch from a producer, and an entry from the disk",
    holds: "a batch that passes is written again from its getters as the same bytes; with any one bit changed some check \
            fails; entries that are walked lie back to back",
    run,
    samples,
    seal: Some(|bytes| seals::batch(bytes)),
    words: &[],
    bytes_max: 2000,
    held_bytes_max: 64 * 1024,
    runs_in_tests: 60_000,
};

/// Runs one input: a header and the body behind it.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    walked(input);
    let header = match BatchHeader::parse(input) {
        Ok(header) => header,
        Err(error) => return Outcome::Refused(reasons::header(error)),
    };
    let bytes = &input[BATCH_HEADER_BYTES..];
    // Getters are total, also of what is not checked.
    let _ = (
        header.next_offset(),
        header.batch_len(),
        format!("{header:?}"),
    );
    if let Err(error) = checked(header, bytes) {
        return Outcome::Refused(reasons::header(error));
    }
    written_again(header, bytes);
    let bit = crc32c(input) as usize % (input.len() * 8);
    let mut other = input.to_vec();
    other[bit / 8] ^= 1 << (bit % 8);
    let passes = BatchHeader::parse(&other)
        .and_then(|header| checked(header, &other[BATCH_HEADER_BYTES..]))
        .is_ok();
    assert!(!passes, "bit {bit} is covered by no checksum");
    match validate_batch(header, bytes) {
        Ok(archive) => {
            body::read(archive, bytes.len());
            let is_placed = header.check_unplaced().is_err();
            Outcome::Taken(if is_placed { "Placed" } else { "Unplaced" })
        }
        Err(error) => Outcome::Refused(reasons::body(error)),
    }
}

/// The door's checks for what has no place, the disk's for what has one.
fn checked(header: &BatchHeader, body: &[u8]) -> Result<(), HeaderError> {
    if header.check_unplaced().is_ok() {
        header.check_door(body.len())?;
    } else {
        header.check_producer(body.len())?;
        header.check_placement()?;
    }
    header.check_body(body)
}

fn written_again(header: &BatchHeader, body: &[u8]) {
    assert_eq!(header.body_len(), body.len());
    let attributes = header.attributes();
    assert_eq!(Attributes::from_bits(attributes.bits()), Some(attributes));
    let mut again = BatchHeader::producer(ProducerPart {
        attributes,
        key: header.key(),
        record_count: header.record_count(),
        body_bytes: header.body_bytes(),
        body_crc: header.body_crc(),
        producer_id: header.producer_id(),
        producer_seq: header.producer_seq(),
        producer_epoch: header.producer_epoch(),
        schema_id: header.schema_id(),
        first_time_us: header.first_time_us(),
        time_span_us: header.time_span_us(),
    });
    if header.check_unplaced().is_err() {
        again.place(Placement {
            base_offset: header.base_offset(),
            slot_seq: header.slot_seq(),
            epoch: header.epoch(),
            slot: header.slot(),
            entry_kind: header.entry_kind().expect("the placement was checked"),
            append_time_us: header.append_time_us(),
        });
    }
    assert_eq!(
        again.bytes(),
        header.bytes(),
        "nothing is ignored or made up"
    );
}

fn walked(input: &[u8]) {
    let mut at = 0;
    for entry in batch::walk(input) {
        let Ok((header, range)) = entry else {
            return;
        };
        assert_eq!(range.start, at, "entries lie back to back");
        assert_eq!(range.len(), header.batch_len());
        at = range.end;
    }
    assert_eq!(at, input.len(), "a walk without an error reaches the end");
}

fn samples() -> Vec<Sample> {
    let mut inputs = vec![
        ("from-producer".to_owned(), samples::batch()),
        ("placed".to_owned(), samples::placed_batch()),
    ];
    let entries = samples::entries().into_iter();
    inputs.extend(entries.map(|(kind, bytes)| (kind_name(kind), bytes)));
    inputs
}

fn kind_name(kind: EntryKind) -> String {
    format!("entry-{}", kind.name())
}
