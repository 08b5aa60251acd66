//! Parts of a checkpoint, as a start reads them: a base that is good, and a delta that builds on it, which is the input.

use crate::journal::disk::ImageDisk;
use crate::journal::sealing;
use crate::outcome::Outcome;
use crate::targets::{Sample, Target};
use tiderace_base::disk::JournalFile;
use tiderace_base::ids::JournalId;
use tiderace_base::limits::KIB;
use tiderace_base::position::Lsn;
use tiderace_storage::checkpoint::{
    Cell, NO_PARENT, PartError, PartWriter, SegmentRow, kind, verify_chain,
};

/// See the module.
pub const TARGET: Target = Target {
    name: "checkpoint",
    reads: "`verify_chain` and `PartReader`: a checkpoint part, from a disk or a hostile writer",
    holds: "nothing is handed out of a part that is not whole; one that is taken is handed out cell by cell, each written \
            again as the same bytes, as many as its header says; memory is a piece and a cell",
    run,
    samples,
    seal: Some(seal),
    words: &[],
    bytes_max: 16 * KIB,
    held_bytes_max: 1024 * KIB,
    runs_in_tests: 10_000,
};

const JOURNAL: JournalId = JournalId::new(7);
const BASE: u64 = 3;
const DELTA: u64 = 7;

/// Runs one input: the bytes of the delta's file.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let mut disk = ImageDisk::default();
    disk.put(JournalFile::Checkpoint(BASE), &part(BASE, NO_PARENT, 3));
    disk.put(JournalFile::Checkpoint(DELTA), input);
    let readers = match verify_chain(&mut disk, JOURNAL, DELTA) {
        Ok(readers) => readers,
        Err(blamed) => {
            assert!(
                blamed.part == DELTA || blamed.part != BASE || blamed.error == PartError::Malformed,
                "a base that is good is not to blame"
            );
            return Outcome::Refused(reason(blamed.error));
        }
    };
    let last = readers.last().expect("a chain has its newest part");
    assert_eq!(last.part().id, DELTA);
    assert!(readers[0].part().is_base());
    let mut body = Vec::new();
    let mut cells = 0;
    last.replay(&mut disk, &mut |cell| {
        cells += 1;
        cell.encode(&mut body)
            .expect("what was read can be written");
        if cell.kind == kind::SEGMENT
            && let Some(value) = cell.value
            && let Ok(row) = SegmentRow::decode(cell.key, value)
        {
            assert_eq!(
                (row.key().as_slice(), row.value().as_slice()),
                (cell.key, value)
            );
        }
    })
    .expect("it was verified and the disk is the same");
    assert_eq!(cells, last.part().cell_count);
    assert_eq!(body.len() as u64, last.part().body_bytes);
    assert!(
        input[4 * KIB..].starts_with(&body),
        "cells are written again as the same bytes"
    );
    Outcome::Taken(if last.part().is_base() {
        "Base"
    } else {
        "Delta"
    })
}

const fn reason(error: PartError) -> &'static str {
    match error {
        PartError::Disk(_) => "Disk",
        PartError::Length => "Length",
        PartError::Magic => "Magic",
        PartError::HeaderChecksum => "HeaderChecksum",
        PartError::Version(_) => "Version",
        PartError::Foreign => "Foreign",
        PartError::BodyChecksum => "BodyChecksum",
        PartError::Cell { .. } => "Cell",
        PartError::Malformed => "Malformed",
    }
}

fn seal(bytes: &mut Vec<u8>) {
    bytes.resize(
        bytes.len().next_multiple_of(4 * KIB).min(TARGET.bytes_max),
        0,
    );
    sealing::checkpoint(bytes);
}

/// The file of a part with so many cells of the owner and rows of segments.
fn part(id: u64, parent: u64, cells: u8) -> Vec<u8> {
    let mut writer = PartWriter::new(JOURNAL, id, parent, Lsn::new(4096 * id));
    for cell in 0..cells {
        let row = SegmentRow {
            seq: 1 + u64::from(cell),
            file: u32::from(cell),
            last_crc: 5,
            salt: 6,
            start: Lsn::new(61_440 * u64::from(cell)),
            end: Lsn::new(61_440 * (u64::from(cell) + 1)),
        };
        row.with_cell(|cell| writer.push(cell)).expect("it fits");
        let value = vec![cell; 40 * usize::from(cell)];
        let value = (cell % 3 != 2).then_some(value.as_slice());
        let cell = Cell {
            kind: kind::OWNER_MIN + cell % 3,
            key: &[cell, 1, 2],
            value,
        };
        writer.push(cell).expect("it fits");
    }
    writer.finish();
    let mut file = Vec::new();
    while let Some(piece) = writer.take() {
        let at = piece.at as usize;
        file.resize(file.len().max(at + piece.data.len()), 0);
        file[at..at + piece.data.len()].copy_from_slice(&piece.data);
    }
    file
}

fn samples() -> Vec<Sample> {
    vec![
        ("delta".to_owned(), part(DELTA, BASE, 4)),
        ("delta-of-many".to_owned(), part(DELTA, BASE, 12)),
        ("base".to_owned(), part(DELTA, NO_PARENT, 2)),
    ]
}
