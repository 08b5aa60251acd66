//! What `produce` reads: the first byte of an input chooses among lines, NDJSON and CSV, with and without a key. Records are
//! within their bounds, a CSV row is one JSON object of texts, a line is itself, and an error names a line that there is.

use tiderace::hostile;
use tiderace_base::limits::{BODY_BYTES_MAX, KEY_BYTES_MAX};

use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "records",
    about: "lines, NDJSON and CSV for `produce`: bounded records, each row valid JSON, or an error that names a line",
    corpus,
    seal: no_seal,
    run,
};

const FILES: [(&str, Option<&str>); 5] = [
    ("a.txt", None),
    ("a.ndjson", None),
    ("a.ndjson", Some("id")),
    ("a.csv", None),
    ("a.csv", Some("id")),
];

fn corpus() -> Vec<Vec<u8>> {
    let texts = [
        "one\ntwo\r\n\nfour",
        "{\"id\":\"a\",\"v\":[1,2.5e3,null]}\n\n{\"id\":7}\n",
        "{\"id\":true,\"v\":\"\\u00e9\"}\n",
        "id,name,note\n1,\"a, b\",\"x\"\"y\"\n2,,\"two\nlines\"\n",
        "\u{feff}id,b\r\n3,4\r\n",
    ];
    let inputs = (0..FILES.len()).flat_map(|file| {
        texts.iter().map(move |text| {
            let mut input = vec![file as u8];
            input.extend_from_slice(text.as_bytes());
            input
        })
    });
    inputs.collect()
}

fn run(input: &[u8]) -> Taken {
    let Some((file, bytes)) = input.split_first() else {
        return Taken::No;
    };
    let (name, key) = FILES[usize::from(*file) % FILES.len()];
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    let records = match hostile::records(bytes, name, key) {
        Ok(records) => records,
        Err((line, why)) => {
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {why}");
            return Taken::No;
        }
    };
    assert!(records.len() as u64 <= lines, "a record is a line at least");
    for (found_key, value) in &records {
        assert!(value.len() < BODY_BYTES_MAX);
        assert_eq!(found_key.is_some(), key.is_some());
        assert!(
            found_key
                .as_ref()
                .is_none_or(|key| key.len() <= KEY_BYTES_MAX)
        );
        if name != "a.txt" {
            let json: Result<serde_json::Value, _> = serde_json::from_slice(value);
            // A number may be one that this reader of JSON has no room for.
            let is_csv = name == "a.csv";
            assert!(
                json.is_ok() || !is_csv,
                "{:?}",
                String::from_utf8_lossy(value)
            );
            if let (true, Ok(json)) = (is_csv, json) {
                let row = json.as_object().expect("a row is an object");
                assert!(row.values().all(serde_json::Value::is_string));
            }
        }
    }
    Taken::from(!records.is_empty())
}
