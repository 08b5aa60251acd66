//! The archive of a batch's records: pointers and lengths that are read in place, from any producer.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, reasons};
use compat::samples;
use tiderace_base::limits::{BATCH_RECORDS_MAX, KEY_BYTES_MAX};
use tiderace_wire::body::{self, ArchivedBody, HAS_KEY, Header, Record, TOMBSTONE};

/// See the module.
pub const TARGET: Target = Target {
    name: "body",
    reads: "`body::validate`: the archive of records in a batch, from any producer",
    holds: "an archive that is taken is read without leaving its bytes, its parts together are no longer than it, and \
            its records written again are the same records",
    run,
    samples,
    seal: None,
    words: &[],
    bytes_max: 1200,
    held_bytes_max: 256 * 1024,
    runs_in_tests: 60_000,
};

/// Runs one input: how many records a header would say, in one byte, then the body.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((count, bytes)) = input.split_first() else {
        return Outcome::Refused("Short");
    };
    if let Ok(archive) = body::access(bytes) {
        read(archive, bytes.len());
    }
    match body::validate(bytes, u32::from(*count)) {
        Ok(archive) => {
            assert!(archive.records().len() <= BATCH_RECORDS_MAX as usize);
            written_again(archive);
            Outcome::Taken("Records")
        }
        Err(error) => Outcome::Refused(reasons::body(error)),
    }
}

/// Reads every byte of an archive, which together cannot be more than the body.
pub(crate) fn read(archive: &ArchivedBody, body_bytes: usize) {
    let mut total = 0;
    let mut sum = 0_u8;
    let mut take = |bytes: &[u8]| {
        total += bytes.len();
        sum = bytes.iter().fold(sum, |sum, byte| sum ^ byte);
    };
    for record in archive.records() {
        take(record.key.as_slice());
        take(record.value.as_slice());
        for (name, value) in record.headers() {
            take(name);
            take(value);
        }
    }
    std::hint::black_box(sum);
    assert!(
        total <= body_bytes,
        "parts overlap: {total} bytes in a body of {body_bytes}"
    );
}

fn written_again(archive: &ArchivedBody) {
    let records: Vec<Record> = archive.records().iter().map(owned).collect();
    for record in &records {
        assert!(record.key.len() <= KEY_BYTES_MAX);
    }
    let bytes = body::encode(&records);
    let again = body::validate(&bytes, records.len() as u32).expect("what is written is read");
    let again: Vec<Record> = again.records().iter().map(owned).collect();
    assert!(records == again, "the same records");
}

fn owned(record: &body::ArchivedRecord) -> Record {
    let headers = record.headers().map(|(name, value)| Header {
        name: name.to_vec(),
        value: value.to_vec(),
    });
    Record {
        key: record.key().unwrap_or_default().to_vec(),
        value: record.value().unwrap_or_default().to_vec(),
        headers: headers.collect(),
        time_delta_us: record.time_delta_us.to_native(),
        flags: record.key().map_or(0, |_| HAS_KEY) | record.value().map_or(TOMBSTONE, |_| 0),
    }
}

fn samples() -> Vec<Sample> {
    let input =
        |records: &[Record]| [&[records.len() as u8], body::encode(records).as_slice()].concat();
    vec![
        ("records".to_owned(), input(&samples::records())),
        ("one-record".to_owned(), input(&samples::one_record())),
    ]
}
