//! The index beside a full segment, as it is loaded when old data is read. It is believed for everything that it says of places
//! and offsets, so what it may say is checked here.

use crate::journal::sealing;
use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use bytes::Bytes;
use tiderace_base::ids::{JournalId, PartitionIndex, PartitionKey, SlotId, StreamId};
use tiderace_base::limits::KIB;
use tiderace_base::position::{Lsn, Offset, SlotSeq};
use tiderace_storage::index::{Footer, FooterError, Life, Note, SegmentIndex};

/// See the module.
pub const TARGET: Target = Target {
    name: "footer",
    reads: "`Footer::decode`: the index of a full segment, from a disk or a hostile writer",
    holds: "one that is taken has its rows in order, finds every offset of every row and every sequence of every slot in a \
            position that holds it, leads back only, and never out of its segment; a truncation behind it leaves less",
    run,
    samples,
    seal: Some(seal),
    words: &[],
    bytes_max: 12 * KIB,
    held_bytes_max: 128 * KIB,
    runs_in_tests: 40_000,
};

/// Nothing was cut behind the segment.
const EVER: SlotSeq = SlotSeq::MAX;

const LIFE: Life = Life {
    journal: JournalId::new(7),
    seq: 9,
    salt: 11,
    start: Lsn::new(1 << 20),
    end: Lsn::new((1 << 20) + 60 * KIB as u64),
};

/// Runs one input: the bytes of a footer file.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let size = Footer::file_bytes(input, &LIFE);
    let footer = match Footer::decode(Bytes::copy_from_slice(input), &LIFE) {
        Ok(footer) => footer,
        Err(error) => return Outcome::Refused(reason(error)),
    };
    assert_eq!(
        size,
        Ok(input.len() as u64),
        "its length is known from its header"
    );
    let mut before = None;
    let mut positions = 0;
    for partition in footer.partitions() {
        let key = partition.key;
        assert!(before.is_none_or(|before| before < key), "rows are sorted");
        before = Some(key);
        positions += partition.position_count as usize;
        assert_eq!(
            footer.partition(key, EVER),
            Some(partition),
            "a row is found by its key"
        );
        assert!(
            footer.previous_seq(key).is_none_or(|seq| seq < LIFE.seq),
            "a link leads back"
        );
        let mut at = partition.first_offset;
        let mut found = 0;
        while let Some(located) = footer.locate(key, at, EVER) {
            found += 1;
            let position = located.position;
            assert!(
                position.base_offset <= at && at < located.until,
                "it holds what is sought"
            );
            assert!(position.span > 0 && position.at as usize >= 4 * KIB);
            assert!(u64::from(position.at) + u64::from(position.span) <= 64 * KIB as u64);
            assert!(
                footer
                    .locate_time(key, position.time_max_us, EVER)
                    .is_some()
            );
            let cut = footer.locate(key, at, position.first_seq);
            assert!(cut.is_none(), "a run whose first entry died is gone");
            at = located.until;
        }
        assert_eq!(found, partition.position_count, "every position is reached");
        assert_eq!(
            at, partition.next_offset,
            "and nothing lies behind the last"
        );
        assert!(
            footer
                .locate_time(key, partition.last_time_us.saturating_add(1), EVER)
                .is_none()
                || partition.last_time_us == u64::MAX
        );
    }
    assert_eq!(positions, footer.position_count());
    let mut before = None;
    for span in footer.slots() {
        assert!(before.is_none_or(|before| before < span.slot), "sorted");
        before = Some(span.slot);
        assert_eq!(footer.slot_span(span.slot, EVER), Some(span));
        let mut found = 0;
        let mut at = span.first_seq;
        while let Some(run) = footer.locate_seq(span.slot, at, EVER) {
            found += 1;
            assert!(run.first_seq <= at && at < run.next_seq);
            assert!(run.span > 0 && run.at as usize >= 4 * KIB);
            assert!(u64::from(run.at) + u64::from(run.span) <= 64 * KIB as u64);
            assert_eq!(footer.locate_seq(span.slot, at, at), None, "it died");
            at = run.next_seq;
        }
        assert!(found >= 1 && found <= span.position_count && at <= span.next_seq);
        assert_eq!(footer.slot_span(span.slot, span.first_seq), None);
    }
    Outcome::Taken("Footer")
}

const fn reason(error: FooterError) -> &'static str {
    match error {
        FooterError::Length => "Length",
        FooterError::Magic => "Magic",
        FooterError::HeaderChecksum => "HeaderChecksum",
        FooterError::Version(_) => "Version",
        FooterError::Foreign => "Foreign",
        FooterError::BodyChecksum => "BodyChecksum",
        FooterError::Malformed => "Malformed",
    }
}

/// The length that the counts promise is made true, up to the longest input, and both checksums.
fn seal(bytes: &mut Vec<u8>) {
    bytes.resize(
        bytes.len().next_multiple_of(4 * KIB).min(TARGET.bytes_max),
        0,
    );
    if bytes.len() >= 128 {
        let length = (bytes.len() as u64).to_le_bytes();
        bytes[64..72].copy_from_slice(&length);
    }
    sealing::footer(bytes);
}

fn samples() -> Vec<Sample> {
    [(1, 1), (3, 4), (20, 6)]
        .into_iter()
        .map(|(partitions, entries)| {
            let mut index = SegmentIndex::new();
            let mut at = 4 * KIB as u32;
            for entry in 0..entries {
                for partition in 0..partitions {
                    let base = 100 * partition + 3 * entry;
                    let note = Note {
                        key: Some(PartitionKey {
                            stream: StreamId::new(1 + partition / 2),
                            partition: PartitionIndex::new((partition % 2) as u32),
                        }),
                        slot: SlotId::new((partition % 3) as u16),
                        slot_seq: SlotSeq::new(1 + entry * partitions + partition),
                        base_offset: Offset::new(base),
                        next_offset: Offset::new(base + 3),
                        append_time_us: 1000 * entry + partition,
                        at,
                        bytes: 200,
                        chunk: Lsn::new(LIFE.start.get() + 4096 * entry),
                    };
                    index.note(note).expect("entries follow one another");
                    at += 200;
                }
            }
            let footer = index
                .seal(LIFE, |key| (key.stream.get() > 1).then_some(4))
                .finish();
            (format!("{partitions}-partitions"), footer.bytes().to_vec())
        })
        .collect()
}
