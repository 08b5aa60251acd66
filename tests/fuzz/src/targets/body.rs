//! A batch's body, an archive that is read in place: the first byte of an input is the number of records that the header
//! says. No pointer leads out of the body, no two parts of it overlap, and all of it can be read. P-20, P-23

use compat::samples;
use tiderace_wire::body::{self, ArchivedBody};

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "body",
    about: "a batch's body: nothing that is taken leads out of it or says a byte twice",
    corpus,
    seal: no_seal,
    run,
};

fn corpus() -> Vec<Vec<u8>> {
    let bodies = [samples::records(), samples::one_record()];
    let inputs = bodies.iter().map(|records| {
        let mut input = vec![records.len() as u8];
        input.extend(body::encode(records));
        input
    });
    inputs.collect()
}

fn run(input: &[u8]) -> Taken {
    let Some((count, bytes)) = input.split_first() else {
        return Taken::No;
    };
    if let Ok(archive) = body::access(bytes) {
        read_all(archive, bytes.len());
    }
    let counted = body::validate(bytes, u32::from(*count));
    if let Ok(archive) = counted {
        assert_eq!(archive.records().len(), usize::from(*count));
        read_all(archive, bytes.len());
    }
    Taken::from(counted.is_ok())
}

fn read_all(archive: &ArchivedBody, body_bytes: usize) {
    let mut total = 0;
    let mut sum = 0_u8;
    let mut read = |part: &[u8]| {
        total += part.len();
        sum = part.iter().fold(sum, |sum, byte| sum ^ byte);
    };
    for record in archive.records() {
        read(&record.key);
        read(&record.value);
        for (name, value) in record.headers() {
            read(name);
            read(value);
        }
    }
    std::hint::black_box(sum);
    assert!(total <= body_bytes, "{total} bytes in {body_bytes}");
}
