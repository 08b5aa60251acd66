//! Entries that lie back to back, as in a delivery or in the log: whatever passes the three checksums and the door says of
//! itself what its bytes say, its parts lie inside it, and its placement can be written again. P-10 to P-17

use compat::samples;
use tiderace_base::checksum::crc32c;
use tiderace_base::limits::BATCH_HEADER_BYTES;
use tiderace_wire::batch::{self, BatchHeader, Placement};

use crate::target::{Taken, Target};

/// See the module.
pub const TARGET: Target = Target {
    name: "batch",
    about: "entries back to back: what passes its checksums lies inside the input and says what its bytes say",
    corpus,
    seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = vec![samples::batch(), samples::placed_batch()];
    corpus.extend(samples::entries().into_iter().map(|(_, bytes)| bytes));
    corpus.push([samples::placed_batch(), samples::placed_batch()].concat());
    corpus
}

/// The three checksums of each entry that can be found.
pub(super) fn seal(input: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = input.get_mut(at..)
        && rest.len() >= BATCH_HEADER_BYTES
    {
        let body_bytes = u32::from_le_bytes([rest[24], rest[25], rest[26], rest[27]]) as usize;
        let Some(end) = BATCH_HEADER_BYTES
            .checked_add(body_bytes)
            .filter(|end| *end <= rest.len())
        else {
            return;
        };
        let body = crc32c(&rest[BATCH_HEADER_BYTES..end]);
        rest[28..32].copy_from_slice(&body.to_le_bytes());
        let producer = crc32c(&rest[..76]);
        rest[76..80].copy_from_slice(&producer.to_le_bytes());
        if rest[80..BATCH_HEADER_BYTES].iter().any(|byte| *byte != 0) {
            let placement = crc32c(&rest[76..124]);
            rest[124..128].copy_from_slice(&placement.to_le_bytes());
        }
        at += end;
    }
}

fn run(input: &[u8]) -> Taken {
    let mut taken = 0;
    let mut end_before = 0;
    for entry in batch::walk(input) {
        let Ok((header, range)) = entry else { break };
        assert_eq!(range.start, end_before, "nothing is passed over");
        assert_eq!(range.len(), header.batch_len());
        end_before = range.end;
        let body = &input[range.start + BATCH_HEADER_BYTES..range.end];
        let is_good = header.check_producer(body.len()).is_ok() && header.check_body(body).is_ok();
        if is_good && header.check_door(body.len()).is_ok() {
            assert!(header.record_count() > 0, "the door takes no empty batch");
            if let Ok(archive) = tiderace_wire::body::validate_batch(header, body) {
                assert_eq!(archive.records().len(), header.record_count() as usize);
            }
            taken += 1;
        }
        if is_good && header.check_placement().is_ok() {
            let next = header.base_offset().get() + u64::from(header.record_count());
            assert_eq!(header.next_offset().get(), next, "its end can be named");
            let entry_kind = header.entry_kind().expect("it was checked");
            let mut again = *BatchHeader::parse(&input[range]).expect("it was read");
            again.place(Placement {
                base_offset: header.base_offset(),
                slot_seq: header.slot_seq(),
                epoch: header.epoch(),
                slot: header.slot(),
                entry_kind,
                append_time_us: header.append_time_us(),
            });
            assert_eq!(
                again.bytes(),
                header.bytes(),
                "placed again, it is the same"
            );
            taken += 1;
        }
    }
    Taken::from(taken > 0)
}
