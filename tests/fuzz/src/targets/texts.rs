//! Texts that people write for the program: quantities, times, paths, addresses, command lines, and the records that `produce`
//! reads. An input's first byte says which.

use crate::outcome::Outcome;
use crate::targets::{Sample, Target, seals};
use serde::de::IgnoredAny;
use std::time::Duration;
use tiderace::texts;
use tiderace_base::limits::{KIB, MIB, PATH_BYTES_MAX};

/// See the module.
pub const TARGET: Target = Target {
    name: "texts",
    reads: "byte counts, durations, times, paths, addresses, command lines, and lines, NDJSON and CSV, from people",
    holds: "what is read and written is read as the same again; a refusal is a sentence; a record is what its line holds, \
            JSON where it should be",
    run,
    samples,
    seal: Some(|bytes| seals::text(bytes)),
    words: &[
        b"B",
        b"KiB",
        b"MiB",
        b"TB",
        b"1h30m",
        b"7d",
        b"us",
        b"ms",
        b"w",
        b" ago",
        b"now",
        b"2013-01-01T10:15:00Z",
        b"-",
        b":",
        b"+01:00",
        b"[::1]:7",
        b"://",
        b"/",
        b"..",
        b"\"",
        b",",
        b"\n",
        b"{\"a\":",
        b"}",
        b"[",
        b"null",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"--",
        b"tiderace",
        b"produce",
        b"serve",
        b"tail",
        b"--from",
        b"-k",
        b"18446744073709551615",
        b"1e999",
        b"a.b",
    ],
    bytes_max: KIB,
    held_bytes_max: 4 * MIB,
    runs_in_tests: 15_000,
};

/// What an input may be.
const KINDS: u8 = 9;
/// The time that ages count back from.
const NOW_US: u64 = 1_700_000_000_000_000;

/// Runs one input.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((kind, bytes)) = input.split_first() else {
        return Outcome::Refused("Short");
    };
    match kind % KINDS {
        6 => return records("csv", bytes),
        7 => return records("ndjson", bytes),
        8 => return records("lines", bytes),
        _ => {}
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::Refused("NoText");
    };
    match kind % KINDS {
        0 => read(texts::bytes(text), "Bytes", |bytes| {
            assert_eq!(texts::bytes(&texts::show_bytes(bytes)), Ok(bytes));
        }),
        1 => read(texts::duration(text), "Duration", |duration: Duration| {
            let shown = texts::show_duration(duration);
            assert_eq!(texts::duration(&shown), Ok(duration), "{shown}");
        }),
        2 => read(texts::time_us(text, NOW_US), "Time", |us| {
            let shown = texts::show_time_us(us);
            // It is written to the millisecond, and with four digits of a year.
            if us < 253_402_300_800_000_000 {
                assert_eq!(
                    texts::time_us(&shown, NOW_US),
                    Ok(us / 1000 * 1000),
                    "{shown}"
                );
            }
        }),
        3 => match texts::path_fault(text) {
            None => {
                assert!(!text.is_empty() && text.len() <= PATH_BYTES_MAX && text.is_ascii());
                assert!(
                    text.split('/')
                        .all(|name| !name.is_empty() && name != "." && name != "..")
                );
                Outcome::Taken("Path")
            }
            Some(why) => {
                assert!(!why.is_empty());
                Outcome::Refused("Path")
            }
        },
        4 => match texts::address(text) {
            Ok((host, port)) => {
                assert!(!host.is_empty() && text.contains(host));
                assert!(text.trim_end().ends_with(&port.to_string()) || text.contains(':'));
                Outcome::Taken("Address")
            }
            Err(why) => {
                assert!(!why.is_empty());
                Outcome::Refused("Address")
            }
        },
        _ => {
            let words: Vec<String> = text.split('\n').map(str::to_owned).collect();
            match texts::command(&words) {
                Ok(()) => Outcome::Taken("Command"),
                Err(message) => {
                    assert!(!message.is_empty());
                    Outcome::Refused("Command")
                }
            }
        }
    }
}

fn read<T>(result: Result<T, String>, what: &'static str, holds: impl FnOnce(T)) -> Outcome {
    match result {
        Ok(value) => {
            holds(value);
            Outcome::Taken(what)
        }
        Err(why) => {
            assert!(!why.is_empty(), "a refusal is a sentence");
            Outcome::Refused(what)
        }
    }
}

/// The first line of the input names the key's field, if it is not empty.
fn records(format: &'static str, bytes: &[u8]) -> Outcome {
    let (key, input) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&[][..], bytes),
    };
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty());
    let lines = input.split(|byte| *byte == b'\n').count() as u64;
    match texts::records(format, key, input) {
        Ok(records) => {
            assert!(
                records.len() as u64 <= lines,
                "a line holds one record at most"
            );
            for (key_found, value) in &records {
                if format != "lines" {
                    // A number may be too large for any type and is JSON nevertheless.
                    serde_json::from_slice::<IgnoredAny>(value).expect("it is JSON");
                    let first = value.iter().find(|byte| !byte.is_ascii_whitespace());
                    assert!(
                        format == "ndjson" || first == Some(&b'{'),
                        "a row is an object"
                    );
                } else {
                    assert!(key_found.is_none() && !value.contains(&b'\n'));
                }
            }
            Outcome::Taken(format)
        }
        Err((line, why)) => {
            assert!(
                !why.is_empty() && (1..=lines).contains(&line),
                "line {line} of {lines}: {why}"
            );
            Outcome::Refused(format)
        }
    }
}

fn samples() -> Vec<Sample> {
    let texts: [(u8, &str); 24] = [
        (0, "64MiB"),
        (0, "1500 kB"),
        (0, "17"),
        (1, "1h30m"),
        (1, "90s"),
        (1, "1w2d3h4m5s6ms7us"),
        (2, "2013-01-01T10:15:00.25Z"),
        (2, "2013-01-01 11:15:00+01:00"),
        (2, "2016-02-29"),
        (2, "2h ago"),
        (3, "shop/orders.eu_1"),
        (4, "[::1]:7450"),
        (4, "node-1.example:7450"),
        (5, "tiderace\nserve\n--shards\n2\n--data-dir\n/d"),
        (5, "tiderace\nproduce\norders\n--help"),
        (5, "tiderace\ntail\norders\n--from\n5m"),
        (6, "id\nid,name\n1,\"a \"\"b\"\"\"\n2,c\n"),
        (6, "\na,b,c\n1,2,3\n"),
        (6, "\nx\n\"two\nlines\"\n"),
        (7, "id\n{\"id\":1,\"v\":[1,2]}\n\n{\"id\":\"x\"}\n"),
        (7, "a.b\n{\"a\":{\"b\":7}}\n"),
        (7, "\n1\n\"s\"\nnull\n"),
        (8, "\none\ntwo\r\n\nthree"),
        (8, "\n"),
    ];
    let numbered = texts.iter().enumerate();
    numbered
        .map(|(number, (kind, text))| {
            let input = [&[*kind], text.as_bytes()].concat();
            (format!("{number:02}"), input)
        })
        .collect()
}
